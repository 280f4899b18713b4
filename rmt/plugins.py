"""Ways to load quantised weights that other packages bring. Imports none of them.

This room may not import what is above it, yet what is saved in 8 bit is to come back through plain
``from_pretrained``. So a package that can load a method of quantisation says so as an entry point of the group
:data:`GROUP`, under the method's name (``quant_method`` of ``config.json``): a function that is given the configuration
as it was read, and changes its ``quantization_config`` into one that transformers loads.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from transformers import PreTrainedConfig

from rmt.errors import InputError

GROUP = "rmt.quantization"


def adapt_quantization(config: PreTrainedConfig) -> None:
    """Let a package that knows how the weights are quantised prepare their loading; without one transformers does.

    Args:
        config: as read; changed in place.

    Raises:
        InputError: only the backbone says how it is quantised, so that its weights would be taken for plain ones.
    """
    given = getattr(config, "quantization_config", None)
    inner = getattr(getattr(config, "backbone_config", None), "quantization_config", None)
    if given is None and inner is not None:
        raise InputError(
            "config.json: expected quantization_config for the whole model, got one of its backbone only; save the "
            "model again by the package that quantised it (in 8 bit: efficiency.int8.checkpoint.save)"
        )
    if not isinstance(given, dict):
        return
    for entry in entry_points(group=GROUP, name=str(given.get("quant_method"))):
        entry.load()(config)
        return
