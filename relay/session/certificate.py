"""The certificate of a worker's listeners: the TLS context in force, and how a renewal takes its place.

Promises: connections that are open, and handshakes under way, keep the context they began with; a new one is built aside and put in
force only if it can be used, so that files half replaced, or unreadable, change nothing, and are told of once per change; a certificate
that runs out is told of two weeks before, and every day.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from relay.journal import Journal
from relay.session.ticket import Tickets

LOOK = 10.0
"""Seconds between two looks at the files."""
WARN_BEFORE = 14 * 86400.0
DAY = 86400.0

Stamp = tuple[int, int, int] | None


class CertificateUnusable(Exception):
    """The files cannot be used; the text is one line for the operator, and names them."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is told of a certificate."""

    subject: str
    serial: str
    not_after: float
    """Unix time; infinite where it cannot be read."""
    fingerprint: bytes

    @property
    def ends(self) -> str:
        """When it runs out, as the journal writes it."""
        return "" if self.not_after == float("inf") else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.not_after))


class Certificate:
    """A certificate with its key, read from files that may be replaced at any time."""

    def __init__(self, certificate: Path, key: Path, tickets: Tickets | None = None) -> None:
        """Read the files; raises CertificateUnusable. `tickets` are those of all workers of this node."""
        self.file = certificate
        self._key = key
        self._tickets = tickets
        if tickets is not None:
            _build(certificate, key)  # what cannot be used is told of first
            self._tickets = tickets if tickets.are_shared(lambda: _build(certificate, key)) else None
        self.reload()

    def context(self) -> ssl.SSLContext:
        """The context in force now."""
        return self._context

    def reload(self) -> None:
        """Read the files anew and put them in force; raises CertificateUnusable, and what was in force stays so."""
        stamps = self.stamps()  # from before they are read: what changes meanwhile is seen at the next look
        context = _build(self.file, self._key)
        facts = _describe(self.file)
        if self._tickets is not None:
            self._tickets.give(context, facts.fingerprint)
        self._context, self.facts, self._loaded = context, facts, stamps

    @property
    def is_resumed_by_all(self) -> bool:
        """Whether every worker of this node resumes the TLS sessions of every other."""
        return self._tickets is not None

    def stamps(self) -> tuple[Stamp, Stamp]:
        """What tells these files from others that may take their place; a link is followed."""
        return _stamp(self.file), _stamp(self._key)

    @property
    def is_current(self) -> bool:
        """Whether the files are still those that are in force."""
        return self.stamps() == self._loaded

    def turn_keys(self) -> None:
        """Give the context in force the ticket keys of the present period."""
        if self._tickets is not None and self._tickets.move_on():
            self._tickets.give(self._context, self.facts.fingerprint)


class Watch:
    """Looks after a certificate for as long as it runs."""

    def __init__(
        self,
        certificate: Certificate,
        journal: Journal,
        incarnation: str,
        is_herald: bool = True,
        interval: float = LOOK,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`is_herald`: tells when it runs out, which one worker of a node does for all."""
        self._certificate = certificate
        self._journal = journal
        self._incarnation = incarnation
        self._is_herald = is_herald
        self._interval = interval
        self._clock = clock
        self._asked = asyncio.Event()
        self._unusable: tuple[Stamp, Stamp] | None = None
        self._told = (b"", False, 0.0)

    def hurry(self) -> None:
        """Read the files again now, whether they seem changed or not (SIGHUP)."""
        self._asked.set()

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        self._tell_loaded()
        while True:
            self._tell_end()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), self._interval)
            is_asked = self._asked.is_set()
            self._asked.clear()
            try:
                self._look(is_asked)
            except Exception as error:  # a bug must not leave the next renewal unseen
                self._journal.bug(self._incarnation, error)

    def _look(self, is_asked: bool) -> None:
        certificate = self._certificate
        certificate.turn_keys()
        if certificate.is_current and not is_asked:
            return
        stamps = certificate.stamps()
        try:
            certificate.reload()
        except CertificateUnusable as error:
            if stamps != self._unusable or is_asked:
                self._journal.alarm("certificate_unusable", incarnation=self._incarnation, error=str(error))
            self._unusable = stamps
        else:
            self._unusable = None
            self._tell_loaded()

    def _tell_loaded(self) -> None:
        facts, file = self._certificate.facts, str(self._certificate.file)
        self._journal.event(
            "certificate_loaded", incarnation=self._incarnation, file=file, subject=facts.subject, serial=facts.serial,
            not_after=facts.ends, shared_tickets=self._certificate.is_resumed_by_all,
        )  # fmt: skip

    def _tell_end(self) -> None:
        """Say that the end is near, or past: for each certificate once when it comes to that, and then daily."""
        facts, now = self._certificate.facts, self._clock()
        is_over = now >= facts.not_after
        fingerprint, was_over, at = self._told
        if not self._is_herald or now < facts.not_after - WARN_BEFORE:
            return
        if (fingerprint, was_over) == (facts.fingerprint, is_over) and at <= now < at + DAY:
            return
        self._told = (facts.fingerprint, is_over, now)
        file = str(self._certificate.file)
        if is_over:
            self._journal.alarm("certificate_expired", file=file, subject=facts.subject, serial=facts.serial, not_after=facts.ends)
        else:
            self._journal.alarm("certificate_expires", file=file, subject=facts.subject, serial=facts.serial, not_after=facts.ends)


def check_certificate(certificate: Path, key: Path) -> None:
    """See that a certificate and its key can be used together; raises CertificateUnusable."""
    _build(certificate, key)


def _build(certificate: Path, key: Path) -> ssl.SSLContext:
    """A context for listeners: TLS 1.2 or newer, with Python's ciphers, which all have forward secrecy; raises CertificateUnusable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8997: mail is not submitted over less
    # A client that renegotiates makes the server do one costly handshake after the other on one connection (TLS 1.2; 1.3 knows none).
    context.options |= ssl.OP_NO_RENEGOTIATION
    # Compression lets the length of what is sent tell of its secrets; and the order of ciphers is ours, the authenticated ones first.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 1  # a client resumes one connection by one ticket, and gets a new one each time
    for file in (certificate, key):
        try:
            file.read_bytes()
        except OSError as error:
            raise CertificateUnusable(f"{file}: {error.strerror}") from None
    try:
        # A passphrase is never asked for on a terminal: an encrypted key is an error.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or "they do not go together"
        raise CertificateUnusable(_fault(certificate, key) or f"{certificate} and {key} cannot be used: {reason}") from None
    return context


def _fault(certificate: Path, key: Path) -> str:
    """What is wrong with one of two files that cannot be used together; empty where each is what it should be."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
    except (OSError, ValueError):
        return f"{certificate}: not a certificate, as PEM"
    try:
        load_pem_private_key(key.read_bytes(), None)
    except TypeError:
        return f"{key}: the key has a passphrase"
    except (OSError, ValueError, UnsupportedAlgorithm):
        return f"{key}: not a private key without a passphrase, as PEM"
    return ""


def _describe(file: Path) -> Facts:
    """The facts of the first certificate in a file; what OpenSSL takes and cannot be read here is not told of."""
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        subject = certificate.subject.rfc4514_string() or _first_name(certificate)
        ends = certificate.not_valid_after_utc.timestamp()
        return Facts(subject, f"{certificate.serial_number:x}", ends, certificate.fingerprint(SHA256()))
    except (OSError, ValueError):
        return Facts("", "", float("inf"), b"")


def _first_name(certificate: x509.Certificate) -> str:
    with suppress(x509.ExtensionNotFound):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return next(iter(names.get_values_for_type(x509.DNSName)), "")
    return ""


def _stamp(file: Path) -> Stamp:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
