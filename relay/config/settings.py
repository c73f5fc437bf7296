"""Settings: what the relay is told, as frozen values.

Promises: an unknown key, a wrong type or a combination that would break a promise is refused with a text that names the key; nothing is
changed afterwards. Every key is described in config/relay.toml; where they are read from is in source.py.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator

from relay.config import LEASE_MARGIN
from relay.config.overlap import is_shared
from relay.mail.address import is_mailbox
from relay.store.link import Address
from relay.upstream.route import MIN_RATE

_HOSTNAME = r"^[A-Za-z0-9]([A-Za-z0-9.\-]{0,253}[A-Za-z0-9])?$"
_STORES = ("redis", "rediss", "unix", "redis+cluster")

_MANY = 2**31 - 1
"""What nothing that is counted comes to."""
_VAST = 2**53
"""What no number of octets comes to; each integer up to it is a float as well."""

Port = Annotated[int, Field(ge=0, le=65535)]
Dialled = Annotated[int, Field(ge=1, le=65535)]
"""A port of another host's."""
Seconds = Annotated[float, Field(gt=0, le=86400 * 30)]
Count = Annotated[int, Field(ge=1, le=_MANY)]


def _networks(given: tuple[str, ...]) -> tuple[str, ...]:
    """See that every text is an address or a network; raises ValueError."""
    for text in given:
        try:
            ipaddress.ip_network(text)
        except ValueError:
            raise ValueError(f"{text!r} is neither an address nor a network like 10.0.0.0/8") from None
    return given


def _host(given: str) -> str:
    """See that a text is a name that can be looked up, or an address; raises ValueError."""
    try:
        if not given or len(given) > 255 or not given.isprintable() or any(letter.isspace() for letter in given):
            raise ValueError
        given.encode("idna")  # which is what a look-up begins with
        if ":" in given:
            ipaddress.ip_address(given)
    except ValueError:
        raise ValueError(f"{given!a} is neither a name nor an address") from None
    return given


Host = Annotated[str, AfterValidator(_host)]


class Section(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, given: Any, about: ValidationInfo) -> Any:
        """Python takes true for 1, which nobody means."""
        items = given if isinstance(given, list | tuple) else (given,)
        if any(isinstance(item, bool) for item in items) and cls.model_fields[about.field_name or ""].annotation is not bool:
            raise ValueError("true or false is no value of it")
        return given


class Listen(Section):
    """[[smtp.listen]]: one SMTP listener."""

    address: Host = "127.0.0.1"
    port: Port = 2525
    tls: Literal["none", "starttls", "implicit"] = "none"
    auth_without_tls: bool = False


class Tls(Section):
    """[smtp.tls]: the certificate of the listeners."""

    certificate: Path | None = None
    key: Path | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        return self


class Smtp(Section):
    """[smtp]: how mail comes in."""

    hostname: str = Field(default_factory=socket.gethostname, pattern=_HOSTNAME)
    workers: int = Field(0, ge=0, le=256)
    max_message_bytes: int = Field(26_214_400, ge=1024, le=1 << 30)
    max_recipients: int = Field(100, ge=1, le=10_000)
    max_connections: Count = 5000
    max_connections_per_address: Count = 2500
    max_connections_per_user: int = Field(500, ge=0, le=_MANY)
    max_commands: int = Field(1000, ge=10, le=_MANY)
    max_errors: Count = 20
    max_refusals: Count = 100
    max_passes: int = Field(5, ge=1, le=100)
    login_timeout_seconds: Seconds = 120.0
    command_timeout_seconds: Seconds = 300.0
    data_deadline_seconds: Seconds = 300.0
    min_bytes_per_second: int = Field(500, ge=0, le=1_000_000)
    upload_memory_bytes: int = Field(268_435_456, ge=1 << 20, le=_VAST)
    upload_wait_seconds: Seconds = 10.0
    drain_seconds: Seconds = 30.0
    proxies: tuple[str, ...] = ()
    listen: tuple[Listen, ...] = (Listen(auth_without_tls=True),)
    tls: Tls = Tls()

    @property
    def processes(self) -> int:
        """How many workers there are: as asked for, else one for each core this process may use but one, which the store has."""
        return self.workers or max(1, len(os.sched_getaffinity(0)) - 1)

    @field_validator("proxies")
    @classmethod
    def _are_networks(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        return _networks(given)

    @model_validator(mode="after")
    def _listeners_are_apart(self) -> Self:
        if not self.listen:
            raise ValueError("listen: at least one [[smtp.listen]] is needed")
        for later, listen in enumerate(self.listen):
            for number, other in enumerate(self.listen[:later]):
                if is_shared((listen.address, listen.port), (other.address, other.port)):
                    raise ValueError(f"listen.{later}: {listen.address} port {listen.port} is listen.{number}'s already, {other.address}")
        return self

    @model_validator(mode="after")
    def _tls_has_certificate(self) -> Self:
        for listen in self.listen:
            if listen.tls != "none" and self.tls.certificate is None:
                raise ValueError(f'tls.certificate: needed by the listener on port {listen.port} (tls = "{listen.tls}")')
        if self.upload_memory_bytes < self.max_message_bytes:
            raise ValueError(f"upload_memory_bytes: a message of max_message_bytes = {self.max_message_bytes} would not fit")
        return self


class Api(Section):
    """[api]: the HTTP door."""

    address: Host = "127.0.0.1"
    port: Port = 8025
    errors_always_200: bool = False
    max_body_bytes: int = Field(1_048_576, ge=1024, le=1 << 26)
    change_wait_seconds: Seconds = 30.0
    test_recipient: str = ""
    test_budget_seconds: Seconds = 5.0
    trusted_proxies: tuple[str, ...] = ()

    @field_validator("test_recipient")
    @classmethod
    def _is_mailbox(cls, given: str) -> str:
        if given and not is_mailbox(given, is_utf8=True):
            raise ValueError(f"{given!a} is no mailbox like name@example.com")
        return given

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        return _networks(given)


class Store(Section):
    """[store]: where accounts and the ledger live."""

    url: SecretStr = SecretStr("")
    timeout_seconds: Seconds = 2.0
    maxmemory: str = Field("256mb", pattern=r"^\d+(kb|mb|gb)?$")
    server: Path | None = None

    @field_validator("url")
    @classmethod
    def _is_of_a_store(cls, given: SecretStr) -> SecretStr:
        """The URL may hold a password, and so may what a parser says of it: neither is repeated."""
        url = given.get_secret_value()
        scheme, mark, rest = url.partition("://")
        if url and not (mark and scheme in _STORES):
            raise ValueError(f"it must begin with one of {', '.join(f'{name}://' for name in _STORES)}")
        try:
            address = Address(f"redis://{rest}" if scheme == "redis+cluster" else url) if url else None
        except ValueError:
            raise ValueError(f"not a URL that can be read: {scheme}://, then user, password, host, port or database") from None
        except OSError:  # ssl.SSLError is one
            raise ValueError("its ssl_ca_certs cannot be read") from None
        if address and scheme == "unix" and not address.path:
            raise ValueError("the path of the socket is missing")
        return given


class Data(Section):
    """[data]: what this node keeps on disk."""

    directory: Path = Path("relay-data")


class Spool(Section):
    """[spool]: mail that this node keeps for the smarthost."""

    directory: Path | None = None
    reserve_bytes: int = Field(268_435_456, ge=0, le=_VAST)


class Retry(Section):
    """[retry]: when spooled mail is tried again, and for how long."""

    first_wait_seconds: Seconds = 60.0
    longest_wait_seconds: Seconds = 3600.0
    factor: float = Field(2.0, ge=1.0, le=10.0)
    jitter: float = Field(0.2, ge=0.0, le=0.9)
    expire_seconds: Seconds = 172_800.0
    warn_after_seconds: float = Field(0.0, ge=0.0, le=86400 * 30)
    doubt_seconds: Seconds = 600.0
    max_connections: int = Field(10, ge=1, le=10_000)
    disabled_users: Literal["hold", "deliver"] = "hold"

    @model_validator(mode="after")
    def _waits_fit(self) -> Self:
        if self.longest_wait_seconds < self.first_wait_seconds:
            raise ValueError("longest_wait_seconds: shorter than first_wait_seconds")
        if self.warn_after_seconds >= self.expire_seconds:
            raise ValueError("warn_after_seconds: not before expire_seconds, so nobody would be warned; 0 means never")
        return self


class Quota(Section):
    """[quota]: how sending is counted. Every node on one store must agree on the first three."""

    window_seconds: int = Field(3600, ge=1, le=86400 * 31)
    resolution_seconds: int = Field(1, ge=1, le=3600)
    unit: Literal["messages", "recipients"] = "messages"
    lease_seconds: Seconds = 420.0
    rejected_factor: float = Field(2.0, ge=1.0, le=1_000_000)
    rejected_minimum: Count = 50
    rejected_unlimited: Count = 1000
    records: int = Field(100, ge=0, le=1_000_000)


class Alternate(Section):
    """[[upstream.alternates]]: another smarthost, reached in the same way."""

    host: Host
    port: Port = 0
    priority: int = Field(0, ge=0, le=1000)
    weight: int = Field(1, ge=1, le=1000)


class Upstream(Section):
    """[upstream]: the smarthost."""

    host: Host = "127.0.0.1"
    port: Dialled = 2600
    security: Literal["none", "opportunistic", "starttls", "tls"] = "none"
    verify: bool = True
    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    username: str = ""
    password: SecretStr = SecretStr("")
    timeout_seconds: Seconds = 15.0
    forward_deadline_seconds: Seconds = 20.0
    max_connections: int = Field(20, ge=1, le=10_000)
    max_idle_seconds: Seconds = 20.0
    max_messages_per_connection: Count = 1000
    max_age_seconds: Seconds = 600.0
    max_messages_per_second: float = Field(0.0, ge=0.0, le=1_000_000)
    down_seconds: float = Field(5.0, ge=0.0, le=86400 * 30)
    alternates: tuple[Alternate, ...] = ()
    when_unavailable: Literal["spool", "refuse"] = "spool"

    @field_validator("max_messages_per_second")
    @classmethod
    def _is_rate(cls, given: float) -> float:
        if 0 < given < MIN_RATE:
            raise ValueError(f"0, or at least {MIN_RATE:g}")
        return given

    @model_validator(mode="after")
    def _login_is_whole(self) -> Self:
        if self.username and self.security == "none":
            raise ValueError('username: refused with security = "none", the password would travel in clear')
        for word, name in ((self.username, "username"), (self.password.get_secret_value(), "password")):
            if any(letter in word for letter in "\r\n\0"):
                raise ValueError(f"{name}: a line end or NUL is in it")
        if self.password.get_secret_value() and not self.username:
            raise ValueError("username: missing beside password, so nobody would log in")
        return self

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        if self.key is not None and self.certificate is None:
            raise ValueError("certificate: missing beside key")
        return self


class Guard(Section):
    """[guard]: where owners' smarthosts may be."""

    allow_networks: tuple[str, ...] = ()
    allow_ports: tuple[Dialled, ...] = ()

    @field_validator("allow_networks")
    @classmethod
    def _are_networks(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        return _networks(given)


class Accounts(Section):
    """[accounts]: users and their secrets."""

    key_file: Path | None = None
    recoverable_passwords: bool = True


class Throttle(Section):
    """[throttle]: guessing passwords and tokens, counted per client address."""

    failures_per_user: Count = 5
    failures_per_address: Count = 50
    window_seconds: int = Field(300, ge=1, le=86400 * 31)


class JournalSettings(Section):
    """[journal]: the mail log."""

    style: Literal["json", "logfmt"] = "json"
    file: Path | None = None


class Settings(Section):
    """Everything the relay is told, frozen."""

    smtp: Smtp = Smtp()
    api: Api = Api()
    store: Store = Store()
    data: Data = Data()
    spool: Spool = Spool()
    retry: Retry = Retry()
    quota: Quota = Quota()
    upstream: Upstream = Upstream()
    guard: Guard = Guard()
    accounts: Accounts = Accounts()
    throttle: Throttle = Throttle()
    journal: JournalSettings = JournalSettings()

    @model_validator(mode="after")
    def _hostname_is_one(self) -> Self:
        # The default is the host's, which may be called anything; as a default it is not looked at before.
        if not re.fullmatch(_HOSTNAME, self.smtp.hostname):
            raise ValueError(f"smtp.hostname: this host is called {self.smtp.hostname!a}, which is no name for mail; set smtp.hostname")
        return self

    @model_validator(mode="after")
    def _api_is_apart(self) -> Self:
        for number, other in enumerate(self.smtp.listen):
            if is_shared((self.api.address, self.api.port), (other.address, other.port)):
                raise ValueError(f"api.port: {self.api.address} port {self.api.port} is smtp.listen.{number}'s already, {other.address}")
        return self

    @model_validator(mode="after")
    def _lease_outlives_the_message(self) -> Self:
        needed = self.smtp.data_deadline_seconds + self.upstream.forward_deadline_seconds + self.store.timeout_seconds + LEASE_MARGIN
        if self.quota.lease_seconds < needed:
            raise ValueError(
                f"quota.lease_seconds: {self.quota.lease_seconds:g} is shorter than smtp.data_deadline_seconds + "
                f"upstream.forward_deadline_seconds + store.timeout_seconds + {LEASE_MARGIN:g} = {needed:g}"
            )
        cut = self.upstream.forward_deadline_seconds + self.store.timeout_seconds
        if self.smtp.drain_seconds < cut:
            raise ValueError(
                f"smtp.drain_seconds: {self.smtp.drain_seconds:g} would cut off messages on their way, at least "
                f"upstream.forward_deadline_seconds + store.timeout_seconds = {cut:g} are needed"
            )
        return self
