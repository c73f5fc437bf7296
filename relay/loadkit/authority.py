"""A sink's own certificate authority: certificates for its handshakes, flawed ones too.

Promises: keys exist in memory, and for the moment that OpenSSL takes to read them in a folder that nobody else may enter; who trusts
`pem` accepts the good certificate, and refuses each flawed one for its flaw alone.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from relay.loadkit.script import Flaw

DAY = timedelta(days=1)
LIFE = 30 * DAY
"""It is made anew at each start."""
WRONG_NAME = "wrong-name.invalid"


class Authority:
    """Issues certificates for these names; addresses may be among them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relay sink, made for this run")])
        self._certificate = self._builder(self._name, self._key.public_key(), -DAY, LIFE, is_authority=True).sign(self._key, SHA256())

    @property
    def pem(self) -> bytes:
        """What a client must trust."""
        return self._certificate.public_bytes(Encoding.PEM)

    def context(self, flaw: Flaw | None = None) -> ssl.SSLContext:
        """A server's context with a new certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with TemporaryDirectory(prefix="relay-sink-") as folder:  # SSLContext reads files only
            file = Path(folder) / "pair.pem"
            file.write_bytes(self.pair(flaw))
            context.load_cert_chain(file)
        return context

    def pair(self, flaw: Flaw | None = None) -> bytes:
        """A new key and its certificate, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [WRONG_NAME] if flaw == "wrong-name" else self._names
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
        begin, end = (-2 * DAY, -DAY) if flaw == "expired" else (-DAY, LIFE)
        builder = self._builder(subject, key.public_key(), begin, end)
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        chain = builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + chain

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, begin: timedelta, end: timedelta, is_authority: bool = False
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        usage = x509.KeyUsage(
            digital_signature=not is_authority, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=is_authority, crl_sign=is_authority, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        return (
            x509.CertificateBuilder(issuer_name=self._name, subject_name=subject, public_key=key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begin)
            .not_valid_after(now + end)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
