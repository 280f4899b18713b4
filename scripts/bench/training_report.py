"""Tables of what ``gpu_training.py`` measured, in Markdown, and whether targets are met. Measures nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from training_sides import pairs

# Side, over which one, what of it, and the target: at least for speed, at most for the rest.
TARGETS = (
    ("LoRA", "PEFT", "tokens/s", 1.15),
    ("LoRA", "PEFT", "activations", 0.70),
    ("QLoRA", "LoRA", "step", 1.15),
)
OTHER_WEIGHTS = (("QLoRA", "LoRA"),)  # pairs whose losses differ by what four bits lose
SAME_LOSS, SAME_NORM = 0.01, 0.05  # relative; bfloat16 and another order of sums are well inside


@dataclass(frozen=True)
class Pair:
    """A side over another on the same work.

    Attributes:
        cell, side, other: which.
        steps: ratios of the time of a step, of each round that has both.
        saved: ratio of what forward leaves for backward; None where it is not known, as the next two.
        peak: ratio of what a step takes at most.
        needs: ratio of all that training takes.
        loss, norm: relative differences of the loss, and of the norm of all gradients where both are known.
    """

    cell: str
    side: str
    other: str
    steps: list[float]
    saved: float | None
    peak: float | None
    needs: float | None
    loss: float
    norm: float | None

    @property
    def same(self) -> bool:
        """Whether both did the same work, by all that is known."""
        if (self.side, self.other) in OTHER_WEIGHTS:
            return True
        return self.loss <= SAME_LOSS and (self.norm is None or self.norm <= SAME_NORM)

    def value(self, what: str) -> float | None:
        """Of what a target is about; under checkpoints activations are alive in backward only, hence the peak."""
        step = median(self.steps)
        activations = self.saved if self.cell.endswith("plain") else self.peak
        return {"step": step, "tokens/s": 1 / step, "activations": activations}[what]


def highest(kept: dict[str, Any], name: str, what: str) -> float | None:
    """Bytes of a side in a step, ``saved`` or ``peak``; None where they were not measured."""
    found = [r[name][what] for r in kept["rounds"] if what in r.get(name, {})]
    told: float | None = kept["told"].get(name, {}).get(what)
    return max(found) if found else told


def needed(kept: dict[str, Any], name: str) -> float | None:
    """Bytes that training takes with one side alone; None where it was not measured."""
    peak, told = highest(kept, name, "peak"), kept["told"].get(name)
    return None if peak is None or told is None else peak + told["held"]


def over(one: float | None, other: float | None) -> float | None:
    """A ratio, where there is one."""
    return None if one is None or not other else one / other


def compared(data: dict[str, Any]) -> Iterator[Pair]:
    """All pairs that were measured."""
    for key, kept in data["cells"].items():
        for group, side, other in pairs():
            both = [(r[side], r[other]) for r in kept["rounds"] if side in r and other in r]
            if key.split(" | ")[1] != group or not both:
                continue
            norm = over(*(kept["told"][name]["norm"] for name in (side, other)))
            yield Pair(
                key,
                side,
                other,
                steps=[a["seconds"] / b["seconds"] for a, b in both],
                saved=over(*(highest(kept, name, "saved") for name in (side, other))),
                peak=over(*(highest(kept, name, "peak") for name in (side, other))),
                needs=over(*(needed(kept, name) for name in (side, other))),
                loss=max(abs(a["loss"] / b["loss"] - 1) for a, b in both),
                norm=None if norm is None else abs(norm - 1),
            )


def sides_table(data: dict[str, Any]) -> str:
    """What each side takes."""
    columns = "ms a step | tokens/s | saved GB | peak GB | holds GB | peak and held GB | loss | about"
    out = [f"| model | group | segments | recurrence | side | {columns} |", "|" + "---|" * 13]
    for key, kept in data["cells"].items():
        for name in dict.fromkeys([*kept["told"], *kept["notes"]]):
            here = [r[name] for r in kept["rounds"] if name in r]
            note = kept["notes"].get(name, "")
            if not here:
                out.append(f"| {key} | {name} | | | | | | | | {note} |")
                continue
            told, seconds = kept["told"][name], median(r["seconds"] for r in here)
            sizes = (*(highest(kept, name, what) for what in ("saved", "peak")), told["held"], needed(kept, name))
            about = "; ".join(filter(None, (told["about"], note)))
            figures = [f"{1e3 * seconds:,.1f}", f"{here[0]['tokens'] / seconds:,.0f}", *map(gigabytes, sizes)]
            out.append(f"| {key} | {name} | {' | '.join(figures)} | {here[-1]['loss']:.4f} | {about} |")
    return "\n".join(out)


def gigabytes(count: float | None) -> str:
    """Of bytes, 10^9 each; nothing where there are none to tell of."""
    return "" if count is None else f"{count / 1e9:.2f}" if count >= 1e9 else f"{count / 1e9:.3g}"


def pairs_table(data: dict[str, Any]) -> str:
    """Each side over another on the same work."""
    columns = "step (least to most) | tokens/s | saved | peak | peak and held | loss, gradients differ by"
    out = [f"| model | group | segments | recurrence | side over other | {columns} |", "|" + "---|" * 11]
    for pair in compared(data):
        step = median(pair.steps)
        sizes = " | ".join("" if x is None else f"{x:.2f}" for x in (pair.saved, pair.peak, pair.needs))
        differs = f"{pair.loss:.1e}" + ("" if pair.norm is None else f", {pair.norm:.1e}")
        spread = f"{step:.2f} ({min(pair.steps):.2f} to {max(pair.steps):.2f}) | {1 / step:.2f}"
        flag = "" if pair.same else " NOT THE SAME WORK"
        out.append(f"| {pair.cell} | {pair.side} / {pair.other} | {spread} | {sizes} | {differs}{flag} |")
    return "\n".join(out)


def verdicts(data: dict[str, Any]) -> str:
    """A line for each target and piece of work; a rehearsal is too small to judge."""
    judged, out = data["settings"]["device"] == "cuda", []
    for pair in compared(data):
        for side, other, what, target in TARGETS:
            if (pair.side, pair.other) != (side, other):
                continue
            if (value := pair.value(what)) is None:
                continue
            at_least = what == "tokens/s"
            met = "met" if (value >= target if at_least else value <= target) else "missed"
            if not pair.same:
                met = "not the same work"
            bound = f"at {'least' if at_least else 'most'} {target:.2f}"
            said = met if judged else "not judged in a rehearsal"
            out.append(f"- {pair.cell}: {what} of {side} over {other} {value:.2f}, target {bound}: {said}")
    return "\n".join(out) or "- no target's sides were measured"


def report(data: dict[str, Any]) -> str:
    """All of it."""
    s, machine = data["settings"], data["machine"]
    head = (
        f"{machine.get('device')}, torch {machine.get('torch')}, bfloat16, one document in segments of "
        f"{s['segment_size']} tokens, {s['memory_tokens']} memory tokens, adapters of rank {s['rank']}, dropout "
        f"{s['dropout']:g}, cache of {s['budget']:g} models"
    )
    if s["device"] == "cpu":
        head += "; a rehearsal on a CPU, times of the processor"
    return "\n\n".join([head, sides_table(data), pairs_table(data), verdicts(data)])
