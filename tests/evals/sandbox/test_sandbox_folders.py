"""Working folders in the host's file system: bounded, and gone afterwards, whatever a candidate made in them."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path

import pytest

from evals.sandbox import Limits, Sandbox
from evals.sandbox.inside import folders
from tests.evals.sandbox.conftest import make
from tests.evals.sandbox.naive import RIGHT, TEST

FILL = """
def f(x):
    for n in range({count}):
        with open(f'{{x}}-{{n}}', 'w') as file: file.write('x' * {size})
    return x * x
"""
CLOSED = (
    "import os\nos.umask(0)\nos.mkdir('a')\nopen('a/b', 'w').close()\nos.mkdir('a/c', 0)\nos.mkdir('d', 0)\n" + RIGHT
)


def scratch(box: Sandbox) -> str:
    assert box._server is not None
    return box._server._scratch


@pytest.mark.parametrize(("count", "size"), [(40, 1 << 20), (2000, 0)])
def test_a_candidate_cannot_fill_the_disk(count: int, size: int, box: Sandbox, unnamespaced: Sandbox) -> None:
    program = FILL.format(count=count, size=size)
    for sandbox in (box, unnamespaced):
        assert sandbox.check(program, "", TEST, "f").outcome == "failed"
        assert sandbox.check(FILL.format(count=3, size=1000), "", TEST, "f").passed
    assert "MB or" in unnamespaced.check(program, "", TEST, "f").why


def test_nothing_is_left_of_a_check_or_of_a_checker_that_died(unnamespaced: Sandbox) -> None:
    unnamespaced.check(CLOSED, "", TEST, "f")
    assert os.listdir(scratch(unnamespaced)) == []
    with make("user", "bwrap", limits=Limits(seconds=0.5, wall=0.9)) as box:
        place = scratch(box)
        test = "def check(candidate):\n    candidate(1)\n    while True: pass\n"
        assert box.check(FILL.format(count=3, size=1000), "", test, "f").outcome == "timeout"
        assert os.listdir(place) == []
    assert not os.path.exists(place)


def test_removal_takes_no_recursion_and_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    place = tmp_path / "place"
    for number in range(150):
        place = place / "d"
        place.mkdir(parents=True)
        (place / "file").write_text("x")
        (place / "link").symlink_to(outside)
        (place / f"{number}").mkdir(mode=0)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        folders.remove(str(tmp_path / "place"))
    finally:
        sys.setrecursionlimit(limit)
    assert os.listdir(tmp_path) == ["outside"]
    assert (outside / "kept").is_dir()
    folders.remove(str(tmp_path / "never"))


def test_what_is_overfull(tmp_path: Path) -> None:
    most = 1000
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("x" * most)
    (tmp_path / "link").symlink_to("/usr")
    assert not folders.overfull(str(tmp_path), most + 4)
    assert folders.overfull(str(tmp_path), most - 1)
    for number in range(folders.ENTRIES):
        (tmp_path / "a" / f"{number}").touch()
    assert folders.overfull(str(tmp_path), most + 4)
    assert not folders.overfull(str(tmp_path / "never"), most)
