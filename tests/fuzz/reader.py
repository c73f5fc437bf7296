"""The reference reader: what a session must answer to a client's octets, and which messages it must take, read slowly and plainly.

It has the whole stream before it and knows three ways to read it: lines that end at CRLF (RFC 5321 section 2.3.8), a message that ends
at CRLF.CRLF (section 4.1.1.4), and octets that are counted (RFC 3030 section 2). Only the syntax of arguments it leaves to the relay's
own grammar, which is tested by itself.

Two things depend on when octets came, not only on which: what is thrown away before TLS (RFC 3207 section 4.2), and whether something
had come behind a DATA that was refused. So the reader is told how much of the stream had come when a command was answered.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass

from relay.mail.address import canonical
from relay.mail.envelope import Recipient
from relay.mail.reply import Reply
from relay.mail.trace import MAX_RECEIVED, read_header
from relay.session.door import Door
from relay.session.grammar import Sender, parse_bdat, parse_mail, parse_rcpt
from relay.session.house import Rules
from tests.fuzz.instant import TOKEN
from tests.fuzz.rooms import GONE, HOSTNAME, NAME, PASSWORD, Script

LONGEST_LINE = 12_310
LONGEST_RESPONSE = 12_288
SMALL_CHUNK = 1024
ERRORS = {500, 501, 502, 503, 504, 555}
REFUSALS = {"hourly": 451, "in_flight": 451, "total": 550, "disabled": 550, "unknown": 550, "stale": 530, "store": 451}
VERDICTS = {"delivered": 250, "deferred": 451, "failed": 501}
KNOWN = b"EHLO HELO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT EXPN ETRN TURN ATRN".split()


class End(Exception):
    """The stream has ended, or the session."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A message as the smarthost must read it: its content, without stuffed dots."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    is_taken: bool


class Reader:
    """Reads one client's stream."""

    def __init__(self, stream: bytes, door: Door, rules: Rules, script: Script, arrived: Callable[[int], int]) -> None:
        """`arrived(position)`: how much of the stream had come when what ends at a position was answered."""
        self._stream, self._position = stream, 0
        self._door, self._rules, self._arrived = door, rules, arrived
        self._reserves, self._forwards = iter(script.reserves), iter(script.forwards)
        self.codes: list[int] = []
        """The codes of the replies."""
        self.offers: list[Taken] = []
        """The messages that the smarthost is offered."""
        self._is_tls = self._is_known = self._is_esmtp = self._is_greeted = False
        self._sender: Sender | None = None
        self._recipients: list[Recipient] = []
        self._commands = self._errors = self._refusals = self._failures = 0
        self._is_wary = self._is_doomed = self._is_verdict = False

    def read(self) -> Reader:
        """Read it to its end, or to the session's."""
        try:
            if self._door.tls == "implicit":
                self._shake_hands()
            self.codes.append(220)
            while True:
                line = self._line()
                if self._is_doomed:
                    self._close(421)
                self._tell(self._answer(line))
        except End:
            return self

    # -- reading -------------------------------------------------------------------------------------------------------------

    def _line(self) -> bytes | None:
        """The next line; None if it is too long."""
        end = self._stream.find(b"\r\n", self._position)
        if end < 0:
            raise End
        line, self._position = self._stream[self._position : end], end + 2
        return line if len(line) <= LONGEST_LINE else None

    def _count(self, size: int) -> bytes:
        """So many octets."""
        if len(self._stream) - self._position < size:
            raise End
        self._position += size
        return self._stream[self._position - size : self._position]

    def _shake_hands(self) -> None:
        if self._count(len(TOKEN)) != TOKEN:
            raise End
        self._is_tls = True

    def _has_more(self) -> bool:
        """Whether anything had come behind what was just read."""
        return self._arrived(self._position) > self._position

    # -- answering -----------------------------------------------------------------------------------------------------------

    def _tell(self, code: int) -> None:
        if code == 0:
            return
        if code in ERRORS and not self._is_verdict:
            self._errors += 1
            if self._errors > self._rules.max_errors:
                code = 421
        if self._commands > self._rules.max_commands and not self._is_verdict:
            code = 421
        self.codes.append(code)
        if code == 421:
            raise End

    def _close(self, *codes: int) -> None:
        self.codes += codes
        raise End

    def _answer(self, line: bytes | None) -> int:
        """The code of a command's reply; 0 if it was told already."""
        is_wary, self._is_wary, self._is_verdict = self._is_wary, False, False
        self._commands += 1
        if line is None:
            return 421 if is_wary else 500
        name, argument = _words(line)
        if name not in KNOWN or _is_odd(line):
            return 421 if is_wary or line[:4].upper() == b"BDAT" else 500
        match name:
            case b"EHLO" | b"HELO":
                return self._greet(argument.strip(b" "), name == b"EHLO")
            case b"STARTTLS":
                return self._start_tls(argument)
            case b"AUTH":
                return self._auth(argument)
            case b"MAIL":
                return self._mail(argument)
            case b"RCPT":
                return self._rcpt(argument)
            case b"DATA":
                return self._data(argument)
            case b"BDAT":
                return self._bdat(argument)
            case b"QUIT" if not argument:
                self._close(221)
            case b"RSET" if not argument:
                self._sender, self._recipients = None, []
                return 250
            case b"RSET" | b"QUIT":
                return 501
            case b"VRFY":
                return 252 if self._is_known else 530
        return {b"NOOP": 250, b"HELP": 214}.get(name, 502)

    def _greet(self, name: bytes, is_esmtp: bool) -> int:
        if not _is_host_name(name):
            return 501
        self._is_greeted, self._is_esmtp = True, is_esmtp
        self._sender, self._recipients = None, []
        self.codes.append(250)
        self._is_doomed = self._is_doomed or self._commands > self._rules.max_commands
        return 0

    def _start_tls(self, argument: bytes) -> int:
        if argument:
            return 501
        if self._is_tls:
            return 503
        if self._door.tls != "starttls":
            return 502
        self.codes.append(220)
        self._position = self._arrived(self._position)
        self._shake_hands()
        self._is_greeted = self._is_esmtp = self._is_known = False
        self._sender, self._recipients = None, []
        return 0

    # -- who speaks ----------------------------------------------------------------------------------------------------------

    def _auth(self, argument: bytes) -> int:
        mechanism, _, initial = argument.partition(b" ")
        if not self._is_esmtp or self._is_known or self._sender is not None:
            return 503
        if not mechanism:
            return 501
        if not (self._is_tls or self._door.auth_without_tls):
            return 538
        match mechanism.upper():
            case b"PLAIN":
                claim = self._response(initial)
                parts = claim.split(b"\0") if isinstance(claim, bytes) else []
                if isinstance(claim, int) or len(parts) != 3:
                    return claim if isinstance(claim, int) else 501
            case b"LOGIN":
                name = self._response(initial)
                password = self._response(b"") if isinstance(name, bytes) else b""
                if isinstance(name, int) or isinstance(password, int):
                    return name if isinstance(name, int) else int(password)
                parts = [b"", name, password]
            case _:
                return 504
        return self._verify(*parts)

    def _response(self, initial: bytes) -> bytes | int:
        """What a challenge is answered, or the code of the reply to what is no answer."""
        if initial:
            line: bytes | None = initial.strip(b" ")
            if line == b"=":
                return b""
        else:
            self.codes.append(334)
            line = self._line()
        if line is None or len(line) > LONGEST_RESPONSE:
            return 500
        try:
            return base64.b64decode(line, validate=True)  # there is no * in it
        except binascii.Error:
            return 501

    def _verify(self, identity: bytes, name: bytes, password: bytes) -> int:
        is_right = identity in (b"", name) and password == PASSWORD.encode()
        if is_right and name == NAME.encode():
            self._is_known = True
            return 235
        self._failures += 1
        code = 525 if is_right and name == GONE.encode() else 535
        if self._failures >= 5:
            self._close(code, 421)
        return code

    # -- the envelope --------------------------------------------------------------------------------------------------------

    def _mail(self, argument: bytes) -> int:
        if not self._is_greeted:
            return 503
        if not self._is_known:
            return 530
        if self._sender is not None:
            return 503
        sender = parse_mail(argument, self._rules.max_message_bytes)
        if isinstance(sender, Reply):
            return sender.code
        self._sender = sender
        return 250

    def _rcpt(self, argument: bytes) -> int:
        if self._sender is None:
            return self._no_sender()
        recipient = parse_rcpt(argument, smtputf8=self._sender.smtputf8)
        if isinstance(recipient, Reply):
            return recipient.code
        self._commands -= 1
        if all(canonical(recipient.address) != canonical(known.address) for known in self._recipients):
            if len(self._recipients) == self._rules.max_recipients:
                return 452
            self._recipients.append(recipient)
        return 250

    def _no_sender(self) -> int:
        return 530 if self._is_greeted and not self._is_known else 503

    # -- the message ---------------------------------------------------------------------------------------------------------

    def _refusal(self) -> int:
        """Why there may be no message now; 0 if there may."""
        if self._sender is None:
            return self._no_sender()
        if not self._recipients:
            return 503
        self._commands = 0
        outcome = next(self._reserves, "ok")
        if outcome == "ok":
            return 0
        self._sender, self._recipients, self._is_verdict = None, [], True
        if outcome in ("disabled", "stale", "unknown"):
            self._is_doomed = True
        elif outcome != "store":
            self._refusals += 1
            if self._refusals >= self._rules.max_refusals:
                if REFUSALS[outcome] < 500:
                    return 421
                self._is_doomed = True
        return REFUSALS[outcome]

    def _data(self, argument: bytes) -> int:
        code = 501 if argument else self._refusal()
        if code == 421:
            return code
        if code:
            if self._has_more():  # a message that was sent without waiting for 354
                self._close(code, 421)
            self._is_wary = True
            return code
        self.codes.append(354)
        rest = self._stream[self._position :]
        if rest.startswith(b".\r\n"):
            end = 0
        elif (end := rest.find(b"\r\n.\r\n") + 2) < 2:
            raise End
        self._position += end + 3
        wire = rest[:end]
        content = b"\r\n".join(line.removeprefix(b".") for line in wire.split(b"\r\n"))
        return self._judge(content, wire, len(content))

    def _bdat(self, argument: bytes) -> int:
        chunk = parse_bdat(argument)
        if chunk is None:
            return 421
        if code := self._refusal():
            self._count(chunk[0])
            return code
        content = b""
        while True:
            content += self._count(chunk[0])
            if chunk[1] or len(content) > self._rules.max_message_bytes:
                break
            self._tell(250)
            given = self._next_chunk()
            if isinstance(given, bytes):
                return self._answer(given)
            chunk = given
        size = len(content)
        if content and not content.endswith(b"\r\n"):
            content += b"\r\n"
        return self._judge(content, b"\r\n".join(b"." * line.startswith(b".") + line for line in content.split(b"\r\n")), size)

    def _next_chunk(self) -> tuple[int, bool] | bytes:
        """The next chunk, or the line that gives up the message."""
        while True:
            line = self._line()
            name, argument = _words(line or b"")
            match name:
                case b"BDAT":
                    if (chunk := parse_bdat(argument)) is None:
                        self._close(421)
                    assert chunk is not None
                    self._commands += chunk[0] < SMALL_CHUNK
                    return chunk
                case b"RSET" | b"EHLO" | b"HELO" | b"QUIT" if line and self._is_obeyed(line, name, argument):
                    self._sender, self._recipients = None, []
                    return line
                case b"MAIL" | b"RCPT" | b"DATA" | b"AUTH" | b"STARTTLS":
                    self._commands += 1
                    self._tell(503)
                case _:
                    self._tell(self._answer(line))

    def _is_obeyed(self, line: bytes, name: bytes, argument: bytes) -> bool:
        """Whether a command that ends a transaction is well: one that is refused changes nothing (RFC 5321 section 4.1.4)."""
        if _is_odd(line):
            return False
        return _is_host_name(argument.strip(b" ")) if name in (b"EHLO", b"HELO") else not argument

    def _judge(self, content: bytes, wire: bytes, size: int) -> int:
        """The reply to a message that is complete; `size` is that of what was sent."""
        sender, recipients = self._sender, tuple(recipient.address for recipient in self._recipients)
        self._sender, self._recipients, self._is_verdict = None, [], True
        assert sender is not None
        if size > self._rules.max_message_bytes:
            return 552
        if any(b"\r" in line or b"\n" in line for line in content.split(b"\r\n")):
            return 550
        header = read_header(wire, HOSTNAME.encode())
        if header.ours >= self._rules.max_passes or header.received > MAX_RECEIVED:
            return 554
        outcome = next(self._forwards, "delivered")
        self.offers.append(Taken(sender.address, recipients, content, outcome == "delivered"))
        if VERDICTS[outcome] == 250:
            self._errors = 0
        return VERDICTS[outcome]


def _words(line: bytes) -> tuple[bytes, bytes]:
    """The command and its argument; white space at the end is to be tolerated (RFC 5321 section 4.1.1)."""
    verb, _, argument = line.rstrip(b" \t").partition(b" ")
    return verb.upper(), argument


def _is_odd(line: bytes) -> bool:
    return any(octet in line for octet in b"\r\n\0")


def _is_host_name(name: bytes) -> bool:
    return 1 <= len(name) <= 255 and all(33 <= octet <= 126 and octet not in b'()<>@,;\\"' for octet in name)
