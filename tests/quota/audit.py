"""Reads a user's book in the store raw, without a script and so without a side effect, and compares it with the model's."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relay.quota.audit import AHEAD
from relay.quota.ledger import Ledger, key
from relay.store.client import Store
from relay.store.embedded import SOCKET, configuration, find_server
from tests.quota.book import Book, Commit
from tests.quota.counters import read

Log = list[tuple[str, int]]


async def audit(store: Store, name: str, book: Book) -> None:
    """Assert that the keys under `name` say what the model says."""
    counters, *zsets = await store.many([
        ("HGET", name, "taken"),
        *(("ZRANGE", f"{name}:{part}", 0, -1, "WITHSCORES") for part in ("log", "rlog", "open", "lapsed")),
    ])  # fmt: skip
    found = read(counters)
    taken, gone, rejected, rgone = found["taken"], found["gone"], found["rejected"], found["rgone"]
    log, rlog, open, lapsed = (_scored(flat) for flat in zsets)
    assert (found["last"], found["held"]) == (book.last, book.held())
    assert (taken, rejected) == (book.ever(), sum(commit.units for commit in book.rejected))
    assert dict(open) == {f"{id}:{hold.units}": hold.ends for id, hold in book.open.items()}
    expected = {f"{id}:{hold.units}" for id, hold in book.lapsed.items()}
    pruned = {f"{id}:{hold.units}" for id, hold in book.lapsed.items() if book.may_be_pruned(hold)}
    assert expected - pruned <= {member for member, _ in lapsed} <= expected
    _audit_log(book, log, taken, gone, book.taken)
    _audit_log(book, rlog, rejected, rgone, book.rejected)


async def examine(store: Store, ledger: Ledger, user: str, book: Book, clock: int) -> None:
    """Assert that the user's keys say what the model says, and that the ledger's recount finds nothing but a clock set back."""
    await audit(store, key(user), book)
    found = await ledger.audit(user)
    assert (found is not None) == book.exists
    if found is not None:
        ahead = [difference for difference in found.differences if AHEAD in difference]
        assert list(found.differences) == ahead and len(ahead) == (book.last > clock), found.differences


def _audit_log(book: Book, log: Log, total: int, gone: int, commits: list[Commit]) -> None:
    by_bucket: dict[int, int] = {}
    for commit in book.counting(commits, book.last):
        by_bucket[book.bucket(commit.at)] = by_bucket.get(book.bucket(commit.at), 0) + commit.units
    found, before = {}, gone
    for member, score in log:
        found[int(member)], before = score - before, score
    assert found == by_bucket
    assert before == total
    assert list(found) == sorted(found)
    assert len(found) <= book.rules.window // book.rules.resolution + 2


def _scored(flat: list[bytes]) -> Log:
    return [(member.decode(), int(float(score))) for member, score in zip(flat[::2], flat[1::2], strict=True)]


@contextmanager
def volatile_server() -> Iterator[str]:
    """A server without an event loop of its own, which need not survive a power failure; its URL."""
    place = Path(tempfile.mkdtemp(prefix="relay-"))
    text = configuration(place, "256mb").replace("appendfsync always", "appendfsync no")
    text += "stream-node-max-entries 2\n"  # so that a few records more are trimmed already
    with subprocess.Popen([find_server(), "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        process.stdin.write(text.encode())
        process.stdin.close()
        while not (place / SOCKET).exists():
            assert process.poll() is None
            time.sleep(0.01)
        try:
            yield f"unix://{place / SOCKET}"
        finally:
            process.kill()
    shutil.rmtree(place)
