"""Any causal language model of Hugging Face, against one forward over all tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evals.model import Model
from evals.models import CausalModel
from evals.models.hugging_face import cut
from tests.evals.models.texts import Plain, gpt2, greedy, llama, mistral, naive, text, tokenizer

CONTINUATIONS = [text(1, 7), text(4, 8), text(9, 9), text(1, 10)]
MODELS = {"llama": llama, "gpt2": gpt2, "mistral": mistral}


def close(scores, twins):
    assert [s.nats for s in scores] == pytest.approx([nats for nats, _ in twins], abs=1e-4)
    assert [s.greedy for s in scores] == [greedy for _, greedy in twins]


def said(ids) -> str:
    return tokenizer().decode(ids.tolist(), skip_special_tokens=True)


@pytest.mark.parametrize("chunk", [7, 1024])
@pytest.mark.parametrize("asked", [0, 5])
@pytest.mark.parametrize("family", MODELS)
def test_full_is_one_forward(family, asked, chunk):
    model, document, prompt = MODELS[family](), text(40), text(asked, 1)
    ours = CausalModel(model, tokenizer(), chunk=chunk)
    assert isinstance(ours, Model)
    (state,) = ours.read([Plain(document)])
    context = np.concatenate([document, prompt])
    twins = [naive(model, context, ids) for ids in CONTINUATIONS]
    for _ in range(2):  # asking changes nothing
        scores = ours.score(state, prompt, CONTINUATIONS)
        close(scores, twins)
        assert [s.tokens for s in scores] == [1, 4, 9, 1]
    best = greedy(model, context, 6)
    assert ours.generate(state, [prompt], 6) == [said(best)]
    assert ours.score(state, prompt, [best])[0].greedy
    assert not ours.score(state, prompt, [np.append(best[:-1], (best[-1] + 1) % 64)])[0].greedy


@pytest.mark.parametrize("chunk", [3, 1024])
@pytest.mark.parametrize("size", [2, 8])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_sliding_is_one_forward_under_a_mask(family, size, chunk):
    model, document, prompt = MODELS[family](), text(40), text(5, 1)
    ours = CausalModel(model, tokenizer(), "sliding", size, chunk=chunk)
    (state,) = ours.read([Plain(document)])
    assert {layer.keys.shape[-2] for layer in state.cache.layers} == {size - 1}
    context = np.concatenate([document, prompt])
    close(ours.score(state, prompt, CONTINUATIONS), [naive(model, context, ids, size) for ids in CONTINUATIONS])
    assert ours.generate(state, [prompt], 4) == [said(greedy(model, context, 4, size))]
    whole = naive(model, context, CONTINUATIONS[1])[0]
    assert abs(ours.score(state, prompt, CONTINUATIONS)[1].nats - whole) > 1e-2, "the window changes nothing"


@pytest.mark.parametrize("keep", ["last", "ends"])
def test_truncate_reads_what_it_keeps(keep):
    model, document, prompt = gpt2(), Plain(text(200)), text(5, 1)
    ours = CausalModel(model, tokenizer(), "truncate", 11, keep)
    (state,) = ours.read([document])
    kept = document.ids[-11:] if keep == "last" else np.concatenate([document.ids[:5], document.ids[-6:]])
    twins = [naive(model, np.concatenate([kept, prompt]), ids) for ids in CONTINUATIONS]
    close(ours.score(state, prompt, CONTINUATIONS), twins)
    assert sum(stop - start for start, stop in document.asked) == 11
    short = text(6)
    (state,) = ours.read([Plain(short)])
    close(ours.score(state, prompt, CONTINUATIONS[:1]), [naive(model, np.append(short, prompt), CONTINUATIONS[0])])


def test_documents_and_prompts_together_are_as_alone():
    model = llama()
    ours = CausalModel(model, tokenizer(), chunk=16)
    documents, prompts = [text(40, n) for n in range(3)], [text(n, n) for n in (4, 2, 4, 1)]
    states = ours.read([Plain(ids) for ids in documents])
    for ids, state in zip(documents, states, strict=True):
        twins = [said(greedy(model, np.append(ids, prompt), 3)) for prompt in prompts]
        assert ours.generate(state, prompts, 3) == twins
    assert len({layer.keys.untyped_storage().data_ptr() for s in states for layer in s.cache.layers}) == 6


def test_a_long_continuation_is_scored_in_parts(monkeypatch):
    model, widths = llama(), []
    ours = CausalModel(model, tokenizer())
    monkeypatch.setattr("evals.models.hugging_face.LOGITS", 64 * 2 * 5)
    inner = model.forward

    def forward(*args, **more):
        out = inner(*args, **more)
        widths.append(out.logits.shape[1])
        return out

    monkeypatch.setattr(model, "forward", forward)
    monkeypatch.setattr(ours, "_takes", {"position_ids"})
    (state,) = ours.read([Plain(text(20))])
    two = [text(17, 5), text(8, 6)]
    scores = ours.score(state, text(3, 1), two)
    assert max(widths) == 5
    monkeypatch.undo()
    close(scores, [naive(model, np.append(text(20), text(3, 1)), ids) for ids in two])


def test_a_text_begins_with_bos_where_the_tokenizer_says_so():
    model, prompt = llama(), text(4, 1)
    ours, bare = CausalModel(model, tokenizer(bos=True)), CausalModel(model, tokenizer())
    (state,) = ours.read([Plain(text(20))])
    one = [CONTINUATIONS[1]]
    close(ours.score(state, prompt, one), [naive(model, np.concatenate([[1], text(20), prompt]), one[0])])
    close(ours.score(ours.initial(), prompt[:0], one), [naive(model, np.array([1]), one[0])])
    close(bare.score(bare.initial(), prompt, one), [naive(model, prompt, one[0])])
    nats, _ = naive(model, one[0][:1], one[0][1:])
    assert bare.score(bare.initial(), prompt[:0], one)[0].nats == pytest.approx(nats - np.log(64), abs=1e-4)
    with pytest.raises(ValueError, match="expected tokens to go on from"):
        bare.generate(bare.initial(), [prompt[:0]], 3)
    last = CausalModel(model, tokenizer(bos=True), "truncate", 6)
    (state,) = last.read([Plain(text(20))])
    close(last.score(state, prompt, one), [naive(model, np.concatenate([[1], text(20)[-6:], prompt]), one[0])])


def test_generation_ends():
    model = llama()
    ours = CausalModel(model, tokenizer())
    (state,) = ours.read([Plain(text(20))])
    prompt = next(p for p in (text(3, n) for n in range(50)) if len(set(ours.generate(state, [p], 6)[0].split())) == 6)
    whole = ours.generate(state, [prompt], 6)[0]
    words = whole.split()
    steps: list[int] = []
    hook = model.register_forward_hook(lambda *_: steps.append(1))
    assert ours.generate(state, [prompt], 6, stop=(words[3], words[2] + " ")) == [whole[: whole.index(words[2] + " ")]]
    hook.remove()
    assert len(steps) == 1 + 4, "it goes on behind a stop text"
    model.generation_config.eos_token_id = [int(ours.encode(words[2])[0])]
    again = CausalModel(model, tokenizer())
    assert again.generate(state, [prompt], 6)[0].split() == words[:2]
    assert cut("one two. three", (".", "two")) == "one "


def test_shuffled_and_fingerprint():
    ours = CausalModel(llama(), tokenizer())
    (state,) = ours.read([Plain(text(20))])
    before = [layer.keys.clone() for layer in state.cache.layers]
    other = ours.shuffled(state, 1)
    for layer, mixed, was in zip(state.cache.layers, other.cache.layers, before, strict=True):
        assert torch.equal(layer.keys, was)
        assert not torch.equal(mixed.keys, was)
        assert torch.equal(mixed.keys.sort(-1).values, was.sort(-1).values)
    one = [CONTINUATIONS[1]]
    assert ours.score(state, text(3), one) != ours.score(other, text(3), one)
    prints = {
        CausalModel(model, tokenizer(), *window).fingerprint()
        for model in (llama(), llama(1), llama(rope_parameters={"rope_theta": 500.0, "rope_type": "default"}))
        for window in ((), ("sliding", 8), ("truncate", 8), ("truncate", 8, "ends"))
    }
    assert len(prints) == 12
    assert CausalModel(llama(), tokenizer()).fingerprint() in prints
    changed = llama()
    changed.lm_head.weight.data[5, 5] += 1e-3
    assert CausalModel(changed, tokenizer()).fingerprint() not in prints


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        ("llama", ("window",), "expected one of full, sliding, truncate, got 'window'"),
        ("llama", ("full", 8), "expected none with window='full'"),
        ("llama", ("sliding",), "expected at least 2 tokens"),
        ("llama", ("sliding", 8, "ends"), "only 'truncate' keeps both ends"),
        ("llama", ("truncate", 8, "first"), "expected one of last, ends"),
        ("mistral", ("sliding", 8), "a window of its own"),
    ],
)
def test_wrong_settings(family, arguments, message):
    with pytest.raises(ValueError, match=message):
        CausalModel(MODELS[family](), tokenizer(), *arguments)


def test_positions_that_were_never_learned_are_refused():
    ours = CausalModel(gpt2(), tokenizer(), chunk=16)
    with pytest.raises(ValueError, match="at most 96 positions"):
        ours.read([Plain(text(120))])
    (state,) = ours.read([Plain(text(95))])
    with pytest.raises(ValueError, match="use window='truncate'"):
        ours.score(state, text(2), [text(1)])
    (state,) = CausalModel(llama(), tokenizer(), chunk=16).read([Plain(text(120))])  # rotary ones are computed
    assert state.seen == 119
    with pytest.raises(ValueError, match="documents of one length"):
        ours.read([Plain(text(5)), Plain(text(6))])
