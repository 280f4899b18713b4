"""A model in floating point made into one with 8-bit linear layers: calibrate, smooth, round (arXiv 2211.10438)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from efficiency.errors import InputError
from efficiency.int8.hugging_face import mark
from efficiency.int8.linear import ACTIVATIONS, LEVELS, Int8Linear
from efficiency.int8.marks import Marks
from efficiency.int8.siblings import put_together
from efficiency.smoothquant.collect import Calibration, collect
from efficiency.smoothquant.graph import LAYERS, Group, find_groups
from efficiency.smoothquant.multiply import MultipliedLinear, to_int8
from efficiency.smoothquant.report import GroupReport, SmoothReport
from efficiency.smoothquant.search import search_alpha
from efficiency.smoothquant.smooth import check_alpha, fold, foresee, group_scales
from efficiency.smoothquant.statistics import Statistics
from efficiency.smoothquant.weights import is_linear, matrix, sizes
from efficiency.surgery import replace_modules

# Parts of dotted names that stay as they are: memory (the cell of a recurrent model), gates and routers, heads.
SKIP = (
    *("cell", "gate", "*_gate", "router", "lm_head", "classifier", "pre_classifier", "qa_outputs", "score"),
    *("pooler", "cls", "head", "embed_out", "output_layer", "vocab_transform", "vocab_projector"),
)
MEMORY = ("int8", "float")
Alpha = float | str | Mapping[str, float] | None


PROMPTS = "Prompts"  # of an adapter, by name: this package imports none that has them


def smooth_quantize(
    model: nn.Module,
    calibration: Calibration | None = None,
    *,
    alpha: Alpha = 0.5,
    activations: str = "token",
    skip: Sequence[str] = SKIP,
    memory: str = "int8",
    marks: Marks | None = None,
    memory_weight: float = 1.0,
    statistics: Statistics | None = None,
    multiply: bool = False,
    powers: bool = False,
    samples: int | None = None,
    fingerprint: str = "",
    progress: bool = True,
) -> SmoothReport:
    """Replace linear layers of ``model`` by 8-bit ones in place, smoothed by what calibration saw.

    Everything that can be refused is refused before anything is changed. Tied weights, embeddings and layers under
    ``skip`` stay.

    Args:
        calibration: see :func:`efficiency.smoothquant.collect.collect`; not used where ``statistics`` are given.
        alpha: of eq. 4: a number for all groups; ``"search"`` for the best of a grid for each; numbers by shell
            patterns of the names of a group's layers, the first that matches counts, others get 0.5; None for no
            smoothing.
        activations: one of :data:`efficiency.int8.linear.ACTIVATIONS`.
        skip: shell patterns against each part of a dotted name, and against the whole.
        memory: ``float`` to run the rows that ``marks`` says are memory in floating point.
        marks: which rows are memory.
        memory_weight: of the memory's maxima and errors against the text's.
        statistics: of an earlier calibration; for ``search`` with kept rows.
        multiply: smooth groups, too, that nothing carries scales for, at the price of a multiplication at run time;
            files of such a model are for this library alone.
        powers: round scales to powers of two, so that folding changes no bit; 8 bits then err a little more.
        samples: rows kept of each group that can be smoothed; where None, 64 for ``search`` and none otherwise. Given
            with ``calibration``, statistics are collected and kept for a later call even where this one needs none.
        fingerprint: of the model, kept with the statistics.
        progress: show bars.

    Raises:
        InputError: a wrong setting; a model with adapters that are not merged, in 4 bits, in 8 bits already or without
            weights in memory; no layer to quantise; no known layers to smooth; calibration that does not fit; or
            weights that, smoothed, are larger than the model's format holds.
    """
    _check_settings(alpha, activations, memory, marks)
    _check_model(model)
    left = _left(model, skip)
    targets = [name for name, module in model.named_modules() if is_linear(module) and name not in left]
    if not targets:
        raise InputError(
            f"expected linear layers outside skip, got none in {type(model).__name__}; pass a smaller skip"
        )
    _check_weights(model, targets)
    groups = _groups(model, targets, alpha)
    # An input group's layers have nothing to be smoothed by unless asked.
    smoothed = [group for group in groups if alpha is not None and (group.kind != "input" or multiply)]
    alphas = _alphas(smoothed, alpha)
    if statistics is None and (smoothed or activations == "static" or (samples and calibration is not None)):
        able = [group for group in groups if group.kind != "input" or multiply] if samples else smoothed
        kept = (64 if alpha == "search" else 0) if samples is None else samples
        names = [*targets, *(n for group in groups for n in group.readers if n not in targets)]
        how: dict[str, Any] = {
            "marks": marks,
            "groups": able,
            "samples": kept,
            "fingerprint": fingerprint,
            "progress": progress,
        }
        statistics = collect(model, _required(calibration), names, **how)
    if statistics is not None:
        _check_statistics(model, statistics, smoothed, targets, alpha, activations)
    report = SmoothReport(activations, memory, left=left, statistics=statistics)
    weighed = {"memory_weight": memory_weight, "memory": memory == "int8", "powers": powers}
    plan = _plan(model, groups, alphas, statistics, report, targets, how=weighed, progress=progress)
    _round(model, targets, _fold(model, plan), statistics, report, marks if memory == "float" else None)
    return report


def _required(calibration: Calibration | None) -> Calibration:
    if calibration is None:
        raise InputError("expected calibration or statistics, got neither; pass documents, or alpha=None and token")
    return calibration


def _check_settings(alpha: Alpha, activations: str, memory: str, marks: Marks | None) -> None:
    if isinstance(alpha, str) and alpha != "search":
        raise InputError(f"alpha: expected a number, 'search', numbers by name, or None, got {alpha!r}; 0.5 is usual")
    numbers = alpha.values() if isinstance(alpha, Mapping) else [alpha]
    for number in numbers:
        if isinstance(number, int | float):
            check_alpha(number)
    if activations not in ACTIVATIONS:
        raise InputError(f"activations: expected one of {', '.join(ACTIVATIONS)}, got {activations!r}; try token")
    if memory not in MEMORY:
        raise InputError(f"memory: expected one of {', '.join(MEMORY)}, got {memory!r}; choose among these")
    if memory == "float" and marks is None:
        raise InputError("marks: expected the marks of the memory's rows for memory='float', got none; pass marks=")


def _check_model(model: nn.Module) -> None:
    """Refuse what cannot be quantised from here, with the reason."""
    for name, module in model.named_modules():
        if type(module).__name__ == PROMPTS:
            raise InputError(
                f"{name}: expected no adapter, got LLaMA-Adapter's prompts, which enter attention behind the norm that "
                "scales are folded into; quantise first, then attach and train them"
            )
        if isinstance(module, BaseTunerLayer):
            raise InputError(f"{name}: expected no adapters, got one; merge them first: model.merge_and_unload()")
        if isinstance(module, Int8Linear):
            raise InputError(
                f"{name}: expected a model in floating point, got one in int8 already; give the model it was made from"
            )
        if isinstance(module, MultipliedLinear):
            raise InputError(
                f"{name}: expected a model that is not smoothed yet, got one that is; give the model it was made from"
            )
        for parameter in module._parameters.values():
            if parameter is None:
                continue
            if hasattr(parameter, "quant_state") or type(parameter).__name__ in ("Params4bit", "Int8Params"):
                raise InputError(
                    f"{name}: expected weights in floating point, got quantised ones of another kind "
                    f"({type(parameter).__name__}); load the model without quantization_config, or dequantise it"
                )
            if parameter.is_meta and is_linear(module):
                raise InputError(f"{name}: expected weights in memory, got none (meta); load the model first")
    if getattr(getattr(model, "config", None), "quantization_config", None) is not None:
        raise InputError("expected a model in floating point, got one with a quantization_config; load it without")


def _check_weights(model: nn.Module, targets: Sequence[str]) -> None:
    """Refuse numbers that have no scale; the least and the most tell, without a copy of the weight."""
    for name in targets:
        weight = matrix(model.get_submodule(name))
        if weight.numel() and not all(torch.isfinite(most) for most in weight.aminmax()):
            raise InputError(f"{name}: expected finite weights, got inf or nan; look at the model before quantising it")


def _left(model: nn.Module, skip: Sequence[str]) -> dict[str, str]:
    """Linear layers that stay as they are, and why."""
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    left: dict[str, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not is_linear(module):
            left[name] = f"is a {type(module).__name__}"
        elif is_linear(module):
            weight: Any = module.weight
            if any(fnmatchcase(part, pattern) for pattern in skip for part in (*name.split("."), name)):
                left[name] = "is in skip"
            elif owners[id(weight)] > 1:
                left[name] = "has a weight that is tied"
    return left


def _groups(model: nn.Module, targets: Sequence[str], alpha: Alpha) -> list[Group]:
    """Groups with a layer that is to be quantised."""
    groups = [group for group in find_groups(model) if any(name in targets for name in group.readers)]
    if alpha is not None and not groups:
        raise InputError(
            f"expected layers of a known family to smooth ({', '.join(LAYERS)}), got none in {type(model).__name__}; "
            "enter its layer in efficiency.smoothquant.graph.LAYERS, or pass alpha=None"
        )
    return groups


def _alphas(groups: Sequence[Group], alpha: Alpha) -> dict[str, float | None]:
    """Alpha of each group that is to be smoothed, None where it is to be searched."""
    if not isinstance(alpha, Mapping):
        number = float(alpha) if isinstance(alpha, int | float) else None
        return {group.name: number for group in groups}
    unused = dict.fromkeys(alpha)
    found: dict[str, float | None] = {}
    for group in groups:
        hits = [p for p in alpha if any(fnmatchcase(name, p) for name in group.readers)]
        for pattern in hits:
            unused.pop(pattern, None)
        found[group.name] = float(alpha[hits[0]]) if hits else 0.5
    if unused:
        raise InputError(
            f"alpha: expected patterns of names such as {groups[0].name if groups else '(no group can be smoothed)'}, "
            f"got {', '.join(unused)}, which no smoothed layer has; print(find_groups(model))"
        )
    return found


def _check_statistics(
    model: nn.Module,
    statistics: Statistics,
    smoothed: Sequence[Group],
    targets: Sequence[str],
    alpha: Alpha,
    activations: str,
) -> None:
    """Raise before anything is changed."""
    wanted = {name for group in smoothed for name in group.readers if name in targets}
    for name in sorted(wanted | set(targets if activations == "static" else ())):
        inputs, found = sizes(model.get_submodule(name))[1], statistics.maxima.get(name, {})
        rows = statistics.samples.get(name, {}) if alpha == "search" else {}
        statistics.channels(name)
        for tensor in (*found.values(), *rows.values()):
            if tensor.shape[-1] != inputs:
                raise InputError(
                    f"statistics: expected {inputs} channels of {name}, got {tensor.shape[-1]}; calibrate this model"
                )
    if alpha == "search" and (missing := [g.name for g in smoothed if g.name not in statistics.samples]):
        raise InputError(f"statistics: expected kept rows of {missing[0]}, got none; collect with samples=64")


def _plan(
    model: nn.Module,
    groups: Sequence[Group],
    alphas: Mapping[str, float | None],
    statistics: Statistics | None,
    report: SmoothReport,
    targets: Sequence[str],
    *,
    how: dict[str, Any],
    progress: bool,
) -> list[tuple[Group, Tensor]]:
    """Groups to be folded, in this order, and the scales for each; the model is left as it is.

    Raises:
        InputError: what folding would make is more than the model's format holds.
    """
    plan: list[tuple[Group, Tensor]] = []
    rows: dict[str, Tensor] = {}
    searched = any(alpha is None for alpha in alphas.values())
    for group in tqdm(groups, desc="smoothing", unit="group", disable=not (progress and searched)):
        if group.name not in alphas:
            why = "not asked for" if group.kind != "input" else f"{group.why}; multiply=True would"
            report.groups.append(GroupReport(group.name, group.kind, None, why=why))
            continue
        assert statistics is not None
        readers = tuple(name for name in group.readers if name in targets)
        alpha, loss, plain = alphas[group.name], None, None
        if alpha is None:
            kind = report.activations
            found = search_alpha(model, group, statistics, activations=kind, readers=readers, rows=rows, **how)
            alpha, loss, plain = found.alpha, found.loss, found.plain
        if alpha is None:
            report.groups.append(GroupReport(group.name, group.kind, None, loss=loss, plain=plain, why="best without"))
            continue
        given = {key: how[key] for key in ("memory_weight", "memory")}
        inputs = torch.stack([statistics.channels(name, **given) for name in readers]).amax(dim=0)
        asked = group_scales(model, group, inputs, alpha, powers=how["powers"], readers=readers, rows=rows)
        scales, rows = foresee(model, group, asked, rows)
        plan.append((group, asked))
        if group.kind == "input":
            report.multiplied += group.readers
        span = float(scales.min()), float(scales.max())
        report.groups.append(GroupReport(group.name, group.kind, alpha, *span, loss=loss, plain=plain))
    return plan


def _fold(model: nn.Module, plan: Sequence[tuple[Group, Tensor]]) -> dict[str, Tensor]:
    """Fold all groups; gives the scales that each layer's input was divided by."""
    divided: dict[str, Tensor] = {}
    for group, scales in plan:
        divided |= dict.fromkeys(group.readers, fold(model, group, scales))
    return divided


def _round(
    model: nn.Module,
    targets: Sequence[str],
    divided: Mapping[str, Tensor],
    statistics: Statistics | None,
    report: SmoothReport,
    marks: Marks | None,
) -> None:
    """Replace the layers, one after the other: no more than one weight exists twice at a time."""
    wanted = set(targets)

    def choose(name: str, module: nn.Module) -> nn.Module | None:
        if name not in wanted:
            return None
        largest = None
        if report.activations == "static":
            assert statistics is not None
            channels = statistics.channels(name, memory=report.memory == "int8")
            if name in divided:
                channels = channels / divided[name].cpu()
            largest = max(float(channels.amax()) / LEVELS, torch.finfo(torch.float32).tiny)
        layer = to_int8(module, activations=report.activations, input_scale=largest)
        layer.marks = marks
        report.bytes_before += _bytes(module)
        report.bytes_after += _bytes(layer)
        return layer

    report.quantised = replace_modules(model, choose)
    put_together(model, Int8Linear)
    if isinstance(model, PreTrainedModel):
        mark(model)


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())
