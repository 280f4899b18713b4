"""A function of tensors recorded once as a CUDA graph and replayed, and segments that are read so.

A small model on a GPU waits for Python to start its kernels. A graph starts all of a segment's at once; what it costs
is that everything lies where it lay when it was recorded. So inputs are copied to fixed places before a replay, and
outputs from fixed places after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from rmt.errors import InputError
from rmt.executors.base import ReadingModel, State
from rmt.segments import Segment

Tensors = dict[str, Tensor]
Record = Callable[[Callable[[], Tensors]], tuple[Tensors, Callable[[], Any]]]
WARM_UP = 3  # runs before the recording: libraries choose kernels and allocate in the first ones
# Full segments in one call from which on a graph is used. A recording costs about five segments read without one and
# serves all documents after; a guess, not measured on any GPU.
LEAST = 8
KEPT = 4  # graphs; each holds the activations of one segment
# Families whose forward asks the host for nothing while it is recorded, with masks as `unmasked` gives them; a test
# goes through all of them.
FAMILIES = (
    "bert", "roberta", "distilbert", "llama", "mistral", "qwen2", "qwen3", "gemma", "gpt2", "gpt_neox",
)  # fmt: skip


def cuda_graph(run: Callable[[], Tensors]) -> tuple[Tensors, Callable[[], Any]]:
    """Record ``run`` as a CUDA graph: the tensors it gives, and what fills them anew.

    Args:
        run: without arguments; reads and writes the same places each time, and never waits for the GPU.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run()
    return outputs, graph.replay


def direct_call(run: Callable[[], Tensors]) -> tuple[Tensors, Callable[[], Any]]:
    """The twin of :func:`cuda_graph` for any device: runs anew each time, and leaves results in the same places."""
    outputs = {name: tensor.clone() for name, tensor in run().items()}

    def replay() -> None:
        for name, tensor in run().items():
            outputs[name].copy_(tensor)

    return outputs, replay


class StaticStep:
    """A function of tensors, recorded for one shape of its inputs. Without gradient.

    Called, it copies inputs in, replays, and gives copies of the outputs. For a loop that need not copy there is
    :meth:`write` for those inputs that change, :meth:`replay`, and :attr:`outputs`. The function may also write into
    its inputs, which then hold what it wrote at the next replay.

    Args:
        function: tensors by name to tensors by name, of the same shapes whatever the values; no host waits, no
            randomness. What it uses beside its inputs (weights, masks) must stay where it is, and is kept alive.
        inputs: an example, whose values are the first ones in place; copied.
        record: how, :func:`cuda_graph` or :func:`direct_call`.

    Attributes:
        inputs, outputs: the fixed places; outputs are overwritten by the next replay.

    Raises:
        RuntimeError: from the recording, where the function waits for the GPU.
    """

    def __init__(self, function: Callable[[Tensors], Tensors], inputs: Tensors, record: Record = cuda_graph) -> None:
        # Outside inference mode, or its tensors could not be written to except in it.
        with torch.inference_mode(False), torch.no_grad():
            # Whole copies of expanded tensors too: a place of its own for every element.
            self.inputs = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in inputs.items()}
            places = dict(self.inputs)
            self.outputs, self._replay = record(lambda: function(dict(places)))

    def __call__(self, inputs: Tensors) -> Tensors:
        """The outputs for these inputs, as tensors of their own.

        Raises:
            InputError: as :meth:`write`.
        """
        self.write(inputs)
        self.replay()
        with torch.inference_mode(False), torch.no_grad():
            return {name: tensor.clone() for name, tensor in self.outputs.items()}

    def write(self, inputs: Tensors) -> None:
        """Copy some inputs, or all, to their places; the others stay what they were.

        Raises:
            InputError: one of an unknown name, or of another shape or dtype than was recorded.
        """
        for name, tensor in inputs.items():
            place = self.inputs.get(name)
            if place is None:
                raise InputError(f"StaticStep: expected inputs {', '.join(self.inputs)}, got {name}; leave it out")
            if (place.shape, place.dtype) != (tensor.shape, tensor.dtype):
                raise InputError(
                    f"StaticStep: expected {name} of shape {tuple(place.shape)} in {place.dtype}, as recorded, got "
                    f"{tuple(tensor.shape)} in {tensor.dtype}; record another step"
                )
        with torch.inference_mode(False), torch.no_grad():
            for name, tensor in inputs.items():
                self.inputs[name].copy_(tensor)

    def replay(self) -> None:
        """Fill the outputs from what the inputs hold."""
        with torch.inference_mode(False), torch.no_grad():
            self._replay()


@dataclass(frozen=True)
class Captured:
    """Reads segments in order, full ones as replays of one recorded step; for token memory.

    A graph belongs to a shape (documents, tokens) and is recorded when :meth:`read` first brings at least ``least``
    full segments of that shape; fewer, and segments that are not full, are read as by
    :class:`rmt.executors.Sequential`. Which ones are replayed follows from a call's segments alone, so that bits do
    not depend on what was read before.

    Attributes:
        batch_segments: segments that a reader hands over at a time.
        least: full segments in one call from which on they are replayed, ``batch_segments`` where that is less.
        record: how a step is recorded.
    """

    batch_segments: int = 32
    least: int = LEAST
    record: Record = cuda_graph
    name: str = "captured"
    _steps: dict[Any, StaticStep] = field(default_factory=dict, repr=False, compare=False)

    def read(self, model: ReadingModel, segments: Iterable[Segment], state: State) -> State:
        """See :class:`rmt.executors.Executor`.

        Raises:
            InputError: a model in training mode.
        """
        if model.training:
            raise InputError("executor: expected a model in evaluation mode, got training mode; call model.eval()")
        listed = list(segments)
        keyed = zip(_full_shapes(listed), listed, strict=True)
        for shape, group in groupby(keyed, key=lambda pair: pair[0]):
            same = [segment for _, segment in group]
            replayed = shape is not None and len(same) >= min(self.least, self.batch_segments)
            state = self._replay(model, same, state) if replayed else _in_order(model, same, state)
        return state

    def _replay(self, model: ReadingModel, segments: Sequence[Segment], state: State) -> State:
        step = self._step(model, segments[0], state)
        step.write(_inputs(segments[0], state))
        for number, segment in enumerate(segments):
            if number:
                step.write({"ids": segment.ids, **_prefixed(step.outputs)})
            step.replay()
        with torch.inference_mode(False), torch.no_grad():
            return {name: tensor.clone() for name, tensor in step.outputs.items()}

    def _step(self, model: ReadingModel, segment: Segment, state: State) -> StaticStep:
        """The step for these shapes; the one that was recorded first gives way where there are too many."""
        inputs = _inputs(segment, state)
        shapes = tuple((name, tuple(t.shape), t.dtype, t.device) for name, t in inputs.items())
        # A step keeps its cell and core alive, so that no other object can have their identities.
        key = (id(model.cell), id(model.core), shapes)
        if key not in self._steps:
            while len(self._steps) >= KEPT:
                del self._steps[next(iter(self._steps))]
            self._steps[key] = StaticStep(segment_step(model, segment), inputs, self.record)
        return self._steps[key]


def segment_step(model: ReadingModel, segment: Segment) -> Callable[[Tensors], Tensors]:
    """Reading one full segment as a function of ``ids`` and of the state's tensors, under ``state.`` and their name.

    Args:
        model: with token memory, in evaluation mode.
        segment: an example, full.
    """
    with torch.inference_mode(False):
        mask, source = segment.mask.clone(), segment.source.clone()
    cell, core = model.cell, unmasked(model.core)

    def function(tensors: Tensors) -> Tensors:
        state = {name.removeprefix("state."): t for name, t in tensors.items() if name != "ids"}
        after: Tensors = cell(core, Segment(tensors["ids"], mask, source), state).state
        return after

    return function


class Unmasked(nn.Module):
    """A core for segments in which every token is real, given masks that need no look at their values.

    transformers asks a mask on the GPU whether anything is masked at all, and the host waits for the answer. While a
    graph is recorded it does not ask, and builds a mask anew in each replay. An encoder without padding needs none. A
    decoder needs the causal one, which is built here, once; ``None`` would not do, for then positions are searched for
    borders between packed texts. It is the whole mask of a decoder with a sliding window too: a segment never is
    longer (:func:`rmt.backbone.check_segment_size`).
    """

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core = core
        self._causal: Tensor | None = None

    def get_input_embeddings(self) -> nn.Module:
        """Word embeddings of the core."""
        core: Any = self.core
        found: nn.Module = core.get_input_embeddings()
        return found

    def forward(self, *, inputs_embeds: Tensor, attention_mask: Tensor, **rest: Any) -> Any:
        """The core's output, of every family of :mod:`rmt.backbone`.

        Args:
            inputs_embeds: of shape (batch, positions, hidden).
            attention_mask: not looked at; all positions are real.
            rest: what else the cell gives; position ids, which only decoders get, are those that the core counts by
                itself.
        """
        causal = rest.pop("position_ids", None) is not None
        return self.core(inputs_embeds=inputs_embeds, attention_mask=self._mask(inputs_embeds, causal), **rest)

    def _mask(self, inputs: Tensor, causal: bool) -> Tensor | None:
        if not causal:
            return None
        config: Any = self.core.config
        if config._attn_implementation != "sdpa":
            return None  # other kernels take masks of other kinds, so transformers builds theirs
        batch, length = inputs.shape[:2]
        if self._causal is None or self._causal.shape[-1] != length or self._causal.shape[0] != batch:
            ones = torch.ones(length, length, dtype=torch.bool, device=inputs.device)
            self._causal = ones.tril().expand(batch, 1, length, length).contiguous()
        return self._causal


def unmasked(core: nn.Module) -> Unmasked:
    """See :class:`Unmasked`."""
    return Unmasked(core)


def _in_order(model: ReadingModel, segments: Sequence[Segment], state: State) -> State:
    for segment in segments:
        state = model.cell(model.core, segment, state).state
    return state


def _inputs(segment: Segment, state: State) -> Tensors:
    return {"ids": segment.ids, **_prefixed(state)}


def _prefixed(state: State) -> Tensors:
    return {f"state.{name}": tensor for name, tensor in state.items()}


def _full_shapes(segments: Sequence[Segment]) -> list[tuple[int, ...] | None]:
    """Shapes of segments in which every token is real, None for others; the device is waited for once."""
    full = torch.stack([segment.mask.all() for segment in segments]).tolist() if segments else []
    return [tuple(s.ids.shape) if whole else None for s, whole in zip(segments, full, strict=True)]
