"""The page's line of RULER: which averages it is over, and how it writes the effective length."""

from __future__ import annotations

import pytest

from evals.page.collect import Run
from evals.page.ruler import effective_lengths, note
from evals.rows import Row
from evals.tasks.registry import GROUPS


def a_run(scores, tasks=GROUPS["ruler"], leave_out=()):
    """Each task has this score at each length."""
    rows = [
        Row(task, length, "memory", i, 0, f"{task} {length} {i}", "", ("a",), "a", score, "ruler_all")
        for task in tasks
        for length, score in scores.items()
        if (task, length) not in leave_out
        for i in range(2)
    ]
    rows += [Row("qa1", 4096, "memory", 0, 0, "d", "", ("a",), "a", 1.0, "exact")]
    return Run("m", "m", tuple(rows))


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({4096: 0.9, 8192: 0.86, 16384: 0.85, 32768: 0.9}, "8k"),  # behind a failure nothing counts
        ({4096: 0.9, 8192: 0.9}, "> 8k"),
        ({4096: 0.5, 8192: 0.9}, "< 4k"),
        ({4096: 0.005, 8192: 0.0}, "< 4k"),
    ],
)
def test_effective_length_is_written_as_in_the_paper(scores, said):
    (line,) = effective_lengths([a_run(scores)])
    assert (line.effective, line.offline) == (said, False)
    assert line.averages == pytest.approx({length: 100 * score for length, score in scores.items()})


def test_only_lengths_with_all_tasks_count_and_eleven_tasks_say_so():
    scores = {4096: 0.9, 8192: 0.9}
    (line,) = effective_lengths([a_run(scores, leave_out={("vt", 8192)})])
    assert line.averages == pytest.approx({4096: 90})
    assert note([line]) == ""
    eleven = effective_lengths([a_run(scores), a_run(scores, GROUPS["ruler-offline"])])
    assert [(one.run, one.offline) for one in eleven] == [(0, False), (1, True)]
    assert "11 that need no files" in note(eleven)
    assert effective_lengths([a_run(scores, ("vt", "cwe"))]) == []
