"""What a benchmark makes of its rounds: quantiles, costs, medians, ratios, the account, the report."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree as ET

import pytest

from relay.loadkit.attempt import Attempt
from relay.loadkit.bench import Account, Curve, Figure, Findings, NotAccounted, Round, check, join, quantile, summarise
from relay.loadkit.bench_page import document, page, pictures


def attempt(latency: float, code: int = 250) -> Attempt:
    """A message that took so many ms."""
    return Attempt(
        "x", "u", 0, 1, started=100.0, dot_sent=100.0, replied=100.0 + latency / 1e3, code=code, stage=None if code == 250 else "dot"
    )


def made(server: str, name: str, rate: float, cost: float = 100.0, x: float = 0.0) -> Round:
    """A round of one second."""
    return Round(
        server, name, 1.0, round(rate), 2.0, 9.0, {"smtp" if server == "relay" else server: cost, "store": 40.0, "load": 7.0}, {}, x
    )


def test_a_round_counts_what_was_taken_and_names_the_rest() -> None:
    attempts = [*(attempt(ms) for ms in range(1, 101)), attempt(5, 451), attempt(5, 451)]
    found = summarise(attempts, 2.0, {"smtp": 1000.0, "store": 0.0}, {"smtp": 11_000.0, "store": 500.0, "retry": 200.0}, "relay", "case")
    assert (found.taken, found.rate, found.others) == (100, 50.0, {"451 at dot": 2})
    assert (found.cost, found.store) == (102.0, 5.0)
    assert found.p50 == pytest.approx(51)
    assert found.p99 == pytest.approx(100)
    assert "2 x 451 at dot" in found.line()


def test_a_round_without_any_message_costs_nothing_and_divides_by_nothing() -> None:
    found = summarise([], 0.0, {}, {"smtp": 5.0}, "relay", "case")
    assert (found.taken, found.rate, found.cost, found.p50) == (0, 0.0, 0.0, 0.0)
    assert quantile([], 0.5) == 0.0


def test_the_cost_is_of_the_servers_own_processes() -> None:
    assert made("stock", "case", 10, 300.0).cost == 300.0


def test_loads_are_joined_by_their_messages() -> None:
    found = join([made("relay", "case", 100, 100.0), made("relay", "case", 300, 200.0)])
    assert (found.taken, found.seconds, found.cost) == (400, 2.0, 175.0)


def test_the_ratio_is_the_median_of_the_rounds_ratios() -> None:
    findings = Findings(0.0)
    for ours, theirs in ((100, 10), (100, 50), (900, 300)):
        findings.rounds += [made("relay", "case", ours), made("stock", "case", theirs)]
    assert findings.ratio("case", "stock") == 3.0
    middle = findings.median("case", "relay")
    assert middle is not None
    assert middle.rate == 100.0
    assert findings.median("another", "relay") is None
    assert findings.ratio("case", "nobody") is None


HOLDS = {
    "all agree": Account(10, 0, 10, 10, 10),
    "one without a reply was taken": Account(10, 1, 11, 11, 11),
    "one without a reply was not taken": Account(10, 1, 10, 10, 10),
    "some are kept": Account(10, 0, 7, 10, 10, 3),
    "a stranger, of whom only the sink tells": Account(10, 0, 10),
}
BROKEN = {
    "the sink has lost one": Account(10, 0, 9, 10, 10),
    "the sink has one twice": Account(10, 0, 11, 10, 10),
    "the ledger has lost one": Account(10, 0, 10, 9, 10),
    "the ledger has one too many": Account(10, 0, 10, 11, 10),
    "the journal has lost one": Account(10, 0, 10, 10, 9),
    "one that was answered is nowhere": Account(10, 0, 9, 9, 9),
    "one that nobody sent is everywhere": Account(10, 0, 11, 11, 11),
    "more than the silent one": Account(10, 1, 12, 12, 12),
    "a stranger that lost one": Account(10, 0, 9),
}


@pytest.mark.parametrize("name", HOLDS)
def test_the_account_closes(name: str) -> None:
    check(HOLDS[name], "case")


@pytest.mark.parametrize("name", BROKEN)
def test_the_account_does_not_close(name: str) -> None:
    with pytest.raises(NotAccounted, match="case: the account does not close: 10 messages were answered 250"):
        check(BROKEN[name], "case")


def full() -> Findings:
    """Findings with something of every kind, and names that are no markup."""
    findings = Findings(1.0, {"CPU": "one <fast> & quick", "cores": "2"})
    findings.rounds += [made("relay", "2 KB, <plain>", 900), made("st&ck", "2 KB, <plain>", 300)]
    findings.curves.append(
        Curve("connections", "open connections", {"relay": [made("relay", "c", 5, 9.0, 10), made("relay", "c", 5, 9.5, 2000)]})
    )
    findings.curves.append(Curve("spool depth", "waiting", {"few": [made("relay", "c", 5)], "many": []}))
    findings.figures.append(Figure("a <worker> at rest", 51.5, "MB", "RSS"))
    return findings


def test_the_page_needs_nothing_but_itself_and_names_the_machine() -> None:
    html = page(full())
    assert "one &lt;fast&gt; &amp; quick" in html
    assert "a &lt;worker&gt; at rest" in html
    assert "3.0 times as fast" in html
    assert not re.search(r"<script|src=|href=|<fast>|<plain>|<worker>|st&ck", html)


def test_every_picture_is_a_well_formed_svg() -> None:
    found = pictures(full())
    assert found.keys() == {
        "rates.svg", "connections-cpu.svg", "connections-rate.svg", "spool-depth-cpu.svg", "spool-depth-rate.svg",
    }  # fmt: skip
    for picture in found.values():
        assert ET.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"


def test_the_document_has_all_of_it() -> None:
    found = json.loads(json.dumps(document(full())))
    assert [each["server"] for each in found["medians"]] == ["relay", "st&ck"]
    assert found["ratios"] == {"2 KB, <plain>": {"st&ck": 3.0}}
    assert [each["x"] for each in found["curves"][0]["series"]["relay"]] == [10, 2000]
    assert found["figures"][0]["value"] == 51.5


def test_a_report_of_nothing_can_be_written() -> None:
    assert "Benchmark" in page(Findings(0.0))
    assert pictures(Findings(0.0)) == {}
