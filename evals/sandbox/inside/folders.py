"""A candidate's working folder where it lies in the host's own file system: how full it is, and its removal.

What is in it was made by a program that is not trusted: names, depth and permissions may be anything.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat

ENTRIES = 1024  # files and folders, as in a file system of its own (``root.private``)


def overfull(folder: str, most: int) -> bool:
    """Whether there are more than ``most`` bytes or ``ENTRIES`` entries in it, or some that cannot be looked at."""
    places, entries, size = [folder], 0, 0
    while places:
        try:
            with os.scandir(places.pop()) as found:
                for entry in found:
                    info = entry.stat(follow_symlinks=False)
                    entries += 1
                    if stat.S_ISDIR(info.st_mode):
                        places.append(entry.path)
                    else:
                        size += info.st_size
                    if entries > ENTRIES or size > most:
                        return True
        except (FileNotFoundError, NotADirectoryError):  # gone meanwhile
            continue
        except OSError:  # closed to its owner, or too deep for a path
            return True
    return False


def remove(folder: str) -> None:
    """Removes it with all that is in it, however deep, and follows no link. What cannot be removed stays.

    Folders are brought up to the top and emptied there, as ``shutil.rmtree`` calls itself once a level.
    """
    with contextlib.suppress(OSError):
        top = _open(folder, None)
        try:
            while names := os.listdir(top):
                for name in names:
                    _remove(name, top)
        finally:
            os.close(top)
        os.rmdir(folder)


def _remove(name: str, top: int) -> None:
    """An entry of the folder ``top``; folders in it move up, to be removed next."""
    if not _is_folder(name, top):
        os.unlink(name, dir_fd=top)
        return
    place = _open(name, top)
    try:
        for inner in os.listdir(place):
            if not _is_folder(inner, place):
                os.unlink(inner, dir_fd=place)
                continue
            higher = secrets.token_hex(16)  # no name that was there before
            try:
                os.rename(inner, higher, src_dir_fd=place, dst_dir_fd=top)
            except PermissionError:  # what moves must be open to its owner
                os.chmod(inner, 0o700, dir_fd=place)
                os.rename(inner, higher, src_dir_fd=place, dst_dir_fd=top)
    finally:
        os.close(place)
    os.rmdir(name, dir_fd=top)


def _is_folder(name: str, place: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode)


def _open(name: str, place: int | None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        found = os.open(name, flags, dir_fd=place)
        if os.access(".", os.W_OK | os.X_OK, dir_fd=found, effective_ids=True):
            return found
        os.close(found)
    except PermissionError:
        pass
    os.chmod(name, 0o700, dir_fd=place)  # its owner is this process's user
    return os.open(name, flags, dir_fd=place)
