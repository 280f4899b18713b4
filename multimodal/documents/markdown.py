"""Images in Markdown: which parts of a text ask for one, in constant memory.

A reader of images, not of Markdown: everything else stays as it was written, so that the text and the source of
the images together are the document, character for character. After CommonMark 0.31: inline and reference images,
`<img>`; none of them inside fences, code spans, indented code, comments, `<pre>`, or behind a backslash.

Knows nothing of files but how to find the one that a target means.
"""

from __future__ import annotations

import base64
import binascii
import html
import os
import re
import string
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

MAX_BLOCK = 1 << 22
"""A paragraph (or line) longer than that, in characters, is cut: what a document holds in memory at most."""

_MAX_ALT = 4096  # also keeps the search for a closing bracket short
_MAX_DEPTH = 32  # of brackets and parentheses; CommonMark lets a parser have such a limit
_CONTAINER = r"(?:[ \t]*(?:>|[-+*][ \t]|\d{1,9}[.)][ \t]))*[ \t]*"  # of quotes and lists
_FENCE = re.compile(_CONTAINER + r"(`{3,}(?=[^`]*$)|~{3,})")
_HTML = re.compile(r" {0,3}(<!--|<(?:pre|script|style|textarea)(?=[\s>]))", re.IGNORECASE)
_LIST = re.compile(r" {0,3}(?:[-+*]|\d{1,9}[.)])[ \t]")
_INDENTED = re.compile(r" {4}| {0,3}\t")
_TITLE = r"\"(?:[^\"\\]|\\.){0,999}\"|'(?:[^'\\]|\\.){0,999}'|\((?:[^()\\]|\\.){0,999}\)"
_LABEL = r"\[((?:[^\[\]\\]|\\.){1,999})\]"
_DEFINITION = re.compile(
    rf"^ {{0,3}}{_LABEL}:[ \t]*\n?[ \t]*(<[^<>\n]*>|[^<\s]\S*)(?:(?:[ \t]*\n)?[ \t]+({_TITLE})|)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
_BEGINS = re.compile(r"\\.|`+|<!--|!\[|<img(?=[\s/>])", re.IGNORECASE | re.DOTALL)
_BEHIND_TARGET = re.compile(rf"(?:\s+({_TITLE}))?\s*\)", re.DOTALL)
_REFERENCE = re.compile(r"\[((?:[^\[\]\\]|\\.){0,999})\]", re.DOTALL)
_ESCAPE = re.compile(rf"\\([{re.escape(string.punctuation)}])")


@dataclass(frozen=True)
class Shown:
    """An image that a document asks for.

    Attributes:
        target: where it is, as written but for escapes.
        alt: its text, on one line.
        title: its title, "" for none.
        raw: the characters that asked for it.
        line: the line it begins on, from 1.
    """

    target: str
    alt: str
    title: str
    raw: str
    line: int


Definitions = Mapping[str, tuple[str, str]]
"""Target and title of each label that images may refer to."""


def scan(pieces: Iterable[str], definitions: Definitions) -> Iterator[str | Shown]:
    """A document in the order of reading: its text, and in place of each image what it asks for.

    Args:
        pieces: the text, cut anywhere.
        definitions: from :func:`definitions`.
    """
    for text, line, code in _blocks(pieces):
        if code:
            yield text
        else:
            yield from _scan_block(text, line, definitions)


def definitions(pieces: Iterable[str]) -> dict[str, tuple[str, str]]:
    """The reference definitions of a document; of two for one label the first counts."""
    found: dict[str, tuple[str, str]] = {}
    for text, _, code in _blocks(pieces):
        if not code:
            for label, target, title in _DEFINITION.findall(text):
                found.setdefault(_normal(label), (_plain(target.strip("<>")), _plain(title[1:-1])))
    return found


def locate(target: str, folder: Path) -> Path | bytes | str:
    """What a target means: a path, the bytes of a `data:` link, or another link as it is.

    Percent-encoding is undone; a `?query` or `#fragment` behind a name is cut off where no file has it.
    """
    scheme = target.partition(":")[0].lower()
    if scheme == "data":
        return _data(target)
    if scheme in ("http", "https", "ftp") or target.startswith("//"):
        return target if scheme in ("http", "https", "ftp") else f"https:{target}"
    if scheme == "file":
        target = urllib.parse.urlsplit(target).path
    bare = re.split(r"[?#]", target, maxsplit=1)[0]
    names = [urllib.parse.unquote(target), target, urllib.parse.unquote(bare), bare]
    paths = [folder / name for name in names if name]
    return next((path for path in paths if os.path.isfile(path)), paths[0] if paths else folder)


def _data(link: str) -> bytes:
    head, _, body = link.partition(",")
    if head.lower().endswith(";base64"):
        try:
            return base64.b64decode(urllib.parse.unquote(body), validate=False)
        except (binascii.Error, ValueError):
            return b"?"  # no image: the error of opening it says so
    return urllib.parse.unquote_to_bytes(body)


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    rest: list[str] = []
    held = 0
    for piece in pieces:
        for line in piece.splitlines(keepends=True) if piece.isascii() else _split(piece):
            rest.append(line)
            held += len(line)
            if line.endswith("\n") or held > MAX_BLOCK:
                yield "".join(rest)
                rest, held = [], 0
    if rest:
        yield "".join(rest)


def _split(text: str) -> list[str]:
    # str.splitlines would also cut at characters such as U+2028.
    parts = text.split("\n")
    return [part + "\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def _blocks(pieces: Iterable[str]) -> Iterator[tuple[str, int, bool]]:
    """(text, its first line, whether it is code) of runs of lines; joined they are the document."""
    block: list[str] = []
    first = number = held = 0
    ends: re.Pattern[str] | None = None  # what closes the code that is open
    in_list = quoted = False
    for number, line in enumerate(_lines(pieces), 1):
        if ends is not None and quoted and not line.lstrip().startswith(">"):
            ends = None  # a fence inside a quote ends with it
        if ends is not None:
            yield line, number, True
            ends = None if ends.search(line) else ends
            continue
        # Indented so far it is code, or goes on with a paragraph; in a list it may still be a fence.
        ends = None if not in_list and _INDENTED.match(line) else _opens(line)
        quoted = line.lstrip().startswith(">")
        blank = not line.strip()
        if block and (ends is not None or blank or held > MAX_BLOCK):
            yield "".join(block), first, False
            block, held = [], 0
        if ends is not None or blank or (not block and not in_list and _INDENTED.match(line)):
            yield line, number, True
        else:
            if not block:
                first = number
                in_list = bool(_LIST.match(line)) or (in_list and bool(_INDENTED.match(line)))
            block.append(line)
            held += len(line)
            in_list = in_list or bool(_LIST.match(line))
    if block:
        yield "".join(block), first, False


def _opens(line: str) -> re.Pattern[str] | None:
    """What ends the code that a line opens; None if it opens none, or closes it again."""
    fence = _FENCE.match(line)
    if fence:
        mark = fence[1]
        return re.compile(rf"^[ \t>]*{re.escape(mark[0])}{{{len(mark)},}}[ \t]*$")
    tag = _HTML.match(line)
    if tag is None:
        return None
    close = re.compile("-->" if tag[1] == "<!--" else f"</{tag[1][1:]}", re.IGNORECASE)
    return None if close.search(line, tag.end()) else close


def _scan_block(text: str, line: int, known: Definitions) -> Iterator[str | Shown]:
    done = at = counted = 0
    unclosed: set[str] = set()  # what has been looked for in vain is not looked for again
    while (begin := _BEGINS.search(text, at)) is not None:
        mark, at = begin[0], begin.end()
        if mark.startswith("`") or mark == "<!--":
            pattern = "-->" if mark == "<!--" else rf"(?<!`){mark}(?!`)"
            close = None if mark in unclosed else re.compile(pattern).search(text, at)
            if close is None:
                unclosed.add(mark)
            else:
                at = close.end()
            continue
        if mark.startswith("\\"):
            continue
        if mark == "![":
            found = _bracketed(text, at, known)
        else:
            end = None if "<img" in unclosed else _tag_end(text, at)
            if end is None:
                unclosed.add("<img")
                continue
            found = _tag(text[begin.start() : end], end)
        if found is None:
            continue
        target, alt, title, at = found
        line += text.count("\n", counted, begin.start())
        counted = begin.start()
        if begin.start() > done:
            yield text[done : begin.start()]
        yield Shown(target, alt, title, text[begin.start() : at], line)
        done = at
    if done < len(text):
        yield text[done:]


_Found = tuple[str, str, str, int]  # target, alt, title, where it ends


def _bracketed(text: str, at: int, known: Definitions) -> _Found | None:
    """An image whose alt text begins at ``at``."""
    close = _closing(text, at)
    if close is None:
        return None
    alt, behind = text[at:close], close + 1
    if text[behind : behind + 1] == "(":
        inline = _inline(text, behind + 1)
        if inline is not None:
            target, title, end = inline
            return target, _one_line(alt), title, end
    reference = _REFERENCE.match(text, behind)
    label = reference[1] if reference is not None and reference[1].strip() else alt
    definition = known.get(_normal(label))
    if definition is None:
        return None
    return definition[0], _one_line(alt), definition[1], reference.end() if reference is not None else behind


def _closing(text: str, at: int) -> int | None:
    depth, end = 1, min(len(text), at + _MAX_ALT)
    while at < end:
        if text[at] == "\\":
            at += 1
        elif text[at] == "[":
            depth += 1
            if depth > _MAX_DEPTH:
                return None
        elif text[at] == "]":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    return None


def _inline(text: str, at: int) -> tuple[str, str, int] | None:
    """Target, title and end of what follows `![alt](`."""
    while at < len(text) and text[at] in " \t\n":
        at += 1
    if text[at : at + 1] == "<":
        end = re.compile(r"<((?:[^<>\n\\]|\\.)*)>").match(text, at)
        if end is None:
            return None
        target, at = end[1], end.end()
    else:
        begin, depth = at, 0
        while at < len(text) and not text[at].isspace():
            if text[at] == "\\" and at + 1 < len(text) and not text[at + 1].isspace():
                at += 1
            elif text[at] == "(":
                depth += 1
                if depth > _MAX_DEPTH:
                    return None
            elif text[at] == ")":
                if depth == 0:
                    break
                depth -= 1
            at += 1
        if depth or begin == at:
            return None
        target = text[begin:at]
    behind = _BEHIND_TARGET.match(text, at)
    if behind is None:
        return None
    return _plain(target), _plain((behind[1] or "  ")[1:-1]), behind.end()


class _Attributes(HTMLParser):
    def __init__(self, tag: str) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self.feed(tag)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            self.found.setdefault(name, value or "")


def _tag_end(text: str, at: int) -> int | None:
    """Behind the `>` that closes the tag around ``at``; None where nothing does."""
    quote = ""
    for mark in re.compile("[\"'>]").finditer(text, at):
        if quote:
            quote = "" if mark[0] == quote else quote
        elif mark[0] == ">":
            return mark.end()
        else:
            quote = mark[0]
    return None


def _tag(tag: str, end: int) -> _Found | None:
    """The image of an `<img>` that says where it is and ends at ``end``."""
    found = _Attributes(tag).found
    if not found.get("src"):
        return None
    return found["src"].strip(), " ".join(found.get("alt", "").split()), found.get("title", ""), end


def _plain(text: str) -> str:
    return html.unescape(_ESCAPE.sub(r"\1", text))


def _one_line(text: str) -> str:
    return " ".join(_plain(text).split())


def _normal(label: str) -> str:
    return " ".join(label.split()).casefold()
