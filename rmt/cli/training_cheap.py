"""Cheap training for a run: 4-bit weights under adapters, fused adapters, and optimizers that free gradients."""

from __future__ import annotations

from typing import Any

from rmt.errors import InputError

QUANTIZATIONS = ("", "nf4")
OPTIMIZERS = ("adamw", "lomo", "adalomo")


def check_names(model: Any, optim: Any) -> None:
    """Refuse what has no meaning.

    Args:
        model, optim: the groups of settings of these names.

    Raises:
        InputError: with the dotted key.
    """
    for key, value, known in (
        ("model.kind", model.kind, ("encoder", "decoder")),
        ("model.quantization", model.quantization, QUANTIZATIONS),
        ("optim.name", optim.name, OPTIMIZERS),
    ):
        if value not in known:
            names = ", ".join(repr(name) for name in known)
            raise InputError(f"{key}: expected one of {names}, got {value!r}; choose one of these")


def check_cheap(model: Any, lora: Any) -> None:
    """Refuse 4-bit weights without adapters to train over them.

    Raises:
        InputError: they are.
    """
    if model.quantization and (model.kind != "encoder" or not lora.r):
        raise InputError(
            "model.quantization: expected adapters to train over frozen weights (model.kind=encoder, lora.r above 0), "
            f"got {model.kind} and {lora.r}; leave model.quantization out"
        )


def quantise(model: Any, bf16: bool) -> None:
    """The backbone's linear layers in NF4, in place; memory and head stay as they are.

    Raises:
        InputError: bitsandbytes is not installed.
    """
    import torch

    from efficiency.errors import InputError as Wrong

    try:
        from efficiency.qlora import quantize_model
        from efficiency.weight_cache import WeightCache

        quantize_model(model, compute_dtype=torch.bfloat16 if bf16 else None, cache=WeightCache())
    except Wrong as error:
        raise InputError(f"model.quantization: {error}") from error


def fuse(model: Any, seed: int) -> int:
    """Adapters run as one operation where they can; how many do."""
    from efficiency.lora import fuse

    return fuse(model, seed=seed)


def masks_go_on(model: Any) -> list[Any]:
    """Trainer callbacks with which dropout of fused adapters goes on where a run stopped: their masks are counted."""
    from transformers import TrainerCallback

    from efficiency.errors import InputError as NotFused
    from efficiency.lora import next_step

    class MasksGoOn(TrainerCallback):
        """Tells the adapters the number of the step."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Called when a checkpoint has been loaded."""
            try:
                next_step(model, state.global_step)
            except NotFused:  # adapters of a kind that PEFT runs itself
                return

    return [MasksGoOn()]


def optimizer_of(model: Any, optim: Any) -> Any:
    """The optimizer, None for Trainer's own.

    Gradients are clipped by it, since none is left for Trainer to clip.
    """
    if optim.name == "adamw":
        return None
    from efficiency.lomo import AdaLomo, Lomo

    kind = Lomo if optim.name == "lomo" else AdaLomo
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return kind(trained, lr=optim.lr, defer=model, clip_norm=optim.max_grad_norm or None)


def forget_quantization(model: Any) -> None:
    """Adapters are saved to be loaded over 16-bit weights: nothing in the configuration says otherwise."""
    for config in (model.config, model.config.backbone_config):
        if hasattr(config, "quantization_config"):
            del config.quantization_config
