"""RULER's variable tracking (scripts/data/synthetic/variable_tracking.py of NVIDIA/RULER).

"VAR ABCDE = 12345", then "VAR FGHIJ = VAR ABCDE " and so on, in order, in the noise sentences; asked are all the
variables with the first one's value. In front stands the benchmark's one solved example, of at most 500 tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_uppercase
from typing import Any

import numpy as np

from evals.tasks.base import Source
from evals.tasks.ruler.layout import NOISE, VERSION, Plan, Repeated, RulerDocument, lay_out
from evals.tasks.ruler.tables import piece

HEADER = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
QUESTION = "Question: Find all variables that are assigned the value {query} in the text above."
PREFIX = (
    " Answer: According to the chain(s) of variable assignment in the text above, {num_v} variables are assigned the "
    "value {query}, they are: "
)
EXAMPLE_TOKENS = 500


@dataclass(frozen=True)
class VariableTracking:
    """The task ``vt``.

    Attributes:
        chains: how many there are, the first of which is asked for; 1 in the benchmark.
        hops: assignments from variable to variable in each; 4 in the benchmark.
    """

    chains: int = 1
    hops: int = 4

    def __post_init__(self) -> None:
        for name in ("chains", "hops"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ValueError(f"{name}: expected a whole number from 1, got {getattr(self, name)!r}; name one")

    @property
    def name(self) -> str:
        """As in the registry."""
        return "vt"

    @property
    def chance(self) -> float | None:
        """None: nobody guesses five letters."""
        return None

    def settings(self) -> Mapping[str, Any]:
        """Chains and hops."""
        return {"version": VERSION, "chains": self.chains, "hops": self.hops}

    def documents(self, source: Source, length: int, count: int, first: int = 0) -> Iterator[RulerDocument]:
        """``count`` documents of exactly ``length`` tokens. Raises ValueError where that is too short."""
        for index in range(first, first + count):
            yield self._document(Plan(self.name, self.settings(), source, length, index))

    def _document(self, plan: Plan) -> RulerDocument:
        rng, encode = plan.rng, plan.source.encode
        names, values, chains = _chains(rng, self.chains, self.hops, 5)
        before = "" if plan.source.bare else self._example(rng, plan, values) + HEADER
        header = piece(encode, before)
        lines = [[(line, piece(encode, line + "\n")) for line in chain] for chain in chains]
        room = plan.length - len(header) - sum(len(ids) for chain in lines for _, ids in chain)
        noise = Repeated(piece(encode, NOISE + "\n"), room)
        if noise.count < self.hops + 1:
            raise plan.short(plan.length - room + (self.hops + 1) * len(noise.unit))
        placed = []
        for number, chain in enumerate(lines):
            items = np.sort(rng.choice(noise.count, self.hops + 1, replace=False)).tolist()
            placed += [(item, rng.random(), number, *line) for item, line in zip(items, chain, strict=True)]
        placed.sort(key=lambda fact: fact[:2])
        inserts, ranges = lay_out(plan, header, noise, [(item, *line) for item, _, _, *line in placed])
        filled = {"query": values[0], "num_v": self.hops + 1}
        text = QUESTION.format(**filled)
        question = plan.ask(
            text.removeprefix("Question: ") if plan.source.bare else text,
            names[0],
            prefix=PREFIX.format(**filled),
            max_tokens=30,
            evidence=tuple(span for span, fact in zip(ranges, placed, strict=True) if fact[2] == 0),
        )
        return RulerDocument(plan.length, inserts, (question,), noise, 0, plan.index, plan.recipe())

    def _example(self, rng: np.random.Generator, plan: Plan, taken: list[str]) -> str:
        """The solved example, of shorter names: as much noise as 500 tokens, or half the document, hold."""
        names, values, chains = _chains(rng, self.chains, self.hops, 3)
        while set(values) & set(taken):
            names, values, chains = _chains(rng, self.chains, self.hops, 3)
        question, prefix = (text.format(query=values[0], num_v=self.hops + 1) for text in (QUESTION, PREFIX))
        depths = np.sort(rng.random((len(chains), self.hops + 1)))

        def text(noises: int) -> str:
            before: list[list[str]] = [[] for _ in range(noises)]
            for chain, depth in zip(chains, depths, strict=True):
                for line, at in zip(chain, (depth * noises).astype(int).tolist(), strict=True):
                    before[at].append(line + "\n")
            return HEADER + "".join("".join(lines) + NOISE + "\n" for lines in before) + question + prefix

        most = min(EXAMPLE_TOKENS, plan.length // 2)
        noises = self.hops + 1
        while len(plan.source.encode(text(noises + 1))) <= most:
            noises += 1
        return f"{text(noises)} {' '.join(names[0])}\n\n"


def _chains(
    rng: np.random.Generator, chains: int, hops: int, letters: int
) -> tuple[list[list[str]], list[str], list[list[str]]]:
    """Names and value of each chain, all different, and its lines as the benchmark writes them (a space at ends)."""
    names: dict[str, None] = {}
    while len(names) < chains * (hops + 1):
        names["".join(ascii_uppercase[n] for n in rng.integers(26, size=letters))] = None
    values = [str(value) for value in (10000 + rng.choice(89999, chains, replace=False)).tolist()]
    flat = list(names)
    groups = [flat[start : start + hops + 1] for start in range(0, len(flat), hops + 1)]
    lines = [
        [f"VAR {group[0]} = {value}", *(f"VAR {new} = VAR {old} " for old, new in pairwise(group))]
        for group, value in zip(groups, values, strict=True)
    ]
    return groups, values, lines
