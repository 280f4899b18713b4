"""The end of a document for any model."""

from __future__ import annotations

import numpy as np
import pytest

from evals import Model, run
from evals.models import Truncated
from evals.models.truncated import Part, kept
from tests.evals.models.texts import Plain, text
from tests.evals.words import Codes, Remembers, Words, source


def test_what_is_kept():
    assert kept(100, 10, "last") == [(90, 100)]
    assert kept(100, 11, "ends") == [(0, 5), (94, 100)]
    assert kept(100, 1, "ends") == [(99, 100)]
    assert kept(7, 10, "ends") == kept(7, 10, "last") == [(0, 7)]


def test_a_part_is_a_document():
    ids = text(50)
    part = Part(Plain(ids), ((3, 10), (20, 25), (40, 50)))
    whole = np.concatenate([ids[3:10], ids[20:25], ids[40:50]])
    assert part.length == 22
    for start in range(22):
        for stop in range(start, 23):
            assert part.tokens(start, stop).tolist() == whole[start:stop].tolist()


def test_a_model_sees_the_end_alone(tmp_path):
    words = Words()
    background, whole = source(words), Remembers(words)
    short = Truncated(whole, 30)
    assert isinstance(short, Model)
    run(short, [Codes()], background, lengths=[300], n=10, folder=tmp_path / "a")
    states = short.read(list(Codes().documents(background, 300, 3)))
    for state, document in zip(states, Codes().documents(background, 300, 3), strict=True):
        assert state == words.decode(document.tokens(270, 300))
    others = [short, Truncated(whole, 31), Truncated(whole, 31, "ends"), whole]
    assert len({model.fingerprint() for model in others}) == 4
    assert short.name == "remembers, last 30 tokens"
    with pytest.raises(ValueError, match="expected at least 1 token"):
        Truncated(whole, 0)
    with pytest.raises(ValueError, match="expected one of last, ends"):
        Truncated(whole, 5, "both")
