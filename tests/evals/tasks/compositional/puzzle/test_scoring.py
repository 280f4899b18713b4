"""Scores and labels of answers in many forms, and of answers that try to please."""

from __future__ import annotations

import pytest

from evals.scorers import assess, score
from evals.tasks.compositional.graph import CORRECT, LOCAL, PROPAGATION
from evals.tasks.compositional.puzzle import scratch
from evals.tasks.compositional.puzzle.clues import Clue, Item
from evals.tasks.compositional.puzzle.riddle import Riddle
from evals.tasks.compositional.puzzle.steps import scratchpad

ERIC, PETER = Item("Name", "eric"), Item("Name", "peter")
STEW, PIZZA = Item("Food", "stew"), Item("Food", "pizza")
CAMRY, FORD = Item("CarModel", "toyota camry"), Item("CarModel", "ford f150")
SOLUTION = {ERIC: 1, PETER: 2, STEW: 2, PIZZA: 1, CAMRY: 1, FORD: 2}
PUZZLE = Riddle(
    (("Name", ("peter", "eric")), ("Food", ("pizza", "stew")), ("CarModel", ("ford f150", "toyota camry"))),
    (Clue("found at", ERIC, 1), Clue("directly left", ERIC, STEW), Clue("same house", CAMRY, PIZZA)),
)
TABLE = PUZZLE.table(SOLUTION)
WRONG = PUZZLE.table({**SOLUTION, ERIC: 2, PETER: 1})

RIGHT = {
    "as asked": TABLE,
    "reasoned": "I think of Eric first.\nFinal solution:\n" + TABLE + "\nThat is all.",
    "capitals": TABLE.upper(),
    "one line": " ".join(TABLE.split()),
    "stars": "**$ House: 1 $ Name: eric $ Food: pizza $ CarModel: toyota_camry**\n" + TABLE.splitlines()[1],
    "corrected": WRONG + "\nNo, wait.\n" + TABLE,
    "markdown": "| House | Name | Food | Car Model |\n|---|---|---|---|\n| 1 | Eric | pizza | Toyota Camry |\n"
    "| 2 | Peter | the person who loves the stew | Ford F150 |",
    "numbered": "House # | Name | Food | CarModel\n--- | --- | --- | ---\n"
    "House 1 | Eric | pizza | Toyota Camry\n2 | Peter | stew | Ford F150",
    "bars": "\n".join("$" + line[1:].replace(" $", " |") for line in TABLE.splitlines()),
    "other order": "$ House: 2 $ CarModel: ford f150 $ Food: stew $ Name: peter\n" + TABLE.splitlines()[0],
    "colons": "House 1: Name: Eric, Food: Pizza, CarModel: Toyota Camry.\n"
    "House 2: Name: Peter; Food: Stew; CarModel: Ford F150",
}
NOT = {
    "nothing": "",
    "blank": PUZZLE.blank,
    "wrong": WRONG,
    "taken back": TABLE + "\n" + WRONG,
    "both": TABLE.replace("Name: eric", "Name: eric peter").replace("Name: peter", "Name: eric or peter"),
    **{
        f"all, the right one first, with {mark!r}": "\n".join(
            f"$ House: {house} $ Name: {mark.join(names)} $ Food: {mark.join(foods)} $ CarModel: {mark.join(cars)}"
            for house, names, foods, cars in (
                (1, ("eric", "peter"), ("pizza", "stew"), ("toyota camry", "ford f150")),
                (2, ("peter", "eric"), ("stew", "pizza"), ("ford f150", "toyota camry")),
            )
        )
        for mark in (", ", "; ", " | ", ",")
    },
    "twice in a line": TABLE.replace("Name: eric", "Name: eric $ Name: peter"),
    "two of a house": TABLE + "\n" + TABLE.splitlines()[1].replace("stew", "pizza"),
    "half": TABLE.splitlines()[0],
    "the question": PUZZLE.text,
    "every value": "eric peter pizza stew ford f150 toyota camry",
    "house 3": TABLE.replace("House: 2", "House: 3"),
}


@pytest.mark.parametrize("form", RIGHT)
def test_right_tables(form):
    said = assess("puzzle", RIGHT[form], (TABLE,), PUZZLE.text)
    assert (said.score, said.detail) == (1.0, {"cells": 1.0})


@pytest.mark.parametrize("form", NOT)
def test_tables_that_are_not_right(form):
    assert score("puzzle", NOT[form], (TABLE,), PUZZLE.text) == 0


def test_share_of_cells():
    assert assess("puzzle", WRONG, (TABLE,), PUZZLE.text).detail == {"cells": 4 / 6}
    assert assess("puzzle", NOT["half"], (TABLE,), PUZZLE.text).detail == {"cells": 0.5}
    assert assess("puzzle", NOT["nothing"], (TABLE,), PUZZLE.text).detail == {"cells": 0.0}
    assert assess("puzzle", NOT["both"], (TABLE,), PUZZLE.text).detail == {"cells": 4 / 6}


@pytest.mark.parametrize(
    "text",
    [
        "We know that The Food in house 2 is stew.",
        "the food of the second house must be the Stew, so",
        "House 2's food is stew.",
        "in house 2, the Food = stew",
        "The Food in house 1 is stew. No: The Food in house 2 is stew.",
        "If the Food in house 1 is stew, it fails. The Food in house #2 is stew",
        "<The Food in house 1 is stew.> The Food in house 2 is stew.",
        "The Food in house 2 is stew.\n$ House: 1 $ Food: stew",
    ],
)
def test_cells_in_prose(text):
    assert scratch.cells(text, PUZZLE) == {STEW: 2}


@pytest.mark.parametrize(
    "text",
    [
        "The Food in house 2 is not stew.",
        "The Food in house 2 is stewed.",
        "stew",
        "The Foods in house 2 is stew",
        "The Food in house 2 is stew or pizza.",
        "House 2's food is stew/pizza",
        "The Food in house 2 is stew, or the pizza",
        RIGHT["colons"],
    ],
)
def test_what_says_no_cell(text):
    assert scratch.cells(text, PUZZLE) == {}


def test_an_error_is_carried_on_in_the_labels():
    """Eric in house 2, where clue 1 says 1; what is made of it follows, or does not."""
    text = scratchpad(PUZZLE)
    detail = assess("puzzle:scratchpad", text + "\n" + TABLE, (TABLE,), PUZZLE.text).detail
    assert detail["labels"] == {"correct": 6, "local": 0, "propagation": 0, "restoration": 0}
    swapped = text.replace("Name in house 1 is eric", "Name in house 2 is eric")
    swapped = swapped.replace("Name in house 2 is peter", "Name in house 1 is peter")
    said = assess("puzzle:scratchpad", swapped + "\n" + WRONG, (TABLE,), PUZZLE.text)
    assert said.score == 0
    assert said.detail["labels"][LOCAL] == 1  # eric, against clue 1
    assert said.detail["labels"][PROPAGATION] >= 1  # peter, in the house that is left
    assert sum(map(sum, said.detail["layers"])) == 6
    assert said.detail["labels"][CORRECT] < 6
