"""What an owner set, as values: one domain in all its spellings, who may be sent as, and no secret in sight."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.accounts.setting import Outfit, Policy, Setting, Signer, fold, fold_address, is_domain
from relay.upstream.route import Choice, Route, Target

OWN = Setting("own.example", "0" * 24, (Choice(Target("a.example", 25, password="hunter2")),), {"pass": "hunter2"})


def test_mail_goes_by_its_domains_setting_else_by_the_default_else_by_none() -> None:
    default = Setting("", "1" * 24, ())
    outfit = Outfit(1, {"own.example": OWN, "": default})
    assert outfit.setting_for("OWN.example") is OWN
    assert outfit.setting_for("sub.own.example") is outfit.setting_for("") is default
    assert Outfit(1, {"own.example": OWN}).setting_for("other.example") is None
    assert outfit.setting_of("other.example") is None and outfit.setting_of("") is default
    assert OWN.route == Route("0" * 24, OWN.choices)


def test_no_repr_shows_a_secret() -> None:
    for value in (OWN, Outfit(1, {"own.example": OWN}, Policy(), {"own.example": Signer("own.example", "s", "hunter2")}), OWN.route):
        assert "hunter2" not in repr(value)


@pytest.mark.parametrize("address", ["", "a@own.example", "A@OWN.EXAMPLE", "a@more.example"])
def test_an_owners_own_and_listed_domains_may_be_sent_as(address: str) -> None:
    assert Outfit(1, {"own.example": OWN}, Policy("domains", ("more.example",))).allows(address)


@pytest.mark.parametrize("address", ["a@sub.own.example", "a@", "@", "a@own.example@evil.example", "a@[192.0.2.1]", "a@own.example "])
def test_others_may_not(address: str) -> None:
    default = Setting("", "1" * 24, ())
    assert not Outfit(1, {"own.example": OWN, "": default}, Policy("domains", ("more.example",))).allows(address)


@given(st.text())
def test_folding_takes_any_text_once_and_for_all(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    assert fold(text) == fold(text.lower())
    fold_address(text)
    is_domain(text)


def test_folding_a_long_text_takes_no_long_time() -> None:
    began = time.process_time()
    text = "".join(map(chr, range(0x4E00, 0x9E00))) * 4
    fold(text)
    fold_address(f"a@{text}")
    assert not is_domain(text)
    assert not Outfit(policy=Policy("domains")).allows(f"a@{text}")
    assert time.process_time() - began < 0.5


@given(st.text(alphabet="abc\u00fc\u00df\u07c0-.xn\udc80[] ", min_size=1, max_size=12))
def test_what_is_a_domain_is_one_when_it_is_folded_and_keeps_its_name(text: str) -> None:
    if is_domain(text.lower()):
        assert is_domain(fold(text)) and fold(text).isascii()
