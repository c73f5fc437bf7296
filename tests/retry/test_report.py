"""Who is told what of a spooled message: every failed recipient ends reported, discarded with a reason, or held with its report."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.dsn import Action
from relay.mail.envelope import Envelope, Recipient
from relay.retry.report import Reporting, reports_for, status_of
from relay.spool.entry import Entry, Kind, Standing, State

REFUSED = "550 5.1.1 upstream said: No such user"
LATE = "451 4.4.1 Upstream not reachable (TimeoutError)"
TAKEN = "250 2.0.0 Ok: queued as 4XYZ"


def standing(name: str, state: State, reply: str = "", notify: str = "", in_doubt: bool = False) -> Standing:
    return Standing(Recipient(f"{name}@dest.example", notify), state, reply, in_doubt)


def spooled(*standings: Standing, sender: str = "alice@app.example", kind: Kind = "mail", body: str = "", ret: str = "") -> Entry:
    """An entry as it stood before its recipients' new standings."""
    recipients = tuple(one.recipient for one in standings)
    before = tuple(Standing(one) for one in recipients)
    return Entry("origin1", "user1", "owner1", Envelope(sender, recipients, body, ret), before, 1000.0, 2000.0, units=1, kind=kind)


def tell(entry: Entry, standings: Sequence[Standing], is_warning: bool = False, wire: bytes = b"A: b\r\n\r\nc\r\n") -> Reporting:
    ids = itertools.count(1)
    return reports_for(
        entry, standings, b"Received: x\r\n", wire, new_id=lambda: f"report{next(ids)}", hostname="relay.example", now=5000.0,
        remote="mx.dest.example", last_attempt=4999.0, is_warning=is_warning, retry_until=9000.0,
    )  # fmt: skip


def test_one_report_tells_of_all_recipients_with_the_same_action() -> None:
    standings = (
        standing("bob", "failed", REFUSED), standing("carol", "delivered", TAKEN), standing("dora", "relayed", TAKEN, "SUCCESS"),
        standing("erin", "failed", LATE), standing("fred", "waiting", LATE),
    )  # fmt: skip
    outcome = tell(spooled(*standings), standings)
    assert [one.state for one in outcome.standings] == ["reported", "delivered", "reported", "reported", "waiting"]
    assert outcome.reported == (
        (("bob@dest.example", "erin@dest.example"), "failed", "report1"),
        (("dora@dest.example",), "relayed", "report2"),
    )
    assert [entry.id for entry, _, _ in outcome.reports] == ["report1", "report2"]
    failed, relayed = (wire for _, _, wire in outcome.reports)
    assert b"Final-Recipient: rfc822; bob@" in failed and b"Final-Recipient: rfc822; erin@" in failed
    assert b"dora@" not in failed and b"carol@" not in failed and b"fred@" not in failed
    assert b"Final-Recipient: rfc822; dora@" in relayed and b"bob@" not in relayed
    assert outcome.discarded == () and not outcome.is_undeliverable


def test_the_entry_of_a_report_is_its_users_and_owners_and_uncharged() -> None:
    one = standing("bob", "failed", REFUSED)
    entry = spooled(one, body="8BITMIME", ret="FULL")
    [(report, prefix, wire)] = tell(entry, (one,)).reports
    recipient = Recipient("alice@app.example", "NEVER")
    assert report == Entry(
        "report1", "user1", "owner1", Envelope("", (recipient,)), (Standing(recipient),), 5000.0, 5000.0, is_settled=True, kind="dsn",
        origin="origin1", size=len(wire),
    )  # fmt: skip
    assert prefix == b""
    [(report, _, wire)] = tell(entry, (one,), wire=b"A: b\r\n\r\n\xe9\r\n").reports
    assert report.envelope.body == "8BITMIME" and not wire.isascii()


@pytest.mark.parametrize(("sender", "is_utf8"), [("alice@app.example", False), ("älice@app.example", True)])
def test_a_report_goes_by_smtputf8_if_the_address_it_goes_to_needs_it(sender: str, is_utf8: bool) -> None:
    one = standing("bób", "failed", REFUSED)
    entry = spooled(one, sender=sender)
    [(report, _, wire)] = tell(replace(entry, envelope=entry.envelope._replace(smtputf8=True)), (one,)).reports
    assert report.envelope == Envelope("", (Recipient(sender, "NEVER"),), "8BITMIME" if is_utf8 else "", smtputf8=is_utf8)
    assert wire.isascii() != is_utf8 and report.size == len(wire)


def test_what_the_smarthost_said_and_what_the_relay_found_are_told_apart() -> None:
    theirs, ours = standing("bob", "failed", REFUSED), standing("erin", "failed", LATE, in_doubt=True)
    [(_, _, wire)] = tell(spooled(theirs), (theirs,)).reports
    assert b"Diagnostic-Code: smtp; 550 5.1.1 No such user\r\n" in wire
    assert b"\r\nStatus: 5.1.1\r\nRemote-MTA: dns; mx.dest.example\r\n" in wire
    [(_, _, wire)] = tell(spooled(ours), (ours,)).reports
    assert b"Diagnostic-Code: smtp; 451 4.4.1 Upstream not reachable (TimeoutError)\r\n" in wire
    assert b"\r\nStatus: 5.4.7\r\n" in wire and b"Remote-MTA" not in wire
    assert b"may have been delivered all the same" in b" ".join(wire.split())
    assert b"\r\nArrival-Date: Thu, 01 Jan 1970 00:16:40 +0000\r\n" in wire
    assert b"\r\nLast-Attempt-Date: Thu, 01 Jan 1970 01:23:19 +0000\r\n" in wire


def test_a_warning_tells_of_the_waiting_who_allow_it_and_leaves_them_waiting() -> None:
    standings = (
        standing("bob", "waiting", LATE),
        standing("carol", "waiting", LATE, "FAILURE"),
        standing("dora", "waiting", LATE, "DELAY"),
    )
    entry = spooled(*standings)
    assert tell(entry, standings) == Reporting(standings)
    outcome = tell(entry, standings, is_warning=True)
    assert outcome.standings == standings
    assert outcome.reported == ((("bob@dest.example", "dora@dest.example"), "delayed", "report1"),)
    assert b"\r\nWill-Retry-Until: Thu, 01 Jan 1970 02:30:00 +0000\r\n" in outcome.reports[0][2]


@pytest.mark.parametrize(
    ("sender", "notify", "reason"), [("", "", "null_sender"), ("a@app.example", "NEVER", "never"), ("a@app.example", "DELAY", "never")]
)
def test_a_failure_that_nobody_may_or_wants_to_hear_of_is_discarded_with_its_reason(sender: str, notify: str, reason: str) -> None:
    standings = (standing("bob", "failed", REFUSED, notify), standing("carol", "discarded", REFUSED, notify))
    outcome = tell(spooled(*standings, sender=sender), standings)
    assert [one.state for one in outcome.standings] == ["discarded", "discarded"]
    assert outcome.discarded == ((("bob@dest.example",), reason),)
    assert outcome.reports == () and outcome.reported == ()


def test_a_report_that_fails_is_neither_reported_nor_discarded_but_kept_for_a_person() -> None:
    failed = standing("alice", "failed", REFUSED, "NEVER")
    outcome = tell(spooled(failed, sender="", kind="dsn"), (failed,))
    assert outcome == Reporting((replace(failed, state="waiting"),), is_undeliverable=True)
    delivered = replace(failed, state="delivered")
    assert tell(spooled(failed, sender="", kind="dsn"), (delivered,)) == Reporting((delivered,))


def test_a_relayed_recipient_of_whom_no_report_is_wanted_is_simply_delivered() -> None:
    one = standing("bob", "relayed", TAKEN)
    assert [after.state for after in tell(spooled(one), (one,)).standings] == ["delivered"]


@pytest.mark.parametrize(
    ("reply", "action", "status"),
    [
        ("550 5.1.1 No such user", "failed", "5.1.1"),
        ("550 5.1.1", "failed", "5.1.1"),
        ("550 No such user", "failed", "5.0.0"),
        ("550 5.01.1 No", "failed", "5.0.0"),
        ("550 5.1.1234 No", "failed", "5.0.0"),
        ("550 4.1.1 No", "failed", "5.0.0"),
        ("451 4.4.1 Not reachable", "failed", "5.4.7"),
        ("", "failed", "5.4.7"),
        ("nonsense", "failed", "5.4.7"),
        ("451 4.4.1 Not reachable", "delayed", "4.4.1"),
        ("", "delayed", "4.0.0"),
        ("250 2.1.5 Ok", "relayed", "2.1.5"),
        ("250 Ok", "relayed", "2.0.0"),
    ],
)
def test_the_status_is_the_replys_where_it_has_one_of_that_class(reply: str, action: Action, status: str) -> None:
    assert status_of(reply, action) == status


STANDINGS = st.lists(
    st.builds(
        lambda state, reply, notify, in_doubt: ("x", state, reply, notify, in_doubt), st.sampled_from(get_args(State)),
        st.sampled_from(["", REFUSED, LATE, TAKEN]), st.sampled_from(["", "NEVER", "SUCCESS", "FAILURE", "DELAY", "SUCCESS,FAILURE,DELAY"]),
        st.booleans(),
    ),
    min_size=1, max_size=5,
)  # fmt: skip


@given(STANDINGS, st.sampled_from(["", "alice@app.example"]), st.sampled_from(get_args(Kind)), st.booleans())
def test_every_recipient_is_accounted_for_once(
    drawn: list[tuple[str, State, str, str, bool]], sender: str, kind: Kind, is_warning: bool
) -> None:
    standings = tuple(standing(f"r{number}", *rest) for number, (_, *rest) in enumerate(drawn))  # type: ignore[arg-type]
    entry = spooled(*standings, sender=sender, kind=kind)
    outcome = tell(entry, standings, is_warning)
    assert [one.recipient for one in outcome.standings] == [one.recipient for one in standings]
    told = {address: action for addresses, action, _ in outcome.reported for address in addresses}
    silent = {address for addresses, _ in outcome.discarded for address in addresses}
    for before, after in zip(standings, outcome.standings, strict=True):
        address = before.recipient.address
        assert not (address in told and address in silent)
        assert after.state not in ("failed", "relayed")
        if before.state == "failed":
            held = kind == "dsn"
            assert (told.get(address) == "failed") + (address in silent) + held == 1
            assert after.state == ("waiting" if held else "reported" if address in told else "discarded")
        elif before.state == "relayed":
            assert after.state == ("reported" if told.get(address) == "relayed" else "delivered")
        else:
            assert after == before and address not in silent
            assert told.get(address, "delayed") == "delayed"
    assert outcome.is_undeliverable == (kind == "dsn" and any(one.state == "failed" for one in standings))
    assert len({id for _, _, id in outcome.reported}) == len(outcome.reports) <= 3
