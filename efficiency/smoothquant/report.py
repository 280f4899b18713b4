"""What quantising did to a model, layer by layer, as a value that prints itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from efficiency.smoothquant.statistics import Statistics


@dataclass(frozen=True)
class GroupReport:
    """One group of layers with a common input.

    Attributes:
        name: of its first layer.
        kind: ``norm``, ``linear`` or ``input``, see :mod:`efficiency.smoothquant.graph`.
        alpha: None where it was not smoothed.
        least, most: of its scales.
        loss, plain: where alpha was searched: squared error of outputs over their square, with and without smoothing.
        why: where it was not smoothed: the reason.
    """

    name: str
    kind: str
    alpha: float | None
    least: float = 1.0
    most: float = 1.0
    loss: float | None = None
    plain: float | None = None
    why: str = ""


@dataclass
class SmoothReport:
    """What was done.

    Attributes:
        activations: of the 8-bit layers.
        memory: ``int8``, or ``float`` where rows of memory run in floating point.
        groups: smoothed or not.
        quantised: names of layers that are now 8-bit.
        left: names of linear layers that stayed, and why.
        multiplied: names of layers that multiply their input once more at run time.
        bytes_before, bytes_after: of the quantised layers' parameters.
        statistics: that it was done with, to save and use again; None where none were needed.
    """

    activations: str
    memory: str
    groups: list[GroupReport] = field(default_factory=list)
    quantised: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    multiplied: list[str] = field(default_factory=list)
    bytes_before: int = 0
    bytes_after: int = 0
    statistics: Statistics | None = None

    def __str__(self) -> str:
        smoothed = sum(group.alpha is not None for group in self.groups)
        lines = [
            f"{len(self.quantised)} linear layers in int8 (activations: {self.activations}, memory: {self.memory}), "
            f"{self.bytes_before / 1e6:.1f} to {self.bytes_after / 1e6:.1f} MB; {smoothed} of {len(self.groups)} "
            f"groups smoothed, {len(self.multiplied)} layers multiply their input; {len(self.left)} layers left alone",
            f"{'group':<48}{'carried by':<12}{'alpha':>6}{'scales':>20}{'loss':>10}{'plain':>10}",
        ]
        for group in self.groups:
            if group.alpha is None:
                lines.append(f"{group.name:<48}{'-':<12}{'-':>6}  {group.why}")
                continue
            losses = f"{group.loss:>10.1e}{group.plain:>10.1e}" if group.loss is not None else f"{'-':>10}{'-':>10}"
            scales = f"{group.least:.3g} to {group.most:.3g}"
            lines.append(f"{group.name:<48}{group.kind:<12}{group.alpha:>6.2f}{scales:>20}{losses}")
        return "\n".join(lines)
