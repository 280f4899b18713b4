"""Where commands get their model from: the one place that knows the names of bundled ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt.executors import EXECUTORS  # `import rmt` has brought them along already

if TYPE_CHECKING:
    # Named in full below, so that the shape checks of the tests find them too.
    import rmt.models.base

BUNDLED = "minilm-rmt"
SEES = "LlavaRMT"  # the architecture of a model for images
PROMPTED = "LlamaAdapterRMT"  # and of one with an adapter, of which commands read text only
MODEL_HELP = "A bundled model (minilm-rmt, which is also called bundled; llama-rmt; llava-rmt sees images) or a folder."
EXECUTOR_HELP = f"{', '.join(EXECUTORS[:-1])} or {EXECUTORS[-1]}."


def load(name: str) -> tuple[rmt.models.base.RMTPreTrainedModel, Any]:
    """A model and its tokenizer, by name or folder; of a model that sees its processor, which has the tokenizer.

    Raises:
        InputError: no model of that name.
    """
    quiet()
    from rmt import pretrained

    folder = Path(os.path.expanduser(name))
    if os.path.isfile(folder / "model" / "config.json"):  # the output of `rmt train`
        folder = folder / "model"
    if os.path.isfile(folder / "adapter_config.json"):
        refuse_prompts(folder)
        return pretrained.load_folder(folder)
    if os.path.isfile(folder / "config.json"):
        return from_folder(folder)
    if name == "bundled" or name in pretrained.names():
        return pretrained.load(BUNDLED if name == "bundled" else name)
    return bundled_that_sees(name)


def bundled_that_sees(name: str) -> tuple[rmt.models.base.RMTPreTrainedModel, Any]:
    """A bundled model for images, and its processor.

    Raises:
        InputError: no bundled model of that name, of either kind.
    """
    from multimodal import pretrained as seeing
    from rmt import pretrained
    from rmt.errors import InputError

    if name not in seeing.names():
        known = ", ".join(sorted([*pretrained.names(), *seeing.names()]))
        raise InputError(f"{name}: expected a folder or a bundled model ({known}), got neither")
    return seeing.load(name)


def refuse_prompts(folder: Path) -> None:
    """Refuse an adapter of :mod:`multimodal.adapter`, which is no model by itself and does not say where one is."""
    from rmt.errors import InputError

    if str(of_json(folder / "adapter_config.json").get("format", "")).startswith("llama-adapter/"):
        raise InputError(
            f"{folder}: expected a model, got a LLaMA-Adapter alone; put it on its base and save both: "
            "load_adapter(model, folder), model.save_pretrained(...) of a LlamaAdapterRMT"
        )


def sees(folder: Path) -> bool:
    """Whether a folder holds a model of ours for images that documents show."""
    return architecture(folder) == SEES


def architecture(folder: Path) -> str:
    """The class of the model in a folder, empty where it does not say."""
    names = of_json(folder / "config.json").get("architectures")
    return str(names[0]) if isinstance(names, list) and len(names) == 1 else ""


def of_json(path: Path) -> dict[str, Any]:
    """What a file says, nothing where it is none of JSON or holds something else."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def from_folder(folder: Path) -> tuple[rmt.models.base.RMTPreTrainedModel, Any]:
    """A model that ``save_pretrained`` wrote, with the tokenizer, or the processor, that was saved beside it.

    Raises:
        InputError: a model of another kind, or no tokenizer or processor.
    """
    if sees(folder):
        return that_sees(folder)
    from transformers import AutoConfig, AutoTokenizer

    from rmt import models
    from rmt.errors import InputError
    from rmt.models.building import load as from_pretrained

    if architecture(folder) == PROMPTED:
        from multimodal.adapter import LlamaAdapterRMT

        prompted = from_pretrained(LlamaAdapterRMT.from_pretrained, str(folder)).eval()
        return prompted, from_pretrained(AutoTokenizer.from_pretrained, str(folder))
    config = from_pretrained(AutoConfig.from_pretrained, str(folder))
    names = getattr(config, "architectures", None) or ["none"]
    if names[0] not in models.__all__:
        raise InputError(f"{folder}: expected one of our models, got {names[0]}; build one with from_backbone(...)")
    model = from_pretrained(getattr(models, names[0]).from_pretrained, str(folder)).eval()
    return model, from_pretrained(AutoTokenizer.from_pretrained, str(folder))


def that_sees(folder: Path) -> tuple[rmt.models.base.RMTPreTrainedModel, Any]:
    """A model for images, and the processor that was saved beside it.

    Raises:
        InputError: no processor.
    """
    from multimodal.llava import LlavaRMT
    from multimodal.pretrained import processor_of
    from rmt.models.building import load as from_pretrained

    return from_pretrained(LlavaRMT.from_pretrained, str(folder)).eval(), processor_of(folder)


def reader(name: str, dtype: str = "auto", executor: str = "auto") -> Any:
    """A reader over a model, by name or folder, on the GPU where there is one.

    It is a :class:`rmt.reader.Reader`, or where the model sees a :class:`multimodal.reader.AlbumReader`.

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

        seeing: Any = model
        return AlbumReader(seeing, tokenizer, dtype=dtype, executor=executor)
    return Reader(model, tokenizer, dtype=dtype, executor=executor)


def refuse_sight(what: Any, name: str) -> None:
    """Refuse a model that sees, given its processor or its reader, where a command is about text alone.

    Raises:
        InputError: it sees.
    """
    from rmt.errors import InputError

    if hasattr(what, "image_processor") or hasattr(what, "read_tokens"):
        raise InputError(f"{name}: expected a model for text, got one that sees images; name another")


def quiet() -> None:
    """No reports of the libraries below between the lines of a command."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
