"""The trusted process of a check: runs the test, and asks the candidate's process for each answer.

Forks the candidate before it reads the case, so that no byte of the test is ever in the candidate's memory. The
verdict is sent by this process alone, over a socket that the candidate does not hold.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import random
import resource
import signal
import time
from typing import Any

from . import candidate, folders, frames, kernel, layers, literals

SLICE = 0.1  # seconds between looks at a candidate that runs; a call that sleeps for less is not counted as idle
REAP = 0.002  # seconds between looks at a candidate that has closed its pipe


class CandidateError(Exception):
    """An exception of the candidate's whose name is none of Python's own."""


class Peer:
    """The candidate's process as the checker sees it.

    The wall-clock limit is on the time that it neither runs nor waits for a core, as far as ``schedule``, its
    /proc/…/schedstat, tells: on a loaded machine a program is not idle while others have the cores.

    ``folder`` is the candidate's, where nothing but this class bounds what it writes there; else empty.

    ``fate`` is set when it can answer no more: (outcome, why). After that no test can pass, whatever it catches.
    """

    def __init__(
        self, pid: int, inbox: int, outbox: int, limits: dict[str, Any], schedule: int = -1, folder: str = ""
    ) -> None:
        self.pid, self._limits, self._folder = pid, limits, folder
        self.pipe = frames.Watched(inbox, outbox, self._tick, limits["output"] + 4096)
        self._schedule = schedule
        self._idle = 0.0
        self._seen = self._look()
        self._inspected = 0.0
        self._before = 0.0
        self.fate: tuple[str, str] | None = None
        self.error: BaseException | None = None
        self.loaded = False
        self.misuse = ""  # what the test did wrong with it, which is no fault of the candidate's
        self.seconds = 0.0

    def _look(self) -> float:
        """Wall-clock seconds less those of running and of waiting for a core (of the main thread)."""
        waited = 0
        if self._schedule >= 0:
            with contextlib.suppress(OSError, ValueError, IndexError):  # it may be gone just now
                waited = int(os.pread(self._schedule, 100, 0).split()[1])
        try:
            ran = kernel.cpu_seconds(self.pid)
        except OSError:
            ran = 0.0
        return time.monotonic() - ran - waited / 1e9

    def _tick(self) -> int:
        now = self._look()
        self._idle += max(0.0, now - self._seen)
        self._seen = now
        used = self.used()
        left = min(self._limits["seconds"] - used, self._limits["wall"] - self._idle)
        if left <= 0:
            kind = "CPU" if used >= self._limits["seconds"] else "wall-clock"
            self.end("timeout", f"out of {kind} time")
        if time.monotonic() - self._inspected > SLICE:
            self._inspect()
        return max(1, int(min(left, SLICE) * 1000))

    def _inspect(self) -> None:
        if self._folder and folders.overfull(self._folder, layers.FOLDER_BYTES):
            self.end(
                "failed",
                f"more than {layers.FOLDER_BYTES >> 20} MB or {folders.ENTRIES} files in its folder, or closed ones",
            )
        self._inspected = time.monotonic()

    def used(self) -> float:
        """CPU seconds since the program came; 0.0 where they cannot be read (the kernel's limit still holds)."""
        if not self.pid:
            return self.seconds
        try:
            return kernel.cpu_seconds(self.pid) - self._before
        except OSError:
            return 0.0

    def end(self, outcome: str, why: str) -> None:
        """Sets the fate, once, and leaves the test."""
        self.fate = self.fate or (outcome, why)
        raise frames.Ended

    def ask(self, body: bytes) -> bytes:
        """Sends ``body`` and returns the reply. Raises ``Ended`` where none will come, and leaves the fate open."""
        if self.fate is not None:
            raise frames.Ended
        self._seen = self._look()  # what passed since the last answer is not the candidate's time
        try:
            self.pipe.send(body)
            reply = self.pipe.receive()
        except ValueError as error:
            self.end("failed", str(error))
        except frames.Ended:
            if self.fate is None:
                self.fate = self._death()
            raise
        self._inspect()
        return reply

    def _death(self) -> tuple[str, str]:
        """Why the pipe closed. A process that closed it and lives on runs into its limits."""
        while True:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                self.seconds = usage.ru_utime + usage.ru_stime
                return self._fate_of(status, usage)
            try:
                self._tick()
            except frames.Ended:
                assert self.fate is not None
                return self.fate
            time.sleep(REAP)

    def _fate_of(self, status: int, usage: resource.struct_rusage) -> tuple[str, str]:
        if os.WIFEXITED(status):
            return "failed", f"exit {os.WEXITSTATUS(status)} before the end"
        number = os.WTERMSIG(status)
        if number == signal.SIGSYS:
            return "forbidden", "a system call that no program needs here"
        if number == signal.SIGXCPU or (number == signal.SIGKILL and self.seconds >= self._limits["seconds"]):
            return "timeout", "out of CPU time"
        if number == signal.SIGKILL and usage.ru_maxrss * 1024 > self._limits["memory"] // 2:
            return "memory", "signal 9 with more than half of the memory in use: the kernel was out of it"
        return "killed", f"signal {number}"

    def load(self, program: str, entry_point: str) -> None:
        self._before = kernel.cpu_seconds(self.pid)
        self.loaded = True
        self._value(self.ask(literals.encode((program, entry_point), 1 << 30)))

    def __call__(self, *positional: Any, **named: Any) -> Any:
        """What the test calls as its candidate: literals there, a literal or an exception back."""
        try:
            if not self.loaded:
                raise TypeError("a call outside of check(candidate)")
            body = literals.encode((positional, named), 1 << 30)
        except TypeError as error:
            self.misuse = str(error)
            raise
        return self._value(self.ask(body))

    def _value(self, reply: bytes) -> Any:
        kind, body = reply[:1], reply[1:]
        if kind == candidate.READY and not body:
            return None
        try:
            value = literals.decode(body)
        except (ValueError, RecursionError) as error:
            self.end("failed", f"malformed answer: {error}")
        if kind == candidate.ANSWER:
            return value
        if kind != candidate.RAISED or not (
            type(value) is tuple and len(value) == 2 and all(type(v) is str for v in value)
        ):
            self.end("failed", "malformed answer")
        self.error = _exception(*value)
        raise self.error

    def close(self) -> None:
        """Ends the candidate's process, and with it its namespaces."""
        if self.pid:
            self.seconds = self.used()
            with contextlib.suppress(OSError):  # without namespaces, its children of the same group
                os.killpg(self.pid, signal.SIGKILL)
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


def _exception(name: str, text: str) -> Exception:
    """Python's own exception of that name, if it is one that a test might expect, else ``CandidateError``."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:  # UnicodeDecodeError and the like take more
            pass
    return CandidateError(f"{name}: {text}" if text else name)


def plain(text: str) -> str:
    """One printable line of at most 200 characters: what is said about a candidate may be its own words."""
    line = text.strip().split("\n")[0]
    return "".join(c if c.isprintable() else "?" for c in line)[:200]


def _describe(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # it may hold an answer, such as an int of more digits than Python prints
        text = ""
    if isinstance(error, CandidateError):
        return plain(text)
    return plain(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def judge(peer: Peer, case: dict[str, str], limits: dict[str, Any]) -> tuple[str, str]:
    """Outcome and why. "passed" only where the test's ``check`` has returned and the candidate kept its limits."""
    space: dict[str, Any] = {"__name__": "checker"}
    try:
        exec(compile(case["setup"], "setup.py", "exec"), space)
        space[case["entry_point"]] = peer  # now, as the test may give it other names
        exec(compile(case["test"], "test.py", "exec"), space)
        check = space["check"]
    except BaseException as error:  # SystemExit, too
        return "unusable", f"expected a setup and a test that define check(candidate), got {_describe(error)}"
    problem: BaseException | None = None
    try:
        peer.load(case["program"], case["entry_point"])
        space[case["entry_point"]] = peer
        check(peer)
    except BaseException as error:
        problem = error
    if peer.misuse:
        return "unusable", f"expected a test that calls its candidate with literals, got: {plain(peer.misuse)}"
    if peer.fate is not None:
        return peer.fate
    if peer.used() >= limits["seconds"]:
        return "timeout", "out of CPU time"
    if problem is None:
        return "passed", ""
    if problem is peer.error and isinstance(problem, MemoryError):
        return "memory", "MemoryError"
    return "failed", _describe(problem)


def run(sock: int, held: layers.Layers, limits: dict[str, Any], scratch: str) -> None:
    """One check, in a process of its own: case in, verdict out, both as JSON over ``sock``. Never returns."""
    folder = layers.open_check(held, scratch)
    to_candidate, to_checker = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        candidate.run(to_candidate[0], to_checker[1], held, limits, folder)
    os.close(to_candidate[0])
    os.close(to_checker[1])
    schedule = -1
    if held.proc >= 0:
        with contextlib.suppress(OSError):
            schedule = os.open(f"{pid}/schedstat", os.O_RDONLY, dir_fd=held.proc)
        os.close(held.proc)
    layers.set_checker_limits(limits["wall"], limits["memory"])
    own = folder if folder.startswith(scratch) else ""
    peer = Peer(pid, to_checker[0], to_candidate[1], limits, schedule, own)
    layers.close_checker(held)
    kernel.prctl(kernel.PDEATHSIG, signal.SIGKILL)  # again, as changed credentials may clear it
    random.seed(0)
    case = json.loads(frames.receive(sock))
    try:
        hello = peer.pipe.receive()
    except frames.Ended:
        hello = b"B the candidate's process ended"
    if hello != candidate.READY:
        outcome, why = "broken", f"isolation could not be set up: {hello[1:].decode(errors='replace')}"
    else:
        outcome, why = judge(peer, case, limits)
    peer.close()
    if own:
        folders.remove(own)
    frames.send(sock, json.dumps([outcome, why, round(peer.seconds, 6)]).encode())
    os._exit(0)
