"""`rmt demo` on the bundled model, at small size."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from rmt.cli.app import app


def test_the_demo_ends_in_a_table_a_plot_a_memory_and_answers_and_can_be_run_again(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("\n".join(f"The {n}th evening was long, and nobody in the house spoke of it." for n in range(400)))
    out = tmp_path / "out"
    common = ["demo", "--text", str(book), "--out", str(out)]
    for sizes in (["--lengths", "2k,1k", "--documents", "1,2"], ["--lengths", "1k", "--documents", "2"]):
        first = CliRunner().invoke(app, [*common, *sizes])
        again = CliRunner().invoke(app, [*common, *sizes])
        assert first.exit_code == again.exit_code == 0, first.output
        said = again.stdout.splitlines()
        kept = [line for line in said if line.startswith("Answers of an earlier run")]
        assert len(kept) == 1
        assert first.stdout.splitlines() == [line for line in said if line not in kept]
        assert "memorize" in first.stdout
        assert "with an empty memory" in first.stdout
    assert (out / "memory.png").stat().st_size > 10_000
    assert (out / "document.memory").stat().st_size < 64_000


def test_counts_must_match_lengths(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--lengths", "1k,2k", "--documents", "1", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "--documents" in result.stderr


def test_fewer_documents_of_long_texts_where_nobody_says():
    from rmt.cli.demo import usual_count

    assert [usual_count(size) for size in (4_000, 64_000, 1_000_000)] == [16, 4, 2]
