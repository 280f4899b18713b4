"""Paragraphs of English out of documentation strings: rules of thumb, cheap enough for tens of megabytes.

Knows reStructuredText, numpydoc, Google style and Markdown by sight only; parses none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_FENCED = re.compile(r"^[ \t]*(```|~~~).*?^[ \t]*\1[^\n]*$", re.DOTALL | re.MULTILINE)
_BLOCK_END = re.compile(r"\n[ \t]*\n\s*?(?=[ \t]*\S)")
# What a line is, by its beginning. The order matters: the first alternative that matches names the line.
_LINE = re.compile(
    r"[ \t]*(?:"
    # From here on the block is code or a table: outputs of a prompt look like anything.
    r"(?P<code>>>>|\.\.\.[ \t]|In ?\[|Out\[|Traceback|\||\+[-=+]|[$%@]|(?:def|class|import|from)[ ].*[:)(]$)"
    # The text under these directives is prose, so only the line goes; that under any other is code or markup.
    r"|(?P<note>\.\.[ ](?:note|warning|tip|important|hint|attention|admonition|deprecated|version\w+)\b.*)"
    r"|(?P<directive>\.\.[ \w_\[])"
    r"|(?P<underline>[-=~^\"'`*_#+.]{3,}[ \t]*$)"
    r"|(?P<heading>\#|(?:Args|Arguments|Parameters|Attributes|Returns?|Yields?|Raises|Examples?|Notes?|Usage|Shapes?|"
    r"References|See [Aa]lso|Inputs?|Outputs?)[ \t]*:?:?[ \t]*$)"
    # `name : type`, `name (type): text`, `:param name: text`, `name: text`, `- text`: a new entry begins.
    r"|(?P<typed>[*\w.,` ]{1,80}[ ]:[ ].*)"
    r"|(?P<entry>:\w[^:\n]*:[ ]|[-*•][ ]+|\(?\d+[.)][ ]+"
    r"|[`*]*[\w.]+[`*]*[ ]?\([^\n]*?\)[ ]?:|[`*]*[\w.]+[`*]*:(?=[ ]|$))"
    r")"
)
_LEGAL = ("copyright", "licence", "license", "warrant", "redistribut", "rights reserved")
_MARKUP = (
    # :func:`~a.b` and :ref:`text <target>`
    (re.compile(r":(?:[\w+-]+:)+`[~!]?([^`<]*?)(?:\s*<[^>`]*>)?`"), r"\1"),
    (re.compile(r"`([^`<]+?)\s*<[^>`]+>`_{1,2}"), r"\1"),  # `text <url>`_
    (re.compile(r"!?\[([^\]]+)\]\([^)]*\)"), r"\1"),  # [text](url)
    (re.compile(r"\s*\[(?:\d+|[A-Z]\w*\d{2,4}[a-z]?|#\w*)\]_?"), ""),  # [1]_ and other references
    (re.compile(r"\[?`+([^`]*)`+_{0,2}\]?"), r"\1"),  # ``code``, `name`, [`Class`]
    (re.compile(r"(?<!\w)(\*{1,2})(\S(?:[^*]*\S)?)\1(?!\w)"), r"\2"),  # *emphasis*, **strong**
    (re.compile(r"\s*<?https?://[^\s>]+>?"), ""),
)
_CODE_CHARS = re.compile(r"[\\{}<>=_|$^~@#*/\[\]+]|\w\(|\.\w")
_WORD = re.compile(r"[a-z][a-z']*")
_FUNCTION_WORDS = frozenset(
    """
    a about above after all also an and any are as at be because been before being below between both
    but by can cannot could do does each either even every for from has have here how however if in into
    is it its just like may might more most must no not now of on once one only or other otherwise out
    over own same should since so some such than that the their them then there these they this those
    through thus to too two under until up upon use used using via was we were what when where whether
    which while who whose will with within without would yet you your
    """.split()  # noqa: SIM905 - a list of strings would take as many lines as words
)
# Set by eye on what an environment of scientific packages gives: tighter loses English, looser lets in types.
_MIN_WORDS = 8
_MIN_FUNCTION_SHARE = 0.25
_MAX_CODE_PER_WORD = 0.12


def paragraphs(document: str) -> Iterator[str]:
    """Prose paragraphs of a documentation string, markup taken off, each on one line.

    Left out: doctests, fenced and indented code, tables, directives, headings, names and types of parameters
    (what is said about them stays), licences, and any paragraph that does not begin like a sentence, end like
    one, and have the function words of one.
    """
    if "```" in document or "~~~" in document:
        document = _FENCED.sub("", document)
    code_indent: int | None = None
    for block in _BLOCK_END.split(document.expandtabs().strip("\n")):
        indent = len(block) - len(block.lstrip())
        if code_indent is not None and indent > code_indent:
            continue  # still inside the code that a "::" or a directive announced
        runs, code_indent = _runs(block)
        for run in runs:
            text = _plain(run)
            if _is_prose(text):
                yield text


def _runs(block: str) -> tuple[list[str], int | None]:
    """Lines of a block that belong together, and the indent past which code follows, if it announces any."""
    runs: list[list[str]] = [[]]
    for line in block.split("\n"):
        match = _LINE.match(line)
        kind = match.lastgroup if match else None
        if match is None:
            runs[-1].append(line)
        elif kind == "code":
            break
        elif kind == "directive":
            return ["\n".join(run) for run in runs], len(line) - len(line.lstrip())
        elif kind == "underline":
            runs[-1] = runs[-1][:-1]  # the line above was its heading
        elif kind == "entry":
            runs.append([line[match.end() :]])
        else:
            runs.append([])
    last = block.rstrip().rsplit("\n", 1)[-1]
    announces = last.endswith("::")
    return ["\n".join(run) for run in runs if run], len(last) - len(last.lstrip()) if announces else None


def _plain(text: str) -> str:
    if "`" in text or "[" in text or "*" in text or "://" in text:
        for pattern, replacement in _MARKUP:
            text = pattern.sub(replacement, text)
    text = " ".join(text.split())
    return text[:-1] if text.endswith("::") else text


def _is_prose(text: str) -> bool:
    if not text or not (text[0].isupper() or text[0] in "\"'(") or text[-1] not in ".!?:\"')":
        return False
    lowered = text.lower()
    words = _WORD.findall(lowered)
    if len(words) < _MIN_WORDS or any(word in lowered for word in _LEGAL):
        return False
    common = sum(map(_FUNCTION_WORDS.__contains__, words))
    if common < _MIN_FUNCTION_SHARE * len(words):
        return False
    return len(_CODE_CHARS.findall(text)) <= _MAX_CODE_PER_WORD * len(words)
