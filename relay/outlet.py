"""The way out as configured: the relay's own route, the guard before owners' smarthosts, the dispatch, when to try again."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from relay.config import ConfigError
from relay.journal import Journal
from relay.retry.schedule import Schedule
from relay.store.client import Store
from relay.upstream.dispatch import Dispatch
from relay.upstream.guard import Guard
from relay.upstream.route import Choice, Route, Target, tls_context
from relay.upstream.terms import Terms

if TYPE_CHECKING:
    from relay.config.settings import Settings


def own_route(settings: Settings) -> Route:
    """The relay's own smarthost, and its alternates; raises ConfigError if a file of theirs cannot be read."""
    first = _own_target(settings)
    others = (
        Choice(replace(first, host=other.host, port=other.port or first.port), other.priority, other.weight)
        for other in settings.upstream.alternates
    )
    return Route("", (Choice(first), *others))


def _own_target(settings: Settings) -> Target:
    upstream = settings.upstream
    return Target(
        host=upstream.host, port=upstream.port, security=upstream.security, verify=upstream.verify, ca_file=upstream.ca_file,
        identity=_identity(upstream.certificate, upstream.key), username=upstream.username, password=upstream.password.get_secret_value(),
        timeout=upstream.timeout_seconds, connect_timeout=upstream.timeout_seconds, greeting_timeout=upstream.timeout_seconds,
        max_connections=upstream.max_connections, max_idle=upstream.max_idle_seconds, max_age=upstream.max_age_seconds,
        max_messages=upstream.max_messages_per_connection, max_rate=upstream.max_messages_per_second,
        down_seconds=upstream.down_seconds,
    )  # fmt: skip


def _identity(certificate: Path | None, key: Path | None) -> str:
    """Our certificate for the smarthost, and its key, as PEM text; "" where there is none."""
    text = ""
    for name, path in (("certificate", certificate), ("key", key)):
        try:
            text += path.read_text() if path else ""
        except OSError as error:
            raise ConfigError(f"upstream.{name}: {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"upstream.{name}: {path}: not PEM") from None
    return text


def check_outlet(settings: Settings) -> None:
    """See that the certificates of the way out can be used; raises ConfigError."""
    target = own_route(settings).choices[0].target
    try:
        tls_context(replace(target, identity=""))
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"upstream.ca_file: {settings.upstream.ca_file}: {error.strerror or 'not PEM'}") from None
    try:
        tls_context(target)
    except ssl.SSLError:
        raise ConfigError(f"upstream.certificate: {settings.upstream.certificate}: not a certificate with its key, as PEM") from None


def open_guard(settings: Settings) -> Guard:
    """Where owners' smarthosts may be."""
    return Guard(settings.guard.allow_networks, settings.guard.allow_ports)


def open_dispatch(settings: Settings, journal: Journal, store: Store, share: Callable[[Target], Target]) -> Dispatch:
    """Every smarthost that this process sends to; `share` says what of a smarthost's sessions are this process's."""

    def tell(name: str, host: str, text: str) -> None:
        if name == "smarthost_down":
            journal.smarthost_down(host, text)
        else:
            journal.smarthost_up(host)

    return Dispatch(settings.smtp.hostname, open_guard(settings), store, share, tell)


def worker_share(settings: Settings, target: Target) -> Target:
    """What of a smarthost's sessions is one worker's: what an owner allows is for this node, what the operator allows is for a process.

    All processes together have no more than the owner allows, but one each.
    """
    if not target.is_guarded:
        return target
    return replace(target, max_connections=max(1, (target.max_connections - 1) // settings.smtp.processes))


def retry_share(settings: Settings, target: Target) -> Target:
    """What of them is the retry process's: what the workers leave."""
    most = settings.retry.max_connections
    if target.is_guarded:
        left = target.max_connections - settings.smtp.processes * worker_share(settings, target).max_connections
        most = min(most, max(1, left))
    return replace(target, max_connections=most)


def terms(settings: Settings) -> Terms:
    """How a message is forwarded while its client waits."""
    is_spooling = settings.upstream.when_unavailable == "spool"
    patience = settings.retry.doubt_seconds if is_spooling else 0.0
    return Terms(settings.upstream.forward_deadline_seconds, is_split=is_spooling, patience=patience)


def retry_schedule(settings: Settings) -> Schedule:
    """When spooled mail is tried again."""
    retry = settings.retry
    return Schedule(
        first=retry.first_wait_seconds, longest=retry.longest_wait_seconds, factor=retry.factor, jitter=retry.jitter,
        expire=retry.expire_seconds, warn_after=retry.warn_after_seconds,
    )  # fmt: skip
