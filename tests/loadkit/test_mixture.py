"""Sizes and recipients that vary."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.loadkit.mixture import STEPS, Mixture, Part


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 2**32))
def test_a_range_gives_numbers_within_it_and_no_more_than_so_many(one: int, other: int, seed: int) -> None:
    least, most = sorted((one, other))
    mixture = Mixture.parse(f"{least}-{most}")
    random = Random(seed)
    drawn = {mixture.draw(random) for _ in range(300)}
    assert least <= min(drawn) <= max(drawn) <= most
    assert len(drawn) <= STEPS + 1
    assert (mixture.least, mixture.most) == (least, most)


def test_a_mix_gives_each_part_by_its_weight_and_the_same_for_the_same_seed() -> None:
    mixture = Mixture.parse("2k:8, 50k:1 ,1m-2M:1")
    assert mixture.parts == (Part(2048, 2048, 8.0), Part(51200, 51200, 1.0), Part(1 << 20, 2 << 20, 1.0))
    drawn = [mixture.draw(random) for random in [Random(1)] for _ in range(1000)]
    assert drawn == [mixture.draw(random) for random in [Random(1)] for _ in range(1000)]
    assert 700 < drawn.count(2048) < 900
    assert 50 < drawn.count(51200) < 150
    assert str(mixture) == "2048:8,51200,1048576-2097152"


@given(st.text(max_size=20))
def test_any_text_is_a_mixture_or_a_clear_error(text: str) -> None:
    try:
        mixture = Mixture.parse(text)
    except ValueError as error:
        assert str(error)
    else:
        assert Mixture.parse(str(mixture)) == mixture


@pytest.mark.parametrize("text", ["", "a", "-1", "1-", "5-3", "1:0", "1,,2", "1.5", "2g"])
def test_what_is_no_mixture_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither|from more to less|no weight"):
        Mixture.parse(text)
