"""Text out of records: JSON lines, Parquet, and data sets of the `datasets` library. One record at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rmt.data.plain import open_bytes
from rmt.errors import InputError

_ROWS_PER_READ = 16  # a row may be a whole book


def jsonl_text(path: Path, field: str) -> Iterator[str]:
    """The text field of each line of a JSON Lines file, `.gz` or not; empty lines and null texts are skipped.

    Raises:
        InputError: a line that is no JSON object or lacks the field; the message names the line.
    """
    with open_bytes(path) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                record = json.loads(line)
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{where}: expected UTF-8, got bytes that are not; convert it ({error.reason})"
                ) from None
            except ValueError as error:
                # The line is not repeated: it may be a megabyte long.
                reason = getattr(error, "msg", str(error))
                raise InputError(
                    f"{where}: expected one JSON object on a line, got broken JSON ({reason}); mend it"
                ) from None
            except RecursionError:
                raise InputError(f"{where}: expected a flat JSON object, got one nested too deep; flatten it") from None
            if not isinstance(record, dict):
                kind = type(record).__name__
                raise InputError(f"{where}: expected one JSON object on a line, got a {kind}; write one a line")
            yield from _field(record, field, where)


def parquet_text(path: Path, field: str) -> Iterator[str]:
    """The text column of a Parquet file, by row group; null texts are skipped.

    Raises:
        InputError: the file is no Parquet file, is broken, or lacks the column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _broken_parquet(path, error) from None
    with file:
        if field not in file.schema_arrow.names:
            raise _no_field(str(path), field, file.schema_arrow.names)
        batches = file.iter_batches(batch_size=_ROWS_PER_READ, columns=[field])
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (pa.ArrowException, OSError) as error:
                raise _broken_parquet(path, error) from None
            for value in batch.column(0):
                yield from _field({field: value.as_py()}, field, str(path))


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder was written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def saved_dataset_text(folder: Path, field: str, split: str) -> Iterator[str]:
    """The text field of a data set that `save_to_disk` wrote, memory-mapped by `datasets`.

    Raises:
        InputError: the folder is broken, or has no such split or field.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # Arrow, JSON and file errors of many types: all say that the folder is broken
        raise InputError(
            f"{folder}: expected a data set saved by datasets, got {_short(error)}; save it again"
        ) from None
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise InputError(
                f"{folder}: expected a split {split!r}, got {sorted(loaded)}; name one of these as the split"
            )
        loaded = loaded[split]
    if field not in loaded.column_names:
        raise _no_field(str(folder), field, loaded.column_names)
    # One column only: the others may be large, and need not be decodable.
    yield from _rows(loaded.select_columns([field]), field, str(folder))


def hub_text(name: str, field: str, split: str) -> Iterator[str]:
    """The text field of a data set on the Hugging Face Hub, streamed; `name` is `NAME` or `NAME:CONFIG`.

    Raises:
        InputError: no such data set, configuration, split or field, or the hub cannot be reached.
    """
    import datasets

    repository, _, config = name.partition(":")
    if not repository:
        raise InputError("hub: expected hub:NAME or hub:NAME:CONFIG, got no name; give one such as hub:deepmind/pg19")
    where = f"hub:{name}"
    try:
        rows = _load_hub(datasets, repository, config or None, split)
        names = rows.column_names
        if names is not None and field not in names:
            raise _no_field(where, field, names)
        yield from _rows(rows, field, where)
    except InputError:
        raise
    except Exception as error:  # the hub client raises whatever its HTTP library of the day does
        raise InputError(
            f"{where}: expected a data set that can be streamed, got {_short(error)}; "
            "check the name, configuration and split, and that the hub can be reached (HF_HUB_OFFLINE unset)"
        ) from None


def _load_hub(datasets: Any, repository: str, config: str | None, split: str) -> Any:
    try:
        return datasets.load_dataset(repository, config, split=split, streaming=True)
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
    # Data sets that come as a script (PG19 is one) are converted by the hub itself, on a branch of their own.
    return datasets.load_dataset(repository, config, split=split, streaming=True, revision="refs/convert/parquet")


def _rows(rows: Iterable[Mapping[str, Any]], field: str, where: str) -> Iterator[str]:
    for row in rows:
        yield from _field(row, field, where)


def _field(record: Mapping[str, Any], field: str, where: str) -> Iterator[str]:
    if field not in record:
        raise _no_field(where, field, record)
    value = record[field]
    if value is None:
        return
    if not isinstance(value, str):
        kind = type(value).__name__
        raise InputError(f"{where}: expected text in the field {field!r}, got {kind}; name a field that holds text")
    yield value


def _no_field(where: str, field: str, fields: Iterable[str]) -> InputError:
    names = list(fields)
    shown = ", ".join(map(repr, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return InputError(
        f"{where}: expected a field {field!r}, got the fields {shown or 'none'}; name one as the text field"
    )


def _broken_parquet(path: Path, error: BaseException) -> InputError:
    return InputError(f"{path}: expected a whole Parquet file, got one that is broken ({_short(error)}); copy it again")


def _short(error: BaseException) -> str:
    """The first line of an error, which is all that fits into ours."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
