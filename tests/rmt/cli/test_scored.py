"""Specs of what an evaluation may score."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import LlamaForCausalLM

from evals import Model
from evals.models import CausalModel, Retrieval, Truncated
from rmt.cli import scored
from rmt.cli.recurrent import RecurrentModel
from rmt.errors import InputError
from tests.evals.models.texts import Plain
from tests.rmt.tiny import llama_config


@pytest.fixture(scope="module")
def foreign(tokenizer, tmp_path_factory) -> str:
    """The folder of a causal language model that is not ours."""
    folder = tmp_path_factory.mktemp("models") / "foreign"
    LlamaForCausalLM(llama_config(vocab_size=len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_every_kind(language_model, classifier, foreign):
    ours = scored.model(language_model, "float32")
    assert isinstance(ours, RecurrentModel)
    assert ours.segment == 16
    plain = scored.model(foreign, "float32")
    assert isinstance(plain, CausalModel)
    assert plain.window == "full"
    sliding = scored.model(f"hf:{foreign},window=sliding,size=8", "float32")
    assert isinstance(sliding, CausalModel)
    assert (sliding.window, sliding.size, sliding.name) == ("sliding", 8, "foreign, sliding 8")
    short = scored.model(f"truncate:{classifier},size=20,keep=ends", "float32")
    assert isinstance(short, Truncated)
    assert (short.size, short.keep, short.answers) == (20, "ends", scored.model(classifier).answers)
    both = scored.model(f"truncate:hf:{foreign},window=sliding,size=20,size=8", "float32")
    assert isinstance(both, Truncated)
    assert (both.size, both.inner.size) == (20, 8)
    same = scored.model(f"hf:{foreign},window=sliding,size=8", "float32", baseline="truncate,size=20")
    assert same.fingerprint() == both.fingerprint()
    assert all(isinstance(one, Model) for one in (ours, plain, short, both))


def test_retrieval_finds_what_is_asked_for(language_model):
    ours = scored.model(f"retrieval:{language_model},k=1,chunk=24", "float32")
    assert isinstance(ours, Retrieval)
    assert ours.same_tokens
    parts = ["The river froze early that winter, and no boat could pass. " * 6] * 2
    fact = "Mary moved her old red chair into the garden. "
    ids = [ours.encode(part) for part in (parts[0], fact, parts[1])]
    (state,) = ours.read([Plain(np.concatenate(ids))])
    part = ours.retrieve(state, ours.encode("Where is the chair that Mary owned?"))
    assert "mary" in ours.decode(part.tokens(0, part.length))
    (score,) = ours.score(state, ours.encode("Where is Mary's chair?"), [ours.encode("garden")])
    assert score.nats < 0


@pytest.mark.parametrize(
    ("spec", "baseline", "message"),
    [
        ("nothing-here", None, "expected a folder or a bundled model"),
        ("truncate:minilm-rmt", None, r"add size=512"),
        ("truncate:minilm-rmt,size=many", None, "expected a number for size, got 'many'"),
        ("truncate:minilm-rmt,size=0", None, "expected at least 1 token"),
        ("truncate:,size=3", None, "expected a model behind truncate:"),
        ("truncate:minilm-rmt,size=3,depth=4", None, "expected settings out of size, keep, got 'depth=4'"),
        ("truncate:minilm-rmt,3", None, "as name=value"),
        ("truncate:minilm-rmt,size=3,size=4", None, "expected no settings of a model that reads as it does"),
        ("retrieval:minilm-rmt,k=0", None, "k: expected at least 1"),
        ("minilm-rmt,size=3", None, "expected no settings of a model that reads as it does, got 'size=3'"),
        ("minilm-rmt", "window,size=3", "expected truncate or retrieval, got 'window'"),
        ("hf:FOREIGN,window=sliding", None, "expected at least 2 tokens"),
        ("hf:FOREIGN,size=4,size=5", None, "write each once"),
        ("hf:/nowhere/at/all", None, "nowhere"),
    ],
)
def test_wrong_specs(foreign, spec, baseline, message):
    with pytest.raises(InputError, match=message) as caught:
        scored.model(spec.replace("FOREIGN", foreign), "float32", baseline=baseline)
    assert "\n" not in str(caught.value)
