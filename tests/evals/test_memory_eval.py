"""What is asked of which memory, how often a document is read, and how a broken run ends."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals import (
    CONTROLS,
    Cell,
    Document,
    MemoryModel,
    Progress,
    Row,
    channel_order,
    evaluate,
    load_rows,
    paired,
    tally,
)
from evals.cost import Cost, load_costs, log_cost
from evals.memory_eval import document_digest
from evals.rows import RowLog

from .fakes import PLACES, Killed, Scanner, Text, document, documents


def rows_of(path: Path, control: str) -> list[Row]:
    return [row for row in load_rows(path) if row.control == control]


def test_fakes_meet_the_protocols() -> None:
    assert isinstance(Scanner(), MemoryModel)
    assert isinstance(documents()[0], Document)
    assert not isinstance(object(), MemoryModel)


def test_a_memory_that_holds_all_is_right_and_its_controls_are_not(tmp_path: Path) -> None:
    cells = evaluate(Scanner(), documents(per_length=12), log=tmp_path / "rows.jsonl")
    by_key = {(cell.task, cell.length, cell.control): cell for cell in cells}
    assert len(cells) == 2 * 2 * 4
    for task in ("memorize", "reasoning"):
        for length in (40, 80):
            assert by_key[task, length, "memory"] == Cell(task, length, "memory", 12, 12, 12)
            # An empty vector is answered with place 0, which is right as often as the place is 0.
            right = sum(q.answer == 0 for text in documents((length,), 12) for q in text.questions if q.task == task)
            assert by_key[task, length, "zeroed"].successes == right
            assert by_key[task, length, "shuffled"].successes < 6
            assert by_key[task, length, "swapped"].successes == 0
    assert [cell.control for cell in cells[:4]] == ["memory", *CONTROLS]


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_each_document_is_read_once(batch_size: int) -> None:
    model = Scanner()
    evaluate(model, documents(), batch_size=batch_size)
    assert set(model.reads.values()) == {1}
    assert len(model.reads) == 10
    assert max(model.batches) == min(batch_size, 5)


def test_batches_do_not_change_rows(tmp_path: Path) -> None:
    logs = [tmp_path / f"{size}.jsonl" for size in (1, 3)]
    cells = [evaluate(Scanner(), documents(), log=log, batch_size=size) for log, size in zip(logs, (1, 3), strict=True)]
    assert cells[0] == cells[1]
    assert set(load_rows(logs[0])) == set(load_rows(logs[1]))


def test_swapped_uses_another_document_of_the_same_length_with_another_answer(tmp_path: Path) -> None:
    texts = documents()
    evaluate(Scanner(), texts, log=tmp_path / "rows.jsonl", controls=["swapped"])
    by_digest = {document_digest(text): text for text in texts}
    rows = rows_of(tmp_path / "rows.jsonl", "swapped")
    assert len(rows) == 20
    for row in rows:
        owner, lender = by_digest[row.digest], by_digest[row.source]
        assert owner is not lender
        assert owner.length == lender.length == row.length
        lent = [q.answer for q in lender.questions if q.task == row.task]
        assert row.expected not in lent
        # The model answers from the memory it was given: it says what the other document says.
        assert row.answered == lent[0]
    assert all(row.source == row.digest for row in rows_of(tmp_path / "rows.jsonl", "memory"))


def test_swapped_takes_the_nearest_and_leaves_out_a_question_without_a_partner(tmp_path: Path) -> None:
    answers = [1, 1, 2, 1]
    texts: list[Text] = [document(40, seed, {"memorize": answer}) for seed, answer in enumerate(answers)]
    texts.append(document(80, 9, {"memorize": 3}))
    cells = evaluate(Scanner(), texts, log=tmp_path / "rows.jsonl", controls=["swapped"])
    sources = {row.document: row.source for row in rows_of(tmp_path / "rows.jsonl", "swapped")}
    digests = [document_digest(text) for text in texts]
    assert sources == {0: digests[2], 1: digests[2], 2: digests[1], 3: digests[2]}
    assert [(cell.length, cell.control, cell.n) for cell in cells] == [
        (40, "memory", 4),
        (40, "swapped", 4),
        (80, "memory", 1),
    ]


def test_swapped_falls_back_to_the_question_in_the_same_place(tmp_path: Path) -> None:
    def two(seed: int, first: int, second: int) -> Text:
        base = document(40, seed, {"a": first, "b": second})
        return replace(base, questions=tuple(replace(q, task="memorize") for q in base.questions))

    evaluate(Scanner(), [two(0, 1, 2), two(1, 2, 1)], log=tmp_path / "rows.jsonl")
    swapped = rows_of(tmp_path / "rows.jsonl", "swapped")
    assert len(swapped) == 4
    assert not any(row.correct for row in swapped)


@pytest.mark.parametrize("die_after", [0, 1, 7, 23, 50, 79])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(tmp_path: Path, die_after: int, batch_size: int) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    options = {"settings": {"seed": 1}, "batch_size": batch_size}
    expected = evaluate(Scanner(), documents(), log=whole, **options)
    with pytest.raises(Killed):
        evaluate(Scanner(die_after=die_after), documents(), log=broken, **options)
    kept = broken.read_bytes()
    assert whole.read_bytes().startswith(kept)
    broken.write_bytes(kept + b'{"task":"memor')  # what a kill in the middle of a write leaves
    model = Scanner()
    assert evaluate(model, documents(), log=broken, **options) == expected
    assert broken.read_bytes() == whole.read_bytes()
    assert max(model.reads.values()) == 1


def test_kill_9_loses_no_answer(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    expected = evaluate(Scanner(), documents(), log=whole)
    code = f"""
import os, signal, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[2])!r}]
from evals import evaluate
from fakes import Killed, Scanner, documents

class Mortal(Scanner):
    def answer(self, state, questions):
        try:
            return super().answer(state, questions)
        except Killed:
            os.kill(os.getpid(), signal.SIGKILL)

evaluate(Mortal(die_after=31), documents(), log={str(broken)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert 25 <= len(load_rows(broken)) <= 31
    assert evaluate(Scanner(), documents(), log=broken) == expected
    assert broken.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("cut", [1, 9, 30, 200, 500, 1500])
def test_a_log_cut_anywhere_is_completed(tmp_path: Path, cut: int) -> None:
    log = tmp_path / "rows.jsonl"
    expected = evaluate(Scanner(), documents(), log=log)
    whole = log.read_bytes()
    for size in (cut, len(whole) - cut):
        log.write_bytes(whole[:size])
        assert evaluate(Scanner(), documents(), log=log) == expected
        assert log.read_bytes() == whole


def test_a_finished_run_reads_nothing_again(tmp_path: Path) -> None:
    log = tmp_path / "rows.jsonl"
    expected = evaluate(Scanner(), documents(), log=log)
    model = Scanner()
    assert evaluate(model, documents(), log=log) == expected
    assert model.reads == {}
    # Another length on top of it costs that length only.
    evaluate(model, documents((40, 80, 120)), log=log)
    assert len(model.reads) == 5


def test_progress_counts_documents_and_tokens() -> None:
    seen: list[Progress] = []
    evaluate(Scanner(), documents(), batch_size=3, progress=seen.append)
    assert [p.documents for p in seen] == [3, 5, 8, 10]
    assert [p.tokens for p in seen] == [120, 200, 440, 600]
    assert {(p.documents_total, p.tokens_total) for p in seen} == {(10, 600)}


def test_digest_sees_every_token_and_every_answer() -> None:
    text = document(70_000, 3, {"memorize": 2})
    digest = document_digest(text)
    assert digest == document_digest(document(70_000, 3, {"memorize": 2}))
    assert digest != document_digest(document(70_000, 3, {"memorize": 1}))

    class Changed(Text):
        def tokens(self, start: int, stop: int) -> np.ndarray:
            ids = text.tokens(start, stop).copy()
            if stop == 70_000:
                ids[-1] += 1
            return ids

    assert digest != document_digest(Changed(text.length, text.seed, text.questions))


def test_channel_order_moves_every_channel() -> None:
    for width in (2, 3, 384):
        order = channel_order(width, seed=4)
        assert sorted(order) == list(range(width))
        assert not np.any(order == np.arange(width))
        assert np.array_equal(order, channel_order(width, seed=4))
    assert not np.array_equal(channel_order(384, 1), channel_order(384, 2))
    with pytest.raises(ValueError, match="got 1"):
        channel_order(1)


def test_tally_and_paired_count_what_rows_say(tmp_path: Path) -> None:
    evaluate(Scanner(), documents((40,), 12), log=tmp_path / "rows.jsonl")
    rows = load_rows(tmp_path / "rows.jsonl")
    assert tally(rows) == evaluate(Scanner(), documents((40,), 12), log=tmp_path / "rows.jsonl")
    against = paired(rows, "swapped")
    assert (against["memorize", 40].only_first, against["memorize", 40].only_second) == (12, 0)
    assert against["memorize", 40].p_value == 2 / 2**12
    zeroed = sum(row.correct for row in rows if (row.task, row.control) == ("memorize", "zeroed"))
    assert paired(rows)["memorize", 40].only_first == 12 - zeroed


class Short(Text):
    """Says it is longer than it is."""

    def tokens(self, start: int, stop: int) -> np.ndarray:
        return super().tokens(start, stop)[:-1]


class Mute(Scanner):
    """Answers one question too few."""

    def answer(self, state: np.ndarray, questions: object) -> list[int]:
        return super().answer(state, questions)[1:]  # type: ignore[arg-type]


BAD = {
    "unknown control": (lambda: evaluate(Scanner(), documents(), controls=["zero"]), "got zero"),
    "no questions": (lambda: evaluate(Scanner(), [document(40, 1, {})]), "with questions"),
    "batch size": (lambda: evaluate(Scanner(), documents(), batch_size=0), "got 0"),
    "same document": (lambda: evaluate(Scanner(), [*documents(), documents()[1]]), "same as 1 and 10"),
    "too few tokens": (
        lambda: evaluate(Scanner(), [Short(40, 1, documents()[0].questions)]),
        "expected 40 tokens",
    ),
    "too few answers": (lambda: evaluate(Mute(), documents()), "answers, got"),
    "no log": (lambda: load_rows("nowhere.jsonl"), "run the evaluation first"),
    "settings": (lambda: evaluate(Scanner(), documents(), settings={"x": object()}), "JSON can hold"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_get_one_line(name: str) -> None:
    request, words = BAD[name]
    with pytest.raises(ValueError, match=words) as caught:
        request()
    assert "\n" not in str(caught.value)


def test_a_log_of_another_model_or_other_settings_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "rows.jsonl"
    settings = {"places": PLACES, "lengths": (40, 80)}
    evaluate(Scanner(), documents(), log=log, settings=settings)
    before = log.read_bytes()
    with pytest.raises(ValueError, match="expected model other, got rows of model scanner"):
        evaluate(Scanner("other"), documents(), log=log, settings=settings)
    with pytest.raises(ValueError, match=r"places=7 \(file: 6\)"):
        evaluate(Scanner(), documents(), log=log, settings={**settings, "places": 7})
    with pytest.raises(ValueError, match="shuffle_seed=1"):
        evaluate(Scanner(), documents(), log=log, settings=settings, shuffle_seed=1)
    assert log.read_bytes() == before
    assert evaluate(Scanner(), documents(), log=log, settings=settings)


@pytest.mark.parametrize("content", [b'{"a": 1}', b"some notes\n", b"\x00\x01\x02", b'{"format":"other"}\n'])
def test_a_file_that_is_no_log_is_never_overwritten(tmp_path: Path, content: bytes) -> None:
    log = tmp_path / "precious"
    log.write_bytes(content)
    with pytest.raises(ValueError, match="in line 1"):
        evaluate(Scanner(), documents(), log=log)
    assert log.read_bytes() == content
    with pytest.raises(ValueError, match="got a folder"):
        evaluate(Scanner(), documents(), log=tmp_path)


def test_a_damaged_line_in_the_middle_is_reported(tmp_path: Path) -> None:
    log = tmp_path / "rows.jsonl"
    evaluate(Scanner(), documents(), log=log)
    lines = log.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4][:20] + b"\n"
    log.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match="in line 5"):
        evaluate(Scanner(), documents(), log=log)


def test_rows_are_plain_json(tmp_path: Path) -> None:
    evaluate(Scanner(), documents((40,), 2), log=tmp_path / "rows.jsonl", settings={"text": "Bücher"})
    header, first, *_ = (json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines())
    assert header["model"] == "scanner"
    assert header["settings"] == {"text": "Bücher", "shuffle_seed": 0}
    assert first["control"] == "memory"
    assert Row(**first).correct


def test_half_a_surrogate_pair_is_kept(tmp_path) -> None:
    """A tokenizer of bytes may cut a character in two."""
    from evals.rows import Row, RowLog, load_rows

    row = Row("t", 1, "memory", 0, 0, "d", "d", ("é",), "é\udc80", score=0.0, scorer="exact")
    with RowLog(tmp_path / "rows.jsonl", "m", {}) as log:
        log.append(row)
    assert load_rows(tmp_path / "rows.jsonl") == [row]


def test_more_documents_lend_another_memory_but_count_each_question_once(tmp_path: Path) -> None:
    answers = [0, 1, 2, 2, 3, 4]  # the fourth borrows from the second while it is the last, else from the fifth
    texts = [document(40, 100 + seed, {"memorize": answer}) for seed, answer in enumerate(answers)]
    log = tmp_path / "rows.jsonl"
    evaluate(Scanner(), texts[:4], log=log)
    cells = evaluate(Scanner(), texts, log=log)
    assert tally(load_rows(log)) == cells
    assert {cell.n for cell in cells} == {6}


def test_rows_that_another_process_writes_meanwhile_are_taken_up_to_the_last_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "rows.jsonl"
    with RowLog(log, "m", {}, part=0) as mine, RowLog(log, "m", {}, part=1) as theirs:
        for number in range(3):
            theirs.append(Row("t", 9, "memory", number, 0, f"d{number}", f"d{number}", 1, 1))
        file = tmp_path / "rows-1.jsonl"
        whole = file.read_bytes()
        file.write_bytes(whole[:-5])
        opened = Path.open

        def grows(path: Path, mode: str = "r") -> Any:  # between a look at its size and the reading of it
            with open(file, "wb") as lines:
                lines.write(whole + whole.splitlines()[-1].replace(b"d2", b"d3")[:-5])
            return opened(path, mode)

        monkeypatch.setattr(Path, "open", grows)
        mine.refresh()
        assert [mine.get((f"d{n}", 0, "memory", f"d{n}")) is None for n in range(4)] == [False, False, False, True]
        monkeypatch.undo()
        read: list[int] = []
        monkeypatch.setattr("evals.rows._as_row", lambda record: read.append(1) or Row(**record))
        with file.open("ab") as lines:
            lines.write(whole.splitlines()[-1].replace(b"d2", b"d3")[-5:] + b"\n")
        mine.refresh()
        assert len(read) == 1  # what was read once is not read again
        assert mine.get(("d3", 0, "memory", "d3")) is not None


def test_numbers_of_numpy_are_kept_as_they_are(tmp_path: Path) -> None:
    class Half(Scanner):
        def answer(self, state: np.ndarray, questions: Any) -> list[Any]:
            return [np.float32(2.5) for _ in questions]

    evaluate(Half(), documents((40,), 2), log=tmp_path / "rows.jsonl", controls=[])
    assert {row.answered for row in load_rows(tmp_path / "rows.jsonl")} == {2.5}


def test_nats_are_neither_right_nor_wrong() -> None:
    rows = [Row("t", 9, control, 0, 0, "d", "d", ("x",), 2.0, 2.0, "value") for control in ("memory", "zeroed")]
    assert paired(rows) == {}


@pytest.mark.parametrize("part", [(2, 2), (0, 0), (-1, 2)])
def test_a_part_that_is_none_is_refused(part: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="part: expected this process"):
        evaluate(Scanner(), documents(), part=part)


def test_half_a_line_of_costs_takes_no_other_with_it(tmp_path: Path) -> None:
    cost = Cost(9, 1, 0.5, 0.5, 4, 1 << 20)
    for _ in range(2):
        log_cost(tmp_path / "cost.jsonl", cost)
    with (tmp_path / "cost.jsonl").open("ab") as lines:
        lines.write(b'{"length": 9, "doc')
    log_cost(tmp_path / "cost.jsonl", cost)
    assert load_costs(tmp_path / "cost.jsonl") == [cost] * 3
