"""Rules from text, and when they fire."""

from __future__ import annotations

import math
from random import Random

import pytest

from relay.loadkit.script import Action, Script, parse_rule, wire_reply


def fired(line: str, subjects: list[str], sender: str = "", times: int = 1) -> list[bool]:
    script = Script.parse([line])
    stage = script.rules[0].stage
    return [script.decide(stage, subjects, sender, Random(7)) is not None for _ in range(times)]


def test_a_rule_reads_as_it_is_written() -> None:
    rule = parse_rule('rcpt every=10 reply="450 4.2.0 busy"')
    assert (rule.stage, rule.every, rule.action) == ("rcpt", 10, Action(reply=b"450 4.2.0 busy\r\n"))
    assert parse_rule("dot p=0.01 drop").action.drop == "before"
    assert parse_rule("dot drop=after").action.drop == "after"
    assert parse_rule("dot first=3 stall=30").action.stall == 30
    assert parse_rule("data stall=forever").action.stall == math.inf
    assert parse_rule("mail stall=1.5 reply='250 ok' twice close").action == Action(1.5, b"250 ok\r\n", is_twice=True, is_close=True)


def test_a_reply_of_several_lines_has_its_separators_put_right() -> None:
    assert wire_reply("450 first\n450-second\n450 third") == b"450-first\r\n450-second\r\n450 third\r\n"
    assert parse_rule(r'dot reply="450 first\n450 last"').action.reply == b"450-first\r\n450 last\r\n"
    assert wire_reply("450") == b"450 \r\n"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("", "stages"),
        ("rcp drop", "stages"),
        ("rcpt", "no action"),
        ("rcpt every=3", "no action"),
        ("rcpt every=0 drop", "every=0"),
        ("rcpt first=x drop", "first=x"),
        ("rcpt p=1.5 drop", "between 0 and 1"),
        ("rcpt p=x drop", "not a number"),
        ("rcpt stall=-1", "not a number from 0"),
        ("rcpt stall=inf", "not a number from 0"),
        ("rcpt stall", "stall needs a value"),
        ("rcpt match drop", "match needs a value"),
        ("rcpt drop=later", "drop=later"),
        ("rcpt twice=2", "takes no value"),
        ("rcpt frob=2", "frob is neither"),
        ("rcpt drop drop", "twice"),
        ('rcpt reply="busy"', "reply code"),
        (r'rcpt reply="450 a\n451 b"', "another code"),
        ('rcpt reply="450', "quotation"),
        ("rcpt stall=2..1", "no range"),
        ("rcpt stall=1..", "not a number"),
        ("rcpt from=x drop", "from=x"),
        ("rcpt from=5 to=5 drop", "not before"),
        ("rcpt from=5", "no action"),
        ("dot certificate=expired", "stage tls"),
        ("tls certificate=odd", "certificate=odd"),
        ("tls reply='220 x'", "handshake"),
        ("tls drop=after", "handshake"),
    ],
)
def test_a_wrong_rule_is_refused_by_what_is_wrong(line: str, fault: str) -> None:
    with pytest.raises(ValueError, match="rule") as refused:
        parse_rule(line)
    assert fault in str(refused.value)


def test_every_and_first_count_only_what_matched() -> None:
    assert fired("rcpt every=3 drop", ["a@b.example"], times=7) == [False, False, True, False, False, True, False]
    assert fired("dot first=2 drop", [], times=4) == [True, True, False, False]
    script = Script.parse(["rcpt match=*@bad.example first=1 drop"])
    assert script.decide("rcpt", ["x@good.example"], "", Random(1)) is None
    assert script.decide("rcpt", ["x@BAD.example"], "", Random(1)) is not None
    assert script.decide("rcpt", ["x@bad.example"], "", Random(1)) is None


def test_a_glob_looks_at_the_sender_or_at_any_recipient() -> None:
    assert fired("dot match=*@bad.example drop", ["a@good.example", "b@bad.example"]) == [True]
    assert fired("dot sender=boss@* drop", ["a@good.example"], "boss@client.example") == [True]
    assert fired("dot sender=boss@* drop", ["a@good.example"], "clerk@client.example") == [False]


def test_the_same_seed_gives_the_same_choices() -> None:
    def run(seed: int) -> list[bool]:
        script, random = Script.parse(["dot p=0.5 drop"]), Random(seed)
        return [script.decide("dot", [], "", random) is not None for _ in range(50)]

    assert run(1) == run(1) != run(2)
    assert 10 < sum(run(1)) < 40


def test_a_rule_with_a_time_fires_then_and_counts_only_then() -> None:
    script = Script.parse(["dot from=5 to=15 first=2 reply='451 4.3.2 down'"])
    instants = [0.0, 4.999, 5.0, 20.0, 14.999, 15.0, 6.0]
    assert [script.decide("dot", [], "", Random(1), at) is not None for at in instants] == [False, False, True, False, True, False, False]


def test_a_stall_is_drawn_from_its_range_and_by_the_seed_alone() -> None:
    action = parse_rule("dot stall=0.1..0.5").action
    random = Random(5)
    drawn = [action.pause(random) for _ in range(200)]
    assert drawn == [action.pause(again) for again in [Random(5)] for _ in range(200)]
    assert 0.1 <= min(drawn) < 0.15 and 0.45 < max(drawn) <= 0.5
    assert parse_rule("dot stall=0..0.2").action.pause(Random(1)) > 0
    assert parse_rule("dot stall=2").action.pause(Random(1)) == 2
    assert parse_rule("tls certificate=wrong-name").action.certificate == "wrong-name"


def test_the_first_rule_that_fires_wins_and_comments_are_skipped() -> None:
    script = Script.parse(["# calm", "", "rcpt first=1 reply='450 one'", "rcpt reply='550 two'"])
    replies = [action.reply for _ in range(2) if (action := script.decide("rcpt", [], "", Random(1)))]
    assert replies == [b"450 one\r\n", b"550 two\r\n"]
