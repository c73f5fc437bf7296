"""Where a server is and how it is entered, as a URL says it.

Promise: no text of an error repeats what the URL holds, which may be a password.
"""

from __future__ import annotations

import re
import ssl
from urllib.parse import parse_qs, unquote, urlsplit

Argument = bytes | str | int
Command = tuple[Argument, ...]

_NUMBER = re.compile(r"[0-9]{1,9}")


class Address:
    """A server's address, from a redis://, rediss:// or unix:// URL."""

    def __init__(self, url: str) -> None:
        """Raises ValueError where the URL cannot be read, and OSError where its certificates cannot."""
        given = urlsplit(url)
        asked = {name: values[-1] for name, values in parse_qs(given.query).items()}
        is_local = given.scheme == "unix"
        self.path = unquote(given.path) if is_local else ""
        self.host = unquote(given.hostname or "localhost")
        self.port = given.port or 6379
        self.tls = _tls(asked) if given.scheme == "rediss" else None
        self.greeting: list[Command] = []
        """What a new connection says first."""
        if given.password:
            self.greeting.append(("AUTH", *filter(None, [unquote(given.username or "")]), unquote(given.password)))
        if database := _database(asked.get("db"), "" if is_local else given.path):
            self.greeting.append(("SELECT", database))


def _database(asked: str | None, path: str) -> int:
    """The number of the database: as the query says, else as the path does; raises ValueError for what is no number."""
    text = (unquote(path).removeprefix("/") or "0") if asked is None else asked
    if not _NUMBER.fullmatch(text):
        raise ValueError("no number of a database")
    return int(text)


def _tls(asked: dict[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=asked.get("ssl_ca_certs"))
    if asked.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
