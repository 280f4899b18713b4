"""Perplexity over length: does the memory of a text help with what comes next in it?

A document is a stretch of the background, the question its next tokens: how many nats each of them costs behind the
memory of the document, behind no memory (zeroed) and behind the memory of another stretch, in which they are not
(swapped). ``gain`` is the difference: what the memory is worth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from evals.memory_eval import MEMORY
from evals.rows import Row
from evals.stats import Interval, bootstrap
from evals.tasks.base import Question, Source
from evals.tasks.documents import Document
from evals.tasks.haystack import check

_TURN = (5**0.5 - 1) / 2  # steps of the golden ratio keep starts apart, however many there are


@dataclass(frozen=True)
class Stretch(Document):
    """A stretch of the background; ``scored``: where in the background what is asked begins and ends."""

    scored: tuple[int, int] = (0, 0)

    def gives_away(self, other: Any) -> bool:
        """Whether it holds some of what ``other`` is asked, so that its memory is no control of it."""
        begin, end = other.scored if isinstance(other, Stretch) else (0, 0)
        return self.start < end and begin < self.start + self.length


@dataclass(frozen=True)
class Perplexity:
    """Nats a token of the text behind a document, under its memory. Lower is better.

    A cell's rate is the mean of nats a token, not a share; its interval is a bootstrap over documents, and
    exp(rate) the perplexity.

    Attributes:
        span: tokens to score.
        lead: tokens between the document and them, as a prompt: without them the first would stand behind nothing in
            the zeroed control, and cost what any word costs.
        name: as in the registry.
    """

    lower_is_better: ClassVar[bool] = True
    chance: ClassVar[float | None] = None

    span: int = 128
    lead: int = 16
    name: str = "perplexity"

    def __post_init__(self) -> None:
        if self.lead < 1:
            raise ValueError(
                f"lead: expected at least 1 token before what is scored, got {self.lead}; 16 is a good number"
            )
        if self.span < 1:
            raise ValueError(f"span: expected at least 1 token to score, got {self.span}; 128 is a good number")

    def settings(self) -> Mapping[str, Any]:
        """The fields."""
        return asdict(self)

    def documents(self, source: Source, length: int, count: int, first: int = 0) -> Iterator[Document]:
        """``count`` documents from number ``first`` on, each from a start of its own, as far apart as the text allows.

        Documents overlap where the background is shorter than all of them together; what is scored rarely does.
        Raises ValueError where the background is shorter than ``length + lead + span``, or has too few starts.
        """
        check(source, length, self.lead + self.span)
        room = len(source.background) - length - self.lead - self.span + 1
        turn = float(np.random.default_rng((source.seed, length)).random())
        starts = [int((turn + index * _TURN) % 1 * room) for index in range(first + count)]
        if len(set(starts)) < len(starts):
            raise ValueError(
                f"background: expected more than {len(source.background):,} tokens for {len(starts)} different "
                f"documents of {length:,}, got too few starts; give more text or ask for fewer"
            )
        return (self._document(source, length, index, starts[index]) for index in range(first, first + count))

    def _document(self, source: Source, length: int, index: int, start: int) -> Document:
        behind = start + length + self.lead
        question = Question(
            self.name,
            f"text at {start}",
            np.asarray(source.background[start + length : behind], dtype=np.int64),
            (f"text at {start}",),  # no answer: another document's name, so that its memory may be swapped in
            scorer="value",
            method="nats",
            continuation=np.asarray(source.background[behind : behind + self.span], dtype=np.int64),
        )
        return Stretch(
            length, (), (question,), source.background, start, index, scored=(start + length, behind + self.span)
        )


@dataclass(frozen=True)
class Gain:
    """What a memory is worth at one length: nats a token without it less those with it, paired by document.

    Attributes:
        task, length, control: of the rows; ``control`` is what the memory is compared with.
        mean: nats a token; above 0 the memory helps.
        interval: 95%, a bootstrap over documents.
        n: documents.
        memory, without: mean nats a token with the memory, and with the control, of these documents.
    """

    task: str
    length: int
    control: str
    mean: float
    interval: Interval
    n: int
    memory: float
    without: float

    def __str__(self) -> str:
        """Nats a token: ``0.120 [0.080, 0.160] nats a token n=32 (2.310 with memory, 2.430 zeroed)``."""
        low, high = self.interval
        means = f"({self.memory:.3f} with memory, {self.without:.3f} {self.control})"
        return f"{self.mean:.3f} [{low:.3f}, {high:.3f}] nats a token n={self.n} {means}"


def gain(rows: Iterable[Row], control: str = "zeroed") -> list[Gain]:
    """For each task and length the paired difference ``control`` - memory in nats a token, with its interval.

    Takes rows of the scorer "value" alone. A document whose memory or control is missing is left out; several
    questions of one document are one mean. Tasks in order of appearance, lengths rising.
    """
    groups: dict[tuple[str, int], dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        if row.scorer == "value" and row.control in (MEMORY, control):
            found = groups.setdefault((row.task, row.length), {}).setdefault(row.digest, {})
            found.setdefault(row.control, []).append(row.value)
    tasks = list(dict.fromkeys(task for task, _ in groups))
    gains = []
    for task, length in sorted(groups, key=lambda key: (tasks.index(key[0]), key[1])):
        both = [found for found in groups[task, length].values() if len(found) == 2]
        if not both:
            continue
        memory = np.array([np.mean(found[MEMORY]) for found in both])
        without = np.array([np.mean(found[control]) for found in both])
        paired = without - memory
        interval = bootstrap(paired.tolist())
        means = float(paired.mean()), interval, len(both), float(memory.mean()), float(without.mean())
        gains.append(Gain(task, length, control, *means))
    return gains
