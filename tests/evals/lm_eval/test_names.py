"""Names of our tasks, and the files that lm-eval finds them by."""

from __future__ import annotations

import subprocess
import sys

import pytest

from evals.lm_eval.names import parse, wanted, write


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rmt_qa1_4k", ("qa1", 4_000)),
        ("rmt_niah_single_1_128k", ("niah_single_1", 128_000)),
        ("rmt_qa_1_4096", ("qa_1", 4_096)),
        ("rmt_ruler-offline_1M", ("ruler-offline", 1_000_000)),
    ],
)
def test_a_name_is_a_task_and_a_length(name, expected):
    assert parse(name) == expected


@pytest.mark.parametrize("name", ["rmt_qa1", "rmt_qa1_0", "rmt_qa1_k", "qa1_4k", "rmt_nothing_4k", "rmt_qa1_4x"])
def test_anything_else_is_refused(name):
    with pytest.raises(ValueError, match="task: expected"):
        parse(name)


def test_names_of_ours_are_picked_out():
    assert wanted(["hellaswag", "rmt_qa1_3k", "rmt_qa1_3k", "ruler"]) == ["rmt_qa1_3k"]
    assert wanted(["rmt_qa2_*k"]) == [f"rmt_qa2_{n}k" for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)]
    assert wanted(["niah_*"]) == []
    assert wanted(["rmt_image*", "rmt_emergence_*"]) == []  # lm-eval shows no images
    with pytest.raises(ValueError, match="nothing"):
        wanted(["rmt_nothing_4k"])


def test_lm_eval_finds_tasks_and_groups(tmp_path):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    from lm_eval.tasks import TaskManager

    write(tmp_path, ["rmt_qa1_4k", "rmt_babilong_4k"], "tests.evals.words.source")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    assert manager.all_subtasks == [f"rmt_qa{n}_4k" for n in range(1, 6)]
    assert manager.all_tags == ["rmt_babilong_4k"]


def test_importing_the_package_and_its_names_brings_nothing_heavy():
    code = "import sys, evals.lm_eval, evals.lm_eval.names; print({'lm_eval', 'torch', 'datasets'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
