"""Tasks by name. A module is imported when one of its tasks is made, so the list costs nothing.

task = create("qa1")                        # by name
task = create("needle:needles=4,depths=11") # with settings
names("ruler")                              # a group
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

from evals.tasks.base import Task

_BABILONG = tuple(f"qa{number}" for number in range(1, 21))
_NIAH = ("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3")
_RULER = (*_NIAH, "niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2")
_EMERGENCE = ("arithmetic", "modified_arithmetic", "unscramble", "modular_sums", "copying")

# Name to ("module:class", settings that make it this one).
TASKS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "paper": ("evals.tasks.paper:PaperTasks", {}),
    "copy": ("evals.tasks.sequences:Sequences", {"kind": "copy"}),
    "reverse": ("evals.tasks.sequences:Sequences", {"kind": "reverse"}),
    "associative": ("evals.tasks.sequences:Sequences", {"kind": "associative"}),
    "perplexity": ("evals.tasks.perplexity:Perplexity", {}),
    "needle": ("evals.tasks.needle:Needle", {}),
    **{name: ("evals.tasks.babilong:BABILong", {"number": n}) for n, name in enumerate(_BABILONG, start=1)},
    **{name: ("evals.tasks.ruler:Niah", {"name": name}) for name in (*_NIAH, "niah_multivalue", "niah_multiquery")},
    "vt": ("evals.tasks.ruler:VariableTracking", {}),
    "cwe": ("evals.tasks.ruler:CommonWords", {}),
    "fwe": ("evals.tasks.ruler:FrequentWords", {}),
    "qa_1": ("evals.tasks.ruler:QuestionAnswering", {"name": "qa_1"}),
    "qa_2": ("evals.tasks.ruler:QuestionAnswering", {"name": "qa_2"}),
    "humaneval": ("evals.tasks.humaneval.task:HumanEval", {}),
    "corr2cause": ("evals.tasks.corr2cause.task:Corr2Cause", {}),
    "multiplication": ("evals.tasks.compositional.multiplication:Multiplication", {}),
    "dp": ("evals.tasks.compositional.dynamic_programming:MaximumSum", {}),
    "puzzle": ("evals.tasks.compositional.puzzle:Puzzle", {}),
    "arithmetic": ("evals.tasks.emergence.tasks:Arithmetic", {}),
    "modified_arithmetic": ("evals.tasks.emergence.tasks:ModifiedArithmetic", {}),
    "unscramble": ("evals.tasks.emergence.tasks:Unscramble", {}),
    "modular_sums": ("evals.tasks.emergence.tasks:ModularSums", {}),
    "copying": ("evals.tasks.emergence.tasks:Copying", {}),
    "image_needle": ("evals.tasks.images.needle:ImageNeedle", {}),
    "image_tagged": ("evals.tasks.images.tagged:ImageTagged", {}),
    "image_counting": ("evals.tasks.images.counting:ImageCounting", {}),
    "image_unanswerable": ("evals.tasks.images.unanswerable:ImageUnanswerable", {}),
    "image_open": ("evals.tasks.images.open_questions:ImageOpen", {}),
}

_BABI = (
    "one supporting fact", "two supporting facts", "three supporting facts", "two-argument relations",
    "three-argument relations", "yes or no", "counting", "lists and sets", "simple negation", "indefinite knowledge",
    "basic coreference", "conjunction", "compound coreference", "time", "basic deduction", "basic induction",
    "positions", "size", "path finding", "motivations",
)  # fmt: skip

# What each hides and asks, for lists.
ABOUT: dict[str, str] = {
    "paper": "memorize, detect and reasoning of the RMT paper, in each document",
    "copy": "say a sequence twice (Bulatov et al. 2022)",
    "reverse": "say a sequence backwards (Bulatov et al. 2022)",
    "associative": "the value of a key (Bulatov et al. 2022)",
    "perplexity": "nats a token of the text behind the document; lower is better",
    "needle": "needles at a grid of depths",
    **{name: f"BABILong: {about}" for name, about in zip(_BABILONG, _BABI, strict=True)},
    "niah_single_1": "RULER: one number in repeated sentences",
    "niah_single_2": "RULER: one number in an essay",
    "niah_single_3": "RULER: one UUID in an essay",
    "niah_multikey_1": "RULER: one of four numbers in an essay",
    "niah_multikey_2": "RULER: one number in a text of needles",
    "niah_multikey_3": "RULER: one UUID in a text of needles",
    "niah_multivalue": "RULER: four numbers of one key",
    "niah_multiquery": "RULER: four keys at once",
    "vt": "RULER: which variables have a value, along a chain",
    "cwe": "RULER: the ten most common words",
    "fwe": "RULER: the three most frequent made-up words",
    "qa_1": "RULER: SQuAD, from a file of yours",
    "qa_2": "RULER: HotpotQA, from a file of yours",
    "humaneval": "HumanEval: write a function that its tests pass, from a file of yours",
    "corr2cause": "does a causal relation follow from all the correlations there are? (Jin et al. 2024)",
    "multiplication": "products of 1 to 5 digits, at once or step by step (Dziri et al. 2023)",
    "dp": "highest sum of numbers that are no neighbours (Dziri et al. 2023)",
    "puzzle": "Faith and Fate: a logic grid puzzle, from clues that leave one answer",
    "arithmetic": "few-shot sums and differences of numbers of 1, 2, 3 digits",
    "modified_arithmetic": "few-shot sums with one more, which only the examples tell (BIG-bench)",
    "unscramble": "few-shot words out of their scrambled letters",
    "modular_sums": "few-shot sums of several numbers modulo p",
    "copying": "few-shot copies of random strings, by length (the L of p^L)",
    "image_needle": "the digit in a framed image, at a grid of depths (for models that see)",
    "image_tagged": "2, 4 and 8 images, asked for by a frame's colour or a name (for models that see)",
    "image_counting": "how many of a stream of images showed a digit or a colour (for models that see)",
    "image_unanswerable": "images that came and images that never did (for models that see)",
    "image_open": "open questions about images, from a file of yours (for models that see)",
}

GROUPS: dict[str, tuple[str, ...]] = {
    "babilong": _BABILONG[:5],
    "babilong-10": _BABILONG[:10],
    "ruler": _RULER,
    "ruler-offline": tuple(name for name in _RULER if not name.startswith("qa_")),
    "sequences": ("copy", "reverse", "associative"),
    "emergence": _EMERGENCE,
    "images": ("image_needle", "image_tagged", "image_counting", "image_unanswerable"),
}


def names(group: str) -> tuple[str, ...]:
    """The tasks of a group, or the one task of this name (settings behind a colon stay with it).

    Raises ValueError on an unknown name.
    """
    name, _, options = group.partition(":")
    if name in GROUPS:
        return tuple(f"{task}:{options}" if options else task for task in GROUPS[name])
    if name not in TASKS:
        raise ValueError(f"task: expected one of {', '.join((*GROUPS, *TASKS))}, got {name!r}; name one of these")
    return (group,)


def create(spec: str) -> Task:
    """A task by its name, with settings behind a colon: ``needle:needles=4,depths=11``.

    What has no = of its own belongs to the setting before it: ``multiplication:sizes=2x2,3x3,shots=4``.

    Raises ValueError on an unknown name or setting, a value of another type, or one that the task refuses.
    """
    name, _, options = spec.partition(":")
    if name not in TASKS:
        raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {name!r}; name one of these")
    cls, _ = _found(name)
    chosen = dict(_option(spec, part) for part in re.split(r",(?=[^,=]*=)", options) if part)
    known = options_of(name)
    if unknown := sorted(set(chosen) - set(known)):
        among = f"settings out of {', '.join(known)}" if known else "no settings"
        raise ValueError(f"{name}: expected {among}, got {', '.join(unknown)}; leave it out")
    types = {field.name: str(field.type) for field in fields(cls)}
    return make(name, **{key: _value(spec, key, text, types[key]) for key, text in chosen.items()})


def make(name: str, **settings: Any) -> Task:
    """A task of the registry with settings of their own types. Raises ValueError on one that the task refuses."""
    cls, fixed = _found(name)
    task: Task = cls(**fixed, **settings)
    return task


def options_of(name: str) -> tuple[str, ...]:
    """The settings that a task may be given."""
    cls, fixed = _found(name)
    return tuple(field.name for field in fields(cls) if field.name not in (*fixed, "name"))


def _found(name: str) -> tuple[Any, Mapping[str, Any]]:
    """The class of a task, and the settings that make it this one."""
    where, fixed = TASKS[name]
    module, _, kind = where.partition(":")
    return getattr(import_module(module), kind), fixed


def _option(spec: str, part: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if not equals:
        raise ValueError(f"{spec}: expected settings as name=value, got {part!r}; write it so")
    return key.strip(), value.strip()


def _value(spec: str, key: str, text: str, kind: str) -> Any:
    """What a setting's text says, as the type that its field states ("int | None")."""
    kinds = kind.split(" | ")
    try:
        value = ast.literal_eval(text.capitalize() if text.lower() in ("true", "false", "none") else text)
    except (ValueError, SyntaxError):
        value = text
    if "str" in kinds:
        return value if isinstance(value, str) else text  # a folder may be called 2024
    found = type(value).__name__.replace("NoneType", "None")
    if found not in kinds and not (found == "int" and "float" in kinds):
        said = {"int": "a whole number", "float": "a number", "bool": "true or false", "None": "none"}
        wanted = " or ".join(said[name] for name in kinds)
        raise ValueError(f"{spec}: expected {wanted} for {key}, got {text!r}; write {key}=VALUE so")
    return value
