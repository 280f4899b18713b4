"""Metrics over scale: the same answers under several metrics, each with its interval and what it can resolve.

The resolution floor of n questions is 1/n: a rate below it is likely to be measured as 0, whatever the truth
(Schaeffer, Miranda and Koyejo, "Are Emergent Abilities of Large Language Models a Mirage?", arXiv 2304.15004, sec. 3:
with more test data small models are seen to be better than chance).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evals.emergence.family import METRICS, Family, Member, answers, value
from evals.rows import Row
from evals.stats import Interval, bootstrap, wilson


@dataclass(frozen=True)
class Point:
    """One metric of one model.

    Attributes:
        member: name of the model.
        parameters: its weights.
        value: mean over ``n`` answers, in the metric's own unit.
        interval: 95%: Wilson's for rates, else a bootstrap over documents.
        n: answers that have this metric.
    """

    member: str
    parameters: int
    value: float
    interval: Interval
    n: int

    @property
    def floor(self) -> float:
        """The resolution 1/n: the least that a rate over n answers can be but 0."""
        return 1 / self.n


def samples(rows: Sequence[Row], metric: str) -> tuple[list[float], list[str]]:
    """The values of a metric in ``rows`` and the digest of each one's document; rows without it are left out.

    A digest tells what is asked, so that the same question is known again in the rows of another model.
    """
    held = [(number, row.digest) for row in rows if (number := value(row, metric)) is not None]
    return [number for number, _ in held], [digest for _, digest in held]


def resampled(values: Sequence[float], digests: Sequence[str]) -> Interval:
    """95% bootstrap interval of the mean, whole documents drawn."""
    numbers = {digest: number for number, digest in enumerate(dict.fromkeys(digests))}
    return bootstrap(values, clusters=[numbers[digest] for digest in digests], resamples=2_000)


def point(member: Member, task: str, metric: str, length: int | None = None) -> Point | None:
    """One metric of one model; None if no answer has it.

    Raises:
        ValueError: an unknown metric, or several lengths and none named.
    """
    if metric not in METRICS:
        raise ValueError(f"metric: expected one of {', '.join(METRICS)}, got {metric!r}; name one")
    numbers, digests = samples(answers(member, task, length), metric)
    if not numbers:
        return None
    n, mean = len(numbers), sum(numbers) / len(numbers)
    alone = len(set(digests)) == n  # several questions of one document are no independent trials
    if METRICS[metric].rate and alone and all(number in (0, 1) for number in numbers):
        interval = wilson(round(sum(numbers)), n)
    else:
        interval = resampled(numbers, digests)
    return Point(member.name, member.parameters, mean, interval, n)


def curve(family: Family, task: str, metric: str, length: int | None = None) -> list[Point]:
    """One metric over the members of a family, parameters rising; members without it are left out."""
    points = [point(member, task, metric, length) for member in family]
    return sorted((p for p in points if p is not None), key=lambda p: p.parameters)


def curves(family: Family, task: str, length: int | None = None) -> dict[str, list[Point]]:
    """All metrics there are of one task, each over the members of a family, in the order of ``METRICS``."""
    found = {metric: curve(family, task, metric, length) for metric in METRICS}
    return {metric: points for metric, points in found.items() if points}
