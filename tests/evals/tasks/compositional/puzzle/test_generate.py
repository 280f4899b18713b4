"""Puzzles against solvers that know no SAT: brute force, and elimination with search."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from evals.tasks.compositional.puzzle import generate
from evals.tasks.compositional.puzzle.attributes import ATTRIBUTES
from evals.tasks.compositional.puzzle.clues import MEANS, SIZES, WORDS, Clue, Item, parse_clue
from evals.tasks.compositional.puzzle.generate import _Listed, candidates, make, parse_sizes
from evals.tasks.compositional.puzzle.riddle import Riddle, grid, parse_riddle
from evals.tasks.compositional.puzzle.solve import brute, holds, solutions

ALL = list(product(SIZES, SIZES))


def without(riddle: Riddle, place: int) -> Riddle:
    return replace(riddle, clues=riddle.clues[:place] + riddle.clues[place + 1 :])


@pytest.mark.parametrize(("houses", "attributes"), ALL)
def test_one_solution_and_no_clue_too_many(houses, attributes):
    for number in range(12):
        riddle, solution = make(houses, attributes, 5, number)
        assert riddle.size == f"{houses}x{attributes}"
        assert solutions(riddle) == [solution]
        for place in range(len(riddle.clues)):
            assert len(solutions(without(riddle, place))) == 2


@pytest.mark.parametrize(("houses", "attributes"), [(2, 2), (2, 5), (3, 3), (3, 4), (4, 2), (5, 2)])
def test_search_finds_what_brute_force_finds(houses, attributes):
    for number in range(2):
        riddle, solution = make(houses, attributes, 1, number)
        assert list(brute(riddle)) == [solution]
        for fewer in (without(riddle, 0), without(without(riddle, 0), 0) if len(riddle.clues) > 1 else riddle):
            found = solutions(fewer, most=10**6)
            every = list(brute(fewer))
            assert len(found) == len(every)
            assert all(each in every for each in found)


def test_kinds_of_clues_mean_what_they_say():
    """Each kind by hand, in a row of five houses, against the words that it is said in."""
    rows = {
        "found at": {(3, 3)},
        "same house": {(3, 3)},
        "directly left": {(3, 4)},
        "directly right": {(3, 2)},
        "beside": {(3, 2), (3, 4)},
        "left of": {(3, 4), (3, 5)},
        "right of": {(3, 1), (3, 2)},
        "one between": {(3, 1), (3, 5)},
        "two between": set(),
        "not at": {(3, 1), (3, 2), (3, 4), (3, 5)},
    }
    assert rows.keys() == MEANS.keys() == WORDS.keys()
    for kind, right in rows.items():
        assert {(3, other) for other in range(1, 6) if MEANS[kind](3, other)} == right
    assert MEANS["two between"](1, 4)
    assert MEANS["two between"](5, 2)
    a, b = Item("Name", "eric"), Item("Food", "stew")
    assert Clue("directly left", a, b).text == "Eric is directly left of the person who loves the stew."
    assert Clue("found at", b, 2).text == "The person who loves the stew is in the second house."
    assert Clue("two between", b, a).text == "There are two houses between the person who loves the stew and Eric."


def test_every_clue_of_every_attribute_reads_back():
    """Phrases hold words that clues are made of ("who is a pizza lover", "child is named")."""
    for name in ATTRIBUTES:
        if name == "Name":
            continue
        riddle, solution = make(5, 2, 0, 0)
        values = {each: tuple(value for value, _ in ATTRIBUTES[each][1]) for each in ("Name", name)}
        riddle = Riddle(tuple(values.items()), ())
        solution = {Item(each, value): house for each in values for house, value in enumerate(values[each], start=1)}
        for clue in candidates(riddle, solution):
            assert holds(replace(riddle, clues=(clue,)), solution)
            assert parse_clue(clue.text, riddle.items) == clue
            assert parse_clue(clue.text.upper(), riddle.items) == clue
    with pytest.raises(ValueError, match=r"expected a clue about the items of this puzzle, got 'Eric is tall.'"):
        parse_clue("Eric is tall.", riddle.items)


def test_texts_read_back():
    for houses, attributes in ALL:
        riddle, _ = make(houses, attributes, 2, 1)
        assert parse_riddle(riddle.text) == riddle
        assert parse_riddle("Here it is.\n" + riddle.text + "\n\nPlease solve it.") == riddle
    with pytest.raises(ValueError, match=r"puzzle: expected 2 to 5 houses and attributes.*got 'nothing'"):
        parse_riddle("nothing")


@pytest.mark.parametrize(("houses", "attributes"), [(2, 2), (3, 3), (4, 5), (5, 5)])
def test_the_same_under_a_seed_and_another_with_each_number(houses, attributes):
    one = [make(houses, attributes, 3, number)[0] for number in range(12)]
    _Listed.of.cache_clear()
    assert one[::-1] == [make(houses, attributes, 3, number)[0] for number in reversed(range(12))]
    puzzles = {(frozenset(each.clues), frozenset((n, frozenset(v)) for n, v in each.attributes)) for each in one}
    assert len(puzzles) == 12
    assert one != [make(houses, attributes, 4, number)[0] for number in range(12)]


@pytest.mark.parametrize(("houses", "attributes"), [(2, 2), (3, 3), (5, 3)])
def test_splits_share_no_grid_whatever_the_seed(houses, attributes):
    train = {grid(*make(houses, attributes, seed, number, "train")) for seed in range(3) for number in range(8)}
    test = {grid(*make(houses, attributes, seed, number, "test")) for seed in range(3, 6) for number in range(8)}
    assert train
    assert test
    assert not train & test


def test_a_small_size_runs_out_and_says_so(monkeypatch):
    monkeypatch.setattr(generate, "_TRIES", 2)  # rather than 200 draws that are known
    with pytest.raises(ValueError, match=r"expected at most about \d+ puzzles of size 2x2.*; ask for fewer documents"):
        make(2, 2, 0, 50_000, "all")


@pytest.mark.parametrize("text", ["", "2", "2x", "1x3", "6x2", "2x2,", "2 by 2", "-2x2"])
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match=r"sizes: expected houses x attributes, 2 to 5 each, got"):
        parse_sizes(text)


def test_a_size_that_is_there_twice_is_refused():
    with pytest.raises(ValueError, match="sizes: expected each once, got '2x2' twice"):
        parse_sizes("2x2,3x3,2x2")


def test_sizes():
    assert parse_sizes("2x2, 3x5+4x2") == ((2, 2), (3, 5), (4, 2))
