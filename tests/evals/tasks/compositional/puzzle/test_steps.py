"""Steps and graphs against a reasoner that tries all grids, and scratchpads with errors planted in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

import pytest

from evals.tasks.compositional.graph import CORRECT, LABELS, LOCAL, PROPAGATION, RESTORATION, label
from evals.tasks.compositional.puzzle import scratch
from evals.tasks.compositional.puzzle.clues import Clue, Item
from evals.tasks.compositional.puzzle.generate import make
from evals.tasks.compositional.puzzle.riddle import Riddle
from evals.tasks.compositional.puzzle.scoring import judge
from evals.tasks.compositional.puzzle.solve import brute
from evals.tasks.compositional.puzzle.steps import build, name, scratchpad, solve

SMALL = [(2, 2), (2, 4), (3, 2), (3, 3)]
ERIC, PETER, ARNOLD = (Item("Name", value) for value in ("eric", "peter", "arnold"))
CAT, FISH, BIRD = (Item("Animal", value) for value in ("cat", "fish", "bird"))
PUZZLE = Riddle(
    (("Name", ("eric", "peter", "arnold")), ("Animal", ("cat", "fish", "bird"))),
    (Clue("found at", ERIC, 1), Clue("directly left", PETER, CAT), Clue("same house", ERIC, FISH)),
)


def follows(riddle: Riddle, clues: tuple[int, ...], known: Mapping[Item, int]) -> dict[Item, int]:
    """What some clues settle beside what is known: what all grids that agree with them agree on."""
    every = list(brute(replace(riddle, clues=tuple(riddle.clues[place] for place in clues))))
    left = [each for each in every if all(each[item] == house for item, house in known.items())]
    return {item: left[0][item] for item in riddle.items if len({each[item] for each in left}) == 1}


@pytest.mark.parametrize(("houses", "attributes"), SMALL)
def test_steps_take_the_first_of_the_fewest_clues_that_settle_a_cell(houses, attributes):
    for number in range(2):
        riddle, solution = make(houses, attributes, 0, number)
        known: dict[Item, int] = {}
        for step in solve(riddle):
            sets = (s for size in range(len(riddle.clues) + 1) for s in combinations(range(len(riddle.clues)), size))
            first = next(clues for clues in sets if len(follows(riddle, clues, known)) > len(known))
            assert step.clues == first
            found = {cell.item: cell.house for cell in step.cells}
            assert found == {i: h for i, h in follows(riddle, first, known).items() if i not in known}
            for cell in step.cells:
                clues = () if cell.last else first
                parents = {parent: solution[parent] for parent in cell.parents}
                assert cell.item in follows(riddle, clues, parents)
                for parent in parents:
                    fewer = {item: house for item, house in parents.items() if item != parent}
                    assert cell.item not in follows(riddle, clues, fewer)
            known |= found
        assert known == solution


def test_a_puzzle_worked_by_hand():
    """Eric in 1 (clue 1); the fish with him (clue 3); Peter left of the cat: 2 and 3 (clue 2), and who is left."""
    steps = solve(PUZZLE)
    assert [step.clues for step in steps] == [(0,), (1,), (2,)]
    graph = build(PUZZLE)
    assert graph.values == {
        "Name eric": 1, "Name peter": 2, "Animal cat": 3, "Name arnold": 3, "Animal fish": 1, "Animal bird": 2,
    }  # fmt: skip
    assert {node.name: node.parents for node in graph.nodes} == {
        "Name eric": (),
        "Name peter": ("Name eric",),
        "Animal cat": ("Name eric",),
        "Name arnold": ("Name eric", "Name peter"),
        "Animal fish": ("Name eric",),
        "Animal bird": ("Animal cat", "Animal fish"),
    }
    # Nearest to a source: Peter, the cat, the fish, and Arnold, who is one step behind Eric though two behind Peter.
    assert (graph.depth, graph.width, graph.parallelism) == (2, 4, 3.0)
    assert scratchpad(PUZZLE).splitlines() == [
        "Step 1: First applying clue: <Eric is in the first house.> We know that The Name in house 1 is eric.",
        "Step 2: Then applying clue: <Peter is directly left of the cat lover.> and Unique Values We know that "
        "The Name in house 2 is peter. The Animal in house 3 is cat. The Name in house 3 is arnold.",
        "Step 3: Then applying clue: <Eric is the fish enthusiast.> and Unique Values We know that "
        "The Animal in house 1 is fish. The Animal in house 2 is bird.",
        "The puzzle is solved.",
    ]


def test_a_step_is_run_again_on_what_was_said():
    nodes = {node.name: node for node in build(PUZZLE).nodes}
    assert nodes["Animal fish"].compute(3) == 3
    assert nodes["Animal bird"].compute(1, 3) == 2
    # A contradiction; no such house; with Eric in 3, Peter may be in 1 or in 2.
    for what, houses in {"Animal bird": (2, 2), "Animal fish": (7,), "Name peter": (3,)}.items():
        with pytest.raises(ValueError, match=r"follows|house that there is not"):
            nodes[what].compute(*houses)


@pytest.mark.parametrize("houses", [2, 3, 4, 5])
@pytest.mark.parametrize("attributes", [2, 3, 4, 5])
def test_perfect_scratchpads_are_correct_to_the_last_node(houses, attributes):
    for number in range(3):
        riddle, solution = make(houses, attributes, 8, number)
        text = scratchpad(riddle) + "\nFinal solution:\n" + riddle.table(solution)
        assert scratch.cells(text, riddle) == solution
        found = judge(riddle, text)
        assert found["labels"] == dict.fromkeys(LABELS, 0) | {CORRECT: houses * attributes}
        graph = build(riddle)
        assert [sum(counts) for counts in found["layers"]] == [
            list(graph.layers.values()).count(layer) for layer in range(graph.depth + 1)
        ]


def say(riddle: Riddle, said: Mapping[str, int]) -> str:
    """A scratchpad in which some nodes have other values."""
    text = scratchpad(riddle)
    for node, value in build(riddle).values.items():
        attribute, _, item = node.partition(" ")
        right = f"The {attribute} in house {value} is {item}."
        assert right in text
        text = text.replace(right, f"The {attribute} in house {said[node]} is {item}.")
    return text


def test_planted_errors_have_the_labels_they_were_planted_as():
    planted = dict.fromkeys((LOCAL, PROPAGATION, RESTORATION), 0)
    for number in range(8):
        riddle, _ = make(*[(2, 3), (3, 3), (4, 3), (5, 3)][number % 4], 6, number // 4)
        graph = build(riddle)
        below: dict[str, list[str]] = {node.name: [] for node in graph.nodes}
        for node in graph.nodes:
            for parent in node.parents:
                below[parent].append(node.name)
        leaf = next(each for each in graph.nodes if not below[each.name])
        wrong = graph.values[leaf.name] % riddle.houses + 1
        found = label(graph, scratch_of(riddle, {**graph.values, leaf.name: wrong}))
        assert found == {**dict.fromkeys(graph.values, CORRECT), leaf.name: LOCAL}
        planted[LOCAL] += 1
        for node in graph.nodes:
            for place, parent in enumerate(node.parents):
                houses = [graph.values[each] for each in node.parents]
                houses[place] = houses[place] % riddle.houses + 1
                try:
                    value = node.compute(*houses)
                except ValueError:
                    value = None
                error = {**graph.values, parent: houses[place]}
                if value != graph.values[node.name]:  # said rightly, though it does not follow
                    assert label(graph, scratch_of(riddle, error))[node.name] == RESTORATION
                    planted[RESTORATION] += 1
                if value is not None:
                    found = label(graph, scratch_of(riddle, {**error, node.name: value}))
                    assert found[parent] == LOCAL
                    assert found[node.name] == PROPAGATION
                    planted[PROPAGATION] += 1
                other = next(h for h in range(1, riddle.houses + 2) if h not in (value, graph.values[node.name]))
                assert label(graph, scratch_of(riddle, {**error, node.name: other}))[node.name] == LOCAL
    assert min(planted.values()) >= 8


def scratch_of(riddle: Riddle, said: Mapping[str, int]) -> dict[str, int]:
    """What is read of such a scratchpad."""
    return {name(item): house for item, house in scratch.cells(say(riddle, said), riddle).items()}


def test_unsaid_nodes_have_no_label_and_nothing_rests_on_them():
    text = "We know that The Name in house 1 is eric. The Name in house 3 is arnold."
    assert judge(PUZZLE, text)["labels"] == {CORRECT: 1, LOCAL: 0, PROPAGATION: 0, RESTORATION: 1}
    # That Eric is in house 1 follows from a clue, but it must be said: no clue alone puts Peter into house 2.
    alone = judge(PUZZLE, "We know that The Name in house 2 is peter.")["labels"]
    assert alone == {CORRECT: 0, LOCAL: 0, PROPAGATION: 0, RESTORATION: 1}


def test_a_puzzle_without_one_solution_is_refused():
    with pytest.raises(ValueError, match="expected exactly one solution"):
        solve(replace(PUZZLE, clues=PUZZLE.clues[:1]))
    with pytest.raises(ValueError, match="expected exactly one solution"):
        solve(replace(PUZZLE, clues=(*PUZZLE.clues, Clue("found at", ERIC, 2))))
