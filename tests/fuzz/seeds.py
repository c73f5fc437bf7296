"""What clients say that behave, by the state they are in when they begin to err; and how it is spoilt."""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence

from tests.fuzz.instant import TOKEN
from tests.fuzz.rooms import GONE, NAME, PASSWORD


def b64(text: str) -> bytes:
    """As AUTH says it."""
    return base64.b64encode(text.encode())


CLAIM = b64(f"\0{NAME}\0{PASSWORD}")
EHLO = b"EHLO client.example\r\n"
LOG_IN = EHLO + b"AUTH PLAIN " + CLAIM + b"\r\n"
MAIL = b"MAIL FROM:<a@b.example>\r\n"
RCPT = b"RCPT TO:<c@d.example>\r\n"
ENVELOPE = MAIL + RCPT
CONTENT = b"Subject: x\r\n\r\n..\r\nRCPT TO:<canary@e.example>\r\nx\r\n"
MESSAGE = b"DATA\r\n" + CONTENT + b".\r\n"
TALE = b"RSET\r\nNOOP x\r\n" + ENVELOPE + MESSAGE + b"QUIT\r\n"


def bdat(octets: bytes, is_last: bool = False) -> bytes:
    """A chunk with its command."""
    return b"BDAT %d%b\r\n%b" % (len(octets), b" LAST" if is_last else b"", octets)


CHUNKS = bdat(CONTENT[:20]) + bdat(b"") + bdat(CONTENT[20:], is_last=True)

STATES: dict[str, tuple[str, bytes, bytes]] = {
    "greeting": ("plain", b"", LOG_IN + TALE),
    "helo": ("plain", b"HELO client.example\r\n", b"AUTH PLAIN\r\n" + LOG_IN + TALE),
    "ehlo": ("plain", EHLO, b"AUTH PLAIN " + CLAIM + b"\r\n" + TALE),
    "in AUTH PLAIN": ("plain", EHLO + b"AUTH PLAIN\r\n", CLAIM + b"\r\n" + TALE),
    "in AUTH LOGIN, before the name": ("plain", EHLO + b"AUTH LOGIN\r\n", b64(NAME) + b"\r\n" + b64(PASSWORD) + b"\r\n" + TALE),
    "in AUTH LOGIN, before the password": ("plain", EHLO + b"AUTH LOGIN " + b64(NAME) + b"\r\n", b64(PASSWORD) + b"\r\n" + TALE),
    "wrong before": ("plain", EHLO + (b"AUTH PLAIN " + b64("\0app\0guess") + b"\r\n") * 4, b"AUTH PLAIN " + CLAIM + b"\r\n" + TALE),
    "disabled": ("plain", EHLO, b"AUTH PLAIN " + b64(f"\0{GONE}\0{PASSWORD}") + b"\r\nNOOP\r\nAUTH PLAIN " + CLAIM + b"\r\n" + TALE),
    "logged in": ("plain", LOG_IN, ENVELOPE + MESSAGE + TALE),
    "mail": ("plain", LOG_IN + MAIL, RCPT + b"RCPT TO:<C@d.example> NOTIFY=NEVER\r\n" + MESSAGE + TALE),
    "rcpt": ("plain", LOG_IN + ENVELOPE, b"RCPT TO:<e@f.example>\r\nVRFY x\r\n" + MESSAGE + TALE),
    "in data": ("plain", LOG_IN + ENVELOPE + b"DATA\r\n", CONTENT + b".\r\n" + TALE),
    "at the dot": ("plain", LOG_IN + ENVELOPE + b"DATA\r\nx", b"\r\n.\r\n" + TALE),
    "between chunks": ("plain", LOG_IN + ENVELOPE + bdat(b"Subject: y\r\n"), CHUNKS + ENVELOPE + CHUNKS + TALE),
    "within a chunk": ("plain", LOG_IN + ENVELOPE + b"BDAT 30\r\nSubject: z\r\n\r\n", b"MAIL FROM:<a@b>\r\n" + CHUNKS + TALE),
    "after a refusal": ("plain", LOG_IN + MAIL + b"DATA\r\n", b"Subject: x\r\n.\r\n" + ENVELOPE + MESSAGE),
    "after a refused RCPT": ("plain", LOG_IN + MAIL + b"RCPT TO:<@>\r\n", bdat(b"DATA\r\n", is_last=True) + RCPT + MESSAGE),
    "clear": ("clear", EHLO, b"AUTH PLAIN " + CLAIM + b"\r\n" + TALE),
    "before TLS": ("starttls", EHLO, b"STARTTLS\r\n" + TOKEN + LOG_IN + TALE),
    "in the handshake": ("starttls", EHLO + b"STARTTLS\r\n", TOKEN + LOG_IN + TALE),
    "after TLS": ("starttls", EHLO + b"STARTTLS\r\n", TOKEN + LOG_IN + b"STARTTLS\r\n" + TALE),
    "logged in before TLS": (
        "either", LOG_IN + ENVELOPE + b"STARTTLS\r\n",
        TOKEN + ENVELOPE + b"AUTH PLAIN\r\n" + EHLO + ENVELOPE + LOG_IN + ENVELOPE + MESSAGE + TALE,
    ),
    "implicit": ("implicit", b"", TOKEN + LOG_IN + TALE),
}  # fmt: skip
"""Name of the state: the door, what leads there, and what comes then."""

SPLINTERS = [
    b"\r", b"\n", b"\r\n", b"\0", b".", b"\r\n.\r\n", b"\r\n.", b".\r\n", b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r\n..\r\n",
    b" ", b"*", b"=", b"\xff",
    b"\xc3\xa4", b"<", b">", b"@", b"x" * 12_284, b"x" * 12_300, b"RSET\r\n", b"RSET \x0b\r\n", b"RSET \t\r\n", b"RSET x\r\n",
    b"QUIT x\r\n", b"EHLO @\r\n",
    b"QUIT\r\n", b"DATA\r\n", b"BDAT 0\r\n", b"BDAT 5 LAST\r\n", b"BDAT 7\r\n",
    b"BDAT 500\r\n", b"BDAT x\r\n", b"EHLO x\r\n", b"HELO x\r\n", b"STARTTLS\r\n", b"AUTH LOGIN\r\n", b"AUTH PLAIN =\r\n", b"NOOP\r\n",
    b"HELP\r\n",
    b" SMTPUTF8", b" SIZE=500", b" BODY=8BITMIME", b" LAST", EHLO, MAIL, RCPT, ENVELOPE, MESSAGE, CHUNKS, LOG_IN, TOKEN, CLAIM, b"*\r\n",
    b"Received: by relay.example\r\n" * 5, b"x" * 390 + b"\r\n",
]  # fmt: skip


def spoil(rest: bytes, dice: random.Random) -> bytes:
    """Change a little of what a client says: flip, insert, delete, repeat, cut off, exchange."""
    octets = bytearray(rest)
    for _ in range(dice.choice((1, 1, 2, 3, 6))):
        at = dice.randint(0, len(octets))
        upto = min(len(octets), at + dice.choice((1, 2, 5, 20, 80)))
        match dice.randrange(7):
            case 0 if at < len(octets):
                octets[at] ^= 1 << dice.randrange(8)
            case 1 | 2:
                octets[at:at] = dice.choice(SPLINTERS)
            case 3:
                del octets[at:upto]
            case 4:
                octets[at:at] = octets[at:upto] * dice.choice((1, 1, 2, 9))
            case 5 if dice.random() < 0.3:
                del octets[at:]
            case _:
                lines = bytes(octets).split(b"\r\n")
                one, other = dice.randrange(len(lines)), dice.randrange(len(lines))
                lines[one], lines[other] = lines[other], lines[one]
                octets[:] = b"\r\n".join(lines)
    return bytes(octets[:60_000])  # what is not held back: more, and when things come depends on who reads


def cut(octets: bytes, places: Sequence[int]) -> list[bytes]:
    """In pieces, none of them empty."""
    ends = sorted({place % len(octets) for place in places} - {0}) if octets else []
    return [octets[start:end] for start, end in zip([0, *ends], [*ends, len(octets)], strict=True) if end > start]
