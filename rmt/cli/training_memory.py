"""Which memory a training run trains: what was said, what the model to go on from has, or a new one's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rmt.errors import InputError

# The memory of a new model, where nothing else is said.
FRESH: dict[str, Any] = {
    "memory": "tokens",
    "memory_update": "gated",
    "associative_key_size": 64,
    "associative_heads": 1,
    "associative_normalize": True,
}


def memory_fields(settings: dict[str, Any], init: str, tokens: int) -> dict[str, Any]:
    """Fields of a model's configuration that say what its memory is.

    Another kind of memory than that of ``init`` begins anew over its backbone: that has to be said. An adapter
    brings its memory along.

    Args:
        settings: of the names in :data:`FRESH`, as was said; None of what was not.
        init: folder or hub name of a model or an adapter to go on from; empty for none.
        tokens: memory tokens of a new memory, and those that facts are filed in.

    Raises:
        InputError: something was said that ``init`` has otherwise, or it has another number of memory tokens.
    """
    said = {name: value for name, value in settings.items() if value is not None}
    stored = stored_config(init)
    if stored is None:
        return {**FRESH, **said, "num_memory_tokens": tokens}
    other = said.get("memory", stored.memory) != stored.memory
    if other and not (Path(init) / "adapter_config.json").is_file():  # an adapter's memory comes with it
        return {**FRESH, **said, "num_memory_tokens": tokens, "retrieval_every": 0}
    for name, value in said.items():
        if value != (has := getattr(stored, name)):
            raise InputError(f"model.{name}: expected {has}, as model.init has it, got {value}; leave it out")
    if stored.memory == "tokens" and stored.num_memory_tokens != tokens:
        got = stored.num_memory_tokens
        raise InputError(f"model.init: expected a model of {tokens} memory tokens, got {got}; give another")
    kept = ("memory", "memory_update", "num_memory_tokens")
    return {k: v for k, v in stored.to_dict().items() if k in kept or k.startswith(("associative_", "retrieval_"))}


def stored_config(init: str) -> Any:
    """The configuration of a model or an adapter to go on from; None where there is none.

    Raises:
        InputError: no such model.
    """
    from rmt.config import RMTConfig
    from rmt.models.building import load

    folder = Path(init)
    if not init or (folder.is_dir() and not (folder / "config.json").is_file()):
        return None
    return load(RMTConfig.from_pretrained, init)
