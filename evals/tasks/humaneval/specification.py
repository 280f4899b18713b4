'''A prompt of the benchmark taken apart: what is asked for (the docstring), and the code that surrounds it.

    import math                        \\
                                        |  head
    def poly(xs): ...                   |
    def find_zero(xs):                 /
        """ Finds a zero. >>> ... """     the specification, in pieces
                                          tail (empty, or the line's end)

Prompts are parsed, never run. Knows no model and no document.
'''

from __future__ import annotations

import ast
import inspect
import re

_INDENTS = ("    ", "  ", "\t")
_LITERAL = re.compile(r"""(?s)[rRuU]?("{3}|'{3}|"|')(.*)\1""")
# Behind a full stop, where a line ends or the next sentence begins with a capital, a quotation mark or a bracket.
_SENTENCE = re.compile(r"""(?<=[.!?])(?:\s+(?=[A-Z"'`(\[])|\n(?=\S))""")


class Unusable(Exception):
    """A prompt that is none; says what was expected of it."""


def setup(prompt: str, entry_point: str) -> str:
    """The prompt with a body that does nothing, so that its imports and helpers can be had without a completion.

    Raises Unusable where that is no Python, or does not define ``entry_point``.
    """
    for indent in _INDENTS:
        idle = f"{prompt}\n{indent}pass\n"
        try:
            if _function(idle, entry_point) is None:
                raise Unusable("a prompt with a function called as entry_point says")
            return idle
        except SyntaxError:
            pass
    raise Unusable("a prompt that a body makes a program")


def notes(prompt: str, entry_point: str) -> tuple[str, ...]:
    """The specification as texts that stand by themselves in a document: numbered, and with the function's name."""
    found = pieces(_split(prompt, entry_point)[1])
    return tuple(
        f"Note {number} of {len(found)} on {entry_point}:{_gap(piece)}{piece}\n"
        for number, piece in enumerate(found, start=1)
    )


def without(prompt: str, entry_point: str) -> str:
    """The prompt with a docstring that refers to the notes in place of its own."""
    head, said, tail = _split(prompt, entry_point)
    count = len(pieces(said))
    which = "the note" if count == 1 else f"notes 1 to {count}"
    return f'{head}""" Do what {which} on {entry_point} in the text above say{"s" * (count == 1)}. """{tail}'


def pieces(docstring: str) -> list[str]:
    """A docstring's sentences and examples, in order; nothing but space between them is lost.

    An example of the interpreter (">>>", with what it prints) is one; other text is parted at blank lines and behind
    sentences. What ends in a colon stays with what follows it.
    """
    blocks: list[list[str]] = [[]]
    for line in inspect.cleandoc(docstring).split("\n"):
        example = line.lstrip().startswith(">>>")
        goes_on = bool(blocks[-1]) and blocks[-1][-1].lstrip().startswith((">>>", "..."))  # nothing printed yet
        if not line.strip() or (example and not goes_on):
            blocks.append([])
        if line.strip():
            blocks[-1].append(line.rstrip())
    found: list[str] = []
    for block in filter(None, blocks):
        text = "\n".join(block)
        for piece in [text] if text.lstrip().startswith(">>>") else _SENTENCE.split(text):
            if found and found[-1].endswith(":"):
                found[-1] += "\n" + piece
            else:
                found.append(piece)
    return found


def _gap(piece: str) -> str:
    return "\n" if "\n" in piece or piece.startswith(">>>") else " "


def _function(program: str, name: str) -> ast.FunctionDef | None:
    """The last function of this name at the top of a program. Raises SyntaxError where it is no Python."""
    try:
        tree = ast.parse(program)
    except ValueError as error:  # null bytes
        raise SyntaxError(str(error)) from None
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    return found[-1] if found else None


def _split(prompt: str, entry_point: str) -> tuple[str, str, str]:
    """What stands before the docstring, what it says as it is written, and what stands behind it.

    The docstring is the first string that stands by itself: HumanEval/115 has an import before it.
    Raises ValueError where there is none.
    """
    function = _function(setup(prompt, entry_point), entry_point)
    assert function is not None, "setup() has refused it"
    for node in function.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            begin = _place(prompt, node.lineno, node.col_offset)
            end = _place(prompt, node.end_lineno or 0, node.end_col_offset or 0)
            literal = _LITERAL.fullmatch(prompt[begin:end])
            if literal is not None and literal[2].strip():
                return prompt[:begin], literal[2], prompt[end:]
    raise ValueError(
        f"{entry_point}: expected a docstring to spread over a document, got none; ask for length 0, or leave it out"
    )


def _place(text: str, line: int, column: int) -> int:
    """Characters before a place that a syntax tree gives in lines from 1 on and bytes."""
    lines = text.split("\n")
    before = sum(len(each) + 1 for each in lines[: line - 1])
    return before + len(lines[line - 1].encode()[:column].decode())
