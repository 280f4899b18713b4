"""The layers of isolation: which are to be had here, and how a process puts them on.

Two levels: ``settle`` once in the fork server (another user, another root folder), the rest anew for each check.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from . import kernel, landlock, root, seccomp

NOBODY = 65534  # Linux's overflow user: owns no file
THREADS = 64
SHARED_THREADS = 4096  # where all that this user runs is counted, and only threads can be started
FILES = 64
FOLDER_BYTES = 16 << 20
TEST_BYTES = 512 << 20  # of address space that a test may use on top of what its candidate may
NAMESPACES = {
    "user": kernel.NEWUSER,
    "net": kernel.NEWNET,
    "pid": kernel.NEWPID,
    "mount": kernel.NEWNS,
    "ipc": kernel.NEWIPC,
    "uts": kernel.NEWUTS,
}


@dataclass(frozen=True)
class Layers:
    """Namespaces made anew for each check, Landlock's version or 0, whether system calls are filtered.

    ``outer`` are namespaces that the whole server is in already, as under bubblewrap; ``paths`` what a candidate may
    read; ``proc`` the host's /proc, opened, for the server and its checkers alone, or -1.
    """

    namespaces: tuple[str, ...]
    landlock: int
    filtered: bool
    outer: tuple[str, ...] = ()
    paths: tuple[str, ...] = ("/",)
    proc: int = -1

    @property
    def own_folders(self) -> bool:
        """Whether candidates have folders in ``scratch``, as there is no file system for each."""
        return "mount" not in self.namespaces

    @property
    def names(self) -> list[str]:
        """In order: namespaces, landlock with its version, seccomp, rlimits."""
        held = [name for name in NAMESPACES if name in self.namespaces or name in self.outer]
        held += ["bwrap"] if self.outer else []
        held += [f"landlock{self.landlock}"] if self.landlock else []
        return [*held, *(["seccomp"] if self.filtered else []), "rlimits"]


def works(action: Callable[[], object]) -> bool:
    """Whether ``action`` succeeds, tried in a child process that ends with it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def settle(scratch: str, without: Iterable[str], outer: tuple[str, ...]) -> Layers:
    """Moves this process, for good, as far from the host as it may go, and says which layers checks can have.

    Real root builds the new root folder first, while it may read everything, then becomes ``NOBODY``; others need a
    user namespace for it. ``scratch`` is an empty folder; where there is no mount namespace, checks get folders in it.
    """
    left_out = set(without)
    paths = root.readable()  # now, as working it out loads modules
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY) if os.path.isdir("/proc/self") else -1  # no new root has it
    version = landlock.version() if "landlock" not in left_out else 0
    if seccomp.supported():
        seccomp.program(os.uname().machine, 1)
    filtered = "seccomp" not in left_out and seccomp.supported() and works(_try_filter)
    spaces = _spaces(left_out) if not outer else []
    entered = False
    if spaces:
        if "mount" in spaces and os.getuid() == 0 and works(lambda: kernel.unshare(kernel.NEWNS)):
            kernel.unshare(kernel.NEWNS)
            root.enter(scratch)
            entered = True
        _become_nobody(None if entered else scratch)
        uid, gid = os.getuid(), os.getgid()
        kernel.unshare(kernel.NEWUSER | (kernel.NEWNS if "mount" in spaces else 0))
        kernel.map_user(proc, uid, gid)
        if "mount" in spaces and not entered and works(lambda: _enter_apart(scratch)):
            root.enter(scratch)
            entered = True
        if not entered and "mount" in spaces:
            spaces.remove("mount")
    elif not (version and filtered) or works(lambda: _read_as_nobody(paths)):
        _become_nobody(scratch)
    # Else real root stays, as its Python lies where nobody else may read (/root/miniconda3 in a container): its
    # candidates could load no module. They lose its capabilities, and what a file's owner may do beyond the two layers.
    kernel.prctl(kernel.SET_DUMPABLE, 0)  # nothing may trace this process or read it through /proc
    return Layers(tuple(spaces), version, filtered, outer, ("/",) if entered else tuple(paths), proc)


def _read_as_nobody(paths: Iterable[str]) -> None:
    _become_nobody(None)
    for path in paths:
        if os.path.isdir(path):
            os.listdir(path)
        else:
            os.stat(path)


def _enter_apart(scratch: str) -> None:
    kernel.unshare(kernel.NEWNS)  # a trial must not change the mounts that it shares with its parent
    root.enter(scratch)


def _spaces(without: set[str]) -> list[str]:
    """Names of the namespaces that an unprivileged process may make, "user" first; none without "user"."""

    def make(flags: int) -> Callable[[], None]:
        def action() -> None:
            _become_nobody(None)
            uid, gid = os.getuid(), os.getgid()  # behind unshare they are unknown
            kernel.unshare(kernel.NEWUSER)
            kernel.map_user(None, uid, gid)
            kernel.unshare(flags)

        return action

    if "user" in without or not works(make(0)):
        return []
    return ["user", *(n for n, f in NAMESPACES.items() if n != "user" and n not in without and works(make(f)))]


def _become_nobody(folder: str | None) -> None:
    """Real root gives up its user, group and groups, and hands ``folder`` over; others stay who they are."""
    if os.getuid() != 0:
        return
    try:
        if folder is not None:
            os.chown(folder, NOBODY, NOBODY)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError:  # root of a user namespace with no other user in it is no real root
        return
    kernel.prctl(kernel.SET_DUMPABLE, 1)  # else /proc/self, and the user map in it, would still be root's


def _try_filter() -> None:
    kernel.prctl(kernel.SET_NO_NEW_PRIVS, 1)
    seccomp.install(seccomp.program(os.uname().machine, os.getpid()))


def open_check(layers: Layers, scratch: str) -> str:
    """The checker's step: new namespaces for this check, whose first child is process 1 of its own.

    Returns:
        The candidate's working folder, empty: in a file system of its own, else in ``scratch``, to be removed after.
    """
    flags = 0
    for name in layers.namespaces:
        flags |= (
            NAMESPACES[name] if name != "user" else 0
        )  # that one the candidate makes, so it rules over none of these
    kernel.unshare(flags)
    if not layers.own_folders:
        root.private(FOLDER_BYTES)
        return root.CWD
    folder = folder_of(scratch, os.getpid())
    os.mkdir(folder, 0o700)
    return folder


def folder_of(scratch: str, checker: int) -> str:
    """The candidate's folder in ``scratch``, by its checker's process."""
    return os.path.join(scratch, f"check{checker}")


def close_checker(layers: Layers) -> None:
    """The checker's second step, after its fork: no capabilities and no writing, though what it runs is trusted."""
    if layers.namespaces or os.getuid() == 0:
        kernel.drop_capabilities()
    kernel.prctl(kernel.SET_NO_NEW_PRIVS, 1)
    if layers.landlock and "mount" in layers.namespaces:  # else it has the working folder to remove
        landlock.restrict(layers.landlock, [("/", landlock.READ)], alone=False)  # it ends the candidate


def set_checker_limits(wall: float, memory: int) -> None:
    """The checker's rlimits: the test is trusted, but what it computes of an answer (``range(answer)``) may not end."""
    busy = int(wall) + 2  # CPU seconds
    resource.setrlimit(resource.RLIMIT_CPU, (busy, busy + 1))  # SIGXCPU first, which says why it ended
    _limit(resource.RLIMIT_AS, memory + TEST_BYTES)


def set_limits(seconds: float, memory: int, output: int) -> None:
    """The candidate's rlimits. The checker watches CPU time; the kernel's own limit, in whole seconds, is behind it."""
    cpu = int(seconds) + 2
    limits = {
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: output,
        resource.RLIMIT_NOFILE: FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in limits.items():
        _limit(kind, value)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def close_candidate(layers: Layers, folder: str) -> None:
    """The candidate's step, before it is told anything: all that is to be given up."""
    os.chdir(folder)
    if "user" in layers.namespaces:
        kernel.unshare(kernel.NEWUSER)
    if "user" in layers.namespaces or os.getuid() == 0:
        kernel.drop_capabilities()
    # Behind that, as the limit at the making of a user namespace is one on all that the user runs outside, too: then
    # what runs beside a candidate would decide whether it may start a thread.
    shared = layers.filtered and "user" not in layers.namespaces
    _limit(resource.RLIMIT_NPROC, SHARED_THREADS if shared else THREADS)
    kernel.prctl(kernel.SET_NO_NEW_PRIVS, 1)
    if layers.landlock:
        rules = [(path, landlock.READ) for path in layers.paths]
        devices = [(path, landlock.READ_FILE | landlock.WRITE_FILE) for path in root.DEVICES]
        landlock.restrict(layers.landlock, [*rules, *devices, (folder, landlock.WRITE)], alone=True)
    kernel.prctl(kernel.PDEATHSIG, 9)  # after the last change of credentials, which clears it
    if layers.filtered:
        seccomp.install(seccomp.program(os.uname().machine, os.getpid()))
