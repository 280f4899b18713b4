"""The ways to read one document with one model, each timed in turn with the others in one process.

A *cell* is a model, a length and a segment size. A *round* runs every side of a cell once; rounds are kept one by one,
so that a run that was killed loses one at most.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import roofline
import sizes
import torch
from subject import settle
from torch import Tensor

from rmt.executors import Compiled, Executor, Packed, Sequential, Wavefront, choose, writer
from rmt.executors.captured import LEAST, Captured, direct_call
from rmt.executors.choice import RULES
from rmt.segments import split

State = dict[str, Tensor]
NAMES = ("sequential", "wavefront", "side by side", "captured", "compiled", "packed", "auto", "full attention")
BASE = "sequential"
FULL = "full attention"
BATCH = 32  # segments that a reader hands over at a time
FULL_AGAIN = 10.0  # seconds; what takes longer is read once, not in every round
SQUARE = {"cpu": roofline.SQUARE, "cuda": 8192}


@dataclass(frozen=True)
class Cell:
    """What is read: a model of :data:`sizes.SIZES`, tokens, tokens of a segment, and by which sides."""

    model: str
    length: int
    segment: int
    names: tuple[str, ...] = NAMES

    @property
    def key(self) -> str:
        """Its name in a file of results."""
        return f"{self.model} {self.length} {self.segment}"


@dataclass(frozen=True)
class Side:
    """One way to read.

    Attributes:
        run: gives the memory of the first document, or nothing where there is none.
        warm: a short run before the first time.
        tokens: that a run reads.
        attention: of the backbone while it runs.
        what: by which executor, in words.
    """

    run: Callable[[], State]
    warm: Callable[[], Any]
    tokens: int
    attention: str
    what: str


@dataclass
class Subject:
    """A model on its device, and what is read with it.

    Attributes:
        documents: of the packed side, which reads so many of the cell's length.
        full_limit: seconds that full attention may take, by a guess beforehand.
        peak: operations per second of a square product.
        rehearsal: stand in for what asks for a GPU with its twin on a CPU.
        plain, batched: attention of the backbone as a rule, and where layers run as one batch.
        reading: what executors are given.
        rates: operations per second that sides reached, the last time.
        sides: of the cell that is being measured.
    """

    name: str
    model: Any
    device: str
    peak: float
    documents: int = 4
    full_limit: float = 60.0
    rehearsal: bool = False
    plain: str = ""
    reading: Any = None
    batched: str = ""
    rates: dict[str, float] = field(default_factory=dict)
    sides: dict[Any, Side] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plain = self.model.core.config._attn_implementation
        # Torch has no batched form of the fused attention on a CPU (rmt/stack.py).
        self.batched = self.batched or ("eager" if self.device == "cpu" else self.plain)
        self.reading = writer(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """Of the backbone."""
        return next(self.model.backbone.parameters()).dtype

    def ids(self, number: int, length: int) -> Tensor:
        """Random tokens of a document, (1, length) on the device."""
        maker = torch.Generator().manual_seed(number)
        return torch.randint(0, self.model.config.vocab_size - 2, (1, length), generator=maker).to(self.device)


def square_peak(dtype: torch.dtype, device: str) -> float:
    """Operations per second of a large square product."""
    side = SQUARE[device]
    with torch.inference_mode():
        a = torch.randn(side, side, device=device).to(dtype)
        return roofline.fastest(lambda: a @ a, 2 * side**3)


def read(subject: Subject, executor: Executor, ids: Tensor) -> State:
    """The state after a document, handed over in blocks as :class:`rmt.Reader` does it."""
    size = subject.model.config.segment_size
    with torch.inference_mode():
        state = subject.model.cell.initial(1)
        for block in ids.split(size * executor.batch_segments, dim=1):
            state = executor.read(subject.reading, split(block, None, size), state)
    return state


def executor_of(subject: Subject, name: str) -> Executor | str:
    """The executor of a side, or why there is none."""
    config, device = subject.model.config, subject.device
    depth = config.num_hidden_layers
    if name == "captured" and subject.rehearsal and device == "cpu" and config.memory == "tokens":
        return Captured(BATCH, record=direct_call)
    rule = "wavefront" if name == "side by side" else name
    if name == "auto":
        return choose(config, "auto", BATCH, device)[0]
    if unfit := RULES[rule].unfit(config, device):
        return f"asks for {unfit}"
    if name == "side by side":
        return Wavefront(max(BATCH, 8 * depth), batched=False) if device == "cpu" else "asks for the cores of a CPU"
    return {
        "sequential": Sequential(BATCH),
        "wavefront": Wavefront(max(BATCH, 8 * depth), batched=True),
        "captured": Captured(BATCH),
        "compiled": Compiled(Sequential(BATCH)),
        "packed": Packed(BATCH, subject.documents),
    }[name]


def side(subject: Subject, name: str, length: int) -> Side | str:
    """One way to read a document of so many tokens, or why it cannot be read so."""
    if name == FULL:
        return full_side(subject, length)
    if isinstance(executor := executor_of(subject, name), str):
        return executor
    config, ids = subject.model.config, subject.ids(0, length)
    size, what = config.segment_size, executor.name
    batched = isinstance(executor, Wavefront) and executor.batched
    kind = subject.batched if batched else subject.plain
    if isinstance(executor, Wavefront):
        what += f" as one batch, attention {kind}" if batched else " on the cores, side by side"
    if name == "packed":
        runs = [subject.ids(n, length) for n in range(subject.documents)]
        what += f", {subject.documents} documents"
        run = partial(packed, subject, executor, runs, size)
        warm = partial(packed, subject, executor, [ids[:, : 2 * size] for ids in runs], size)
        return Side(run, warm, subject.documents * length, kind, what)
    # So many segments start all that runs later: a graph, diagonals of all sizes.
    start = ids[:, : size * max(config.num_hidden_layers + 1, LEAST)]
    return Side(partial(read, subject, executor, ids), partial(read, subject, executor, start), length, kind, what)


def packed(subject: Subject, executor: Any, runs: Sequence[Tensor], size: int) -> State:
    """Documents side by side; the state of the first."""

    def parts(ids: Tensor) -> Iterator[Any]:
        return (part.cpu().numpy() for part in ids[0].split(size))

    with torch.inference_mode():
        states = dict(executor.read_many(subject.reading, map(parts, runs), subject.model.cell.initial(1), size))
    return states[0]


def full_side(subject: Subject, length: int) -> Side | str:
    """One forward of the backbone over the whole text, or why there is none."""
    config, device = subject.model.config.backbone_config, subject.device
    if config.model_type == "bert" and length > config.max_position_embeddings:
        return f"no position table beyond {config.max_position_embeddings:,} tokens"
    needed, free = sizes.full_bytes(config, length, subject.dtype), free_bytes(device)
    if needed > 0.9 * free:
        return f"needs about {needed / 1e9:.0f} GB, {free / 1e9:.0f} are free"
    # What it reached before, else a fifth of the peak.
    seconds = sizes.full_operations(config, length) / subject.rates.get(FULL, 0.2 * subject.peak)
    if seconds > subject.full_limit:
        return f"would take about {seconds:.0f} s, the limit is {subject.full_limit:.0f}"
    ids = subject.ids(0, length)

    def forward(some: Tensor) -> State:
        extra = {} if config.model_type == "bert" else {"use_cache": False}
        with torch.inference_mode():
            subject.model.core(input_ids=some, **extra)
        return {}

    return Side(partial(forward, ids), partial(forward, ids[:, :256]), length, "sdpa", "one forward, SDPA")


def free_bytes(device: str) -> int:
    """Memory that a program may still take."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


def timed(subject: Subject, one: Side) -> tuple[State, dict[str, float]]:
    """What a side gives, and its seconds, cores kept busy, and on a GPU the peak of what torch allocates."""
    sizes.attention(subject.model, one.attention)
    settle()
    if subject.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start, busy = time.perf_counter(), time.process_time()
    state = one.run()
    settle()
    seconds = time.perf_counter() - start
    took = {"seconds": seconds, "tokens": one.tokens, "cores": (time.process_time() - busy) / seconds}
    if subject.device == "cuda":
        took["peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return state, took


def gap(ours: State, theirs: State) -> float:
    """The largest difference in parts of the largest value, over all tensors of a state; infinite where one
    is not finite.

    Raises:
        ValueError: theirs is zero, so that nothing would be compared.
    """
    found = 0.0
    for name, tensor in theirs.items():
        largest = float(tensor.abs().max())
        if not largest:
            raise ValueError(f"{name}: expected a memory in which something is stored, got zeros")
        if not (tensor.isfinite().all() and ours[name].isfinite().all()):
            return float("inf")
        found = max(found, float((ours[name].float() - tensor.float()).abs().max()) / largest)
    return found


def one_round(subject: Subject, cell: Cell, kept: dict[str, Any]) -> None:
    """Run every side once, in an order that turns from round to round; what came of it is added to ``kept``.

    Args:
        subject: whose model is the cell's.
        cell: what to read.
        kept: of :func:`nothing`, or of rounds before.
    """
    config = subject.model.config
    config.segment_size = cell.segment
    here: dict[str, dict[str, float]] = {}
    states: dict[str, State] = {}
    names = [BASE, *(name for name in cell.names if name != BASE)]
    turn = len(kept["rounds"]) % len(names)
    for name in names[turn:] + names[:turn]:
        slow = any(r.get(name, {}).get("seconds", 0) > FULL_AGAIN for r in kept["rounds"])
        if name in kept["notes"] or (name == FULL and slow):
            continue
        if (done := attempt(subject, cell, name, kept)) is not None:
            states[name], here[name] = done
            subject.rates[name] = operations(subject, cell, name) / here[name]["seconds"]
    for name, state in states.items():
        if state and name != BASE and BASE in states and name not in kept["gaps"]:
            kept["gaps"][name] = gap(state, states[BASE])
    kept["operations"] = sizes.operations(config) / cell.segment
    kept["full_operations"] = sizes.full_operations(config.backbone_config, cell.length) / cell.length
    kept["rounds"].append(here)


def nothing() -> dict[str, Any]:
    """A cell of which nothing is known yet: times by side of each round, why sides are left out, by what executor each
    reads, and how far its memory is from the one read in sequence."""
    return {"rounds": [], "notes": {}, "what": {}, "gaps": {}}


def operations(subject: Subject, cell: Cell, name: str) -> float:
    """That a side's run needs."""
    config = subject.model.config
    if name == FULL:
        return sizes.full_operations(config.backbone_config, cell.length)
    documents = subject.documents if name == "packed" else 1
    return sizes.operations(config) / cell.segment * cell.length * documents


def attempt(subject: Subject, cell: Cell, name: str, kept: dict[str, Any]) -> tuple[State, dict[str, float]] | None:
    """One run of a side, warmed up if it is the first of this process; None with a note where it cannot be."""
    try:
        key = (name, cell.length, cell.segment)
        if key not in subject.sides:
            if any(known[1:] != key[1:] for known in subject.sides):
                subject.sides.clear()  # of the cell before: graphs hold memory
            one = side(subject, name, cell.length)
            if isinstance(one, str):
                kept["notes"][name] = one
                return None
            sizes.attention(subject.model, one.attention)
            one.warm()
            subject.sides[key] = one
        kept["what"][name] = subject.sides[key].what
        return timed(subject, subject.sides[key])
    except (RuntimeError, NotImplementedError) as error:  # a GPU's memory, or what this torch cannot do
        lines = str(error).strip().splitlines() or [""]
        subject.sides.clear()
        if subject.device == "cuda":
            torch.cuda.empty_cache()
        full = isinstance(error, torch.OutOfMemoryError)
        if name != "wavefront" or full or subject.batched == "eager":
            kept["notes"][name] = f"{type(error).__name__}: {lines[0][:200]}"
            return None
        print(f"{name}: {lines[0][:200]}; again with attention written out", file=sys.stderr, flush=True)
        subject.batched = "eager"
    finally:
        sizes.attention(subject.model, subject.plain)
    return attempt(subject, cell, name, kept)
