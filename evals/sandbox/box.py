"""``Sandbox``: programs in, verdicts out. Survives the death of its fork server."""

from __future__ import annotations

import atexit
import dataclasses
import json
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from evals.sandbox.process import Server
from evals.sandbox.verdict import Case, Isolation, Limits, Verdict

TRIES = 2


class Sandbox:
    """Checks untrusted programs, each in processes of its own. May be used from several threads, and after a fork.

    What counts as isolation is said at ``Isolation.enough``; where the machine has less, a sandbox refuses to start.

    Args:
        limits: of each candidate.
        workers: checks that ``check_many`` runs side by side; one per core is best.
        consent: run candidates under rlimits and whatever else there is, where that does not count as isolation.
            They may then read and change the files of this user and use the network.
        without: names of layers to leave out ("user", "mount", "landlock", "seccomp", "bwrap", ...): to find out what a
            layer does. Without "user" there are no namespaces at all.

    Raises:
        ValueError: without Linux; and without isolation, unless consented to.
    """

    def __init__(
        self, *, limits: Limits | None = None, workers: int = 2, consent: bool = False, without: Sequence[str] = ()
    ) -> None:
        if workers < 1:
            raise ValueError(f"expected workers of 1 at least, got {workers}; give one per core")
        if sys.platform != "linux":
            raise ValueError(f"expected Linux, got {sys.platform}; run untrusted programs in a Linux container")
        self.limits = limits or Limits()
        self.workers = workers
        self._consent, self._without = consent, tuple(without)
        self._server: Server | None = None
        self._closed = False
        self._reset()
        self.isolation: Isolation = self._running().isolation

    def _reset(self) -> None:
        self._owner, self._lock = os.getpid(), threading.Lock()

    def _running(self) -> Server:
        if os.getpid() != self._owner:  # in a forked child the server is the parent's; the lock may be held for ever
            if self._server is not None:
                self._server.close()
            self._server = None
            self._reset()
        with self._lock:
            if self._closed:
                raise ValueError("expected an open sandbox, got a closed one; make a new one")
            if self._server is None:
                self._server = _start(self._consent, self._without)
            return self._server

    def _discard(self, server: Server) -> None:
        """Ends a server that died or hangs; the next check starts another."""
        with self._lock:
            if self._server is server:
                self._server = None
        server.kill()
        server.close()

    def check(self, program: str, setup: str, test: str, entry_point: str) -> Verdict:
        """Runs one ``Case``.

        Raises:
            ValueError: for a setup or test that does not run by itself or defines no ``check``.
            RuntimeError: where the processes of a check cannot be made, twice in a row.
        """
        if not entry_point.isidentifier():
            raise ValueError(f"expected a function's name, got {entry_point!r}; give the problem's entry point")
        case = json.dumps(dataclasses.asdict(Case(program, setup, test, entry_point))).encode()
        broken = ""
        for _ in range(TRIES):
            server = self._running()
            answer = server.ask(case, self.limits)
            if answer is None:
                self._discard(server)
                broken = ""
                continue
            outcome, why, seconds = answer
            if outcome == "unusable":
                raise ValueError(f"{why}; correct the problem's setup and test")
            if outcome != "broken":
                return Verdict(outcome, why, str(server.isolation), seconds)
            broken = why
        if broken:
            raise RuntimeError(f"expected a check's processes to start, got {broken}; is the machine out of memory?")
        return Verdict("killed", f"the fork server died {TRIES} times under it", str(self.isolation), 0.0)

    def check_many(self, cases: Sequence[Case]) -> list[Verdict]:
        """Verdicts in the order of ``cases``, ``workers`` checks side by side. Raises as ``check`` does."""

        def one(case: Case) -> Verdict:
            return self.check(case.program, case.setup, case.test, case.entry_point)

        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(one, cases))

    def close(self) -> None:
        """Ends the fork server and every process of a check. May be called again."""
        self._closed = True
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_server", None) is not None and not sys.is_finalizing():
            self.close()


def _start(consent: bool, without: tuple[str, ...]) -> Server:
    server = Server(without)
    if "user" not in server.isolation.layers and "bwrap" not in without and shutil.which("bwrap"):
        try:
            other = Server(without, bubblewrap=True)
        except ValueError:  # it is there and may not make namespaces either
            pass
        else:
            if other.isolation.enough:
                server.close()
                return other
            other.close()
    if consent or server.isolation.enough:
        return server
    found = str(server.isolation)
    server.close()
    raise ValueError(
        "expected the user, net, pid and mount namespaces, or seccomp with Landlock or a mount namespace, "
        f"got {found}; allow unprivileged user namespaces, install bubblewrap, or give consent=True to run untrusted "
        "programs without isolation, which may harm this machine"
    )


_shared: Sandbox | None = None
_shared_lock = threading.Lock()


def shared(*, consent: bool = False) -> Sandbox:
    """The process's one sandbox of default limits and one worker a core, started when first asked for, closed at exit.

    Safe after a fork: the child's first check starts a server of its own. Raises as ``Sandbox`` does.
    """
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Sandbox(workers=os.cpu_count() or 1, consent=consent)
            atexit.register(_shared.close)
        if not consent and not _shared.isolation.enough:
            raise ValueError(f"expected isolation, got {_shared.isolation}, consented to before; give consent=True")
        return _shared
