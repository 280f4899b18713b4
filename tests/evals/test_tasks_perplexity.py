"""Nats a token of what comes next, with a model that knows only what it has read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from evals import MEMORY, Row, Score, bootstrap, load_rows, run, tally
from evals.tasks.base import Task
from evals.tasks.perplexity import Perplexity, gain
from evals.tasks.registry import create
from tests.evals.words import Remembers, Words, source


@dataclass
class Follows(Remembers):
    """Knows what comes next if it has just read what stood before: 1 nat a token where it does, 3 where not."""

    def score(self, state, prompt, continuations):
        assert prompt.shape == (16,)
        scores = []
        for ids in continuations:
            last = int(state.split()[-1][1:]) if state else -10
            known = self.decode(prompt[:1]) == f"w{last + 1}" and self.decode(ids[:1]) == f"w{last + 17}"
            scores.append(Score(-(1.0 if known else 3.0) * len(ids), known, len(ids)))
        return scores


def test_the_question_is_the_text_behind_the_document(tmp_path):
    words = Words()
    text = source(words, 900)
    task = Perplexity(span=7)
    assert isinstance(task, Task)
    assert task.lower_is_better
    assert create("perplexity:span=7") == task
    assert task.settings() == {"span": 7, "lead": 16, "name": "perplexity"}
    whole = text.background.tolist()
    made = list(task.documents(text, 200, 8))
    for document in made:
        (question,) = document.questions
        start = int(question.text.removeprefix("text at "))
        assert document.tokens(0, 200).tolist() == whole[start : start + 200]
        assert question.ids.tolist() == whole[start + 200 : start + 216]
        assert question.continuation.tolist() == whole[start + 216 : start + 223]
        assert question.answers == (question.text,)
    assert len({document.questions[0].answers for document in made}) == 8
    assert [d.start for d in task.documents(text, 200, 2, first=6)] == [d.start for d in made[6:]]
    assert [d.start for d in task.documents(source(words, 900, seed=1), 200, 8)] != [d.start for d in made]


def test_starts_are_far_apart():
    words = Words()
    starts = sorted(document.start for document in Perplexity().documents(source(words, 5000), 200, 16))
    assert min(np.diff(starts)) > 128  # of 4,656 places, 292 each
    assert starts[0] < 600
    assert starts[-1] > 4000


def test_memory_is_worth_two_nats_and_cells_hold_nats(tmp_path):
    words = Words()
    cells = run(Follows(words), [Perplexity(span=5)], source(words), lengths=[100, 300], n=6, folder=tmp_path)
    assert {(c.length, c.control): c.rate for c in cells} == {
        (n, control): rate for n in (100, 300) for control, rate in ((MEMORY, 1), ("zeroed", 3), ("swapped", 3))
    }
    rows = load_rows(tmp_path / "rows.jsonl")
    for control in ("zeroed", "swapped"):
        found = gain(rows, control)
        assert [(g.length, g.control, g.n) for g in found] == [(100, control, 6), (300, control, 6)]
        assert all((g.mean, g.interval) == (2, (2, 2)) for g in found)
    assert str(found[0]) == "2.000 [2.000, 2.000] nats a token n=6 (1.000 with memory, 3.000 swapped)"
    assert gain(rows, "shuffled") == []


def row(digest, control, value, question=0, length=100, scorer="value"):
    return Row("perplexity", length, control, 0, question, digest, "", ("a",), value, score=value, scorer=scorer)


def test_gain_is_paired_by_document():
    rng = np.random.default_rng(0)
    hard, helps = rng.normal(3, 1, 40), rng.normal(0.1, 0.02, 40)
    rows = [row(str(i), "zeroed", hard[i]) for i in range(40)]
    rows += [row(str(i), MEMORY, hard[i] - helps[i]) for i in reversed(range(40))]
    (found,) = gain(rows)
    naive = [hard[i] - (hard[i] - helps[i]) for i in range(40)]
    assert found.mean == pytest.approx(np.mean(naive))
    assert found.interval == pytest.approx(bootstrap(naive))
    assert (found.memory, found.without) == pytest.approx((np.mean(hard - helps), np.mean(hard)))
    # Paired, a tenth of a nat is seen in 40 documents; the means alone would not show it.
    assert found.interval.low > 0.09
    cells = tally(rows)
    assert cells[0].interval.high > cells[1].interval.low
    # Documents without a partner, and rows of other scorers, say nothing.
    more = [
        row("x", MEMORY, 9.0),
        row("y", "zeroed", 9.0),
        row("z", MEMORY, 1.0, scorer="exact"),
        row("0", "swapped", 9),
    ]
    assert gain(rows + more) == [found]


def test_questions_of_one_document_are_one_value():
    rows = [
        row("a", MEMORY, 1.0),
        row("a", MEMORY, 3.0, question=1),
        row("a", "zeroed", 4.0),
        row("a", "zeroed", 5.0, 1),
    ]
    rows += [
        row("b", MEMORY, 2.0),
        row("b", "zeroed", 2.0),
        row("c", MEMORY, 2.0, length=50),
        row("c", "zeroed", 1.0, length=50),
    ]
    short, long = gain(rows)
    assert (short.length, short.mean, short.n) == (50, -1, 1)
    assert (long.mean, long.n) == (1.25, 2)
    assert math.isclose(long.memory, 2)


def test_what_cannot_be_made_is_refused():
    words = Words()
    with pytest.raises(ValueError, match=r"at least 344 tokens for a document of 200 \(text is never tiled\), got 300"):
        Perplexity().documents(source(words, 300), 200, 1)
    assert len(list(Perplexity().documents(source(words, 344), 200, 1))) == 1
    with pytest.raises(ValueError, match="expected more than 346 tokens for 9 different documents of 200"):
        Perplexity().documents(source(words, 346), 200, 9)
    with pytest.raises(ValueError, match="span: expected at least 1"):
        Perplexity(span=0)
    with pytest.raises(ValueError, match="length: expected at least 1 token, got 0"):
        Perplexity().documents(source(words), 0, 1)


def test_a_stretch_that_holds_what_is_scored_is_never_swapped_in(tmp_path):
    words = Words()
    text = source(words, 900)
    made = list(Perplexity(span=5).documents(text, 400, 8))
    known = {document.questions[0].text: set(document.tokens().tolist()) for document in made}
    run(Follows(words), [Perplexity(span=5)], text, lengths=[400], n=8, folder=tmp_path)
    rows = load_rows(tmp_path / "rows.jsonl")
    start = {row.digest: row.expected[0] for row in rows}
    scored = {document.questions[0].text: document.questions[0].continuation.tolist() for document in made}
    swapped = [row for row in rows if row.control == "swapped"]
    assert 4 <= len(swapped) <= 8
    assert all(known[start[row.source]].isdisjoint(scored[start[row.digest]]) for row in swapped)
