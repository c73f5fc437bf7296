"""What fuzzers are let loose on: octets to sessions and to parsers, and what must hold whatever they are. Each raises Fault."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import re
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from relay.mail.address import is_mailbox, parse_path
from relay.mail.author import read_authors, read_mailboxes
from relay.mail.field import header_of, read_fields
from relay.mail.reply import Reply
from relay.session import auth
from relay.session.grammar import Sender, parse_bdat, parse_mail, parse_rcpt
from relay.session.proxy import ProxyRefused, missing, parse
from tests.fuzz.chaos import act
from tests.fuzz.harness import DOORS, PATIENT, Bench, Fault, compare, replies
from tests.fuzz.instant import TOKEN
from tests.fuzz.rooms import FORWARDS, RESERVES, Script
from tests.fuzz.seeds import STATES, cut

TIGHT = replace(PATIENT, max_commands=6, max_errors=3, max_refusals=1, max_recipients=1, max_message_bytes=60)
HEAD = 10
"""Octets that say how the stream behind them is fed."""
CHAOS = 224
"""From this first octet on, what follows is a program for several clients."""
MOST = 50_000

Answer = TypeVar("Answer")
Target = Callable[[Bench, bytes], None]


def session(bench: Bench, data: bytes) -> None:
    """One client's stream, in pieces, against the reference reader; or a program for several clients."""
    if len(data) < HEAD:
        return
    head, stream = data[:HEAD], data[HEAD : HEAD + MOST]
    if head[0] >= CHAOS:
        act(bench, data[1:])
        return
    dice = random.Random(head[1:4])
    pieces = cut(stream, [dice.randrange(1 << 20) for _ in range(head[4] % 8)])
    script = Script(
        [RESERVES[octet % len(RESERVES)] if octet > 160 else "ok" for octet in head[5:8]],
        [FORWARDS[octet % len(FORWARDS)] for octet in head[8:10]],
    )
    door = DOORS[list(DOORS)[head[0] // 8 % len(DOORS)]]
    if head[4] & 16 and (secured := stream.find(TOKEN)) > 0:  # the client waits for TLS to begin, whatever it said before
        pieces = [part for part in (*cut(stream[:secured], [secured // 2]), *cut(stream[secured:], [head[3]])) if part]
    compare(bench, pieces, door, TIGHT if head[0] % 4 == 3 else PATIENT, script)


def session_seeds() -> list[bytes]:
    """A corpus: every transcript, whole and in pieces, and programs that open every state."""
    found = []
    for number, (door, before, after) in enumerate(STATES.values()):
        head = bytes([list(DOORS).index(door) * 8, 1, 2, number, number % 5 + 16, 0, 0, 0, 0, number % 3])
        found += [head + before + after, bytes([head[0] + 3]) + head[1:] + before + after]
        clients = b"".join(bytes([0, list(DOORS).index(door), who, 1, who, number, 3, 2, 0]) for who in range(3))
        found.append(bytes([CHAOS, 0, number % 2, 0, 0]) + clients + bytes([1, 0, 2, 3, 5, 0, 4, 1, 0, 3, 6, 0]))
    return found


def parsers(bench: Bench, data: bytes) -> None:
    """One parser, which the first octet chooses."""
    if not data:
        return
    targets: tuple[Target, ...] = (_path, _mail, _rcpt, _bdat, _proxy, _auth, _author)
    targets[data[0] % len(targets)](bench, data[1:])


PARSED = (
    b"<a@b.example> SIZE=5", b"FROM:<a@b.example> SIZE=5 BODY=8BITMIME RET=HDRS ENVID=a+2Bb AUTH=<> SMTPUTF8",
    b"TO:<\"a b\"@[IPv6:2001:db8::1]> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb@c", b"12 LAST",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 25\r\n", b"AGFwcABzZWNyZXQ=\r\nYXBw\r\nc2VjcmV0\r\n*",
    b'From: "A, b" <a@b.example>,\r\n c@d.example (e (f))\r\nSender: <a@b.example>\r\n\r\n',
)  # fmt: skip


def parser_seeds() -> list[bytes]:
    """One that is well for each."""
    more = [
        b"\x00<@r.example,@s.example:a@b>", "\x00<ä@bücher.example>".encode(), b"\x02TO:<a@b.c> ORCPT=utf-8;a\\x{E4}b@c",
        b"\x04\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\2\1\xc0\0\2\2\4\xd2\0\x19", b"\x04PROXY UNKNOWN\r\n", b"\x05=\r\n=\r\n",
    ]  # fmt: skip
    return [bytes([number]) + text for number, text in enumerate(PARSED)] + more


def check(is_true: bool, what: str, *given: object) -> None:
    """Raise Fault unless it is."""
    if not is_true:
        raise Fault(f"{what}: {given!r}")


def _reply(reply: Reply, *given: object) -> None:
    """A reply is one line, with an enhanced code of its class, and a refusal."""
    check(reply.code >= 400 and len(replies(bytes(reply))) == 1, "an odd reply", reply, *given)
    check(reply.status.startswith(str(reply.code)[0]), "an enhanced code of another class", reply)


def _path(bench: Bench, data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for is_utf8 in (False, True):
        if found := parse_path(text, is_utf8):
            mailbox, rest = found
            check(text.startswith("<") and f"{mailbox}>" in text, "an address that was not sent", text, found)
            check(not mailbox or is_mailbox(mailbox, is_utf8), "no mailbox", found)
            check(mailbox.isprintable() and (is_utf8 or mailbox.isascii()), "an address that breaks out", found)
            check(parse_path(f"<{mailbox}>", is_utf8) == (mailbox, ""), "read otherwise the second time", found)
            check(len(mailbox.encode()) <= 254 and rest in text, "too long, or not what was sent", found)


def _author(bench: Bench, data: bytes) -> None:
    found = read_authors(read_fields(header_of(data)))
    if found is not None:
        check(all(is_mailbox(one, not one.isascii()) for one in found), "no mailbox", data, found)
        check(read_mailboxes(", ".join(found).encode()) == found, "read otherwise the second time", data, found)


def _mail(bench: Bench, data: bytes) -> None:
    found = parse_mail(data, 1000)
    check(found == parse_mail(data + b" ", 1000), "the short way and the long one differ", data)
    if isinstance(found, Reply):
        _reply(found, data)
        return
    check(not found.address or is_mailbox(found.address, found.smtputf8), "no mailbox", data, found)
    check(found.size <= 1000 and found.ret in ("", "FULL", "HDRS") and found.body in ("", "7BIT", "8BITMIME"), "odd values", found)
    check(re.fullmatch(r"[\x21-\x7e]{0,100}", found.envid) is not None, "an ENVID that breaks out", found)
    check(isinstance(found, Sender), "neither a sender nor a reply", found)


def _rcpt(bench: Bench, data: bytes) -> None:
    for smtputf8 in (False, True):
        found = parse_rcpt(data, smtputf8)
        check(found == parse_rcpt(data + b" ", smtputf8), "the short way and the long one differ", data)
        if isinstance(found, Reply):
            _reply(found, data)
            continue
        check(is_mailbox(found.address, smtputf8), "no mailbox", data, found)
        check(not re.search(r"[\x00-\x20\x7f]", found.orcpt) and len(found.orcpt.encode()) <= 500, "an ORCPT that breaks out", found)
        check(found.orcpt.isascii() or smtputf8, "an ORCPT in UTF-8", found)
        check(not set(found.notify.split(",")) - {"", "NEVER", "SUCCESS", "FAILURE", "DELAY"}, "an odd NOTIFY", found)


def _bdat(bench: Bench, data: bytes) -> None:
    words = data.split(b" ")
    words = [words[0], *filter(None, words[1:])]  # spaces between and behind the words, none before
    is_size = 0 < len(words[0]) < 20 and all(octet in b"0123456789" for octet in words[0])
    is_last = len(words) == 2 and words[1].upper() == b"LAST"
    expected = (int(words[0]), is_last) if is_size and (is_last or len(words) == 1) else None
    check(parse_bdat(data) == expected, "another chunk", data, expected)


def _proxy(bench: Bench, data: bytes) -> None:
    header = b""
    try:
        while wanted := missing(header):
            check(wanted > 0 and len(header) <= 536, "more than a header has", header)
            if len(header) + wanted > len(data):
                return
            header = data[: len(header) + (1 if data.startswith(b"P") else wanted)]
        peer = _run(bench, parse(header))
    except ProxyRefused as refused:
        check(str(refused).isprintable(), "a reason that breaks out", refused)
        return
    if peer is not None:
        check(str(ipaddress.ip_address(peer[0])) == peer[0] and 0 <= peer[1] <= 65_535, "no address", peer)


def _auth(bench: Bench, data: bytes) -> None:
    lines = data.split(b"\r\n")

    class Client:
        async def ask(self, challenge: bytes) -> bytes | None:
            return lines.pop(0) if lines else None

    for mechanism in auth.MECHANISMS:
        initial = lines.pop(0) if len(lines) % 2 else None
        found = _run(bench, auth.exchange(Client(), mechanism, initial))
        if isinstance(found, Reply):
            _reply(found, data)
        else:
            found.shown.encode()
            check(len(found.shown) <= 4 * auth.SHOWN_NAME, "a name too long for the record", found)
            found.name.encode("utf-8", "surrogateescape")


def _run(bench: Bench, doing: Coroutine[Any, Any, Answer]) -> Answer:
    return bench.loop.run_until_complete(asyncio.wait_for(doing, 5))
