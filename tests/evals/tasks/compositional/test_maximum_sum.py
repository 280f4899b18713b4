"""Maximum sum of numbers that are no neighbours: gold against all choices, the paper's scratchpad, reading."""

from __future__ import annotations

import random
from itertools import pairwise, product

import numpy as np
import pytest

from evals.tasks.compositional import maximum_sum
from evals.tasks.compositional.graph import LABELS, label
from evals.tasks.compositional.maximum_sum import NonAdjacent, final_list
from evals.tasks.compositional.scratchpads import about, labelled
from tests.evals.tasks.compositional.planting import planted, steps

# The first of the authors' released examples (github.com/nouhadziri/faith-and-fate, data/dp.zip, n = 3).
OF_THE_PAPER = """dp[2] = max(input[2], 0) = max(1, 0) = 1
dp[1] = max(input[1], input[2], 0) = max(3, 1, 0) = 3
dp[0] = max(dp[1], input[0] + dp[2], 0) = max(3, -5 + 1, 0) = 3

Finally, we reconstruct the lexicographically smallest subsequence that fulfills the task objective by selecting numbers as follows. We store the result on a list named "output".

Let can_use_next_item = True.
Since dp[0] != input[0] + dp[2] (3 != -5 + 1) or can_use_next_item == False, we store output[0] = 2. We update can_use_next_item = True.
Since dp[1] == input[1] (3 == 3) and can_use_next_item == True, we store output[1] = 1. We update can_use_next_item = False.
Since dp[2] != input[2] (1 != 1) or can_use_next_item == False, we store output[2] = 2.

Reconstructing all together, output=[2, 1, 2]."""  # noqa: E501


def draw(rng, n):
    return NonAdjacent(tuple(rng.randint(-5, 5) for _ in range(n)))


ALLOWED = {n: [c for c in product((1, 2), repeat=n) if (1, 1) not in pairwise(c)] for n in range(2, 11)}


def best(given):
    """The answer by trying all: highest sum, then lexicographically smallest."""

    def worth(chosen):
        return sum(value for value, choice in zip(given, chosen, strict=True) if choice == 1)

    most = max(map(worth, ALLOWED[len(given)]))
    return most, next(chosen for chosen in ALLOWED[len(given)] if worth(chosen) == most)


def test_gold_is_the_best_of_all_choices_in_ten_thousand_cases():
    rng = np.random.default_rng(0)
    tried = 0
    for n, allowed in ALLOWED.items():
        given = rng.integers(-5, 6, size=(1112, n))
        worth = given @ (np.array(allowed).T == 1)  # of every list and every choice; choices in lexicographic order
        for row, sums in zip(given.tolist(), worth, strict=True):
            values = NonAdjacent(tuple(row)).graph.values
            assert values["dp[0]"] == sums.max(), row
            assert values["output"] == allowed[int(sums.argmax())], row
            tried += 1
    assert tried > 10_000


def test_all_lists_of_two_and_three():
    for n in (2, 3):
        for given in product(range(-3, 4), repeat=n):
            assert NonAdjacent(given).graph.values["output"] == best(given)[1]


def test_the_scratchpad_of_the_paper():
    assert NonAdjacent((-5, 3, 1)).scratchpad() == OF_THE_PAPER


@pytest.mark.parametrize("n", range(2, 11))
def test_a_perfect_scratchpad_is_all_correct_and_the_graph_follows_from_the_length(n):
    rng = random.Random(n)
    for problem in (NonAdjacent((0,) * n), NonAdjacent((-5,) * n), *(draw(rng, n) for _ in range(5))):
        found = labelled(problem, problem.scratchpad())
        assert (found["labels"], found["unsaid"]) == ({"correct": 3 * n}, 0)
        measured = about(problem)
        assert (measured["size"], measured["depth"], measured["nodes"]) == (str(n), 3 * n - 1, 4 * n + 1)


def test_planted_errors_come_out_as_planted():
    rng = random.Random(1)
    kinds = set()
    for _ in range(300):
        problem = draw(rng, rng.randint(2, 10))
        said, labels = planted(problem, rng)
        read = problem.read(problem.scratchpad(said))
        assert read == {node.name: said[node.name] for node in steps(problem)}
        assert label(problem.graph, read) == labels
        kinds |= set(labels.values())
    assert kinds == set(LABELS)


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("max(3, 1, 0) = 3", "max(3, 1, 0) = 4", {"dp[1]": 4}),
        ("max(3, 1, 0) = 3", "max(3, 1, 0)", {"dp[1]": None}),
        ("max(3, 1, 0) = 3", "max(3, 1, 0) = 3.5", {"dp[1]": None}),
        ("max(3, 1, 0) = 3", "max(3, 1, 0) = three", {"dp[1]": None}),
        ("dp[1] = max(input[1], input[2], 0) = max(3, 1, 0) = 3", "So dp[1] = 3.", {}),
        ("dp[2] = max", "dp[7] = max", {"dp[2]": None}),
        ("output[1] = 1. We update can_use_next_item = False", "output[1] = 1", {"may[2]": None}),
        ("output[1] = 1. We", "output[1] == 1. We", {"output[1]": None, "may[2]": None}),
        ("output=[2, 1, 2]", "output=[2, 1]", {"output": (2, 1)}),
        ("output=[2, 1, 2]", "we get 2, 1, 2", {"output": None}),
        ("Reconstructing", "Thus", {"output": None}),
    ],
)
def test_numbers_are_read_strictly(old, new, changed):
    problem = NonAdjacent((-5, 3, 1))
    assert old in OF_THE_PAPER
    read, whole = problem.read(OF_THE_PAPER.replace(old, new)), problem.read(OF_THE_PAPER)
    assert {name: read.get(name) for name in whole if read.get(name) != whole[name]} == changed
    assert set(read) <= set(whole) == {node.name for node in steps(problem)}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[1, 2, 2]", (1, 2, 2)),
        (" [1,2,2].", (1, 2, 2)),
        ("[1 2 2]", (1, 2, 2)),
        ("output = [1, 2]. That is for input = [3, 4].", (1, 2)),
        ("input = [3, 4]\noutput = [1, 2]", (1, 2)),
        ("[1, 2] is the output", (1, 2)),
        ("output[0] = 1, output[1] = 2, dp[0] = 3", None),
        ("output = [2, 1]. No: output = [1, 2]", (1, 2)),
        ("[2, 1] or [1, 2]", (1, 2)),
        ("The answer is [1, x]", None),
        ("1, 2, 2", None),
        ("[]", None),
        ("", None),
        ("[" + "9" * 5000 + "]", None),
    ],
)
def test_which_list_counts(text, found):
    assert final_list(text) == found


def test_a_text_that_repeats_itself_is_looked_through_once(monkeypatch):
    """Not once for each time it says "output", which takes a minute where a model falls into a loop."""
    looked = []

    class Counted:
        def finditer(self, text, *places):
            looked.append(places)
            return maximum_sum_lists.finditer(text, *places)

        findall = finditer

    maximum_sum_lists = maximum_sum._LIST
    monkeypatch.setattr(maximum_sum, "_LIST", Counted())
    assert final_list("output[0] = 1 " * 50 + "[x]") is None
    assert final_list("output [1, 2], [2, 1]" + " output [x]" * 50) == (1, 2)
    assert len(looked) <= 2


def test_sums_of_what_is_not_allowed():
    problem = NonAdjacent((3, -1, 4))
    assert [problem.total(chosen) for chosen in ((1, 2, 1), (2, 2, 2), (1, 1, 2), (1, 2), (1, 2, 3))] == [
        7, 0, None, None, None,
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["[]", "[1]", "1, 2", "[1, a]", "[1, 2", ""])
def test_what_is_no_problem_is_refused(text):
    with pytest.raises(ValueError, match="expected"):
        NonAdjacent.parse(text)
    assert NonAdjacent.parse("[3, -2]") == NonAdjacent((3, -2))
