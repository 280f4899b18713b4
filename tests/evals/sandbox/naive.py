"""A checker as it is often written: everything in one process by exec(). The control that an attack works at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TEST = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 9\n"
RIGHT = "def f(x):\n    return x * x\n"

SCRIPT = """
import json, sys
program, test, out = json.load(sys.stdin)

def report(verdict):
    with open(out, "w") as file:
        file.write(verdict)

def judge():
    space = {}
    try:
        exec(program + "\\n" + test + "\\ncheck(f)", space)
        verdict = "passed"
    except BaseException as error:
        verdict = f"failed: {type(error).__name__}"
    report(verdict)

judge()
"""


def naive(program: str, folder: Path, test: str = TEST) -> str:
    """The verdict of that checker in a process of its own, in ``folder``; "timeout" after five seconds."""
    out = folder / "verdict"
    try:
        subprocess.run(
            [sys.executable, "-I", "-c", SCRIPT],
            input=json.dumps([program, test, str(out)]),
            text=True,
            cwd=folder,
            timeout=5,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return "timeout"
    return out.read_text() if out.exists() else "nothing"
