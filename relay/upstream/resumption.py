"""TLS sessions taken up again: a smarthost that knows us by its ticket needs no certificate, and no signature, to be known again.

Promises: a session is offered only to the name it was had from, within the context that checked it, and not beyond an hour, so that a
certificate that was withdrawn is looked at again; one that led to a failure is forgotten.

asyncio and uvloop have no word for it: they ask the context for the TLS object of a connection, and this context adds the session there.
"""

from __future__ import annotations

import ssl
import time

LONGEST = 3600.0
"""Seconds for which a session is offered; a ticket may live for a week (RFC 8446 section 4.6.1)."""


class ResumingContext(ssl.SSLContext):
    """A context of sessions with one smarthost."""

    _trust: ssl.SSLContext | None = None
    """The context that secures them, where it is not this one."""
    _kept: tuple[str | None, ssl.SSLSession, float] | None = None
    """Of whom, which, and until when, time.monotonic()."""

    @classmethod
    def within(cls, trust: ssl.SSLContext) -> ResumingContext:
        """One smarthost's part of a context that it shares with others: the sessions are its own, all else is the other's.

        By itself it trusts nobody.
        """
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context._trust = trust
        return context

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, server_side: bool = False,
        server_hostname: str | bytes | None = None, session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:  # fmt: skip
        """The TLS object of a connection, which offers the session that was kept."""
        if session is None and self._kept is not None and self._kept[0] == server_hostname and time.monotonic() < self._kept[2]:
            session = self._kept[1]
        wrap = super().wrap_bio if self._trust is None else self._trust.wrap_bio
        return wrap(incoming, outgoing, server_side, server_hostname, session)

    def keep(self, connection: ssl.SSLObject) -> None:
        """Offer this connection's session from now on. With TLS 1.3 it is there once something was read (RFC 8446 section 4.6.1)."""
        session = connection.session
        if session is not None and session.has_ticket and not (connection.session_reused and self._kept is None):
            until = self._kept[2] if connection.session_reused and self._kept else time.monotonic() + LONGEST
            self._kept = connection.server_hostname, session, until

    def forget(self) -> bool:
        """Offer none; whether one was offered before."""
        had, self._kept = self._kept is not None, None
        return had
