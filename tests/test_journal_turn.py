"""The mail log of a worker: the lines of one turn are one write, and nothing is lost or late by it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from relay.journal import PIPE_WRITE, Journal


class Log:
    """A journal that gathers, and the pipe that it writes to."""

    def __init__(self) -> None:
        self.reader, self.fd = os.pipe()
        os.set_blocking(self.reader, False)
        self.journal = Journal(self.fd, "relay.example", "logfmt")
        self.turns = 0
        self.journal.gather(self._begin)

    def _begin(self) -> None:
        self.turns += 1

    def written(self) -> list[str]:
        """The names of the events that were written since."""
        try:
            text = os.read(self.reader, 1 << 16).decode("ascii")
        except BlockingIOError:
            return []
        assert text.endswith("\n")
        return [line.split()[1].removeprefix("event=") for line in text.splitlines()]

    def close(self) -> None:
        """Both ends."""
        os.close(self.reader)
        os.close(self.fd)


@pytest.fixture
def log() -> Iterator[Log]:
    """A journal that gathers."""
    log = Log()
    yield log
    log.close()


def test_the_lines_of_a_turn_wait_for_its_end_and_stand_in_their_order(log: Log) -> None:
    for name in ("one", "two", "three"):
        log.journal.event(name)
    assert log.turns == 1 and log.written() == []
    log.journal.flush()
    assert log.written() == ["one", "two", "three"]
    log.journal.flush()
    assert log.written() == []
    log.journal.event("four")
    assert log.turns == 2 and log.written() == []


def test_an_alarm_and_a_bug_wait_for_nothing_and_take_what_waits_with_them(log: Log) -> None:
    log.journal.event("one")
    log.journal.alarm("store_foreign")
    assert log.written() == ["one", "store_foreign"]
    log.journal.event("two")
    log.journal.bug("id", ValueError())
    assert log.written() == ["two", "bug"]


def test_a_line_of_another_thread_is_written_at_once_and_leaves_the_turn_alone(log: Log) -> None:
    log.journal.event("one")
    for tell in (lambda: log.journal.event("elsewhere"), lambda: log.journal.alarm("alarm_elsewhere")):
        thread = threading.Thread(target=tell)
        thread.start()
        thread.join()
    assert log.written() == ["elsewhere", "alarm_elsewhere"]
    log.journal.flush()
    assert log.written() == ["one"]


def test_who_stops_gathering_loses_nothing_and_writes_at_once_from_then_on(log: Log) -> None:
    log.journal.event("one")
    log.journal.gather(None)
    assert log.written() == ["one"]
    log.journal.event("two")
    assert log.written() == ["two"]


def test_a_pipe_is_given_whole_lines_as_many_as_it_takes_at_once() -> None:
    reader, fd = os.pipe()
    journal = Journal(fd, "relay.example", "logfmt")
    journal.gather(lambda: None)
    pieces: list[bytes] = []

    def read() -> None:
        while not pieces or pieces[-1]:
            pieces.append(os.read(reader, PIPE_WRITE))

    reading = threading.Thread(target=read)
    reading.start()
    for number in range(400):
        journal.event("line", number=number, text="x" * (number % 300))
    journal.event("long", text="x" * 2 * PIPE_WRITE)
    journal.flush()
    os.close(fd)
    reading.join()
    os.close(reader)
    lines = b"".join(pieces).splitlines()
    assert [int(line.split()[3].removeprefix(b"number=")) for line in lines[:-1]] == list(range(400))
    assert len(lines[-1]) > 2 * PIPE_WRITE


def test_processes_that_share_a_socket_do_not_mix_their_lines() -> None:
    ours, theirs = socket.socketpair()
    writers: list[int] = []
    while len(writers) < 2 and 0 not in writers:
        writers.append(os.fork())
    if 0 in writers:  # a child: as a worker that has systemd's journal for its standard output
        journal = Journal(ours.fileno(), "relay.example", "logfmt")
        for _ in range(20):
            journal.gather(lambda: None)
            for number in range(2000):
                journal.event("line", number=number, text="é" * (number % 50))
            journal.flush()
        os._exit(0)
    ours.close()
    read = b""
    while piece := theirs.recv(1 << 16):
        read += piece
    theirs.close()
    for writer in writers:
        os.waitpid(writer, 0)
    lines = read.splitlines()
    assert len(lines) == 2 * 20 * 2000
    assert all(line.startswith(b"ts=") and line.count(b"ts=") == 1 for line in lines)


def lost() -> float:
    """Lines that could not be written."""
    return REGISTRY.get_sample_value("relay_alarms_total", {"event": "journal_lost"}) or 0.0


def test_a_full_disk_stops_nothing_and_every_lost_line_is_counted() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    journal = Journal(fd, "relay.example")
    journal.gather(lambda: None)
    before = lost()
    for _ in range(3):
        journal.event("one")
    journal.flush()
    assert lost() == before + 3
    os.close(fd)
