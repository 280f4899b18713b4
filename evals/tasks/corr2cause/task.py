"""Corr2Cause as a task: a premise of correlations and independences, a causal hypothesis, yes or no.

Jin et al., "Can Large Language Models Infer Causation from Correlation?" (ICLR 2024, arXiv 2306.05836). Problems are
made here with right labels, or with those of the published data, or read from its files. Behind background the
sentences of the premise are spread over the document, in their order. No problem comes twice.

Made problems ask each class's six relations of each pair of variables once, in the words of the data. In "correct"
their variables are renamed at random, once a class: as published, causes always come before effects in the alphabet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Int

from evals.tasks.base import Question, Source
from evals.tasks.corr2cause.classes import FEWEST, MOST, SEMANTICS, classes
from evals.tasks.corr2cause.files import Asked, load, load_hub
from evals.tasks.corr2cause.graphs import independences, pairs, relabelled
from evals.tasks.corr2cause.order import order
from evals.tasks.corr2cause.relations import RELATIONS
from evals.tasks.corr2cause.scoring import CHOICES
from evals.tasks.corr2cause.words import PERTURB, hypothesis, letters, premise
from evals.tasks.documents import Document
from evals.tasks.problems import Problem, documents

VERSION = 2
METHODS = ("choose", "generate")
# The benchmark's prompt (code/run_model.py, prompt_tmpl_direct); a hypothesis stands in it without its full stop.
PROMPT = 'Question: {premise}\nCan we deduct the following: {hypothesis}? Just answer "Yes" or "No."\n\nAnswer:'
ASK = (
    "\n\nQuestion: All the statistical relations among the variables of a closed system are stated in the text above, "
    'one at a time.\nCan we deduct the following: {hypothesis}? Just answer "Yes" or "No."\n\nAnswer:'
)
_TURNED = (2, 3, 0, 1, 4, 5)  # of the six relations, what it is seen from the other variable
# As models are finetuned on it (the files' input).
BARE, BARE_ASK = "Premise: {premise}\nHypothesis: {hypothesis}", "\nHypothesis: {hypothesis}"


@dataclass(frozen=True)
class Corr2Cause:
    """Does a causal relation follow from all the correlations there are?

    Attributes:
        variables: how many, as "4" or "2-6"; sizes come in turn, until they run out.
        semantics: "correct", or "released" for the published data's labels and premises with its errors; of problems
            that are made.
        perturb: "none", "paraphrase" (other words of the hypothesis) or "refactor" (variables are Z, Y, X …).
        files: a published file (.csv or .jsonl), or a folder of them.
        hub: a dataset of the hub, such as causalnlp/corr2cause.
        balanced: entailed and not entailed in turn, as many of each for every size and relation, so that these do not
            tell the label; else at the natural rate.
        method: "choose" (the likelier of Yes and No) or "generate".
    """

    variables: str = "2-6"
    semantics: str = "correct"
    perturb: str = "none"
    files: str = ""
    hub: str = ""
    balanced: bool = False
    method: str = "choose"

    def __post_init__(self) -> None:
        for name, allowed in (("semantics", SEMANTICS), ("perturb", PERTURB), ("method", METHODS)):
            if getattr(self, name) not in allowed:
                said = ", ".join(allowed)
                raise ValueError(f"{name}: expected one of {said}, got {getattr(self, name)!r}; name one of these")
        if self.files and self.hub:
            raise ValueError(f"files: expected files or hub, got both {self.files!r} and {self.hub!r}; leave one out")
        assert self._sizes

    @property
    def name(self) -> str:
        """As in the registry."""
        return "corr2cause"

    @property
    def chance(self) -> float | None:
        """Accuracy of a coin where labels are balanced. Else none: who always says no is right most of the time."""
        return 0.5 if self.balanced else None

    def settings(self) -> Mapping[str, Any]:
        """All fields, with a digest in place of the file. Raises ValueError where there is no such file."""
        chosen: dict[str, Any] = {"version": VERSION, **asdict(self)}
        if self.files:
            chosen["files"] = load(self.files, self.perturb)[1]
        elif self.hub:
            chosen["hub"] = [self.hub, load_hub(self.hub, self.perturb)[1]]
        return chosen

    def documents(self, source: Source, length: int, count: int, first: int = 0) -> Iterator[Document]:
        """Problems ``first`` and on, alone (length 0) or spread over documents of exactly ``length`` tokens.

        Raises ValueError for a length too small for the premise, a background too short, or more problems than there
        are.
        """
        given = self._given()
        problems = _made(self._sizes, self.semantics, source.seed) if given is None else _known(given)
        sizes, labels, kinds = problems
        own = np.flatnonzero(np.isin(sizes, self._sizes))
        rows = own[order(sizes[own], labels[own], kinds[own], (source.seed, *self.name.encode()), self.balanced)]
        if first + count > len(rows):
            raise ValueError(
                f"corr2cause: expected at most {len(rows):,} problems of variables={self.variables}"
                f"{', balanced' if self.balanced else ''}, got {first + count:,}; ask for fewer, or more variables"
            )

        def make(index: int) -> Problem:
            number = int(rows[index])
            asked = given[number] if given is not None else self._make(number, source.seed)
            return self._problem(asked, source.bare)

        return documents(source, length, count, first, self.name, make)

    @property
    def _sizes(self) -> tuple[int, ...]:
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", self.variables.strip())
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not FEWEST <= low <= high <= MOST:
            raise ValueError(f"variables: expected such as 4 or {FEWEST}-{MOST}, got {self.variables!r}; write it so")
        return tuple(range(low, high + 1))

    def _given(self) -> tuple[Asked, ...] | None:
        if self.files:
            return load(self.files, self.perturb)[0]
        return load_hub(self.hub, self.perturb)[0] if self.hub else None

    def _make(self, number: int, seed: int) -> Asked:
        """A problem by its number among all of its sizes: size, class, pair and relation, the last the fastest."""
        for size in self._sizes:
            table = classes(size, self.semantics)
            own = len(pairs(size)) * len(RELATIONS)
            if number < len(table) * own:
                break
            number -= len(table) * own
        place, rest = divmod(number, own)
        (i, j), kind = pairs(size)[rest // len(RELATIONS)], rest % len(RELATIONS)
        found, names = table[place], letters(size, self.perturb)
        independent, entailed = found.independent, bool(found.entailed[i][j] >> kind & 1)
        if self.semantics == "correct":
            renamed = _renamed(seed, size, place)
            independent = independences(relabelled(found.dag, [int(v) for v in renamed]))
            if renamed[i] > renamed[j]:  # the same is asked of the earlier one
                i, j, kind = j, i, _TURNED[kind]
            i, j = int(renamed[i]), int(renamed[j])
        variant = int(np.random.default_rng((seed, size, place, rest)).integers(2))
        said = hypothesis(RELATIONS[kind], (names[i], names[j]), self.perturb, variant)
        return Asked(premise(independent, names), said, entailed)

    def _problem(self, asked: Asked, bare: bool) -> Problem:
        known, said = asked.premise, asked.hypothesis
        statement = said.text if bare else said.text.strip().rstrip(".")
        prompt = (BARE if bare else PROMPT).format(premise=known.text, hypothesis=statement)
        about = {
            "variables": len(known.variables),
            "relation": said.relation,
            "template": said.template,
            "entailed": asked.entailed,
        }
        question = Question(
            self.name,
            said.text,
            np.zeros(0, dtype=np.int64),
            (CHOICES[0 if asked.entailed else 1],),
            scorer="corr2cause",
            method=self.method,
            choices=CHOICES,
            max_tokens=4,
            about=about,
        )
        return Problem(known.parts, prompt, (BARE_ASK if bare else ASK).format(hypothesis=statement), (question,))


def _renamed(seed: int, size: int, place: int) -> Int[np.ndarray, " size"]:
    """The new number of each variable of a class."""
    return np.random.default_rng((seed, size, place)).permutation(size)


@lru_cache(maxsize=8)
def _made(sizes: tuple[int, ...], semantics: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of variables, label and relation (as it is asked) of all problems, in the order of their numbers."""
    counts, labels, kinds = [], [], []
    for size in sizes:
        found = classes(size, semantics)
        table = np.array([one.entailed for one in found])
        i, j = np.array(pairs(size)).T
        held = (table[:, i, j][..., None] >> np.arange(len(RELATIONS))) & 1 > 0
        turned = np.zeros((len(found), len(i), 1), dtype=bool)
        if semantics == "correct":
            names = np.array([_renamed(seed, size, place) for place in range(len(found))])
            turned = (names[:, i] > names[:, j])[..., None]
        kinds.append(np.where(turned, _TURNED, np.arange(len(RELATIONS))).reshape(-1))
        labels.append(held.reshape(-1))
        counts.append(np.full(held.size, size))
    return np.concatenate(counts), np.concatenate(labels), np.concatenate(kinds)


def _known(given: tuple[Asked, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sizes = np.array([len(asked.premise.variables) for asked in given])
    kinds = np.array([RELATIONS.index(asked.hypothesis.relation) for asked in given])
    return sizes, np.array([asked.entailed for asked in given]), kinds
