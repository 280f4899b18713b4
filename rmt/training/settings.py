"""Settings as dataclasses, changed by dotted overrides such as ``model.segment_size=64``. Knows no setting by name."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import types
from collections.abc import Iterable
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from rmt.errors import InputError

T = TypeVar("T")


def override(settings: T, changes: Iterable[str]) -> T:
    """A copy of a (nested) dataclass with ``key.subkey=value`` changes applied.

    Values are read as the field's type: numbers, booleans, strings, None, and comma-separated tuples. A key that is a
    group with a field ``name`` is short for that: ``optim=lomo``.

    Raises:
        InputError: an unknown key (the nearest known one is named), a value of the wrong type, or no ``=``.
    """
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise InputError(f"expected KEY=VALUE, got {change!r}; for example optim.lr=1e-3")
        settings = _set(settings, key.strip().split("."), value.strip(), key.strip())
    return settings


def keys(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Every dotted key of a nested dataclass, with its value."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            found |= keys(value, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = value
    return found


def _set(settings: T, path: list[str], value: str, whole: str) -> T:
    name, *rest = path
    fields = {f.name: f for f in dataclasses.fields(settings)}  # type: ignore[arg-type]
    known = fields.get(name)
    if known is not None and not rest and "name" in keys_of(getattr(settings, name)):
        rest = ["name"]
    if known is None or bool(rest) != dataclasses.is_dataclass(getattr(settings, name)):
        candidates = list(keys(settings))
        near = difflib.get_close_matches(".".join(path), candidates, 1, 0.3) or candidates[:1]
        prefix = whole[: len(whole) - len(".".join(path))]
        raise InputError(f"{whole}: expected a known setting, got an unknown one; did you mean {prefix}{near[0]}?")
    if rest:
        new = _set(getattr(settings, name), rest, value, whole)
    else:
        new = _parse(value, get_type_hints(type(settings))[name], whole)
    return dataclasses.replace(settings, **{name: new})  # type: ignore[type-var]


def keys_of(group: Any) -> list[str]:
    """Names of a dataclass's fields; none of anything else."""
    return [f.name for f in dataclasses.fields(group)] if dataclasses.is_dataclass(group) else []


def _parse(value: str, kind: Any, whole: str) -> Any:
    options = [kind]
    if get_origin(kind) in (Union, types.UnionType):
        options = list(get_args(kind))
    if type(None) in options and value.lower() in ("none", "null"):
        return None
    for option in options:
        try:
            if option is str:
                return value
            if option is bool and value.lower() in ("true", "false"):
                return value.lower() == "true"
            if option is int:
                return int(value.replace("_", ""))
            if option is float:
                return float(value)
            if get_origin(option) is tuple:
                element = get_args(option)[0]
                return tuple(_parse(v.strip(), element, whole) for v in value.split(",") if v.strip())
            if option not in (bool, type(None)):
                return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            continue
    names = " or ".join(getattr(o, "__name__", str(o)) for o in options)
    raise InputError(f"{whole}: expected {names}, got {value!r}; give a value of that kind")
