"""Tables, JSON and pictures of results."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evals import Cell, table, to_json
from evals.plots import accuracy_over_length, lines
from evals.report import short_count


def cells(tasks: tuple[str, ...] = ("memorize", "detect_memorize"), n: int = 32) -> list[Cell]:
    made = []
    for task in tasks:
        for step, length in enumerate((4_000, 64_000, 1_000_000)):
            made.append(Cell(task, length, "memory", n - step, n, n))
            made.append(Cell(task, length, "zeroed", n // 6, n, n))
            made.append(Cell(task, length, "shuffled", n // 5, n, n))
            made.append(Cell(task, length, "swapped", 0, n - step, n - step))
    return made


def test_table_shows_each_cell_with_interval_and_n() -> None:
    text = table(cells())
    lines_ = text.splitlines()
    assert max(map(len, lines_)) <= 80
    assert lines_[0].split() == ["tokens", "n", "memory", "zeroed", "shuffled", "swapped"]
    line = next(line for line in lines_ if "64,000" in line)
    assert line.split()[:4] == ["64,000", "32", "96.9", "[84.3,"]
    assert "0 [0,12]*" in line
    assert text.index("memorize") < text.index("detect_memorize")
    assert "* memorize, 1,000,000 tokens, swapped: n=30" in lines_
    assert "With n=32 a fall from 97 percent" in text


def test_table_fits_with_the_widest_numbers() -> None:
    wide = [
        Cell("memorize", 2_048_000, control, 1000, 1000, 9) for control in ("memory", "zeroed", "shuffled", "swapped")
    ]
    assert max(map(len, table(wide).splitlines())) <= 80


def test_table_of_little_or_nothing() -> None:
    assert table([]) == "no results"
    assert table([Cell("memorize", 4_000, "memory", 1, 1, 1)]).splitlines()[0].split() == [
        "tokens",
        "n",
        "memory",
    ]
    missing = [c for c in cells(("memorize",)) if (c.length, c.control) != (4_000, "swapped")]
    assert next(line for line in table(missing).splitlines() if " 4,000 " in line).endswith(" -")


def test_json_carries_counts_rates_and_extras() -> None:
    loaded = json.loads(to_json(cells(), model="abc"))
    assert loaded["model"] == "abc"
    assert len(loaded["cells"]) == 24
    first = loaded["cells"][0]
    assert (first["rate"], first["high"], first["n"]) == (1.0, 1.0, 32)
    assert 0.89 < first["low"] < 0.90


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (512, "512"),
        (4_000, "4k"),
        (4_096, "4k"),
        (65_536, "64k"),
        (1_000_000, "1M"),
        (1_048_576, "1M"),
        (2_048_000, "2.05M"),
    ],
)
def test_short_counts_are_what_people_say(count: int, text: str) -> None:
    assert short_count(count) == text


def test_accuracy_picture_is_a_png_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "memory.png"
    assert accuracy_over_length(cells(), path, chance=1 / 6) == path
    first = path.read_bytes()
    assert first[:8] == b"\x89PNG\r\n\x1a\n"
    accuracy_over_length(cells(("memorize",)), path)
    assert path.read_bytes() != first
    assert [entry.name for entry in path.parent.iterdir()] == ["memory.png"]
    with pytest.raises(ValueError, match="got none"):
        accuracy_over_length([c for c in cells() if c.control != "memory"], path)


def test_accuracy_picture_of_one_length(tmp_path: Path) -> None:
    assert accuracy_over_length([c for c in cells() if c.length == 4_000], tmp_path / "one.png").stat().st_size > 5_000


def test_length_zero_is_a_length_like_others(tmp_path: Path) -> None:
    made = [Cell("puzzle", length, "memory", 3, 9, 9) for length in (0, 4_096, 65_536)]
    text = table(made)
    assert "33.3" in next(line for line in text.splitlines() if line.split()[:1] == ["0"])
    assert json.loads(to_json(made))["cells"][0]["length"] == 0
    pictures = [accuracy_over_length(part, tmp_path / f"{i}.png") for i, part in enumerate((made, made[:1], made[1:]))]
    assert len({picture.read_bytes() for picture in pictures}) == 3
    drawn = lines({"a": [(0, 900.0), (4_096, 910.0)], "b": [(0, 500.0)]}, tmp_path / "l.png", title="t", ylabel="y")
    assert drawn.stat().st_size > 5_000


@pytest.mark.parametrize("log_y", [False, True])
def test_lines_picture(tmp_path: Path, log_y: bool) -> None:
    series = {"ours": [(4_000, 900.0), (1_000_000, 910.0)], "reference": [(4_000, 300.0)], "unmeasured": []}
    path = lines(series, tmp_path / "speed.png", title="Reading", ylabel="tokens/s", log_y=log_y)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ValueError, match="at least one point"):
        lines({"ours": []}, path, title="Reading", ylabel="tokens/s")


def test_a_failed_drawing_keeps_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "memory.png"
    accuracy_over_length(cells(), path)
    before = path.read_bytes()

    def fail(source: object, target: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("evals.plots.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        accuracy_over_length(cells(("memorize",)), path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_importing_evals_imports_nothing_heavy_and_nothing_of_ours() -> None:
    code = (
        "import sys, evals, evals.plots\n"
        "heavy = {'matplotlib', 'torch', 'transformers', 'scipy', 'rmt', 'efficiency', 'multimodal'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_table_says_what_its_numbers_are() -> None:
    nats = Cell("perplexity", 4_000, "memory", 30.0, 10, 10, tuple(2.5 + i / 9 for i in range(10)), "nats")
    zeroed = Cell("perplexity", 4_000, "zeroed", 35.0, 10, 10, (3.5,) * 10, "nats")
    part = Cell("vt", 4_000, "memory", 5.5, 10, 10, (0.5, 0.0, *[0.625] * 8))
    text = table([nats, zeroed, part])
    assert "3.000 [2.8" in text
    assert "3.500" in text
    assert "55.0 [" in text
    assert "less is better" in text
    assert "right in part (vt)" in text
    assert "Percent right" not in text
    assert "Percent right" in table([*cells(), part])
