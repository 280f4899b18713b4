"""Documents of length 0: nothing read, the problem stands in the question. Everything of the page must hold."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from evals.page import collect, page
from evals.page.collect import Run
from evals.page.figures import costs
from evals.page.svg import WIDTH, Point, Series, curves, percent_axis
from evals.positions import by_depth, by_tokens, by_updates, position
from evals.rows import Row
from tests.evals.page.made import run
from tests.evals.page.test_page import Parsed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return run(tmp_path_factory.mktemp("prompt") / "a", lengths=(0, 4_096, 65_536), segment=None)


def xs(picture):
    """Where the marks of a picture stand, from left to right."""
    return [float(x) for x in re.findall(r'<circle class="mark s0" cx="([\d.]+)"', picture)]


def drawn(*lengths):
    points = tuple(Point(x, 50, 40, 60, "#a", "said") for x in lengths)
    return curves([Series("a", 0, points)], percent_axis(), ident="i", title="t", desc="d", apart=True)


def test_zero_has_its_own_place_left_of_a_break():
    zero, first, last = xs(drawn(0, 4_096, 1_048_576))
    assert 40 < zero < first - 50 < last < WIDTH
    assert ">in prompt</text>" in drawn(0, 4_096)
    assert drawn(0, 4_096).count('class="break"') == 1
    assert drawn(0, 4_096).count('class="line over s0"') == 1
    assert 'class="line s0"' not in drawn(0, 4_096)  # but the dotted one none leads over the break
    assert 'class="line s0"' in drawn(0, 4_096, 8_192)
    assert 'class="break"' not in drawn(4_096, 8_192) + drawn(0)
    # However many lengths there are, the place of 0 and its name are there.
    many = drawn(0, *(2**i for i in range(8, 21)))
    assert xs(many) == sorted(set(xs(many)))
    assert many.count(">in prompt</text>") == 1


def test_the_page_holds_without_and_with_further_lengths(folder, tmp_path):
    both = page([folder])
    assert "0 to 64k tokens" in both
    assert "0 tokens, all in the prompt" in both
    only = page([run(tmp_path / "b", lengths=(0,), n=3)])
    assert "all in the prompt" in only
    for text in (both, only):
        parsed = Parsed(text)
        assert {href for href in parsed.hrefs if href[1:] not in parsed.ids} == set()
        assert not re.search(r"\b(nan|inf)\b", "".join(parsed.said))
    assert not {"depth", "distance", "controls"} & set(Parsed(only).ids)


def test_no_speed_of_reading_nothing(folder):
    lines = costs(collect([folder]))
    assert [line.speed is None for line in lines] == [True, False, False]
    cells = [said for said, _ in Parsed(page([folder])).cells]
    assert cells[cells.index("tokens/s") :].count("–") >= 1


def test_rows_of_no_length_have_no_position():
    row = Row("t", 0, "memory", 0, 0, "d", "d", ("a",), "a", 1.0, "exact")
    assert position(row, 500) is None
    assert by_depth([row]) == by_tokens([row]) == by_updates([row], 500) == []
    with pytest.raises(ValueError, match="evidence"):
        position(replace(row, evidence=((0, 1),)), 500)
    assert page_of(row)


def page_of(row):
    from evals.page import _context

    return _context([Run("a", "a", (row,))])["headline"]
