"""``rmt lm-eval``: our models and tasks in lm-eval's own command."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from evals import load_rows, run
from evals.tasks.base import Source
from rmt.cli import models
from rmt.errors import InputError
from rmt.models import RMTForCausalLM
from tests.rmt.cli.conftest import saved
from tests.rmt.tiny import llama_config

CLOSE = 1e-4


@pytest.fixture(scope="module")
def associative(tokenizer, tmp_path_factory) -> str:
    """The folder of a tiny language model whose memory is empty before the first segment, and matters behind it."""
    torch.manual_seed(2)
    inner = LlamaForCausalLM(llama_config(vocab_size=len(tokenizer)))
    model = RMTForCausalLM.from_backbone(
        inner, segment_size=16, num_memory_tokens=2, memory="associative", associative_key_size=4
    )
    torch.nn.init.normal_(model.cell.value, std=0.5)
    return saved(model, tokenizer, tmp_path_factory.mktemp("models") / "associative")


def harness():
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")


def plugin(folder: str, **settings):
    from evals.lm_eval.model import RecurrentLM
    from rmt.cli.lm_eval import load

    loaded = load(pretrained=folder, dtype="float32")
    return RecurrentLM(loaded.model, tokenizer=loaded.tokenizer, extend=loaded.extend, **settings)


def asked(kind: str, *arguments):
    from lm_eval.api.instance import Instance

    return Instance(kind, doc={}, arguments=arguments, idx=0, metadata=("t", 0, 1))


def likely(model, ids, start: int) -> float:
    """Nats of ids[start:] in one forward over all of it."""
    ids = torch.as_tensor(np.array(ids))
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0].log_softmax(-1)
    return float(logits[torch.arange(start - 1, len(ids) - 1), ids[start:]].sum())


@pytest.mark.parametrize("words", [3, 15, 16, 17, 40])
@pytest.mark.parametrize("kind", ["associative", "language_model"])
def test_likelihoods_are_those_of_one_forward(kind, words, request):
    harness()
    folder = request.getfixturevalue(kind)
    model, tokenizer = models.load(folder)
    context = " ".join(["river", "clock", "garden", "the", "old"][n * n % 5] for n in range(words))
    whole = tokenizer(context + " kitchen and garden", add_special_tokens=False)["input_ids"]
    assert len(whole) == words + 3
    ((got, _),) = plugin(folder).loglikelihood(
        [asked("loglikelihood", context, " kitchen and garden")], disable_tqdm=True
    )
    assert abs(got - likely(model, whole, words)) <= CLOSE
    if kind == "associative":
        # In its first segment it is its backbone, and behind that it no longer is.
        own = abs(got - likely(model.backbone, whole, words))
        assert own <= CLOSE if words + 3 <= 16 else own > 10 * CLOSE


@pytest.mark.parametrize("words", [5, 16, 50])
def test_whole_texts_are_scored_as_in_one_forward(associative, words):
    harness()
    model, tokenizer = models.load(associative)
    text = " ".join(["river", "clock", "garden", "the", "old"][n * n % 5] for n in range(words))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    lm = plugin(associative, prefix_token_id=1000)
    (got,) = lm.loglikelihood_rolling([asked("loglikelihood_rolling", text)], disable_tqdm=True)
    assert abs(got - likely(model, [1000, *ids], 1)) <= CLOSE


@pytest.mark.slow  # lm-eval looks through its fourteen thousand task files
def test_the_command_prints_a_table_of_what_our_own_runner_finds(rmt, language_model, tokenizer, document, tmp_path):
    harness()
    arguments = ["--model", "rmt", "--model_args", f"pretrained={language_model},dtype=float32"]
    about = ["--metadata", f"text={document}", "documents=3", "seed=7"]
    done = rmt("lm-eval", *arguments, "--tasks", "rmt_perplexity_200,rmt_needle_300", *about)
    assert done.exit_code == 0, done.output
    from rmt.cli.lm_eval import load

    with models.reader(language_model).tokens_of(str(document), tmp_path / "t", progress=False) as background:
        model = load(pretrained=language_model, dtype="float32").model
        source = Source(model.encode, model.decode, background, background.digest, seed=7)
        run(model, ["perplexity"], source, lengths=[200], n=3, folder=tmp_path / "p", controls=())
        run(model, ["needle"], source, lengths=[300], n=3, folder=tmp_path / "n", controls=())
    nats = re.search(r"rmt_perplexity_200.*?nats *\|. *\| *([\d.]+)", done.stdout)
    values = [row.value for row in load_rows(tmp_path / "p" / "rows.jsonl")]
    assert nats is not None, done.stdout
    assert float(nats[1]) == pytest.approx(np.mean(values), abs=1e-3)
    found = re.search(r"rmt_needle_300.*?needle *\|. *\| *([\d.]+)", done.stdout)
    assert found is not None, done.stdout
    assert float(found[1]) == pytest.approx(np.mean([row.value for row in load_rows(tmp_path / "n" / "rows.jsonl")]))


def test_help_is_lm_evals_own(rmt):
    harness()
    assert "--apply_chat_template" in rmt("lm-eval", "run", "--help").output
    assert "lm-eval ls tasks" in rmt("lm-eval", "--help").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "rmt", "--tasks", "rmt_nothing_4k"], "task: expected one of"),
        (["--model", "rmt", "--tasks", "rmt_qa1"], "task: expected rmt_<task>_<length>"),
        (["--model", "rmt", "--tasks", "rmt_needle_1k"], "model_args: expected pretrained=MODEL"),
    ],
)
def test_bad_input_is_one_line(rmt, arguments, message):
    harness()
    failed = rmt("lm-eval", *arguments)
    assert failed.exit_code == 2
    assert message in failed.output.splitlines()[-1]


def test_it_says_what_to_install(rmt, monkeypatch):
    monkeypatch.setattr("rmt.cli.lm_eval.find_spec", lambda name: None)
    failed = rmt("lm-eval", "--tasks", "arc_easy")
    assert failed.exit_code == 2
    assert 'pip install "rmt-memory[lm-eval]"' in failed.output


def test_tasks_count_with_a_tokenizer(document):
    from rmt.cli.lm_eval import source

    with pytest.raises(InputError, match="tokenizer=FOLDER"):
        source(text=str(document))
