"""The report page and its document: what stands there, whatever the load was."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from relay.loadkit.change import Change
from relay.loadkit.outcome import Outcome
from relay.loadkit.page import document, page, sentence
from relay.loadkit.verdict import Check, Finding, Limits, Usage, Verdict
from tests.loadkit.outcomes import BEGAN, HELD, attempt, commit, history, outcome

VOID = {"meta", "br"}
HOSTILE = "</title><script>alert('x')</script>\"' onload=\"x\x1b[31m\x00&amp;\ud800 ü"


class Reader(HTMLParser):
    """Notes tags, attributes and text; a tag that closes another one fails."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(subject: Outcome) -> Reader:
    """Read a page, and hold it against what every page promises."""
    text = page(subject)
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    assert not {"script", "link", "img", "iframe", "object", "form", "a"} & set(reader.tags)
    assert not {name for name in reader.attributes if name.startswith("on") or name in ("href", "src", "srcset")}
    assert "url(" not in text and "@import" not in text
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    assert drawings
    text.encode()
    json.dumps(document(subject), allow_nan=False)
    return reader


def test_a_page_tells_the_verdict_the_figures_the_replies_and_the_settings() -> None:
    attempts = [attempt(0.1), attempt(1.0), attempt(1.5, code=451), attempt(2.0, code=0)]
    reader = read(outcome(attempts, settings={"connections": "20"}, description="As fast as answered."))
    for words in (
        "steady", "As fast as answered.", "127.0.0.1:2525", "2026-09-21", "The one promise that could be judged held.", "250s = taken",
        "2 answered, 2 taken", "messages taken", "p99", "retry-after=3", "25.0%", "connections", "20", "hourly limit", "no reply",
    ):  # fmt: skip
        assert words in reader.text, words


def test_a_broken_promise_stands_in_the_first_sentence_and_its_fault_below() -> None:
    checks = (HELD, Check("over-admission (hourly)", False, "3 of 2"), Check("taken = sink", None, "not judged: no sink"))
    faults = (Finding("overdraft", "1", "app", is_fault=False), Finding("over the hourly limit", "3 of 2 messages", "app"))
    subject = outcome([attempt(0.1)], verdict=Verdict(faults, (), None, checks))
    assert sentence(subject) == "1 of 2 promises was broken: over-admission (hourly)"
    text = read(subject).text
    assert text.index("1 of 2 promises") < text.index("over the hourly limit") < text.index("(allowed)")
    assert document(subject)["verdict"]["sentence"] == sentence(subject)


def test_the_sentence_fits_what_was_judged() -> None:
    unjudged = Check("taken = sink", None, "not judged: no sink")
    assert sentence(outcome(checks=(HELD, HELD))) == "All 2 promises that could be judged held"
    assert sentence(outcome(checks=(HELD, HELD, unjudged))) == "All 2 promises that could be judged held; 1 could not be judged"
    assert sentence(outcome(checks=(unjudged,))).startswith("Nothing could be judged")
    assert sentence(outcome(checks=())).startswith("Nothing could be judged")
    assert sentence(outcome(verdict=Verdict((Finding("lost", "1"),), ()))) == "A promise was broken"


@pytest.mark.parametrize("seconds", [0.0, 0.004, 10.0, 86_400.0])
def test_a_load_without_messages_or_with_one_has_a_page(seconds: float) -> None:
    assert "nothing to show" in read(outcome(seconds=seconds)).text
    assert "The one message taken" in read(outcome([attempt(0.0)], seconds)).text
    read(outcome([attempt(0.0, took=0.0)], seconds))
    read(outcome([attempt(0.0, code=451)], seconds, history=history()))


def test_hostile_text_stays_text() -> None:
    attempts = [attempt(0.1, HOSTILE, text=HOSTILE), attempt(0.2, HOSTILE, code=451, text=HOSTILE)]
    finding = Finding("lost", HOSTILE, HOSTILE)
    verdict = Verdict((finding,), (Usage(HOSTILE, Limits(2, 2), 2, 2, 0),), None, (Check("retry-after", False, HOSTILE),))
    change = Change("limits", HOSTILE, int(BEGAN * 1e6), int(BEGAN * 1e6) + 10, 5, None, HOSTILE)
    subject = outcome(
        attempts, name=HOSTILE, target=HOSTILE, description=HOSTILE, settings={HOSTILE: HOSTILE}, verdict=verdict, changes=(change,)
    )
    text = read(subject).text
    assert "<script>alert('x')</script>" in text
    assert "\x1b" not in text and "\x00" not in text


def test_changes_are_told_with_what_became_of_them() -> None:
    changes = [
        Change("limits", "app", int((BEGAN + 1) * 1e6), int((BEGAN + 1.0125) * 1e6), 500, None),
        Change("disable", "app", int((BEGAN + 2) * 1e6), int((BEGAN + 2.5) * 1e6), error="HTTP 500"),
    ]
    text = read(outcome([attempt(0.1)], changes=changes, history=history(commit(0.1)))).text
    assert "hourly 500, total unlimited" in text and "12.5" in text
    assert "HTTP 500" in text and "disable failed" in text


def test_of_thousands_of_users_the_fullest_dozen_are_drawn_and_the_rest_are_counted() -> None:
    attempts = [attempt(n / 1000, f"u{n:04}") for n in range(3000)] + [attempt(3.5, "u1234")]
    subject = outcome(attempts)
    text = page(subject)
    assert text.count("<svg") == 2 + 12
    assert "the fullest 12 of 3,000 users" in text and "and 2,960 more not shown" in text
    assert document(subject)["windows"][0]["user"] == "u1234"
    assert len(text) < 200_000


def test_a_hundred_thousand_attempts_are_a_page_of_ordinary_size() -> None:
    attempts = [attempt(n / 5000, "ab"[n % 2], 451 if n % 3 == 0 else 250, took=0.001 + n % 977 / 9770) for n in range(100_000)]
    commits = (commit(n / 5000 + 1e-7 * n, "ab"[n % 2]) for n in range(100_000) if n % 3)
    subject = outcome(attempts, 20.0, history=history(*commits))
    read(subject)
    assert len(page(subject)) < 300_000
    assert document(subject)["load"]["attempts"] == 100_000
