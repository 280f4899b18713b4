"""Answers RULER's questions from the text alone, by regular expressions: knows nothing of how documents are made.

Works on text that a tokenizer spoilt (lower case, spaces around signs, none at line ends).
"""

from __future__ import annotations

import re
from collections import Counter


def tight(text: str) -> str:
    return re.sub(r"\s+", "", text.lower())


def needles(document: str) -> list[tuple[str, str]]:
    """(key, value) of each needle, in order."""
    return re.findall(r"oneofthespecialmagic(?:numbers|uuids)for([a-z0-9-]+?)is:([0-9a-f-]+)\.", tight(document))


def niah(document: str, question: str) -> list[str]:
    (asked,) = re.findall(r"special magic \w+ for (.+?) mentioned", question)
    keys = [tight(key) for key in re.split(r", and |, ", asked)]
    found = needles(document)
    return [value for key in keys for other, value in found if other == key]


def vt(document: str, question: str) -> list[str]:
    (value,) = re.findall(r"\d{5}", question)
    text = tight(document).rpartition("inthefollowingtext.")[2]
    holds = dict(re.findall(r"var([a-z]{5})=(?:var)?([a-z]{5}|\d{5})", text))
    assert len(holds) == len(re.findall("=", text))

    def worth(name: str) -> str:
        return holds[name] if holds[name].isdigit() else worth(holds[name])

    return [name for name in holds if worth(name) == value]


def numbered(document: str) -> list[str]:
    """The words of the last list, after a check that its numbers count from 1."""
    text = document.lower().rpartition("appear most often.")[2]
    found = re.findall(r"(\d+) ?\. ?([a-z]+)", text)
    assert [int(number) for number, _ in found] == list(range(1, len(found) + 1))
    return [word for _, word in found]


def cwe(document: str, question: str) -> list[str]:
    counts = Counter(numbered(document)).most_common()
    assert {count for _, count in counts[:10]} in ({30}, {6})
    assert {count for _, count in counts[10:]} in ({3}, {1})
    return [word for word, _ in counts[:10]]


def fwe(document: str, question: str) -> list[str]:
    text = document.lower().rpartition("coded words.")[2]
    counts = Counter(re.findall(r"\b[a-z]{6}\b", text)).most_common(4)
    assert counts[2][1] > counts[3][1]
    return [word for word, _ in counts[:3]]
