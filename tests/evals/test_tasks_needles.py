"""Needles stand whole in the text, once each, where they should, and are asked for by their keys."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from evals.tasks.needles import NeedleTask

FRAME = ["remember", ":", "means", "."]


class Words:
    """A tokenizer of made-up words, the frame's and a few that are no keys among them."""

    def __init__(self, count=100):
        words = [f"{a}{b}" for a in "abcdefghijklmnopqrst" for b in ("xyz", "uvw", "rst", "opq", "lmn")][:count]
        self.vocabulary = {word: n for n, word in enumerate(["[CLS]", "##ing", "it", "7th", *FRAME, *words])}

    def get_vocab(self):
        return self.vocabulary


PROSE = np.full(1000, 1)


@given(st.integers(0, 50), st.integers(1, 16), st.integers(0, 200), st.sampled_from([None, 12, 24]))
def test_every_needle_stands_whole(number, pairs, more, within):
    task = NeedleTask(Words(), PROSE)
    if within is not None:
        more = (pairs * 12 + more) // within * within - pairs * 6 + within
    made = task.text(number, pairs * 6 + more, pairs, within)
    frame = task.frame
    starts = np.flatnonzero(made.ids == frame[0])
    assert len(starts) == pairs
    assert made.needle.sum() == 6 * pairs
    assert (made.ids[~made.needle] == 1).all()
    for start, key, value in zip(starts, made.keys, made.values, strict=True):
        assert made.ids[start : start + 6].tolist() == [frame[0], frame[1], key, frame[3], value, frame[5]]
        assert within is None or start // within == (start + 5) // within
    assert len(set(made.keys)) == pairs
    again = task.text(number, pairs * 6 + more, pairs, within)
    assert (again.ids == made.ids).all()


def test_words_are_whole_plain_and_not_of_the_frame():
    task = NeedleTask(Words(), PROSE)
    assert len(task.words) == 100
    names = {n: word for word, n in Words().vocabulary.items()}
    assert all(len(names[n]) >= 3 and names[n] not in FRAME for n in task.words)


def test_a_batch_asks_for_needles_of_its_own_texts():
    task = NeedleTask(Words(), PROSE)
    batch = task.batch(3, 4, 96, 6, within=24, asked=5)
    assert batch["input_ids"].shape == batch["salient"].shape == (4, 96)
    assert batch["question_ids"].shape == batch["question_targets"].shape == (4, 5, 3)
    for row in range(4):
        for key, means, value in batch["question_ids"][row]:
            text = batch["input_ids"][row].tolist()
            assert means == task.frame[3]
            # A word may be the value of one needle and the key of another.
            assert [key, means, value] in [text[n : n + 3] for n in range(len(text))]
    assert (batch["question_targets"][:, :, :2] == -100).all()


@pytest.mark.parametrize(("tokens", "pairs", "within"), [(10, 2, None), (24, 5, 12), (24, 5, 24), (2000, 1, None)])
def test_what_finds_no_room_is_refused(tokens, pairs, within):
    with pytest.raises(ValueError, match="expected"):
        NeedleTask(Words(), PROSE).text(0, tokens, pairs, within)


def test_a_tokenizer_without_the_words_is_refused():
    class Poor:
        def get_vocab(self):
            return {"remember": 0}

    with pytest.raises(ValueError, match="without"):
        NeedleTask(Poor(), PROSE)
