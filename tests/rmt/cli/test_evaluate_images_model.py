"""Models that see as models of text: what they read is what the model itself reads, what they say comes from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from evals import Model
from rmt.cli.pictured import PicturedModel
from rmt.errors import InputError
from tests.evals.models.texts import Plain
from tests.rmt.cli.pictures_kit import SEGMENT, SIDE, TOKENS, Album, album, processor, seeing_model, with_image_token


@pytest.fixture(scope="module")
def seeing_tokenizer(tokenizer):
    return with_image_token(tokenizer)


@pytest.fixture(scope="module")
def model(seeing_tokenizer):
    return seeing_model(seeing_tokenizer)


@pytest.fixture(scope="module")
def sees(model, seeing_tokenizer):
    from multimodal.reader import AlbumReader

    return PicturedModel(AlbumReader(model, processor(seeing_tokenizer), dtype="float32"), "tiny")


def pixels(images: list[np.ndarray]) -> torch.Tensor:
    """As CLIP's processor makes them, of images that have the right size."""
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    made = torch.from_numpy(np.stack(images)).float() / 255
    return ((made - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)


def whole(model: Any, read: Album, behind: np.ndarray | None = None) -> Any:
    """One forward over a document, and over what stands behind it."""
    images = [image for *_, image in read.pictures]
    ids = read.ids if behind is None else np.concatenate([read.ids, behind])
    glue = np.concatenate([read.glue, np.zeros(len(ids) - len(read.ids), dtype=np.int64)])
    with torch.inference_mode():
        return model(
            input_ids=torch.from_numpy(ids)[None],
            pixel_values=pixels(images) if images else None,
            glue=torch.from_numpy(glue)[None],
            logits_to_keep=0,
        )


def test_it_is_a_model_of_text(sees, model):
    assert isinstance(sees, Model)
    assert sees.name == "tiny"
    assert sees.segment == SEGMENT
    assert sees.answers is None
    assert sees.controls == ("zeroed", "shuffled", "swapped")
    assert (sees.tokens_per_image, sees.image_size) == (TOKENS, SIDE)
    assert sees.image_token == model.config.image_token_id
    assert model.fingerprint() in sees.fingerprint()
    assert sees.decode(sees.encode("an old clock")) == "an old clock"


@pytest.mark.parametrize(("length", "count"), [(20, 2), (24, 0), (100, 8), (321, 30), (60, 10)])
def test_the_memory_is_that_of_one_forward(sees, model, length, count):
    read = album(sees.image_token, length, count, seed=length)
    (state,) = sees.read([read])
    out = whole(model, read)
    torch.testing.assert_close(state.memory.tensors["tokens"], out.memory.tensors["tokens"], atol=2e-5, rtol=1e-4)
    if length >= 100:  # in some of whose segments gates open
        assert bool(state.memory.tensors["tokens"].any())
        blank = Album(read.ids, tuple((*p[:3], np.zeros_like(p[3])) for p in read.pictures))
        (other,) = sees.read([blank])
        tokens = (s.memory.tensors["tokens"] for s in (other, state))
        assert not torch.equal(*tokens), "pixels were not looked at"


def test_documents_of_one_call_are_read_one_by_one(sees):
    reads = [album(sees.image_token, 90, count, seed=count) for count in (0, 3, 7)]
    together = sees.read(reads)
    for read, state in zip(reads, together, strict=True):
        (alone,) = sees.read([read])
        assert torch.equal(alone.memory.tensors["tokens"], state.memory.tensors["tokens"])


def test_text_alone_is_read_as_by_a_model_of_text(sees, model):
    read = Plain(np.random.default_rng(1).integers(1000, 20_000, 130))
    (state,) = sees.read([read])
    expected = whole(model, Album(read.ids))
    torch.testing.assert_close(state.memory.tensors["tokens"], expected.memory.tensors["tokens"], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(state.after, expected.logits[0, -1], atol=2e-4, rtol=1e-4)
    assert sees.score(state, np.array([], dtype=np.int64), [np.array([1500])])[0].tokens == 1


def test_a_text_that_says_image_shows_none(sees, seeing_tokenizer):
    said = "the tag <image> stands for a picture"
    raw = np.asarray(seeing_tokenizer(said, add_special_tokens=False)["input_ids"])
    assert (raw == sees.image_token).sum() == 1
    ids = sees.encode(said)
    assert sees.image_token not in ids
    assert len(sees.words(raw)) == len(raw)
    assert np.array_equal(sees.words(raw)[:], ids)
    assert np.array_equal(sees.words(raw)[2:5], ids[2:5])
    sees.read([Plain(np.tile(ids, 10))])


def test_nothing_is_said_behind_images_without_a_question(sees):
    nothing = np.array([], dtype=np.int64)
    (state,) = sees.read([album(sees.image_token, 60, 2)])
    with pytest.raises(InputError, match="expected a question behind a document with images"):
        sees.score(state, nothing, [np.array([1500])])
    with pytest.raises(InputError, match="expected tokens to go on from"):
        sees.generate(state, [nothing], 3)
    assert sees.score(sees.initial(), nothing, [np.array([1500])])[0].tokens == 1, "of nothing all is as likely"


def test_scores_are_those_of_all_logits(sees, model):
    # The last segment is full, so that a prompt begins one of its own, as it does behind a memory.
    read = album(sees.image_token, 4 * SEGMENT, 0, seed=3)
    filled = album(sees.image_token, SEGMENT, 2, seed=4, label=1)
    joined = Album(
        np.concatenate([read.ids, filled.ids]),
        tuple((a + 4 * SEGMENT, b + 4 * SEGMENT, c + 4 * SEGMENT, image) for a, b, c, image in filled.pictures),
    )
    (state,) = sees.read([joined])
    prompt, words = sees.encode("what digit was in the red frame?"), sees.encode("seven")
    (score,) = sees.score(state, prompt, [words])
    rows = whole(model, joined, np.concatenate([prompt, words])).logits[0].log_softmax(-1)
    assert score.nats == pytest.approx(float(rows[-2, int(words[0])]), abs=2e-4)
    best = sees.decode(np.array([int(rows[-2].argmax())]))
    assert sees.generate(state, [prompt], 1, ("\n",)) == [best]


def test_controls_change_the_memory_and_nothing_else(sees):
    (state,) = sees.read([album(sees.image_token, 100, 8, seed=5)])
    before = state.memory.tensors["tokens"].clone()
    mixed = sees.shuffled(state, 0).memory.tensors["tokens"]
    assert not torch.equal(mixed, before)
    assert torch.equal(mixed.sort(dim=-1).values, before.sort(dim=-1).values)
    assert torch.equal(state.memory.tensors["tokens"], before)
    assert not torch.equal(sees.initial().memory.tensors["tokens"], before)
