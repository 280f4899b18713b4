"""Documents with hidden facts: exact, solvable, uniform, and the same for the same seed."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evals.tasks.documents import Document, Insert
from evals.tasks.memory import PLACES, TASKS, MemoryTasks

from .solver import FIRST, background, people_in, solve, tokenizer, words


@pytest.fixture(scope="module")
def tokens() -> Any:
    return tokenizer()


@pytest.fixture(scope="module")
def many(tokens: Any) -> list[Document]:
    """Documents of all tasks, for what holds on average; their facts take about 80 of 1,000 tokens."""
    return list(MemoryTasks(tokens, background(5000), 1000, seed=7).documents(1200))


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Any document: inserts of any size, at the ends and side by side too."""
    gaps = draw(st.lists(st.integers(0, 5), max_size=5))
    inserts, at = [], 0
    for gap in gaps:
        ids = np.arange(draw(st.integers(1, 4))) + 10 * len(inserts)
        inserts.append(Insert(at + gap, "", ids, draw(st.booleans())))
        at += gap + len(ids)
    length = at + draw(st.integers(0 if inserts else 1, 6))
    return Document(length, tuple(inserts), (), background(60), draw(st.integers(0, 60 - length)), 0)


def naive(document: Document) -> tuple[list[int], list[bool]]:
    """Tokens and marks, one at a time."""
    starts = {i.offset: i for i in document.inserts}
    ids: list[int] = []
    keep: list[bool] = []
    source = document.start
    while len(ids) < document.length:
        if len(ids) in starts:
            insert = starts[len(ids)]
            ids += insert.ids.tolist()
            keep += [insert.keep] * len(insert.ids)
        else:
            ids.append(int(document.background[source]))
            keep.append(False)
            source += 1
    return ids, keep


@given(documents(), st.data())
def test_any_slice_is_a_slice_of_the_whole(document: Document, data: st.DataObject) -> None:
    ids, keep = naive(document)
    assert len(ids) == document.length
    whole = document.tokens()
    assert whole.dtype == np.int64
    assert whole.tolist() == ids
    assert document.salient().tolist() == keep
    begin = data.draw(st.integers(0, document.length))
    end = data.draw(st.integers(0, document.length + 3))
    assert document.tokens(begin, end).tolist() == ids[begin:end]
    assert document.salient(begin, end).tolist() == keep[begin:end]
    assert document.tokens(begin).tolist() == ids[begin:]


@pytest.mark.parametrize("size", [1, 7, 128])
def test_a_document_read_in_pieces_has_exactly_its_length(tokens: Any, size: int) -> None:
    document = MemoryTasks(tokens, background(700), 500).document(3)
    pieces = [document.tokens(at, at + size) for at in range(0, 500, size)]
    assert [len(p) for p in pieces[:-1]] == [size] * (len(pieces) - 1)
    assert np.concatenate(pieces).tolist() == document.tokens().tolist()
    assert len(document.tokens()) == 500


def test_background_is_in_order_and_never_repeated(many: list[Document]) -> None:
    for document in many[:100]:
        ids = document.tokens()
        text = ids[ids >= FIRST]
        assert np.array_equal(text, np.arange(text[0], text[0] + len(text)))
        assert text[0] == FIRST + document.start


def test_facts_are_intact_and_marks_exact(tokens: Any, many: list[Document]) -> None:
    for document in many[:100]:
        ids, keep = document.tokens(), document.salient()
        expected = np.zeros(len(ids), dtype=bool)
        for insert in document.inserts:
            stop = insert.offset + len(insert.ids)
            assert words(tokens, ids[insert.offset : stop]) == insert.text.lower()
            expected[insert.offset : stop] = insert.keep
        assert keep.tolist() == expected.tolist()
        assert all(a.offset + len(a.ids) <= b.offset for a, b in pairwise(document.inserts))


def test_the_text_gives_one_answer_and_it_is_the_right_one(tokens: Any, many: list[Document]) -> None:
    for document in many[:400]:
        text = words(tokens, document.tokens())
        assert [q.task for q in document.questions] == list(TASKS)
        for question in document.questions:
            assert solve(text, question.text) == {PLACES[question.answer]}, (text, question.text)
            assert words(tokens, question.ids) == question.text.lower()


def test_the_solver_sees_what_is_missing_or_contradicts() -> None:
    assert solve("Mary went to the garden.", "Where is John?") == set()
    assert solve("Mary went to the garden. Mary moved to the office.", "Where is Mary?") == {
        "garden",
        "office",
    }
    assert solve("The office is west of the garden.", "What is east of the office?") == {"garden"}
    assert solve("The office is west of the garden.", "What is the office west of?") == {"garden"}
    assert solve("The office is west of the garden.", "What is north of the office?") == set()


@pytest.mark.parametrize("distractors", [0, 3, 6])
def test_distractors_are_about_others(tokens: Any, distractors: int) -> None:
    tasks = MemoryTasks(tokens, background(1000), 600, tasks=("memorize", "detect"), distractors=distractors)
    for document in tasks.documents(60):
        told = people_in(words(tokens, document.tokens()))
        assert len(told) == len(set(told)) == 2 + distractors
        asked = {q.text.split()[-1].rstrip("?").lower() for q in document.questions}
        assert len(asked) == 2
        assert asked <= set(told)


def test_reasoning_takes_one_of_two_facts_about_three_rooms(tokens: Any) -> None:
    tasks = MemoryTasks(tokens, background(1000), 300, tasks=("reasoning",), distractors=0)
    asked = Counter()
    for document in tasks.documents(300):
        texts = [i.text for i in document.inserts]
        assert len(texts) == 2
        assert len({place for place in PLACES if place in " ".join(texts)}) == 3
        # One fact answers, the other does not: which one cannot be told without reading both.
        alone = [bool(solve(text, document.questions[0].text)) for text in texts]
        assert sorted(alone) == [False, True]
        asked[alone.index(True)] += 1
    assert stats.binomtest(asked[0], 300).pvalue > 1e-3


def test_memorize_opens_the_document(many: list[Document]) -> None:
    for document in many[:100]:
        person = document.questions[0].text.split()[-1].rstrip("?")
        assert document.inserts[0].offset == 0
        assert document.inserts[0].text.startswith(person)


def places_of_detect(documents: list[Document]) -> list[tuple[int, Insert, Document]]:
    """For each document, the fact to detect and the background tokens in front of it."""
    found = []
    for document in documents:
        person = document.questions[1].text.split()[-1].rstrip("?")
        (insert,) = (i for i in document.inserts if i.text.startswith(person))
        before = sum(len(i.ids) for i in document.inserts if i.offset < insert.offset)
        found.append((insert.offset - before, insert, document))
    return found


def test_offsets_are_uniform(many: list[Document]) -> None:
    share = []
    for gap, _, document in places_of_detect(many):
        room = document.length - sum(len(i.ids) for i in document.inserts)
        assert 0 <= gap <= room
        share.append(gap / room)
    assert stats.kstest(share, "uniform").pvalue > 1e-3
    assert min(share) < 0.01
    assert max(share) > 0.99


def test_segment_borders_cut_facts_as_often_as_chance_has_it(many: list[Document]) -> None:
    size = 32
    found = places_of_detect(many)
    cut = sum(i.offset // size != (i.offset + len(i.ids) - 1) // size for _, i, _ in found)
    chance = float(np.mean([(len(i.ids) - 1) / size for _, i, _ in found]))
    assert stats.binomtest(cut, len(found), chance).pvalue > 1e-3
    within = [i.offset % size for _, i, _ in found]
    assert stats.chisquare(np.bincount(within, minlength=size)).pvalue > 1e-3


def test_answers_are_balanced_and_tell_nothing_of_each_other(many: list[Document]) -> None:
    answers = np.array([[q.answer for q in d.questions] for d in many])
    for task in range(len(TASKS)):
        assert stats.chisquare(np.bincount(answers[:, task], minlength=6)).pvalue > 1e-3
    table = np.zeros((6, 6))
    np.add.at(table, (answers[:, 0], answers[:, 1]), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_everything_follows_from_seed_and_number(tokens: Any) -> None:
    def made(seed: int, index: int, length: int = 300) -> Document:
        return MemoryTasks(tokens, background(4000), length, seed=seed).document(index)

    one = made(1, 5)
    again = next(iter(MemoryTasks(tokens, background(4000), 300, seed=1).documents(1, first=5)))
    assert again.digest() == one.digest()
    assert again.tokens().tolist() == one.tokens().tolist()
    assert [(q.text, q.answer) for q in again.questions] == [(q.text, q.answer) for q in one.questions]
    others = [made(1, 6), made(2, 5), made(1, 5, 301)]
    assert len({d.digest() for d in [one, *others]}) == 4


def test_text_is_never_tiled(tokens: Any) -> None:
    exact = MemoryTasks(tokens, background(300), 300).document(0)
    assert len(exact.tokens()) == 300
    with pytest.raises(ValueError, match=r"at least 1,000 tokens .*never tiled\), got 999;") as error:
        MemoryTasks(tokens, background(999), 1000)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tasks": ("memorise",)}, "memorise"),
        ({"tasks": ()}, "expected some of memorize"),
        ({"distractors": 7}, "at most 8 people in all, got 9"),
    ],
)
def test_bad_settings_are_refused(tokens: Any, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MemoryTasks(tokens, background(500), 200, **fields)


def test_a_document_too_short_for_its_facts_is_refused(tokens: Any) -> None:
    with pytest.raises(ValueError, match=r"room for all facts \(\d+ tokens\), got 20"):
        MemoryTasks(tokens, background(500), 20).document(0)


def test_a_million_tokens_are_made_as_they_are_read(tokens: Any) -> None:
    class Counted:
        """Background that counts what is taken from it."""

        taken = 0

        def __len__(self) -> int:
            return 2_000_000

        def __getitem__(self, part: slice) -> np.ndarray:
            self.taken += part.stop - part.start
            return np.arange(part.start, part.stop) + FIRST

    text = Counted()
    document = MemoryTasks(tokens, text, 1_000_000).document(0)
    assert text.taken == 0
    assert len(document.tokens(999_900, 1_000_000)) == 100
    assert text.taken <= 100


def test_fewer_than_no_distractors_are_refused(tokens: Any) -> None:
    with pytest.raises(ValueError, match="expected at least 0, got -1"):
        MemoryTasks(tokens, background(5000), 1000, distractors=-1)
