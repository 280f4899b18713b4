"""What goes into a check and what comes out: values, no machinery."""

from __future__ import annotations

from dataclasses import dataclass

OUTCOMES = ("passed", "failed", "timeout", "memory", "killed", "forbidden")


@dataclass(frozen=True)
class Limits:
    """What one candidate may use.

    Args:
        seconds: CPU time of the candidate's process, all its threads together. CPU time, so that a loaded machine
            does not change verdicts.
        memory: bytes of address space; Python alone takes about 40 MB of it.
        output: bytes of the longest answer, and of the longest file in its private folder (16 MB in all). What it
            prints goes nowhere, and is not counted.
        wall: wall-clock seconds that the candidate may be idle, for programs that sleep: neither running nor waiting
            for a core, where the kernel says so. Default: five times ``seconds``, at least 10.
    """

    seconds: float = 3.0
    memory: int = 512 << 20
    output: int = 1 << 20
    wall: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("seconds", 0.01), ("memory", 64 << 20), ("output", 1 << 10), ("wall", 0.1)):
            value = getattr(self, name)
            if value is not None and not least <= value < 1 << 40:  # NaN and infinity are neither
                raise ValueError(f"expected {name} of {least} at least, got {value}; give a number")

    @property
    def patience(self) -> float:
        """Wall-clock seconds in force."""
        return max(10.0, 5 * self.seconds) if self.wall is None else self.wall


@dataclass(frozen=True)
class Case:
    """One check.

    Args:
        program: untrusted source that defines ``entry_point``.
        setup: trusted source, run in the checker before the test: what the test uses beside its candidate.
        test: trusted source that defines ``check(candidate)``, with asserts. Its calls carry literals.
        entry_point: the function's name. The test may also call it by that name.
    """

    program: str
    setup: str
    test: str
    entry_point: str


@dataclass(frozen=True)
class Isolation:
    """Layers in force, by name: user, net, pid, mount, ipc, uts (namespaces), bwrap (they are bubblewrap's),
    landlock with the kernel's version of it, seccomp, rlimits.

    ``str`` joins them with "+".
    """

    layers: tuple[str, ...]

    def __str__(self) -> str:
        return "+".join(self.layers)

    @property
    def enough(self) -> bool:
        """Whether this counts as isolation.

        A candidate must not reach the network, change files, signal or read other processes, or leave a process
        behind. Either of two sets of layers sees to all of that, each alone: the user, net, pid and mount namespaces
        (nothing to connect to, a read-only root of its own, no other process in sight, and all die with the first);
        or seccomp, which forbids sockets, signals and new processes, with a mount namespace or Landlock for the files,
        /proc among them. Rlimits alone stop none of it. Bubblewrap's namespaces hold all checks at once, so there it
        takes seccomp to keep them apart.
        """
        held = {"landlock" if name.startswith("landlock") else name for name in self.layers}
        apart = {"user", "net", "pid", "mount"} <= held and "bwrap" not in held
        return apart or ("seccomp" in held and bool({"mount", "landlock"} & held))


@dataclass(frozen=True)
class Verdict:
    """What became of a program.

    Args:
        outcome: one of ``OUTCOMES``: "passed" (the test ran to its end), "failed" (an assertion, another exception, no
            such function, an early exit, an answer that is no literal), "timeout" (CPU or wall clock), "memory"
            (MemoryError, or the kernel ran out of it), "killed" (by a signal, such as a crash), "forbidden" (a
            system call that only an attack needs).
        why: one line, such as "AssertionError" or "exit 0 before the end"; empty for "passed". May hold the program's
            own words.
        isolation: layers in force, joined with "+".
        seconds: CPU time of the candidate.
    """

    outcome: str
    why: str
    isolation: str
    seconds: float

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"
