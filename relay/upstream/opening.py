"""How a session with a smarthost is opened: connection, greeting, TLS, EHLO, login; aiosmtplib speaks, and we hold the socket.

Promises:
- What is dialled is what the guard has looked at; what the certificate must bear is the name, never the address it led to.
- TLS that was offered, or asked for, and fails is never given up for a session in clear (RFC 8314 section 3.3); a login goes in clear only
  where TLS was renounced.
- One mechanism is tried, once, and only if it is offered.
- Who gets no session is told why twice: in the verdict, for the sender of a message, without a name or an address; and in words for
  whoever set the smarthost up. Neither has a secret in it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import cast

import aiosmtplib

from relay.upstream.fault import NoSession, Stage, login_in_clear, of_error, unoffered_login, unoffered_tls, unsendable_login
from relay.upstream.guard import Forbidden, Guard
from relay.upstream.resumption import ResumingContext
from relay.upstream.route import Target
from relay.upstream.smarthost import Smarthost

__all__ = ["NoSession", "Opening", "connect", "permit"]


async def connect(target: Target, context: ssl.SSLContext | None, hostname: str, guard: Guard | None = None) -> Smarthost:
    """Open a session; raises NoSession. Without a guard, one that opens nothing."""
    return Smarthost(await Opening(target, context, hostname, guard or Guard()).open())


def permit(target: Target, guard: Guard) -> None:
    """See that a smarthost may be dialled at all, before anything is prepared for it; raises NoSession."""
    try:
        guard.check(target)
    except Forbidden as error:
        raise of_error(error, "guard", target) from None


class Opening:
    """One session, while it is being opened."""

    def __init__(self, target: Target, context: ssl.SSLContext | None, hostname: str, guard: Guard) -> None:
        self._target = target
        self._context = context
        self._hostname = hostname
        self._guard = guard
        self.stage: Stage = "dns"
        """How far it came."""

    async def open(self) -> aiosmtplib.SMTP:
        """A client that is connected, secured, greeted and logged in; raises NoSession."""
        try:
            return await self._open()
        except NoSession as none:
            if none.stage != "tls" or not isinstance(self._context, ResumingContext):
                raise
            # It may be the session that was offered which it does not like: it has no other way to say so. Time that is up is up.
            if not self._context.forget() or none.code == "ETIMEDOUT":
                raise
        return await self._open()

    async def _open(self) -> aiosmtplib.SMTP:
        client: aiosmtplib.SMTP | None = None
        try:
            client = self._client(await self._dial())
            await self._greet(client)
            if self._target.security in ("opportunistic", "starttls"):
                await self._upgrade(client)
            self._keep_session(client)
            self.stage = "login"
            if self._target.username:
                await self._login(client)
            return client
        except BaseException as error:
            if client is not None:
                if client.transport is not None:
                    # In TLS, who only closes waits up to 30 s for the other side's farewell.
                    cast(asyncio.WriteTransport, client.transport).abort()
                client.close()
            if isinstance(error, OSError | ValueError | aiosmtplib.SMTPException | Forbidden):
                raise of_error(error, self.stage, self._target) from None
            raise

    # -- the connection ------------------------------------------------------------------------------------------------------

    async def _dial(self) -> socket.socket:
        """A connection to the first address that takes it; each has its share of the time that is left."""
        self.stage = "dns"
        loop = asyncio.get_running_loop()
        until = loop.time() + self._target.connect_timeout
        async with asyncio.timeout_at(until):
            addresses = await self._guard.addresses(self._target)
        self.stage = "connect"
        failure: OSError = OSError("no address")
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            try:
                async with asyncio.timeout((until - loop.time()) / left):
                    return await _reach(address, self._target.port)
            except OSError as error:  # TimeoutError is one
                failure = error
        raise failure

    def _client(self, sock: socket.socket) -> aiosmtplib.SMTP:
        """The client of a connection; raises ValueError where we have no name that can be sent."""
        is_implicit = self._target.security == "tls"
        try:
            return aiosmtplib.SMTP(
                hostname=self._target.server_name or self._target.host, sock=sock, local_hostname=self._target.name or self._hostname,
                timeout=self._target.timeout, tls_context=self._context, use_tls=is_implicit, start_tls=False,
            )  # fmt: skip
        except BaseException:
            sock.close()
            raise

    async def _greet(self, client: aiosmtplib.SMTP) -> None:
        """The TLS that comes first, the greeting, EHLO; raises SMTPException."""
        is_implicit = self._target.security == "tls"
        self.stage = "tls" if is_implicit else "greeting"
        try:
            await client.connect(timeout=self._target.greeting_timeout)
        except aiosmtplib.SMTPException as error:
            # aiosmtplib makes one error of a handshake that failed and of a greeting that did; its own is the cause of the second only.
            if isinstance(error, aiosmtplib.SMTPResponseException) or isinstance(error.__cause__, aiosmtplib.SMTPException):
                self.stage = "greeting"
            raise
        self.stage = "greeting"
        await client.ehlo()

    async def _upgrade(self, client: aiosmtplib.SMTP) -> None:
        """STARTTLS, where it is offered; raises NoSession where it must be and is not, SMTPException where it fails."""
        target = self._target
        if not client.supports_extension("starttls"):
            if target.security == "starttls":
                raise unoffered_tls(target)
            if target.username:
                raise login_in_clear(target)
            return
        self.stage = "tls"
        await client.starttls(server_hostname=target.server_name or target.host)
        await client.ehlo()

    async def _login(self, client: aiosmtplib.SMTP) -> None:
        target = self._target
        offered = [name for name in ("plain", "login") if name in client.server_auth_methods and target.mechanism in ("", name)]
        if not offered:
            raise unoffered_login(target, client.get_transport_info("sslcontext") is not None)
        if "\0" in target.username + target.password:  # PLAIN puts one between the two (RFC 4616 section 2)
            raise unsendable_login(target)
        if offered[0] == "plain":
            await client.auth_plain(target.username, target.password)
        else:
            await client.auth_login(target.username, target.password)

    def _keep_session(self, client: aiosmtplib.SMTP) -> None:
        """Take the session up again next time: something was read within it by now."""
        secured = client.get_transport_info("ssl_object")
        if isinstance(self._context, ResumingContext) and secured is not None:
            self._context.keep(secured)


async def _reach(address: str, port: int) -> socket.socket:
    """A connected socket; raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # With its protocol named, asyncio sends what is written at once (TCP_NODELAY).
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock
