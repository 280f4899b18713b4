"""Problems: distinct, seeded, right by the second solver, in a prompt or spread over a document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals import Score, load_rows, run
from evals.breakdowns import Estimate, breakdowns
from evals.tasks.base import Task
from evals.tasks.corr2cause.classes import classes
from evals.tasks.corr2cause.order import order
from evals.tasks.corr2cause.solve import verdict
from evals.tasks.corr2cause.task import Corr2Cause
from evals.tasks.registry import create
from tests.evals.words import Remembers, Words, source

_SAID = re.compile(r"[A-Z] (?:correlates with|is independent of|and [A-Z] are independent given) [A-Z, and]*[A-Z]\.")


def read(text: str) -> tuple[str, str]:
    """Premise and hypothesis of all that was read and asked, wherever the sentences stand."""
    opening = re.search(r"Suppose there is a closed system of \d variables, [^.]*\.", text)
    asked = re.search(r"(?:following: |Hypothesis: )(.*?)(?:\? Just|$)", text)
    assert opening
    assert asked
    premise = " ".join((opening[0], "All the statistical relations are as follows:", *_SAID.findall(text)))
    return premise, asked[1].rstrip(".") + "."


@dataclass
class Reasons(Remembers):
    """Answers by the second solver from what it has read; without a premise it says no."""

    def score(self, state: str, prompt: np.ndarray, continuations: Sequence[np.ndarray]) -> list[Score]:
        text = f"{state} {self.decode(prompt)}"
        said = "Yes" if "Suppose there" in text and verdict(*read(text)) else "No"
        return [Score(0.0 if self.decode(ids) == said else -1.0, True, len(ids)) for ids in continuations]


def prompts(task: Task, words: Words, count: int, first: int = 0, **settings: Any) -> list[str]:
    made = task.documents(source(words, **settings), 0, count, first)
    return [words.decode(document.questions[0].ids) for document in made]


def test_the_prompt_is_the_benchmarks() -> None:
    words = Words()
    task = Corr2Cause(variables="3")
    (document,) = task.documents(source(words), 0, 1)
    (question,) = document.questions
    said = words.decode(question.ids)
    assert said.startswith("Question: Suppose there is a closed system of 3 variables, A, B and C. All the")
    assert said.endswith('? Just answer "Yes" or "No." Answer:')
    assert f"Can we deduct the following: {question.text.rstrip('.')}?" in said
    assert (question.method, question.choices) == ("choose", ("Yes", "No"))
    assert question.about["variables"] == 3
    assert question.about["entailed"] == (question.answers == ("Yes",))
    (bare,) = task.documents(source(words, bare=True), 0, 1)
    assert words.decode(bare.questions[0].ids).startswith("Premise: Suppose")
    assert words.decode(bare.questions[0].ids).endswith(f"Hypothesis: {question.text}")


@pytest.mark.parametrize("perturb", ["none", "paraphrase", "refactor"])
@pytest.mark.parametrize("semantics", ["correct", "released"])
def test_every_problem_is_another_one_and_all_are_asked(perturb: str, semantics: str) -> None:
    task = Corr2Cause(variables="2-4", perturb=perturb, semantics=semantics)
    words = Words()
    said = prompts(task, words, 12 + 90 + 720)
    assert len(set(said)) == len(said)
    assert said[100:120] == prompts(task, words, 20, first=100)
    assert prompts(task, words, 20, seed=1) != said[:20]
    assert [int(re.findall(r"\d", text)[0]) for text in said[:4]] == [2, 3, 4, 2]
    with pytest.raises(ValueError, match="expected at most 822 problems of variables=2-4, got 823"):
        task.documents(source(words), 0, 1, first=822)


def test_answers_are_those_of_the_second_solver() -> None:
    for perturb in ("none", "paraphrase", "refactor"):
        words = Words()
        for balanced in (False, True):
            task = Corr2Cause(variables="3-5", perturb=perturb, balanced=balanced)
            for document in task.documents(source(words, seed=5), 0, 30):
                (question,) = document.questions
                follows = verdict(*read(words.decode(question.ids)))
                assert question.answers == ("Yes" if follows else "No",)


def test_causes_do_not_always_come_first_in_the_alphabet() -> None:
    words = Words()
    for semantics, both in (("correct", True), ("released", False)):
        task = Corr2Cause(variables="3", balanced=True, semantics=semantics)
        kinds = {
            document.questions[0].about["relation"]
            for seed in range(8)
            for document in task.documents(source(words, seed=seed), 0, 6)
            if document.questions[0].about["entailed"]
        }
        assert ("child" in kinds) == both
        assert "parent" in kinds


def test_balanced_takes_labels_in_turn_and_sizes_too() -> None:
    task = Corr2Cause(variables="2-4", balanced=True)
    about = [document.questions[0].about for document in task.documents(source(Words()), 0, 12)]
    assert [entry["entailed"] for entry in about] == [True, False] * 6
    assert [entry["variables"] for entry in about] == [3, 3, 4, 4] * 3  # nothing follows of two
    with pytest.raises(ValueError, match="balanced"):
        task.documents(source(Words()), 0, 1000)


@pytest.mark.parametrize("semantics", ["correct", "released"])
def test_balanced_leaves_nothing_to_guess_by(semantics: str) -> None:
    """Neither the number of variables nor the relation, nor both, say more of the label than a coin."""
    task = Corr2Cause(variables="2-5", balanced=True, semantics=semantics)
    seen: dict[tuple[int, str], list[bool]] = {}
    for document in task.documents(source(Words(), seed=3), 0, 300):
        about = document.questions[0].about
        seen.setdefault((about["variables"], about["relation"]), []).append(about["entailed"])
    assert len(seen) >= 9
    assert task.chance == 0.5
    assert Corr2Cause(variables="2-5").chance is None  # a guess is worth more than a coin: most do not follow
    assert all(2 * sum(labels) == len(labels) for labels in seen.values())


def test_order_asks_each_once() -> None:
    sizes = np.array([2] * 3 + [3] * 5)
    labels = np.array([0, 0, 0, 1, 0, 0, 1, 0], dtype=bool)
    kinds = np.array([0, 1, 2, 0, 0, 5, 5, 5])
    rows = order(sizes, labels, kinds, (1, 2), False)
    assert sorted(rows) == list(range(8))
    assert sizes[rows].tolist() == [2, 3, 2, 3, 2, 3, 3, 3]
    rows = order(sizes, labels, kinds, (1, 2), True)
    assert labels[rows].tolist() == [True, False] * 2
    assert kinds[rows].tolist() in ([0, 0, 5, 5], [5, 5, 0, 0])


def test_parts_are_spread_over_a_document_in_their_order() -> None:
    words = Words()
    task = Corr2Cause(variables="4")
    for index in range(5):
        (document,) = task.documents(source(words), 900, 1, index)
        (alone,) = task.documents(source(words), 0, 1, index)
        (question,) = document.questions
        assert len(document.tokens()) == 900
        found = [words.decode(document.tokens()[a:b]) for a, b in question.evidence]
        whole = words.decode(alone.questions[0].ids)
        assert found[0].startswith("Suppose there is a closed system of 4 variables")
        assert len(found) > 6
        at = [whole.index(sentence) for sentence in found]
        assert at == sorted(at)
        assert not any(sentence in words.decode(question.ids) for sentence in found)
        assert question.answers == alone.questions[0].answers
    with pytest.raises(ValueError, match="expected room for"):
        list(task.documents(source(words), 20, 1))


def test_a_model_that_reasons_is_right_at_any_length_and_only_with_its_memory(tmp_path: Path) -> None:
    words = Words()
    spec = "corr2cause:variables=2-4,balanced=True"
    run(Reasons(words), [spec], source(words), lengths=[0, 800], n=12, folder=tmp_path, controls=("zeroed",))
    rows = load_rows(tmp_path / "rows.jsonl")
    assert all(row.correct for row in rows if row.control == "memory")
    first, by_relation, by_size = breakdowns(rows)
    assert [line[:5] for line in first.lines] == [
        (0, "memory", 12, 6, 6),
        (800, "memory", 12, 6, 6),
        (800, "zeroed", 12, 6, 0),
    ]
    assert [entry.value for entry in first.lines[1][5:] if isinstance(entry, Estimate)] == [1.0] * 4
    f1, precision, recall, accuracy = first.lines[2][5:]
    assert precision is None  # nobody said yes
    assert [entry.value for entry in (f1, recall, accuracy) if isinstance(entry, Estimate)] == [0, 0, 0.5]
    assert sum(int(str(line[2])) for line in by_relation.lines) == 24
    assert [line[1] for line in by_size.lines] == [3, 4, 3, 4]


@dataclass
class Closed(Remembers):
    """A classifier of places, which cannot say yes or no."""

    answers: tuple[str, ...] | None = ("kitchen", "garden")

    def score(self, state: str, prompt: np.ndarray, continuations: Sequence[np.ndarray]) -> list[Score]:
        raise ValueError("answer: expected one of kitchen, garden, got Yes; ask for what it knows")


def test_a_model_with_other_answers_fails_in_one_line(tmp_path: Path) -> None:
    words = Words()
    with pytest.raises(ValueError, match="expected one of kitchen, garden"):
        run(Closed(words), ["corr2cause:variables=3"], source(words), lengths=[0], n=1, folder=tmp_path)


def test_settings_and_errors() -> None:
    assert isinstance(create("corr2cause"), Task)
    task = create("corr2cause:variables=4,method=generate")
    assert task.settings()["method"] == "generate"
    (document,) = task.documents(source(Words()), 0, 1)
    assert document.questions[0].method == "generate"
    assert len(classes(4)) == 20
    for wrong in (
        "variables=1-3",
        "variables=7",
        "variables=4-3",
        "variables=a",
        "semantics=x",
        "perturb=x",
        "method=x",
    ):
        with pytest.raises(ValueError, match=r"expected .*, got"):
            create(f"corr2cause:{wrong}")
    with pytest.raises(ValueError, match="expected files or hub, got both"):
        Corr2Cause(files="a", hub="b")
