"""Problems in a prompt or spread over a document, and what rows keep of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from evals import MEMORY, load_rows, run
from evals.model import Sampling
from evals.scorers import SCORERS, Assessed
from evals.tasks.base import Question, Source
from evals.tasks.documents import Document
from evals.tasks.problems import Problem, documents
from evals.tasks.registry import create
from tests.evals.words import Remembers, Words, source


def half(answered: Any, answers: Any, asked: str) -> Assessed:
    return Assessed(0.5, {"said": answered["text"], "nats": answered["nats"]})


@dataclass(frozen=True)
class Sums:
    """Two numbers, each a part of its own."""

    name: str = "sums"
    chance: float | None = None
    method: str = "generate"
    scorer: str = "exact"

    def settings(self) -> Mapping[str, Any]:
        return {"method": self.method}

    def problem(self, encode: Any, index: int) -> Problem:
        asked = Question(
            "sums", f"{index} + 1", np.zeros(0, np.int64), (str(index),), self.scorer, self.method, ("a", "b", "c"),
            encode(str(index)), about={"size": 1}, sampling=Sampling(1.0, seed=index) if index % 2 else None,
        )  # fmt: skip
        parts = (f"first number {index}", "second number 1", f"code {index}")
        return Problem(parts, f"whole problem {index} + 1 code {index}", "what is the sum", (asked,))

    def documents(self, source: Source, length: int, count: int, first: int = 0) -> Iterator[Document]:
        return documents(source, length, count, first, self.name, lambda index: self.problem(source.encode, index))


@dataclass
class Asked(Remembers):
    """Remembers, and takes the prompt for part of the text; keeps what it was asked to draw."""

    def __post_init__(self) -> None:
        self.drawn: list[Any] = []

    def generate(self, state: str, prompts: Any, max_tokens: int, stop: Any = (), sampling: Any = None) -> list[str]:
        self.drawn.append(sampling)
        return [self._code(state + " " + self.decode(prompt)) for prompt in prompts]


def test_parts_stand_whole_in_order_and_nothing_else_changes():
    words = Words()
    text = source(words, 3000)
    for document in Sums().documents(text, 500, 20, first=3):
        ids = document.tokens(0, 500)
        assert len(ids) == document.length == 500
        (question,) = document.questions
        found = [words.decode(ids[start:stop]) for start, stop in question.evidence]
        assert found == [f"first number {document.index}", "second number 1", f"code {document.index}"]
        assert [start for start, _ in question.evidence] == sorted(start for start, _ in question.evidence)
        rest = np.delete(ids, np.concatenate([np.arange(*span) for span in question.evidence]))
        start = int(np.flatnonzero(text.background == rest[0])[0])
        assert (rest == text.background[start : start + len(rest)]).all()
        assert words.decode(question.ids) == "what is the sum"


def test_places_differ_and_follow_from_the_seed_alone():
    words = Words()

    def places(**settings: Any) -> list[Any]:
        made = Sums().documents(source(words, 3000, **settings), 500, 6)
        return [document.questions[0].evidence for document in made]

    assert len(set(places())) == 6
    assert places() == places()
    assert places() != places(seed=1)
    alone = next(iter(Sums().documents(source(words, 3000), 500, 1, first=4)))
    assert alone.questions[0].evidence == places()[4]


def test_parts_are_uniform_over_the_document():
    """Of one part the place is uniform: mean 0.5 and variance 1/12 of the room, within 4 standard errors."""
    words = Words()

    def make(index: int) -> Problem:
        return Problem(("here",), "", "", (Question("t", str(index), np.zeros(0, np.int64), ("x",)),))

    made = documents(source(words, 2000), 101, 4000, 0, "t", make)
    places = np.array([document.inserts[0].offset for document in made]) / 100
    assert set(np.unique(places)) >= {0.0, 1.0}
    assert abs(places.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 4000)
    assert abs(places.var() - 1 / 12) < 0.01


def test_behind_nothing_the_prompt_is_whole_and_controls_are_left_out(tmp_path):
    words = Words()
    model = Asked(words)
    run(model, [Sums()], source(words), lengths=[0, 400], n=4, folder=tmp_path)
    rows = load_rows(tmp_path / "rows.jsonl")
    assert model.reads == 4  # an empty document is not read
    assert {row.control for row in rows if row.length == 0} == {MEMORY}
    assert {row.control for row in rows if row.length == 400} == {MEMORY, "zeroed", "swapped"}
    assert all(row.correct for row in rows if row.control == MEMORY)
    assert not any(row.correct for row in rows if row.control != MEMORY)
    assert all(row.evidence == () for row in rows if row.length == 0)
    assert all(row.detail == {"size": 1} for row in rows)
    (document, *_) = Sums().documents(source(words), 0, 1)
    assert words.decode(document.questions[0].ids) == "whole problem 0 + 1 code 0"
    drawn = [ways for ways in model.drawn if ways is not None]
    assert {way.seed for ways in drawn for way in ways} == {1, 3}  # of questions that are drawn, and of no others


def test_a_measured_answer_holds_all_and_is_scored_in_detail(tmp_path, monkeypatch):
    monkeypatch.setitem(SCORERS, "half", f"{__name__}:half")
    words = Words()
    run(Asked(words), [Sums(method="measure", scorer="half")], source(words), lengths=[0], n=2, folder=tmp_path)
    for index, row in enumerate(load_rows(tmp_path / "rows.jsonl")):
        assert row.answered["text"] == str(index)
        assert {"text", "nats", "tokens", "greedy", "choices"} == set(row.answered)
        assert row.answered["tokens"] == 1
        assert len(row.answered["choices"]) == 3
        assert row.score == 0.5
        assert row.detail == {"size": 1, "said": str(index), "nats": row.answered["nats"]}
    kept = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()[1:]]
    assert all(record["detail"]["size"] == 1 for record in kept)


def test_measuring_needs_something_to_measure(tmp_path):
    words = Words()

    @dataclass(frozen=True)
    class Nothing(Sums):
        def problem(self, encode: Any, index: int) -> Problem:
            asked = Question("sums", "?", np.zeros(0, np.int64), ("x",), method="measure")
            return Problem(("x",), f"p {index}", "a", (asked,))

    with pytest.raises(ValueError, match="expected a continuation to measure"):
        run(Asked(words), [Nothing()], source(words), lengths=[0], n=1, folder=tmp_path)


@pytest.mark.parametrize(
    ("length", "words_of_text", "said"),
    [(-1, 900, "at least 0 tokens"), (5, 900, "room for the 8 tokens of the parts"), (800, 500, "at least 792 tokens")],
)
def test_impossible_lengths(length, words_of_text, said):
    with pytest.raises(ValueError, match=said):
        list(Sums().documents(source(Words(), words_of_text), length, 1))


@pytest.mark.parametrize(
    ("settings", "said"), [({"temperature": 0.0}, "temperature"), ({"temperature": 1.0, "top_p": 0.0}, "top_p")]
)
def test_impossible_sampling(settings, said):
    with pytest.raises(ValueError, match=said):
        Sampling(**settings)


def test_a_setting_may_hold_commas():
    assert create("needle:needles=4,depths=11").settings()["needles"] == 4
    with pytest.raises(ValueError, match="expected a whole number for needles, got '4,5'"):
        create("needle:needles=4,5")
    with pytest.raises(ValueError, match="name=value"):
        create("needle:4,depths=11")
