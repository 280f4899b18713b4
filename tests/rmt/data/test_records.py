"""JSON lines, Parquet and data sets, and what can be wrong with them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rmt.data import iter_text
from rmt.errors import InputError

TEXTS = ["Mary went to the garden.\n", "東京 is a town.", "John went to the kitchen."]
JOINED = "\n\n".join(TEXTS)


def refused(source: str | Path, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        list(iter_text(source, **options))
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in ("expected", "got", ";"))
    return message


def lines(path: Path, records: list[Any]) -> Path:
    raw = "\n".join(map(json.dumps, records)).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.JSONL", "a.jsonl.gz", "a.json.gz"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    path = lines(tmp_path / name, [{"text": text, "id": 1} for text in TEXTS])
    assert "".join(iter_text(path)) == JOINED


def test_json_lines_skips_what_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"text": "One."}\n\n{"text": null}\n{"text": ""}\n  \n{"text": "Two."}\n')
    assert "".join(iter_text(path)) == "One.\n\nTwo."


def test_json_lines_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "One."}\n' + '{"text": "Two."}\n' * 10_000 + "{broken")
    pieces = iter_text(path)
    assert next(pieces) == "One."
    assert refused(path).startswith(f"{path}, line 10002: ")


def test_other_field(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"text": 1, "body": "A body."}])
    assert list(iter_text(path, text_field="body")) == ["A body."]


def test_half_a_character_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one \\ud83d half"}')
    assert list(iter_text(path)) == ["one \ufffd half"]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'{"text": "One."}\n{"text": "Two."\n', ["line 2", "broken JSON"]),
        (b'{"text": "One."}\n["Two."]\n', ["line 2", "list"]),
        (b"[\n1\n]\n", ["line 1", "broken JSON"]),
        (b'{"text": "One."}\n{"body": "Two.", "id": 2}\n', ["line 2", "'text'", "'body', 'id'"]),
        (b"{}\n", ["line 1", "none"]),
        (b'{"text": "One."}\n{"text": 2}\n', ["line 2", "int"]),
        (b'{"text": "\xff"}\n', ["line 1", "UTF-8"]),
        (b'{"text": ' + b"[" * 200_000 + b"\n", ["line 1"]),
        (b'{"text": " "}\n', ["expected text, got none"]),
        (b"", ["expected text, got none"]),
    ],
)
def test_bad_json_lines_are_refused(tmp_path: Path, raw: bytes, words: list[str]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(raw)
    message = refused(path)
    assert all(word in message for word in [str(path), *words])


def test_cut_gzip_is_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl.gz", [{"text": str(number)} for number in range(9999)])
    path.write_bytes(path.read_bytes()[:-9])
    assert "gzip" in refused(path)


def parquet(path: Path, **columns: list[Any]) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def test_parquet(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", id=[1, 2, 3, 4], text=[*TEXTS[:1], None, *TEXTS[1:]])
    assert "".join(iter_text(path)) == JOINED
    assert "".join(iter_text(path, max_chars=10)) == JOINED[:10]


def test_bad_parquet_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", id=[1, 2], body=["One.", "Two."])
    assert "'id', 'body'" in refused(path)
    assert "int" in refused(path, text_field="id")
    raw = path.read_bytes()
    for broken in (b"", b"text", raw[:-20], raw[: len(raw) // 2]):
        path.write_bytes(broken)
        assert "broken" in refused(path)


def test_parquet_with_broken_data_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", text=["word " * 1000 + str(number) for number in range(50)])
    raw = bytearray(path.read_bytes())
    raw[4:400] = b"\xff" * 396
    path.write_bytes(raw)
    assert "broken" in refused(path)


def test_saved_dataset(tmp_path: Path) -> None:
    data = datasets.Dataset.from_dict({"text": TEXTS, "id": [1, 2, 3]})
    data.save_to_disk(tmp_path / "one")
    assert "".join(iter_text(tmp_path / "one")) == JOINED
    assert "'text', 'id'" in refused(tmp_path / "one", text_field="body")
    datasets.DatasetDict({"train": data.select([0]), "test": data.select([2])}).save_to_disk(tmp_path / "two")
    assert list(iter_text(tmp_path / "two")) == TEXTS[:1]
    assert list(iter_text(tmp_path / "two", split="test")) == TEXTS[2:]
    assert "['test', 'train']" in refused(tmp_path / "two", split="validation")
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"broken")
    assert "saved" in refused(tmp_path / "one")


def test_hub_without_a_network_is_refused() -> None:
    # The hub is switched off for all tests, as it is on a machine without a network.
    message = refused("hub:deepmind/pg19")
    assert "hub:deepmind/pg19" in message
    assert "reached" in message
    assert "no name" in refused("hub:")


def hub(monkeypatch: pytest.MonkeyPatch, load: Callable[..., Any]) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def recorded(*args: Any, **options: Any) -> Any:
        calls.append((*args, options))
        return load(**options)

    monkeypatch.setattr(datasets, "load_dataset", recorded)
    return calls


def streamed() -> datasets.IterableDataset:
    return datasets.Dataset.from_dict({"text": TEXTS}).to_iterable_dataset()


def test_hub_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = hub(monkeypatch, lambda **options: streamed())
    assert "".join(iter_text("hub:someone/books", split="test")) == JOINED
    assert "".join(iter_text("hub:someone/books:small")) == JOINED
    assert calls == [
        ("someone/books", None, {"split": "test", "streaming": True}),
        ("someone/books", "small", {"split": "train", "streaming": True}),
    ]
    assert "'text'" in refused("hub:someone/books", text_field="body")


def test_hub_falls_back_on_the_converted_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(**options: Any) -> Any:
        if "revision" not in options:
            raise RuntimeError("Dataset scripts are no longer supported, but found pg19.py")
        return streamed()

    calls = hub(monkeypatch, load)
    assert "".join(iter_text("hub:deepmind/pg19")) == JOINED
    assert calls[-1][-1]["revision"] == "refs/convert/parquet"


def test_hub_that_breaks_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> Any:
        yield {"text": "One."}
        raise ConnectionError("the line\nwent dead")

    hub(monkeypatch, lambda **options: datasets.IterableDataset.from_generator(rows))
    pieces = iter_text("hub:someone/books")
    assert next(pieces) == "One."
    assert "the line" in refused("hub:someone/books")
