"""A prompt taken apart: nothing of the docstring is lost, and the code around it stays code."""

from __future__ import annotations

import re

import pytest

from evals.tasks.humaneval.specification import notes, pieces, setup, without
from tests.evals.tasks.humaneval.made import DECODE, DOUBLE, MADE, ROOT, benchmark


def bare(text: str) -> str:
    return re.sub(r"\s", "", text)


def test_sentences_and_examples_are_pieces():
    assert notes(DOUBLE.prompt, "doubled") == (
        "Note 1 of 4 on doubled: Return twice each value.\n",
        "Note 2 of 4 on doubled:\nKeep their\norder.\n",
        "Note 3 of 4 on doubled:\n>>> doubled([1, 2])\n[2, 4]\n",
        "Note 4 of 4 on doubled:\n>>> doubled([])\n[]\n",
    )
    assert pieces("A. b of e.g. 3.5 is 1. Yes! 'So'? (No.)\nnext: x\n  y") == [
        "A. b of e.g. 3.5 is 1.", "Yes!", "'So'?", "(No.)\nnext: x\n  y"
    ]  # fmt: skip
    assert pieces("One.\ntwo.") == ["One.", "two."]
    assert pieces(">>> a = f()\n>>> a\n3\n>>> b\n\n4") == [">>> a = f()\n>>> a\n3", ">>> b", "4"]
    assert pieces("For example:\n\n>>> f()\n1") == ["For example:\n>>> f()\n1"], "a head stays with its example"


def test_the_question_keeps_imports_helpers_and_signature():
    asked = without(DOUBLE.prompt, "doubled")
    assert asked == (
        "from typing import List\n\n\ndef doubled(values: List[int]) -> List[int]:\n"
        '    """ Do what notes 1 to 4 on doubled in the text above say. """\n'
    )
    asked = without(DECODE.prompt, "decode")
    assert "Shifts each letter" in asked
    assert "Undoes" not in asked
    assert asked.endswith('    """ Do what the note on decode in the text above says. """\n')
    assert without(ROOT.prompt, "root").startswith('def root(n):\n    import math\n    """ Do what notes 1 to 2 on')
    assert notes(ROOT.prompt, "root")[1] == "Note 2 of 2 on root:\nExample:\nroot(16) = 4\n  (so it is)\n"


def test_places_are_counted_in_characters():
    prompt = 'A = "é∑"\ndef f(x="∑∑"):\n    y = "∑"; "ééé. Oh."; x\n'
    asked = without(prompt, "f")
    assert asked == (
        'A = "é∑"\ndef f(x="∑∑"):\n    y = "∑"; """ Do what notes 1 to 2 on f in the text above say. """; x\n'
    )
    assert notes(prompt, "f") == ("Note 1 of 2 on f: ééé.\n", "Note 2 of 2 on f: Oh.\n")


def test_escapes_stay_as_they_are_written():
    assert notes('def f():\n    """Splits at \\n. Then stops."""\n', "f")[0] == "Note 1 of 2 on f: Splits at \\n.\n"


def test_a_setup_has_helpers_and_an_idle_function():
    made: dict = {}
    exec(setup(DECODE.prompt, "decode"), made)
    assert (made["encode"]("ab"), made["decode"]("x")) == ("bc", None)
    for indent in ("  ", "\t"):
        exec(setup(f'def f():\n{indent}"""Says."""', "f"), made)
        assert made["f"]() is None


def test_without_a_docstring_there_is_nothing_to_spread():
    for prompt in ("def f(x):\n", 'def f(x):\n    """ """\n', 'def g():\n    """A."""\ndef f(x):\n    g()\n'):
        with pytest.raises(ValueError, match="f: expected a docstring to spread"):
            notes(prompt, "f")


def check(items) -> None:
    for item in items:
        parts = notes(item.prompt, item.entry_point)
        asked = without(item.prompt, item.entry_point)
        compile(asked + item.canonical_solution, item.task_id, "exec")
        said = "".join(bare(re.sub(rf"^Note \d+ of {len(parts)} on {item.entry_point}:", "", part)) for part in parts)
        head, _, tail = asked.partition('""" Do what')
        tail = tail.partition('"""')[2]
        assert (item.prompt.startswith(head), item.prompt.endswith(tail)) == (True, True), item.task_id
        literal = bare(item.prompt[len(head) : len(item.prompt) - len(tail)])
        assert said in literal, item.task_id
        assert len(literal) - len(said) in (6, 2), "only the quotation marks are left out"
        assert all(len(part) > 1 for part in parts)


def test_nothing_is_lost():
    check(MADE)


def test_nothing_of_the_benchmark_is_lost():
    check(benchmark())
