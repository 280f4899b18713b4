"""No known attack scores a pass, and none does its harm. Controls: most of them do with a naive checker."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evals.sandbox import Sandbox, Verdict
from tests.evals.sandbox.attacks import FAKES, HARMS, OTHERS, WRONG
from tests.evals.sandbox.naive import RIGHT, TEST, naive

FORBIDDEN = {"posix.system", "reloaded os", "posix_spawn", "subprocess", "exec", "connect", "unix socket", "orphan"}

WRITES = {
    "posix.system",
    "reloaded os",
    "posix_spawn",
    "subprocess",
    "exec",
    "write outside",
    "write by ctypes",
    "orphan",
}
UNSAFE = {"kill the parent", "stop the parent"}  # the naive checker's parent is this process


def check(box: Sandbox, program: str) -> Verdict:
    return box.check(program, "", TEST, "f")


def appears(path: Path) -> bool:
    """Whether the file is there, or comes within some seconds: an orphan takes its time."""
    for _ in range(500):
        if path.exists():
            return True
        time.sleep(0.01)
    return False


def fake(name: str) -> str:
    program = {**FAKES, **OTHERS}[name]
    return program if "def f(" in program else program + WRONG


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("name", sorted(FAKES))
def test_fakes_fool_the_naive_checker_and_not_the_sandbox(name: str, box: Sandbox, tmp_path: Path) -> None:
    assert naive(fake(name), tmp_path) == "passed"
    assert check(box, fake(name)).outcome == "failed"


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_other_fakes_do_not_pass(name: str, box: Sandbox) -> None:
    verdict = check(box, fake(name))
    assert not verdict.passed
    assert check(box, RIGHT).passed  # the next check is none the worse


@pytest.mark.parametrize(
    "name", ["exit 0 at once", "reply to every descriptor", "endless frames", "catches everything"]
)
def test_fakes_do_not_pass_with_fewer_layers(name: str, unnamespaced: Sandbox, unfiltered: Sandbox) -> None:
    assert not check(unnamespaced, fake(name)).passed
    assert not check(unfiltered, fake(name)).passed


@pytest.mark.parametrize("name", sorted(HARMS))
@pytest.mark.parametrize("kind", ["box", "unnamespaced", "unfiltered"])
def test_harms_are_prevented(
    name: str, kind: str, port: int, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox: Sandbox = request.getfixturevalue(kind)
    os.chmod(tmp_path, 0o777)
    mark = tmp_path / "mark"
    Path(f"{mark}.secret").write_text("secret")
    program = HARMS[name].format(mark=mark, port=port) + "\n" + RIGHT
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)
        listener.bind("mark.sock")
        listener.listen()
        os.chmod("mark.sock", 0o777)
        if kind == "box" and name not in UNSAFE:
            assert naive(program, tmp_path) == "passed"
            if name in WRITES:
                assert appears(mark)
                mark.unlink()
        verdict = check(sandbox, program)
    time.sleep(0.3 if name == "orphan" else 0)
    assert not mark.exists()
    if name == "orphan" and kind == "unfiltered":  # may fork there; what it forks is gone with its namespace
        return
    assert not verdict.passed
    if kind != "unfiltered" and name in FORBIDDEN:
        assert verdict.outcome == "forbidden"
