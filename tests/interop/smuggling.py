"""Mail that hides another, and commands that hide others: sent to a relay before a real smarthost, and what came of it there.

Whatever the relay makes of it, it has to answer once, and the smarthost must never see a message that the relay did not say it has taken.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from tests.interop.false_ends import HIDDEN, RECIPIENT, SENDER, TRUE_END, VICTIM, Attempt, attempts_by_bdat, attempts_by_data
from tests.running import Relay, User
from tests.session.conftest import Wire
from tests.surroundings import until

PAUSE = 0.002
"""Seconds between two pieces, so that each has a segment of its own."""
LANES = 8


class Smarthost(Protocol):
    """A server of another make."""

    @property
    def port(self) -> int:
        """Where it listens."""

    def deliveries(self) -> list[bytes]:
        """The messages that it has delivered."""

    def taken(self) -> int:
        """How many messages it ever took in."""

    def waiting(self) -> Sequence[object]:
        """What is in its queue."""

    def told(self) -> str:
        """Its log."""

    def served(self, log: str) -> set[str]:
        """The recipients that it has delivered to, as a part of its log says."""


# -- the client's side ---------------------------------------------------------------------------------------------------------


async def enter(relay: Relay, user: User | None) -> Wire:
    """A connection to the relay, logged in where there is a user."""
    wire = Wire(*await asyncio.open_connection("127.0.0.1", relay.smtp))
    assert (await wire.reply()).startswith(b"220 ")
    assert (await wire.ask(b"EHLO client.example")).startswith(b"250-")
    if user is not None:
        claim = base64.b64encode(f"\0{user.name}\0{user.password}".encode())
        assert (await wire.ask(b"AUTH PLAIN " + claim)).startswith(b"235 ")
    return wire


async def _carry_out(wire: Wire, attempt: Attempt, mark: str) -> bytes:
    """Send it; returns the one reply, after which the relay and its client are in step."""
    await wire.send(f"MAIL FROM:<{SENDER}>".encode(), f"RCPT TO:<{RECIPIENT}>".encode(), *([b"DATA"] if attempt.by == "DATA" else []))
    expected = [b"250 ", b"250 ", *([b"354 "] if attempt.by == "DATA" else [])]
    assert [(await wire.reply())[:4] for _ in expected] == expected
    for piece in attempt.pieces(mark):
        await wire.write(piece)
        await asyncio.sleep(PAUSE)
    if attempt.chunk is not None:
        assert (await wire.reply()).startswith(b"250 2.0.0 %d octets" % (len(attempt.header(mark)) + attempt.chunk)), attempt
    reply = await wire.reply()
    assert await wire.ask(b"NOOP") == b"250 2.0.0 OK\r\n", attempt
    return reply


async def assail(relay: Relay, user: User, attempts: Iterable[Attempt]) -> dict[str, Attempt]:
    """Send them all, on several connections; what was taken, by its mark. What must be refused is."""
    rest = iter(enumerate(attempts))
    taken: dict[str, Attempt] = {}

    async def lane() -> None:
        wire = await enter(relay, user)
        for number, attempt in rest:
            mark = f"{attempt.by}-{number:05d}-"
            reply = await _carry_out(wire, attempt, mark)
            assert reply.startswith(b"550 5.6.11 " if attempt.is_refused else b"250 2.0.0 "), (attempt, reply)
            if reply.startswith(b"250 "):
                taken[mark] = attempt
        await wire.close()

    async with asyncio.TaskGroup() as lanes:
        for _ in range(LANES):
            lanes.create_task(lane())
    return taken


# -- the smarthost's side ------------------------------------------------------------------------------------------------------


class Watch:
    """What there is to see at a smarthost from now on."""

    def __init__(self, smarthost: Smarthost) -> None:
        self._smarthost = smarthost
        self._taken, self._told = smarthost.taken(), len(smarthost.told())
        self._delivered = set(smarthost.deliveries())

    def deliveries(self) -> list[bytes]:
        """The messages delivered since."""
        return [content for content in self._smarthost.deliveries() if content not in self._delivered]

    async def until_taken(self, count: int) -> None:
        """Wait until so many have been taken in, and delivered."""
        smarthost = self._smarthost
        await until(lambda: smarthost.taken() - self._taken >= count, 30, "all of it at the smarthost")
        await until(lambda: len(self.deliveries()) >= count and not smarthost.waiting(), 30, "all of it delivered")
        await asyncio.sleep(0.2)  # what nobody waits for has its chance to be seen
        assert smarthost.taken() - self._taken == count, self.told()[-2000:]

    def told(self) -> str:
        """What its log has on it."""
        return self._smarthost.told()[self._told :]

    def served(self) -> set[str]:
        """The recipients that were delivered to."""
        return self._smarthost.served(self.told())

    async def check_only(self, marks: Iterable[str]) -> dict[str, bytes]:
        """See that the smarthost got these messages, once each, and no other; what it has of each."""
        marks = set(marks)
        await self.until_taken(len(marks))
        assert VICTIM not in self.served()
        found: dict[str, bytes] = {}
        for content in self.deliveries():
            subject = content.partition(b"\nSubject: ")[2].partition(b"\n")[0].decode()
            assert subject not in found, f"{subject} came twice"
            found[subject] = content
        assert set(found) == marks
        return found


def body_of(content: bytes) -> bytes:
    """What stands behind the header."""
    return content.partition(b"\n\n")[2]


# -- commands in commands ------------------------------------------------------------------------------------------------------

_BEHIND = f"RCPT TO:<{VICTIM}>"
_LOW = "\u560d\u560a"
"""Two letters whose low octets are CR and LF."""

ENVELOPES: tuple[tuple[str, str], ...] = (
    (f"MAIL FROM:<{SENDER}> SIZE=1\n{_BEHIND}\nDATA", f"RCPT TO:<{RECIPIENT}>"),
    (f"MAIL FROM:<{SENDER}> SIZE=1\r{_BEHIND}\rDATA", f"RCPT TO:<{RECIPIENT}>"),
    (f"MAIL FROM:<{SENDER}>\0\r{_BEHIND}", f"RCPT TO:<{RECIPIENT}>"),
    (f"MAIL FROM:<{SENDER}> SIZE=1%0D%0A{_BEHIND}", f"RCPT TO:<{RECIPIENT}>"),
    (f'MAIL FROM:<"a\n{_BEHIND}\n"@example.net>', f"RCPT TO:<{RECIPIENT}>"),
    (f'MAIL FROM:<"a\\\r\\\n{_BEHIND}"@example.net>', f"RCPT TO:<{RECIPIENT}>"),
    (f"MAIL FROM:<{SENDER}> AUTH=a+0D+0A{_BEHIND.replace(' ', '+20')}", f"RCPT TO:<{RECIPIENT}>"),
    (f"MAIL FROM:<{SENDER}> ENVID=a+0D+0A{_BEHIND.replace(' ', '+20')}+0D+0A", f"RCPT TO:<{RECIPIENT}>"),
    (f"MAIL FROM:<{SENDER}> BODY=8BITMIME\x0b{_BEHIND}", f"RCPT TO:<{RECIPIENT}>"),
    (f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{RECIPIENT}>\n{_BEHIND}\nDATA"),
    (f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{RECIPIENT}>\r{_BEHIND}"),
    (f"MAIL FROM:<{SENDER}>", f'RCPT TO:<"you>\n{_BEHIND}\n<"@example.net>'),
    (f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{RECIPIENT}> NOTIFY=NEVER\n{_BEHIND}"),
    (f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{RECIPIENT}> NOTIFY=FAILURE ORCPT=rfc822;a+0D+0A{_BEHIND.replace(' ', '+20')}+0D+0A"),
    (f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{RECIPIENT}> ORCPT=rfc822;a\r\0\n{_BEHIND}"),
    (f"MAIL FROM:<{SENDER}>", f"RCPT TO:<@example.com:{RECIPIENT}>\x85{_BEHIND}"),
    *((f'MAIL FROM:<"a{odd}{_BEHIND}{odd}"@example.net> SMTPUTF8', f"RCPT TO:<{RECIPIENT}>") for odd in ("\u2028", "\x85", "\u010a", _LOW)),
    *((f"MAIL FROM:<a{odd}RCPT@example.net> SMTPUTF8", f"RCPT TO:<{RECIPIENT}>") for odd in ("\u2028", "\x85", "\u010a", _LOW)),
    *((f"MAIL FROM:<{SENDER}> SMTPUTF8", f'RCPT TO:<"a{odd}{_BEHIND}{odd}"@example.net>') for odd in ("\u2029", "\x85", "\u010a", _LOW)),
    *((f"MAIL FROM:<{SENDER}> SMTPUTF8", f"RCPT TO:<{RECIPIENT}> ORCPT=utf-8;a{odd}{_BEHIND[:4]}") for odd in ("\u2028", "\x85", _LOW)),
    (f"MAIL FROM:<{SENDER}> SMTPUTF8", f"RCPT TO:<{RECIPIENT}> ORCPT=utf-8;a\\x{{0D}}\\x{{0A}}{_BEHIND[:4]}"),
    (f"MAIL FROM:<a{_LOW}@example.net>", f"RCPT TO:<{RECIPIENT}>"),
)
"""MAIL and RCPT that carry another command within."""


async def try_envelopes(relay: Relay, user: User) -> dict[str, tuple[str, str]]:
    """Send a message with each of these envelopes; those that were taken, by mark. Each command has one reply, whatever is in it."""
    taken = {}
    for number, envelope in enumerate(ENVELOPES):
        wire = await enter(relay, user)
        mark = f"envelope-{number:03d}-"
        content = f"From: <{SENDER}>\r\nSubject: {mark}\r\n\r\nhello\r\n.".encode()
        for command in (*(line.encode() for line in envelope), b"DATA", content):
            reply = await wire.ask(command)
            assert await _is_in_step(wire), (command, reply)
            if not reply.startswith((b"250 ", b"354 ")):
                break
        else:
            taken[mark] = envelope
        await wire.close()
    return taken


async def _is_in_step(wire: Wire) -> bool:
    """Whether nothing more comes than what was asked for."""
    try:
        async with asyncio.timeout(0.01):
            return await wire.reader.read(1) == b""
    except TimeoutError:
        return True


LOGINS: tuple[tuple[bytes, ...], ...] = (
    (b"AUTH PLAIN", HIDDEN + b".\r\n"),
    (b"AUTH LOGIN", HIDDEN + b".\r\n"),
    (b"AUTH PLAIN *", HIDDEN + b".\r\n"),
    (b"AUTH LOGIN " + base64.b64encode(b"a\r\n" + HIDDEN), base64.b64encode(b"b\r\n" + HIDDEN)),
    (b"AUTH PLAIN " + base64.b64encode(b"\r\n" + HIDDEN + b"\0a\0b"), HIDDEN + b".\r\n"),
    (b"AUTH PLAIN\n" + HIDDEN.replace(b"\r\n", b"\n") + b".\n",),
    (b"AUTH PLAIN =\r" + HIDDEN.replace(b"\r\n", b"\r") + b".\r",),
    (b"EHLO x\n" + HIDDEN.replace(b"\r\n", b"\n") + b".\n", HIDDEN + b".\r\n"),
)
"""What somebody without a password says at once, in the hope that some of it is taken for another's."""


async def try_logins(relay: Relay, user: User) -> None:
    """Say each of these; and a good login with more behind a bare LF. Nobody is let in by it, and no message is asked for."""
    good = base64.b64encode(f"\0{user.name}\0{user.password}".encode())
    for lines in (*LOGINS, (b"AUTH PLAIN " + good + b"\n" + HIDDEN.replace(b"\r\n", b"\n") + b".\n", HIDDEN + b".\r\n")):
        wire = await enter(relay, None)
        await wire.send(*lines, b"QUIT", b"QUIT", b"QUIT")
        said = await wire.reader.read()
        assert b"\r\n235 " not in b"\r\n" + said and b"\r\n354 " not in b"\r\n" + said, (lines, said)
        await wire.close()


# -- all of it, before one smarthost -------------------------------------------------------------------------------------------


async def smuggle(relay: Relay, smarthost: Smarthost, attempts: Iterable[Attempt]) -> None:
    """Try all of this; the smarthost gets what the relay says it has taken, octet for octet, and nothing else."""
    watch, user = Watch(smarthost), await relay.add_user(hourly=10_000)
    taken = await assail(relay, user, attempts)
    found = await watch.check_only(taken)
    assert taken
    for mark, attempt in taken.items():
        assert body_of(found[mark]) == attempt.stored(), attempt
    await check_charged(relay, user, len(taken))


async def smuggle_in_envelopes(relay: Relay, smarthost: Smarthost) -> None:
    """Try all of these envelopes."""
    watch, user = Watch(smarthost), await relay.add_user()
    taken = await try_envelopes(relay, user)
    await watch.check_only(taken)
    await check_charged(relay, user, len(taken))


async def smuggle_in_logins(relay: Relay, smarthost: Smarthost) -> None:
    """Try all of these logins."""
    watch, user = Watch(smarthost), await relay.add_user()
    await try_logins(relay, user)
    await watch.check_only(())
    await check_charged(relay, user, 0)


async def send_openly(relay: Relay, smarthost: Smarthost) -> None:
    """Send the hidden transactions behind a true end, where they are two more messages: it is seen that they arrive."""
    watch, user = Watch(smarthost), await relay.add_user()
    wire = await enter(relay, user)
    attempt = Attempt("DATA", TRUE_END, TRUE_END)
    await wire.send(f"MAIL FROM:<{SENDER}>".encode(), f"RCPT TO:<{RECIPIENT}>".encode(), b"DATA")
    assert [(await wire.reply())[:4] for _ in range(3)] == [b"250 ", b"250 ", b"354 "]
    await wire.write(attempt.content("open") + HIDDEN + b".\r\n")
    assert [(await wire.reply())[:3] for _ in range(8)] == [b"250", b"250", b"250", b"250", b"250", b"250", b"354", b"250"]
    await wire.close()
    await watch.until_taken(3)
    assert watch.served() == {RECIPIENT, VICTIM}
    await check_charged(relay, user, 3)


async def send_past_the_relay(smarthost: Smarthost, end: bytes) -> set[str]:
    """Hide the transactions behind such an end and send it all straight to the smarthost; whom it delivers to."""
    watch = Watch(smarthost)
    wire = Wire(*await asyncio.open_connection("127.0.0.1", smarthost.port))
    await wire.reply()
    for command in ("EHLO client.example", f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{RECIPIENT}>", "DATA"):
        assert (await wire.ask(command.encode()))[:1] in b"23"
    await wire.write(Attempt("DATA", end + HIDDEN, end).content("past") + b".\r\n")
    await until(lambda: bool(watch.served()) and not smarthost.waiting(), 10, "delivered")
    await asyncio.sleep(0.2)
    await wire.close()
    return watch.served()


async def check_charged(relay: Relay, user: User, taken: int) -> None:
    """See that so many messages were taken and charged."""
    assert (await relay.usage(user))["sent_total"] == taken
    assert len([event for event in relay.events("taken") if event["user"] == user.name]) == taken
    assert relay.events("bug") == []


async def spool_and_smuggle(relay: Relay, start: Callable[[], AbstractContextManager[Smarthost]]) -> None:
    """Try what is not refused while there is no smarthost; it gets all of it from the spool, and nothing else."""
    user = await relay.add_user(hourly=10_000)
    ways = {(one.by, one.end, one.chunk is None): one for one in (*attempts_by_data(), *attempts_by_bdat()) if not one.is_refused}
    attempts = list(ways.values())
    taken = await assail(relay, user, attempts)
    assert len(taken) == len(attempts)
    with start() as smarthost:
        found = await Watch(smarthost).check_only(taken)
        for mark, attempt in taken.items():
            assert body_of(found[mark]) == attempt.stored(), attempt
    await check_charged(relay, user, len(taken))
