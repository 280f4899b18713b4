"""Optimizers whose state moves out of a GPU's memory when that runs short (QLoRA, arXiv 2305.14314, section 3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from efficiency.errors import InputError
from efficiency.nf4 import bitsandbytes


def paged_adamw(params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float = 1e-4, **kwargs: Any) -> Any:
    """AdamW of bitsandbytes with paged state, for parameters on a GPU.

    Args:
        params: parameters or groups of them, as any torch optimizer takes; frozen ones are left out.
        lr: learning rate.
        kwargs: of ``bitsandbytes.optim.PagedAdamW``, such as betas and weight_decay.

    Raises:
        InputError: nothing to train, a parameter that is not on a GPU, or bitsandbytes is missing.
    """
    groups = [group if isinstance(group, dict) else {"params": [group]} for group in params]
    for group in groups:
        held = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        group["params"] = [p for p in held if p.requires_grad]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise InputError("paged_adamw: expected parameters to train, got none; add adapters first")
    places = {p.device.type for group in groups for p in group["params"]}
    if places != {"cuda"}:
        raise InputError(
            f"paged_adamw: expected parameters on a GPU, got them on {', '.join(sorted(places))}; paging moves "
            "optimizer state between a GPU and main memory and does not exist here: use torch.optim.AdamW"
        )
    return bitsandbytes().optim.PagedAdamW(groups, lr=lr, **kwargs)
