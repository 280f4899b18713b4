"""A ``Model`` (text) as a ``MemoryModel`` (answers), so that one runner scores both. Knows nothing of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic

import numpy as np

from evals.model import Document, Model, State
from evals.tasks.base import Question


class Answerer(Generic[State]):
    """Answers questions of ``evals.tasks.base`` with what a model scores or generates.

    Args:
        model: any ``evals.model.Model``.
    """

    def __init__(self, model: Model[State]) -> None:
        self.model = model

    def fingerprint(self) -> str:
        """The model's."""
        return self.model.fingerprint()

    def read(self, documents: Sequence[Document]) -> Sequence[State]:
        """One state for each document; where there is nothing to read, the initial one."""
        if not any(document.length for document in documents):
            return [self.model.initial() for _ in documents]
        return self.model.read(documents)

    def initial(self) -> State:
        """The state before anything was read."""
        return self.model.initial()

    def shuffled(self, state: State, seed: int) -> State:
        """The state with its channels in another order."""
        return self.model.shuffled(state, seed)

    def answer(self, state: State, questions: Sequence[Question]) -> list[Any]:
        """For each question a text (generated or chosen), nats a token, or a dictionary of all of these (measured).

        Questions alike are asked together.

        Raises ValueError on an unknown method.
        """
        answers: list[Any] = [None] * len(questions)
        groups: dict[tuple[int, tuple[str, ...], bool], list[int]] = {}
        for place, question in enumerate(questions):
            if question.method in ("generate", "measure"):
                drawn = question.sampling is not None
                groups.setdefault((question.max_tokens, question.stop, drawn), []).append(place)
            elif question.method == "choose":
                answers[place] = self._choose(state, question)
            elif question.method == "nats":
                answers[place] = self._nats(state, question)
            else:
                raise ValueError(
                    f"method: expected generate, choose, nats or measure, got {question.method!r}; name one"
                )
        for (most, stop, drawn), places in groups.items():
            prompts = [questions[place].ids for place in places]
            ways = {"sampling": [questions[place].sampling for place in places]} if drawn else {}
            said = self.model.generate(state, prompts, most, stop, **ways)  # type: ignore[arg-type]  # none is None
            for place, text in zip(places, said, strict=True):
                asked = questions[place]
                answers[place] = text if asked.method == "generate" else self._measure(state, asked, text)
        return answers

    def _choose(self, state: State, question: Question) -> str:
        ids = [self.model.encode(" " + choice) for choice in question.choices]
        scores = self.model.score(state, question.ids, ids)
        return question.choices[int(np.argmax([score.nats for score in scores]))]

    def _measure(self, state: State, question: Question, text: str) -> dict[str, Any]:
        """The text that was generated, and how likely the right continuation and all choices are."""
        if question.continuation is None:
            raise ValueError(f"{question.task}: expected a continuation to measure, got none; give one")
        ids = [question.continuation, *(self.model.encode(" " + choice) for choice in question.choices)]
        right, *others = self.model.score(state, question.ids, ids)
        measured = {"text": text, "nats": right.nats, "tokens": right.tokens, "greedy": right.greedy}
        return {**measured, "choices": [other.nats for other in others]}

    def _nats(self, state: State, question: Question) -> float:
        if question.continuation is None:
            raise ValueError(f"{question.task}: expected a continuation to score, got none; give one")
        (score,) = self.model.score(state, question.ids, [question.continuation])
        return -score.nats / score.tokens
