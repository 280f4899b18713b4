"""Linux system calls that Python's ``os`` lacks, by ctypes. Each raises ``OSError`` where the kernel refuses."""

from __future__ import annotations

import ctypes
import os
import struct
import time

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
AT_RECURSIVE, AT_EMPTY_PATH = 0x8000, 0x1000
PDEATHSIG, SET_DUMPABLE, SET_SECCOMP, SET_NO_NEW_PRIVS = 1, 4, 22, 38
MOUNT_SETATTR = 442  # numbers from 424 on are the same on every machine
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
CAPSET = {"x86_64": 126, "aarch64": 91}

_libc = ctypes.CDLL(None, use_errno=True)


def _done(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def syscall(number: int, *arguments: int | bytes | None) -> int:
    """The raw call: an int goes as a long, bytes as a pointer to them, None as 0."""
    passed = [ctypes.c_long(a or 0) if not isinstance(a, bytes) else ctypes.c_char_p(a) for a in arguments]
    return _done(_libc.syscall(ctypes.c_long(number), *passed), f"system call {number}")


def unshare(flags: int) -> None:
    _done(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [None if t is None else os.fsencode(t) for t in (source, target, kind, data)]
    _done(_libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]), f"mount {target}")


def unmount(target: str, flags: int = MNT_DETACH) -> None:
    _done(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), f"unmount {target}")


def pivot_root(new: str, old: str) -> None:
    syscall(PIVOT_ROOT[os.uname().machine], os.fsencode(new), os.fsencode(old))


def set_mount_attributes(target: str, attributes: int) -> None:
    """``attributes`` (the four lowest MS_ bits) on ``target`` and all mounts below it. Linux 5.12."""
    block = struct.pack("<QQQQ", attributes, 0, 0, 0)
    syscall(MOUNT_SETATTR, -100, os.fsencode(target), AT_RECURSIVE, block, len(block))


def prctl(option: int, value: int = 0, pointer: bytes | None = None) -> None:
    last = ctypes.c_char_p(pointer) if pointer is not None else None
    zero = ctypes.c_ulong(0)
    _done(_libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), last, zero, zero), f"prctl {option}")


def drop_capabilities() -> None:
    """Empties the effective, permitted and inheritable sets: nothing gives them back, as nothing is executed."""
    header = struct.pack("<Ii", 0x20080522, 0)  # version 3, this thread
    syscall(CAPSET[os.uname().machine], header, bytes(24))


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of process ``pid``; the clock's number is made as in ``clock_getcpuclockid``."""
    return time.clock_gettime((~pid << 3) | 2)


def map_user(proc: int | None, uid: int, gid: int) -> None:
    """Maps one user and one group of a new user namespace to themselves. ``proc``: /proc, opened, or None."""
    place = os.open("/proc", os.O_PATH | os.O_DIRECTORY) if proc is None else proc
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            file = os.open(f"self/{name}", os.O_WRONLY, dir_fd=place)
            try:
                os.write(file, text.encode())
            finally:
                os.close(file)
    finally:
        if proc is None:
            os.close(place)
