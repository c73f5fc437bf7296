"""The mail log: lines that are written in a short way say what the long way says, and the figures what happened."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from relay.journal import Journal

TEXT = st.text(max_size=40)


class Log:
    """A journal and what it wrote."""

    def __init__(self, path: Path, style: str = "json") -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self.journal = Journal(self.fd, "relay.example", style)

    def last(self) -> str:
        """The last line."""
        return self.path.read_bytes().decode("ascii").splitlines()[-1]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """A journal in JSON."""
    log = Log(tmp_path / "log")
    yield log
    os.close(log.fd)


@given(TEXT, TEXT, st.lists(TEXT, max_size=3), st.integers(0, 2**53), st.floats(0, 1e5), TEXT)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_taken_message_is_logged_as_any_event_would_be(
    log: Log, user: str, sender: str, recipients: list[str], at: int, seconds: float, reply: str
) -> None:
    log.journal.taken("id.1", user, sender, recipients, 1, at, 2048, seconds, reply)
    short = json.loads(log.last())
    fields: dict[str, Any] = {
        "id": "id.1", "user": user, "sender": sender, "recipients": recipients, "units": 1, "at": at, "octets": 2048,
        "seconds": round(seconds, 6), "reply": reply,
    }  # fmt: skip
    log.journal.event("taken", **fields)
    long = json.loads(log.last())
    assert short.pop("ts") <= long.pop("ts")
    assert short == long and list(short) == list(long)


def test_every_line_begins_alike_in_both_styles(log: Log, tmp_path: Path) -> None:
    log.journal.event("ready")
    assert list(json.loads(log.last())) == ["ts", "event", "node"]
    plain = Log(tmp_path / "plain", "logfmt")
    plain.journal.event("ready", text='a "b"', count=1, nothing=None)
    assert plain.last().partition(" ")[2] == 'event=ready node=relay.example text="a \\"b\\"" count=1 nothing=""'
    plain.journal.event("ready")
    assert plain.last().endswith(" event=ready node=relay.example")
    os.close(plain.fd)


def figures() -> dict[str, float]:
    """The figures of messages and connections, as they are read by /metrics."""
    found = {}
    for metric in REGISTRY.collect():
        for sample in metric.samples:
            if sample.name.startswith(("relay_messages", "relay_recipients", "relay_message_bytes", "relay_forward", "relay_connections")):
                found[f"{sample.name} {' '.join(sample.labels.values())}".strip()] = sample.value
    return found


def test_the_figures_say_what_was_counted_since_they_were_told_last(log: Log) -> None:
    log.journal.tell_figures()
    before = figures()
    log.journal.connected("id", "192.0.2.1", 25, tls=False)
    log.journal.connected("ie", "192.0.2.1", 25, tls=False)
    log.journal.disconnected("ie", 0, 0)
    for seconds in (0.0005, 0.001, 0.02, 100.0):
        log.journal.taken("id.1", "u", "a@b.example", ["c@d.example", "e@f.example"], 1, 1, 1000, seconds, "250 ok")
    assert figures() == before
    log.journal.tell_figures()
    log.journal.tell_figures()
    after = figures()
    gained = {name: round(value - before.get(name, 0), 6) for name, value in after.items() if "_created" not in name}
    assert {name: value for name, value in gained.items() if value} == {
        "relay_messages_total taken": 4, "relay_recipients_taken_total": 8, "relay_message_bytes_total": 4000, "relay_connections": 1,
        "relay_forward_seconds_sum": 100.0215, "relay_forward_seconds_count": 4, "relay_forward_seconds_bucket 0.001": 2,
        "relay_forward_seconds_bucket 0.003": 2, "relay_forward_seconds_bucket 0.01": 2, "relay_forward_seconds_bucket 0.03": 3,
        "relay_forward_seconds_bucket 0.1": 3, "relay_forward_seconds_bucket 0.3": 3, "relay_forward_seconds_bucket 1.0": 3,
        "relay_forward_seconds_bucket 3.0": 3, "relay_forward_seconds_bucket 10.0": 3, "relay_forward_seconds_bucket 30.0": 3,
        "relay_forward_seconds_bucket +Inf": 4,
    }  # fmt: skip
    log.journal.disconnected("id", 1, 0)
    log.journal.tell_figures()
