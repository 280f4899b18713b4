"""Messages over pipes and sockets: 4 bytes of size, little endian, and the body."""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Callable

SIZE = struct.Struct("<I")
READ, WRITE = select.POLLIN, select.POLLOUT


def pack(body: bytes) -> bytes:
    return SIZE.pack(len(body)) + body


def read_exactly(fd: int, count: int) -> bytes:
    """``count`` bytes of a blocking descriptor. Raises ``EOFError`` where it ends before."""
    parts = []
    while count:
        part = os.read(fd, min(count, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def receive(fd: int) -> bytes:
    return read_exactly(fd, SIZE.unpack(read_exactly(fd, 4))[0])


def send(fd: int, body: bytes) -> None:
    data = memoryview(pack(body))
    while data:
        data = data[os.write(fd, data) :]


class Ended(BaseException):
    """The other side has closed its end. No ``Exception``, as a test may catch those."""


class Watched:
    """A pair of non-blocking descriptors to a process that is not trusted; every wait goes through ``tick``.

    Args:
        inbox, outbox: descriptors to read from and to write to; made non-blocking here.
        tick: returns the milliseconds that may pass before it wants to be asked again, or raises.
        limit: bytes of the longest message to be taken.
    """

    def __init__(self, inbox: int, outbox: int, tick: Callable[[], int], limit: int) -> None:
        self._in, self._out, self._tick, self._limit = inbox, outbox, tick, limit
        os.set_blocking(inbox, False)
        os.set_blocking(outbox, False)

    def _ready(self, fd: int, event: int) -> None:
        poll = select.poll()
        poll.register(fd, event)
        while not poll.poll(self._tick()):
            pass

    def send(self, body: bytes) -> None:
        """Raises ``Ended`` where nobody reads any more."""
        data = memoryview(pack(body))
        while data:
            self._ready(self._out, WRITE)
            try:
                data = data[os.write(self._out, data) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise Ended from None

    def _exactly(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            self._ready(self._in, READ)
            try:
                part = os.read(self._in, count - len(parts))
            except BlockingIOError:
                continue
            if not part:
                raise Ended
            parts += part
        return bytes(parts)

    def receive(self) -> bytes:
        """Raises ``Ended`` at the end, ``ValueError`` for a message longer than the limit."""
        (size,) = SIZE.unpack(self._exactly(4))
        if size > self._limit:
            raise ValueError(f"expected a message of at most {self._limit} bytes, got {size}")
        return self._exactly(size)
