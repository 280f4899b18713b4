"""Sandboxes with and without some layers, one of each for the tests of a process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from evals.sandbox import Limits, Sandbox

LIMITS = Limits(seconds=1.0, memory=256 << 20, wall=2.0)


def make(*without: str, limits: Limits = LIMITS) -> Sandbox:
    """A sandbox, or a skip with the reason where this machine has no isolation."""
    try:
        return Sandbox(limits=limits, workers=2, without=without)
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="package")
def box() -> Iterator[Sandbox]:
    with make() as sandbox:
        yield sandbox


@pytest.fixture(scope="package")
def unnamespaced() -> Iterator[Sandbox]:
    with make("user", "bwrap") as sandbox:
        yield sandbox


@pytest.fixture(scope="package")
def unfiltered() -> Iterator[Sandbox]:
    with make("landlock", "seccomp", "bwrap") as sandbox:
        yield sandbox
