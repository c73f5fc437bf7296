"""Secrets of owners and users: the key that keeps them, the ones that are generated, their hashes, the sealed copies.

Promises:
- The store alone reveals nothing: generated passwords and tokens are kept as hashes under a key that lives outside it, and a copy
  that can be shown again is sealed under that key for one user name only. Each use has a subkey of its own (RFC 5869).
- A generated secret has at least 128 bits, so a fast keyed hash keeps it; a password that a person brought gets scrypt (RFC 7914),
  off the event loop, two at a time.
- Comparisons take the same time whatever they find, and no error names a secret.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
import secrets
import stat
import string
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_OCTETS = 32
PASSWORD_LENGTH = 22
"""62 ** 22 is more than 2 ** 130."""
TOKEN_LENGTH = 24

KEPT = 16
"""Octets that are kept of the keyed hash of a password: as many bits as the password has at least. An older version kept all."""

_ALPHABET = string.ascii_letters + string.digits
_PASSWORD = re.compile(rf"[A-Za-z0-9]{{{PASSWORD_LENGTH}}}")
_NONCE = 12
_SALT = 16
_MEMORY = 64 << 20


class KeyUnusable(Exception):
    """The key file cannot be used; the text is one line for the operator."""


class Key:
    """The key outside the store, and what is done under it."""

    def __init__(self, material: bytes) -> None:
        """`material` is 32 random octets."""
        self._password = _derive(material, b"relay password hash")
        self._token = _derive(material, b"relay token hash")
        self._seal = AESGCM(_derive(material, b"relay password seal"))
        self._setting = AESGCM(_derive(material, b"relay setting seal"))
        self._session = _derive(material, b"relay session hash")
        self.access = _derive(material, b"relay access token")
        """What access tokens are signed with (HS256, RFC 7518 section 3.2)."""
        self.check = _derive(material, b"relay key check")[:8].hex()

    def hash_password(self, name: str, password: str) -> bytes:
        """The keyed hash of a user's generated password, 32 octets."""
        return hmac.digest(self._password, f"{name}\0{password}".encode("utf-8", "surrogatepass"), "sha256")

    def hash_token(self, owner_id: str, token: str) -> bytes:
        """The keyed hash of an owner's token, 32 octets."""
        return hmac.digest(self._token, f"{owner_id}\0{token}".encode("utf-8", "surrogatepass"), "sha256")

    def seal(self, name: str, password: str) -> bytes:
        """Seal a password so that it can be shown again, for this user name only; 28 octets more than the password."""
        nonce = os.urandom(_NONCE)
        return nonce + self._seal.encrypt(nonce, password.encode(), name.encode())

    def unseal(self, name: str, sealed: bytes) -> str | None:
        """Open a sealed password; None if it was sealed under another key or for another user."""
        try:
            return self._seal.decrypt(sealed[:_NONCE], sealed[_NONCE:], name.encode()).decode()
        except (InvalidTag, ValueError):
            return None

    def seal_setting(self, owner_id: str, place: str, octets: bytes) -> bytes:
        """Seal what an owner set, for this place of this owner's only; 28 octets more."""
        nonce = os.urandom(_NONCE)
        return nonce + self._setting.encrypt(nonce, octets, _place(owner_id, place))

    def open_setting(self, owner_id: str, place: str, sealed: bytes) -> bytes | None:
        """Open what was sealed; None if it was under another key, for another owner or for another place."""
        try:
            return self._setting.decrypt(sealed[:_NONCE], sealed[_NONCE:], _place(owner_id, place))
        except (InvalidTag, ValueError):
            return None

    def hash_session(self, *parts: str | bytes) -> bytes:
        """The keyed hash of what a session is known by, 32 octets."""
        octets = [part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass") for part in parts]
        return hmac.digest(self._session, b"".join(len(part).to_bytes(4, "big") + part for part in octets), "sha256")


def is_kept_of(stored: bytes, mark: bytes) -> bool:
    """Whether `stored` is what is kept of a password's keyed hash, `mark`."""
    return len(stored) in (KEPT, len(mark)) and hmac.compare_digest(stored, mark[: len(stored)])


def fingerprint(key: Key) -> str:
    """A value by which nodes that share a store find out whether they share the key; it reveals nothing of it."""
    return key.check


def open_key(path: Path, *, may_create: bool = True) -> Key:
    """Read the key file, made with 0600 at its first use if it may be; raises KeyUnusable."""
    try:
        if not path.exists():
            if not may_create:
                raise KeyUnusable(f"accounts.key_file: {path}: not found; is --config right, has the relay been started?")
            _create(path)
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            material = file.read(KEY_OCTETS + 1)
    except OSError as error:
        raise KeyUnusable(f"accounts.key_file: {path}: {error.strerror}") from None
    if mode & _of_others(path):
        raise KeyUnusable(f"accounts.key_file: {path}: mode {mode & 0o777:04o} lets others read it; chmod 600 it")
    if len(material) != KEY_OCTETS:
        raise KeyUnusable(f"accounts.key_file: {path}: {KEY_OCTETS} octets expected")
    return Key(material)


def _of_others(path: Path) -> int:
    """The bits of a key file's mode that let others in.

    systemd lets a service that is not root read its credentials by an access control list, whose mask stands where the group's bits
    are (systemd.exec(5), CREDENTIALS).
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    is_granted = bool(folder) and path.parent == Path(folder or "")
    return (stat.S_IRWXG | stat.S_IRWXO) & ~(stat.S_IRGRP if is_granted else 0)


def _create(path: Path) -> None:
    """Make the file whole or not at all: of two processes that start together, the second finds the first's key."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(secrets.token_bytes(KEY_OCTETS))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _place(owner_id: str, place: str) -> bytes:
    return f"{owner_id}\0{place}".encode("utf-8", "surrogatepass")


def _derive(material: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), KEY_OCTETS, salt=None, info=purpose).derive(material)


# -- what is generated -------------------------------------------------------------------------------------------------------


def new_password() -> str:
    """A password of 22 letters and digits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(PASSWORD_LENGTH))


def is_generated_password(password: str) -> bool:
    """Whether a password has the form of a generated one."""
    return _PASSWORD.fullmatch(password) is not None


def new_token() -> str:
    """An owner's token of 24 letters and digits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(TOKEN_LENGTH))


def new_owner_id() -> str:
    """An owner id of eight digits, the first not 0."""
    return str(10**7 + secrets.randbelow(9 * 10**7))


def new_user_name() -> str:
    """A user name: smtp and nine digits, the first not 0."""
    return f"smtp{10**8 + secrets.randbelow(9 * 10**8)}"


# -- what people brought -----------------------------------------------------------------------------------------------------


class SlowHash:
    """scrypt in threads, at most two at a time: each needs 16 MB and tens of milliseconds."""

    NOBODY = bytes(_SALT + 32)
    """Matches no password, in the same time as one that does."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(2)

    async def make(self, password: str) -> bytes:
        """Hash a password under a new salt: 48 octets."""
        salt = os.urandom(_SALT)
        return salt + await self._digest(password, salt)

    async def matches(self, password: str, stored: bytes) -> bool:
        """Whether a password is the one that was hashed."""
        return hmac.compare_digest(await self._digest(password, stored[:_SALT]), stored[_SALT:])

    async def _digest(self, password: str, salt: bytes) -> bytes:
        async with self._places:
            return await asyncio.to_thread(_scrypt, password.encode("utf-8", "surrogatepass"), salt)


def _scrypt(password: bytes, salt: bytes) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=2**14, r=8, p=1, maxmem=_MEMORY, dklen=32)
