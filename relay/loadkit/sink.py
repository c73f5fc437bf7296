"""A scripted smarthost on a real socket.

Promises: it speaks SMTP as a correct server does, except where its script says otherwise; what it received is on record before its
reply leaves. The script may be swapped while it runs. What the script can say is left to `script`, one connection to `conversation`.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

from relay.loadkit.allowance import Allowance, Books
from relay.loadkit.authority import Authority
from relay.loadkit.conversation import Conversation
from relay.loadkit.rationed import Rationed
from relay.loadkit.received import Intake, Received
from relay.loadkit.script import Flaw, Script
from relay.loadkit.scripted import Scripted

FEATURES = frozenset({"PIPELINING", "8BITMIME", "SIZE", "DSN", "ENHANCEDSTATUSCODES", "SMTPUTF8", "CHUNKING"})


@dataclass(frozen=True, slots=True)
class Manners:
    """What a sink offers and asks for, beside its script."""

    hostname: str = "sink.example"
    features: frozenset[str] = FEATURES
    max_size: int = 1 << 26
    tls: Literal["none", "starttls", "implicit"] = "none"
    certificate: ssl.SSLContext | None = None
    credentials: Mapping[str, str] | None = None
    """Passwords by user; given, AUTH is required."""
    is_open: bool = False
    """AUTH is required, and any user may come with any password."""
    keep: bool = False
    """Keep the content of messages."""
    digest: bool = False
    """Keep the SHA-256 of messages."""

    @property
    def has_auth(self) -> bool:
        """Whether AUTH is offered and required."""
        return self.is_open or self.credentials is not None


class Sink:
    """A scripted smarthost; `port` 0 takes a free one."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        script: Script | None = None,
        seed: int = 0,
        hostname: str = "sink.example",
        *,
        without: Collection[str] = (),
        max_size: int = 1 << 26,
        tls: Literal["none", "starttls", "implicit"] = "none",
        certificate: ssl.SSLContext | None = None,
        credentials: Mapping[str, str] | None = None,
        allowance: Allowance | None = None,
        keep: bool = False,
        digest: bool = False,
        is_record: bool = True,
        on_message: Callable[[Received], None] | None = None,
    ) -> None:
        """With an `allowance` it keeps limits as this relay does, of each user or, without `credentials`, of whoever comes.

        `on_message` hears of each message once it is decided and before its reply leaves; what it writes is on record by then.
        Not `is_record`, it counts messages and keeps none: what runs for days needs no more memory than what runs for an hour.
        """
        unknown = {name.upper() for name in without} - FEATURES
        if unknown:
            raise ValueError(f"without: unknown {', '.join(sorted(unknown))}; known: {', '.join(sorted(FEATURES))}")
        if tls == "none" and certificate is not None:
            raise ValueError("tls: a certificate is of use with TLS only")
        features = FEATURES - {name.upper() for name in without}
        is_open = allowance is not None and credentials is None
        self.manners = Manners(hostname, features, max_size, tls, certificate, credentials, is_open, keep, digest)
        self.host = host
        self.port = port
        self.script = Script() if script is None else script
        self.random = Random(seed)  # noqa: S311 - repeatable on purpose
        self.intake = Intake(on_message, is_record=is_record)
        self.conversations: set[Scripted] = set()
        self.books = None if allowance is None else Books(allowance, lambda: time.time_ns() // 1000)
        self._server: asyncio.Server | None = None
        self._began = time.monotonic()
        self._authority: Authority | None = None
        self._contexts: dict[Flaw | None, ssl.SSLContext] = {} if certificate is None else {None: certificate}

    async def start(self) -> None:
        """Listen; `port` tells where."""
        loop = asyncio.get_running_loop()
        self._began = time.monotonic()
        kind = Conversation if self.books is None else Rationed
        self._server = await loop.create_server(lambda: kind(self), self.host, self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and abort what is open; messages that still wait for their reply are recorded as unanswered."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        while self.conversations:
            for conversation in tuple(self.conversations):
                conversation.abort()
            await asyncio.sleep(0)
        await server.wait_closed()

    @property
    def elapsed(self) -> float:
        """Seconds since it began to listen."""
        return time.monotonic() - self._began

    def rewind(self) -> None:
        """Count a script's seconds from now: from the beginning of a load, say."""
        self._began = time.monotonic()

    @property
    def authority(self) -> Authority:
        """Who issues the certificates that were not given to it: the flawed ones, and the good one where there is none."""
        if self._authority is None:
            self._authority = Authority([self.manners.hostname, "localhost", "127.0.0.1", "::1"])
        return self._authority

    def context(self, flaw: Flaw | None = None) -> ssl.SSLContext:
        """What a handshake is made with; made when first asked for."""
        if flaw not in self._contexts:
            self._contexts[flaw] = self.authority.context(flaw)
        return self._contexts[flaw]

    @property
    def messages(self) -> list[Received]:
        """What came, in order of decision; look at `answered`."""
        return self.intake.messages

    @property
    def replies(self) -> Counter[int]:
        """Replies sent, by code."""
        return self.intake.replies

    @property
    def ids(self) -> Counter[str]:
        """How often each id was answered 250."""
        return self.intake.ids

    @property
    def duplicates(self) -> int:
        """Answered messages beyond the first of their id."""
        return self.intake.duplicates

    @property
    def damaged(self) -> int:
        """Answered messages whose body is not what its X-Load-Sum says."""
        return self.intake.damaged
