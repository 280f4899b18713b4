"""A bar on standard error: tokens, tokens/s, time left."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Progress:
    """A bar over tokens, used with ``with``; silent where it is not wanted.

    Args:
        what: what is being done, in a word.
        total: tokens in all, None where nobody knows yet.
        shown: whether to draw at all.
        begun: tokens done before.
    """

    def __init__(self, what: str, total: int | None, shown: bool, begun: int = 0) -> None:
        self._arguments = {"desc": what, "total": total, "initial": begun, "disable": not shown}
        self._bar: Any = None

    def __enter__(self) -> Progress:
        from tqdm import tqdm

        # In a log file a line now and then is enough.
        interval = 0.5 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(
            **self._arguments,
            unit="tok",
            unit_scale=True,
            mininterval=interval,
            dynamic_ncols=True,
            leave=False,
        )
        return self

    def update(self, tokens: int) -> None:
        """So many more."""
        self._bar.update(tokens)

    def of(self, total: int | None) -> None:
        """So many there are, once somebody knows."""
        if total is not None and self._bar.total is None:
            self._bar.total = total
            self._bar.refresh()

    def upto(self, _: int, tokens: int) -> None:
        """So many in all; takes the characters first, as ``TokenFile.build`` reports."""
        self._bar.update(tokens - self._bar.n)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
