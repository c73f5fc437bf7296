"""The entrance: EHLO, STARTTLS and AUTH, by which a client says who it is (RFC 5321, 3207, 4954).

Promises: nobody is offered AUTH where the password would travel in clear unless the operator said so; what is offered is true from end
to end; after TLS begins, and for another user, everything begins anew.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache

from relay.accounts.user import User
from relay.mail.reply import Reply
from relay.session import auth
from relay.session.connection import TOO_MANY_COMMANDS, Answer, Connection
from relay.session.door import Door
from relay.session.house import House

MAX_AUTH_FAILURES = 5
"""Wrong credentials on one connection; RFC 4954 section 4 asks for three at least."""

OK = bytes(Reply(250, "0.0", "OK"))
NO_ARGUMENT = Reply(501, "5.4", "No argument allowed")
AUTHENTICATE = Reply(530, "7.0", "Authentication required")
SECURE = Reply(530, "7.0", "Must issue a STARTTLS command first")
EHLO_FIRST = Reply(503, "5.1", "EHLO first")

_HOST_NAME = re.compile(rb'[^\x00-\x20\x7f-\xff()<>@,;\\"]{1,255}')


def host_name(argument: bytes) -> str | None:
    """What a client calls itself; None if it could break out of Received."""
    name = argument.strip(b" ")
    return name.decode("ascii") if _HOST_NAME.fullmatch(name) else None


@lru_cache(16)
def _offered(fixed: tuple[str, ...], has_starttls: bool, has_auth: bool) -> bytes:
    """What EHLO offers, as it is sent behind its first line."""
    lines = [*fixed, *(["STARTTLS"] if has_starttls else []), *([f"AUTH {' '.join(auth.MECHANISMS)}"] if has_auth else [])]
    return ("".join(f"250-{line}\r\n" for line in lines[:-1]) + f"250 {lines[-1]}\r\n").encode("ascii")


class Entrance(Connection):
    """A connection that learns who speaks."""

    __slots__ = ("_auth_failures", "_helo", "_is_esmtp", "_user")

    def __init__(self, house: House, door: Door, peer: tuple[str, int] | None = None) -> None:
        super().__init__(house, door, peer)
        self._helo = ""
        self._is_esmtp = False
        self._user: User | None = None
        self._auth_failures = 0

    def _reset(self) -> None:
        """Forget the transaction."""
        raise NotImplementedError

    def finish(self) -> None:
        """Close the connection, and take it off the books."""
        super().finish()
        self._forget_user()

    def _forget_user(self) -> None:
        if self._user is not None:
            if self._house.presence is not None:
                self._house.presence.leave(self._user.name)
            self._user = None
            self._latest = self._events.time() + self._rules.login_timeout

    def _cmd_ehlo(self, argument: bytes) -> Answer:
        return self._greet(argument, is_esmtp=True)

    def _cmd_helo(self, argument: bytes) -> Answer:
        return self._greet(argument, is_esmtp=False)

    def _greet(self, argument: bytes, *, is_esmtp: bool) -> Answer:
        if (name := host_name(argument)) is None:
            return Reply(501, "5.4", "Syntax: EHLO hostname")
        self._helo = name
        self._is_esmtp = is_esmtp
        self._reset()
        self._out.append(f"250{'-' if is_esmtp else ' '}{self._rules.hostname} greets {name}\r\n".encode("ascii"))
        if is_esmtp:  # what is offered on this connection as it is now
            has_starttls = self._door.tls == "starttls" and not self.is_tls
            self._out.append(_offered(self._house.offers, has_starttls, self._is_safe_for_passwords()))
        if self._commands > self._rules.max_commands:  # which is otherwise seen when a reply is told
            self._doom = self._doom or TOO_MANY_COMMANDS
        return None

    def _cmd_starttls(self, argument: bytes) -> Answer:
        if argument:
            return NO_ARGUMENT
        if self.is_tls:
            return Reply(503, "5.1", "TLS is already active")
        if self._door.tls != "starttls" or self._door.context is None:
            return Reply(502, "5.1", "STARTTLS is not offered here")
        self.say(Reply(220, "0.0", "Ready to start TLS"))
        self.secure()
        self._helo, self._is_esmtp = "", False
        self._forget_user()
        self._reset()
        return None

    def _is_safe_for_passwords(self) -> bool:
        return self.is_tls or self._door.auth_without_tls

    def _stranger(self) -> Reply:
        """What a client hears that has not logged in (RFC 4954 section 6, RFC 3207 section 4)."""
        return SECURE if self._door.tls == "starttls" and not self._is_safe_for_passwords() else AUTHENTICATE

    # -- AUTH ----------------------------------------------------------------------------------------------------------------

    async def _cmd_auth(self, argument: bytes) -> Answer:
        mechanism, _, initial = argument.partition(b" ")
        name = mechanism.decode("ascii", "replace").upper()
        if refusal := self._may_not_auth(name):
            return refusal
        self._outbox.send(self)
        claim = await auth.exchange(self, name, initial.strip(b" ") if initial else None)
        if isinstance(claim, Reply):
            return claim
        answer = await auth.verify(self._house, self._id, self._address, name, claim, self._auth_failures)
        if isinstance(answer, User):
            self._user = answer
            self._latest = math.inf
            return auth.ACCEPTED
        if answer.code == 421:
            return answer
        self._auth_failures += 1
        if self._auth_failures >= MAX_AUTH_FAILURES:
            self.say(answer)
            return Reply(421, "7.0", "Too many failed attempts, closing")
        return answer

    def _may_not_auth(self, mechanism: str) -> Reply | None:
        if not self._is_esmtp:
            return EHLO_FIRST
        if self._user is not None:  # so it is in a transaction too (RFC 4954 section 4): nobody begins one without AUTH
            return Reply(503, "5.1", "Already authenticated")
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
