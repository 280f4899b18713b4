"""Linear layers over frozen 4-bit weights, for training adapters over them (QLoRA, arXiv 2305.14314, eq. 5).

    y = x dequant(W)^T + b        dx = dy dequant(W)

An :class:`NF4Linear` is bitsandbytes' ``Linear4bit`` in everything but the product. So PEFT puts its 4-bit LoRA layer
around it, whose merge and unmerge know the format, adapters are saved and loaded by plain PEFT, and transformers'
``save_pretrained``, ``from_pretrained`` and ``dequantize`` work. Its product is our own for two reasons. On CPU, an
evaluation pass of ``Linear4bit`` repacks the weight for good, and later training passes give no gradient. And it
dequantises at every call, twice a segment under recurrence; here a :class:`~efficiency.weight_cache.WeightCache`
keeps what was dequantised, within a budget of bytes, and autograd keeps nothing but a reference.

Importing this module needs bitsandbytes; importing the package does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Float
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional as F

from efficiency.errors import InputError
from efficiency.nf4 import BLOCK, bitsandbytes, dequantize, from_tensors, quantize, state_of, storage_bytes
from efficiency.surgery import replace_modules
from efficiency.weight_cache import WeightCache

bitsandbytes()  # which says how to install it where it is missing
from bitsandbytes.nn import Linear4bit  # noqa: E402

# Parts of dotted names under which weights stay in 16 bit: memory (the cell of a recurrent model), and heads.
SKIP = ("cell", "lm_head", "classifier", "qa_outputs", "score", "pooler", "cls", "embed_out", "output_layer")


class NF4Linear(Linear4bit):
    """y = x dequant(W)^T + b over a frozen 4-bit weight.

    Under autocast it computes in autocast's format, as ``nn.Linear`` does.

    Args:
        weight: from :func:`efficiency.nf4.quantize` or a checkpoint.
        bias: of shape (out,), or None.
        compute_dtype: of the product; that of the input where None. The output has the format of the input.
        cache: for dequantised weights; None to dequantise at every use.
    """

    def __init__(
        self,
        weight: Any,
        bias: nn.Parameter | None = None,
        *,
        compute_dtype: torch.dtype | None = torch.bfloat16,
        cache: WeightCache | None = None,
    ) -> None:
        outputs, inputs = state_of(weight).shape
        super().__init__(inputs, outputs, False, compute_dtype, quant_storage=weight.dtype, device="meta")
        self.weight, self.cache = weight, cache
        self.register_parameter("bias", bias)
        # A copied weight would hold on to the module it was copied from; nothing of ours asks for it.
        weight.module = None

    def dequantised(self, dtype: torch.dtype | None = None) -> Float[Tensor, "out in"]:
        """The weight in ``dtype`` (that of the product where None), from the cache where there is one. Read only."""
        return _read(self.weight, dtype or self.compute_dtype or state_of(self.weight).dtype, self.cache)

    # Compiled code would hold each weight of each layer to be one it knows, and compile anew for the next.
    @torch.compiler.disable
    def forward(self, x: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        """The product, in the format of ``x``, or of autocast where that is on."""
        wanted, dtype = x.dtype, self.compute_dtype or x.dtype
        if torch.is_autocast_enabled(x.device.type):
            wanted = dtype = torch.get_autocast_dtype(x.device.type)
        y: Tensor = _Product.apply(x, self.bias, self.weight, dtype, self.cache)
        return y.to(wanted)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take a 4-bit weight as bitsandbytes writes it, and the bias."""
        own = {name.removeprefix(prefix): t for name, t in state_dict.items() if name.startswith(prefix)}
        parts = {name: t for name, t in own.items() if name.split(".")[0] == "weight"}
        wanted = {"bias"} if self.bias is not None else set()
        missing_keys += [f"{prefix}{name}" for name in sorted(wanted | {"weight"}) if name not in own]
        unexpected_keys += [f"{prefix}{name}" for name in own if name not in parts and name not in wanted]
        if "weight" in parts:
            try:
                weight = from_tensors(parts, self.weight.device)
                if weight.quant_state.shape != state_of(self.weight).shape:
                    raise InputError(f"expected {state_of(self.weight).shape}, got {weight.quant_state.shape}")
                self.weight = weight
            except InputError as error:
                error_msgs.append(f"{prefix}weight: {error}; quantise a 16-bit model with quantize_model")
        if self.bias is not None and "bias" in own:
            if own["bias"].shape == self.bias.shape:
                with torch.no_grad():
                    self.bias.copy_(own["bias"])
            else:
                error_msgs.append(f"{prefix}bias: expected {self.bias.shape}, got {own['bias'].shape}")


class _Product(torch.autograd.Function):
    """x W^T + b of a stored weight; backward reads the weight again, mostly from the cache."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, weight: Any, dtype: torch.dtype, cache: WeightCache | None
    ) -> Tensor:
        ctx.stored, ctx.dtype, ctx.cache = weight, dtype, cache
        ctx.formats = x.dtype, None if bias is None else bias.dtype
        return F.linear(x.to(dtype), _read(weight, dtype, cache), None if bias is None else bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        dx = dbias = None
        # Plain operations of dy, so gradients of gradients are right too.
        if ctx.needs_input_grad[0]:
            dx = (dy @ _read(ctx.stored, ctx.dtype, ctx.cache)).to(ctx.formats[0])
        if ctx.needs_input_grad[1]:
            dbias = dy.reshape(-1, dy.shape[-1]).sum(dim=0).to(ctx.formats[1])
        return dx, dbias, None, None, None


def _read(weight: Any, dtype: torch.dtype, cache: WeightCache | None) -> Tensor:
    """A stored weight's numbers in ``dtype``."""
    return dequantize(weight, dtype) if cache is None else cache.get(weight, dtype, lambda: dequantize(weight, dtype))


def quantize_model(
    model: nn.Module,
    *,
    skip: Sequence[str] = SKIP,
    compute_dtype: torch.dtype | None = torch.bfloat16,
    cache: WeightCache | None = None,
    double: bool = True,
    block: int = BLOCK,
) -> nn.Module:
    """Replace linear layers of ``model`` by :class:`NF4Linear`, in place, weight by weight.

    ``nn.Linear`` is quantised; bitsandbytes' ``Linear4bit``, as transformers loads 4-bit checkpoints, keeps its
    weights. Embeddings, norms, parameters of their own and weights tied to another module stay as they are,
    as do layers under ``skip``. Biases stay trainable where they were. A Hugging Face model is told how it is
    quantised, so that its ``save_pretrained`` writes a 4-bit checkpoint that transformers loads. Layers that are ours
    already stay as they are: call it again for a model that a quantised one has become a part of.

    Args:
        skip: shell patterns against each part of a dotted name, and against the whole: ``"cell"`` keeps
            ``cell.slot_gate``, ``"*.q_proj"`` keeps all of these. By default memory and heads.
        compute_dtype: of products; None for that of each input.
        cache: shared by the layers, one for each model; None to dequantise at every use.
        double: whether the maxima of blocks are quantised too.
        block: weights that share a maximum.

    Returns:
        the same model.

    Raises:
        InputError: bitsandbytes is missing, PEFT has injected adapters already, no layer is left to quantise, or one
            cannot be.
    """
    if adapter := next((name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)), None):
        raise InputError(
            f"quantize_model: expected a model before adapters, got one with some at {adapter}, whose weights would be "
            "frozen in 4 bits too; quantise first, then call peft.get_peft_model"
        )
    tied = tied_weights(model)

    def choose(name: str, module: nn.Module) -> nn.Module | None:
        if type(module) is Linear4bit:
            if not getattr(module.weight, "bnb_quantized", False):
                raise InputError(f"{name}: expected a loaded 4-bit weight, got one not quantised yet; load it first")
            old: Any = module
            return NF4Linear(old.weight, old.bias, compute_dtype=compute_dtype, cache=cache)
        if type(module) is not nn.Linear or id(module.weight) in tied or kept(name, skip):
            return None
        try:
            weight = quantize(module.weight, double=double, block=block)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        return NF4Linear(weight, module.bias, compute_dtype=compute_dtype, cache=cache)

    if not replace_modules(model, choose) and not any(True for _ in nf4_layers(model)):
        raise InputError(
            f"quantize_model: expected linear layers outside {tuple(skip)}, got none in {type(model).__name__}; "
            "pass a smaller skip"
        )
    mark(model, compute_dtype)
    return model


def tied_weights(model: nn.Module) -> set[int]:
    """Ids of parameters that more than one module holds."""
    owners = [
        one for module in model.modules() for one in {id(p) for p in module._parameters.values() if p is not None}
    ]
    return {one for one, count in Counter(owners).items() if count > 1}


def kept(name: str, skip: Sequence[str]) -> bool:
    """Whether a pattern of ``skip`` matches a part of a dotted name, or all of it."""
    return any(fnmatchcase(part, pattern) for pattern in skip for part in (*name.split("."), name))


def nf4_layers(model: nn.Module) -> Iterator[tuple[str, NF4Linear]]:
    """Names and layers of a model that hold 4-bit weights."""
    for name, module in model.named_modules():
        if isinstance(module, NF4Linear):
            yield name, module


def quantization_config(model: nn.Module, compute_dtype: torch.dtype | None = torch.bfloat16) -> Any:
    """A quantised model's ``transformers.BitsAndBytesConfig``: its format, and by name what stayed in 16 bit."""
    from transformers import BitsAndBytesConfig

    first = next((layer for _, layer in nf4_layers(model)), None)
    if first is None:
        raise InputError("expected a quantised model, got one without 4-bit layers; use quantize_model")
    whole = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and not isinstance(m, NF4Linear)]
    state = state_of(first.weight)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=state.quant_type,
        bnb_4bit_use_double_quant=state.nested,
        bnb_4bit_compute_dtype=compute_dtype or state.dtype,
        bnb_4bit_quant_storage=first.weight.dtype,
        llm_int8_skip_modules=whole,
    )


def mark(model: nn.Module, compute_dtype: torch.dtype | None) -> None:
    """Say to PEFT, transformers and whoever saves the model that it is in 4 bit."""
    told: Any = model
    told.is_loaded_in_4bit = True
    if hasattr(told, "config") and hasattr(told, "save_pretrained"):
        told.config.quantization_config = quantization_config(model, compute_dtype)


def stored_bytes(model: nn.Module) -> tuple[int, int]:
    """Bytes of a model's 4-bit weights as stored, and of the same weights in 16 bit: a cache's budget to hold all."""
    weights = [layer.weight for _, layer in nf4_layers(model)]
    return sum(map(storage_bytes, weights)), sum(2 * state_of(w).shape.numel() for w in weights)
