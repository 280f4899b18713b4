"""The fork server: isolated once, its modules loaded once, it forks a checker for every socket that it is sent.

It never sees a case. A checker reads that from its own socket, and what a later candidate is forked from has held
no program and no test. It ends when the control socket closes, and its checkers with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time

from . import checker, folders, frames, kernel, layers

# What answers to programming problems import. Others load from the standard library when asked for.
MODULES = """
abc array bisect calendar cmath collections collections.abc contextlib copy csv ctypes dataclasses datetime decimal
encodings.idna enum fractions functools hashlib heapq inspect io itertools json keyword math numbers operator os
pathlib pprint queue random re secrets signal socket statistics string struct subprocess sys tempfile textwrap
threading time traceback types typing unicodedata unittest uuid
"""
PATIENCE = 20  # times the wall-clock limit, after which a checker that hangs is ended; busy ones have a CPU limit


class Server:
    """Forks and reaps. ``children`` holds, by process, when it must have ended and its socket."""

    def __init__(self, control: socket.socket, held: layers.Layers, scratch: str) -> None:
        self.control, self.held, self.scratch = control, held, scratch
        self.children: dict[int, tuple[float, int]] = {}
        self.late: set[int] = set()

    def start(self) -> bool:
        """Takes one request and forks; False at the end of the control socket."""
        data, fds, _, _ = socket.recv_fds(self.control, 4096, 1)
        if not data:
            return False
        limits = json.loads(data)
        server = os.getpid()
        try:
            child = os.fork()
        except OSError as error:
            self._say(fds[0], "broken", f"no new process: {error}")
            return True
        if child == 0:
            kernel.prctl(kernel.PDEATHSIG, signal.SIGKILL)
            if os.getppid() != server:  # it died just before
                os._exit(1)
            self._child(fds[0], limits)
        self.children[child] = (time.monotonic() + PATIENCE * limits["wall"], fds[0])
        return True

    def _child(self, sock: int, limits: dict[str, float]) -> None:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            high = os.dup2(sock, 100), os.dup2(self.held.proc, 101) if self.held.proc >= 0 else -1
            os.dup2(high[0], 3)
            proc = os.dup2(high[1], 4) if high[1] >= 0 else -1
            os.closerange(4 if proc < 0 else 5, 1 << 20)
            checker.run(3, dataclasses.replace(self.held, proc=proc), limits, self.scratch)
        except BaseException as error:  # the parent asks again, or says so
            with contextlib.suppress(OSError):
                why = f"the checker failed: {checker.plain(repr(error))}"
                frames.send(3, json.dumps(["broken", why, 0.0]).encode())
        finally:
            os._exit(0)

    def reap(self) -> None:
        """Buries the dead, and speaks for a checker that was ended before it could say its verdict."""
        while self.children:
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                return
            _, sock = self.children.pop(child, (0.0, -1))
            if sock < 0:
                continue
            if self.held.own_folders:  # it may have ended before it could do so
                folders.remove(layers.folder_of(self.scratch, child))
            self._say(sock, *self._ended(status, child in self.late))
            self.late.discard(child)

    def _ended(self, status: int, late: bool) -> tuple[str, str]:
        if late:
            return "timeout", "out of wall-clock time"
        if not os.WIFSIGNALED(status):
            return "broken", f"the checker ended by exit {os.WEXITSTATUS(status)}"
        if os.WTERMSIG(status) == signal.SIGXCPU:
            return "timeout", "the test itself, which computes with the answers, ran out of CPU time"
        return "killed", f"the checker ended by signal {os.WTERMSIG(status)}"

    def _say(self, sock: int, outcome: str, why: str) -> None:
        """The last word of a check; nobody hears it where the checker has given its verdict."""
        with contextlib.suppress(OSError):
            os.write(sock, frames.pack(json.dumps([outcome, why, 0.0]).encode()))
        os.close(sock)

    def overdue(self) -> float | None:
        """Ends checkers past their time; seconds to the next one's end, None without any."""
        now = time.monotonic()
        for child, (end, _) in self.children.items():
            if now >= end and child not in self.late:
                self.late.add(child)
                os.kill(child, signal.SIGKILL)
        ends = [end - now for child, (end, _) in self.children.items() if child not in self.late]
        return max(0.0, min(ends)) if ends else None

    def loop(self) -> None:
        wake, waker = os.pipe()
        os.set_blocking(waker, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(wake, select.POLLIN)
        while True:
            left = self.overdue()
            events = poll.poll(None if left is None else int(left * 1000) + 1)
            for fd, _ in events:
                if fd == wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake, 4096)
                elif not self.start():
                    return
            self.reap()

    def stop(self) -> None:
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        for child in self.children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def main(control_fd: int, scratch: str, without: list[str], outer: list[str]) -> None:
    """Says over the control socket which layers are to be had, then serves.

    Args:
        control_fd: a sequenced-packet Unix socket; a request is limits as JSON, with the check's socket attached.
        scratch: an empty folder, used up.
        without: names of layers not to be used.
        outer: namespaces that this process is in already.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes the socket
    control = socket.socket(fileno=control_fd)
    for name in MODULES.split():
        importlib.import_module(name)
    sys.path = [p for p in sys.path if not os.path.exists(os.path.join(p, "inside", "server.py"))]
    try:
        held = layers.settle(scratch, without, tuple(outer))
    except Exception as error:
        control.send(json.dumps({"error": repr(error)}).encode())
        return
    control.send(json.dumps({"layers": held.names}).encode())
    gc.collect()
    gc.disable()
    gc.freeze()
    server = Server(control, held, scratch)
    try:
        server.loop()
    finally:
        server.stop()
