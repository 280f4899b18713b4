"""Models that see and are small enough to ship, each in a folder with its card. Knows their names and how to load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rmt.errors import InputError

HERE = Path(__file__).parent


def names() -> list[str]:
    """Bundled models, by name."""
    return sorted(p.parent.name for p in HERE.glob("*/config.json"))


def load(name: str = "llava-rmt") -> tuple[Any, Any]:
    """A bundled model in float32, and its processor: what :class:`multimodal.reader.AlbumReader` takes.

    Raises:
        InputError: no bundled model of that name.
    """
    if name not in names():
        raise InputError(f"{name}: expected a bundled model that sees ({', '.join(names())}), got none of these")
    from multimodal.llava import LlavaRMT
    from rmt.models.building import load as from_pretrained

    folder = HERE / name
    return from_pretrained(LlavaRMT.from_pretrained, str(folder)).float().eval(), processor_of(folder)


def processor_of(folder: Path) -> Any:
    """The processor that was saved beside a model.

    Raises:
        InputError: none that can be loaded.
    """
    from transformers import LlavaProcessor

    from rmt.models.building import load as from_pretrained

    try:
        return from_pretrained(LlavaProcessor.from_pretrained, str(folder))
    except InputError as error:
        raise InputError(
            f"{folder}: expected a processor beside the model, got none that can be loaded; save it there: "
            "processor.save_pretrained(...)"
        ) from error
