"""A small net that calls its layers once per segment, with LoRA of PEFT's, and naive twins."""

from __future__ import annotations

import copy
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    """Two linear layers, run over segments with a state passed between."""

    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(12, 20), nn.Linear(20, 12, bias=False)
        self.checkpointed = checkpointed

    def forward(self, segments: list[Tensor]) -> Tensor:
        """The mean over segments of what each gives, a scalar."""
        state = torch.zeros_like(segments[0])
        loss = segments[0].new_zeros(())
        for segment in segments:
            state = (
                checkpoint(self.one, segment, state, use_reentrant=False)
                if self.checkpointed
                else self.one(segment, state)
            )
            loss = loss + state.square().mean()
        return loss / len(segments)

    def one(self, segment: Tensor, state: Tensor) -> Tensor:
        """One segment."""
        return self.down(torch.tanh(self.up(segment + state)))


def adapted(net: nn.Module | None = None, *, checkpointed: bool = False, **config: Any) -> Any:
    """A net with adapters whose B is not zero, in training mode."""
    torch.manual_seed(0)
    net = Net(checkpointed) if net is None else net
    fields = {"r": 3, "lora_alpha": 8, "target_modules": ["up", "down"]} | config
    model = get_peft_model(net, LoraConfig(**fields)).train()
    stir(model)
    return model


def stir(model: nn.Module) -> None:
    """Random numbers into every B."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)


def segments(count: int = 3, shape: tuple[int, ...] = (4, 5, 12), dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Inputs with a gradient."""
    maker = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, generator=maker).to(dtype).requires_grad_() for _ in range(count)]


def step_of(model: nn.Module, given: list[Tensor]) -> dict[str, Tensor]:
    """The loss and all gradients, those of inputs too."""
    for tensor in (*given, *model.parameters()):
        tensor.grad = None
    loss = model(given)
    loss.backward()
    found = {"loss": loss.detach()}
    found |= {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return found | {f"input {n}": t.grad.clone() for n, t in enumerate(given) if t.grad is not None}


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest error over tensors, each relative to its norm."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).norm() / other[name].norm()) for name in other)


class NaiveLayer(nn.Module):
    """y = x W^T + b + s B A (x * mask / (1 - p)), as it is written; ``mask`` of shape (batch, 1, features)."""

    def __init__(self, layer: Any, mask: Tensor, p: float) -> None:
        super().__init__()
        self.base_layer, self.lora_A, self.lora_B = layer.base_layer, layer.lora_A, layer.lora_B
        self.scaling, self.mask, self.p = layer.scaling["default"], mask, p

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        dropped = x * self.mask / (1 - self.p)
        low = F.linear(dropped, self.lora_A["default"].weight)
        return self.base_layer(x) + self.scaling * F.linear(low, self.lora_B["default"].weight)


def twins(model: Any) -> tuple[Any, Any]:
    """A model and a copy of it."""
    return model, copy.deepcopy(model)
