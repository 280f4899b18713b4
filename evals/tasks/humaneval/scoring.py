"""From a completion to a verdict: the program it makes, run in a sandbox. Knows no model and no document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evals.scorers import Assessed
from evals.tasks.humaneval.specification import Unusable, setup

if TYPE_CHECKING:
    from evals.sandbox import Sandbox

# Chen et al., sec. 3.2: where a completion leaves the function it is of.
STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
OPTIONS = ("fences", "unsandboxed")

_FENCE = re.compile(r"(?ms)^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)")
_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")
_WHY = 200  # characters


def box(consent: bool) -> Sandbox:
    """What checks programs (``evals.sandbox.Sandbox``), one a process.

    Raises ValueError where nothing isolates them, without consent to that.
    """
    from evals.sandbox import shared

    try:
        return shared(consent=consent)
    except ValueError as error:
        raise ValueError(
            f"humaneval: {error}; consent is --unsandboxed here, or unsandboxed=true of the task, or the scorer "
            "humaneval:unsandboxed"
        ) from None


def name(fences: bool, unsandboxed: bool) -> str:
    """The scorer's name with its options, as ``evals.scorers.find`` takes it."""
    chosen = [option for option, given in zip(OPTIONS, (fences, unsandboxed), strict=True) if given]
    return f"humaneval:{'+'.join(chosen)}" if chosen else "humaneval"


def passes(answered: Any, answers: Sequence[str], asked: str, option: str = "") -> Assessed:
    """1 if the program of prompt and completion passes the problem's test; with the verdict.

    Args:
        answered: the completion, all that the model wrote.
        answers: the problem's test, and the name of the function.
        asked: the benchmark's prompt.
        option: "fences" for answers in Markdown, "unsandboxed" as consent, both with a plus between them.

    Returns:
        The score with ``outcome`` (passed, failed, timeout, memory, killed, forbidden), ``why``, and ``isolation``, the
        level in force. How long it took is left out: a row is the same however often it is made.

    Raises:
        ValueError: an unknown option, a row of another task, or nothing to isolate programs, without consent.
    """
    chosen = option.split("+") if option else []
    if unknown := [each for each in chosen if each not in OPTIONS]:
        raise ValueError(f"humaneval: expected options out of {', '.join(OPTIONS)}, got {', '.join(unknown)}")
    try:
        test, entry_point = answers
        helpers = setup(asked, entry_point)
    except (ValueError, Unusable):
        raise ValueError(
            "humaneval: expected a prompt, a test and a function's name, got a row of another task; score its own"
        ) from None
    text = str(answered)
    program = fenced(text, asked, entry_point) if "fences" in chosen else asked + text
    verdict = box("unsandboxed" in chosen).check(program, helpers, test, entry_point)
    why = _ADDRESS.sub("0x…", str(verdict.why))[:_WHY]
    detail = {"outcome": verdict.outcome, "why": why, "isolation": verdict.isolation}
    return Assessed(float(verdict.outcome == "passed"), detail)


def fenced(text: str, prompt: str, entry_point: str) -> str:
    """The program of an answer in Markdown.

    Its code is that of the first fence that defines the function, else of the first; without a fence, the text, cut
    at the first of ``STOP``. Code that defines the function stands behind the prompt with an idle body, whose imports
    and helpers it may use; other code completes the prompt.
    """
    defines = re.compile(rf"(?m)^def\s+{re.escape(entry_point)}\b")
    found = [match[1] for match in _FENCE.finditer(text)]
    code = next((each for each in found if defines.search(each)), found[0] if found else None)
    if code is None:
        code = text if defines.match(text.lstrip()) else text[: _end(text)]
    return setup(prompt, entry_point) + "\n" + code if defines.search(code) else prompt + code


def _end(text: str) -> int:
    return min((text.index(stop) for stop in STOP if stop in text), default=len(text))
