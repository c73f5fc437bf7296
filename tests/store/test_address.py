"""What a URL of the store says is understood, and what it says wrongly is an error that repeats nothing of it."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from relay.store.address import Address


def test_what_is_left_out_is_the_servers_default() -> None:
    address = Address("redis://")
    assert (address.path, address.host, address.port, address.tls, address.greeting) == ("", "localhost", 6379, None, [])


@pytest.mark.parametrize(
    ("url", "host", "port", "greeting"),
    [
        ("redis://store.example:7000/3", "store.example", 7000, [("SELECT", 3)]),
        ("redis://[2001:db8::1]:7000", "2001:db8::1", 7000, []),
        ("redis://:p%40ss@h", "h", 6379, [("AUTH", "p@ss")]),
        ("redis://ada:p%3Aw%2F@h/2?db=5", "h", 6379, [("AUTH", "ada", "p:w/"), ("SELECT", 5)]),
        ("redis://ada@h", "h", 6379, []),
        ("redis://h/", "h", 6379, []),
        ("redis://h/%32?db=0", "h", 6379, []),
    ],
)
def test_host_port_login_and_database_are_read(url: str, host: str, port: int, greeting: list[tuple[str | int, ...]]) -> None:
    address = Address(url)
    assert (address.host, address.port, address.greeting) == (host, port, greeting)


def test_a_socket_is_read_with_its_database() -> None:
    address = Address("unix:///run/a%20b/store.sock?db=1")
    assert (address.path, address.greeting) == ("/run/a b/store.sock", [("SELECT", 1)])


def test_tls_checks_names_unless_told_not_to(authority: trustme.CA, place: Path) -> None:
    file = place / "ca.pem"
    authority.cert_pem.write_to_path(file)
    strict, loose = Address(f"rediss://h?ssl_ca_certs={file}").tls, Address("rediss://h?ssl_cert_reqs=none").tls
    assert strict is not None and strict.check_hostname and strict.verify_mode == ssl.CERT_REQUIRED
    assert [found["issuer"] for found in strict.get_ca_certs()]
    assert loose is not None and loose.verify_mode == ssl.CERT_NONE
    with pytest.raises(OSError):
        Address(f"rediss://h?ssl_ca_certs={place / 'missing'}")


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:secret", "redis://h:70000", "redis://:secret@h?db=secret", "redis://[secret", "redis://h/none", "redis://h/1/2",
        "redis://h/-1", "redis://h?db=-1", "redis://h/\u0663", "redis://h/1234567890", "unix:///run/store.sock?db=x",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_a_value_error(url: str) -> None:
    with pytest.raises(ValueError):
        Address(url)
