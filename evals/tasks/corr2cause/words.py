"""What is said of a class, in the benchmark's own words, and how to read it back.

Sentences are those of the published data (github.com/causalNLP/corr2cause, ``code/data_verbalize.py``): every pair
correlates, or is independent; every further independence is said with what it is given. Hypotheses come in its first
wording, and in the one of its paraphrased test; variables are A, B, C … or, refactored, Z, Y, X ….
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from evals.tasks.corr2cause.graphs import pairs
from evals.tasks.corr2cause.relations import RELATIONS

PERTURB = ("none", "paraphrase", "refactor")
_DIRECT = "{} directly causes {}."
_THROUGH = ("{} causes something else which causes {}.", "{} is a cause for {}, but not a direct one.")
_COLLIDER = "There exists at least one collider (i.e., common effect) of {} and {}."
_CONFOUNDER = "There exists at least one confounder (i.e., common cause) of {} and {}."
_PARAPHRASED = (
    "{} directly affects {}.",
    "{} influences {} through some mediator(s).",
    "{} and {} together cause some other variable(s).",
    "Some variable(s) cause(s) both {} and {}.",
)
# Template to what it says of (first, second).
_SAYS = {
    _DIRECT: "parent",
    **dict.fromkeys(_THROUGH, "non-parent ancestor"),
    _COLLIDER: "has_collider",
    _CONFOUNDER: "has_confounder",
    **dict(zip(_PARAPHRASED, ("parent", "non-parent ancestor", "has_collider", "has_confounder"), strict=True)),
}
_TURNED = {"parent": "child", "non-parent ancestor": "non-child descendant"}
_OPENING = re.compile(r"Suppose there is a closed system of (\d+) variables, ([A-Z](?:, [A-Z])* and [A-Z])\.")
_STATEMENT = re.compile(
    r"(?:However, )?([A-Z]) (?:correlates with ([A-Z])|is independent of ([A-Z])|"
    r"and ([A-Z]) are independent given ([A-Z](?:(?:, [A-Z])* and [A-Z])?))\."
)


@dataclass(frozen=True)
class Premise:
    """What is known, in sentences.

    Attributes:
        variables: their names.
        correlations, independences: a sentence each.
    """

    variables: tuple[str, ...]
    correlations: tuple[str, ...]
    independences: tuple[str, ...]

    @property
    def opening(self) -> str:
        """The system and its variables."""
        return f"Suppose there is a closed system of {len(self.variables)} variables, {listed(self.variables)}."

    @property
    def parts(self) -> tuple[str, ...]:
        """All sentences, each of which stands by itself."""
        return (self.opening, *self.correlations, *self.independences)

    @property
    def text(self) -> str:
        """The whole, as published."""
        however = ("However,",) if self.correlations and self.independences else ()
        every = f"All the statistical relations among these {len(self.variables)} variables are as follows:"
        return " ".join((self.opening, every, *self.correlations, *however, *self.independences))


@dataclass(frozen=True)
class Hypothesis:
    """One of the six relations of a pair, in words.

    Attributes:
        text: the sentence.
        template: the sentence with {} for the two names.
        relation: of the earlier of the two variables to the later, as the published data has it.
        pair: the two names, the earlier first.
    """

    text: str
    template: str
    relation: str
    pair: tuple[str, str]


def letters(count: int, perturb: str = "none") -> tuple[str, ...]:
    """A, B, C …; Z, Y, X … where variables are refactored."""
    return tuple(chr(ord("Z") - i) if perturb == "refactor" else chr(ord("A") + i) for i in range(count))


def listed(names: Sequence[str]) -> str:
    """A; A and B; A, B and C."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def premise(independent: Sequence[int], names: Sequence[str]) -> Premise:
    """What is said of a class: ``independent`` has the conditioning sets of each pair (``graphs.independences``)."""
    correlated, apart = [], []
    for (i, j), sets in zip(pairs(len(names)), independent, strict=True):
        given = [[v for v in range(len(names)) if c >> v & 1] for c in range(1 << len(names)) if sets >> c & 1]
        if [] not in given:
            correlated.append(f"{names[i]} correlates with {names[j]}.")
        for known in sorted(given):
            if known:
                said = listed([names[v] for v in known])
                apart.append(f"{names[i]} and {names[j]} are independent given {said}.")
            else:
                apart.append(f"{names[i]} is independent of {names[j]}.")
    return Premise(tuple(names), tuple(correlated), tuple(apart))


def hypothesis(relation: str, pair: tuple[str, str], perturb: str = "none", variant: int = 0) -> Hypothesis:
    """A relation of ``pair``, the earlier variable first.

    Args:
        relation: one of ``RELATIONS``, of the first to the second.
        pair: two names.
        perturb: "paraphrase" for the other wording.
        variant: 0 or 1, where there are two ways to say it: of a mediated cause in the first wording two sentences, of
            a collider or confounder two orders of names. Published data draws between them.
    """
    first, second = pair
    turned = relation in ("child", "non-child descendant")
    kind = {"child": "parent", "non-child descendant": "non-parent ancestor"}.get(relation, relation)
    if perturb == "paraphrase":
        template = next(template for template in _PARAPHRASED if _SAYS[template] == kind)
    elif kind == "non-parent ancestor":
        template = _THROUGH[variant]
    else:
        template = {"parent": _DIRECT, "has_collider": _COLLIDER, "has_confounder": _CONFOUNDER}[kind]
    swap = turned or (kind.startswith("has_") and variant == 1)
    text = template.format(*((second, first) if swap else (first, second)))
    return Hypothesis(text, template, relation, (first, second))


def read_premise(text: str) -> tuple[tuple[str, ...], dict[frozenset[str], list[frozenset[str]]]]:
    """Names of the variables, and for each pair that is ever independent what it is given then.

    Raises ValueError where the text is not in the benchmark's words.
    """
    opening = _OPENING.match(text)
    names = tuple(re.findall("[A-Z]", opening[2])) if opening else ()
    if not opening or len(names) != int(opening[1]) or len(set(names)) != len(names):
        raise ValueError(f"premise: expected 'Suppose there is a closed system of 3 variables, …', got {text[:80]!r}")
    _, colon, rest = text[opening.end() :].partition("as follows:")
    apart: dict[frozenset[str], list[frozenset[str]]] = {}
    for sentence in re.findall(r"[^.]+\.?", rest):
        found = _STATEMENT.fullmatch(sentence.strip())
        said = set(re.findall(r"\b[A-Z]\b", sentence))
        if not colon or not found or not said <= set(names):
            raise ValueError(f"premise: expected correlations and independences of {listed(names)}, got {sentence!r}")
        if found[3] or found[4]:
            pair = frozenset((found[1], found[3] or found[4]))
            apart.setdefault(pair, []).append(frozenset(re.findall("[A-Z]", found[5] or "")))
    return names, apart


def read_hypothesis(text: str, names: Sequence[str]) -> Hypothesis:
    """What a sentence says, of the pair as ``names`` order it. Raises ValueError where it is none of the data's."""
    for template, relation in _SAYS.items():
        shape = re.escape(template).replace(r"\{\}", "([A-Z])")
        found = re.fullmatch(shape, text.strip())
        if found and found[1] in names and found[2] in names and found[1] != found[2]:
            first, second = found[1], found[2]
            if names.index(first) > names.index(second):
                first, second, relation = second, first, _TURNED.get(relation, relation)
            assert relation in RELATIONS
            return Hypothesis(text.strip(), template, relation, (first, second))
    raise ValueError(f"hypothesis: expected one of the benchmark's sentences about {listed(names)}, got {text!r}")
