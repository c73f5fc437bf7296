"""One connection of a sink: SMTP from the server's side (RFC 5321), told what to do otherwise by the sink's script.

Promises: data ends at CRLF.CRLF and nowhere else, and a chunk where its size says (RFC 3030); commands are taken one by one from whatever
has come; addresses beyond ASCII are taken only with SMTPUTF8 (RFC 6531). TLS is left to `secured`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from relay.loadkit.message import identify, unstuff
from relay.loadkit.received import Received
from relay.loadkit.secured import Secured

if TYPE_CHECKING:
    from relay.loadkit.sink import Sink

MAX_LINE = 12_288
"""Octets of a command; AUTH lines may be this long (RFC 4954 section 4)."""

_PATH = re.compile(r"(FROM|TO):[ ]?<(?:@[^:>]*:)?([^>]*)>(?: (.*))?", re.IGNORECASE)
CHUNK = re.compile(r"([0-9]{1,15})( +LAST)?", re.IGNORECASE)
SIZE = re.compile(r"[0-9]{1,20}")  # RFC 1870 section 3
_FEATURE_OF = {
    "SIZE": "SIZE", "BODY": "8BITMIME", "SMTPUTF8": "SMTPUTF8", "RET": "DSN", "ENVID": "DSN", "NOTIFY": "DSN", "ORCPT": "DSN",
}  # fmt: skip


class Words(NamedTuple):
    """What a server of some kind says."""

    ok: bytes = b"250 2.0.0 Ok\r\n"
    mail_ok: bytes = b"250 2.1.0 Sender ok\r\n"
    rcpt_ok: bytes = b"250 2.1.5 Recipient ok\r\n"
    data_ok: bytes = b"354 End data with <CR><LF>.<CR><LF>\r\n"
    auth_ok: bytes = b"235 2.7.0 Authentication succeeded\r\n"
    bye: bytes = b"221 2.0.0 Bye\r\n"
    too_big: bytes = b"552 5.3.4 Message too big\r\n"
    unknown: bytes = b"500 5.5.2 Command not recognised\r\n"
    out_of_order: bytes = b"503 5.5.1 Bad sequence of commands\r\n"
    no_mail: bytes = b"503 5.5.1 Need MAIL first\r\n"
    no_recipients: bytes = b"503 5.5.1 No valid recipients, or BDAT was used\r\n"
    no_login: bytes = b"530 5.7.0 Authentication required\r\n"
    wrong_login: bytes = b"535 5.7.8 Authentication credentials invalid\r\n"
    vrfy: bytes = b"252 2.5.0 Send some mail\r\n"
    no_mechanism: bytes = b"504 5.5.4 Mechanism not known\r\n"


class Conversation(Secured):
    """One connection."""

    words: ClassVar[Words] = Words()

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink)
        self._scanned = 0
        self._in_data = False
        self._chunk: tuple[int, bool] | None = None
        self._helo = ""
        self._user = ""
        self._auth: Callable[[bytes], None] | None = None
        self._reset()
        self._commands: dict[bytes, Callable[[str], None]] = {
            b"HELO": self._on_helo, b"EHLO": self._on_ehlo, b"STARTTLS": self._on_starttls, b"AUTH": self._on_auth,
            b"MAIL": self._on_mail, b"RCPT": self._on_rcpt, b"DATA": self._on_data, b"BDAT": self._on_bdat, b"RSET": self._on_rset,
            b"QUIT": self._on_quit, b"NOOP": lambda _: self._say(self.words.ok),
            b"VRFY": lambda _: self._say(self.words.vrfy),
        }  # fmt: skip

    # -- commands ------------------------------------------------------------------------------------------------------------

    def _take(self) -> bool:
        if self._chunk is not None:
            return self._take_chunk(*self._chunk)
        return self._take_message() if self._in_data else self._take_line()

    def _take_line(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0 or end > MAX_LINE:
            if len(self._buffer) > MAX_LINE:
                self._say(b"500 5.5.6 Line too long\r\n")
                self._leave()
            return False
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        if self._auth is not None:
            then, self._auth = self._auth, None
            then(line)
        else:
            self._obey(line)
        return True

    def _obey(self, line: bytes) -> None:
        verb, _, rest = line.partition(b" ")
        command = self._commands.get(verb.upper())
        if command is None:
            self._say(self.words.unknown)
        else:
            command(rest.decode("utf-8", "surrogateescape").strip())

    def _reset(self) -> None:
        self._sender = None
        self._mail_params = ""
        self._recipients: list[str] = []
        self._rcpt_params: list[str] = []
        self._content: bytes | None = None

    def _on_helo(self, name: str) -> None:
        self._answer("ehlo", (name,), f"250 {self._manners.hostname}\r\n".encode("ascii"), lambda: self._greeted(name))

    def _on_ehlo(self, name: str) -> None:
        lines = self._offers(name)
        text = "".join(f"250-{line}\r\n" for line in lines[:-1]) + f"250 {lines[-1]}\r\n"
        self._answer("ehlo", (name,), text.encode("ascii"), lambda: self._greeted(name))

    def _offers(self, name: str) -> list[str]:
        """The lines of the reply to EHLO."""
        manners = self._manners
        lines = [manners.hostname, *sorted(manners.features - {"SIZE"})]
        if "SIZE" in manners.features:
            lines.append(f"SIZE {manners.max_size}")
        if manners.tls == "starttls" and not self._is_secure:
            lines.append("STARTTLS")
        if manners.has_auth:
            lines.append("AUTH PLAIN LOGIN")
        return lines

    def _greeted(self, name: str) -> None:
        self._helo = name or "?"
        self._reset()

    def _on_mail(self, rest: str) -> None:
        found = _PATH.fullmatch(rest)
        if not self._helo or self._sender is not None:
            self._say(self.words.out_of_order)
        elif self._manners.has_auth and not self._user:
            self._say(self.words.no_login)
        elif found is None or found[1].upper() != "FROM":
            self._say(b"501 5.5.4 Syntax: MAIL FROM:<address>\r\n")
        elif problem := self._check(found[2], found[3] or "", found[3] or ""):
            self._say(problem)
        else:
            self._answer("mail", (found[2],), self.words.mail_ok, lambda: self._begin_mail(found[2], found[3] or ""), found[2])

    def _begin_mail(self, sender: str, params: str) -> None:
        self._sender, self._mail_params = sender, params

    def _on_rcpt(self, rest: str) -> None:
        found = _PATH.fullmatch(rest)
        if self._sender is None:
            self._say(self.words.no_mail)
        elif found is None or found[1].upper() != "TO" or not found[2]:
            self._say(b"501 5.5.4 Syntax: RCPT TO:<address>\r\n")
        elif problem := self._check(found[2], found[3] or "", self._mail_params):
            self._say(problem)
        else:
            self._answer("rcpt", (found[2],), self._welcome(found[2]), lambda: self._add_recipient(found[2], found[3] or ""))

    def _welcome(self, address: str) -> bytes:
        """What is said to a recipient that is taken."""
        return self.words.rcpt_ok

    def _add_recipient(self, address: str, params: str) -> None:
        # One string for all the messages to an address: a sink holds many.
        self._recipients.append(sys.intern(address))
        self._rcpt_params.append(sys.intern(params))

    def _check(self, address: str, params: str, mail_params: str) -> bytes:
        """What is wrong with a path and its parameters, which are of a transaction with these."""
        if not address.isascii() and "SMTPUTF8" not in mail_params.upper().split():
            return b"553 5.6.7 Non-ASCII address without SMTPUTF8\r\n"
        if not address.isprintable():  # what was no UTF-8 is not
            return b"501 5.1.3 Bad address syntax\r\n"
        for param in params.split():
            key, _, value = param.partition("=")
            key = key.upper()
            known = self._manners.has_auth if key == "AUTH" else _FEATURE_OF.get(key) in self._manners.features
            if not known:
                return b"555 5.5.4 Parameter not recognised\r\n"
            if key == "SIZE" and SIZE.fullmatch(value) is None:
                return b"501 5.5.4 SIZE is a number\r\n"
            if key == "SIZE" and int(value) > self._manners.max_size:
                return self.words.too_big
        return b""

    def _on_data(self, rest: str) -> None:
        if rest:
            self._say(b"501 5.5.4 DATA takes no parameter\r\n")
        elif self._sender is None or not self._recipients or self._content is not None:
            self._say(self.words.no_recipients)
        else:
            self._answer("data", self._recipients, self.words.data_ok, self._begin_data)

    def _begin_data(self) -> None:
        self._in_data, self._scanned = True, 0

    def _on_rset(self, _: str) -> None:
        self._answer("rset", (), self.words.ok, self._reset)

    def _on_quit(self, _: str) -> None:
        self._answer("quit", (), self.words.bye, self._leave)

    # -- the message ---------------------------------------------------------------------------------------------------------

    def _take_message(self) -> bool:
        """Take a whole message off the buffer, if there is one."""
        buffer = self._buffer
        if buffer.startswith(b".\r\n"):
            end = 0
        else:
            found = buffer.find(b"\r\n.\r\n", self._scanned)
            if found < 0:
                self._scanned = max(0, len(buffer) - 4)
                return False
            end = found + 2
        wire = bytes(buffer[:end])
        del buffer[: end + 3]
        self._in_data = False
        self._end_message(wire, unstuff)
        return True

    def _end_message(self, wire: bytes, read: Callable[[bytes], bytes]) -> None:
        content = read(wire)
        if objection := self._objection(content):
            self._say(objection)
            self._reset()
            return
        self._pending = self._record(content)
        number = self._sink.intake.answered + 1
        recipients, sender = self._recipients, self._sender
        self._reset()
        self._answer("dot", recipients, self._taken(number), self._accept, sender)

    def _objection(self, content: bytes) -> bytes:
        """What is said against a message as it is."""
        return self._too_big() if len(content) > self._manners.max_size else b""

    def _too_big(self) -> bytes:
        return self.words.too_big

    def _taken(self, number: int) -> bytes:
        """What is said to the `number`th message."""
        return b"250 2.0.0 Ok: queued as %d\r\n" % number

    def _on_bdat(self, rest: str) -> None:
        found = CHUNK.fullmatch(rest)
        if "CHUNKING" not in self._manners.features:
            self._say(b"502 5.5.1 BDAT is not offered\r\n")
        elif found is None:
            self._say(b"501 5.5.4 Syntax: BDAT size [LAST]\r\n")
            self._leave()  # how much of what follows is a chunk nobody knows
        else:
            self._chunk = int(found[1]), found[2] is not None
            if not self._chunk[0]:
                self._take()  # nothing more need come for it

    def _take_chunk(self, size: int, is_last: bool) -> bool:
        """Take a whole chunk off the buffer, if it is there; a refused one, too (RFC 3030 section 2)."""
        if len(self._buffer) < size:
            return False
        content = (self._content or b"") + bytes(self._buffer[:size])
        del self._buffer[:size]
        self._chunk = None
        if self._sender is None or not self._recipients:
            self._say(self._unready())
        elif is_last:
            self._end_message(content, bytes)
        elif len(content) > self._manners.max_size:
            self._say(self._too_big())
            self._reset()
        else:
            self._keep_chunk(content, size)
        return True

    def _unready(self) -> bytes:
        """What a message hears that has no envelope."""
        return self.words.no_recipients

    def _keep_chunk(self, content: bytes, size: int) -> None:
        """Go on with the transaction where the script does not refuse the chunk, which ends it."""
        kept, recipients = (self._sender, self._mail_params, self._recipients, self._rcpt_params), self._recipients

        def go_on() -> None:
            self._sender, self._mail_params, self._recipients, self._rcpt_params = kept
            self._content = content

        self._reset()
        self._answer("data", recipients, b"250 2.0.0 %d octets received\r\n" % size, go_on, kept[0])

    def _record(self, content: bytes) -> Received:
        id, is_intact = identify(content)
        manners = self._manners
        return Received(
            sys.intern(self._sender or ""), tuple(self._recipients), sys.intern(self._mail_params), tuple(self._rcpt_params),
            len(content), id, is_intact, self._user, time.time(),
            hashlib.sha256(content).digest() if manners.digest else b"", content if manners.keep else None,
        )  # fmt: skip

    def _accept(self) -> None:
        if self._pending is not None:
            message, self._pending = self._pending, None
            self._sink.intake.add(message, answered=True)

    # -- TLS and AUTH --------------------------------------------------------------------------------------------------------

    def _on_starttls(self, _: str) -> None:
        if self._manners.tls != "starttls" or self._is_secure:
            self._say(b"503 5.5.1 TLS not available\r\n")
        else:
            self._answer("starttls", (), b"220 2.0.0 Ready to start TLS\r\n", self._begin_tls)

    def _secured(self) -> None:
        self._helo = self._user = ""
        self._reset()
        if self._manners.tls == "implicit":
            self._greet()

    def _on_auth(self, rest: str) -> None:
        mechanism, _, initial = rest.partition(" ")
        if not self._manners.has_auth or self._user or self._sender is not None:
            self._say(b"503 5.5.1 AUTH not available\r\n")
        elif mechanism.upper() == "PLAIN" and initial:
            self._on_plain(initial.encode("ascii", "replace"))
        elif mechanism.upper() == "PLAIN":
            self._ask(b"", self._on_plain)
        elif mechanism.upper() == "LOGIN" and initial:
            self._on_login_name(initial.encode("ascii", "replace"))
        elif mechanism.upper() == "LOGIN":
            self._ask(b"Username:", self._on_login_name)
        else:
            self._say(self.words.no_mechanism)

    def _ask(self, prompt: bytes, then: Callable[[bytes], None]) -> None:
        self._auth = then
        self._say(b"334 " + base64.b64encode(prompt) + b"\r\n", is_verbatim=True)

    def _on_plain(self, line: bytes) -> None:
        parts = _decode(line).split("\0")
        self._verify(parts[1], parts[2]) if len(parts) == 3 else self._say(b"501 5.5.2 Not PLAIN\r\n")

    def _on_login_name(self, line: bytes) -> None:
        user = _decode(line)
        self._ask(b"Password:", lambda line: self._verify(user, _decode(line)))

    def _verify(self, user: str, password: str) -> None:
        if not user or not (self._manners.is_open or (self._manners.credentials or {}).get(user) == password):
            self._say(self.words.wrong_login)
        else:
            self._answer("auth", (user,), self.words.auth_ok, lambda: self._logged_in(user))

    def _logged_in(self, user: str) -> None:
        self._user = sys.intern(user)


def _decode(line: bytes) -> str:
    """What base64 says, "" for what is none."""
    try:
        return base64.b64decode(line, validate=True).decode("utf-8", "replace")
    except binascii.Error:
        return ""
