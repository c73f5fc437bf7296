"""One connection of a sink: SMTP from the server's side (RFC 5321), told what to do otherwise by the sink's script.

Promises: data ends at CRLF.CRLF and nowhere else; commands are taken one by one from whatever has come (RFC 2920) and their replies
leave together; nothing that came before a TLS handshake survives it (RFC 3207 section 4.2). While a script stalls, nothing is done.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from relay.loadkit.message import identify, unstuff
from relay.loadkit.received import Received
from relay.loadkit.script import Action, Stage

if TYPE_CHECKING:
    from relay.loadkit.sink import Sink

MAX_LINE = 12_288
"""Octets of a command; AUTH lines may be this long (RFC 4954 section 4)."""
GARBAGE = b"\x16\x03\x01\xff\x00 not a reply\r\n"

_PATH = re.compile(r"(FROM|TO):[ ]?<(?:@[^:>]*:)?([^>]*)>(?: (.*))?", re.IGNORECASE)
_ENHANCED = re.compile(rb"^(\d{3}[ -])\d\.\d\.\d+ ", re.MULTILINE)
_FEATURE_OF = {
    "SIZE": "SIZE", "BODY": "8BITMIME", "SMTPUTF8": "SMTPUTF8", "RET": "DSN", "ENVID": "DSN", "NOTIFY": "DSN", "ORCPT": "DSN",
}  # fmt: skip

OK = b"250 2.0.0 Ok\r\n"
MAIL_OK = b"250 2.1.0 Sender ok\r\n"
RCPT_OK = b"250 2.1.5 Recipient ok\r\n"
DATA_OK = b"354 End data with <CR><LF>.<CR><LF>\r\n"
AUTH_OK = b"235 2.7.0 Authentication succeeded\r\n"
BYE = b"221 2.0.0 Bye\r\n"


class Conversation(asyncio.Protocol):
    """One connection."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._manners = sink.manners
        self._buffer = bytearray()
        self._scanned = 0
        self._out: list[bytes] = []
        self._is_held = False
        self._is_ending = False
        self._closes = False
        self._in_data = False
        self._is_secure = False
        self._helo = ""
        self._user = ""
        self._auth: Callable[[bytes], None] | None = None
        self._pending: Received | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._reset()
        self._commands: dict[bytes, Callable[[str], None]] = {
            b"HELO": self._on_helo, b"EHLO": self._on_ehlo, b"STARTTLS": self._on_starttls, b"AUTH": self._on_auth,
            b"MAIL": self._on_mail, b"RCPT": self._on_rcpt, b"DATA": self._on_data, b"RSET": self._on_rset,
            b"QUIT": self._on_quit, b"NOOP": lambda _: self._say(OK), b"VRFY": lambda _: self._say(b"252 2.5.0 Send some mail\r\n"),
        }  # fmt: skip

    # -- the transport -------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._sink.conversations.add(self)
        self._sink.intake.connections += 1
        peer = str((self._transport.get_extra_info("peername") or ("",))[0])
        self._answer("connect", (peer,), f"220 {self._manners.hostname} ESMTP\r\n".encode("ascii"))
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Work through what has come."""
        self._buffer += data
        self._work()

    def connection_lost(self, exc: Exception | None) -> None:
        """Record what will not be answered any more."""
        self._sink.conversations.discard(self)
        self._is_ending = True
        if self._timer is not None:
            self._timer.cancel()
        self._forgo()

    def abort(self) -> None:
        """Cut the connection."""
        self._is_ending = True
        self._transport.abort()

    def _work(self) -> None:
        while self._buffer and not self._is_held and not self._is_ending:
            if not (self._take_message() if self._in_data else self._take_line()):
                break
        self._flush()

    def _flush(self) -> None:
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()
        if self._closes:
            self._transport.close()

    def _leave(self) -> None:
        """Take nothing more; close once what was said has gone out."""
        self._is_ending = self._closes = True

    def _say(self, reply: bytes, is_verbatim: bool = False) -> None:
        if not is_verbatim and "ENHANCEDSTATUSCODES" not in self._manners.features:
            reply = _ENHANCED.sub(rb"\1", reply)
        self._sink.intake.replies[int(reply[:3])] += 1
        self._out.append(reply)

    # -- the script ----------------------------------------------------------------------------------------------------------

    def _answer(
        self, stage: Stage, subjects: Sequence[str], usual: bytes, then: Callable[[], None] | None = None, sender: str | None = None
    ) -> None:
        """Reply as the script has it, else as usual; `then` is done where the reply is positive."""
        script = self._sink.script
        sender = self._sender or "" if sender is None else sender
        action = script.decide(stage, subjects, sender, self._sink.random) if script.rules else None
        if action is None:
            if then is not None:
                then()
            self._say(usual)
        elif not action.stall:
            self._act(action, usual, then)
        else:
            self._is_held = True
            if action.stall < math.inf:
                # A server that thinks does not see its client leave; one that never wakes would keep the dead connection.
                self._transport.pause_reading()
                self._timer = asyncio.get_running_loop().call_later(action.stall, self._resume, action, usual, then)

    def _resume(self, action: Action, usual: bytes, then: Callable[[], None] | None) -> None:
        self._is_held = False
        self._transport.resume_reading()
        self._act(action, usual, then)
        self._work()

    def _act(self, action: Action, usual: bytes, then: Callable[[], None] | None) -> None:
        reply = action.reply or usual
        if action.drop == "before":
            self._forgo()
        elif action.is_garbage:
            self._forgo()
            self._out.append(GARBAGE)
        else:
            if reply[:1] in b"23" and then is not None:
                then()
            self._pending = None
            for _ in range(2 if action.is_twice else 1):
                self._say(reply, is_verbatim=bool(action.reply))
        if action.drop:
            self._flush()
            self.abort()
        elif action.is_close:
            self._leave()

    def _forgo(self) -> None:
        """Record the message that waits for its reply, if any, as unanswered."""
        if self._pending is not None:
            message, self._pending = self._pending, None
            self._sink.intake.add(message, answered=False)

    # -- commands ------------------------------------------------------------------------------------------------------------

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
            return True
        verb, _, rest = line.partition(b" ")
        command = self._commands.get(verb.upper())
        if command is None:
            self._say(b"500 5.5.2 Command not recognised\r\n")
        else:
            command(rest.decode("utf-8", "surrogateescape").strip())
        return True

    def _reset(self) -> None:
        self._sender: str | None = None
        self._mail_params = ""
        self._recipients: list[str] = []
        self._rcpt_params: list[str] = []

    def _on_helo(self, name: str) -> None:
        self._answer("ehlo", (name,), f"250 {self._manners.hostname}\r\n".encode("ascii"), lambda: self._greeted(name))

    def _on_ehlo(self, name: str) -> None:
        manners = self._manners
        lines = [manners.hostname, *sorted(manners.features - {"SIZE"})]
        if "SIZE" in manners.features:
            lines.append(f"SIZE {manners.max_size}")
        if manners.tls == "starttls" and not self._is_secure:
            lines.append("STARTTLS")
        if manners.credentials is not None:
            lines.append("AUTH PLAIN LOGIN")
        text = "".join(f"250-{line}\r\n" for line in lines[:-1]) + f"250 {lines[-1]}\r\n"
        self._answer("ehlo", (name,), text.encode("ascii"), lambda: self._greeted(name))

    def _greeted(self, name: str) -> None:
        self._helo = name or "?"
        self._reset()

    def _on_mail(self, rest: str) -> None:
        found = _PATH.fullmatch(rest)
        if not self._helo or self._sender is not None:
            self._say(b"503 5.5.1 Bad sequence of commands\r\n")
        elif self._manners.credentials is not None and not self._user:
            self._say(b"530 5.7.0 Authentication required\r\n")
        elif found is None or found[1].upper() != "FROM":
            self._say(b"501 5.5.4 Syntax: MAIL FROM:<address>\r\n")
        elif problem := self._check_params(found[3] or ""):
            self._say(problem)
        else:
            self._answer("mail", (found[2],), MAIL_OK, lambda: self._begin_mail(found[2], found[3] or ""), found[2])

    def _begin_mail(self, sender: str, params: str) -> None:
        self._sender, self._mail_params = sender, params

    def _on_rcpt(self, rest: str) -> None:
        found = _PATH.fullmatch(rest)
        if self._sender is None:
            self._say(b"503 5.5.1 Need MAIL first\r\n")
        elif found is None or found[1].upper() != "TO" or not found[2]:
            self._say(b"501 5.5.4 Syntax: RCPT TO:<address>\r\n")
        elif problem := self._check_params(found[3] or ""):
            self._say(problem)
        else:
            self._answer("rcpt", (found[2],), RCPT_OK, lambda: self._add_recipient(found[2], found[3] or ""))

    def _add_recipient(self, address: str, params: str) -> None:
        # One string for all the messages to an address: a sink holds many.
        self._recipients.append(sys.intern(address))
        self._rcpt_params.append(sys.intern(params))

    def _check_params(self, params: str) -> bytes:
        for param in params.split():
            key, _, value = param.partition("=")
            key = key.upper()
            known = self._manners.credentials is not None if key == "AUTH" else _FEATURE_OF.get(key) in self._manners.features
            if not known:
                return b"555 5.5.4 Parameter not recognised\r\n"
            if key == "SIZE" and (not value.isdigit() or int(value) > self._manners.max_size):
                return b"552 5.3.4 Message too big\r\n" if value.isdigit() else b"501 5.5.4 SIZE is a number\r\n"
        return b""

    def _on_data(self, rest: str) -> None:
        if rest:
            self._say(b"501 5.5.4 DATA takes no parameter\r\n")
        elif self._sender is None or not self._recipients:
            self._say(b"503 5.5.1 No valid recipients\r\n")
        else:
            self._answer("data", self._recipients, DATA_OK, self._begin_data)

    def _begin_data(self) -> None:
        self._in_data, self._scanned = True, 0

    def _on_rset(self, _: str) -> None:
        self._answer("rset", (), OK, self._reset)

    def _on_quit(self, _: str) -> None:
        self._answer("quit", (), BYE, self._leave)

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
        if end > self._manners.max_size:
            self._say(b"552 5.3.4 Message too big\r\n")
            self._reset()
            return True
        self._pending = self._record(unstuff(wire))
        number = self._sink.intake.answered + 1
        recipients, sender = self._recipients, self._sender
        self._reset()
        self._answer("dot", recipients, b"250 2.0.0 Ok: queued as %d\r\n" % number, self._accept, sender)
        return True

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

    def _begin_tls(self) -> None:
        self._is_held = True
        self._buffer.clear()
        self._transport.pause_reading()
        self._handshake = asyncio.get_running_loop().create_task(self._shake_hands())

    async def _shake_hands(self) -> None:
        assert self._manners.certificate is not None
        loop = asyncio.get_running_loop()
        try:
            secured = await loop.start_tls(self._transport, self, self._manners.certificate, server_side=True)
        except (OSError, asyncio.CancelledError):
            secured = None
        if secured is None:
            self._transport.abort()
            self.connection_lost(None)  # which nobody else calls during a handshake
            return
        self._transport = secured
        self._is_held, self._is_secure, self._helo, self._user = False, True, "", ""
        self._reset()
        self._work()

    def _on_auth(self, rest: str) -> None:
        mechanism, _, initial = rest.partition(" ")
        if self._manners.credentials is None or self._user or self._sender is not None:
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
            self._say(b"504 5.5.4 Mechanism not known\r\n")

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
        if not user or (self._manners.credentials or {}).get(user) != password:
            self._say(b"535 5.7.8 Authentication credentials invalid\r\n")
        else:
            self._answer("auth", (user,), AUTH_OK, lambda: self._logged_in(user))

    def _logged_in(self, user: str) -> None:
        self._user = sys.intern(user)


def _decode(line: bytes) -> str:
    """What base64 says, "" for what is none."""
    try:
        return base64.b64decode(line, validate=True).decode("utf-8", "replace")
    except binascii.Error:
        return ""
