"""What was said, as people write it: tokens to text, also of a tokenizer that forgets where spaces stood.

BERT's WordPiece makes a token of each punctuation mark and keeps no spaces: its text of "54c0-321e" is "54c0 - 321e",
in which no benchmark finds its answer. What such a mark split is put together again as English prints it; where a space
may or may not have stood ("well-known", "tea - or milk"), it is left out. Only what a model says goes through here,
never a document.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

_RULES = tuple((re.compile(pattern), by) for pattern, by in (
    (r" +([.,;:!?%)\]}])", r"\1"),  # what closes stands behind its word
    (r"([(\[{]) +", r"\1"),  # what opens stands before it
    (r"([$#€£]) +(?=\d)", r"\1"),
    (r"(?<=\w) +([-/\\_@’]) +(?=\w)", r"\1"),  # 54c0-321e, and/or, a_b, a@b
    (r"(?<=\w) *' +(?=(?:s|t|d|m|re|ve|ll)\b)", "'"),
    (r"(?<=\d)([.:]) +(?=\d)", r"\1"),  # 7.5, 12:30
    (r"(?<!\d)(\d{1,3}(?:, +\d{3})+)(?!\w)", lambda found: re.sub(" +", "", found[1])),  # 1,000,000
    (r"(?<!\w)([a-z]), +(?=[a-z](?!\w))", r"\1,"),  # n,w
))  # fmt: skip


def texts(tokenizer: Any, rows: Iterable[Sequence[int]]) -> list[str]:
    """The text of each row of token ids, without special tokens."""
    lead = _lead(tokenizer)
    before = str(tokenizer.decode(lead, skip_special_tokens=True)) if lead else ""
    said = [str(tokenizer.decode([*lead, *row], skip_special_tokens=True))[len(before) :] for row in rows]
    return [rejoined(text) for text in said] if forgets_spaces(tokenizer) else said


def _lead(tokenizer: Any) -> list[int]:
    """A word to decode before what was said, where the decoder drops the space that a text begins with.

    SentencePiece's does, as of LLaMA 2: of a first line indented by four it leaves three, which is no Python.
    """
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    state = b"" if decoder is None else decoder.__getstate__()
    if b'"Metaspace"' not in state and b'"Strip"' not in state:
        return []
    return [int(i) for i in tokenizer("a", add_special_tokens=False)["input_ids"]]


def forgets_spaces(tokenizer: Any) -> bool:
    """Whether a tokenizer decodes as WordPiece does."""
    from tokenizers.decoders import WordPiece

    return isinstance(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None), WordPiece)


def rejoined(text: str) -> str:
    """A text in which punctuation stands as in print, not as a word of its own."""
    for pattern, by in _RULES:
        text = pattern.sub(by, text)
    return text
