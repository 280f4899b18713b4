"""Conversations as text: a chat template rendered so that every character is known to be a turn's or the template's.

A template is rendered twice, once with marks in place of what was said. The marks give the places, and both
renderings must agree when the marks are replaced; a template that changes or reorders what was said is an error.
Knows templates and nothing of token ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from multimodal.documents.llava_json import Turn
from rmt.errors import InputError

LLAVA_15 = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + ' ' }}"
    "{% elif message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}"
    "{% else %}{{ 'ASSISTANT:' }}{% generation %}{{ ' ' + message['content'] + (eos_token or sep_token or '') }}"
    "{% endgeneration %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""The turns of LLaVA-1.5 (arXiv 2310.03744; Vicuna's), for tokenizers that have no template."""

Range = tuple[int, int]
"""Characters from the first to before the second."""


@dataclass(frozen=True)
class Layout:
    """A rendered conversation.

    Attributes:
        text: as the template writes it, one image token for an image.
        said: where the texts of turns are, in order, also empty ones.
        images: where the image tokens are, in order.
        trained: where the assistant's texts are, what ends each of them, and the space before them that a prompt for
            an answer does not end with.
    """

    text: str
    said: tuple[Range, ...]
    images: tuple[Range, ...]
    trained: tuple[Range, ...]


def added_tokens(tokenizer: Any) -> re.Pattern[str]:
    """What finds, in a text, the strings that the tokenizer takes for whole tokens wherever they stand."""
    words = sorted(filter(None, tokenizer.get_added_vocab()), key=lambda word: (-len(word), word))
    return re.compile("|".join(map(re.escape, words)) or r"(?!)")


def lay_out(
    tokenizer: Any, turns: Sequence[Turn], image_token: str, *, chat_template: str | None = None, ask: bool = False
) -> Layout:
    """Render a conversation with the tokenizer's chat template, or LLaVA-1.5's where it has none.

    Images are left to a template that knows them, as long as it keeps them in order; otherwise, and where a text
    begins with the line end that stands behind an image, the image token is written in between the texts. Behind an
    answer that ends all, and that a template ends with nothing, as llava-hf's does, stands the tokenizer's end token.

    Args:
        tokenizer: of transformers.
        turns: system, user and assistant.
        image_token: what the tokenizer takes for an image.
        chat_template: Jinja text in place of the tokenizer's own.
        ask: end with what begins an answer; the last turn must be the user's.

    Raises:
        InputError: the template fails, or no way was found in which it keeps what is said as it is.
    """
    turns = [Turn(turn.role, turn.content or ("",)) for turn in turns]  # an empty turn also has its place
    template = chat_template or (None if tokenizer.chat_template else LLAVA_15)

    def render(contents: Iterable[Any]) -> str | Exception:
        messages = [{"role": turn.role, "content": content} for turn, content in zip(turns, contents, strict=True)]
        return _render(tokenizer, messages, template, ask)

    ways: tuple[Callable[..., Any], ...] = (_items, _plain, _one_item)
    if any(_spaced(turn) for turn in turns):
        ways = (_plain, _one_item, _items)
    failed: Exception | None = None
    for way in ways:
        laid = _lay_out(turns, image_token, way, render)
        if isinstance(laid, list):
            lead, ending = _around(tokenizer, template, way)
            stop = tokenizer.eos_token or getattr(tokenizer, "sep_token", None) or ""
            if not ask and turns[-1].role == "assistant" and not laid[-1][0].strip() and not ending.strip():
                laid, ending = [*laid[:-1], (stop, "scaffold", -1)], stop  # else nothing would teach where to end
            return _finish(laid, turns, lead, ending, added_tokens(tokenizer))
        failed = laid or failed
    reason = f" ({(str(failed).splitlines() or [''])[0][:200]})" if failed is not None else ""
    raise InputError(
        f"chat template: expected one that keeps the words and the order of {len(turns)} turns, got one that does not"
        f"{reason}; give another chat_template"
    )


Part = tuple[str, str, int]
"""Text; "scaffold", "said" or "image"; number of its turn, -1 for none."""


def _lay_out(
    turns: Sequence[Turn], image_token: str, way: Callable[..., Any], render: Callable[..., str | Exception]
) -> list[Part] | Exception | None:
    """The parts of the rendered text in order; None, or the template's error, if it is not kept in this way."""
    texts = [part for turn in turns for part in turn.content if isinstance(part, str)]
    left, right = _mark_characters(texts)
    marked: list[Any] = []
    real: list[Any] = []
    expected: list[tuple[str, int]] = []  # (text or image, turn)
    for number, turn in enumerate(turns):
        names = []
        for part in turn.content:
            names.append(f"{left}{len(expected)}{right}")
            expected.append((part if isinstance(part, str) else "", number))
        kinds = [isinstance(part, str) for part in turn.content]
        marked.append(way(names, kinds))
        words = [part if isinstance(part, str) else image_token for part in turn.content]
        real.append(way(words, kinds))
    image_parts = [not isinstance(part, str) for turn in turns for part in turn.content]
    with_marks = render(marked)
    if isinstance(with_marks, Exception):
        return with_marks
    if "'type': 'text'" in with_marks:  # a list printed as Python prints it
        return None
    pieces = re.split(f"({left}\\d+{right}|{re.escape(image_token)})", with_marks)
    parts: list[Part] = []
    seen = 0
    for index, piece in enumerate(pieces):
        if index % 2 == 0:
            parts.append((piece, "scaffold", -1))
            continue
        # An image is a mark of ours, or the image token of a template that knows images.
        is_image = piece == image_token
        if seen >= len(expected) or (piece != f"{left}{seen}{right}" and not (is_image and image_parts[seen])):
            return None
        text, number = expected[seen]
        parts.append((image_token, "image", number) if image_parts[seen] else (text, "said", number))
        seen += 1
    if seen != len(expected):
        return None
    whole = render(real)
    if isinstance(whole, Exception):
        return whole
    for variant in (lambda parts: parts, _strip_turns, _strip_parts):
        changed = variant(parts)
        if "".join(part[0] for part in changed) == whole:
            return changed
    return None


def _finish(parts: list[Part], turns: Sequence[Turn], lead: str, ending: str, added: re.Pattern[str]) -> Layout:
    ranges: dict[str, list[Range]] = {"said": [], "image": [], "trained": []}
    spoken = [part[2] for part in parts if part[1] != "scaffold"]  # turns, in order
    at = seen = 0
    for text, kind, number in parts:
        end = at + len(text)
        if kind != "scaffold":
            ranges[kind].append((at, end))
            if kind == "said" and turns[number].role == "assistant":
                ranges["trained"].append((at, end))
            seen += 1
        else:
            before = spoken[seen - 1] if seen else -1
            after = spoken[seen] if seen < len(spoken) else -1
            if before != after and before >= 0 and turns[before].role == "assistant":
                ranges["trained"].append((at, at + _end_of_answer(text, ending, added)))
            if before != after and after >= 0 and turns[after].role == "assistant" and text.endswith(lead):
                ranges["trained"].append((end - len(lead), end))
        at = end
    whole = "".join(part[0] for part in parts)
    return Layout(whole, tuple(ranges["said"]), tuple(ranges["image"]), tuple(ranges["trained"]))


def _end_of_answer(text: str, ending: str, added: re.Pattern[str]) -> int:
    """Characters of the template's ``text`` behind an answer that end it: its end token, or else what ends all."""
    same = 0
    while same < min(len(text), len(ending)) and text[same] == ending[same]:
        same += 1
    common = text[:same]
    token = added.search(common)
    return token.end() if token is not None else len(common.rstrip())


def _around(tokenizer: Any, template: str | None, way: Callable[..., Any]) -> tuple[str, str]:
    """What the template writes around an answer: the space behind a prompt for one, and all that ends a last one."""
    question, answer = "\ue000q\ue001", "\ue000a\ue001"
    messages = [
        {"role": role, "content": way([text], [True])} for role, text in (("user", question), ("assistant", answer))
    ]
    whole = _render(tokenizer, messages, template, False)
    prompt = _render(tokenizer, messages[:1], template, True)
    if isinstance(whole, Exception) or isinstance(prompt, Exception):
        return "", ""
    head, _, ending = whole.partition(answer)
    lead = head.removeprefix(prompt)
    # More than space would be a template that has no prompt for an answer.
    return lead if not lead.strip() else "", ending


def _render(tokenizer: Any, messages: list[dict[str, Any]], template: str | None, ask: bool) -> str | Exception:
    try:
        out = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=ask)
    except Exception as error:  # a template's code may raise anything
        return error
    return str(out)


# Ways to give a turn to a template: a list of items, a text, a list of one text. Each takes the words of the parts (the
# image token for an image), and whether they are texts.


def _items(words: list[str], kinds: list[bool]) -> list[dict[str, str]]:
    return [
        {"type": "text", "text": word} if kind else {"type": "image"} for word, kind in zip(words, kinds, strict=True)
    ]


def _plain(words: list[str], kinds: list[bool]) -> str:
    return "".join(words)


def _one_item(words: list[str], kinds: list[bool]) -> list[dict[str, str]]:
    return [{"type": "text", "text": "".join(words)}]


def _spaced(turn: Turn) -> bool:
    pairs = zip(turn.content, turn.content[1:], strict=False)
    return any(not isinstance(a, str) and isinstance(b, str) and b.startswith("\n") for a, b in pairs)


def _mark_characters(texts: list[str]) -> tuple[str, str]:
    """Two characters of private use that no text holds."""
    used = set("".join(texts))
    free = [chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in used]
    return free[0], free[1]


def _strip_turns(parts: list[Part]) -> list[Part]:
    """As a template leaves them that strips the text of a turn."""
    out = list(parts)
    for number in {part[2] for part in parts} - {-1}:
        inside = [index for index, part in enumerate(parts) if part[2] == number]
        for order, strip in ((inside, str.lstrip), (inside[::-1], str.rstrip)):
            for index in order:
                text, kind, _ = out[index]
                if kind == "image":
                    break
                out[index] = (strip(text), kind, number)
                if out[index][0]:
                    break
    return out


def _strip_parts(parts: list[Part]) -> list[Part]:
    return [(text.strip() if kind == "said" else text, kind, number) for text, kind, number in parts]
