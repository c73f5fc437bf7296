"""relay ledger explain, at the shell: what mail log, store and spool know, as one story."""

from __future__ import annotations

import asyncio
import gzip
import os
from pathlib import Path

import pytest

from relay.accounts.secrets import open_key
from relay.cli.app import app
from relay.mail.envelope import Envelope, Recipient
from relay.quota.ledger import key
from relay.spool.entry import Entry, Standing
from relay.spool.spool import Spool
from relay.store.client import Store
from tests.cli_ledger.conftest import add_users, journal, send
from tests.shell import Ran, Shell, invoke

CONNECTION = "k3p9x2ab1"
ID = f"{CONNECTION}.1"
STYLES = pytest.mark.parametrize("style", ["json", "logfmt"])


def said(ran: Ran, about: str) -> list[str]:
    """What it says about something."""
    assert ran.status == 0, ran.err
    return [line.partition(":")[2].strip() for line in ran.out.splitlines() if line.strip().startswith(f"{about}:")]


def converse(path: Path, user: str, style: str = "json") -> None:
    """A client came and logged in; before and after it, others did."""
    with journal(path, style) as log:
        for number in range(50):
            log.connected(f"k3p9x2ab{number + 100}", "198.51.100.9", 2525, False)
        log.connected(CONNECTION, "192.0.2.7", 2525, True)
        log.authenticated(CONNECTION, user, "PLAIN")


@STYLES
async def test_a_refusal_is_told_with_its_numbers(relay: Shell, place: Path, style: str) -> None:
    converse(place / "journal", "app", style)
    reply = "451 4.7.0 Hourly sending limit reached (200/200 messages); retry-after=1312 at=2026-11-21T10:21:52Z"
    with journal(place / "journal", style) as log:
        log.refused(ID, "app", "hourly", 1, reply, 1312)
        log.refused(f"{CONNECTION}.2", "app", "total", 1, "550 5.7.1 Total sending limit reached (9/9 messages)", None)
    ran = await relay("ledger", "explain", ID)
    assert ran.out.startswith(f"{ID}\n")
    (came,) = said(ran, "came")
    assert f"by connection {CONNECTION} of 20" in came and came.endswith("from 192.0.2.7, with TLS")
    (ledger,) = said(ran, "ledger")
    assert "its hourly limit was reached; used 200 of 200 messages; asked for 1; it fits 1312 s later, at 2026-11-21T10:21:52Z" in ledger
    assert said(ran, "reply") == [reply] and said(ran, "charged") == ["nothing"] and said(ran, "user") == ["app"]
    assert said(ran, "now") == ["not taken: the client has it"]
    (total,) = said(await relay("ledger", "explain", f"{CONNECTION}.2"), "ledger")
    assert "its total limit was reached; used 9 of 9 messages; asked for 1" in total and "later" not in total


@STYLES
async def test_a_taken_message_is_told_with_its_charge(relay: Shell, place: Path, store: Store, style: str) -> None:
    (user,) = await add_users(relay, 1)
    converse(place / "journal", user, style)
    await send(store, user, "other")
    at = await send(store, user, ID, 3, 3)
    with journal(place / "journal", style) as log:
        log.taken(
            ID, user, "app@example.com", ["a@example.net", "b@example.net"], 3, at, 100, 0.1, f"250 2.0.0 {ID} 2.0.0 Ok: queued as 4A"
        )
    ran = await relay("ledger", "explain", ID)
    assert said(ran, "message") == ["from <app@example.com> to a@example.net, b@example.net"]
    (charged,) = said(ran, "charged")
    assert charged.startswith("3 of 3 units at 20") and charged.endswith("; 4 units ever with it (settle on record)")
    assert "took it for all recipients while the client waited" in said(ran, "smarthost")[0]
    assert said(ran, "now") == ["with the smarthost"]
    found = (await relay("ledger", "explain", ID, "--json")).json
    assert found["settle"] == {"units": 3, "accepted": 3, "rejected": 0, "outcome": "ok", "at": at, "taken": 4}
    assert (found["id"], found["user"], found["spool"]) == (ID, user, None)
    assert [event["event"] for event in found["events"]] == ["connected", "authenticated", "taken"]
    await store.command("DEL", f"{key(user)}:settles")
    (charged,) = said(await relay("ledger", "explain", ID), "charged")
    assert charged.startswith("3 units at 20") and charged.endswith("(mail log; its settle is not on record any more)")


@STYLES
async def test_a_spooled_message_is_told_with_where_it_is_now(relay: Shell, place: Path, store: Store, style: str) -> None:
    (user,) = await add_users(relay, 1)
    converse(place / "journal", user, style)
    at = await send(store, user, ID)
    with journal(place / "journal", style) as log:
        log.taken(ID, user, "app@example.com", ["a@example.net"], 1, at, 100, 0.1, f"250 2.0.0 {ID} Queued", ["a@example.net"])
        log.deferred(ID, ["a@example.net"], "450 4.2.0 busy", 2, 60.0)
    spool = Spool(place / "data" / "spool.db", "testtest", 0)
    envelope = Envelope("app@example.com", (Recipient("a@example.net"),))
    standings = (Standing(envelope.recipients[0], "waiting", "450 4.2.0 busy"),)
    now = spool.now()
    await spool.put(Entry(ID, user, "o", envelope, standings, now, now + 600, 1, 1, attempts=2), b"", b"Hello\r\n")
    ran = await relay("ledger", "explain", ID)
    assert "had not taken it for a@example.net when the client was answered" in said(ran, "smarthost")[0]
    assert "did not take it for a@example.net at attempt 2: 450 4.2.0 busy" in said(ran, "smarthost")[1]
    first, second = said(ran, "now")
    assert (
        first.startswith("in the spool of this node, waiting, 2 attempts, next try in ")
        and second == "a@example.net: waiting, 450 4.2.0 busy"
    )
    assert (await relay("ledger", "explain", ID, "--json")).json["spool"]["attempts"] == 2
    await spool.finish(ID, [Standing(envelope.recipients[0], "reported", "550 5.1.1 no")], None)
    await spool.close()
    with journal(place / "journal", style) as log:
        log.reported(ID, ["a@example.net"], "failed", "k3p9x2abr1")
    (reported,) = said(await relay("ledger", "explain", ID), "now")[:1]
    assert reported.startswith("a@example.net: reported on (failed) by k3p9x2abr1 (")
    (came,) = said(await relay("ledger", "explain", "k3p9x2abr1"), "came")
    assert came.endswith(f"a report (failed) that this relay wrote on {ID}")


async def test_a_rejected_and_an_aborted_message_cost_nothing(relay: Shell, place: Path, store: Store) -> None:
    (user,) = await add_users(relay, 1)
    converse(place / "journal", user)
    await send(store, user, ID, 1, 0, 1)
    with journal(place / "journal") as log:
        log.rejected(ID, user, "app@example.com", ["a@example.net"], "rejected", "550 5.1.1 no such user")
        log.released(f"{CONNECTION}.2", user, "aborted")
    ran = await relay("ledger", "explain", ID)
    assert said(ran, "charged")[0].startswith("nothing, 1 counted as rejected at 20")
    assert said(ran, "smarthost")[0].startswith("refused it for good") and said(ran, "reply") == ["550 5.1.1 no such user"]
    aborted = await relay("ledger", "explain", f"{CONNECTION}.2")
    assert "given back at" in said(aborted, "ledger")[0] and said(aborted, "charged") == ["nothing"]


async def test_a_charge_that_had_to_wait_is_told_with_its_instant(relay: Shell, place: Path) -> None:
    converse(place / "journal", "app")
    with journal(place / "journal") as log:
        log.taken(ID, "app", "app@example.com", ["a@example.net"], 1, 0, 100, 0.1, "250 2.0.0 Ok")
    (charged,) = said(await relay("ledger", "explain", ID), "charged")
    assert charged.startswith("1 units, but not recorded yet")
    with journal(place / "journal") as log:
        log.settled(ID, "app", 1, 1_800_000_000_000_000, True)
        log.overdraft(ID, "app", 1, 1_800_000_000_000_000)
    first, second = said(await relay("ledger", "explain", ID), "charged")
    assert first == "1 units at 2027-01-15T08:00:00.000000Z, when the store answered again (mail log)"
    assert second.startswith("beyond a limit (overdraft)")


async def test_rotated_logs_are_read_as_far_back_as_the_message_began(relay: Shell, place: Path) -> None:
    plain = place / "journal"
    converse(plain, "app")
    (place / "journal.2.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (place / "journal.3.gz").write_bytes(b"\x1f\x8b no gzip")
    (place / "journal.old-copy").write_bytes(plain.read_bytes())  # not one of logrotate's
    plain.unlink()
    with journal(place / "journal.1") as log:
        log.taken(ID, "app", "app@example.com", ["a@example.net"], 1, 1, 9, 0.1, "250 2.0.0 Queued", ["a@example.net"])
    with journal(plain) as log:
        log.delivered(ID, ["a@example.net"], "250 2.0.0 Ok", 3, 4000.0)
    os.utime(place / "journal.2.gz", (1, 2))
    os.utime(place / "journal.3.gz", (1, 1))
    os.utime(place / "journal.1", (1, 3))
    found = (await relay("ledger", "explain", ID, "--json")).json
    assert [event["event"] for event in found["events"]] == ["connected", "authenticated", "taken", "delivered"]


async def test_a_large_log_with_noise_is_read_to_its_end(relay: Shell, place: Path) -> None:
    converse(place / "journal", "app")
    with (place / "journal").open("ab") as file:
        file.write(b"INFO:     uvicorn says something\n{broken\n" + f"{{{ID}\n".encode() + b'{"id":"x"}\n' + b"\xff" * 3_000_000 + b"\n")
        file.write(b'{"ts":"2026-11-21T10:00:00.000000Z","event":"noise","id":"z"}\n' * 60_000)
        file.write(f'{{"ts":"2026-11-21T10:00:00Z","event":"released","id":"{ID}","user":"app","reason":"aborted"}}'.encode())  # no newline
    ran = await relay("ledger", "explain", ID)
    assert said(ran, "charged") == ["nothing"]


async def test_an_unknown_id_is_one_line(relay: Shell, place: Path) -> None:
    converse(place / "journal", "app")
    for id in (f"{CONNECTION}.9", "nothing", ""):
        ran = await relay("ledger", "explain", id)
        assert (ran.status, ran.out, len(ran.faults)) == (1, "", 1) and "knows of such a message" in ran.err


async def test_without_a_mail_log_the_line_says_how_to_give_one(relay: Shell, config: Path, place: Path) -> None:
    config.write_text(f'[data]\ndirectory = "{place / "data"}"\n')
    ran = await relay("ledger", "explain", ID)
    assert (ran.status, len(ran.faults)) == (2, 1) and "--journal FILE" in ran.err and "journalctl" in ran.err
    converse(place / "elsewhere", "app")
    with journal(place / "elsewhere") as log:
        log.released(ID, "app", "aborted")
    assert said(await relay("ledger", "explain", ID, "--journal", place / "elsewhere"), "charged") == ["nothing"]
    missing = await relay("ledger", "explain", ID, "--journal", place / "missing")
    assert (missing.status, missing.faults) == (2, [f"relay: {place / 'missing'}: No such file or directory"])


async def test_without_a_store_the_rest_is_told(config: Path, place: Path) -> None:
    converse(place / "journal", "app")
    with journal(place / "journal") as log:
        log.refused(ID, "app", "never", 7, "550 5.7.1 Message counts 7 recipients and never fits the limit of 5 per window", None)
    for is_started in (False, True):
        if is_started:
            open_key(place / "data" / "secret.key")
        ran = await asyncio.to_thread(invoke, app, "ledger", "explain", ID, "--config", config)
        assert len(said(ran, "unknown")) == 1
    assert "it counts 7 recipients, the limit is 5; asked for 7" in said(ran, "ledger")[0]


async def test_a_reply_of_foreign_origin_cannot_write_to_the_terminal(relay: Shell, place: Path) -> None:
    converse(place / "journal", "app")
    with journal(place / "journal") as log:
        log.rejected(ID, "app", "app@example.com", ["a@example.net"], "rejected", "550 \x1b[2J\nnow: stolen")
    ran = await relay("ledger", "explain", ID)
    assert "\x1b" not in ran.out and said(ran, "now") == ["not taken: the client has it"]


async def test_the_mail_log_may_come_by_standard_input(relay: Shell, place: Path) -> None:
    converse(place / "elsewhere", "app")
    with journal(place / "elsewhere") as log:
        log.released(ID, "app", "aborted")
    ran = await relay("ledger", "explain", ID, "--journal", "-", said=(place / "elsewhere").read_text())
    assert said(ran, "charged") == ["nothing"]
    unknown = await relay("ledger", "explain", ID, "--journal", "-", said="")
    assert unknown.faults == [f"relay: '{ID}': neither standard input nor the spool of this node knows of such a message"]


async def test_a_log_of_which_no_line_can_be_read_is_not_taken_for_one_that_knows_nothing(relay: Shell, place: Path) -> None:
    converse(place / "plain", "app")
    with journal(place / "plain") as log:
        log.released(ID, "app", "aborted")
    lines = (place / "plain").read_text().splitlines()
    (place / "journal").write_text("".join(f"Nov 21 10:00:00 host relay[1]: {line}\n" for line in lines))
    ran = await relay("ledger", "explain", ID)
    assert (ran.status, len(ran.faults)) == (1, 1)
    assert ran.err.endswith(f"; no line of {place / 'journal'} that names it could be read: 3 are not as the relay writes them\n")
