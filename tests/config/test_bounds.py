"""What settings may be: numbers within bounds, and listeners of which no two are in each other's place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import pytest

from relay.config.settings import Section, Settings
from relay.source import load
from tests.config.reading import Write, refusal


def numbers(model: type[Section] = Settings, path: str = "") -> Iterator[tuple[str, str]]:
    """Every number of the settings: the line of its table, and its key."""
    for name, field in model.model_fields.items():
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type) and issubclass(kind, Section)]
        if inner:
            table = f"{path.strip('[]')}.{name}".lstrip(".")
            yield from numbers(inner[0], f"[{table}]" if inner[0] is field.annotation else f"[[{table}]]")
        elif field.annotation in (int, float):
            yield path, name


@pytest.mark.parametrize("value", ["true", "false", "inf", "-inf", "nan", "1e300", "1" + "0" * 30, "1" + "0" * 400, "-1" + "0" * 30])
def test_every_number_is_one_and_has_bounds(value: str, toml: Write) -> None:
    found = list(numbers())
    assert len(found) > 50 and {("[smtp]", "workers"), ("[[smtp.listen]]", "port"), ("[quota]", "rejected_factor")} <= set(found)
    for table, key in found:
        host = "host = 'x'" if "alternates" in table else ""
        line = refusal(toml(f"{table}\n{key} = {value}\n{host}\n"))
        assert f"{key}: " in line, (table, line)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("quota", "rejected_factor", 1e6), ("quota", "rejected_unlimited", 2**31 - 1), ("smtp", "max_commands", 2**31 - 1),
        ("smtp", "upload_memory_bytes", 1 << 40), ("spool", "reserve_bytes", 1 << 50), ("upstream", "down_seconds", 0),
    ],
)  # fmt: skip
def test_what_an_operator_may_want_is_within_the_bounds(section: str, key: str, value: float, toml: Write) -> None:
    assert getattr(getattr(load(toml(f"[{section}]\n{key} = {value}\n")), section), key) == value


APART = [
    ("127.0.0.1", "127.0.0.2"), ("127.0.0.1", "::1"), ("0.0.0.0", "::1"), ("0.0.0.0", "2001:db8::1"), ("mail.example", "192.0.2.1"),
]  # fmt: skip
SHARED = [
    ("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "192.0.2.1"), ("0.0.0.0", "mail.example"), ("::", "127.0.0.1"), ("::", "0.0.0.0"),
    ("::", "2001:db8::1"), ("0::0", "::1"), ("2001:db8::1", "2001:DB8:0::1"), ("Mail.example", "mail.example."), ("0", "127.0.0.1"),
    ("localhost", "127.0.0.1"), ("127.1", "127.0.0.1"), ("0.0.0.0", "::ffff:192.0.2.1"), ("::ffff:127.0.0.1", "127.0.0.1"),
]  # fmt: skip


def pair(first: str, second: str, port: int) -> str:
    """Two listeners at one port."""
    return "".join(f'[[smtp.listen]]\naddress = "{address}"\nport = {port}\n' for address in (first, second))


@pytest.mark.parametrize(("first", "second"), SHARED)
def test_two_listeners_that_would_share_their_connections_are_refused(first: str, second: str, toml: Write) -> None:
    for one, other in ((first, second), (second, first)):
        line = refusal(toml(pair(one, other, 2525)))
        assert line.endswith(f": smtp: listen.1: {other} port 2525 is listen.0's already, {one}")
        line = refusal(toml(f'[[smtp.listen]]\naddress = "{one}"\nport = 26\n[api]\naddress = "{other}"\nport = 26\n'))
        assert line.endswith(f": api.port: {other} port 26 is smtp.listen.0's already, {one}")
        assert load(toml(pair(one, other, 0)))  # each takes a port of its own


@pytest.mark.parametrize(("first", "second"), APART)
def test_two_listeners_at_one_port_of_two_addresses_are_taken(first: str, second: str, toml: Write) -> None:
    assert len(load(toml(pair(first, second, 2525))).smtp.listen) == 2
    assert load(toml(f'[[smtp.listen]]\naddress = "{first}"\nport = 26\n[api]\naddress = "{second}"\nport = 26\n')).api.port == 26
