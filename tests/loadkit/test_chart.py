"""Charts: well-formed whatever is drawn, and drawn where it belongs."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from relay.loadkit.chart import LONGEST_NAME, Scale, bars, lines

SVG = "{http://www.w3.org/2000/svg}"


def parse(text: str) -> ElementTree.Element:
    assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "nan" not in text and "inf" not in text.replace("info", "")
    return ElementTree.fromstring(text)


@pytest.mark.parametrize(
    "points",
    [
        [], [(0.0, 0.0)], [(1.0, 5.0)], [(0.0, 0.0), (0.0, 0.0)], [(0.0, 7.0), (1.0, 7.0)], [(0.0, -3.0), (2.0, -1.0)],
        [(1e-9, 1e-9), (2e-9, 3e-9)], [(0.0, 1e15), (1e12, 0.0)], [(float(n), n % 7 / 3) for n in range(500)],
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_log", [False, True])
def test_lines_are_drawn_of_whatever_there_is(points: list[tuple[float, float]], is_log: bool) -> None:
    drawn = lines("t", "x", "y", {"a": points}, log_x=is_log, log_y=is_log, is_stepped=True, is_filled=True, limits={"l": points})
    texts = [text.text for text in parse(drawn).iter(f"{SVG}text")]
    assert ("nothing to show" in texts) == (not points)


@pytest.mark.parametrize("heights", [[], [(1.0, 2.0, 0.0)], [(0.1, 0.2, 3.0), (0.2, 0.4, 1e6)]])
def test_bars_stand_on_the_axis(heights: list[tuple[float, float, float]]) -> None:
    root = parse(bars("t", "x", "y", heights, log_x=True, marks=[(0.15, "p50"), (0.3, "max")]))
    rects = root.findall(f"{SVG}rect")
    assert len(rects) == len(heights)
    for rect in rects:
        assert float(rect.attrib["y"]) + float(rect.attrib["height"]) == pytest.approx(280 - 40, abs=0.2)


def test_text_is_escaped_and_what_xml_cannot_have_is_left_out() -> None:
    hostile = "<b>\x00\x1b&\"' \ud800￿]]>" + "x" * 200
    root = parse(lines(hostile, hostile, hostile, {hostile: [(0, 1), (1, 2)]}, limits={hostile: [(0, 1)]}, marks=[(0.5, hostile)]))
    assert not list(root.iter(f"{SVG}b"))
    assert any((text.text or "").startswith("<b>") for text in root.iter(f"{SVG}text"))
    assert all(len(text.text or "") < 230 for text in root.iter(f"{SVG}text"))
    assert LONGEST_NAME < 200


def test_many_names_take_a_few_rows_and_the_rest_are_counted() -> None:
    root = parse(lines("t", "x", "y", {f"a series with a name {n}": [(0, n), (1, n)] for n in range(40)}))
    texts = [text.text or "" for text in root.iter(f"{SVG}text")]
    assert any(text.startswith("and ") and text.endswith(" more") for text in texts)


def test_scales_are_right_at_their_ends_and_in_between() -> None:
    assert [Scale(0, 10, 100, 0)(value) for value in (0, 5, 10, 12)] == [100, 50, 0, 0]
    assert [Scale(1, 100, 0, 200, True)(value) for value in (1, 10, 100, 0.1)] == pytest.approx([0, 100, 200, 0])
    assert Scale(0, 10, 0, 1).ticks(5) == [0, 2, 4, 6, 8, 10]
    assert Scale(0.2, 30, 0, 1, True).ticks(10) == pytest.approx([0.2, 0.5, 1, 2, 5, 10, 20])


@pytest.mark.parametrize("size", range(-9, 13))
@pytest.mark.parametrize("is_log", [False, True])
def test_there_are_ticks_and_never_too_many(size: int, is_log: bool) -> None:
    for factor in (1.0, 1.7, 3.3, 9.99):
        high = factor * math.pow(10, size)
        ticks = Scale(high / 3000 if is_log else 0.0, high, 0, 700, is_log).ticks(8)
        assert 2 <= len(ticks) <= 9
