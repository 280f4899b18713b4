"""Scorers that belong to no benchmark, against answers that try to please."""

from __future__ import annotations

import pytest

from evals import scorers
from evals.tasks.memory import PLACES

ALL = " ".join(PLACES)


@pytest.mark.parametrize(
    ("scorer", "right", "wrong"),
    [
        (
            "exact",
            ["kitchen", "Kitchen", " KITCHEN.\n", "kitchen ."],
            ["", ".", ALL, "Where is Mary?", "kitchen. It may be the garden.", "the kitchen", "kitchens", "garden"],
        ),
        # The looser one: what follows the first word does not count, and its name says so.
        ("first_word", ["kitchen", "Kitchen, or the garden"], ["", ALL, "Where is Mary?", "the kitchen", "kitchens"]),
        (
            "needle_place",
            ["kitchen", "KITCHEN", "She is in the kitchen."],
            ["", ALL, "Where is Mary?", "kitchen. It may be the garden.", "kitchens", "garden"],
        ),
    ],
)
def test_answers_that_try_to_please(scorer: str, right: list[str], wrong: list[str]) -> None:
    said = {text: scorers.score(scorer, text, ("kitchen",), "Where is Mary?") for text in [*right, *wrong]}
    assert said == {**dict.fromkeys(right, 1.0), **dict.fromkeys(wrong, 0.0)}


def test_every_scorer_is_there_and_an_unknown_one_is_named() -> None:
    assert all(callable(scorers.find(name)) for name in scorers.SCORERS)
    with pytest.raises(ValueError, match=r"scorer: expected one of exact, .*got 'fair'"):
        scorers.find("fair")
