"""The page as a parser of HTML sees it: its numbers, its links, and what answers may not do to it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from evals import MEMORY, load_rows, tally
from evals.page import collect, page, write
from evals.page.compare import compare
from evals.page.samples import choose, clean
from evals.plots import COLOURS
from evals.rows import Row
from evals.tasks.registry import GROUPS
from tests.evals.page.made import HOSTILE, run

VOID = {"meta", "link", "br", "img", "input", "hr"}
LOADS = {"src", "srcset", "action", "data", "poster", "background"}


class Parsed(HTMLParser):
    """Elements, ids and text; refuses tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: list[str] = []
        self.hrefs: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[tuple[str, str | None]] = []  # text of each td and th, and where it links
        self._open: list[str] = []
        self._text: list[str] = []
        self._href: str | None = None
        self.said: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "a":
            self.hrefs.append(found["href"])
            self._href = found["href"]
        if tag in ("td", "th"):
            self._text, self._href = [], None
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag in ("td", "th"):
            self.cells.append((" ".join("".join(self._text).split()), self._href))

    def handle_data(self, data):
        self._text.append(data)
        if self._open and self._open[-1] not in ("script", "style"):
            self.said.append(data)


@pytest.fixture(scope="module")
def text(report):
    return report.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(text):
    return Parsed(text)


def test_every_cell_of_a_tally_is_on_the_page_with_its_link(folders, parsed):
    shown = dict.fromkeys(parsed.cells)
    checked = 0
    for number, folder in enumerate(folders):
        for cell in tally(load_rows(folder / "rows.jsonl")):
            low, high = cell.interval
            place = ("qa1", "needle", "part", "nats").index(cell.task)
            if cell.task == "nats":
                said = f"{cell.rate:.3f} [{low:.3f}, {high:.3f}]"
            else:
                said = f"{100 * cell.rate:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            if cell.control == MEMORY:
                said += f" n={cell.n}"
            control = "" if cell.control == MEMORY else f"-{cell.control}"
            assert (said, f"#s{number}-{place}-{cell.length}{control}") in shown
            checked += 1
    assert checked == 2 * 4 * 3 * 3


def test_every_link_leads_somewhere_on_the_page_and_ids_are_unique(parsed):
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert len(parsed.hrefs) > 500
    assert {href for href in parsed.hrefs if href[1:] not in parsed.ids or href[0] != "#"} == set()


def test_numbers_of_a_square_and_of_a_bin_lead_to_their_own_rows(text):
    # Squares are linked to a row of their depth: each of the eleven stands in its cell's answers.
    squares = re.findall(r'<a href="#(s0-1-4000-\d+)"><title>[^<]*depth (\d+)%: ', text)
    assert [depth for _, depth in squares] == [str(10 * i) for i in range(11)]
    for ident, depth in squares:
        row = re.search(rf'<tr id="{ident}".*?</tr>', text, re.S)[0]
        assert f"<td>{depth}%</td>" in row


def test_comparisons_are_those_of_compare(folders, text, parsed):
    made = compare(collect(folders))
    assert len(made) == 4 * 3
    cells = [said for said, _ in parsed.cells]
    for one in made:
        assert any(said == (f"{one.p_holm:.3f}" if one.p_holm >= 0.001 else "< 0.001") for said in cells)
    better = [one for one in made if one.better]
    assert better
    assert sum(said.endswith(" is better") for said in cells) == len(better)
    assert f"{len(better)} of 12 paired comparisons of models show" in text
    assert all(not one.same_documents for one in made)
    assert text.count('<span class="flag">unpaired documents</span>') == 2  # the pair, and what it means


def test_hostile_answers_stay_text(text, parsed):
    assert HOSTILE[:40] in "".join(parsed.said)
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    assert not any(tag in ("img", "iframe", "object", "embed", "base") for tag, _ in parsed.tags)
    assert not any(name.startswith("on") for _, found in parsed.tags for name in found)
    assert "Two models <&>" in parsed.said
    assert "{{ 7*7 }}" in "".join(parsed.said)
    assert "\x00" not in text


def test_text_is_made_fit_for_a_page():
    assert clean("a\x00b\x7f\n") == "a␀b␡␊"
    assert clean("a\ud800b😀") == "a�b😀"
    assert clean("x" * 500).startswith("x" * 160 + "… (500 characters)")


def test_nothing_is_loaded(parsed):
    for tag, found in parsed.tags:
        assert not LOADS & set(found), tag
        assert tag != "link" or found["href"] == "data:,"
    policy = next(f["content"] for t, f in parsed.tags if t == "meta" and "http-equiv" in f)
    assert policy.startswith("default-src 'none'")
    assert "http:" not in policy


def test_pictures_say_in_words_what_they_show(parsed, text):
    pictures = [found for tag, found in parsed.tags if tag == "svg" and "aria-hidden" not in found]
    assert len(pictures) > 8
    for found in pictures:
        assert all(name in parsed.ids for name in found["aria-labelledby"].split())
    figures = re.findall(r"<figure.*?</figure>", text, re.S)
    assert all("<table>" in figure for figure in figures if 'id="cost-' not in figure)
    assert text.count("<table") > len(figures)


def test_the_same_runs_give_the_same_bytes(folders, report, tmp_path):
    again = write(folders, tmp_path / "new" / "again.html", "Two models <&>")
    assert again.read_bytes() == report.read_bytes()
    assert [p.name for p in again.parent.iterdir()] == ["again.html"]


def test_ten_thousand_rows_make_a_small_page(tmp_path):
    lengths = [1000 * 2**i for i in range(5)]
    folders = [
        run(tmp_path / name, name, half_life=life, tasks=tuple(f"task{i}" for i in range(12)), lengths=lengths, n=20,
            answer="word " * 100)
        for name, life in (("a", 1e5), ("b", 1e4), ("c", 1e3))
    ]  # fmt: skip
    assert sum(len(load_rows(folder / "rows.jsonl")) for folder in folders) > 10_000
    assert len(page(folders).encode()) < 2_000_000


def test_one_model_one_length_one_row(tmp_path):
    folder = run(tmp_path / "one", tasks=("qa1",), lengths=(1000,), n=1, controls=(), costs=False, segment=None)
    parsed = Parsed(page([folder]))
    assert "tests" not in parsed.ids
    assert "controls" not in parsed.ids
    assert "depth" not in parsed.ids
    assert {"results", "curves", "samples"} <= set(parsed.ids)
    only = Parsed(page([run(tmp_path / "nats", tasks=("nats",), lengths=(1000,), n=3)]))
    assert {"nats", "cost"} <= set(only.ids)
    assert "results" not in only.ids
    assert {href for href in only.hrefs if href[1:] not in only.ids} == set()


def test_a_broken_run_may_have_controls_of_a_task_alone(tmp_path):
    folder = run(tmp_path / "a", tasks=("qa1", "nats"), lengths=(1_000,), n=3)
    lines = (folder / "rows.jsonl").read_text().splitlines()
    kept = [line for line in lines if '"task":"nats"' not in line or '"control":"zeroed"' in line]
    assert 1 < len(kept) < len(lines)
    (folder / "rows.jsonl").write_text("\n".join(kept) + "\n")
    said = page([folder])
    assert 'id="results"' in said
    assert 'id="nats"' not in said
    Parsed(said)


def test_a_run_of_ruler_gets_its_effective_length(tmp_path):
    tasks = GROUPS["ruler-offline"]
    folder = run(tmp_path / "a", tasks=tasks, lengths=(4096, 16384), n=4, half_life=3e4, controls=())
    parsed = Parsed(page([folder]))
    assert "ruler" in parsed.ids
    cells = [said for said, _ in parsed.cells]
    at = cells.index("11 tasks")
    means = [100 * cell.rate for cell in tally(load_rows(folder / "rows.jsonl"))]
    assert cells[at + 2].split()[0] == f"{sum(means[::2]) / 11:.1f}"
    assert cells[at + 3].split()[0] == f"{sum(means[1::2]) / 11:.1f}"


def test_worst_answers_come_first_and_each_depth_is_there():
    rows = [
        Row("t", 1000, MEMORY, i, 0, f"d{i}", f"d{i}", ("a",), "b", float(i % 11 > 1), "exact",
            evidence=((99 * (i % 11), 99 * (i % 11) + 4),))
        for i in range(220)
    ]  # fmt: skip
    chosen = choose(rows, 12)
    assert len({row.evidence for row in chosen}) == 11
    assert [row.value for row in chosen] == [0.0] * 3 + [1.0] * 9
    assert len(choose(rows, 3)) == 3
    nats = [Row("t", 1000, MEMORY, i, 0, f"d{i}", "", (), float(i), float(i), "value") for i in range(9)]
    assert [row.answered for row in choose(nats, 2)] == [8.0, 7.0]


def luminance(colour):
    """Relative luminance of #rrggbb (WCAG 2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_each_step_of_the_ramp_carries_its_number_and_differs_from_the_next(text):
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    under, ink = (re.findall(rf"--{name}\d:\s*(#\w{{6}})", style) for name in "ht")
    assert len(under) == len(ink) == 4 * 10  # light, dark of the system, dark of choice, paper
    for one, other in zip(under, ink, strict=True):
        low, high = sorted((luminance(one), luminance(other)))
        assert (high + 0.05) / (low + 0.05) >= 4.5
    for start in range(0, 40, 10):
        steps = [luminance(colour) for colour in under[start : start + 10]]
        assert steps in (sorted(steps), sorted(steps, reverse=True))
        assert len(set(steps)) == 10


def test_models_have_the_colours_of_the_plots(text):
    style = re.search(r":root \{(.*?)\}", text, re.S)[1]
    assert tuple(re.findall(r"--s\d: (#\w{6})", style)) == COLOURS
