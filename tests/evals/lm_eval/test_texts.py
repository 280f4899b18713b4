"""Texts with tokens, and where a context is divided."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.lm_eval.texts import Context, Continuation, Ids, known, split
from tests.evals.lm_eval.kit import random_ids


@given(st.integers(1, 200), st.integers(1, 20))
def test_whole_segments_are_read_and_the_rest_is_asked(count, segment):
    ids = np.arange(count)
    part = split(ids, segment)
    assert part.document.length % segment == 0
    assert 1 <= len(part.prompt) <= segment
    assert np.array_equal(np.concatenate([part.document.tokens(0, part.document.length), part.prompt]), ids)


def test_without_segments_all_but_the_last_token_are_read():
    part = split(np.arange(9), None)
    assert part.document.length == 8
    assert part.prompt.tolist() == [8]
    assert split(np.arange(9), None, asked=4).prompt.tolist() == [5, 6, 7, 8]
    with pytest.raises(ValueError, match="at least one token"):
        split(np.arange(0), 4)


def test_a_document_is_known_by_its_tokens_alone():
    ids = random_ids(100)
    assert split(ids, 10).key == known(Ids(ids[:90]), np.arange(3)).key
    assert split(ids, 10).key != split(ids[1:], 10).key
    changed = ids.copy()
    changed[0] += 1
    assert split(ids, 10).key != split(changed, 10).key


def test_a_copy_is_a_plain_text():
    made = [Context.of("a b", Ids(np.arange(2)), np.arange(1), "b"), Continuation.of("a b", np.arange(2))]
    for text in made:
        for same in (copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
            assert type(same) is str
            assert same == "a b"
