"""Values that may pass between the untrusted program and its checker: literals, by exact type.

What ``encode`` accepts is None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset and dict of
exactly these types, at most ``DEPTH`` deep. A subclass is refused, so its ``__eq__`` never reaches the checker;
``Counter``, ``defaultdict`` and ``OrderedDict`` go as plain dicts, since a plain dict equals them. ``decode`` builds
new objects from bytes that may be hostile: it never runs code and raises ``ValueError`` for anything malformed.

A value is one tag byte and its body; sizes are 4 bytes little endian::

    N T F           None, True, False          i size bytes    int, two's complement, little endian
    f 8 bytes       float                      c 16 bytes      complex
    s size bytes    str in UTF-8, lone surrogates kept        b size bytes    bytes
    l t e z count   list, tuple, set, frozenset               d count         dict, key and value in turn
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

DEPTH = 100  # nested deeper than any test's values, shallower than the recursion limit
_SIZE = struct.Struct("<I")
_FLOAT = struct.Struct("<d")
_COMPLEX = struct.Struct("<dd")
_SEQUENCES: dict[type, bytes] = {list: b"l", tuple: b"t", set: b"e", frozenset: b"z"}
_BUILDERS: dict[int, Callable[[list[Any]], Any]] = {108: list, 116: tuple, 101: set, 122: frozenset}
_DICTS = (dict, Counter, defaultdict, OrderedDict)


def encode(value: object, limit: int) -> bytes:
    """``value`` as bytes.

    Raises:
        TypeError: for a value that is no literal, or of a subclass.
        ValueError: for one nested deeper than ``DEPTH`` or longer than ``limit`` bytes.
    """
    out = bytearray()
    _encode(value, out, limit, DEPTH)
    return bytes(out)


def _sized(out: bytearray, tag: bytes, body: bytes) -> None:
    out += tag
    out += _SIZE.pack(len(body))
    out += body


def _encode(value: Any, out: bytearray, limit: int, depth: int) -> None:
    kind = type(value)
    if len(out) > limit:
        raise ValueError(f"expected a value of at most {limit} bytes")
    if depth == 0:
        raise ValueError(f"expected a value nested at most {DEPTH} deep")
    if value is None:
        out += b"N"
    elif kind is bool:
        out += b"T" if value else b"F"
    elif kind is int:
        _sized(out, b"i", value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))
    elif kind is float:
        out += b"f" + _FLOAT.pack(value)
    elif kind is complex:
        out += b"c" + _COMPLEX.pack(value.real, value.imag)
    elif kind is str:
        _sized(out, b"s", value.encode("utf-8", "surrogatepass"))
    elif kind is bytes:
        _sized(out, b"b", value)
    elif kind in _SEQUENCES:
        out += _SEQUENCES[kind] + _SIZE.pack(len(value))
        for item in value:
            _encode(item, out, limit, depth - 1)
    elif kind in _DICTS:
        out += b"d" + _SIZE.pack(len(value))
        for key, item in value.items():
            _encode(key, out, limit, depth - 1)
            _encode(item, out, limit, depth - 1)
    else:
        raise TypeError(f"expected a literal, got {kind.__name__}")
    if len(out) > limit:
        raise ValueError(f"expected a value of at most {limit} bytes")


def decode(data: bytes) -> Any:
    """The value that ``encode`` made ``data`` of, in new objects.

    Raises:
        ValueError: where the bytes are not exactly one value.
    """
    try:
        value, end = _decode(data, 0, DEPTH)
    except (struct.error, IndexError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"expected one encoded literal, got malformed bytes ({type(error).__name__})") from None
    if end != len(data):
        raise ValueError("expected one encoded literal, got bytes behind it")
    return value


def _body(data: bytes, at: int) -> tuple[bytes, int]:
    (size,) = _SIZE.unpack_from(data, at)
    end = at + 4 + size
    if end > len(data):
        raise ValueError("expected one encoded literal, got a part of one")
    return data[at + 4 : end], end


def _decode(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    tag = data[at]
    at += 1
    if depth == 0:
        raise ValueError(f"expected a value nested at most {DEPTH} deep")
    if tag in b"NTF":
        return {78: None, 84: True, 70: False}[tag], at
    if tag == 102:
        return _FLOAT.unpack_from(data, at)[0], at + 8
    if tag == 99:
        return complex(*_COMPLEX.unpack_from(data, at)), at + 16
    if tag in b"isb":
        body, at = _body(data, at)
        if tag == 105:
            return int.from_bytes(body, "little", signed=True), at
        return (body if tag == 98 else body.decode("utf-8", "surrogatepass")), at
    (count,) = _SIZE.unpack_from(data, at)
    at += 4
    if tag == 100:
        table: dict[Any, Any] = {}
        for _ in range(count):
            key, at = _decode(data, at, depth - 1)
            table[key], at = _decode(data, at, depth - 1)
        return table, at
    items: list[Any] = []
    if tag not in _BUILDERS:
        raise ValueError("expected one encoded literal, got an unknown tag")
    for _ in range(count):  # every item takes a byte at least, so a false count runs into the end of the data
        item, at = _decode(data, at, depth - 1)
        items.append(item)
    return _BUILDERS[tag](items), at
