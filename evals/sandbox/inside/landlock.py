"""Landlock (``Documentation/userspace-api/landlock``): a process gives up files, ports and signals for good.

Versions differ in what they can take away; all that the kernel knows is taken away. Version 7, of Linux 6.15, adds
only what is logged to version 6.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

from . import kernel

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1, 2, 4, 8, 1 << 14
REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REGULAR, MAKE_LINK, REFER = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 12, 1 << 13
READ = READ_FILE | READ_DIR
WRITE = READ | WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REGULAR | MAKE_LINK | REFER
_FILES = READ_FILE | WRITE_FILE | TRUNCATE | EXECUTE  # rights that a rule on a file, not a folder, may hold


def version() -> int:
    """The kernel's version of Landlock, 0 where there is none."""
    try:
        return kernel.syscall(CREATE_RULESET, None, 0, 1)
    except OSError:
        return 0


def handled(version: int) -> tuple[int, int, int]:
    """Rights on files, ports and scopes that a kernel of this version can take away, as bit masks."""
    bits = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    return (1 << bits) - 1, 3 if version >= 4 else 0, 3 if version >= 6 else 0


def restrict(version: int, rules: Sequence[tuple[str, int]], alone: bool) -> None:
    """From now on this process may use only the rights in ``rules`` below each path, and no port.

    ``alone``: it may signal only itself, too, and what it starts.

    Paths that do not exist are left out. Needs no_new_privs.
    """
    files, ports, scopes = handled(version)
    scopes = scopes if alone else 0
    attributes = struct.pack("<QQQ", files, ports, scopes)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = kernel.syscall(CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path, rights in rules:
            try:
                place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                mask = files if os.path.isdir(path) else files & _FILES
                kernel.syscall(ADD_RULE, ruleset, 1, struct.pack("<Qi", rights & mask, place), 0)
            finally:
                os.close(place)
        kernel.syscall(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
