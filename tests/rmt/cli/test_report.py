"""``rmt report`` from the command line."""

from __future__ import annotations

from tests.evals.page.made import run


def test_command(rmt, tmp_path):
    one, two = run(tmp_path / "a", "one"), run(tmp_path / "b", "two", half_life=500)
    out = tmp_path / "pages" / "report.html"
    done = rmt("report", one, f"the other={two}", "-o", out, "--title", "A & B")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(out)
    text = out.read_text(encoding="utf-8")
    assert "<title>A &amp; B</title>" in text
    assert "the other" in text
    assert rmt("report", one / "rows.jsonl", "-o", out).exit_code == 0


def test_bad_input_is_one_line(rmt, tmp_path):
    good = run(tmp_path / "a")
    (tmp_path / "bad.jsonl").write_text("no rows\n")
    for arguments, said in (
        ((tmp_path / "nowhere",), "got nothing there"),
        ((tmp_path,), "got nothing there"),
        ((tmp_path / "bad.jsonl",), "expected a row of"),
        ((good, good), "each run once"),
        ((good, "-o", tmp_path), "got a folder"),
        ((good, "-o", good / "run.json" / "x.html"), "expected a place to write to"),
    ):
        done = rmt("report", *arguments) if "-o" in arguments else rmt("report", *arguments, "-o", tmp_path / "r.html")
        assert done.exit_code == 2, (arguments, done.output)
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "r.html").exists()
