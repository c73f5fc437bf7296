"""The life of one connection: admitted, greeted, heard, answered, closed.

Promises: a connection over a limit costs one line; who errs, idles or is refused again and again is told 421; an exception that
nobody expected ends this connection alone, and is on record. A client that hangs up, and a relay that shuts down, interrupt no command
that runs: it ends, or is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

from relay.mail.reply import Reply
from relay.session.admission import plain_address
from relay.session.door import Door
from relay.session.house import House
from relay.session.intake import Intake
from relay.session.transaction import Gone, Silent, Transaction

TURN = 100
"""Commands after which other connections get their turn."""

UNKNOWN = Reply(500, "5.1", "Command not recognized")
TOO_LONG = Reply(500, "5.2", "Line too long")
TOO_MANY = Reply(421, "7.0", "Too many connections, try again later")
TOO_MANY_ERRORS = Reply(421, "7.0", "Too many errors, closing")
BAD_CHUNK = Reply(421, "5.4", "Syntax: BDAT size [LAST]; what follows cannot be told from commands, closing")
TOO_MANY_COMMANDS = Reply(421, "7.0", "Too many commands without a message, closing")
TIMED_OUT = Reply(421, "4.2", "Timeout waiting for the client, closing")
SHUTDOWN = Reply(421, "3.2", "Service shutting down")
UNASKED = Reply(421, "5.1", "Message sent without waiting for 354, closing")

OFTEN = frozenset({b"EHLO", b"MAIL", b"RCPT", b"DATA", b"RSET", b"NOOP", b"QUIT"})
"""Commands that are remembered; no secret is in any."""
MOST_HEARD = 1024
LONGEST_HEARD = 300
"""Lines remembered, and their octets: less than 1 MB in all."""

Answer = Reply | bytes | None
"""A reply, or one that is given all the time, as it is sent; None: it is said already."""
Method = Callable[[Any, bytes], Answer | Awaitable[Answer]]

_heard: dict[bytes | None, tuple[Method, bytes]] = {}
"""What lines say that are heard again and again, over all connections."""

_ERRORS = frozenset({500, 501, 502, 503, 504, 555})


class Connection(Intake):
    """One connection; what its commands do is left to the classes above it."""

    __slots__ = (
        "_address", "_commands", "_doom", "_door", "_errors", "_house", "_id", "_is_busy", "_is_closing", "_is_verdict",
        "_is_wary", "_peer", "_refusals", "_taken", "_task", "_transaction",
    )  # fmt: skip

    methods: ClassVar[Mapping[bytes, Method]]

    def __init__(self, house: House, door: Door, peer: tuple[str, int] | None = None) -> None:
        """`peer` is the client where a balancer stands between."""
        super().__init__(asyncio.get_running_loop(), house.rules, house.budget, house.outbox)
        self._house = house
        self._door = door
        self._peer = peer
        self._id = ""
        self._address = ""
        self._doom: Reply | None = None
        self._transaction: Transaction | None = None
        self._is_busy = self._is_closing = False
        self._is_wary = False
        """A message may follow that nobody asked for."""
        self._is_verdict = False
        """The reply is a message's, and whatever its code, it does not speak of this client's commands."""
        self._commands = self._errors = self._refusals = self._taken = 0

    # -- in and out ----------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        super().connection_made(transport)
        house = self._house
        peer = self._peer or transport.get_extra_info("peername")
        self._address = plain_address(peer[0]) if isinstance(peer, tuple) else "local"
        self._id = house.next_id()
        if refusal := SHUTDOWN if house.is_draining else None if house.admission.admit(self._address) else TOO_MANY:
            self._turn_away(refusal)
            return
        house.connections.add(self)
        house.journal.connected(self._id, self._address, self._door.port, self._door.tls == "implicit")
        self._latest = self._events.time() + self._rules.login_timeout
        if self._door.tls == "implicit":
            self.secure()
        else:
            self._out.append(b"220 %b ESMTP relay\r\n" % house.hostname)
        self._rest()

    def _turn_away(self, refusal: Reply) -> None:
        self._house.journal.turned_away(self._id, self._address, self._door.port, str(refusal))
        self._is_closing = True
        if self._door.tls != "implicit":
            self.say(refusal)
        super().finish()

    def drain(self) -> None:
        """The relay shuts down: say so now if nothing is under way, else after it."""
        self._doom = SHUTDOWN
        if self._is_busy:
            return
        self._is_closing = True
        if not self._is_shaking:  # else there is nothing that could be said
            self.say(SHUTDOWN)
        if self._task is None:
            self.finish()

    def cut(self) -> None:
        """The drain's patience is over."""
        if self._task is not None:
            self._events.call_soon(self._task.cancel)  # by then it has begun: one that has not would leave the connection as it is
        else:
            super().cut()

    @property
    def is_forwarding(self) -> bool:
        """Whether a message of this connection is on its way: what happens to it now must be heard to its end."""
        return self._transaction is not None and self._transaction.is_forwarding

    # -- the loop ------------------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Obey what has come in; what must be awaited for that gets a task."""
        try:
            awaited = self._obey()
        except Exception as error:
            self._fail(error)
            awaited = None
        if awaited is not None:
            self._await(awaited)
        elif self._at:
            self._rest()
        else:  # a piece of a line buys no time
            self._tidy()

    def _obey(self) -> Awaitable[Answer] | None:
        """Carry out commands and answer them, until there are no more, or until the answer to one must be awaited."""
        out, most, turns = self._out, self._rules.max_commands, 0
        while not self._is_closing and (end := self._buffer.find(b"\r\n", self._at)) >= 0:
            line = self._cut(end)
            if self._doom is not None:
                self._close(self._doom)
                break
            answer = self._answer(line)
            if isinstance(answer, bytes) and self._commands <= most:  # most of the time
                out.append(answer)
            elif answer is None or isinstance(answer, (Reply, bytes)):
                self._tell(answer)
            else:
                self._is_busy = True
                return answer
            turns += 1
            if turns == TURN:  # nor does anybody fill the memory with replies that are not read
                return self._give_way()
        return None

    async def _give_way(self) -> None:
        await self.flush()
        await asyncio.sleep(0)

    def _await(self, awaited: Awaitable[Answer]) -> None:
        self._task = self._events.create_task(self._see_to(awaited))
        self._house.tasks.add(self._task)

    async def _see_to(self, awaited: Awaitable[Answer] | None) -> None:
        """Await the answer to a command, and obey those behind it."""
        try:
            while awaited is not None:
                answer = await awaited
                self._is_busy = False
                self._tell(answer)
                if self._doom is SHUTDOWN and not self.unread and not self._is_closing:
                    self._close(SHUTDOWN)
                awaited = self._obey()
        except Silent:
            self._fall_silent()
        except asyncio.CancelledError:
            self._is_closing = True
            self.leave(SHUTDOWN)  # the drain's patience is over
            raise
        except Gone:
            self._is_closing = True
        except Exception as error:
            self._fail(error)
        finally:
            self._house.tasks.discard(self._task)
            self._task, self._is_busy = None, False
            self._waiter = None  # which still has the message
            self._rest()

    def _rest(self) -> None:
        """All that has come in is obeyed: wait for more, or close."""
        if self._is_closing or self._is_lost or self._is_half_closed:
            self.finish()
            return
        self._tidy()
        if self._is_clogged:
            self._await(self._unclog())
        else:
            self._listen(self._events.time() + self._rules.command_timeout)

    def _fall_silent(self) -> None:
        """The client has let its deadline pass."""
        if self._is_closing or self._is_shaking:
            self._transport.abort()  # it has been told already, and does not read; or there is nothing that could be said
        else:
            self._is_closing = True
            self.leave(TIMED_OUT)
        if self._task is None:
            self.finish()

    def _fail(self, error: Exception) -> None:
        """What nobody expected is caught and told of here, and nowhere else."""
        self._house.journal.bug(self._id, error)
        self._close(Reply(421, "3.0", "Internal error, closing"))

    def finish(self) -> None:
        """Close the connection, and take it off the books."""
        if self._is_over:
            return
        self._is_closing = True
        self._house.connections.discard(self)
        self._house.admission.leave(self._address)
        self._house.journal.disconnected(self._id, self._taken, self._refusals)
        super().finish()

    def secure(self) -> None:
        """Start TLS with the certificate in force now."""
        assert self._door.context is not None
        self.start_tls(self._door.context())

    def _on_secured(self) -> None:
        super()._on_secured()
        if self._door.tls == "implicit":
            self._out.append(b"220 %b ESMTP relay\r\n" % self._house.hostname)
        self._rest()

    def _answer(self, line: bytes | None) -> Answer | Awaitable[Answer]:
        """Carry out one command; most need not be awaited."""
        self._commands += 1
        said = _heard.get(line) or self._hear(line)
        if said is None:
            return self._unheard(TOO_LONG if line is None else BAD_CHUNK if line[:4].upper() == b"BDAT" else UNKNOWN)
        self._is_wary = False
        return said[0](self, said[1])

    def _hear(self, line: bytes | None) -> tuple[Method, bytes] | None:
        """What carries a command out, and its argument; None for what is no command, or too long."""
        if line is None:
            return None
        # RFC 5321 section 4.1.1: white space at the end is borne with.
        verb, _, argument = line.rstrip(b" \t").partition(b" ")
        verb = verb.upper()
        method = self.methods.get(verb)
        # An octet is looked for by its number: as bytes it would first be tried as a number, in vain, which takes ten times as long.
        if method is None or 10 in line or 13 in line or 0 in line:
            return None
        if verb in OFTEN and len(line) <= LONGEST_HEARD:
            if len(_heard) == MOST_HEARD:
                _heard.clear()
            _heard[line] = method, argument
        return method, argument

    def _unheard(self, reply: Reply) -> Reply:
        """What is said to a line that is no command."""
        is_wary, self._is_wary = self._is_wary, False
        return UNASKED if is_wary else reply

    def _tell(self, answer: Answer) -> None:
        """Say the reply to a command; what has gone on for too long ends the connection instead."""
        is_verdict, self._is_verdict = self._is_verdict, False
        if answer is None:
            return
        if not is_verdict and (reply := self._patience_ends(answer)):
            self._close(reply)
        elif isinstance(answer, bytes):
            self._out.append(answer)
        elif answer.code == 421:
            self._close(answer)
        else:
            self.say(answer)

    def _patience_ends(self, answer: Reply | bytes) -> Reply | None:
        """Whether the connection has gone on for too long with errors, or without a message; what is said then."""
        if isinstance(answer, Reply) and answer.code in _ERRORS:
            self._errors += 1
            if self._errors > self._rules.max_errors and self._commands <= self._rules.max_commands:
                return TOO_MANY_ERRORS
        return TOO_MANY_COMMANDS if self._commands > self._rules.max_commands else None

    def _close(self, reply: Reply) -> None:
        """Say a last reply."""
        self._is_closing = True
        self.say(reply)
