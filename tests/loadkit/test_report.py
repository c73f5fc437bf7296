"""The live view: what it says of a load that runs, and what it costs."""

from __future__ import annotations

import io
import time

from rich.console import Console

from relay.loadkit.report import Display, Positions, Recent, Tally
from relay.loadkit.verdict import Limits, Rules
from tests.loadkit.outcomes import attempt


def seen(display: Display, now: float) -> str:
    """The view as a terminal without colours shows it."""
    text = io.StringIO()
    Console(file=text, width=110, no_color=True).print(display.view(now))
    return text.getvalue()


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=110)


def test_where_there_is_no_terminal_nothing_is_drawn_and_all_is_counted() -> None:
    text = io.StringIO()
    with Display(Console(file=text)) as display:
        display.show([attempt(0), attempt(1, code=451)])
    assert text.getvalue() == ""
    assert (display.tally.taken, display.tally.refused) == (1, 1)


def test_a_look_tells_pace_replies_positions_and_what_remains() -> None:
    began = time.monotonic()
    attempts = [attempt(began, "app"), attempt(began, "app"), attempt(began, "app", 451), attempt(began, "other", 0)]
    with Display(terminal(), {"app": Limits(4, 100)}, Rules(60.0), seconds=30) as display:
        display.show(attempts)
        text = seen(display, time.monotonic())
    for words in ("4 messages", "s left", "/s taken", "/s refused", "without a reply", "p99 4", "451 data", "none dot", "2 / 4", "2 / 100"):
        assert words in text, words


def test_what_remains_is_judged_by_messages_where_their_number_is_known() -> None:
    display = Display(terminal(), messages=10)
    began = time.monotonic()
    display.show([attempt(began)] * 5)
    assert "10 s left" in seen(display, began + 10)
    assert "left" not in seen(Display(terminal()), began)


def test_a_name_is_never_more_than_text() -> None:
    display = Display(terminal())
    display.show([attempt(0, "[red]\x1b[2J\nx")])
    text = seen(display, time.monotonic())
    assert "[red]?[2J?x" in text and "\x1b" not in text


def test_only_the_last_seconds_are_now() -> None:
    recent = Recent()
    recent.add(100.5, [attempt(0, took=5.0)] * 100)
    for second in range(101, 111):
        recent.add(second + 0.5, [attempt(0, took=0.01)] * 10)
    assert 8 < recent.rate(110.9, 60, "taken") < 12
    slow = recent.quantile(110.9, 0.99)
    assert slow is not None and 9 < slow < 11
    assert recent.quantile(200, 0.5) is None and recent.rate(200, 60, "taken") == 0


def test_a_window_slides_and_the_fullest_come_first() -> None:
    positions = Positions({"a": Limits(10, None), "b": Limits(4, None)}, Rules(5.0))
    positions.add([attempt(0, "a", took=0)] * 3 + [attempt(2, "b", took=0)] * 2 + [attempt(2, "c", took=0)] * 9)
    assert positions.fullest(4) == [("b", 2, 2), ("a", 3, 3), ("c", 9, 9)]
    assert positions.fullest(6) == [("b", 2, 2), ("c", 9, 9), ("a", 0, 3)]
    assert [held for _, held, _ in positions.fullest(60)] == [0, 0, 0]


def test_of_many_users_ten_are_shown() -> None:
    display = Display(terminal())
    display.show([attempt(0, f"u{n}") for n in range(2000)])
    text = seen(display, 1)
    assert "fullest 10 of 2,000 users" in text and len(text.splitlines()) < 25


def test_a_look_counts_what_is_new_and_nothing_else() -> None:
    class Watched(list):  # type: ignore[type-arg]
        looked = 0

        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            found = super().__getitem__(index)
            Watched.looked += len(found)
            return found

    attempts = Watched(attempt(0) for _ in range(1000))
    tally = Tally()
    for _ in range(50):
        tally.add(attempts)
    assert Watched.looked == 1000
    assert tally.as_dict()["p50_ms"] == 4.0
