"""A relay between clients that keep account of what they heard and a smarthost that fails in a chosen way, for the scenarios.

Everything that is waited for is short. What a scenario sends goes through `World.send`, so that `World.account` can close the account of
promises 2 and 3 over all of it once everything has come to rest.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import smtplib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest_asyncio

from relay.loadkit.message import Template
from relay.loadkit.received import Received
from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from relay.quota.limit import Rules
from relay.spool.entry import Entry
from relay.spool.spool import Spool
from relay.store.embedded import socket_url
from tests.account import Copy, Evidence, Outcome, Sent, assert_account
from tests.copies import read_copy
from tests.evidence import read_evidence
from tests.running import Relay, User, running
from tests.talking import logged_in

DEADLINE = 1.5
"""The forward deadline: how long a client waits for the smarthost, in s."""
SLACK = 1.0
"""What a reply may take besides, on a machine that is busy."""
PACE: Mapping[str, Mapping[str, Any]] = {
    "smtp": {"hostname": "relay.example", "workers": 1, "data_deadline_seconds": 5, "drain_seconds": 5},
    "upstream": {"forward_deadline_seconds": DEADLINE, "timeout_seconds": 3, "down_seconds": 0.1},
    "retry": {"first_wait_seconds": 0.3, "longest_wait_seconds": 0.6, "jitter": 0.0, "doubt_seconds": 2},
    "store": {"timeout_seconds": 1},
}
STAGES = ("connect", "ehlo", "mail", "rcpt", "data", "dot")
"""Where a session with the smarthost may fail."""
TO = "to@example.net"
"""A recipient nobody says anything special about."""


Breaks = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Heard:
    """What a client heard of one message."""

    sent: Sent
    seconds: float
    """From its final dot (or what stood for it) to the reply."""

    @property
    def reply(self) -> str:
        """Code and text."""
        return self.sent.reply

    @property
    def id(self) -> str:
        """The relay's id of it."""
        return self.sent.id

    @property
    def mark(self) -> str:
        """What it is known by; its sender, unless it was sent with none."""
        return self.sent.mark


@dataclass(slots=True)
class World:
    """One relay, one user, one smarthost."""

    relay: Relay
    sink: Sink
    user: User
    rules: Rules = field(default_factory=Rules)
    sent: list[Sent] = field(default_factory=list)
    others: list[User] = field(default_factory=list)

    def script(self, *lines: str) -> None:
        """What the smarthost does out of the ordinary from now on."""
        self.sink.script = Script.parse(lines)

    def hang_up(self) -> None:
        """The smarthost ends the sessions that are open: the next message needs one of its own."""
        for conversation in tuple(self.sink.conversations):
            conversation.abort()

    # -- the client ----------------------------------------------------------------------------------------------------------

    async def send(
        self, *recipients: str, notify: str = "", options: str = "", is_null: bool = False, size: int = 700, user: User | None = None
    ) -> Heard:
        """Send one message on a connection of its own; `options` are MAIL's, `is_null` one without a sender."""
        user = user or self.user
        names = recipients or (TO,)
        load_id = f"load{len(self.sent):05d}"
        mark = f"{load_id}@load.example"
        wire = Template(size, len(load_id)).write(load_id, mark, names[0])
        place = len(self.sent)
        self.sent.append(Sent(mark, user.name, names, "silent"))  # until more is known
        reply, seconds = await asyncio.to_thread(_converse, self.relay, user, "" if is_null else mark, options, names, notify, wire)
        words = reply.split()
        outcome: Outcome = "taken" if reply.startswith("250 ") else "refused"
        self.sent[place] = sent = Sent(mark, user.name, names, outcome, words[2] if outcome == "taken" else "", reply)
        return Heard(sent, seconds)

    async def leave(self, *recipients: str, is_whole: bool) -> str:
        """Send one message and hang up without waiting, behind its final dot or (not `is_whole`) before it; returns its mark."""
        load_id = f"load{len(self.sent):05d}"
        mark = f"{load_id}@load.example"
        names = recipients or (TO,)
        wire = Template(700, len(load_id)).write(load_id, mark, names[0])
        self.sent.append(Sent(mark, self.user.name, names, "silent" if is_whole else "unsent"))
        await asyncio.to_thread(_hang_up, self.relay, self.user, mark, names, wire if is_whole else wire[:-100])
        return mark

    # -- what there is to see ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def spool(self) -> AsyncIterator[Spool]:
        """The relay's spool, from outside."""
        spool = Spool(self.relay.folder / "data" / "spool.db", "", 0)
        try:
            yield spool
        finally:
            await spool.close()

    async def entries(self) -> list[Entry]:
        """What is in the spool."""
        async with self.spool() as spool:
            return [entry async for page in spool.pages() for entry in page]

    def told(self, id: str, name: str) -> list[dict[str, Any]]:
        """The journal's events of a name on a message."""
        return [event for event in self.relay.events(name) if event.get("id") == id]

    async def await_told(self, id: str, name: str, timeout: float = 10) -> dict[str, Any]:
        """Wait until the journal has an event of a name on a message, and return it."""
        end = time.monotonic() + timeout
        while not (found := self.told(id, name)):
            assert time.monotonic() < end, f"no event {name} on {id} within {timeout:g} s"
            await asyncio.sleep(0.02)
        return found[-1]

    @property
    def answered(self) -> list[Received]:
        """The messages that the smarthost has taken, reports too."""
        return [message for message in self.sink.messages if message.answered]

    def copies(self) -> list[Copy]:
        """The same as the account sees them."""
        found = []
        marks = {sent.mark.partition("@")[0]: sent for sent in self.sent}
        for message in self.answered:
            copy = read_copy(message)
            if not copy.mark and message.id in marks:  # sent with a null sender, and no report
                copy = replace(copy, id=marks[message.id].id, mark=marks[message.id].mark)
            found.append(copy)
        return found

    def count(self, mark: str, recipient: str = TO) -> int:
        """Copies of a message that a recipient has got."""
        return sum(copy.mark == mark and recipient in copy.recipients for copy in self.copies())

    def reports(self, mark: str) -> list[Copy]:
        """The reports on failures that the sender of a message has got."""
        return [copy for copy in self.copies() if not copy.mark and copy.recipients == (mark,) and copy.failed]

    async def charged(self) -> int:
        """Units that the user was ever charged."""
        return int((await self.relay.usage(self.user))["sent_total"])

    # -- the end -------------------------------------------------------------------------------------------------------------

    async def rest(self, held: int | None = 0, timeout: float = 15) -> None:
        """Wait until nothing is on its way: the spool is empty but for so many (None: any) that are held, the ledger holds nothing open."""
        end = time.monotonic() + timeout
        async with self.spool() as spool:
            while True:
                counts = await spool.counts()
                flying = [(await self.relay.usage(user))["in_flight"] for user in (self.user, *self.others)]
                is_empty = not (counts.waiting or counts.claimed or counts.charges) and held in (None, counts.held)
                if is_empty and not any(flying):
                    return
                assert time.monotonic() < end, f"not at rest: {counts}, in flight: {flying}"
                await asyncio.sleep(0.1)

    async def account(self, held: int | None = 0, timeout: float = 15) -> Evidence:
        """Wait until everything has come to rest, and close the account."""
        await self.rest(held, timeout)
        users = [user.name for user in (self.user, *self.others)]
        url = socket_url(self.relay.folder / "data")
        evidence = await read_evidence([self.relay], url, users, self.sent, self.copies(), self.rules)
        bugs = [event["traceback"] for event in evidence.events if event["event"] == "bug"]
        assert not bugs, "\n".join(bugs)
        assert_account(evidence)
        return evidence


def _converse(
    relay: Relay, user: User, sender: str, options: str, recipients: tuple[str, ...], notify: str, wire: bytes
) -> tuple[str, float]:
    """The last reply to a message, and how long it took."""
    with logged_in(relay, user) as client:
        replies = [client.mail(sender, [options] if options else [])]
        replies += [client.rcpt(recipient, [f"NOTIFY={notify}"] if notify else []) for recipient in recipients]
        replies = [reply for reply in replies if reply[0] != 250] or [client.docmd("DATA")]
        began = time.monotonic()
        if replies[0][0] == 354:
            client.send(wire)
            replies = [client.getreply()]
        return f"{replies[0][0]} {replies[0][1].decode()}", time.monotonic() - began


def _hang_up(relay: Relay, user: User, sender: str, recipients: tuple[str, ...], wire: bytes) -> None:
    client = logged_in(relay, user)
    client.mail(sender)
    for recipient in recipients:
        client.rcpt(recipient)
    assert client.docmd("DATA")[0] == 354
    client.send(wire)
    with suppress(OSError, smtplib.SMTPException):
        client.close()


def write_config(relay: Relay, port: int, sections: Mapping[str, Mapping[str, Any]]) -> None:
    """The settings: the scenarios' pace, and what a scenario says otherwise."""
    fixed: Mapping[str, Mapping[str, Any]] = {
        "smtp": {}, "api": {"port": relay.api}, "upstream": {"port": port}, "data": {"directory": str(relay.folder / "data")},
        "journal": {"file": str(relay.journal)},
    }  # fmt: skip
    text = ""
    for name in dict.fromkeys((*fixed, *PACE, *sections)):
        values = {**PACE.get(name, {}), **fixed.get(name, {}), **sections.get(name, {})}
        text += f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        if name == "smtp":
            text += f"[[smtp.listen]]\nport = {relay.smtp}\nauth_without_tls = true\n"
    relay.config.write_text(text)


class Wire:
    """A line to the smarthost that can be told to break; each connection over it is another, and whole again."""

    def __init__(self) -> None:
        self.port = 0
        self.cut_after: int | None = None
        """Octets from the relay, all connections together, after which the line breaks, once."""
        self.cut_at = b""
        """What the smarthost must say for the line to break, once, before it arrives."""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, smarthost: int) -> None:
        """Lay it to a port."""

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            with suppress(OSError):
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", smarthost)
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pass(reader, far_writer, writer, self._breaks_out))
                    group.create_task(self._pass(far_reader, writer, far_writer, self._breaks_back))

        self._server = await asyncio.start_server(carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: asyncio.StreamWriter, breaks: Breaks) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if breaks(data):
                    break
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
        back.transport.abort()

    def _breaks_out(self, data: bytes) -> bool:
        if self.cut_after is None:
            return False
        self.cut_after -= len(data)
        if self.cut_after >= 0:
            return False
        self.cut_after = None
        return True

    def _breaks_back(self, data: bytes) -> bool:
        if not self.cut_at or self.cut_at not in data:
            return False
        self.cut_at = b""
        return True

    async def stop(self) -> None:
        """Take it away."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))


@asynccontextmanager
async def opened(
    place: Path, *, wire: Wire | None = None, sink: Mapping[str, Any] | None = None, **sections: Mapping[str, Any]
) -> AsyncIterator[World]:
    """The world in order; `sections` are settings beside the pace, `wire` what lies between the relay and the smarthost."""
    smarthost = Sink(keep=True, **(sink or {}))
    await smarthost.start()
    if wire is not None:
        await wire.start(smarthost.port)
    try:
        async with running(place / "relay", smarthost.port, is_started=False) as relay:
            write_config(relay, wire.port if wire else smarthost.port, sections)
            await relay.start()
            yield World(relay, smarthost, await relay.add_user(), Rules(unit=sections.get("quota", {}).get("unit", "messages")))
    finally:
        if wire is not None:
            await wire.stop()
        await smarthost.stop()


def world_of_module(**settings: Any) -> Any:
    """A fixture: one world for all the tests of a module, which take turns with it; each of them leaves it at rest."""

    @pytest_asyncio.fixture(scope="module", loop_scope="module", name="world")
    async def fixture() -> AsyncIterator[World]:
        place = Path(tempfile.mkdtemp(prefix="relay-"))
        try:
            async with opened(place, **settings) as world:
                yield world
        finally:
            shutil.rmtree(place, ignore_errors=True)

    return fixture
