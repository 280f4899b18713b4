"""The configuration: what it refuses, and that it survives files and copies."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, LlamaForCausalLM

from rmt.config import RMTConfig
from rmt.errors import InputError
from rmt.models.causal_lm import RMTForCausalLM
from rmt.models.sequence_classification import RMTForSequenceClassification

from .tiny import bert_config, classifier, llama_config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("segment_size", 0),
        ("segment_size", -3),
        ("segment_size", 2.5),
        ("segment_size", "128"),
        ("segment_size", True),
        ("segment_size", None),
        ("num_memory_tokens", -1),
        ("num_memory_tokens", 1.0),
        ("memory_update", "gate"),
        ("memory_update", None),
        ("recurrence", "checkpoint"),
        ("gate_threshold", 1),
        ("gate_threshold", -0.1),
        ("gate_threshold", "0.1"),
        ("gate_threshold", float("nan")),
        ("gate_penalty", -1e-9),
        ("gate_penalty", float("inf")),
        ("gate_penalty", None),
        ("bptt_depth", 0),
        ("bptt_depth", 2.5),
        ("bptt_depth", "4"),
        ("classifier_dropout", 1.0),
        ("classifier_dropout", None),
        ("backbone_config", 3),
        ("backbone_config", {}),
        ("backbone_config", {"hidden_size": 32}),
        ("backbone_config", {"model_type": "no such model"}),
    ],
)
def test_a_value_out_of_range_is_refused_in_one_line(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"RMTConfig: expected .*{key}") as error:
        RMTConfig(**{key: value})
    assert "\n" not in str(error.value)
    assert "got" in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"segment_size": 1, "num_memory_tokens": 0},
        {"memory_update": "gated", "gate_threshold": 0, "gate_penalty": 1},
        {"bptt_depth": 1, "recurrence": "checkpointed", "classifier_dropout": 0.5},
        {"id2label": {0: "a", 1: "b", 2: "c"}, "tie_word_embeddings": True},
        {"problem_type": "single_label_classification", "attn_implementation": "eager"},
    ],
)
def test_values_in_range_are_kept(fields: dict[str, Any]) -> None:
    config = RMTConfig(backbone_config=bert_config(), **fields)
    for key, value in fields.items():
        if key not in ("num_labels", "attn_implementation"):
            assert getattr(config, key) == value


def test_an_unknown_key_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="got 'segmentsize'; did you mean 'segment_size'") as error:
        RMTConfig(segmentsize=3)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="got 'xyzzy'; see help"):
        RMTConfig(xyzzy=1)


def test_an_unknown_key_is_refused_by_from_backbone() -> None:
    with pytest.raises(InputError, match="'num_memory_token'"):
        classifier(num_memory_token=3)
    with pytest.raises(InputError, match="did you mean 'bptt_depth'"):
        RMTForCausalLM.from_backbone(LlamaForCausalLM(llama_config()), segment_size=4, btt_depth=2)


def test_out_of_range_is_refused_by_from_backbone() -> None:
    with pytest.raises(InputError, match="bptt_depth"):
        classifier(bptt_depth=0)


@pytest.mark.parametrize("inner", [bert_config(), llama_config()], ids=["bert", "llama"])
def test_files_keep_everything(inner: Any, tmp_path: Path) -> None:
    config = RMTConfig(
        backbone_config=inner,
        segment_size=7,
        num_memory_tokens=2,
        memory_update="gated",
        gate_threshold=0.3,
        gate_penalty=0.01,
        bptt_depth=3,
        recurrence="checkpointed",
        cls_token_id=1,
        sep_token_id=2,
        pad_token_id=0,
        classifier_dropout=0.2,
        num_labels=6,
    )
    config.save_pretrained(tmp_path)
    back = RMTConfig.from_pretrained(tmp_path)
    assert back.to_dict() == config.to_dict()
    assert type(back.backbone_config) is type(inner)
    assert back.num_labels == 6
    assert back.backbone_config.to_dict() == inner.to_dict()
    assert copy.deepcopy(config).to_dict() == config.to_dict()
    assert RMTConfig(**config.to_dict()).to_dict() == config.to_dict()


def test_the_auto_class_knows_it(tmp_path: Path) -> None:
    RMTConfig(backbone_config=bert_config(), segment_size=9).save_pretrained(tmp_path)
    back = AutoConfig.from_pretrained(tmp_path)
    assert type(back) is RMTConfig
    assert back.segment_size == 9


def test_keys_that_other_programs_left_in_a_file_are_kept(tmp_path: Path) -> None:
    RMTConfig(backbone_config=bert_config()).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_cache": False, "made_by": "x"}))
    back = RMTConfig.from_pretrained(tmp_path)
    assert back.made_by == "x"
    back.save_pretrained(tmp_path)
    assert "file" not in "".join(json.loads(path.read_text()))  # the mark of a file is not a key


def test_files_and_keywords_are_validated_too(tmp_path: Path) -> None:
    RMTConfig(backbone_config=bert_config()).save_pretrained(tmp_path)
    assert RMTConfig.from_pretrained(tmp_path, segment_size=5).segment_size == 5
    with pytest.raises(InputError, match="segment_size"):
        RMTConfig.from_pretrained(tmp_path, segment_size=-5)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"memory_update": "no"}))
    with pytest.raises(InputError, match="memory_update"):
        RMTConfig.from_pretrained(tmp_path)


def test_shape_comes_from_the_backbone() -> None:
    for inner in (bert_config(), llama_config()):
        config = RMTConfig(backbone_config=inner)
        assert (config.hidden_size, config.vocab_size, config.num_hidden_layers) == (32, 64, 2)


def test_a_model_needs_a_backbone() -> None:
    with pytest.raises(InputError, match="backbone_config"):
        RMTForSequenceClassification(RMTConfig())
