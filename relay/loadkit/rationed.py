"""One connection of a sink that keeps limits: it speaks as this relay does, and refuses as it does, without a store or a smarthost.

Promises: what a client hears of a limit is made by the relay's own functions, at the same place: before 354, or after the first chunk. A
message holds its room from there to its reply; one that is refused, broken off or not answered is given back. The limits themselves are
left to `allowance`.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from relay.loadkit.conversation import Conversation, Words
from relay.loadkit.script import Action
from relay.mail import trace
from relay.mail.address import canonical
from relay.mail.reply import Reply
from relay.session import auth, connection, engine, entrance, protocol
from relay.session.capture import has_bare_newline
from relay.session.grammar import parse_bdat, parse_mail, parse_rcpt
from relay.session.house import Rules
from relay.session.refusal import refusal_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from relay.loadkit.sink import Sink

RULES = Rules("")
"""The relay's defaults: how many refusals, errors and commands one connection may have, and recipients one message."""
ERRORS = frozenset({b"500", b"501", b"502", b"503", b"504", b"555"})
"""What says that a command was wrong."""
NAMED_BEFORE = bytes(Reply(250, "1.5", "Recipient OK, named before"))


class Hold(NamedTuple):
    """Room that is held for one message."""

    user: str
    id: str
    recipients: int


class Asker:
    """Stands for the client in the relay's exchange of AUTH, which waits wherever a line has to come first."""

    async def ask(self, challenge: bytes) -> bytes | None:
        """Hand the challenge out, and be handed the line that answers it; None if it was too long."""
        return await _hand_out(challenge)


@types.coroutine
def _hand_out(challenge: bytes) -> Generator[bytes, bytes | None, bytes | None]:
    return (yield challenge)


def _octets(rest: str) -> bytes:
    """An argument as it came."""
    return rest.encode("utf-8", "surrogateescape")


class Rationed(Conversation):
    """One connection."""

    words: ClassVar[Words] = Words(
        ok=bytes(entrance.OK), mail_ok=bytes(protocol.SENDER_OK), rcpt_ok=bytes(protocol.RECIPIENT_OK), auth_ok=bytes(auth.ACCEPTED),
        unknown=bytes(connection.UNKNOWN), no_mail=bytes(protocol.MAIL_FIRST), no_recipients=bytes(protocol.NO_RECIPIENTS),
        no_login=bytes(entrance.AUTHENTICATE), wrong_login=bytes(auth.WRONG), bye=bytes(protocol.BYE),
        vrfy=bytes(Reply(252, "5.0", "Cannot VRFY user, but will accept message and attempt delivery")),
    )  # fmt: skip

    def __init__(self, sink: Sink) -> None:
        self._hold: Hold | None = None
        self._is_between_chunks = False
        super().__init__(sink)
        assert sink.books is not None
        self._books = sink.books
        self._number = 0
        self._serial = sink.intake.connections + 1
        self._refusals = 0
        self._refusal: Reply | None = None  # of a message in chunks, said when its first one is read
        self._is_doomed = False
        self._is_wary = False  # a message may follow that nobody asked for
        self._is_too_long = self._is_esmtp = False
        self._errors = self._count = self._failures = 0  # wrong commands, commands since the last message, wrong logins
        self._exchange: Coroutine[bytes, bytes | None, auth.Credentials | Reply] | None = None
        self._commands |= {
            b"HELP": lambda _: self._tell(Reply(214, "0.0", "See RFC 5321 and RFC 6409")), b"VRFY": self._on_vrfy,
            **dict.fromkeys((b"EXPN", b"ETRN", b"TURN", b"ATRN"), lambda _: self._tell(Reply(502, "5.1", "Command not implemented"))),
        }  # fmt: skip

    # -- what is said --------------------------------------------------------------------------------------------------------

    def _greeting(self) -> bytes:
        return f"220 {self._manners.hostname} ESMTP relay\r\n".encode("ascii")

    def _offers(self, name: str) -> list[str]:
        manners = self._manners
        order = ("PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "CHUNKING")
        lines = [f"{manners.hostname} greets {name}", *(feature for feature in order if feature in manners.features)]
        lines = [f"SIZE {manners.max_size}" if line == "SIZE" else line for line in lines]
        lines += [f"LIMITS RCPTMAX={RULES.max_recipients}", "HELP"]
        if self._may_log_in():
            return [*lines, "AUTH PLAIN LOGIN"]
        return [*lines, "STARTTLS"]

    def _may_log_in(self) -> bool:
        return self._manners.tls == "none" or self._is_secure

    def _taken(self, number: int) -> bytes:
        id = self._hold.id if self._hold is not None else ""
        return f"250 2.0.0 {id} Ok: queued as {number}\r\n".encode("ascii")

    # -- commands ------------------------------------------------------------------------------------------------------------

    def _tell(self, reply: Reply) -> None:
        self._say(bytes(reply))
        if reply.code == 421:
            self._leave()

    def _say(self, reply: bytes, is_verbatim: bool = False) -> None:
        if not is_verbatim and reply[:3] != b"421":  # the script's are no fault of the client's
            is_error = reply[:3] in ERRORS
            self._errors += is_error
            if self._count > RULES.max_commands or (is_error and self._errors > RULES.max_errors):
                reply = bytes(connection.TOO_MANY_COMMANDS if self._count > RULES.max_commands else connection.TOO_MANY_ERRORS)
                self._leave()
        super()._say(reply, is_verbatim)

    def _take_line(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > engine.MAX_LINE + 1:  # the last of them may be the CR of a line that is not too long
                self._is_too_long = True
                del self._buffer[:-1]
            return False
        if self._is_doomed:
            self._tell(protocol.TOO_MANY_REFUSALS)
            return False
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        is_too_long, self._is_too_long = self._is_too_long or end > engine.MAX_LINE, False
        if self._exchange is not None:
            self._go_on(None if is_too_long else line)
        else:
            self._count += 1
            self._unheard(connection.TOO_LONG) if is_too_long else self._obey(line)
        return True

    def _unheard(self, reply: Reply) -> None:
        """Answer a line that is no command."""
        is_wary, self._is_wary = self._is_wary, False
        self._tell(connection.UNASKED if is_wary else reply)

    def _obey(self, line: bytes) -> None:
        verb, _, argument = line.rstrip(b" \t").partition(b" ")
        verb = verb.upper()
        command = self._commands.get(verb)
        if command is None or 10 in line or 13 in line or 0 in line:
            self._unheard(connection.BAD_CHUNK if line[:4].upper() == b"BDAT" else connection.UNKNOWN)
            return
        self._is_wary = False
        if self._content is not None and verb in (b"MAIL", b"RCPT", b"DATA", b"AUTH", b"STARTTLS"):
            self._tell(protocol.IN_CHUNKS)
        elif argument and verb in (b"RSET", b"QUIT", b"STARTTLS"):
            self._tell(entrance.NO_ARGUMENT)
        elif verb in (b"EHLO", b"HELO"):
            name = entrance.host_name(argument)
            self._tell(Reply(501, "5.4", "Syntax: EHLO hostname")) if name is None else command(name)
        else:
            command(argument.decode("utf-8", "surrogateescape"))

    def _on_helo(self, name: str) -> None:
        usual = f"250 {self._manners.hostname} greets {name}\r\n".encode("ascii")
        self._answer("ehlo", (name,), usual, lambda: self._greeted(name, is_esmtp=False))

    def _greeted(self, name: str, is_esmtp: bool = True) -> None:
        super()._greeted(name)
        self._is_esmtp = is_esmtp

    def _on_vrfy(self, _: str) -> None:
        self._say(self.words.vrfy if self._user else self._stranger())

    def _stranger(self) -> bytes:
        """What a client hears that has not logged in."""
        return bytes(entrance.AUTHENTICATE if self._may_log_in() else entrance.SECURE)

    def _on_starttls(self, rest: str) -> None:
        if self._is_secure:
            self._tell(Reply(503, "5.1", "TLS is already active"))
        elif self._manners.tls != "starttls":
            self._tell(Reply(502, "5.1", "STARTTLS is not offered here"))
        else:
            self._answer("starttls", (), bytes(Reply(220, "0.0", "Ready to start TLS")), self._begin_tls)

    def _secured(self) -> None:
        self._is_esmtp = False
        super()._secured()

    # -- AUTH ----------------------------------------------------------------------------------------------------------------

    def _on_auth(self, rest: str) -> None:
        mechanism, _, initial = _octets(rest).partition(b" ")
        name = mechanism.decode("ascii", "replace").upper()
        if not self._is_esmtp:
            self._tell(entrance.EHLO_FIRST)
        elif self._user:
            self._tell(Reply(503, "5.1", "Already authenticated"))
        elif not name:
            self._tell(Reply(501, "5.4", "Syntax: AUTH mechanism [initial-response]"))
        elif not self._may_log_in():
            self._tell(Reply(538, "7.11", "Encryption required for authentication"))
        elif name not in auth.MECHANISMS:
            self._tell(Reply(504, "5.4", "Authentication mechanism not supported"))
        else:
            self._exchange = auth.exchange(Asker(), name, initial.strip(b" ") if initial else None)
            self._go_on(None)

    def _go_on(self, line: bytes | None) -> None:
        """Go on with the exchange of AUTH, whose next line this is."""
        assert self._exchange is not None
        try:
            challenge = self._exchange.send(line)
        except StopIteration as end:
            self._exchange = None
            self._tell(end.value) if isinstance(end.value, Reply) else self._verify_claim(end.value)
        else:
            self._say(b"334 %b\r\n" % challenge, is_verbatim=True)

    def _verify_claim(self, claim: auth.Credentials) -> None:
        self._failures += 1
        if claim.is_possible:
            self._verify(claim.name, claim.password)
        else:
            self._say(self.words.wrong_login)
        if not self._user and not self._is_held and self._failures >= entrance.MAX_AUTH_FAILURES:
            self._tell(Reply(421, "7.0", "Too many failed attempts, closing"))

    # -- the envelope --------------------------------------------------------------------------------------------------------

    def _on_mail(self, rest: str) -> None:
        if not self._helo:
            self._tell(entrance.EHLO_FIRST)
        elif not self._user:
            self._say(self._stranger())
        elif self._sender is not None:
            self._tell(Reply(503, "5.1", "A transaction is already under way"))
        elif isinstance(said := parse_mail(_octets(rest), self._manners.max_size), Reply):
            self._tell(said)
        else:
            sender = said.address
            self._answer("mail", (sender,), self.words.mail_ok, lambda: self._begin_mail(sender, rest.partition("> ")[2]), sender)

    def _on_rcpt(self, rest: str) -> None:
        if self._sender is None:
            self._say(self._unready())
            return
        recipient = parse_rcpt(_octets(rest), smtputf8="SMTPUTF8" in self._mail_params.upper().split())
        if isinstance(recipient, Reply):
            self._tell(recipient)
            return
        address = recipient.address
        self._count -= 1
        if len(self._recipients) < RULES.max_recipients or self._is_named(address):
            self._answer("rcpt", (address,), self._welcome(address), lambda: self._add_recipient(address, rest.partition("> ")[2]))
        else:
            self._tell(Reply(452, "5.3", f"Too many recipients, the limit is {RULES.max_recipients}"))

    def _unready(self) -> bytes:
        if self._sender is not None:
            return self.words.no_recipients
        return self._stranger() if self._helo and not self._user else self.words.no_mail

    def _is_named(self, address: str) -> bool:
        return canonical(address) in map(canonical, self._recipients)

    def _welcome(self, address: str) -> bytes:
        return NAMED_BEFORE if self._is_named(address) else self.words.rcpt_ok

    def _add_recipient(self, address: str, params: str) -> None:
        if not self._is_named(address):  # the relay counts and delivers each mailbox once
            super()._add_recipient(address, params)

    # -- the limits ----------------------------------------------------------------------------------------------------------

    def _on_data(self, rest: str) -> None:
        if rest:
            self._tell(entrance.NO_ARGUMENT)
        elif self._sender is None or not self._recipients:
            self._say(self._unready())
        elif (refusal := self._reserve()) is not None:
            self._tell(refusal)
        else:
            super()._on_data(rest)
            return
        # DATA is the last of its group (RFC 2920 section 3.1): what comes behind one that is refused is a message nobody asked for.
        if self._buffer and not self._is_ending:
            self._tell(connection.UNASKED)
        self._is_wary = True

    def _on_bdat(self, rest: str) -> None:
        chunk = parse_bdat(_octets(rest)) if "CHUNKING" in self._manners.features else None
        if chunk is None:  # how much of what follows is a chunk nobody knows
            self._tell(connection.BAD_CHUNK)
            return
        if self._sender is not None and self._recipients and self._content is None:
            self._refusal = self._reserve()
        self._chunk = chunk
        if not chunk[0]:
            self._take()  # nothing more need come for it

    def _too_big(self) -> bytes:
        return bytes(Reply(552, "3.4", f"Message exceeds the limit of {self._manners.max_size} octets"))

    def _objection(self, content: bytes) -> bytes:
        if objection := super()._objection(content):
            return objection
        if has_bare_newline(content):
            return bytes(Reply(550, "6.11", "Bare CR or LF in the message; lines end with CRLF (RFC 5321 section 2.3.8)"))
        header = trace.read_header(content, self._manners.hostname.encode("ascii"))
        if header.ours >= RULES.max_passes or header.received > trace.MAX_RECEIVED:
            return bytes(Reply(554, "4.6", "Mail loop: this message has passed here too often"))
        return b""

    def _take_chunk(self, size: int, is_last: bool) -> bool:
        if self._refusal is None:
            return super()._take_chunk(size, is_last)
        if len(self._buffer) < size:
            return False
        del self._buffer[:size]
        self._chunk = None
        refusal, self._refusal = self._refusal, None
        self._tell(refusal)
        return True

    def _reserve(self) -> Reply | None:
        """Hold room for the message; the reply that refuses it, where there is none."""
        self._number += 1
        self._count = 0
        id = f"s{self._serial}.{self._number}"
        refusal = self._books.reserve(self._user, id, len(self._recipients))
        if refusal is None:
            self._hold = Hold(self._user, id, len(self._recipients))
            return None
        self._reset()
        self._refusals += 1
        reply = refusal_reply(refusal, self._books.allowance.unit)
        if self._refusals < RULES.max_refusals:
            return reply
        if reply.code < 500:
            return Reply(421, "7.0", reply.text)
        self._is_doomed = True  # what is refused for good must not be heard as something to try again
        return reply

    def _keep_chunk(self, content: bytes, size: int) -> None:
        self._is_between_chunks = True
        super()._keep_chunk(content, size)
        self._is_between_chunks = False

    def _settle(self, end: Literal["taken", "rejected", "released"] = "released") -> None:
        if self._hold is not None:
            (user, id, count), self._hold = self._hold, None
            self._books.settle(user, id, count if end == "taken" else 0, count if end == "rejected" else 0)

    def _accept(self) -> None:
        self._settle("taken")
        self._errors = 0
        super()._accept()

    def _act(self, action: Action, usual: bytes, then: Callable[[], None] | None) -> None:
        is_dot = self._pending is not None
        super()._act(action, usual, then)
        if is_dot or (not self._in_data and self._content is None):  # the script said no, where something is held still
            is_for_good = action.reply[:1] == b"5" and not action.is_garbage and action.drop != "before"
            self._settle("rejected" if is_dot and is_for_good else "released")

    def _reset(self) -> None:
        super()._reset()
        if self._pending is None and not self._is_between_chunks:
            self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back what is held."""
        super().connection_lost(exc)
        self._settle()
