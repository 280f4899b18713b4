"""pass@k against all subsets there are, the paper's formula, and the tables of a run."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest

from evals.breakdowns import Estimate, breakdowns
from evals.rows import Row
from evals.stats import bootstrap, wilson
from evals.tasks.humaneval.passes import counted, estimate, pass_at_k


def test_it_is_the_share_of_subsets_with_a_pass():
    for n in range(1, 8):
        for c in range(n + 1):
            samples = [True] * c + [False] * (n - c)
            for k in range(1, n + 1):
                chosen = list(combinations(samples, k))
                assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, chosen)) / len(chosen), abs=1e-12)


def test_it_is_the_papers_formula_and_stays_finite():
    for n, c, k in ((200, 1, 100), (200, 57, 10), (100, 0, 100), (100, 1, 100), (200, 199, 1)):
        assert pass_at_k(n, c, k) == pytest.approx(1 - comb(n - c, k) / comb(n, k), abs=1e-12)
    assert pass_at_k(100_000, 1, 100) == pytest.approx(1e-3)
    for wrong in ((3, 4, 1), (3, -1, 1), (3, 1, 4), (3, 1, 0), (0, 0, 1)):
        with pytest.raises(ValueError, match="pass@k: expected"):
            pass_at_k(*wrong)


def test_it_is_unbiased_where_the_plug_in_is_not():
    rng, p, n, k = np.random.default_rng(0), 0.2, 20, 10
    counts = rng.binomial(n, p, 20_000)
    ours = np.mean([pass_at_k(n, int(c), k) for c in counts])
    biased = np.mean(1 - (1 - counts / n) ** k)
    truth = 1 - (1 - p) ** k
    assert abs(ours - truth) < 5e-3 < abs(biased - truth)


def test_estimates_have_intervals_over_problems():
    counts = [(10, 0), (10, 3), (10, 10), (12, 1)]
    values = [pass_at_k(n, c, 10) for n, c in counts]
    assert estimate(counts, 10) == Estimate(float(np.mean(values)), bootstrap(values), 4)
    assert (estimate(counts, 100), estimate([], 1)) == (None, None)
    assert estimate([(1, 0)] * 9 + [(1, 1)], 1) == Estimate(0.1, wilson(1, 10), 10)
    assert estimate([(1, 0)] * 5, 1).interval.high > 0.3, "none of five is not none for sure"
    assert estimate([(10, 3)], 1).interval is None


def row(problem: str, sample: int, outcome: str, length: int = 0, control: str = "memory", level: str = "full") -> Row:
    detail = {"problem": problem, "sample": sample, "outcome": outcome, "isolation": level, "why": ""}
    score = float(outcome == "passed")
    return Row("humaneval", length, control, 0, sample, problem, "", ("t", "f"), "x", score, "humaneval", detail=detail)


def test_tables_by_length_outcome_and_isolation():
    rows = [row("a", n, "passed" if n < 3 else "failed") for n in range(10)]
    rows += [row("b", n, "timeout") for n in range(12)]
    rows += [row("a", 0, "passed", 64, level="none"), row("b", 0, "forbidden", 64), row("b", 0, "odd", 64, "zeroed")]
    assert counted(rows[:22]) == [(10, 3), (12, 0)]
    passes, verdicts = breakdowns(rows)
    assert passes.columns == ("tokens", "problems", "samples", "pass@1", "pass@10", "pass@100")
    assert [line[:3] for line in passes.lines] == [(0, 2, 10), (64, 2, 1)]
    assert [entry and entry.value for entry in passes.lines[0][3:]] == [pytest.approx(0.15), 0.5, None]
    assert [entry and entry.value for entry in passes.lines[1][3:]] == [0.5, None, None]
    assert verdicts.columns == (
        "tokens", "isolation", "passed", "failed", "timeout", "memory", "killed", "forbidden"
    )  # fmt: skip
    assert verdicts.lines == (
        (0, "full", 3, 7, 12, 0, 0, 0),
        (64, "full", 0, 0, 0, 0, 0, 1),
        (64, "none", 1, 0, 0, 0, 0, 0),
    )
    assert breakdowns([row("a", 0, "passed", 64, "zeroed")]) == []
    assert breakdowns([row("a", 0, "new")])[1].columns[-1] == "new"
