"""Dotted overrides: every type, every error."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from rmt.errors import InputError
from rmt.training.settings import keys, override


@dataclass(frozen=True)
class Inner:
    size: int = 3
    depth: int | None = None
    names: tuple[str, ...] = ("a",)


@dataclass(frozen=True)
class Outer:
    rate: float = 0.5
    on: bool = False
    inner: Inner = field(default_factory=Inner)


def test_values_are_read_as_the_type_of_the_field() -> None:
    made = override(Outer(), ["rate=1e-3", "on=true", "inner.size=1_000", "inner.depth=4", "inner.names=x, y"])
    assert made == Outer(1e-3, True, Inner(1000, 4, ("x", "y")))


def test_none_is_a_value_where_the_field_allows_it() -> None:
    assert override(Outer(inner=Inner(depth=2)), ["inner.depth=none"]).inner.depth is None


def test_settings_given_are_not_changed() -> None:
    before = Outer()
    override(before, ["inner.size=9"])
    assert before == Outer()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("inner.sise=3", "inner.size"),
        ("rate.x=3", "unknown"),
        ("inner=3", "unknown"),
        ("rate", "KEY=VALUE"),
        ("inner.size=many", "expected int"),
        ("on=maybe", "expected bool"),
    ],
)
def test_a_wrong_change_is_one_clear_line(change: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        override(Outer(), [change])
    assert "\n" not in str(error.value)


def test_keys_lists_every_setting() -> None:
    assert list(keys(Outer())) == ["rate", "on", "inner.size", "inner.depth", "inner.names"]
