"""Made-up runs and their page, once for all tests of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.page import write
from tests.evals.page.chromium import Chromium, binary
from tests.evals.page.made import HOSTILE, run


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> list[Path]:
    """A model that remembers, one of another tokenizer that forgets and answers with markup."""
    base = tmp_path_factory.mktemp("runs")
    tasks = ("qa1", "needle", "part", "nats")
    return [
        run(base / "long", "a model that remembers", half_life=200_000, tasks=tasks),
        run(base / "short", "short", half_life=2_000, tasks=tasks, segment=None, tokenizer="other", answer=HOSTILE),
    ]


@pytest.fixture(scope="session")
def report(folders, tmp_path_factory) -> Path:
    """Their page."""
    return write(folders, tmp_path_factory.mktemp("page") / "report.html", "Two models <&>")


@pytest.fixture(scope="module")
def browser():
    """One for all tests of a module, which skip themselves where there is none."""
    with Chromium(binary()) as one:
        yield one


@pytest.fixture(params=[(1280, False), (1280, True), (390, False), (390, True)], ids=str)
def opened(request, browser, report):
    """The page, wide and narrow, light and dark; a module may have a ``report`` of its own."""
    width, dark = request.param
    browser.open(report, width=width, dark=dark)
    return browser
