"""Pairs, tests and corrections against twins that count by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.page.collect import Run, collect
from evals.page.compare import compare, pair
from evals.rows import Row
from evals.stats import agresti_min, bootstrap_p, holm, mcnemar
from tests.evals.page.made import run


def row(document=0, right=True, *, task="qa1", length=100, digest=None, score=None, asked="Where?", expected="a"):
    name = f"d{document}" if digest is None else digest
    return Row(task, length, "memory", document, 0, name, name, (expected,), "a" if right else "b",
               float(right) if score is None else score, "exact", asked)  # fmt: skip


def a_run(name, rows):
    return Run(name, name, tuple(rows))


def naive_holm(p_values):
    """Reject one after the other at a level: the corrected p is the least level at which it is rejected."""

    def rejected(level):
        left, out = sorted(range(len(p_values)), key=lambda i: p_values[i]), set()
        while left and p_values[left[0]] <= level / len(left):
            out.add(left.pop(0))
        return out

    levels = sorted({min(1.0, p * k) for p, k in product(p_values, range(1, len(p_values) + 1))} | {1.0})
    slack = 1e-12
    return [next((a for a in levels if i in rejected(a + slack)), 1.0) for i in range(len(p_values))]


@given(st.lists(st.floats(0, 1), max_size=7))
def test_holm_is_the_step_down_procedure(p_values):
    assert holm(p_values) == pytest.approx(naive_holm(p_values), abs=1e-9)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_interval_of_paired_rates():
    # N = n + 2, counts + 1/2 each: b = 9, c = 1, n = 30 gives d = 8/32 and se = sqrt(11 - 64/32) / 32.
    low, high = agresti_min(9, 1, 30)
    assert (low, high) == pytest.approx((0.25 - 1.959964 * 3 / 32, 0.25 + 1.959964 * 3 / 32), abs=1e-6)
    low, high = agresti_min(0, 0, 32)
    assert low == -high < 0  # no difference seen is not no difference
    assert agresti_min(1, 9, 30).high == pytest.approx(-agresti_min(9, 1, 30).low)


def test_bootstrap_p_is_small_for_a_shift_and_large_for_none():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 60)
    assert bootstrap_p(list(noise - noise.mean() + 0.9)) < 0.001
    assert bootstrap_p(list(noise - noise.mean())) > 0.9
    assert bootstrap_p([0.0] * 9) == 1
    # the 60 are 6 documents said ten times over: the clusters know that they are fewer
    few = np.repeat(rng.normal(0.6, 1, 6), 10)
    assert bootstrap_p(list(few), [i // 10 for i in range(60)]) > 10 * bootstrap_p(list(few))
    with pytest.raises(ValueError, match="at least one difference"):
        bootstrap_p([])


def test_bootstrap_p_of_a_few_is_not_less_than_theirs():
    assert [bootstrap_p([0.25] * n) for n in (1, 2, 4, 6)] == pytest.approx([1, 1 / 2, 1 / 8, 1 / 32])
    assert bootstrap_p([0.5] * 6, [0, 0, 0, 1, 1, 1]) == 1 / 2  # two documents of three questions
    assert bootstrap_p([0.0] * 30 + [1.0]) == 1  # as McNemar's of one pair
    (made,) = compare([a_run("A", [row(score=0.75)]), a_run("B", [row(score=0.25)])])
    assert (made.p_value, made.better) == (1, "")


def test_bootstrap_p_holds_its_level():
    rng = np.random.default_rng(1)
    found = [bootstrap_p(list(rng.normal(0, 1, 40))) for _ in range(200)]
    assert 0.01 <= sum(p < 0.05 for p in found) / 200 <= 0.11


def test_same_documents_pair_by_digest_whatever_their_order():
    one = [row(i, i < 8, digest=f"x{i}") for i in range(10)]
    other = [row(20 + i, i < 2, digest=f"x{i}") for i in reversed(range(10))] + [row(99, digest="y")]
    pairs, same = pair(one, other)
    assert same
    assert [(a.digest, b.digest) for a, b in pairs] == [(f"x{i}", f"x{i}") for i in range(10)]
    (made,) = compare([a_run("A", one), a_run("B", other)])
    assert (made.n, made.only_first, made.only_second) == (10, 6, 0)
    assert made.p_value == made.p_holm == mcnemar(6, 0).p_value
    assert made.difference == pytest.approx(0.6)
    assert made.better == "A"


def test_other_tokenizers_pair_by_number_and_question_and_say_so():
    one = [row(i, digest=f"x{i}", asked=f"q{i}") for i in range(5)]
    other = [row(40 + i, digest=f"y{i}", asked=f"q{i}" if i else "another") for i in range(5)]
    other[2] = row(42, digest="y2", asked="q2", expected="b")  # the same words with another answer are no pair
    pairs, same = pair(one, other)
    assert not same
    assert [(a.document, b.document) for a, b in pairs] == [(1, 41), (3, 43), (4, 44)]
    (made,) = compare([a_run("A", one), a_run("B", other)])
    assert not made.same_documents
    assert made.n == 3
    assert compare([a_run("A", one), a_run("B", [row(0, digest="z", asked="nothing alike")])]) == []


def test_all_comparisons_are_one_family_and_only_shared_cells_are_compared(tmp_path):
    tasks, lengths = ("qa1", "part", "nats"), (1_000, 16_000)
    runs = collect([
        run(tmp_path / name, name, half_life=life, tasks=tasks, lengths=lengths, n=22)
        for name, life in (("a", 1e6), ("b", 3e3), ("c", 3.1e3))
    ])  # fmt: skip
    made = compare(runs)
    assert [(c.first, c.second) for c in made[::6]] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert len(made) == 18
    assert [c.p_holm for c in made] == holm([c.p_value for c in made])
    assert any(c.p_holm > c.p_value for c in made)
    for c in made:
        assert c.interval.low <= c.difference <= c.interval.high
        assert (c.only_first is None) == (c.task != "qa1")
        if c.length == 16_000 and c.first == "a":
            assert c.better == "a", c  # less nats is better, more of a rate
            assert (c.difference < 0) == (c.task == "nats")
    assert compare([runs[0], a_run("z", [row(length=7)])]) == []
