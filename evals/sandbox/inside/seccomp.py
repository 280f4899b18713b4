"""The filter of a candidate's system calls: classic BPF, written by hand (``Documentation/userspace-api/seccomp``).

Attacks kill the process, so that the checker sees SIGSYS and says "forbidden"; what is merely unusual fails with
ENOSYS, as on an older kernel. The architecture is checked first, and x86_64's second table (x32) is refused,
as numbers mean other calls there.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import sys

from . import kernel
from .syscalls import ALLOWED, ATTACKS, JUDGED, REFUSED

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32 = 0x40000000
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, ENOTTY, ENOSYS = 1, 25, 38
CLONE_THREAD, CLONE_NEW = 0x10000, 0x7E020000  # all namespaces' flags together
OWNERS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: a descriptor that sends signals
CLOSE_ON_EXEC = (0x5450, 0x5451)
NAMES = (15, 16)  # PR_SET_NAME, PR_GET_NAME
TRUNCATE = 0o1000  # O_TRUNC; the two lowest bits are the access: 1 and 2 are writing, 3 is neither
_LOAD, _AND, _EQUAL, _ABOVE, _ANY, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06


def supported() -> bool:
    """Whether the tables speak of this machine: 64-bit x86_64 or aarch64."""
    return os.uname().machine in ARCHITECTURES and sys.maxsize > 1 << 32


def _op(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, true, false, value)


def _ret(value: int) -> bytes:
    return _op(_RETURN, value)


def _argument(index: int, high: bool = False) -> bytes:
    return _op(_LOAD, 16 + 8 * index + 4 * high)  # both machines are little endian


def _one_of(index: int, values: tuple[int, ...], inside: int, outside: int) -> bytes:
    tests = b"".join(_op(_EQUAL, v, len(values) - i, 0) for i, v in enumerate(values))
    return _argument(index) + tests + _ret(outside) + _ret(inside)


def _opening(index: int) -> bytes:
    """No emptying of a file that is not opened for writing (argument ``index`` holds the flags).

    Landlock before version 3 asks only whether it may be read, where this user may write it.
    """
    only = _argument(index) + _op(_AND, TRUNCATE | 3)
    return only + _op(_EQUAL, TRUNCATE, 2, 0) + _op(_EQUAL, TRUNCATE | 3, 1, 0) + _ret(ALLOW) + _ret(ERRNO | EPERM)


def _judgements(pid: int) -> dict[str, bytes]:
    own = _one_of(0, (pid,), ALLOW, KILL)  # abort() signals its own process; anything else is an attack
    thread = _argument(0) + _op(_ANY, CLONE_NEW, 1, 0) + _op(_ANY, CLONE_THREAD, 1, 0) + _ret(KILL) + _ret(ALLOW)
    reads = b"".join((_argument(2), _op(_EQUAL, 0, 0, 2), _argument(2, high=True), _op(_EQUAL, 0, 1, 0)))
    return {
        "clone": thread,
        "clone3": _ret(ERRNO | ENOSYS),  # its flags lie in memory, unseen; libc falls back to clone
        "kill": own,
        "tgkill": own,
        "ioctl": _one_of(1, CLOSE_ON_EXEC, ALLOW, ERRNO | ENOTTY),
        "fcntl": _one_of(1, OWNERS, ERRNO | EPERM, ALLOW),
        "prlimit64": reads + _ret(ERRNO | EPERM) + _ret(ALLOW),
        "open": _opening(1),
        "openat": _opening(2),  # openat2's flags lie in memory, so there is none
        "prctl": _one_of(0, NAMES, ALLOW, ERRNO | EPERM),
    }


@functools.cache  # made once in the server, for process 1 of a namespace, not in each candidate
def program(machine: str, pid: int) -> bytes:
    """The filter for ``machine`` and for the process that knows itself as ``pid``: 8 bytes an instruction."""
    parts = [_op(_LOAD, 4), _op(_EQUAL, ARCHITECTURES[machine], 1, 0), _ret(KILL), _op(_LOAD, 0)]
    parts += [_op(_ABOVE, X32, 0, 1), _ret(KILL)]
    for name, block in _judgements(pid).items():
        if machine in JUDGED[name]:
            parts += [_op(_EQUAL, JUDGED[name][machine], 0, len(block) // 8), block]
    for table, action in ((ALLOWED, ALLOW), (REFUSED, ERRNO | EPERM), (ATTACKS, KILL)):
        for numbers in table.values():
            if machine in numbers:
                parts += [_op(_EQUAL, numbers[machine], 0, 1), _ret(action)]
    return b"".join([*parts, _ret(ERRNO | ENOSYS)])


def install(code: bytes) -> None:
    """Puts the filter on this thread and all that it starts. Needs no_new_privs."""
    buffer = ctypes.create_string_buffer(code, len(code))
    pointer = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    kernel.prctl(kernel.SET_SECCOMP, 2, pointer)
