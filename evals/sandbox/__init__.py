"""Runs untrusted Python, such as a model's answer to a programming problem, and says what became of it::

    with Sandbox(workers=2) as box:
        verdict = box.check(program, setup, test, entry_point)
        print(verdict.outcome, verdict.why, verdict.isolation)

Each check is two new processes. The checker runs the test, which is trusted; the candidate runs the program, behind
namespaces, Landlock, a filter of system calls and rlimits, and answers the test's calls with literals. No code, object
or file descriptor of the checker is in the candidate's reach, so it can fake nothing but its own answers.
Linux only. A program sees Python's standard library, and no installed package.
"""

from evals.sandbox.box import Sandbox, shared
from evals.sandbox.verdict import OUTCOMES, Case, Isolation, Limits, Verdict

__all__ = ["OUTCOMES", "Case", "Isolation", "Limits", "Sandbox", "Verdict", "shared"]
