"""Where the account's evidence comes from: the journals, the spools, the ledger and the sink, read once everything has come to rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from relay.loadkit.attempt import Attempt
from relay.quota.ledger import Ledger
from relay.quota.limit import Rules
from relay.spool.spool import Spool
from relay.store.client import Store
from tests.account import Book, Commit, Copy, Evidence, Kept, Outcome, Sent
from tests.running import Relay

EVENTS = (
    "taken", "settled", "settled_before", "overdraft", "rejected", "in_doubt", "killed_in_flight", "delivered", "deferred", "reported",
    "discarded", "charge_kept", "charge_at_risk", "bug",
)  # fmt: skip
"""What of a journal is worth keeping: refusals and connections are many, and prove nothing here."""


def read_sent(attempt: Attempt, mark: str, recipients: tuple[str, ...]) -> Sent:
    """What a client knows of a message it tried to send."""
    outcome: Outcome = "refused"
    if attempt.is_taken:
        outcome = "taken"
    elif attempt.is_unanswered:
        outcome = "silent"
    elif attempt.code == 0:
        outcome = "unsent"
    return Sent(mark, attempt.user, recipients, outcome, attempt.relay_id, f"{attempt.code} {attempt.text}")


async def read_kept(folders: Iterable[Path]) -> list[Kept]:
    """Every entry of these nodes' spools; a folder is a node's data directory."""
    kept = []
    for folder in folders:
        path = folder / "spool.db"
        if not path.exists():
            continue
        spool = Spool(path, "", 0)
        try:
            async for page in spool.pages():
                for entry in page:
                    standings = {standing.recipient.address: standing.state for standing in entry.standings}
                    kept.append(Kept(entry.id, entry.envelope.sender, standings, entry.kind, entry.origin))
        finally:
            await spool.close()
    return kept


async def read_books(url: str, users: Iterable[str], rules: Rules) -> list[Book]:
    """What the ledger says of these users."""
    store = Store(url, 10.0)
    books = []
    try:
        ledger = Ledger(store, rules)
        for user in users:
            usage = await ledger.usage(user)
            assert usage is not None, user
            books.append(Book(user, usage.hourly_limit, usage.total_limit, usage.taken, usage.in_flight, await _commits(ledger, user)))
    finally:
        await store.close()
    return books


async def _commits(ledger: Ledger, user: str) -> tuple[Commit, ...] | None:
    """The ledger's records of what it charged, in order; None where the oldest are not kept any more."""
    records = await ledger.records(user)
    if records and records[0].taken != records[0].accepted:
        return None
    return tuple(Commit(record.id, record.accepted, record.at, record.outcome == "late") for record in records)


async def read_evidence(
    relays: Sequence[Relay], url: str, users: Sequence[str], sent: Sequence[Sent], copies: Sequence[Copy], rules: Rules
) -> Evidence:
    """All of it, of relays that may be running or not."""
    return Evidence(
        sent=sent,
        events=[event for relay in relays for event in relay.events(*EVENTS)],
        copies=copies,
        kept=await read_kept(relay.folder / "data" for relay in relays),
        books=await read_books(url, users, rules),
        window=rules.window,
    )
