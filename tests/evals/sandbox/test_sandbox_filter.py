"""The seccomp filter, run instruction by instruction for both machines, and its tables against the kernel's headers."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import pytest

from evals.sandbox.inside import landlock, seccomp
from evals.sandbox.inside.syscalls import ALLOWED, ATTACKS, JUDGED, MACHINES, REFUSED

HEADERS = {
    "x86_64": (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), r"#define __NR_(\w+)\s+(\d+)"),
    "aarch64": (Path("/usr/include/asm-generic/unistd.h"), r"#define __NR(?:3264)?_(\w+)\s+(\d+)"),
}
PID = 1


def run(code: bytes, data: bytes) -> int:
    """Classic BPF, as far as the filter uses it: the action for one system call's data."""
    at, value = 0, 0
    while True:
        op, true, false, k = struct.unpack_from("<HBBI", code, 8 * at)
        at += 1
        if op == 0x20:
            (value,) = struct.unpack_from("<I", data, k)
        elif op == 0x54:
            value &= k
        elif op == 0x06:
            return k
        else:
            hit = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[op]
            at += true if hit else false


def call(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, arch or seccomp.ARCHITECTURES[machine], 0, *padded)
    return run(seccomp.program(machine, PID), data)


@pytest.mark.parametrize("machine", MACHINES)
def test_attacks_kill_and_the_rest_runs_or_does_not_exist(machine: str) -> None:
    known = set()
    refused = seccomp.ERRNO | seccomp.EPERM
    for table, action in ((ALLOWED, seccomp.ALLOW), (REFUSED, refused), (ATTACKS, seccomp.KILL)):
        for name, numbers in table.items():
            if machine in numbers:
                assert call(machine, numbers[machine]) == action, name
                known.add(numbers[machine])
    known |= {n[machine] for n in JUDGED.values() if machine in n}
    for number in set(range(600)) - known:
        assert call(machine, number) == seccomp.ERRNO | seccomp.ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_arguments_decide(machine: str) -> None:
    def judged(name: str, *arguments: int) -> int:
        return call(machine, JUDGED[name][machine], *arguments)

    thread = 0x3D0F00  # what glibc passes for a new thread
    assert judged("clone", thread) == seccomp.ALLOW
    for flags in (17, 0x4111, thread & ~0x10000, thread | 0x10000000, thread | 0x40000000, thread | 0x20000):
        assert judged("clone", flags) == seccomp.KILL
    assert judged("clone3", 0) == seccomp.ERRNO | seccomp.ENOSYS
    for name in ("kill", "tgkill"):
        assert judged(name, PID, 6) == seccomp.ALLOW
        for other in (0, 2, 2**32 - 1):
            assert judged(name, other, 9) == seccomp.KILL
    assert judged("ioctl", 0, 0x5412) == seccomp.ERRNO | seccomp.ENOTTY  # TIOCSTI: types into the terminal
    assert judged("ioctl", 0, 0x5451) == seccomp.ALLOW
    assert judged("fcntl", 0, 8) == seccomp.ERRNO | seccomp.EPERM
    assert judged("fcntl", 0, 3) == seccomp.ALLOW
    assert judged("prlimit64", 0, 7, 0) == seccomp.ALLOW
    for pointer in (0x1000, 1 << 32):
        assert judged("prlimit64", 0, 7, pointer) == seccomp.ERRNO | seccomp.EPERM
    for access, creating in ((0, 0), (0, 0o100), (3, 0)):  # reading, and neither reading nor writing
        assert judged("openat", 0, 0, access | creating) == seccomp.ALLOW
        assert judged("openat", 0, 0, access | creating | os.O_TRUNC) == seccomp.ERRNO | seccomp.EPERM
    for access in (os.O_WRONLY, os.O_RDWR):
        assert judged("openat", 0, 0, access | os.O_TRUNC | os.O_CREAT) == seccomp.ALLOW
    if machine == "x86_64":
        assert judged("open", 0, os.O_TRUNC) == seccomp.ERRNO | seccomp.EPERM
        assert judged("open", 0, 0, os.O_TRUNC) == seccomp.ALLOW
    assert judged("prctl", 1) == seccomp.ERRNO | seccomp.EPERM  # PR_SET_PDEATHSIG
    assert judged("prctl", 15) == seccomp.ALLOW


def test_other_tables_are_refused() -> None:
    read = ALLOWED["read"]["x86_64"]
    assert call("x86_64", read) == seccomp.ALLOW
    assert call("x86_64", read, arch=0x40000003) == seccomp.KILL  # i386, where 0 is another call
    assert call("x86_64", read | seccomp.X32) == seccomp.KILL
    assert call("aarch64", 63, arch=seccomp.ARCHITECTURES["x86_64"]) == seccomp.KILL


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_are_the_kernels(machine: str) -> None:
    path, pattern = HEADERS[machine]
    if not path.exists():
        pytest.skip(f"no {path}: the kernel's headers are not installed")
    theirs = {m[1]: int(m[2]) for m in re.finditer(pattern, path.read_text())}
    ours = {
        name: numbers[machine]
        for t in (ALLOWED, REFUSED, ATTACKS, JUDGED)
        for name, numbers in t.items()
        if machine in numbers
    }
    old = {"newfstatat": 79, "fstat": 80} if machine == "aarch64" else {}  # named by macros there
    wrong = {n: (v, theirs.get(n, old.get(n))) for n, v in ours.items() if v != theirs.get(n, old.get(n))}
    # A header may be older than a call; a number that it has must be the same.
    assert not {n: pair for n, pair in wrong.items() if pair[1] is not None}
    assert len(wrong) < 10


def test_landlock_takes_away_what_each_version_knows() -> None:
    files = [landlock.handled(v)[0] for v in (1, 2, 3, 4, 5, 6, 7)]
    assert [f.bit_length() for f in files] == [13, 14, 15, 15, 16, 16, 16]
    assert [landlock.handled(v)[1:] for v in (3, 4, 6)] == [(0, 0), (3, 0), (3, 3)]
