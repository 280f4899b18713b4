"""Tasks by name. A module is imported when one of its tasks is made, so the list costs nothing.

task = create("qa1")                        # by name
task = create("needle:needles=4,depths=11") # with settings
names("ruler")                              # a group
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from evals.tasks.base import Task

_BABILONG = tuple(f"qa{number}" for number in range(1, 21))
_NIAH = ("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3")
_RULER = (*_NIAH, "niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2")

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
}

GROUPS: dict[str, tuple[str, ...]] = {
    "babilong": _BABILONG[:5],
    "babilong-10": _BABILONG[:10],
    "ruler": _RULER,
    "ruler-offline": tuple(name for name in _RULER if not name.startswith("qa_")),
    "sequences": ("copy", "reverse", "associative"),
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

    Raises ValueError on an unknown name or setting, or a value that the task refuses.
    """
    name, _, options = spec.partition(":")
    if name not in TASKS:
        raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {name!r}; name one of these")
    where, fixed = TASKS[name]
    module, _, kind = where.partition(":")
    cls = getattr(import_module(module), kind)
    chosen = dict(_option(spec, part) for part in options.split(",") if part)
    known = [field for field in cls.__dataclass_fields__ if field not in fixed]
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise ValueError(f"{name}: expected settings out of {', '.join(known)}, got {', '.join(unknown)}; leave it out")
    task: Task = cls(**fixed, **chosen)
    return task


def _option(spec: str, part: str) -> tuple[str, Any]:
    key, equals, value = part.partition("=")
    if not equals:
        raise ValueError(f"{spec}: expected settings as name=value, got {part!r}; write it so")
    try:
        return key.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return key.strip(), value.strip()
