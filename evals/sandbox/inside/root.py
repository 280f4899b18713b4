"""A root folder that holds Python's library and shared objects, read-only, and nothing of the host's files."""

from __future__ import annotations

import os
import sys
import sysconfig

from . import kernel

CWD = "/box"  # the candidate's working folder: not /tmp, so that writing to /tmp is writing outside
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")


def readable() -> list[str]:
    """Paths that a Python program needs to load modules: the standard library and the system's shared objects."""
    python = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.join(sys.base_prefix, "lib")]
    found: list[str] = []
    for path in (*python, *SYSTEM):
        covered = any(path == f or path.startswith(f + "/") for f in found)
        if os.path.exists(path) and not covered:
            found.append(path)
    return found


def _bind(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w"):
            pass
    kernel.mount(source, target, None, kernel.MS_BIND | kernel.MS_REC)


def enter(scratch: str) -> None:
    """Makes such a root on the empty folder ``scratch`` and moves this process's mount namespace into it.

    The mount namespace must be a fresh one. The old root is unmounted, so it cannot be reached by any path; there is
    no /proc, no /sys, and only the devices of ``DEVICES``.
    """
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("root", scratch, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=0755,size=1m")
    for path in (*readable(), *DEVICES):
        if os.path.islink(path):  # /lib is often a link into /usr, which is there as well
            os.makedirs(os.path.dirname(scratch + path), exist_ok=True)
            os.symlink(os.readlink(path), scratch + path)
        elif os.path.exists(path):
            _bind(path, scratch + path)
    os.mkdir(scratch + CWD)
    os.chdir(scratch)
    kernel.pivot_root(".", ".")
    kernel.unmount(".")
    os.chdir("/")
    _lock()


def _lock() -> None:
    try:
        kernel.set_mount_attributes("/", kernel.MS_RDONLY | kernel.MS_NOSUID)
    except OSError:  # before Linux 5.12: the root itself; what is bound below it keeps its files' permissions
        kernel.mount(None, "/", None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID)


def private(size: int) -> None:
    """A new, empty, writable folder of ``size`` bytes at ``CWD``, in this process's own mount namespace."""
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("box", CWD, "tmpfs", flags, f"mode=0700,size={size},nr_inodes=1024")
