"""Sequences against a reader that takes the text apart word by word and does what is asked."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evals import MEMORY, run
from evals.memory_eval import document_digest
from evals.positions import position
from evals.rows import Row, load_rows
from evals.scorers import score
from evals.tasks.base import Source, Task
from evals.tasks.registry import create
from evals.tasks.sequences import KINDS, Sequences
from tests.evals.solver import background, tokenizer
from tests.evals.words import Remembers, Words, source


def solve(text: str, asked: str) -> str:
    """What a question wants of a document in words."""
    inside = re.search(r"sequence start (.*) sequence end", text)
    said = (inside[1] if inside else text).split()
    if asked == "Write the sequence twice in the same order":
        return " ".join(said + said)
    if asked == "Write the sequence in reverse order":
        return " ".join(reversed(said))
    key = asked.removeprefix("Write the value of key ").split()
    values = [said[i + len(key)] for i in range(len(said) - len(key)) if said[i : i + len(key)] == key]
    found = [value for value in values if value.isdigit()]
    assert len(found) <= 1
    return found[0] if found else "none"


@dataclass
class Scribe(Remembers):
    """Does what the question asks of the text it remembers."""

    def generate(self, state, prompts, max_tokens, stop=(), sampling=None):
        asked = [re.search(r"Write .*?(?= [.:])", self.decode(prompt))[0] for prompt in prompts]
        return [" ".join(solve(state, ask).split()[:max_tokens]) if state else "" for ask in asked]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.one_of(st.none(), st.integers(1, 26)),
    st.one_of(st.none(), st.floats(0, 1)),
    st.integers(60, 400),
    st.integers(0, 20),
    st.booleans(),
)
def test_a_sequence_in_text(kind, items, depth, length, index, bare):
    words = Words()
    (document,) = Sequences(kind, items, depth).documents(source(words, bare=bare), length, 1, first=index)
    text = words.decode(document.tokens(0, length))
    assert len(text.split()) == length
    (question,) = document.questions
    assert question.answers == (solve(text, question.text),)
    assert question.text in words.decode(question.ids)
    assert question.max_tokens == len(question.answers[0].split())
    inside = text.partition("sequence start ")[2].partition(" sequence end")[0].split()
    ((start, stop),) = question.evidence
    if kind == "associative":
        assert len(inside) == 2 * (items or 4)
        assert len(set(inside[::2])) == items or 4
        assert text.split()[start:stop] == [question.text.split()[-1], question.answers[0]]
    else:
        assert text.split()[start:stop] == inside
        assert len(inside) == (items or 24)
    rest = text.replace("sequence start " + " ".join(inside) + " sequence end", "").split()
    assert len(rest) == length - len(inside) - 4
    assert rest == [f"w{i}" for i in range(document.start, document.start + len(rest))]
    if depth is not None:
        size = len(inside) + 4
        assert abs(text.split().index("sequence") - depth * (length - size)) <= 0.5


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.integers(2, 700), st.integers(0, 5), st.data())
def test_a_document_that_is_the_sequence(kind, length, index, data):
    words = Words()
    (document,) = Sequences(kind, filled=True).documents(source(words, 1), length, 1, first=index)
    text = words.decode(document.tokens(0, length)).split()
    assert len(text) == document.length == length
    one_by_one = [int(document.tokens(i, i + 1)[0]) for i in range(length)]
    assert document.tokens().tolist() == one_by_one
    start = data.draw(st.integers(0, length))
    stop = data.draw(st.integers(start, length + 3))
    assert document.tokens(start, stop).tolist() == one_by_one[start:stop]
    (question,) = document.questions
    assert question.answers == (solve(" ".join(text), question.text),)
    ((start, stop),) = question.evidence
    if kind != "associative":
        assert (start, stop) == (0, length)
        return
    assert text[start:stop] == [*question.text.split()[5:], question.answers[0]]
    period = stop - start
    keys = [tuple(text[i : i + period - 1]) for i in range(0, length - length % period, period)]
    assert len(set(keys)) == len(keys)
    assert all(letter in "abcdefghijklmnopqrstuvwxyz" for key in keys for letter in key)
    assert all(text[i].isdigit() for i in range(period - 1, length, period))


@pytest.mark.parametrize("size", [24, 40, 120, 240, 360])
def test_the_sizes_of_the_paper(size):
    words = Words()
    (copy,) = Sequences("copy", filled=True).documents(source(words), size, 1)
    (back,) = Sequences("reverse", filled=True).documents(source(words), size, 1)
    assert len(copy.questions[0].answers[0].split()) == 2 * size  # 48 of 24, and so on to 720 of 360
    assert len(back.questions[0].answers[0].split()) == size
    (pairs,) = Sequences("associative", filled=True).documents(source(words), 8, 1)
    assert re.fullmatch(r"([a-z] \d ?){4}", words.decode(pairs.tokens()))


@pytest.mark.parametrize("kind", ["copy", "reverse"])
def test_the_first_symbols_of_the_answer_may_be_asked_alone(kind):
    words = Words()
    (whole,) = Sequences(kind, filled=True).documents(source(words), 30, 1)
    for items in (1, 24, 30, 31, 60, 1000):
        (part,) = Sequences(kind, items, filled=True).documents(source(words), 30, 1)
        said = part.questions[0].answers[0].split()
        assert said == whole.questions[0].answers[0].split()[:items]
        row = Row(kind, 30, MEMORY, 0, 0, "", "", ("",), "", evidence=part.questions[0].evidence)
        where = position(row, 10)
        assert where.tokens == (max(0, 30 - items) if kind == "copy" else 0)
    with pytest.raises(ValueError, match="at most 4096 symbols to be asked, got 5000; ask for the first 24"):
        list(Sequences(kind, filled=True).documents(source(words), 5000 // (2 if kind == "copy" else 1), 1))


def test_a_million_symbols_are_drawn_as_they_are_read():
    made = tokenizer()

    def encode(text):
        return np.asarray(made(text, add_special_tokens=False)["input_ids"], dtype=np.int64)

    text = Source(encode, made.decode, background(10), digest="f")
    for kind in KINDS:
        task = Sequences(kind, None if kind == "associative" else 24, filled=True)
        one, two = task.documents(text, 1_000_000, 2)
        ids = one.tokens(0, 1_000_000)
        assert len(ids) == 1_000_000
        assert ids[777_000:801_000].tolist() == one.tokens(777_000, 801_000).tolist()
        assert document_digest(one) != document_digest(two)
        assert not np.array_equal(ids, two.tokens())
    digits = made.decode(ids).split()[4::5]  # keys of four letters
    assert stats.chisquare(np.bincount(np.array(digits, dtype=int), minlength=10)).pvalue > 1e-3


def test_symbols_are_drawn_evenly_and_change_with_seed_and_number():
    words = Words()
    counts = np.zeros(10, dtype=int)
    for document in Sequences("copy", filled=True).documents(source(words), 1000, 20):
        counts += np.bincount([int(word) for word in words.decode(document.tokens()).split()], minlength=10)
    assert stats.chisquare(counts).pvalue > 1e-3
    for filled in (False, True):
        made = [
            document_digest(document)
            for kind in KINDS
            for seed in (0, 1)
            for document in Sequences(kind, filled=filled).documents(source(words, seed=seed), 200, 3)
        ]
        assert len(set(made)) == len(made)
        again = Sequences("copy", filled=filled).documents(source(words), 200, 1, first=2)
        assert [document_digest(document) for document in again] == made[2:3]


@pytest.mark.parametrize("filled", [False, True])
def test_a_model_that_remembers_is_right_and_one_that_forgets_is_not(tmp_path, filled):
    words = Words()
    tasks = [Sequences(kind, filled=filled) for kind in KINDS]
    assert all(isinstance(task, Task) for task in tasks)
    cells = run(Scribe(words), tasks, source(words), lengths=[80], n=6, folder=tmp_path)
    rates = {(cell.task, cell.control): cell.rate for cell in cells}
    for kind in KINDS:
        assert rates[kind, MEMORY] == 1
        assert rates[kind, "zeroed"] == 0
    assert 0 < rates["copy", "swapped"] < 0.3  # by chance a tenth of the symbols of another sequence
    rows = load_rows(tmp_path / "rows.jsonl")
    assert all(score(row.scorer, row.answered, row.expected, row.asked) == row.value for row in rows)


def test_the_registry_makes_them():
    assert create("copy:items=40,depth=0.5") == Sequences("copy", 40, 0.5)
    assert create("associative:filled=True").filled
    assert create("reverse").name == "reverse"
    assert Sequences("copy").chance == 0.1
    assert Sequences("copy", exact=True).chance == 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "sort"}, "kind: expected one of copy, reverse, associative, got 'sort'"),
        ({"kind": "associative", "items": 27}, "items: expected 1 to 26, got 27"),
        ({"kind": "copy", "items": 0}, "items: expected 1 to 4096, got 0"),
        ({"kind": "copy", "depth": 1.5}, "depth: expected 0 to 1"),
        ({"kind": "copy", "depth": 0.5, "filled": True}, "depth: expected 0 to 1 in a document not filled"),
        ({"kind": "associative", "items": 4, "filled": True}, "items: expected none"),
    ],
)
def test_bad_settings_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        Sequences(**fields)


def test_what_does_not_fit_is_refused():
    words = Words()
    with pytest.raises(ValueError, match="at least the 28 tokens of the sequence, got 27"):
        list(Sequences("copy").documents(source(words), 27, 1))
    with pytest.raises(ValueError, match="never tiled"):
        Sequences("copy").documents(source(words, 50), 60, 1)
    with pytest.raises(ValueError, match="at least 2 symbols, got 1"):
        Sequences("associative", filled=True).documents(source(words), 1, 1)
    by_letter = Source(lambda text: np.array([ord(c) for c in text]), str, np.arange(100))
    with pytest.raises(ValueError, match="one token for each of 0123456789, got 2 for '0'"):
        list(Sequences("copy", filled=True).documents(by_letter, 24, 1))


@pytest.mark.parametrize(
    ("answered", "share"),
    [
        ("3 1 4 1", 1),
        (" 3, 1, 4, 1.", 1),
        ("3 1 4", 0.75),
        ("3 1 4 2", 0.75),
        ("1 4 1 3", 0.0),  # all of them, none in its place
        ("", 0),
        ("Write the sequence in reverse order", 0),
        ("Write 3 1 4 1", 0.0),
        ("3141", 0),
        ("3 1 4 1 3 1 4 1", 0.5),  # too much
        ("3 1 4 1 . And then 5 9 2 6", 0.4),
        ("0 1 2 3 4 5 6 7 8 9", 0.1),  # all symbols
    ],
)
def test_symbols_count_at_their_place(answered, share):
    assert score("sequence", answered, ("3 1 4 1",), "") == pytest.approx(share)
    assert score("sequence_exact", answered, ("3 1 4 1",), "") == (share == 1)


def test_case_says_nothing_and_the_best_answer_counts():
    assert score("sequence_exact", "A B", ("x", "a b"), "") == 1
    assert score("sequence", "a", (), "") == 0
