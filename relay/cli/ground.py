"""What `relay check` looks at besides the settings: the files, folders, addresses and programs that `relay serve` needs, as this user.

Promise: nothing is made and nothing is changed. Where `relay serve` has a function that looks, it is the one used.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relay.accounts.secrets import KeyUnusable, open_key
from relay.config import ConfigError
from relay.config.settings import Settings
from relay.daemon import spool_file
from relay.session.listener import ListenError, bind
from relay.store.embedded import Embedded, EmbeddedError


def check_ground(settings: Settings) -> None:
    """See that a relay could start here; raises ConfigError."""
    if settings.journal.file is not None:
        with _asked_by("journal.file"):
            _see_file(settings.journal.file)
    with _asked_by("data.directory"):
        _see_folder(settings.data.directory)
    for number, listen in enumerate(settings.smtp.listen):
        _see_address(f"smtp.listen.{number}.address", listen.address)
    _see_address("api.address", settings.api.address)
    with _asked_by("spool.directory"):
        _see_folder(spool_file(settings).parent)
    if not settings.store.url.get_secret_value():
        _see_server(settings)
    with _asked_by("accounts.key_file"):
        _see_key(settings.accounts.key_file or settings.data.directory / "secret.key")


@contextmanager
def _asked_by(key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{key}: {error.filename}: {error.strerror}") from None


def _see_file(path: Path) -> None:
    """See that a file can be appended to, or be made in a folder that is there; raises OSError."""
    if path.is_dir():
        _refuse(path, errno.EISDIR)
    if path.exists():
        _see_access(path, os.W_OK)
    elif path.parent.is_dir():
        _see_access(path.parent, os.W_OK | os.X_OK)
    else:
        _refuse(path, errno.ENOENT)


def _see_folder(path: Path) -> None:
    """See that a folder can be written to, or be made in one that is there; raises OSError."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        _refuse(place, errno.ENOTDIR)
    _see_access(place, os.W_OK | os.X_OK)


def _see_access(path: Path, mode: int) -> None:
    if not os.access(path, mode):
        _refuse(path, errno.EACCES)


def _refuse(path: Path, number: int) -> None:
    raise OSError(number, os.strerror(number), str(path))


def _see_address(key: str, address: str) -> None:
    """See that an address is this host's. A free port will do: the one it is for is taken while the relay runs."""
    try:
        bind(address, 0).close()
    except ListenError as error:
        raise ConfigError(f"{key}: {address}: {str(error).rpartition(': ')[2]}") from None


def _see_server(settings: Settings) -> None:
    """See that the store's own server is there, and its socket within what a path may be long."""
    try:
        Embedded(settings.data.directory, settings.store.server, settings.store.maxmemory, lambda name, text: None)
    except EmbeddedError as error:
        raise ConfigError(str(error)) from None


def _see_key(path: Path) -> None:
    """See that the key can be used, or be made; raises OSError."""
    if not path.exists():
        _see_folder(path.parent)
        return
    try:
        open_key(path, may_create=False)
    except KeyUnusable as error:
        raise ConfigError(str(error)) from None
