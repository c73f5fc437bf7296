"""A sink that keeps limits says what the relay says: the same dialogs with both, reply by reply."""

from __future__ import annotations

import asyncio
import base64
import re
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path

from relay.loadkit.allowance import Allowance
from relay.loadkit.sink import Sink
from tests.loadkit.conftest import Talker
from tests.running import Relay, User, running

PATH = ["MAIL FROM:<a@client.example>", "RCPT TO:<b@net.example>"]
BODY = "Subject: x\r\n\r\nx\r\n."
_TIMES = re.compile(r"retry-after=\d+ at=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_IDS = re.compile(r"^(250 2\.0\.0) \S+ Ok: queued as \d+", re.MULTILINE)

HOURLY = [*PATH, "DATA", BODY, *PATH, "DATA", BODY, *PATH, "DATA", "DATA", "RSET", *PATH, "DATA", "NOOP", "VRFY x", "FROB", "QUIT"]
ABORTED = [*PATH, "RSET", *PATH, "DATA", BODY, *PATH, "RCPT TO:<b@NET.example>", "DATA", BODY, *PATH, "DATA", "MAIL FROM:<a@c.example>"]
CROWD = [*PATH, "RCPT TO:<c@net.example>", "RCPT TO:<d@net.example>", "DATA", *PATH, "RCPT TO:<c@net.example>", "DATA", BODY, *PATH, "DATA"]
CHUNKS = [*PATH, "BDAT 3 LAST\r\nx", *PATH, "BDAT 3\r\nx", "BDAT 0 LAST", *PATH, "BDAT 3 LAST\r\nx", "BDAT 3 LAST\r\nx", "NOOP"]
STRANGE = ["RCPT TO:<b@net.example>", "DATA", *PATH[:1], "DATA", "RSET", "NOOP"]

TWO = ["MAIL FROM:<a@client.example>", "RCPT TO:<b@net.example>", "DATA"]
SMUGGLED = [*TWO, "Subject: x\r\n\r\nhi\nthere\r\n.", *TWO, "a\rb\r\n.", *PATH, "BDAT 4 LAST\r\na\n", *PATH, "BDAT 4\r\na\n", "BDAT 0 LAST"]
SMUGGLED += [*TWO, "Received: by relay.example\r\n" * 5 + "\r\nx\r\n.", *TWO, "Received: by y\r\n" * 101 + "\r\n.", *TWO, BODY, *TWO]
PATHS = [
    "MAIL FROM:a@e.example", " MAIL FROM:<>", "MAIL  FROM:<>", "MAIL FROM:<a@e>", "MAIL FROM:<a@e.example> FOO=1",
    "MAIL FROM:<a@e.example> SIZE=999999999999", "MAIL FROM:<a@e.example> SIZE=x", "MAIL FROM:<\xe9@e.example>", *PATH[:1], *PATH[:1],
    "RCPT TO:<>", "RCPT TO:foo", "RCPT TO:<foo>", "RCPT TO:<postmaster>", "RCPT TO:<a@e>", "RCPT TO:<a@e.example> NOTIFY=FOO",
    "RCPT TO:<a@e.example> FOO", "RCPT TO:<\xe9@e.example>", "DATA", "RCPT TO:<a@e.example> NOTIFY=NEVER", "MAIL FROM:<>", "DATA x", "DATA",
    BODY,
]  # fmt: skip
MORE_PATHS = [
    "MAIL FROM:<> BODY=8BITMIME SMTPUTF8", "RCPT TO:<\xe9@e.example>", "RCPT TO:<a@e.example> ORCPT=x", "RCPT TO: <a@e.example>", "RSET",
    "MAIL FROM:<@x.example:a@e.example> AUTH=<> RET=HDRS", "RCPT TO:<@x.example:a@e.example>", "RCPT TO:<A@E.example>", "DATA", BODY, *TWO,
]  # fmt: skip
ODD = [
    "RSET x", "QUIT x", "HELP", "HELP x", "EXPN a", "ETRN a", "VRFY", "NOOP x", "STARTTLS", "STARTTLS x", "EHLO", "EHLO a b", "HELO ()",
    "RSET ", "x" * 13_000, "NOOP\0", "no\nop", "EHLO again.example", "AUTH PLAIN {claim}", *TWO, BODY, *TWO,
]  # fmt: skip
MANY = ["MAIL FROM:<>", *(f"RCPT TO:<b{number}@net.example>" for number in range(101)), "RCPT TO:<B7@net.example>", "DATA", BODY, *TWO]
BETWEEN = [*PATH, "BDAT 3\r\nx", *TWO, "AUTH PLAIN", "RSET x", "EHLO ()", "NOOP", "VRFY x", "BDAT 3 LAST\r\nx"]
BETWEEN += [*PATH, "BDAT 3\r\nx", "RSET", "BDAT x"]
LOST = [*PATH, "BDAT 3\r\nx", "BDAT 5 FIRST", "NOOP"]
CLUMSY = [*PATH, *["FROB"] * 21, "NOOP"]
LOGIN = [
    *PATH, "DATA", "VRFY x", "AUTH PLAIN {claim}", "HELO client.example", "AUTH PLAIN {claim}", *PATH, "EHLO client.example", *PATH[1:],
    "BDAT 3\r\nx", "AUTH", "AUTH ", "AUTH FROB", "AUTH PLAIN =", "AUTH PLAIN !!!!", "AUTH LOGIN =", "*", "AUTH LOGIN", "*", "NOOP",
    "AUTH LOGIN", "{name}", "*", "AUTH PLAIN", "*", "AUTH LOGIN", "!", "AUTH PLAIN {foreign}", "NOOP", "AUTH login {name}", "{password}",
    "AUTH PLAIN {claim}", "DATA",
]  # fmt: skip
MORE_LOGIN = ["EHLO c.example", "AUTH PLAIN", "x" * 13_000, "AUTH PLAIN", "NOOP", "AUTH PLAIN", "{claim}", *TWO, BODY, *TWO]
STRANGER = ["EHLO c.example", *["AUTH PLAIN {foreign}"] * 5, "NOOP"]


def masked(reply: str) -> str:
    """A reply without what no two runs have in common."""
    return _IDS.sub(r"\1 ID Ok: queued as N", _TIMES.sub("retry-after=N at=T", reply))


async def hold_dialog(port: int, user: User, steps: list[str]) -> list[str]:
    """Greeting, EHLO, AUTH where it is not among the steps, and the steps; every reply as it came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = Talker(reader, writer)
    texts = {"claim": f"\0{user.name}\0{user.password}", "foreign": f"x\0{user.name}\0{user.password}"}
    texts |= {"name": user.name, "password": user.password}
    words = {name: base64.b64encode(text.encode()).decode() for name, text in texts.items()}
    before = [] if steps in UNKNOWN else [*PATH[:1], "EHLO client.example", *PATH[:1], "AUTH FROB", "AUTH PLAIN {claim}"]
    heard = [await client.hear()]
    with suppress(ConnectionError):  # it may be cut
        for step in [*before, *steps]:
            heard += await client.say(step.format_map(words))
            if not heard[-1]:
                break
        writer.close()
        await writer.wait_closed()
    return heard if heard[-1] else heard[:-1]  # an end is not always heard as one


DIALOGS = [
    ("hourly=2,total=1000", HOURLY), ("hourly=10,total=1", HOURLY), ("hourly=2,total=1000", ABORTED),
    ("hourly=2,total=1000,unit=recipients", CROWD), ("hourly=2,total=1000", CHUNKS), ("hourly=2,total=1000", STRANGE),
    *(("hourly=1,total=1000", steps) for steps in (SMUGGLED, PATHS, MORE_PATHS, ODD, MANY, BETWEEN)),
    *(("hourly=1,total=1000", steps) for steps in (LOST, CLUMSY, LOGIN, MORE_LOGIN, STRANGER)),
]  # fmt: skip
UNKNOWN = (LOGIN, MORE_LOGIN, STRANGER)
"""Who has not logged in."""
NEVER_REFUSED = (STRANGE, LOST, CLUMSY, LOGIN, STRANGER)
"""Dialogs that meet no limit."""


async def test_the_sink_answers_every_dialog_as_the_relay_does(place: Path, sink: Sink) -> None:
    for unit in ("messages", "recipients"):
        async with running(place / unit, sink.port, f"[quota]\nunit = '{unit}'\n", workers=1) as relay:
            await relay.add_owner()
            wanted = [(Allowance.parse(words), steps) for words, steps in DIALOGS]
            await asyncio.gather(*(_compare(relay, allowance, steps) for allowance, steps in wanted if allowance.unit == unit))


async def _compare(relay: Relay, allowance: Allowance, steps: list[str]) -> None:
    """Hold one dialog with both."""
    real, told = await asyncio.gather(_ask_relay(relay, allowance, steps), _ask_sink(allowance, steps))
    assert [pair for pair in zip_longest(map(masked, told), map(masked, real)) if pair[0] != pair[1]] == [], allowance
    assert any("limit" in reply for reply in told[2:]) or steps in NEVER_REFUSED, told


async def _ask_relay(relay: Relay, allowance: Allowance, steps: list[str]) -> list[str]:
    user = await relay.add_user(hourly=allowance.hourly or 1, total=allowance.total or 1)
    return await hold_dialog(relay.smtp, user, steps)


async def _ask_sink(allowance: Allowance, steps: list[str]) -> list[str]:
    stand_in = Sink(hostname="relay.example", allowance=allowance, max_size=26_214_400)
    await stand_in.start()
    try:
        return await hold_dialog(stand_in.port, User("anyone", "anything"), steps)
    finally:
        await stand_in.stop()
