"""The protocol: the commands of one connection (RFC 5321, 6409, 3207, 4954), in the engine's loop.

Promises: nobody gets to MAIL without AUTH, and nobody is offered AUTH where the password would travel in clear unless the operator
said so; every reply but the greeting and EHLO's carries an enhanced code; who errs or is refused again and again is told 421.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from relay.accounts.user import User
from relay.mail.envelope import Envelope, Recipient
from relay.mail.reply import Reply
from relay.mail.trace import Hop
from relay.session import auth
from relay.session.capture import Capture
from relay.session.engine import Engine
from relay.session.grammar import Sender, parse_mail, parse_rcpt, same_mailbox
from relay.session.house import Door, House
from relay.session.transaction import CLOSING, Gone, Transaction

MAX_ERRORS = 20
MAX_AUTH_FAILURES = 5
TURN = 100
"""Commands after which other connections get their turn."""

OK = Reply(250, "0.0", "OK")
UNKNOWN = Reply(500, "5.1", "Command not recognized")
TOO_LONG = Reply(500, "5.2", "Line too long")
NO_ARGUMENT = Reply(501, "5.4", "No argument allowed")
TIMED_OUT = Reply(421, "4.2", "Timeout waiting for the client, closing")
SHUTDOWN = Reply(421, "3.2", "Service shutting down")
BUG = Reply(451, "3.0", "Internal error, try again later")
UNASKED = Reply(421, "5.1", "Message sent without waiting for 354, closing")

Answer = Reply | None
Method = Callable[["Protocol", bytes], Answer | Awaitable[Answer]]

_HELO_LEFT_OUT = frozenset(b'()<>@,;\\"')


class Protocol(Engine):
    """One connection."""

    def __init__(self, house: House, door: Door) -> None:
        super().__init__(asyncio.get_running_loop(), house.rules.command_timeout)
        self._house = house
        self._door = door
        self.is_tls = door.tls == "implicit"
        self._id = ""
        self._address = ""
        self._helo = ""
        self._is_esmtp = False
        self._user: User | None = None
        self._sender: Sender | None = None
        self._recipients: list[Recipient] = []
        self._doom: Reply | None = None
        self._transaction: Transaction | None = None
        self._is_verdict = False
        self._is_busy = self._is_closing = self._is_asked_for = self._is_wary = False
        self._errors = self._auth_failures = self._refusals = self._taken = self._messages = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected, or its connection was secured."""
        super().connection_made(transport)
        if self._id:
            return
        peer = transport.get_extra_info("peername")
        self._address = peer[0] if isinstance(peer, tuple) else "local"
        self._id = self._house.next_id()
        self._house.connections.add(self)
        self._house.journal.connected(self._id, self._address, self._door.port, self.is_tls)
        self._task = self._events.create_task(self._converse())
        self._house.tasks.add(self._task)
        self._task.add_done_callback(self._house.tasks.discard)

    def drain(self) -> None:
        """The relay shuts down: say so now if nothing is under way, else after it."""
        self._doom = SHUTDOWN
        if not self._is_busy:
            self._is_closing = True
            self._transport.write(bytes(SHUTDOWN))
            self._transport.close()
            self._is_half_closed = True
            self._wake()

    def cut(self) -> None:
        """The drain's patience is over."""
        self._task.cancel()

    @property
    def is_forwarding(self) -> bool:
        """Whether a message of this connection is on its way: what happens to it now must be heard to its end."""
        return self._transaction is not None and self._transaction.is_forwarding

    # -- the loop ------------------------------------------------------------------------------------------------------------

    async def _converse(self) -> None:
        try:
            await self._welcome()
            turns = 0
            while not self._is_closing:
                await self._obey(await self.line())
                turns += 1
                if turns % TURN == 0:  # nor does anybody fill the memory with replies that are not read
                    await self.flush()
                    await asyncio.sleep(0)
        except TimeoutError:
            self.leave(TIMED_OUT)
        except asyncio.CancelledError:
            self.leave(SHUTDOWN)  # the drain's patience is over
            raise
        except Gone:
            pass
        except Exception as error:
            # What nobody expected is caught here and nowhere else.
            self._house.journal.bug(self._id, error)
            await self._close(Reply(421, "3.0", "Internal error, closing"))
        finally:
            self.finish()
            self._house.connections.discard(self)
            self._house.journal.disconnected(self._id, self._taken, self._refusals)

    async def _welcome(self) -> None:
        rules = self._house.rules
        if self._house.is_draining:
            await self._close(SHUTDOWN)
        elif len(self._house.connections) > rules.max_connections:
            await self._close(Reply(421, "7.0", "Too many connections, try again later"))
        else:
            self._out.append(f"220 {rules.hostname} ESMTP relay\r\n".encode("ascii"))

    async def _obey(self, line: bytes | None) -> None:
        if self._doom is not None:
            await self._close(self._doom)
            return
        self._is_busy, self._is_verdict = True, False
        reply = await self._answer(line)
        self._is_busy = False
        if reply is None:
            return
        if reply.code in (500, 501, 502, 503, 555) and not self._is_verdict:
            self._errors += 1
            if self._errors > MAX_ERRORS:
                reply = Reply(421, "7.0", "Too many errors, closing")
        if reply.code == 421:
            await self._close(reply)
        else:
            self.say(reply)
            if self._doom is SHUTDOWN and not self._buffer:
                await self._close(SHUTDOWN)

    async def _answer(self, line: bytes | None) -> Answer:
        is_wary, self._is_wary = self._is_wary, False
        if line is None:
            return UNASKED if is_wary else TOO_LONG
        verb, _, argument = line.partition(b" ")
        method = _METHODS.get(verb.upper())
        if method is None or b"\n" in line or b"\r" in line or b"\0" in line:
            return UNASKED if is_wary else UNKNOWN
        answer = method(self, argument)
        return answer if answer is None or isinstance(answer, Reply) else await answer

    async def _close(self, reply: Reply) -> None:
        self._is_closing = True
        self.say(reply)
        try:
            await self.flush()
        except (Gone, TimeoutError):
            self._transport.abort()

    # -- greeting and TLS ----------------------------------------------------------------------------------------------------

    def _cmd_ehlo(self, argument: bytes) -> Answer:
        return self._greet(argument, True)

    def _cmd_helo(self, argument: bytes) -> Answer:
        return self._greet(argument, False)

    def _greet(self, argument: bytes, is_esmtp: bool) -> Answer:
        name = argument.strip(b" ")
        if not 0 < len(name) <= 255 or any(c <= 32 or c > 126 or c in _HELO_LEFT_OUT for c in name):
            return Reply(501, "5.4", "Syntax: EHLO hostname")
        self._helo = name.decode("ascii")
        self._is_esmtp = is_esmtp
        self._reset()
        hostname = self._house.rules.hostname
        lines = [f"{hostname} greets {self._helo}"]
        if is_esmtp:
            lines += ["PIPELINING", f"SIZE {self._house.rules.max_message_bytes}", "8BITMIME", "DSN", "ENHANCEDSTATUSCODES"]
            if self._door.tls == "starttls" and not self.is_tls:
                lines.append("STARTTLS")
            if self._is_safe_for_passwords():
                lines.append("AUTH " + " ".join(auth.MECHANISMS))
        text = "".join(f"250-{line}\r\n" for line in lines[:-1]) + f"250 {lines[-1]}\r\n"
        self._out.append(text.encode("ascii"))
        return None

    async def _cmd_starttls(self, argument: bytes) -> Answer:
        if argument:
            return NO_ARGUMENT
        if self.is_tls:
            return Reply(503, "5.1", "TLS is already active")
        if self._door.tls != "starttls" or self._door.context is None:
            return Reply(502, "5.1", "STARTTLS is not offered here")
        self.say(Reply(220, "0.0", "Ready to start TLS"))
        await self.start_tls(self._door.context)
        self._helo, self._is_esmtp, self._user = "", False, None
        self._reset()
        return None

    def _is_safe_for_passwords(self) -> bool:
        return self.is_tls or self._door.auth_without_tls

    # -- AUTH ----------------------------------------------------------------------------------------------------------------

    async def _cmd_auth(self, argument: bytes) -> Answer:
        mechanism, _, initial = argument.partition(b" ")
        name = mechanism.decode("ascii", "replace").upper()
        if refusal := self._may_not_auth(name):
            return refusal
        await self.flush()
        claim = await auth.exchange(self, name, initial.strip(b" ") if initial else None)
        if isinstance(claim, Reply):
            return claim
        answer = await auth.verify(self._house, self._id, self._address, name, claim)
        if isinstance(answer, User):
            self._user = answer
            return auth.ACCEPTED
        self._auth_failures += 1
        if self._auth_failures >= MAX_AUTH_FAILURES:
            self.say(answer)
            return Reply(421, "7.0", "Too many failed attempts, closing")
        return answer

    def _may_not_auth(self, mechanism: str) -> Reply | None:
        if not self._is_esmtp:
            return Reply(503, "5.1", "EHLO first")
        if self._user is not None:
            return Reply(503, "5.1", "Already authenticated")
        if self._sender is not None:
            return Reply(503, "5.1", "AUTH is not permitted during a mail transaction")
        if not mechanism:
            return Reply(501, "5.4", "Syntax: AUTH mechanism [initial-response]")
        if not self._is_safe_for_passwords():
            return Reply(538, "7.11", "Encryption required for authentication")
        if mechanism not in auth.MECHANISMS:
            return Reply(504, "5.4", "Authentication mechanism not supported")
        return None

    async def ask(self, challenge: bytes) -> bytes | None:
        """Send `334 challenge` and return the line that answers it, None if it was too long."""
        self._out.append(b"334 %b\r\n" % challenge)
        return await self.line()

    # -- the transaction -----------------------------------------------------------------------------------------------------

    def _cmd_mail(self, argument: bytes) -> Answer:
        if not self._helo:
            return Reply(503, "5.1", "EHLO first")
        if self._user is None:
            is_late = self._door.tls == "starttls" and not self._is_safe_for_passwords()
            return Reply(530, "7.0", "Must issue a STARTTLS command first" if is_late else "Authentication required")
        if self._sender is not None:
            return Reply(503, "5.1", "A transaction is already under way")
        sender = parse_mail(argument, self._house.rules.max_message_bytes)
        if isinstance(sender, Reply):
            return sender
        self._sender = sender
        return Reply(250, "1.0", "Sender OK")

    def _cmd_rcpt(self, argument: bytes) -> Answer:
        if self._sender is None:
            return Reply(503, "5.1", "MAIL first")
        recipient = parse_rcpt(argument)
        if isinstance(recipient, Reply):
            return recipient
        if any(same_mailbox(recipient, known) for known in self._recipients):
            return Reply(250, "1.5", "Recipient OK, named before")
        if len(self._recipients) >= self._house.rules.max_recipients:
            return Reply(452, "5.3", f"Too many recipients, the limit is {self._house.rules.max_recipients}")
        self._recipients.append(recipient)
        return Reply(250, "1.5", "Recipient OK")

    async def _cmd_data(self, argument: bytes) -> Answer:
        self._is_asked_for = False
        reply = await self._take_message(argument)
        if self._is_asked_for or reply.code == 421:
            return reply
        # DATA is the last of its group (RFC 2920 section 3.1). What has come behind one that is refused, or begins with no command,
        # is a message sent without waiting for 354: who wrote it must not speak here in the name of the user who sends it.
        if self._buffer:
            self.say(reply)
            return UNASKED
        self._is_wary = True
        return reply

    async def _take_message(self, argument: bytes) -> Reply:
        if argument:
            return NO_ARGUMENT
        if self._sender is None:
            return Reply(503, "5.1", "MAIL first")
        if not self._recipients:
            return Reply(503, "5.1", "No valid recipients")
        transaction = self._transaction = self._begin(self._sender)
        self._reset()
        try:
            reply = await transaction.run(self)
            self._is_verdict = True  # whatever its code, it does not speak of this client's commands
        except (Gone, TimeoutError):
            raise
        except Exception as error:  # a bug: the client keeps its message
            self._house.journal.bug(transaction.id, error)
            return BUG
        finally:
            self._transaction = None
        self._taken += transaction.is_taken
        return self._heed(transaction, reply)

    def _begin(self, sender: Sender) -> Transaction:
        assert self._user is not None
        envelope = Envelope(sender.address, tuple(self._recipients), sender.body, sender.ret, sender.envid)
        self._messages += 1
        protocol = "ESMTPSA" if self.is_tls else "ESMTPA"
        hop = Hop(self._helo, self._address, self._house.rules.hostname, protocol)
        return Transaction(self._house, self._user, envelope, f"{self._id}.{self._messages}", hop)

    def _heed(self, transaction: Transaction, reply: Reply) -> Reply:
        """What a refusal means for the connection: a changed account closes it, limits met again and again close it too."""
        match transaction.refused_for:
            case None | "store":
                return reply
            case "disabled" | "unknown" | "stale":
                self._doom = self._doom or CLOSING
                return reply
        self._refusals += 1
        if self._refusals >= self._house.rules.max_refusals:
            return Reply(421, "7.0", reply.text)
        return reply

    async def upload(self) -> Capture:
        """Say 354 and read the message to its end; raises Gone or TimeoutError."""
        self._is_asked_for = True
        rules = self._house.rules
        return await self.message(rules.max_message_bytes, rules.data_deadline)

    def _reset(self) -> None:
        self._sender = None
        self._recipients = []

    # -- the rest ------------------------------------------------------------------------------------------------------------

    def _cmd_rset(self, argument: bytes) -> Answer:
        if argument:
            return NO_ARGUMENT
        self._reset()
        return OK

    def _cmd_noop(self, argument: bytes) -> Answer:
        return OK

    def _cmd_vrfy(self, argument: bytes) -> Answer:
        if self._user is None:
            return Reply(530, "7.0", "Authentication required")
        return Reply(252, "5.0", "Cannot VRFY user, but will accept message and attempt delivery")

    def _cmd_help(self, argument: bytes) -> Answer:
        return Reply(214, "0.0", "See RFC 5321 and RFC 6409")

    def _cmd_refused(self, argument: bytes) -> Answer:
        return Reply(502, "5.1", "Command not implemented")

    async def _cmd_quit(self, argument: bytes) -> Answer:
        if argument:
            return NO_ARGUMENT
        await self._close(Reply(221, "0.0", "Bye"))
        return None


_METHODS: dict[bytes, Method] = {
    b"EHLO": Protocol._cmd_ehlo, b"HELO": Protocol._cmd_helo, b"STARTTLS": Protocol._cmd_starttls, b"AUTH": Protocol._cmd_auth,
    b"MAIL": Protocol._cmd_mail, b"RCPT": Protocol._cmd_rcpt, b"DATA": Protocol._cmd_data, b"RSET": Protocol._cmd_rset,
    b"NOOP": Protocol._cmd_noop, b"VRFY": Protocol._cmd_vrfy, b"HELP": Protocol._cmd_help, b"QUIT": Protocol._cmd_quit,
    b"EXPN": Protocol._cmd_refused, b"ETRN": Protocol._cmd_refused, b"TURN": Protocol._cmd_refused,
}  # fmt: skip
