"""From a completion to a verdict; programs run in a box that trusts these tests, and in the sandbox where it is."""

from __future__ import annotations

import pytest

from evals.scorers import assess, unconsented
from evals.tasks.humaneval import scoring
from evals.tasks.humaneval.specification import setup
from tests.evals.tasks.humaneval.made import DECODE, DOUBLE, MADE, Verdict, benchmark, trusting

__all__ = ["trusting"]  # a fixture

RIGHT = DOUBLE.canonical_solution
WHOLE = "def doubled(values):\n    return [value + value for value in values]\n"


def assessed(item, said, option=""):
    return assess(f"humaneval:{option}" if option else "humaneval", said, (item.test, item.entry_point), item.prompt)


def test_the_program_is_prompt_and_completion(trusting):
    for item in MADE:
        found = assessed(item, item.canonical_solution)
        assert (found.score, found.detail) == (1.0, {"outcome": "passed", "why": "", "isolation": "none"})
        prompt = item.prompt
        want = (prompt + item.canonical_solution, setup(prompt, item.entry_point), item.test, item.entry_point)
        assert trusting.seen[-1] == want
        assert assessed(item, "    return None\n").detail["outcome"] == "failed"
        assert assessed(item, "").score == 0
    assert assessed(DOUBLE, f"```python\n{WHOLE}```").score == 0, "the benchmark knows no fences"


@pytest.mark.parametrize(
    "said",
    [
        f"Sure:\n\n```python\n{WHOLE}```\nThis doubles.",
        f"```\n{RIGHT}```",
        f"```py\n{RIGHT}",  # cut short
        f"First install it:\n```bash\npip install x\n```\nthen\n```python\n{WHOLE}\n```",
        f"```python\nimport math\n\ndef more(values: List[int]):\n    return values * 1\n\n{WHOLE}```",
        f"{DOUBLE.prompt}{RIGHT}".join(("```python\n", "```")),
        WHOLE,
        RIGHT + "\nprint(doubled([1]))\nnow some words",
        "  - so:\n\n   ```python\n" + WHOLE + "   ```\n",
    ],
)
def test_code_is_taken_out_of_a_fence(trusting, said):
    assert assessed(DOUBLE, said, "fences").score == 1
    assert trusting.seen[-1][0].startswith(DOUBLE.prompt)


def test_a_fence_with_a_wrong_program_fails(trusting):
    wrong = WHOLE.replace("value + value", "value")
    assert assessed(DOUBLE, f"```python\n{wrong}```\n{RIGHT}", "fences").score == 0
    assert assessed(DOUBLE, f"```python\n{wrong}```\n```python\n{WHOLE}```", "fences").score == 0, (
        "the first one counts"
    )
    assert assessed(DOUBLE, "I cannot.", "fences").score == 0


def test_reasons_are_the_same_however_often(monkeypatch):
    why = "TypeError: <object at 0x7f3a0d0011c0> " + "x" * 500
    box = type("Box", (), {"check": lambda *_: Verdict("failed", why)})()
    monkeypatch.setattr(scoring, "box", lambda consent: box)
    assert assessed(DOUBLE, "").detail["why"].startswith("TypeError: <object at 0x…> xxx")
    assert len(assessed(DOUBLE, "").detail["why"]) == 200


def test_consent_is_part_of_the_name(monkeypatch):
    given = []
    monkeypatch.setattr(scoring, "box", lambda consent: given.append(consent) or type("B", (), {"check": check})())

    def check(*_):
        return Verdict("passed")

    names = [scoring.name(fences, bare) for fences in (False, True) for bare in (False, True)]
    assert names == ["humaneval", "humaneval:unsandboxed", "humaneval:fences", "humaneval:fences+unsandboxed"]
    for name in names:
        assess(name, "", (DOUBLE.test, "doubled"), DOUBLE.prompt)
    assert given == [False, True, False, True]


def test_a_refusal_says_how_to_consent_here(monkeypatch):
    def refuse(consent):
        raise ValueError("expected isolation, got rlimits; give consent=True")

    monkeypatch.setattr("evals.sandbox.shared", refuse)
    with pytest.raises(ValueError, match=r"got rlimits.*--unsandboxed"):
        assessed(DOUBLE, "")


def test_a_log_is_no_consent():
    names = ["humaneval", "humaneval:unsandboxed", "humaneval:fences", "humaneval:fences+unsandboxed", "babilong:qa10"]
    said = ["humaneval", "humaneval", "humaneval:fences", "humaneval:fences", "babilong:qa10"]
    assert list(map(unconsented, names)) == said


def test_rows_of_other_tasks_are_refused(trusting):
    for answers, asked in ((("bathroom",), "Where is Mary?"), (("a", "b"), "Where?"), ((), "")):
        with pytest.raises(ValueError, match="expected a prompt, a test and a function's name"):
            assess("humaneval", "x", answers, asked)
    with pytest.raises(ValueError, match="options out of fences, unsandboxed, got lax"):
        assessed(DOUBLE, "", "lax")


def test_our_solutions_pass_in_the_sandbox():
    for item in MADE:
        assert assessed(item, item.canonical_solution, "unsandboxed").detail["outcome"] == "passed"
        assert assessed(item, "    return None\n", "unsandboxed").detail["outcome"] == "failed"
    cheat = "    class Yes(str):\n        __eq__ = lambda *_: True\n    return Yes()\n"
    assert assessed(DECODE, cheat, "unsandboxed").score == 0


def test_all_canonical_solutions_pass_in_the_sandbox():
    for item in benchmark():
        assert assessed(item, item.canonical_solution, "unsandboxed").detail["outcome"] == "passed", item.task_id
