"""What passes between candidate and checker: every literal, exactly, and nothing else."""

from __future__ import annotations

import collections
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.sandbox.inside.literals import DEPTH, decode, encode

LIMIT = 1 << 20
ATOMS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text() | st.binary()
)  # fmt: skip
KEYS = st.integers() | st.text() | st.tuples(st.integers(), st.text()) | st.frozensets(st.integers())
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner) | st.sets(KEYS) | st.frozensets(KEYS)
    ),
    max_leaves=20,
)


def shown(value: object) -> str:
    """A value as text in which NaN equals itself, types differ, and sets have an order."""
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__} {sorted(map(shown, value))}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} {list(map(shown, value))}"
    if isinstance(value, dict):
        return f"dict {[(shown(k), shown(v)) for k, v in value.items()]}"
    return repr(value)


@given(VALUES)
def test_round_trip(value: object) -> None:
    back = decode(encode(value, LIMIT))
    assert shown(back) == shown(value)


def test_numbers_that_other_formats_lose() -> None:
    assert math.isnan(decode(encode(math.nan, LIMIT)))
    assert decode(encode([math.inf, -math.inf, -0.0], LIMIT)) == [math.inf, -math.inf, 0.0]
    assert math.copysign(1, decode(encode(-0.0, LIMIT))) == -1
    assert decode(encode(10**5000, LIMIT)) == 10**5000
    assert decode(encode("\ud800", LIMIT)) == "\ud800"
    assert [decode(encode(n, LIMIT)) for n in (-129, -128, 127, 128, 255, 256)] == [-129, -128, 127, 128, 255, 256]


@pytest.mark.parametrize("kind", [int, float, str, bytes, list, tuple, set, frozenset, dict])
def test_subclasses_are_refused(kind: type) -> None:
    liar = type("Liar", (kind,), {"__eq__": lambda *_: True, "__hash__": lambda *_: 0})
    for value in (liar(), [liar()], {"a": (liar(),)}):
        with pytest.raises(TypeError, match="expected a literal, got Liar"):
            encode(value, LIMIT)
    assert encode(kind(), LIMIT)


def test_dicts_of_the_library_go_as_plain_ones() -> None:
    for value in (
        collections.Counter("aab"),
        collections.defaultdict(int, a=2, b=1),
        collections.OrderedDict(a=2, b=1),
    ):
        back = decode(encode(value, LIMIT))
        assert back == {"a": 2, "b": 1}
        assert type(back) is dict


def test_size_and_depth_are_bounded() -> None:
    value: list[object] = []
    for _ in range(DEPTH - 1):
        value = [value]
    assert decode(encode(value, LIMIT)) == value
    for too_deep in ([value], value.append(value) or value):
        with pytest.raises(ValueError, match="deep"):
            encode(too_deep, LIMIT)
    with pytest.raises(ValueError, match="at most 100 bytes"):
        encode("x" * 101, 100)


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"Tx", b"i", b"i\x05\0\0\0a", b"l\xff\xff\xff\xff", b"d\x01\0\0\0l\0\0\0\0T", b"e\x01\0\0\0d\0\0\0\0",
     b"s\x01\0\0\0\xff", b"f\0", b"l\x01\0\0\0" * 200, b"cos\nsystem\n", b"\x80\x04."],
)  # fmt: skip
def test_malformed_bytes_are_value_errors(data: bytes) -> None:
    with pytest.raises(ValueError, match="expected"):
        decode(data)


def test_random_bytes_never_do_anything_else() -> None:
    draw = random.Random(0)
    tags = b"NTFifcsbltezd\0\1\2"
    for _ in range(3000):
        data = bytes(draw.choice(tags) for _ in range(draw.randrange(1, 30)))
        try:
            value = decode(data)
        except ValueError:
            continue
        assert encode(value, LIMIT)
