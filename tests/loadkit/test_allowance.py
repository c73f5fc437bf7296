"""The limits of a sink, against the plainest way to keep them."""

from __future__ import annotations

from random import Random

import pytest

from relay.loadkit.allowance import FEW, LEASE, SECOND, Allowance, Book, Books

START = 1_790_000_000 * SECOND


def send(book: Book, now: int, id: str = "m", units: int = 1) -> str:
    """Reserve and take; what stood against it."""
    refusal = book.reserve(now, id, units)
    if refusal is None:
        book.settle(now, id, units)
    return "" if refusal is None else refusal.reason


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is needed"), ("window=5", "is needed"), ("hourly=0", "hourly=0"), ("hourly=-1", "hourly=-1"), ("hourly=x", "hourly=x"),
        ("hourly", "hourly is not"), ("hourly=1,hourly=2", "twice"), ("hourly=1,frob=2", "frob is none"), ("hourly=1,unit=kg", "unit=kg"),
        ("total=1,window=0", "window=0"), ("hourly=1e3", "hourly=1e3"), ("hourly=٣", "not a whole number"),
    ],
)  # fmt: skip
def test_a_wrong_quota_is_refused_by_what_is_wrong(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Allowance.parse(text)


def test_a_quota_reads_as_it_is_written() -> None:
    assert Allowance.parse(" hourly=500, total=5000 ") == Allowance(500, 5000)
    assert Allowance.parse("total=7,window=60,unit=recipients") == Allowance(None, 7, 60, "recipients")
    assert str(Allowance(5, None, 60)) == "5 messages in 60 s, no total limit"
    assert (Allowance(5).cap, Allowance(500).cap, Allowance(None, 5).cap) == (50, 1000, 1000)


def test_over_random_histories_no_window_holds_more_and_every_retry_after_is_right() -> None:
    for seed in range(60):
        random = Random(seed)
        allowance = Allowance(random.randint(1, 8), random.choice([None, 40]), random.randint(1, 6))
        book, now, taken = Book(allowance), START, []
        for number in range(120):
            now += random.randint(0, SECOND)
            units = random.randint(1, 3)
            refusal = book.reserve(now, str(number), units)
            if refusal is None:
                book.settle(now, str(number), units)
                taken.append((now, units))
                inside = sum(n for at, n in taken if at > now - allowance.window * SECOND)
                assert inside <= (allowance.hourly or 0)
                assert sum(n for _, n in taken) <= (allowance.total or 10**9)
            elif refusal.reason == "hourly":
                # What it says is the first second from which it fits, to the whole second in which an entry leaves.
                assert refusal.at is not None and refusal.retry_after is not None
                at = refusal.at * SECOND
                left = sum(n for when, n in taken if (when // SECOND + 1 + allowance.window) * SECOND > at)
                before = sum(n for when, n in taken if (when // SECOND + 1 + allowance.window) * SECOND > at - SECOND)
                assert left + units <= (allowance.hourly or 0) < before + units
                assert 0 <= at - now <= refusal.retry_after * SECOND + SECOND


def test_what_is_in_flight_is_held_and_what_is_given_back_is_free() -> None:
    book = Book(Allowance(2, 3))
    assert book.reserve(START, "a", 1) is None and book.reserve(START, "b", 1) is None
    refusal = book.reserve(START + SECOND, "c", 1)
    assert refusal is not None
    assert (refusal.reason, refusal.used, refusal.limit, refusal.retry_after) == ("in_flight", 2, 2, LEASE // SECOND - 1)
    book.settle(START, "a", 0)
    book.settle(START, "a", 1)  # it is held no more: no effect
    assert (book.log.total, book.in_flight) == (0, 1)
    assert send(book, START) == "" and send(book, START) == "in_flight"
    book.settle(START, "b", 1)
    assert send(book, START) == "hourly"
    assert send(book, START + 3601 * SECOND) == "" and send(book, START + 3601 * SECOND) == "total"


def test_a_message_that_can_never_fit_is_told_so() -> None:
    refusal = Book(Allowance(5, 100, unit="recipients")).reserve(START, "a", 6)
    assert refusal is not None
    assert (refusal.reason, refusal.used, refusal.limit, refusal.retry_after) == ("never", 6, 5, None)


def test_what_was_rejected_is_free_up_to_its_own_cap() -> None:
    book = Book(Allowance(10, 100, 60))
    for number in range(50):
        assert book.reserve(START, str(number), 1) is None
        book.settle(START, str(number), 0, 1)
    refusal = book.reserve(START, "x", 1)
    assert refusal is not None
    assert (refusal.reason, refusal.used, refusal.limit, refusal.retry_after) == ("rejected", 50, 50, 61)
    assert send(book, START + 61 * SECOND) == ""


def test_a_long_history_is_forgotten_and_the_sums_stay_right() -> None:
    book = Book(Allowance(10, None, 5))
    for number in range(5000):
        assert send(book, START + number * SECOND) == ""
    assert len(book.log.seconds) < 1100
    assert (book.log.total, book.log.held) == (5000, 6)


def test_each_user_has_a_book_of_its_own_and_a_clock_set_back_opens_none() -> None:
    clock = [START, START, START, START - 7200 * SECOND]
    books = Books(Allowance(1), lambda: clock.pop(0))
    assert books.reserve("a", "1", 3) is None
    books.settle("a", "1", taken=3)
    assert books.reserve("b", "2", 1) is None
    refusal = books.reserve("a", "3", 1)
    assert refusal is not None and refusal.retry_after == 3601 and books.refusals == 1


def test_unlimited_is_a_limit_that_can_be_named() -> None:
    assert Allowance.parse("hourly=unlimited,total=5") == Allowance(None, 5)
    assert Allowance.parse("hourly=unlimited") == Allowance()


@pytest.mark.parametrize(("total", "left"), [(None, 2), (1, FEW + 1)])
def test_accounts_are_closed_when_nothing_in_them_matters_any_more(total: int | None, left: int) -> None:
    now = SECOND
    books = Books(Allowance(5, total, 1), lambda: now)
    books.reserve("held", "m", 1)
    for number in range(FEW - 1):
        books.reserve(f"u{number}", "m", 1)
        books.settle(f"u{number}", "m", taken=1)
    now = 10 * SECOND
    books.reserve("last", "m", 1)
    assert len(books.by_user) == left
    assert "held" in books.by_user
    refusal = books.reserve("u0", "n", 1)
    assert (refusal is None) == (total is None)
