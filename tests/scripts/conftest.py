"""Programs of ``scripts`` and ``scripts/bench`` as modules."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a program of ``scripts`` by name, with its neighbours on the path as when it is run."""
    yield from programs(monkeypatch, SCRIPTS)


@pytest.fixture
def bench(monkeypatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a module of the benchmark by name, as its programs do."""
    yield from programs(monkeypatch, SCRIPTS / "bench")


def programs(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Puts a folder on the path, and forgets its modules afterwards: another folder may name its own alike."""
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == folder:
            del sys.modules[name]
