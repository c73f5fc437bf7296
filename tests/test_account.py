"""The account can fail: each kind of violation, planted into records of a run that was in order, is found, and alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from relay.loadkit.received import Received
from relay.mail import dsn, trace
from relay.mail.envelope import Envelope, Recipient
from tests.account import Book, Commit, Copy, Evidence, Kept, Sent, assert_account, violations
from tests.copies import read_copy

Event = dict[str, Any]

A, B, C, D, E = (f"{name}@load.example" for name in "abcde")
"""Marks, which are senders: A delivered at once; B in part, the rest from the spool after a doubt; C refused; D taken without a reply,
its worker killed before it could write a line; E with one recipient reported, one waiting, one discarded."""


def event(name: str, id: str, **fields: Any) -> Event:
    return {"event": name, "id": id, **fields}


def in_order() -> Evidence:
    """A run in order, with a bit of everything that may happen."""
    return Evidence(
        sent=[
            Sent(A, "app", ("1@x",), "taken", "ida"),
            Sent(B, "app", ("1@x", "2@x"), "taken", "idb"),
            Sent(C, "app", ("1@x",), "refused", reply="451 4.7.0 Hourly sending limit reached"),
            Sent(D, "app", ("1@x",), "silent"),
            Sent(E, "app", ("bad@x", "2@x", "never@x"), "taken", "ide"),
        ],
        events=[
            event("taken", "ida", user="app", sender=A, recipients=["1@x"], units=1, at=1_000_000),
            event("taken", "idb", user="app", sender=B, recipients=["1@x", "2@x"], units=1, at=2_000_000, spooled=["2@x"]),
            event("in_doubt", "idb", recipients=["2@x"], reply=""),
            event("delivered", "idb", recipients=["2@x"], reply="250 Ok"),
            event("taken", "ide", user="app", sender=E, recipients=["bad@x", "2@x", "never@x"], units=1, at=12_500_000),
            event("reported", "ide", recipients=["bad@x"], action="failed", dsn="dsn1"),
            event("discarded", "ide", recipients=["never@x"], reason="never"),
        ],
        copies=[
            Copy("ida", A, ("1@x",)),
            Copy("idb", B, ("1@x", "2@x")),
            Copy("idb", B, ("2@x",)),
            Copy("idd", D, ("1@x",)),
            Copy("dsn1", "", (E,), ("bad@x",)),
        ],
        kept=[Kept("ide", E, {"bad@x": "reported", "2@x": "waiting", "never@x": "discarded"})],
        books=[Book("app", 3, 100, 4, 0, (
            Commit("ida", 1, 1_000_000), Commit("idb", 1, 2_000_000), Commit("idd", 1, 3_000_000), Commit("ide", 1, 12_500_000),
        ))],
        window=10.0,
    )  # fmt: skip


def change(**fields: Any) -> Callable[[Evidence], Evidence]:
    return lambda evidence: dataclasses.replace(evidence, **fields)


def more(what: str, *things: Any) -> Callable[[Evidence], Evidence]:
    def plant(evidence: Evidence) -> Evidence:
        fields: dict[str, Any] = {what: [*getattr(evidence, what), *things]}
        return dataclasses.replace(evidence, **fields)

    return plant


def less(what: str, index: int) -> Callable[[Evidence], Evidence]:
    def plant(evidence: Evidence) -> Evidence:
        things = list(getattr(evidence, what))
        fields: dict[str, Any] = {what: things[:index] + things[index + 1 :]}
        return dataclasses.replace(evidence, **fields)

    return plant


def book(**fields: Any) -> Callable[[Evidence], Evidence]:
    return lambda evidence: dataclasses.replace(evidence, books=[dataclasses.replace(evidence.books[0], **fields)])


def commits(*changed: Commit, charged: int) -> Callable[[Evidence], Evidence]:
    """The ledger's records with these in the place of those of the same id, or beside them."""

    def plant(evidence: Evidence) -> Evidence:
        ids = {commit.id for commit in changed}
        own = [commit for commit in evidence.books[0].commits or () if commit.id not in ids]
        return book(commits=(*own, *changed), charged=charged)(evidence)

    return plant


def both(*plants: Callable[[Evidence], Evidence]) -> Callable[[Evidence], Evidence]:
    def plant(evidence: Evidence) -> Evidence:
        for one in plants:
            evidence = one(evidence)
        return evidence

    return plant


def taken(id: str, mark: str, at: int = 30_000_000, user: str = "app") -> Event:
    return event("taken", id, user=user, sender=mark, recipients=["1@x"], units=1, at=at)


PLANTED: dict[str, tuple[Callable[[Evidence], Evidence], list[str]]] = {
    "a 250 that is not taken": (
        both(more("sent", Sent("f@load.example", "app", ("1@x",), "taken", "idf"))),
        ["answered 250 and not taken: f@load.example as idf"],
    ),
    "one id in two answers": (
        more("sent", Sent("f@load.example", "app", ("1@x",), "taken", "ida")),
        ["one id in 2 answers: ida"],
    ),
    "a message taken twice by the journal": (more("events", taken("ida", A, 1_000_000)), ["taken 2 times by the journal: ida"]),
    "a message taken under two ids": (
        both(more("events", taken("idz", A)), commits(Commit("idz", 1, 30_000_000), charged=5)),
        ["taken twice: a@load.example as ida, idz"],
    ),
    "a charge of a message that nobody sent": (
        commits(Commit("ghost", 1, 30_000_000), charged=5),
        ["taken and nobody sent it: ghost of app", "taken and nowhere: ghost of app"],
    ),
    "a refused message that is charged": (
        both(more("events", taken("idc", C)), commits(Commit("idc", 1, 30_000_000), charged=5), more("copies", Copy("idc", C, ("1@x",)))),
        ["taken though the client heard otherwise: c@load.example as idc, refused: 451"],
    ),
    "a message that is charged to another": (
        lambda evidence: dataclasses.replace(evidence, sent=[dataclasses.replace(evidence.sent[0], user="other"), *evidence.sent[1:]]),
        ["charged to another: a@load.example of other, taken as ida of app"],
    ),
    "a counter that is too high": (book(charged=5), ["charged 5 and taken 4: app"]),
    "a counter that is too low": (book(charged=3), ["charged 3 and taken 4: app"]),
    "capacity that did not come back": (book(in_flight=2), ["capacity still held at rest: 2 of app"]),
    "a taken message without a charge": (
        lambda evidence: book(commits=evidence.books[0].commits[1:])(evidence),  # type: ignore[index]
        ["taken and never charged: ida"],
    ),
    "a message charged twice": (
        commits(Commit("ida", 1, 1_000_000), Commit("ida", 1, 30_000_000), charged=5),
        ["charged 2 times: ida"],
    ),
    "a message delivered from the spool without a charge": (
        both(more("sent", Sent("f@load.example", "app", ("1@x",), "silent")), more("copies", Copy("idf", "f@load.example", ("1@x",))),
             more("events", event("delivered", "idf", recipients=["1@x"], reply="250 Ok"))),
        ["in the spool and never charged: idf (f@load.example)"],
    ),
    "a message that stays in the spool without a charge": (
        both(more("sent", Sent("f@load.example", "app", ("1@x",), "silent")),
             more("kept", Kept("idf", "f@load.example", {"1@x": "waiting"}))),
        ["in the spool and never charged: idf (f@load.example)"],
    ),
    "an instant that the journal tells otherwise": (
        commits(Commit("ida", 1, 1_500_000), charged=4),
        ["the journal's commit instant is not the ledger's: ida, 1000000 and 1500000"],
    ),
    "one more in a window than the limit": (
        book(hourly=2),
        ["3 of 2 units in a window of 10 s: app at idd"],
    ),
    "one more in all than the limit": (book(total=3), ["4 of 3 units in all: app at ide"]),
    "a charge whose instant nobody knows": (commits(Commit("idd", 1, 0), charged=4), ["commit instant never recorded: idd of app"]),
    "a recipient that is nowhere": (less("copies", 3), ["taken and nobody sent it: idd", "taken and nowhere: idd"]),
    "a recipient that the journal says was delivered to and the sink has not": (
        less("copies", 0),
        ["lost: 1@x of a@load.example, taken as ida"],
    ),
    "a spooled recipient that vanished": (
        change(kept=[]),
        ["lost: 2@x of e@load.example, taken as ide"],
    ),
    "a recipient that is delivered to and still spooled": (
        more("copies", Copy("ide", E, ("2@x",))),
        ["delivered and spooled: 2@x of e@load.example"],
    ),
    "a recipient that is delivered to and reported": (
        more("copies", Copy("ide", E, ("bad@x",))),
        ["delivered and reported: bad@x of e@load.example"],
    ),
    "a recipient that is reported and discarded": (
        more("events", event("discarded", "ide", recipients=["bad@x"], reason="operator")),
        ["reported and discarded: bad@x of e@load.example"],
    ),
    "a copy too many": (more("copies", Copy("ida", A, ("1@x",))), ["2 copies, 0 records of doubt: a@load.example to 1@x"]),
    "a copy too many for one doubt": (more("copies", Copy("idb", B, ("2@x",))), ["3 copies, 1 records of doubt: b@load.example to 2@x"]),
    "two copies of a message that got no reply": (
        more("copies", Copy("idd", D, ("1@x",))),
        ["2 copies, 0 records of doubt: d@load.example to 1@x"],
    ),
    "a refused message at the sink": (
        more("copies", Copy("idc", C, ("1@x",))),
        ["at the sink though the client heard otherwise: c@load.example to 1@x, refused: 451"],
    ),
    "a copy to somebody it was not sent to": (more("copies", Copy("ida", A, ("9@x",))), ["delivered to a stranger: a@load.example to 9@x"]),
    "a copy of a message that nobody sent": (
        more("copies", Copy("idz", "z@load.example", ("1@x",))),
        ["at the sink and nobody sent it: z@load.example"],
    ),
    "a damaged copy": (
        both(less("copies", 0), more("copies", Copy("ida", A, ("1@x",), is_intact=False))),
        ["damaged on its way: a@load.example"],
    ),
    "a report that is in no spool and not at the sink": (less("copies", 4), ["a report that is nowhere: dsn1 on bad@x of e@load.example"]),
    "a second report": (
        more("copies", Copy("dsn2", "", (E,), ("bad@x",))),
        ["reported 2 times: bad@x of e@load.example in dsn1, dsn2"],
    ),
    "a report on a refused message": (
        more("copies", Copy("dsn2", "", (C,), ("1@x",))),
        ["a report on what was not taken: dsn2 on 1@x of c@load.example"],
    ),
    "a copy of a report too many": (
        more("copies", Copy("dsn1", "", (E,), ("bad@x",))),
        ["2 copies of a report, 0 records of doubt: dsn1 to e@load.example"],
    ),
}  # fmt: skip


def test_a_run_in_order_has_no_violation() -> None:
    assert_account(in_order())


@pytest.mark.parametrize("plant", PLANTED)
def test_the_account_finds(plant: str) -> None:
    planted, expected = PLANTED[plant]
    found = violations(planted(in_order()))
    assert len(found) == len(expected), found
    for line, text in zip(found, expected, strict=True):
        assert line.startswith(text)
    with pytest.raises(AssertionError, match=f"{len(expected)} violations"):
        assert_account(planted(in_order()))


PERMITTED: dict[str, Callable[[Evidence], Evidence]] = {
    "a killed transaction that is at the sink, uncharged": both(
        more("sent", Sent("f@load.example", "app", ("1@x",), "silent")), more("copies", Copy("idf", "f@load.example", ("1@x",)))
    ),
    "a refused delivery in doubt": both(
        more("copies", Copy("idc", C, ("1@x",))),
        more("events", event("rejected", "idc", user="app", sender=C, recipients=["1@x"], outcome="in_doubt")),
    ),
    "a copy of a report after a kill": both(
        more("copies", Copy("dsn1", "", (E,), ("bad@x",))), more("events", event("killed_in_flight", "dsn1", recipients=[E]))
    ),
    "a doubtful delivery that was reported in the end": both(
        more("copies", Copy("ide", E, ("bad@x",))), more("events", event("in_doubt", "ide", recipients=["bad@x"]))
    ),
    "a report still in the spool": both(less("copies", 4), more("kept", Kept("dsn1", "", {E: "waiting"}, "dsn", "ide"))),
    "a report whose line could not be written": less("events", 5),
    "an overdraft": both(book(hourly=2), commits(Commit("idd", 1, 3_000_000, is_overdraft=True), charged=4)),
    "commits a window apart": both(
        book(hourly=1),
        lambda evidence: dataclasses.replace(
            evidence,
            books=[dataclasses.replace(evidence.books[0], commits=tuple(
                dataclasses.replace(c, at=n * 10_000_000 + 1) for n, c in enumerate(evidence.books[0].commits or ())
            ))],
            events=[{**line, **({"at": 0} if "at" in line else {})} for line in evidence.events],
        ),
    ),
    "a ledger without records": both(
        book(commits=None, charged=4), more("events", event("settled", "idd", user="app", units=1, at=3_000_000, late=False))
    ),
}  # fmt: skip


@pytest.mark.parametrize("plant", PERMITTED)
def test_the_account_permits(plant: str) -> None:
    assert_account(PERMITTED[plant](in_order()))


def test_without_the_ledgers_records_the_journals_instants_are_judged() -> None:
    evidence = book(commits=None, hourly=1, charged=3)(in_order())
    evidence = dataclasses.replace(
        evidence, sent=[s for s in evidence.sent if s.mark != D], copies=[c for c in evidence.copies if c.mark != D]
    )
    assert violations(evidence) == ["2 of 1 units in a window of 10 s: app at idb"]


def test_a_copy_is_known_by_the_id_of_the_relays_own_received_field() -> None:
    wire = b"Message-ID: <its-own@app.example>\r\nSubject: x\r\n\r\nid nobody;\r\n"
    hop = trace.Hop("app", "127.0.0.1", "relay.example", "ESMTPA")
    for address in ("1@x", ""):
        content = trace.prefix(trace.read_header(wire, b"relay.example"), hop, "abc.1", "Sat, 21 Nov 2026 12:00:00 +0000", address) + wire
        received = Received(A, ("1@x",), "", ("",), len(content), "", True, "", 0.0, content=content)
        assert read_copy(received) == Copy("abc.1", A, ("1@x",))


def test_a_report_is_read_by_whom_it_says_has_failed() -> None:
    notification = dsn.compose(
        Envelope(A, (Recipient("bad@x"), Recipient("late@x"))), [dsn.Report(Recipient("bad@x"), "failed", "5.1.1", "550 5.1.1 no")],
        id="dsn1", origin="abc.1", hostname="relay.example", arrived=1.0, date=2.0, prefix=b"", wire=b"Subject: x\r\n\r\nx\r\n",
    )  # fmt: skip
    received = Received("", (A,), "", ("",), 0, "", True, "", 0.0, content=notification.wire)
    assert read_copy(received) == Copy("dsn1", "", (A,), ("bad@x",))
