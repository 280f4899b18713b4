"""What the parent must survive, and what must be gone afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import evals
from evals.sandbox import Case, Limits, Sandbox, shared
from evals.sandbox import box as box_module
from evals.sandbox.inside import server
from evals.sandbox.process import Server
from evals.sandbox.verdict import Isolation
from tests.evals.sandbox.conftest import LIMITS, make
from tests.evals.sandbox.naive import RIGHT, TEST

ROOT = Path(evals.__file__).resolve().parent.parent


def below(pid: int) -> list[int]:
    """Processes that descend from ``pid``, zombies among them."""
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                found += [int(child), *below(int(child))]
    return found


def soon(condition: Callable[[], bool]) -> bool:
    for _ in range(1000):
        if condition():
            return True
        time.sleep(0.01)
    return False


def server_pid(box: Sandbox) -> int:
    assert box._server is not None
    return box._server.pid


def right(box: Sandbox) -> bool:
    return box.check(RIGHT, "", TEST, "f").passed


def test_nothing_is_left_after_checks() -> None:
    before = set(below(os.getpid()))
    with make() as box:
        assert right(box)
        pid = server_pid(box)
        assert soon(lambda: below(pid) == [])
        open_before = len(os.listdir("/proc/self/fd"))
        server_before = len(os.listdir(f"/proc/{pid}/fd"))
        programs = [RIGHT, "import os\nos._exit(0)", "while True: pass", "import os\nos.fork()", "def f(x): return 1"]
        box.check_many([Case(p, "", TEST, "f") for p in programs * 4])
        assert soon(lambda: below(pid) == [])
        assert soon(lambda: len(os.listdir("/proc/self/fd")) == open_before)
        assert soon(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= server_before)
    assert soon(lambda: set(below(os.getpid())) <= before)


def test_forks_die_with_their_check() -> None:
    """Without seccomp a candidate may fork; with it, see the attacks."""
    bomb = "import os, time\nfor _ in range(10000):\n    try: os.fork()\n    except OSError: time.sleep(0.01)\n"
    orphan = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(100)\n" + RIGHT
    with make("seccomp", "landlock", "bwrap") as box:
        pid = server_pid(box)
        assert box.check(orphan, "", TEST, "f").outcome
        assert soon(lambda: below(pid) == [])
        assert not box.check(bomb, "", TEST, "f").passed
        assert soon(lambda: below(pid) == [])
        assert right(box)


def test_order_is_kept() -> None:
    cases = [
        Case(f"def f(x):\n    return {n}", "", f"def check(c):\n    assert c(0) == {n % 3}\n", "f") for n in range(12)
    ]
    with make() as box:
        assert [v.passed for v in box.check_many(cases)] == [n < 3 for n in range(12)]


def test_a_dead_server_is_replaced() -> None:
    with make() as box:
        old = server_pid(box)
        os.kill(old, signal.SIGKILL)
        assert right(box)
        assert server_pid(box) != old


def test_a_server_that_dies_in_a_check_is_replaced_once() -> None:
    with make(limits=Limits(seconds=30.0, wall=60.0)) as box:
        killed: list[int] = []

        def kill(times: int) -> None:
            for _ in range(times):
                assert soon(
                    lambda: bool(box._server) and server_pid(box) not in killed and bool(below(server_pid(box)))
                )
                killed.append(server_pid(box))
                children = below(killed[-1])
                os.kill(killed[-1], signal.SIGKILL)
                assert soon(lambda: not any(os.path.exists(f"/proc/{c}") for c in children))  # noqa: B023

        killer = threading.Thread(target=kill, args=(2,))
        killer.start()
        verdict = box.check("def f(x):\n    while True: pass", "", TEST, "f")
        killer.join()
        assert len(killed) == 2
        assert (verdict.outcome, verdict.why) == ("killed", "the fork server died 2 times under it")
        assert right(box)


def test_a_stopped_checker_is_ended() -> None:
    """The server speaks for it; here it is stopped from outside, as no candidate can."""
    with make(limits=Limits(seconds=1.0, wall=0.1)) as box:

        def stop() -> None:
            assert soon(lambda: bool(below(server_pid(box))))
            os.kill(below(server_pid(box))[0], signal.SIGSTOP)

        stopper = threading.Thread(target=stop)
        stopper.start()
        verdict = box.check("while True: pass", "", TEST, "f")
        stopper.join()
        assert verdict.outcome == "timeout"
        assert soon(lambda: below(server_pid(box)) == [])


def test_a_test_that_ends_its_process_harms_no_other_check() -> None:
    with make() as box:
        pid = server_pid(box)
        for test in ("import os; os._exit(0)", "def check(candidate):\n    import os; os._exit(3)\n"):
            with pytest.raises(RuntimeError, match="the checker ended by exit"):
                box.check(RIGHT, "", test, "f")
        assert right(box)
        assert server_pid(box) == pid


def test_a_server_that_cannot_fork_says_so_and_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mine, check = socket.socketpair()

    def no_fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with ours, theirs, mine:
        socket.send_fds(ours, [b'{"wall": 1.0}'], [check.fileno()])
        check.close()
        monkeypatch.setattr(server.os, "fork", no_fork)
        assert server.Server(theirs, server.layers.Layers((), 0, False), "").start()
        outcome, why, _ = json.loads(mine.recv(4096)[4:])
        assert mine.recv(1) == b""
    assert (outcome, "Resource temporarily unavailable" in why) == ("broken", True)


def test_after_a_fork_the_child_has_a_server_of_its_own() -> None:
    try:
        box = shared()
    except ValueError as error:
        pytest.skip(str(error))
    assert shared() is box
    assert right(box)
    mine = server_pid(box)
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            code = 0 if right(shared()) and server_pid(shared()) != mine else 1
            shared().close()
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert server_pid(box) == mine
    assert right(box)


def test_a_closed_sandbox_says_so() -> None:
    box = make()
    box.close()
    box.close()
    with pytest.raises(ValueError, match="closed"):
        right(box)


def test_without_isolation_it_takes_consent() -> None:
    bare = ("user", "seccomp", "landlock", "bwrap")
    with pytest.raises(ValueError, match=r"got rlimits.*consent=True"):
        Sandbox(without=bare)
    with Sandbox(limits=LIMITS, without=bare, consent=True) as box:
        verdict = box.check(RIGHT, "", TEST, "f")
        assert (verdict.outcome, verdict.isolation) == ("passed", "rlimits")
        assert box.check("import os\nos._exit(0)", "", TEST, "f").outcome == "failed"
        assert box.check("while True: pass", "", TEST, "f").outcome == "timeout"


def test_bubblewrap_where_there_are_no_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[bool] = []

    class Fake(Server):
        def __init__(self, without: tuple[str, ...], bubblewrap: bool = False) -> None:
            started.append(bubblewrap)
            self.isolation = Isolation(
                ("user", "net", "pid", "mount", "bwrap", "seccomp") if bubblewrap else ("seccomp",)
            )

        def close(self) -> None: ...

    monkeypatch.setattr(box_module, "Server", Fake)
    monkeypatch.setattr(box_module.shutil, "which", lambda name: "/usr/bin/bwrap")
    assert "bwrap" in box_module._start(False, ()).isolation.layers
    assert started == [False, True]
    monkeypatch.setattr(box_module.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="install bubblewrap"):
        box_module._start(False, ())


def test_under_bubblewrap_itself() -> None:
    if box_module.shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    try:
        server = Server(bubblewrap=True)
    except ValueError as error:
        pytest.skip(f"bubblewrap does not work here: {error}")
    try:
        assert server.isolation.enough
        for program, outcome in ((RIGHT, "passed"), ("import os\nos.fork()", "forbidden"), ("def f(x): 1", "failed")):
            case = json.dumps({"program": program, "setup": "", "test": TEST, "entry_point": "f"}).encode()
            answer = server.ask(case, LIMITS)
            assert answer is not None
            assert answer[0] == outcome
    finally:
        server.close()


MEMORY = """
import ctypes
def f(x):
    found = set()
    for line in open("/proc/self/maps"):
        span, rights = line.split()[:2]
        if "r" not in rights or "[v" in line: continue
        low, high = (int(n, 16) for n in span.split("-"))
        data = ctypes.string_at(low, high - low)
        for word in ("in-the-program", "in-the-test"):
            if (word + "-" + "secret").encode() in data: found.add(word)
        del data
    return sorted(found)
"""


def test_the_test_is_never_in_the_candidates_memory() -> None:
    """With /proc in reach, which the sandbox denies, a candidate finds its own text and none of the test's."""
    with Sandbox(limits=Limits(seconds=5.0), without=("user", "seccomp", "landlock", "bwrap"), consent=True) as box:
        program = MEMORY + "\nnote = 'in-the-program-secret'\n"
        test = "note = 'in-the-test-secret'\ndef check(candidate):\n    raise ValueError(candidate(0))\n"
        for _ in range(2):
            assert box.check(program, "", test, "f").why == "ValueError: ['in-the-program']"


UNPRIVILEGED = """
import os, tempfile
from evals.sandbox import Limits, Sandbox
test = "def check(candidate):\\n    assert candidate(2) == 4\\n"
with Sandbox(limits=Limits(seconds=1.0), consent=True) as box:
    print(os.getuid(), box.isolation, *(box.check(p, "", test, "f").outcome for p in (
        "def f(x): return x * x", "import os; os._exit(0)", "import os; os.fork()", "open('/tmp/out', 'w')")))
# Landlock has nothing to say on whose these files are and when they were written, nor early versions on their length.
with tempfile.NamedTemporaryFile(buffering=0) as file, Sandbox(without=("user", "bwrap"), consent=True) as box:
    file.write(b"mine")
    os.utime(file.name, (1, 1))
    kept = os.stat(file.name)
    for harm in ("chmod(name, 0o777)", "utime(name, (5, 5))", "truncate(name, 0)", "open(name, os.O_TRUNC)"):
        verdict = box.check(f"import os\\nname = {file.name!r}\\nos.{harm}\\ndef f(x): return x * x", "", test, "f")
        print(verdict.why.split(":")[0])
    print("filtered" if "seccomp" in box.isolation.layers else "unfiltered", os.stat(file.name) == kept)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="the other tests run as an unprivileged user already")
def test_works_as_an_unprivileged_user(tmp_path: Path) -> None:
    """In a process of user 12345. Python is bound to a folder that this user may enter, as root's may be closed."""
    here = make()
    expected = here.isolation
    here.close()
    packages = next(p for p in sys.path if p.endswith("site-packages"))
    script = f"""
mount --bind {sys.base_prefix} {tmp_path}/python && mount --bind {ROOT} {tmp_path}/code || exit 77
mount --bind {packages} {tmp_path}/packages || exit 77
export PYTHONPATH={tmp_path}/code:{tmp_path}/packages HOME=/nonexistent
cd / && exec setpriv --reuid=12345 --regid=12345 --clear-groups {tmp_path}/python/bin/python3 -B - <<'END'
{UNPRIVILEGED}
END
"""
    for name in ("python", "code", "packages"):
        (tmp_path / name).mkdir()
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    try:
        done = subprocess.run(["unshare", "-m", "bash", "-c", script], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("util-linux is not installed")
    if done.returncode == 77:
        pytest.skip("root may not mount here")
    first, *refused, last = done.stdout.splitlines() or [""]
    assert first.split() == ["12345", str(expected), "passed", "failed", "forbidden", "failed"], done.stderr
    if last.startswith("filtered"):
        assert (refused, last) == (["PermissionError"] * 4, "filtered True"), done.stderr
