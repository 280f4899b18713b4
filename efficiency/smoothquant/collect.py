"""Statistics of a model's activations while it runs, taken by hooks. Knows nothing of what runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from efficiency.errors import InputError
from efficiency.int8.marks import Marks
from efficiency.smoothquant.graph import Group
from efficiency.smoothquant.statistics import KINDS, Statistics

Calibration = Callable[[nn.Module], Any] | Iterable[Any]


class _Sample:
    """Rows drawn evenly from all that pass: each row draws a number, those with the largest stay."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size, self.generator = size, generator
        self.rows: Tensor | None = None
        self.keys = torch.empty(0)

    def add(self, rows: Float[Tensor, "rows channels"]) -> None:
        """Let rows pass."""
        keys = torch.rand(len(rows), generator=self.generator)
        best = keys.topk(min(self.size, len(keys))).indices
        new = rows[best.to(rows.device)].float().cpu()
        held = new if self.rows is None else torch.cat([self.rows, new])
        keys = torch.cat([self.keys, keys[best]])
        stay = keys.topk(min(self.size, len(keys))).indices
        self.rows, self.keys = held[stay], keys[stay]


class _Watcher:
    """Hooks on linear layers, and on whatever reads a norm's output that it should not."""

    def __init__(self, marks: Marks | None, sampled: Mapping[str, int], seed: int) -> None:
        self.marks, self.sampled = marks, sampled
        self.generator = torch.Generator().manual_seed(seed)
        self.maxima: dict[str, dict[str, Tensor]] = {}
        self.rows: dict[str, dict[str, int]] = {}
        self.samples: dict[str, dict[str, _Sample]] = {}
        self.outputs: dict[str, Tensor] = {}
        self.strangers: dict[str, str] = {}
        self._last: tuple[Any, dict[str, Tensor]] | None = None

    def see(self, name: str, x: Tensor) -> None:
        """An input of a layer."""
        # Query, key and value read one tensor: split and measure it once. Held, so that no other takes its place.
        if self._last is None or self._last[0] is not x:
            self._last = x, self._split(x)
        found = self._last[1]
        if name not in self.maxima:
            self.maxima[name] = {kind: torch.zeros(x.shape[-1], device=x.device) for kind in KINDS}
            self.rows[name] = dict.fromkeys(KINDS, 0)
        for kind in KINDS:
            count = len(found[kind])
            if not count:
                continue
            self.rows[name][kind] += count
            torch.maximum(self.maxima[name][kind], found[f"max {kind}"], out=self.maxima[name][kind])
            if size := self.sampled.get(name, 0):
                places = self.samples.setdefault(name, {k: _Sample(size, self.generator) for k in KINDS})
                places[kind].add(found[kind])

    def _split(self, x: Tensor) -> dict[str, Tensor]:
        """Rows of text and of memory, and the maxima of their channels."""
        x = x.detach()
        mask = self.marks.rows(x) if self.marks is not None else None
        empty = x.new_empty(0, x.shape[-1])
        found = {"text": x.flatten(0, -2), "memory": empty} if mask is None else {"text": x[~mask], "memory": x[mask]}
        return found | {f"max {k}": rows.abs().amax(dim=0).float() for k, rows in found.items() if len(rows)}

    def watch(self, model: nn.Module, names: Iterable[str], groups: Sequence[Group]) -> list[Any]:
        """Put hooks on; gives them."""
        hooks = []
        for name in names:

            def before(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                self.see(name, args[0] if args else next(iter(kwargs.values())))

            hooks.append(model.get_submodule(name).register_forward_pre_hook(before, with_kwargs=True))
        readers = {group.producer: set(group.readers) for group in groups if group.kind == "norm"}
        for name in readers:

            def after(_: nn.Module, args: Any, out: Any, name: str = name) -> None:
                self.outputs[name] = out

            hooks.append(model.get_submodule(name).register_forward_hook(after))
        for name, module in model.named_modules():
            if readers and not any(True for _ in module.children()):

                def reads(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                    for given in (*args, *kwargs.values()):
                        for norm, out in self.outputs.items():
                            if given is out and name not in readers[norm]:
                                self.strangers[norm] = name

                hooks.append(module.register_forward_pre_hook(reads, with_kwargs=True))
        return hooks


def collect(
    model: nn.Module,
    calibration: Calibration,
    names: Sequence[str],
    *,
    marks: Marks | None = None,
    groups: Sequence[Group] = (),
    samples: int = 0,
    fingerprint: str = "",
    progress: bool = True,
    seed: int = 0,
) -> Statistics:
    """Statistics of the inputs of linear layers while calibration runs, without gradients, in evaluation mode.

    Args:
        calibration: called with the model, and runs it over documents as it will be run (a recurrent model with its own
            memory); or batches, each a mapping of arguments, a tuple of them, or one tensor.
        names: of the layers.
        marks: says which rows are memory; whoever runs the model tells it. All is text where None.
        groups: whose norms are checked for readers that are not theirs, and of whose first readers rows are kept.
        samples: rows kept of each group, of text and of memory each.
        fingerprint: of the model, kept with the result.
        progress: show a bar.
        seed: of the choice of rows.

    Raises:
        InputError: a layer that never ran, an input that is not finite, or a norm that others read, too.
    """
    sampled = {group.name: samples for group in groups if samples}
    watcher = _Watcher(marks, sampled, seed)
    training, hooks = model.training, watcher.watch(model.eval(), names, groups)
    try:
        with torch.no_grad():
            _run(model, calibration, progress)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    if missing := [name for name in names if name not in watcher.maxima]:
        raise InputError(
            f"calibration: expected it to run all {len(names)} layers, got none through {missing[0]} and "
            f"{len(missing) - 1} more; run the model itself, in order, not a copy of its weights that reads faster"
        )
    for norm, stranger in watcher.strangers.items():
        raise InputError(
            f"{norm}: expected only its linear layers to read it, got {stranger}, too, whose input would be scaled; "
            "leave it out of efficiency.smoothquant.graph.LAYERS"
        )
    maxima = {name: {kind: t.cpu() for kind, t in found.items()} for name, found in watcher.maxima.items()}
    for name, found in maxima.items():
        if not all(torch.isfinite(t).all() for t in found.values()):
            raise InputError(
                f"calibration: expected finite inputs, got inf or nan into {name}; try bfloat16 or float32"
            )
    kept = {
        name: {
            kind: one.rows if one.rows is not None else torch.empty(0, len(maxima[name]["text"]))
            for kind, one in found.items()
        }
        for name, found in watcher.samples.items()
    }
    return Statistics(maxima, watcher.rows, kept, fingerprint)


def _run(model: nn.Module, calibration: Calibration, progress: bool) -> None:
    if callable(calibration):
        calibration(model)
        return
    for batch in tqdm(calibration, desc="calibrating", unit="batch", disable=not progress):
        if isinstance(batch, Mapping):
            model(**batch)
        elif isinstance(batch, tuple | list):
            model(*batch)
        else:
            model(batch)
