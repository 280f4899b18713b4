"""Computation graphs: measures on graphs made by hand, and planted errors of each kind."""

from __future__ import annotations

import random
from operator import add, mul

import pytest

from evals.tasks.compositional.graph import CORRECT, LOCAL, PROPAGATION, RESTORATION, Graph, Node, label, shares


def source(name, value):
    return Node(name, lambda: value)


def product(y=9):
    """7 x 49 of the paper's figure 1, from its inputs to its carry, by hand."""
    return Graph(
        (
            source("x", 7),
            source("y0", y),
            source("y1", 4),
            Node("ones", mul, ("x", "y0")),  # 63
            Node("digit", lambda value: value % 10, ("ones",)),  # 3
            Node("carry", lambda value: value // 10, ("ones",)),  # 6
            Node("tens", mul, ("x", "y1")),  # 28
            Node("sum", add, ("tens", "carry")),  # 34
            Node("all", lambda high, low: 10 * high + low, ("sum", "digit")),  # 343
        )
    )


def test_values_and_measures_by_hand():
    graph = product()
    assert graph.values["all"] == 343
    assert list(graph.layers.values()) == [0, 0, 0, 1, 2, 2, 1, 3, 4]
    assert list(graph.distances.values()) == [0, 0, 0, 1, 2, 2, 1, 2, 3]
    assert graph.depth == 4
    assert graph.width == 3  # of the nodes at distance 0, as of those at 2
    assert graph.parallelism == 9 / 4


def test_width_goes_by_the_shortest_path_and_depth_by_the_longest():
    steps = [Node(f"n{i}", lambda *values: sum(values), ("s", f"n{i - 1}")) for i in range(1, 5)]
    graph = Graph((source("s", 1), Node("n0", lambda s: s, ("s",)), *steps))
    assert graph.depth == 5
    assert graph.width == 5  # all but the source are one step away from it
    assert graph.values["n4"] == 5


def test_a_graph_of_sources_and_one_of_nothing():
    assert (Graph((source("a", 1),)).depth, Graph((source("a", 1),)).width) == (0, 1)
    assert Graph((source("a", 1),)).parallelism == 0
    assert (Graph(()).depth, Graph(()).width, Graph(()).parallelism, label(Graph(()), {})) == (0, 0, 0, {})


@pytest.mark.parametrize("nodes", [("b", "a"), ("a", "a")])
def test_nodes_out_of_order_are_refused(nodes):
    made = {"a": source("a", 1), "b": Node("b", lambda a: a, ("a",))}
    with pytest.raises(ValueError, match="behind its parents"):
        Graph(tuple(made[name] for name in nodes))


def test_all_right_is_all_correct():
    graph = product()
    assert set(label(graph, graph.values).values()) == {CORRECT}
    assert shares([label(graph, graph.values)]) == {CORRECT: 1, LOCAL: 0, PROPAGATION: 0, RESTORATION: 0}


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"ones": 62, "digit": 2, "sum": 34, "all": 342}, {"ones": LOCAL, "digit": PROPAGATION, "carry": PROPAGATION,
            "sum": PROPAGATION, "all": PROPAGATION}),  # the carry is right by chance: 62 has it too
        ({"digit": 4}, {"digit": LOCAL, "all": RESTORATION}),  # 343 does not follow from 34 and 4
        ({"carry": 5, "sum": 33, "all": 333}, {"carry": LOCAL, "sum": PROPAGATION, "all": PROPAGATION}),
        ({"carry": 5}, {"carry": LOCAL, "sum": RESTORATION, "all": PROPAGATION}),
        ({"carry": 5, "sum": 40, "all": 403}, {"carry": LOCAL, "sum": LOCAL, "all": PROPAGATION}),
        ({"all": 344}, {"all": LOCAL}),
        ({"x": 8}, {"x": LOCAL, "ones": RESTORATION, "tens": RESTORATION, "digit": PROPAGATION, "carry": PROPAGATION,
            "sum": PROPAGATION, "all": PROPAGATION}),
    ],
)  # fmt: skip
def test_planted_errors_by_hand(said, wrong):
    graph = product()
    labels = label(graph, {**graph.values, **said})
    assert {name: found for name, found in labels.items() if found != CORRECT} == wrong


def test_right_by_chance_is_propagation():
    graph = Graph((source("a", 0), source("b", 3), Node("c", add, ("b", "b")), Node("d", mul, ("a", "c"))))
    assert label(graph, {"c": 7, "d": 0}) == {"c": LOCAL, "d": PROPAGATION}


def test_what_is_not_said():
    graph = product()
    values = dict(graph.values)
    for name in ("x", "y0", "y1"):
        del values[name]
    assert label(graph, values) == dict.fromkeys(values, CORRECT)  # sources are the problem's
    del values["carry"]
    labels = label(graph, values)
    assert "carry" not in labels
    assert labels["sum"] == RESTORATION
    assert label(graph, {"sum": 33}) == {"sum": LOCAL}
    assert shares([]) == {}


def test_a_value_that_cannot_be_computed_with_is_no_crash():
    graph = product()
    labels = label(graph, {**graph.values, "ones": "sixty", "carry": None})
    assert (labels["ones"], labels["digit"], labels["carry"], labels["sum"]) == (LOCAL, RESTORATION, LOCAL, RESTORATION)


def random_graph(rng):
    nodes = [source(f"s{i}", rng.randrange(10)) for i in range(rng.randrange(1, 4))]
    for i in range(rng.randrange(1, 25)):
        parents = rng.sample([node.name for node in nodes], min(len(nodes), rng.randrange(1, 4)))
        nodes.append(Node(f"n{i}", lambda *values, i=i: (sum(values) * 7 + i) % 50, tuple(parents)))
    return Graph(tuple(nodes))


def follow(graph, planted):
    """What a reader says who computes rightly but for the planted values."""
    said = {}
    for node in graph.nodes:
        said[node.name] = planted.get(node.name, node.compute(*(said[parent] for parent in node.parents)))
    return said


def below(graph, name):
    found = {name}
    for node in graph.nodes:
        if found & set(node.parents):
            found.add(node.name)
    return found - {name}


def test_planted_errors_at_random_nodes_of_random_graphs():
    rng = random.Random(1)
    kinds = []
    for _ in range(300):
        graph = random_graph(rng)
        name = rng.choice([node.name for node in graph.nodes if node.parents])
        wrong = (graph.values[name] + rng.randrange(1, 50)) % 50
        said = follow(graph, {name: wrong})
        expected = dict.fromkeys(graph.values, CORRECT) | {name: LOCAL} | dict.fromkeys(below(graph, name), PROPAGATION)
        assert label(graph, said) == expected
        # One node below says the right value again, which its parents' values do not give.
        strayed = [other for other in below(graph, name) if said[other] != graph.values[other]]
        if strayed:
            other = rng.choice(strayed)
            restored = label(graph, follow(graph, {name: wrong, other: graph.values[other]}))
            assert restored == expected | {other: RESTORATION}
        kinds += label(graph, said).values()
        kinds += [RESTORATION] if strayed else []
    assert set(kinds) == {CORRECT, LOCAL, PROPAGATION, RESTORATION}
