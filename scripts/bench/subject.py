"""What the benchmarks measure on: a classifier over MiniLM, and real text cut to a number of tokens."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from efficiency.int8 import Int8Linear
from rmt import pretrained
from rmt.backbone import check_segment_size
from rmt.data.sources import iter_text
from rmt.errors import InputError
from rmt.models.sequence_classification import RMTForSequenceClassification

BUNDLED = "minilm-rmt"
SHUT = -8.0  # a slot gate of sigmoid(-8) = 0.0003, far below any threshold


def resolve(name: str) -> str:
    """``auto`` is the bundled model where there is one, else ``fresh``; other names stand for themselves."""
    if name != "auto":
        return name
    return BUNDLED if BUNDLED in pretrained.names() else "fresh"


def place(device: str) -> str:
    """``auto`` is the GPU where there is one.

    Raises:
        InputError: a GPU where there is none.
    """
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise InputError("--device: expected a GPU that torch sees, got none; use --device cpu")
    return ("cuda" if there else "cpu") if device == "auto" else device


def settle() -> None:
    """Wait until the GPU, where it is in use, has done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def load(name: str, segment_size: int, device: str = "cpu") -> tuple[Any, Any]:
    """A classifier that reads in segments of ``segment_size`` tokens, and its tokenizer.

    Args:
        name: ``auto``; ``fresh`` for MiniLM with an untrained memory whose gates stay shut, which is how a
            trained one reads background; a bundled model; or a folder with one.
        segment_size: tokens.
        device: where the model is to be: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: no model of that name, one that does not classify, segments that are too long for it, or a GPU
            where there is none.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    name = resolve(name)
    if name == "fresh":
        return fresh(segment_size).to(place(device)), pretrained.of_minilm(AutoTokenizer.from_pretrained)
    folder = Path(name).expanduser()
    whole = (folder / "config.json").is_file()
    model, tokenizer = pretrained.load_folder(folder) if whole else pretrained.load(name)
    if not isinstance(model, RMTForSequenceClassification):
        raise InputError(f"--model: expected a classifier, got {type(model).__name__}; try {BUNDLED}")
    check_segment_size(model.config.backbone_config, segment_size, model.config.num_memory_tokens)
    model.config.segment_size = segment_size
    return model.to(place(device)), tokenizer


def in_bytes(model: Any) -> Any:
    """A copy with 8-bit linear layers in its backbone, rounded as they are: no calibration, for speed alone."""
    twin = copy.deepcopy(model)
    for name, module in list(twin.core.named_modules()):
        if type(module) is nn.Linear:
            parent, _, leaf = name.rpartition(".")
            setattr(twin.core.get_submodule(parent), leaf, Int8Linear.from_linear(module))
    return twin


def fresh(segment_size: int) -> RMTForSequenceClassification:
    """MiniLM with an untrained gated memory of 10 tokens whose gates stay shut."""
    torch.manual_seed(0)
    model = RMTForSequenceClassification.from_backbone(
        pretrained.minilm(),
        segment_size=segment_size,
        num_memory_tokens=10,
        num_labels=6,
        memory_update="gated",
    )
    assert model.cell.slot_gate is not None
    nn.init.constant_(model.cell.slot_gate.bias, SHUT)
    return model.eval()


def cut(source: str, tokenizer: Any, length: int, path: Path) -> Path:
    """Write the first ``length`` tokens of a text source to ``path``, as text; give or take a few, where a
    piece of the source ends inside a word.

    Raises:
        InputError: a source that is missing or too short; text is never repeated.
    """
    count = 0
    with path.open("w", encoding="utf-8") as out:
        for piece in iter_text(source):
            piece = piece.replace("\0", "")  # which text may hold, and a text file may not
            offsets = tokenizer(
                piece, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            ).offset_mapping
            if count + len(offsets) >= length:
                out.write(piece[: offsets[length - count - 1][1]])
                return path
            out.write(piece)
            count += len(offsets)
    raise InputError(
        f"--text: expected at least {length:,} tokens in {source}, got {count:,}; "
        "give a longer text or a smaller --max-length"
    )
