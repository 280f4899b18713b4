"""The plainly right twin of associative memory: one document, one memory token at a time, hooks around the layers.

Part of :mod:`rmt.reference`; shares no code with :mod:`rmt.cells`, :mod:`rmt.layers` or :mod:`rmt.executors`.
Formulas: ARMT, arXiv 2407.04841, equations 2 to 6, written out for one head, one vector and one token.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]
EPSILON = 1e-5
LAYERS = dict.fromkeys(("bert", "roberta", "deberta-v2"), "encoder.layer")
LAYERS |= {"distilbert": "transformer.layer", "gpt2": "h"}


def empty(model: Any) -> State:
    """Nothing stored: A of shape (layers, heads, value, features), z of shape (layers, heads, features)."""
    config = model.config
    heads = config.associative_heads
    features = 2 * config.associative_expansion * config.associative_key_size // heads
    depth = config.num_hidden_layers
    return {
        "associations": torch.zeros(depth, heads, config.hidden_size // heads, features),
        "normalizers": torch.zeros(depth, heads, features),
    }


def one_segment(model: Any, words: list[Tensor], state: State) -> tuple[Tensor, Tensor, State]:
    """The opening hidden state, the hidden states of the segment's tokens, and the state after it.

    Args:
        model: in float32 and evaluation mode.
        words: word embeddings of the segment, each of shape (hidden,).
        state: before, as :func:`empty` has it.
    """
    memory = list(model.cell.memory)
    if model.layout == "encoder":
        ids = torch.tensor([model.config.cls_token_id, model.config.sep_token_id])
        opening, closing = model.get_input_embeddings()(ids)
        row = [opening, *memory, closing, *words, closing]
        first, written = len(memory) + 2, range(1, 1 + len(memory))
    else:
        row = [*words, *memory]
        first, written = 0, range(len(words), len(words) + len(memory))
    core = model.core
    after = {name: tensor.clone() for name, tensor in state.items()}
    stack = core.get_submodule(LAYERS.get(model.config.backbone_config.model_type, "layers"))
    with ExitStack() as hooks:
        for number, layer in enumerate(stack):
            before = [state["associations"][number], state["normalizers"][number]]

            def enter(_: Any, args: Any, kwargs: Any, number: int = number, before: Any = before) -> Any:
                rows = [_read(model, number, h, before) for h in args[0][0]]
                return (torch.stack(rows)[None], *args[1:]), kwargs

            def leave(_: Any, __: Any, out: Any, number: int = number, before: Any = before) -> None:
                hidden = out[0] if isinstance(out, tuple) else out
                for place in written:
                    held = [after["associations"][number].clone(), after["normalizers"][number].clone()]
                    in_turn = model.config.associative_in_turn
                    _write(model, number, hidden[0, place], held if in_turn else before, after)

            for handle in (
                layer.register_forward_pre_hook(enter, with_kwargs=True),
                layer.register_forward_hook(leave),
            ):
                hooks.callback(handle.remove)
        hidden = core(inputs_embeds=torch.stack(row)[None]).last_hidden_state[0]
    return hidden[0], hidden[first : first + len(words)], after


def _read(model: Any, number: int, h: Tensor, before: list[Tensor]) -> Tensor:
    """h + A phi(W_q h) / (z . phi(W_q h) + eps), head by head."""
    cell, found = model.cell, []
    for head, key in enumerate(_split(model, cell.query[number] @ h)):
        phi = _phi(model, key)
        found.append(before[0][head] @ phi / (before[1][head] @ phi + EPSILON))
    return h + torch.cat(found)


def _write(model: Any, number: int, m: Tensor, before: list[Tensor], after: State) -> None:
    """Add what one memory token writes, in view of the state before the segment, or before it where in turn."""
    cell, config = model.cell, model.config
    keys, values = _split(model, cell.key[number] @ m), _split(model, cell.value[number] @ m)
    strength = torch.sigmoid(cell.strength[number] @ m + cell.strength_bias[number])
    slot = torch.ones(())
    if config.memory_update == "gated":
        centred = m - m.mean()
        normed = centred / torch.sqrt((centred * centred).mean() + 1e-5)
        slot = torch.sigmoid(cell.slot_gate[number, 0] @ normed + cell.slot_gate_bias[number, 0])
        if float(slot) < config.gate_threshold:
            return
    for head, (key, value, beta) in enumerate(zip(keys, values, _split(model, strength), strict=True)):
        phi = _phi(model, key)
        known = before[1][head] @ phi
        old = before[0][head] @ phi / (known + EPSILON)
        gamma = torch.clip(1 - known / (phi @ phi + EPSILON), 0, 1) if config.associative_correction else torch.ones(())
        after["associations"][number, head] += torch.outer(slot * beta * (value - old), phi)
        after["normalizers"][number, head] += slot * gamma.detach() * phi


def _split(model: Any, x: Tensor) -> list[Tensor]:
    """A vector in as many parts as there are heads."""
    return list(x.chunk(model.config.associative_heads))


def _phi(model: Any, x: Tensor) -> Tensor:
    """DPFP: products of [relu(x), relu(-x)] with its own rotations by 1 to nu places."""
    both = list(torch.cat([torch.relu(x), torch.relu(-x)]))
    count = len(both)
    parts = [both[i] * both[i - j] for j in range(1, model.config.associative_expansion + 1) for i in range(count)]
    phi = torch.stack(parts)
    return phi / phi.norm().clamp(min=1e-12) if model.config.associative_normalize else phi
