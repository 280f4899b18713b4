"""What a model wrote of a puzzle, read back: the cells of its reasoning, and its table. Tolerant of words around them.

Clues that it quotes in <> say nothing of its own, nor do cells behind an "if". Of two houses said of one item, and
of several tables, the later one counts: a correction.
"""

from __future__ import annotations

import re
from bisect import bisect
from itertools import accumulate

from evals.tasks.compositional.puzzle.clues import HOUSES, Item
from evals.tasks.compositional.puzzle.riddle import Riddle

_IS = r"\s*(?:\b(?:is|must be|has to be|equals)\b|[=:])\s*(?:the\s+)?"
_HOUSE = rf"(?:house\s*(?:#\s*)?(?P<h>\d)|the\s+(?P<o>{'|'.join(HOUSES)})\s+house)"
_MAYBE = re.compile(r"\b(?:if|suppose|assume|assuming|whether|unless)(?:\s+that)?\s+(?:the\s+)?$", re.IGNORECASE)
_END = re.compile(r"[$|,;\n]")


def cells(text: str, riddle: Riddle) -> dict[Item, int]:
    """The house of each item that the reasoning says: "the Animal in house 2 is cat", "house 2's animal is cat".

    Rows of a table are left out, and what names two values ("is cat or dog"). An item in a house that there is not is
    kept as it was said.
    """
    body = re.sub(r"<[^<>\n]*>", " ", _lines(text))
    lines = body.split("\n")
    starts = list(accumulate((len(line) + 1 for line in lines), initial=0))
    rows = [_row(line, riddle) for line in lines]
    found: list[tuple[int, Item, int]] = []
    for name, values in riddle.attributes:
        value = "|".join(sorted(map(_loose, values), key=len, reverse=True))
        two = rf"\s*(?:,|/|,?\s*\bor\b)\s*(?:the\s+)?(?:{value})(?![\w-])"
        what = rf"(?P<v>{value})(?![\w-])(?!{two})"
        for pattern in (
            rf"\b{_attribute(name)}\s+(?:in|of|for|at)\s+{_HOUSE}{_IS}{what}",
            rf"\b{_HOUSE}(?:'s)?[\s,:]+(?:the\s+)?{_attribute(name)}{_IS}{what}",
        ):
            for match in re.finditer(pattern, body, re.IGNORECASE):
                before = body[max(0, match.start() - 30) : match.start()]
                if not _MAYBE.search(before) and not rows[bisect(starts, match.start()) - 1]:
                    house = int(match["h"]) if match["h"] else HOUSES.index(match["o"].lower()) + 1
                    found.append((match.start(), Item(name, _plain(match["v"])), house))
    return {item: house for _, item, house in sorted(found, key=lambda each: each[0])}


def table(text: str, riddle: Riddle) -> dict[tuple[int, str], str]:
    """The value of each house and attribute that a table gives: lines of "$ House: 1 $ Name: eric", or of Markdown.

    A cell that holds anything but one value (or its phrase) is none, so that naming two is not right. The last table
    counts; another one begins where a house comes again.
    """
    rows: list[tuple[int, dict[str, str]]] = []
    columns: list[str] = []
    for line in _lines(text).splitlines():
        parts = [part.strip(" *`") for part in line.strip().strip("|").split("|")] if "|" in line else []
        if parts and _names(parts, riddle):
            columns = _names(parts, riddle)
        elif parts and columns and len(parts) == len(columns):
            row = dict(zip(columns, parts, strict=True))
            if number := re.fullmatch(r"(?:house\s*)?(\d)", row.pop("House", ""), re.IGNORECASE):
                rows.append((int(number[1]), row))
        elif number := re.search(r"\bhouse\s*(?:[:=#]\s*)?(\d)\b(?P<rest>.*)", line, re.IGNORECASE):
            row = _pairs(number["rest"], riddle)
            if row:
                rows.append((int(number[1]), row))
    return _last(rows, riddle)


def _last(rows: list[tuple[int, dict[str, str]]], riddle: Riddle) -> dict[tuple[int, str], str]:
    found: dict[int, dict[str, str]] = {}
    for house, row in rows:
        if house in found:  # another table begins
            found = {}
        found[house] = row
    cells: dict[tuple[int, str], str] = {}
    for house, row in found.items():
        for name, values in riddle.attributes:
            said = _plain(row.get(name, "")).strip(" .")
            known = {value: value for value in values} | {Item(name, v).phrase.lower(): v for v in values}
            if said in known and 1 <= house <= riddle.houses:
                cells[house, name] = known[said]
    return cells


def _pairs(line: str, riddle: Riddle) -> dict[str, str]:
    """What a line says as "attribute: value"."""
    row: dict[str, str] = {}
    found = sorted(
        (match.start(), match.end(), name, values)
        for name, values in riddle.attributes
        for match in re.finditer(rf"\b{_attribute(name)}\s*[:=]", line, re.IGNORECASE)
    )
    for place, (_, begin, name, values) in enumerate(found, start=1):
        end = found[place][0] if place < len(found) else len(line)
        said, *more = (part.strip(" *`") for part in _END.split(line[begin:end]))
        others = "|".join(_loose(value) for value in values if value != _plain(said))
        if re.search(rf"\b(?:{others})\b", " , ".join(more), re.IGNORECASE):  # "eric, peter, arnold"
            said = "?"
        row[name] = said if row.get(name, said) == said else "?"
    return row


def _names(parts: list[str], riddle: Riddle) -> list[str]:
    """The attributes of a Markdown table's head, "House" among them; empty if it is none."""
    names = {name: _attribute(name) for name, _ in riddle.attributes}
    names["House"] = r"House\s*(?:#|number|no\.?)?"
    found = [next((n for n, p in names.items() if re.fullmatch(p, part, re.IGNORECASE)), "") for part in parts]
    return found if "House" in found and len(set(found) - {""}) > 1 else []


def _lines(text: str) -> str:
    """The text with each row of a table in a line of its own, whatever a tokenizer made of its line breaks."""
    return re.sub(r"(?<!\n)\$\s*House\b", "\n$ House", text.replace("_", " "), flags=re.IGNORECASE)


def _row(line: str, riddle: Riddle) -> bool:
    """Whether a line is one of a table."""
    return "$" in line or line.lstrip().startswith("|") or len(_pairs(line, riddle)) > 1


def _attribute(name: str) -> str:
    """A pattern for "FavoriteSport", "Favorite Sport", "favorite sport"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", r"\\s?", name)


def _loose(value: str) -> str:
    return r"\s+".join(map(re.escape, value.split()))


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
