"""The fork server as its parent sees it: starting it, sending it checks, ending it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence

from evals.sandbox.inside import folders, frames, root
from evals.sandbox.inside.server import PATIENCE
from evals.sandbox.verdict import Isolation, Limits

START = 60.0  # seconds for the server to come up, on a machine that does much else
LATE = 30.0  # seconds beyond a checker's longest time after which the server, which should have ended it, has hung
HERE = os.path.dirname(os.path.abspath(__file__))
OUTER = ("user", "net", "pid", "mount", "ipc", "uts")
# The path is ours for this one import; `inside` needs nothing else of the package, so torch and numpy stay out.
BOOT = (
    "import sys; here, fd, scratch, without, outer = sys.argv[1:]; sys.path.insert(0, here); "
    "from inside.server import main; main(int(fd), scratch, without.split(), outer.split())"
)


def _python() -> str:
    """The interpreter itself, not a virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _bubblewrap(scratch: str) -> list[str]:
    """A bubblewrap command that gives what follows it a root like that of ``inside.root``."""
    python = _python()
    command = [shutil.which("bwrap") or "bwrap", "--unshare-all", "--cap-drop", "ALL", "--dev", "/dev", "--chdir", "/"]
    places = [*root.readable(), HERE, *([] if python.startswith("/usr/lib") else [python])]
    for path in places:
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        else:
            command += ["--ro-bind", path, path]
    return [*command, "--bind", scratch, scratch, "--"]


class Server:
    """One running fork server. ``isolation`` says what it found.

    Raises:
        ValueError: where it does not come up.
    """

    def __init__(self, without: Sequence[str] = (), bubblewrap: bool = False) -> None:
        self._scratch = tempfile.mkdtemp(prefix="sandbox-")
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Not `-I`, which is `-s -P -E`: the environment is ours, and fixes the order of sets, so that a verdict is the
        # same each time.
        # One arena, as glibc sets aside 64 MB of address space for each of up to eight a core: how many threads a
        # candidate's memory has room for would depend on the machine.
        environment = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "1"}
        if "LD_LIBRARY_PATH" in os.environ:  # a Python built outside the system's folders may need it
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        command = [_python(), "-s", "-S", "-P", "-B", "-c", BOOT, HERE, str(theirs.fileno()), self._scratch]
        command += [" ".join(without), " ".join(OUTER if bubblewrap else ())]
        with theirs:
            self._process = subprocess.Popen(
                [*(_bubblewrap(self._scratch) if bubblewrap else ()), *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a Ctrl-C at the terminal is for the parent
            )
        try:
            self._control.settimeout(START)
            hello = json.loads(self._control.recv(1 << 16) or b'{"error": "it ended at once"}')
            self._control.settimeout(None)
        except OSError as error:
            hello = {"error": repr(error)}
        if "error" in hello:
            self.close()
            raise ValueError(f"expected the sandbox's fork server to start, got {hello['error']}; see evals.sandbox")
        self.isolation = Isolation(tuple(hello["layers"]))

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, case: bytes, limits: Limits) -> tuple[str, str, float] | None:
        """Outcome, why and CPU seconds of one check; None where the server died under it. Threads may ask at once."""
        request = {
            "seconds": limits.seconds,
            "memory": limits.memory,
            "output": limits.output,
            "wall": limits.patience,
        }
        mine, theirs = socket.socketpair()
        with mine:
            try:
                with theirs, self._lock:
                    socket.send_fds(self._control, [json.dumps(request).encode()], [theirs.fileno()])
                mine.settimeout(PATIENCE * limits.patience + LATE)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its last word may still be there
                    mine.sendall(frames.pack(case))
                outcome, why, seconds = json.loads(_receive(mine))
            except TimeoutError:
                self.kill()
                return None
            except (OSError, EOFError):
                return None
        return outcome, why, seconds

    def kill(self) -> None:
        """At once; checkers die with their parent, and candidates with theirs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def close(self) -> None:
        """Ends the server and all that it started. In a forked child of its owner: only lets go of it."""
        self._control.close()
        if os.getpid() != self._owner:
            self._process.returncode = 0  # not ours to wait for
            return
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        folders.remove(self._scratch)


def _receive(sock: socket.socket) -> bytes:
    def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = sock.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    return exactly(frames.SIZE.unpack(exactly(4))[0])
