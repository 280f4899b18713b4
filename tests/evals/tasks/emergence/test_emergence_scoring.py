"""Metrics of one answer, and their tables, against naive twins."""

from __future__ import annotations

import itertools
import math
from functools import cache
from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals import MEMORY, Score, bootstrap, run, wilson
from evals.breakdowns import breakdowns
from evals.rows import Row, load_rows
from evals.scorers import assess, score
from evals.tasks.emergence.breakdown import METRICS, estimate
from evals.tasks.emergence.scoring import brier, distance
from tests.evals.words import Remembers, Words, source


def measured(text="47", nats=-1.0, tokens=2, choices=(-1.0, -2.0, -3.0)):
    return {"text": text, "nats": nats, "tokens": tokens, "greedy": False, "choices": list(choices)}


@cache
def naive(first: str, second: str) -> int:
    """Levenshtein's recursion."""
    if not first or not second:
        return len(first) + len(second)
    replaced = naive(first[1:], second[1:]) + (first[0] != second[0])
    return min(naive(first[1:], second) + 1, naive(first, second[1:]) + 1, replaced)


@given(st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_distance_is_the_recursion(first, second):
    assert distance(first, second) == naive(first, second)


@given(st.lists(st.floats(-30, 0), min_size=1, max_size=5))
def test_brier_is_the_sum_of_squares_over_the_softmax(nats):
    shares = [math.exp(value) / sum(map(math.exp, nats)) for value in nats]
    wanted = sum((share - (place == 0)) ** 2 for place, share in enumerate(shares))
    assert brier(nats) == pytest.approx(wanted, abs=1e-9)


def test_all_metrics_of_one_answer():
    found = assess("emergence", measured(" 57 ", math.log(0.09), 2, (-1, -1, -5)), ("47",), "12 + 34 ->")
    assert found.score == 0
    detail = found.detail
    assert (detail["exact"], detail["distance"], detail["edit"]) == (0, 1, 0.5)
    assert detail["probability"] == pytest.approx(0.09)
    assert detail["per_token"] == pytest.approx(0.3)
    assert detail["likelihood"] == pytest.approx(math.log(0.3))
    assert detail["tokens"] == 2
    assert detail["grade"] == 0  # as likely as another is not the most likely
    assert assess("emergence", measured("4 7"), ("47",), "").detail["grade"] == 1


@pytest.mark.parametrize(
    ("said", "right", "exact", "away"),
    [
        ("a b c d", "a b c d", 1, 0),
        (" a b c d ", "a b c d", 1, 0),
        ("a b c", "a b c d", 0, 1),
        ("a b c d e", "a b c d", 0, 1),  # one too much
        ("a c b d", "a b c d", 0, 2),
        ("", "a b", 0, 2),
        ("12 13 14 47", "47", 0, 6),  # all numbers, the right one among them
        ("A", "a", 0, 1),
    ],
)
def test_exact_match_and_edits(said, right, exact, away):
    detail = assess("emergence", measured(said), (right,), "").detail
    assert (detail["exact"], detail["distance"]) == (exact, away)
    longer = max(len(said.replace(" ", "")), len(right.replace(" ", "")))
    assert detail["edit"] == pytest.approx(1 - away / longer)


def test_what_cannot_be_is_no_error():
    never = assess("emergence", measured("", -math.inf, 2, (-math.inf, -math.inf)), ("4",), "")
    assert (never.detail["probability"], never.detail["per_token"], never.detail["grade"]) == (0, 0, 0)
    assert never.detail["brier"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="expected what is measured"):
        score("emergence", "47", ("47",), "")


def test_a_smooth_skill_looks_sharp_in_long_answers():
    """p rises evenly; exact match of 8 tokens is p^8, and hardly rises before it shoots up. Edits would not."""
    rates = [0.1, 0.3, 0.5, 0.7, 0.9]
    exact = [assess("emergence", measured(nats=8 * math.log(p), tokens=8), ("47",), "").detail for p in rates]
    assert [round(detail["per_token"], 6) for detail in exact] == rates
    rises = [b["probability"] - a["probability"] for a, b in itertools.pairwise(exact)]
    assert rises[-1] > 50 * rises[1] > 0


def row(task="copying", length=0, control=MEMORY, size=2, document=0, **values):
    detail = {"size": size, **dict.fromkeys(METRICS, 0.5), **values}
    return Row(task, length, control, document, 0, f"{document}", "", ("a",), {}, detail["exact"], detail=detail)


def test_tables_by_length_and_size_leave_controls_out():
    rows = [row(size=2, document=i, exact=float(i < 3), edit=i / 10) for i in range(10)]
    rows += [row(size=4, document=i + 10, exact=0.0) for i in range(5)]
    rows += [row(length=400, document=i, likelihood=-float(i)) for i in range(4)]
    rows += [row(control="zeroed", document=i, exact=1.0) for i in range(10)]
    (found,) = breakdowns(rows)
    assert found.task == "copying"
    assert [entries[:3] for entries in found.lines] == [(0, 2, 10), (0, 4, 5), (0, "all", 15), (400, 2, 4)]
    heads = dict(zip(found.columns, found.lines[0], strict=True))
    assert heads["exact match"].value == pytest.approx(0.3)
    assert heads["exact match"].interval == wilson(3, 10)
    edits = heads["edit similarity"]
    assert edits.value == pytest.approx(0.45)
    assert edits.interval == bootstrap([i / 10 for i in range(10)], resamples=2000)
    nats = dict(zip(found.columns, found.lines[3], strict=True))["log-likelihood, nats a token"]
    assert nats.value == pytest.approx(-1.5)
    assert dict(zip(found.columns, found.lines[2], strict=True))["exact match"].value == pytest.approx(0.2)


class Knows(Remembers):
    """Copies the question that it read, and finds other continuations the less likely the more they differ from it."""

    def generate(self, state, prompts, max_tokens, stop=(), sampling=None):
        return [self._copy(state) for _ in prompts]

    def score(self, state, prompt, continuations):
        right = self._copy(state).split()
        said = [self.decode(ids).split() for ids in continuations]
        wrong = [sum(a != b for a, b in zip_longest(words, right)) for words in said]
        return [Score(-float(count), not count, len(words)) for count, words in zip(wrong, said, strict=True)]

    def _copy(self, state):
        return state.split("Question: ")[1].split(" ?")[0] if "Question: " in state else ""


def test_a_run_and_its_controls(tmp_path):
    words = Words()
    cells = run(
        Knows(words), ["copying:lengths=3+5"], source(words), lengths=[200], n=6, folder=tmp_path, controls=["zeroed"]
    )
    assert {cell.control: cell.rate for cell in cells} == {MEMORY: 1.0, "zeroed": 0.0}
    rows = load_rows(tmp_path / "rows.jsonl")
    assert {row.detail["size"] for row in rows} == {3, 5}
    assert {row.score for row in rows if row.control == "zeroed"} == {0.0}
    assert all(row.detail["grade"] == row.detail["probability"] == 1 for row in rows if row.control == MEMORY)
    (table,) = breakdowns(rows)
    assert [entries[:3] for entries in table.lines] == [(200, 3, 3), (200, 5, 3), (200, "all", 6)]


def test_a_mean_that_is_not_finite_has_no_interval(recwarn):
    found = estimate("likelihood", [-math.inf, -1.0, -2.0])
    assert (found.value, found.interval) == (-math.inf, None)
    assert not recwarn.list
    assert estimate("likelihood", [-1.0, -2.0]).interval is not None
