"""Which program gets which verdict."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
from collections import Counter

import pytest

from evals.sandbox import OUTCOMES, Case, Isolation, Limits, Sandbox
from tests.evals.sandbox.conftest import LIMITS, make
from tests.evals.sandbox.naive import RIGHT, TEST

PROGRAMS = [
    (RIGHT, "passed", ""),
    ("def f(x):\n    return x", "failed", "AssertionError"),
    ("def g(x):\n    return x", "failed", "NameError: the program defines no f"),
    ("def f(x:", "failed", "SyntaxError"),
    ("1 / 0", "failed", "ZeroDivisionError"),
    ("def f(x):\n    return {}[x]", "failed", "KeyError"),
    ("class Odd(Exception): pass\ndef f(x):\n    raise Odd('so')", "failed", "Odd: so"),
    ("def f(x):\n    return object()", "failed", "TypeError: expected a literal"),
    ("def f(x):\n    return (i for i in [4])", "failed", "TypeError: expected a literal"),
    ("import os\nos._exit(3)", "failed", "exit 3 before the end"),
    ("import numpy\n" + RIGHT, "failed", "ModuleNotFoundError"),
    ("f = 4", "failed", "TypeError: 'int' object is not callable"),
    ("def f(x):\n    while True: pass", "timeout", "CPU"),
    ("while True: pass", "timeout", "CPU"),
    ("import time\ndef f(x):\n    time.sleep(100)", "timeout", "wall-clock"),
    ("def f(x):\n    return [0] * 10**9", "memory", "MemoryError"),
    ("def f(x):\n    a = []\n    while True: a.append(bytearray(1 << 20))", "memory", "MemoryError"),
    ("import ctypes\ndef f(x):\n    ctypes.string_at(0)", "killed", "signal 11"),
    ("import os\ndef f(x):\n    os.abort()", "killed", "signal"),
    ("import os\ndef f(x):\n    os.system('true')", "forbidden", "system call"),
    ("import os\nos.kill(2, 9)", "forbidden", "system call"),
    ("import os\nos.fork()", "forbidden", "system call"),
    ("def f(x):\n    print('x' * 10**8)\n    return x * x", "passed", ""),
    ("if __name__ == '__main__':\n    raise ValueError\n" + RIGHT, "passed", ""),
    ("open('mine', 'w').write('4')\ndef f(x):\n    return x * x if open('mine').read() else 0", "passed", ""),
    ("import os\nassert os.getcwd() == '/box' and os.listdir() == []\n" + RIGHT, "passed", ""),
    ("open('big', 'w').write('x' * (2 << 20))", "failed", "OSError"),
    ("import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()\n" + RIGHT, "passed", ""),
    ("import asyncio\n" + RIGHT, "passed", ""),
    ("from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n" + RIGHT, "passed", ""),
    ("input()\n" + RIGHT, "failed", "EOFError"),
]


@pytest.mark.parametrize(("program", "outcome", "why"), PROGRAMS)
def test_verdict(program: str, outcome: str, why: str, box: Sandbox) -> None:
    if "/box" in program and "mount" not in box.isolation.layers:
        pytest.skip("no mount namespace here, so the working folder has another name")
    verdict = box.check(program, "", TEST, "f")
    assert (verdict.outcome, why in verdict.why) == (outcome, True), verdict
    assert verdict.outcome in OUTCOMES
    assert verdict.isolation == str(box.isolation)
    assert verdict.seconds >= 0


def test_exceptions_reach_the_test_by_name(box: Sandbox) -> None:
    test = """
def check(candidate):
    for kind, number in ((ValueError, 0), (KeyError, 1), (ZeroDivisionError, 2)):
        try:
            candidate(number)
        except kind:
            continue
        assert False
"""
    program = "def f(x):\n    if x == 0: raise ValueError\n    return {}[x] if x == 1 else 1 / 0"
    assert box.check(program, "", test, "f").passed


def test_setup_helps_the_test_and_not_the_candidate(box: Sandbox) -> None:
    setup = "def helper(x):\n    return x + 1\ndef f(x):\n    pass\n"
    test = "def check(candidate):\n    assert candidate(2) == helper(3)\n    assert f(3) == 9\n"
    assert box.check(RIGHT, setup, test, "f").passed
    assert box.check("def f(x):\n    return helper(x)", setup, test, "f").why.startswith("NameError")


def test_every_literal_goes_there_and_back(box: Sandbox) -> None:
    values = [None, True, -7, 1 << 200, 2.5, 1j, "é\n", b"\0", [1, [2]], (1,), {"a": {1: 2}}, {1, 2}, frozenset({3})]
    test = f"def check(candidate):\n    for v in {values!r}:\n        back = candidate(v, key=v)\n"
    test += "        assert back == [v, v] and type(back[0]) is type(v)\n    assert candidate(1, key=True)[1] is True\n"
    assert box.check("def f(x, key):\n    return [x, key]", "", test, "f").passed


def test_the_test_may_give_the_candidate_other_names(box: Sandbox) -> None:
    setup = "def f(x):\n    pass\n"
    test = "also = f\ndef check(c):\n    assert also(2) == 4 and c(2) == 4 and (lambda g: g(2))(f) == 4\n"
    assert box.check(RIGHT, setup, test, "f").passed
    assert not box.check("def f(x): return x", setup, test, "f").passed
    assert box.check(RIGHT, setup, "def f(x): return 0\n" + TEST, "f").passed, "it stays the candidate's name"


@pytest.mark.parametrize("call", ["candidate(lambda: 1)", "candidate(x=object())", "candidate([range(3)])"])
def test_a_test_that_calls_with_anything_but_literals_is_at_fault_itself(call: str, box: Sandbox) -> None:
    for test in (f"    {call}\n", f"    try:\n        {call}\n    except Exception:\n        pass\n"):
        with pytest.raises(ValueError, match="calls its candidate with literals, got: expected a literal"):
            box.check(RIGHT, "", "def check(candidate):\n" + test, "f")
    with pytest.raises(ValueError, match="outside of check"):
        box.check(RIGHT, "", "f(2)\n" + TEST, "f")


def test_a_test_that_catches_everything_cannot_save_the_dead(box: Sandbox) -> None:
    test = "def check(candidate):\n    try:\n        candidate(1)\n    except:\n        pass\n"
    assert box.check("import os\ndef f(x):\n    os._exit(0)", "", test, "f").why == "exit 0 before the end"
    assert box.check("def f(x):\n    while True: pass", "", test, "f").outcome == "timeout"
    assert box.check("import os\ndef f(x):\n    os.fork()", "", test, "f").outcome == "forbidden"
    assert box.check("def f(x):\n    raise ValueError", "", test, "f").passed


@pytest.mark.parametrize("test", ["    assert candidate(1) == 2, candidate(1)\n", "    {}[candidate(1)]\n"])
def test_answers_that_cannot_be_printed_fail(test: str, box: Sandbox) -> None:
    verdict = box.check("def f(x):\n    return 10**5000", "", "def check(candidate):\n" + test, "f")
    assert verdict.outcome == "failed"
    assert verdict.why in ("AssertionError", "KeyError")


def test_a_test_that_computes_with_answers_is_bounded() -> None:
    def check(sum: str) -> tuple[str, str]:
        verdict = box.check("def f(x):\n    return 1 << 33", "", f"def check(candidate):\n    assert {sum} == 3\n", "f")
        return verdict.outcome, verdict.why

    with make(limits=dataclasses.replace(LIMITS, wall=0.9)) as box:
        assert check("'a' * candidate(1)") == ("failed", "MemoryError")
        outcome, why = check("sum(range(candidate(1)))")
        assert (outcome, "the test itself" in why) == ("timeout", True)


def test_drawing_programs_have_one_verdict(box: Sandbox) -> None:
    program = "import random\ndef f(x):\n    return [random.random(), list(set('abcdefgh'))]"
    test = "def check(candidate):\n    raise ValueError(candidate(1))\n"
    assert len({box.check(program, "", test, "f").why for _ in range(4)}) == 1


def test_broken_problems_and_settings_are_value_errors(box: Sandbox) -> None:
    for setup, test, words in (
        ("def", TEST, "SyntaxError"),
        ("", "x = 1", "'check'"),
        ("1 / 0", TEST, "ZeroDivision"),
        ("import sys; sys.exit()", TEST, "SystemExit"),
    ):
        with pytest.raises(ValueError, match=words):
            box.check(RIGHT, setup, test, "f")
    with pytest.raises(ValueError, match="function's name"):
        box.check(RIGHT, "", TEST, "f()")
    for field, value in (
        ("seconds", 0.0),
        ("memory", 1000),
        ("output", 1),
        ("wall", 0.0),
        ("seconds", float("nan")),
        ("wall", float("inf")),
    ):
        with pytest.raises(ValueError, match=f"expected {field}"):
            dataclasses.replace(Limits(), **{field: value})
    with pytest.raises(ValueError, match="workers"):
        Sandbox(workers=0)


def test_what_counts_as_isolation() -> None:
    def enough(text: str) -> bool:
        return Isolation(tuple(text.split("+"))).enough

    assert enough("user+net+pid+mount+rlimits")
    assert enough("landlock1+seccomp+rlimits")
    assert enough("mount+seccomp+rlimits")
    for less in ("rlimits", "landlock7+rlimits", "seccomp+rlimits", "user+net+mount+landlock7+rlimits", "user+net+pid"):
        assert not enough(less)
    assert not enough("user+net+pid+mount+bwrap+rlimits")  # one pid namespace for all checks, and nothing against forks
    assert enough("user+net+pid+mount+bwrap+landlock7+seccomp+rlimits")


@pytest.mark.skipif("HUMANEVAL" not in os.environ, reason="HUMANEVAL names no HumanEval.jsonl.gz")
def test_canonical_solutions_pass_and_empty_ones_do_not() -> None:
    with gzip.open(os.environ["HUMANEVAL"], "rt") as file:
        rows = [json.loads(line) for line in file]
    cases = [
        Case(r["prompt"] + body, r["prompt"] + "    pass\n", r["test"], r["entry_point"])
        for r in rows
        for body in (r["canonical_solution"], "    return None\n")
    ]
    with make(limits=Limits()) as box:
        outcomes = [v.outcome for v in box.check_many(cases)]
    assert Counter(outcomes[0::2]) == {"passed": 164}
    assert Counter(outcomes[1::2]) == {"failed": 164}


THREADS = """
import threading
start = threading.Barrier(25)
threads = [threading.Thread(target=start.wait) for _ in range(24)]
for thread in threads: thread.start()
start.wait()
for thread in threads: thread.join()
"""


def test_there_is_the_whole_library_and_no_capability(box: Sandbox, unnamespaced: Sandbox) -> None:
    """Also of a Python that only root may read, and modules that the server has not loaded."""
    program = "import ast, html, mmap, multiprocessing, zlib\nimport os\n" + RIGHT
    closed = "import os\nos.mkdir('a', 0)\ntry: os.listdir('a')\nfinally: os.rmdir('a')\n" + RIGHT
    for sandbox in (box, unnamespaced):
        assert sandbox.check(program, "", TEST, "f").passed
        assert sandbox.check(closed, "", TEST, "f").why.startswith("PermissionError")


@pytest.mark.parametrize("without", [(), ("user", "bwrap")])
def test_threads_do_not_depend_on_what_runs_beside(without: tuple[str, ...]) -> None:
    """Neither on other candidates, of which four have more threads than one may, nor on the number of cores."""
    with make(*without, limits=Limits(seconds=2.0)) as box:
        box.workers = 4
        assert {v.why for v in box.check_many([Case(THREADS + RIGHT, "", TEST, "f")] * 12)} == {""}


def test_forks_are_few_where_they_are_not_forbidden(unfiltered: Sandbox) -> None:
    program = """
import os, time
def f(x):
    for made in range(1000):
        try:
            if os.fork() == 0: time.sleep(100)
        except OSError:
            return made
"""
    assert unfiltered.check(program, "", "def check(f):\n    assert 10 < f(0) < 100\n", "f").passed
