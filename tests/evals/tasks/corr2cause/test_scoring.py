"""What is a yes; and F1, precision and recall against scikit-learn's definitions, written out naively."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evals.breakdowns import breakdowns
from evals.rows import Row
from evals.scorers import assess
from evals.tasks.corr2cause.scoring import said
from evals.tasks.corr2cause.tables import METRICS, Counts, count, metrics


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Yes", "yes"), (" no.", "no"), ('"Yes."', "yes"), ("No, it does not follow.", "no"), ("YES! No", "yes"),
        ("Yes or no", None), ("It is yes", None), ("", None), ("Maybe", None), ("Nothing", None), ("Yesterday", None),
        ("no, yes", None), (3, None), ("The answer is yes. Yes", None),
    ],
)  # fmt: skip
def test_only_yes_or_no_is_an_answer(text: object, word: str | None) -> None:
    assert said(text) == word
    for right in ("Yes", "No"):
        found = assess("corr2cause", text, (right,), "")
        assert found.score == float(word == right.lower())
        assert found.detail == {"said": word or ""}


def row(number: int, follows: bool, answered: str, **changes: object) -> Row:
    expected = ("Yes",) if follows else ("No",)
    plain = Row("corr2cause", 0, "memory", number, 0, f"{number}", f"{number}", expected, answered)
    scored = assess("corr2cause", answered, expected, "").score
    detail = {"variables": 3, "relation": "parent", "entailed": follows}
    return replace(plain, score=scored, scorer="corr2cause", **{"detail": detail, **changes})  # type: ignore[arg-type]


def naive(rows: list[Row]) -> dict[str, float | None]:
    """By sets of questions."""
    positive = {n for n, one in enumerate(rows) if one.expected == ("Yes",)}
    named = {n for n, one in enumerate(rows) if said(one.answered) == "yes"}
    both = positive & named
    precision = len(both) / len(named) if named else None
    recall = len(both) / len(positive) if positive else None
    f1 = 2 * len(both) / (len(named) + len(positive)) if named or positive else None
    return dict(zip(METRICS, (f1, precision, recall, np.mean([one.value for one in rows])), strict=True))


@pytest.mark.parametrize("seed", range(6))
def test_metrics_are_those_of_sets_and_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [
        row(n, bool(rng.integers(2)), str(rng.choice(["Yes", "No", "maybe"], p=[0.4, 0.5, 0.1]))) for n in range(40)
    ]
    found = metrics(count(rows))
    assert {name: entry and entry.value for name, entry in found.items()} == pytest.approx(naive(rows))
    for entry in found.values():
        assert entry is not None
        assert entry.interval is not None
        assert entry.interval.low <= entry.value <= entry.interval.high
    named = sum(said(one.answered) == "yes" for one in rows)
    positive = sum(one.expected == ("Yes",) for one in rows)
    of = {name: entry.n for name, entry in found.items() if entry is not None}
    assert (of["precision"], of["recall"], of["accuracy"]) == (named, positive, 40)
    from sklearn import metrics as theirs

    right = [one.expected == ("Yes",) for one in rows]
    guess = [said(one.answered) == "yes" for one in rows]
    precision, recall, f1, _ = theirs.precision_recall_fscore_support(right, guess, average="binary")
    assert [found[name].value for name in METRICS[:3]] == pytest.approx([f1, precision, recall])  # type: ignore[union-attr]


def test_intervals_hold_what_is_true_as_often_as_they_say() -> None:
    """Of many samples with known shares of the five kinds, 95% have the true number between the ends."""
    shares = np.array([0.15, 0.1, 0.1, 0.6, 0.05])
    true = {"F1": 0.3 / 0.5, "precision": 0.6, "recall": 0.6, "accuracy": 0.75}
    rng = np.random.default_rng(0)
    held = dict.fromkeys(METRICS, 0)
    for sample in rng.multinomial(120, shares, size=2000):
        for name, entry in metrics(Counts(*map(int, sample))).items():
            assert entry is not None
            assert entry.interval is not None
            held[name] += entry.interval.low <= true[name] <= entry.interval.high
    assert {name: 0.93 < hits / 2000 < 0.975 for name, hits in held.items()} == dict.fromkeys(METRICS, True)


@pytest.mark.parametrize("counts", [Counts(3, 0, 0, 2, 0), Counts(0, 1, 4, 0, 0)])
def test_all_right_and_all_wrong_are_not_certain(counts: Counts) -> None:
    for entry in metrics(counts).values():
        assert entry is not None
        assert entry.interval is not None
        assert entry.interval.high - entry.interval.low > 0.3


def test_what_is_not_defined_is_left_empty() -> None:
    assert metrics(Counts(0, 0, 0, 0, 0)) == dict.fromkeys(METRICS)
    silent = metrics(Counts(0, 0, 4, 6, 0))
    assert silent["precision"] is None
    for entry in (silent["recall"], silent["F1"]):
        assert entry is not None
        assert (entry.value, entry.n) == (0, 4)
    nothing = metrics(Counts(0, 0, 0, 5, 1))
    assert [nothing[name] for name in METRICS[:3]] == [None] * 3
    assert nothing["accuracy"] is not None
    assert nothing["accuracy"].value == pytest.approx(5 / 6)


def test_tables_take_controls_apart() -> None:
    rows = [row(n, n % 2 == 0, "Yes") for n in range(4)] + [row(n, n % 2 == 0, "No", length=9) for n in range(4)]
    rows += [row(n, n % 2 == 0, "No", length=9, control="zeroed") for n in range(4)]
    rows += [row(9, False, "No", detail={"variables": 2, "relation": "has_collider"})]
    by_length, by_relation, by_size = breakdowns(rows)
    assert [line[:5] for line in by_length.lines] == [
        (0, "memory", 5, 2, 4),
        (9, "memory", 4, 2, 0),
        (9, "zeroed", 4, 2, 0),
    ]
    assert [line[:3] for line in by_relation.lines] == [(0, "parent", 4), (0, "has_collider", 1), (9, "parent", 4)]
    assert [line[:3] for line in by_size.lines] == [(0, 2, 1), (0, 3, 4), (9, 3, 4)]
