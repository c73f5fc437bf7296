"""No reply leaves before the mail log has what it speaks of, and none waits longer than for its turn."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from relay.journal import Journal
from relay.session.outbox import Outbox
from tests.session.conftest import Account, Worker


@dataclass(eq=False)
class Speaker:
    """A connection with a reply, which notes what is on record when it leaves."""

    log: Path
    heard: list[list[str]] = field(default_factory=list)

    is_broken: bool = False
    is_cut: bool = False

    def speak(self) -> None:
        """Note it."""
        if self.is_broken:
            raise RuntimeError("cannot speak")
        self.heard.append(recorded(self.log))

    def cut(self) -> None:
        """Note that too."""
        self.is_cut = True


def recorded(log: Path) -> list[str]:
    """The events on record."""
    return [json.loads(line)["event"] for line in log.read_text().splitlines()]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal in a file."""
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    yield Journal(fd, "relay.example")
    os.close(fd)


async def test_replies_of_a_turn_leave_after_one_write_of_its_lines(journal: Journal, tmp_path: Path) -> None:
    outbox = Outbox(journal)
    one, two = Speaker(tmp_path / "log"), Speaker(tmp_path / "log")
    journal.event("one")
    outbox.send(one)
    journal.event("two")
    outbox.send(two)
    assert not recorded(tmp_path / "log") and not one.heard and not two.heard
    await asyncio.sleep(0)
    assert one.heard == two.heard == [["one", "two"]]


async def test_a_connection_that_cannot_speak_is_cut_and_silences_none_behind_it(journal: Journal, tmp_path: Path) -> None:
    outbox = Outbox(journal)
    one, two, three = (Speaker(tmp_path / "log", is_broken=number == 1) for number in range(3))
    journal.event("one")
    for speaker in (one, two, three):
        outbox.send(speaker)
    await asyncio.sleep(0)
    assert one.heard == [["one"]] and three.heard == [["one", "bug"]]
    assert two.is_cut and not (one.is_cut or three.is_cut)
    assert recorded(tmp_path / "log") == ["one", "bug"]


async def test_a_reply_that_nothing_on_its_way_to_the_log_precedes_leaves_at_once(journal: Journal, tmp_path: Path) -> None:
    outbox, one = Outbox(journal), Speaker(tmp_path / "log")
    outbox.send(one)
    assert one.heard == [[]]


async def test_a_line_that_is_written_while_replies_leave_belongs_to_the_next_turn(journal: Journal, tmp_path: Path) -> None:
    class Telling(Speaker):
        def speak(self) -> None:
            super().speak()
            if len(self.heard) == 1:
                journal.event("two")
                outbox.send(self)

    outbox, one = Outbox(journal), Telling(tmp_path / "log")
    journal.event("one")
    outbox.send(one)
    await asyncio.sleep(0)
    assert one.heard == [["one"]]
    await asyncio.sleep(0)
    assert one.heard == [["one"], ["one", "two"]]


def test_without_a_loop_a_line_is_written_at_once(journal: Journal, tmp_path: Path) -> None:
    outbox = Outbox(journal)
    journal.event("one")
    assert recorded(tmp_path / "log") == ["one"]
    outbox.close()
    journal.event("two")
    assert recorded(tmp_path / "log") == ["one", "two"]


async def test_whatever_the_client_hears_is_on_record(worker: Worker, account: Account) -> None:
    wires = [await worker.enter(account) for _ in range(8)]

    async def send(number: int) -> None:
        for _ in range(5):
            reply = (await wires[number].offer(b"Subject: x\r\n")).split()
            assert reply[:2] == [b"250", b"2.0.0"]
            assert any(event["id"] == reply[2].decode() for event in worker.events("taken"))

    await asyncio.gather(*map(send, range(8)))
    assert await wires[0].ask(b"QUIT") == b"221 2.0.0 Bye\r\n"
    assert len(worker.events("taken")) == 40
