"""The page of problems in headless Chromium: breakdowns, a family of models, code; quiet, narrow enough, legible."""

from __future__ import annotations

import pytest

from evals.breakdowns import BREAKDOWNS
from evals.page import write
from evals.rows import Row, RowLog
from tests.evals.page.chromium import binary
from tests.evals.page.family import member
from tests.evals.page.made import HOSTILE
from tests.evals.page.test_browser import CONTRAST

pytestmark = pytest.mark.skipif(binary() is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Not the usual page: four members of a family with tables of their task, and one that writes long code."""
    base = tmp_path_factory.mktemp("problems")
    BREAKDOWNS["sums"] = "tests.evals.page.tables:tables"
    runs = [
        member(base / f"member with a long name {i}", 10**i, 0.15 * i, lengths=(0, 4_096, 65_536)) for i in range(3, 7)
    ]
    code = "def f(x):\n" + "    return " + "x" * 900 + "\n" + "\tpass\n" * 40
    with RowLog(base / "code" / "rows.jsonl", "code", {}) as log:
        for i, said in enumerate((code, HOSTILE + "\n" + HOSTILE, "y" * 4_000, {"text": code, "nats": -2.0})):
            log.append(Row("code", 0, "memory", i, 0, f"d{i}", f"d{i}", (code,), said, 0.0, "exact", code, (),
                           {"verdict": "timeout", "trace": "z" * 500, "size": [3, 3]}))  # fmt: skip
    yield write([*runs, base / "code"], base / "report.html")
    del BREAKDOWNS["sums"]


def test_quiet_alone_inside_and_legible(opened, report):
    for event in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
        assert opened.named(event) == []
    asked = [event["request"]["url"] for event in opened.named("Network.requestWillBeSent")]
    assert asked == [report.resolve().as_uri()]
    found = opened.evaluate(CONTRAST)  # opens all that is folded
    assert len(found) > 1000
    assert [text for text in found if text[0] < 4.5] == []
    assert opened.evaluate("['size', 'breakdowns'].every(id => document.getElementById(id).offsetHeight > 500)") is True
    assert opened.evaluate("document.documentElement.scrollWidth") <= opened.width
    out = opened.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, nav ul, svg, .skip')"
        f" && e.getBoundingClientRect().right > {opened.width + 1}).map(e => e.outerHTML.slice(0, 80))"
    )
    assert out == []


def test_code_neither_leaves_its_cell_nor_fills_the_page(opened):
    opened.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    sizes = opened.evaluate(
        "[...document.querySelectorAll('.q pre')].map(e => [e.scrollWidth - e.clientWidth, e.offsetWidth,"
        " e.offsetHeight])"
    )
    assert len(sizes) > 8
    assert all(over <= 0 and width < 700 and height < 600 for over, width, height in sizes)


def test_words_in_pictures_do_not_lie_over_one_another(opened):
    clashes = opened.evaluate("""[...document.querySelectorAll('#size svg[role], #curves svg[role]')].flatMap(svg => {
      const boxes = [...svg.querySelectorAll('text')].map(e => [e.textContent, e.getBoundingClientRect()]);
      return boxes.flatMap(([said, a], i) => boxes.slice(i + 1).filter(([, b]) => a.width && b.width
        && a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2)
        .map(([other]) => said + ' / ' + other));
    })""")
    assert clashes == []
