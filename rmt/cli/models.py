"""Where commands get their model from: the one place that knows the names of bundled ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt.executors import EXECUTORS  # `import rmt` has brought them along already

if TYPE_CHECKING:
    # Named in full below, so that the shape checks of the tests find them too.
    import rmt.models.base
    import rmt.reader

BUNDLED = "minilm-rmt"
MODEL_HELP = "A bundled model (minilm-rmt, which is also called bundled; llama-rmt) or a folder."
EXECUTOR_HELP = f"{', '.join(EXECUTORS[:-1])} or {EXECUTORS[-1]}."


def load(name: str) -> tuple[rmt.models.base.RMTPreTrainedModel, Any]:
    """A model and its tokenizer, by name or folder.

    Raises:
        InputError: no model of that name.
    """
    quiet()
    from rmt import pretrained

    folder = Path(name).expanduser()
    if os.path.isfile(folder / "model" / "config.json"):  # the output of `rmt train`
        folder = folder / "model"
    if os.path.isfile(folder / "adapter_config.json"):
        return pretrained.load_folder(folder)
    if os.path.isfile(folder / "config.json"):
        return from_folder(folder)
    return pretrained.load(BUNDLED if name == "bundled" else name)


def from_folder(folder: Path) -> tuple[rmt.models.base.RMTPreTrainedModel, Any]:
    """A model that ``save_pretrained`` wrote, with the tokenizer that was saved beside it.

    Raises:
        InputError: a model of another kind, or no tokenizer.
    """
    from transformers import AutoConfig, AutoTokenizer

    from rmt import models
    from rmt.errors import InputError
    from rmt.models.building import load as from_pretrained

    config = from_pretrained(AutoConfig.from_pretrained, str(folder))
    names = getattr(config, "architectures", None) or ["none"]
    if names[0] == "LlavaRMT":
        return _seeing(folder)
    if names[0] not in models.__all__:
        raise InputError(f"{folder}: expected one of our models, got {names[0]}; build one with from_backbone(...)")
    model = from_pretrained(getattr(models, names[0]).from_pretrained, str(folder)).eval()
    return model, from_pretrained(AutoTokenizer.from_pretrained, str(folder))


def _seeing(folder: Path) -> tuple[rmt.models.base.RMTPreTrainedModel, Any]:
    """A model that sees, and its processor."""
    from transformers import LlavaProcessor

    from multimodal import LlavaRMT
    from rmt.models.building import load as from_pretrained

    model = from_pretrained(LlavaRMT.from_pretrained, str(folder)).float().eval()
    return model, from_pretrained(LlavaProcessor.from_pretrained, str(folder))


def reader(name: str, dtype: str = "auto", executor: str = "auto") -> rmt.reader.Reader:
    """A reader over a model, by name or folder, on the GPU where there is one.

    Raises:
        InputError: no model of that name, or a dtype or executor that does not suit it.
    """
    import torch

    from rmt.reader import Reader

    model, tokenizer = load(name)
    if torch.cuda.is_available():
        model = model.to("cuda")  # type: ignore[arg-type]
    if hasattr(tokenizer, "image_processor"):
        from multimodal.reader import AlbumReader

        made: Any = AlbumReader(model, tokenizer, dtype=dtype, executor=executor)  # type: ignore[arg-type]  # it sees
        return made  # type: ignore[no-any-return]
    return Reader(model, tokenizer, dtype=dtype, executor=executor)


def quiet() -> None:
    """No reports of the libraries below between the lines of a command."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
