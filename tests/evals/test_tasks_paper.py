from __future__ import annotations

import numpy as np
import pytest

from evals import scorers
from evals.tasks.base import Task
from evals.tasks.memory import PLACES, MemoryTasks
from evals.tasks.paper import PaperTasks
from evals.tasks.registry import create
from tests.evals.solver import solve
from tests.evals.words import Words, source


def test_the_same_documents_as_the_labels_have():
    words = Words()
    text = source(words, 2000, seed=5, bare=True)
    task = create("paper:distractors=1")
    assert isinstance(task, Task)
    made = list(task.documents(text, 400, 6, first=2))
    theirs = MemoryTasks(
        lambda s, add_special_tokens: {"input_ids": words.encode(s)}, text.background, 400, distractors=1, seed=5
    )
    for ours, other in zip(made, theirs.documents(6, 2), strict=True):
        assert np.array_equal(ours.tokens(), other.tokens())
        assert [q.answers for q in ours.questions] == [(PLACES[q.answer],) for q in other.questions]
        assert [q.ids.tolist() for q in ours.questions] == [q.ids.tolist() for q in other.questions]


def test_the_evidence_alone_answers_the_question():
    words = Words()
    for document in PaperTasks().documents(source(words, 3000), 500, 60):
        for question in document.questions:
            said = " ".join(words.decode(document.tokens(a, b)) for a, b in question.evidence)
            assert len(question.evidence) == 1
            assert solve(said, question.text) == set(question.answers)


def test_words_around_the_question_for_models_that_were_not_trained():
    words = Words()
    (document,) = PaperTasks("detect").documents(source(words, 3000), 500, 1)
    (question,) = document.questions
    assert words.decode(question.ids) == f"Question: {question.text} Answer with one word. Answer:"
    with pytest.raises(ValueError, match="expected some of"):
        next(PaperTasks("detect+nothing").documents(source(words, 3000), 500, 1))


def test_an_answer_that_names_several_places_is_wrong():
    words = Words()
    for bare in (True, False):
        (document,) = PaperTasks("detect").documents(source(words, 3000, bare=bare), 500, 1)
        (question,) = document.questions
        (place,) = question.answers
        other = next(name for name in PLACES if name != place)
        assert question.max_tokens == (1 if bare else 8)
        for said, right in {
            place: 1, f"{place.upper()}.": 1, f"in the {place}, of course": 1, f"{place} {other}": 0,
            f"{place}. It may be the {other}.": 0, " ".join(PLACES): 0, question.text: 0, "": 0, other: 0,
        }.items():  # fmt: skip
            assert scorers.score(question.scorer, said, question.answers, question.text) == right, said
