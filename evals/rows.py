"""One line per answered question: the rows of an evaluation and the file that keeps them.

The file is JSON lines: a header that says what it belongs to, then one row per line, appended as each
question is answered. A process that is killed leaves at most half a line, which is dropped on opening.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

Label = int | tuple[str, ...]

FORMAT = "evals.rows/2"
OLDER = ("evals.rows/1",)  # rows of labels only; read as they are, and continued


@dataclass(frozen=True)
class Row:
    """One question answered once.

    ``document`` and ``question`` count from 0, in the order given. ``digest`` is that of the document the
    question belongs to; ``source`` is that of the document whose memory was used: the same one, another
    one (swapped), or empty (the initial memory). ``control`` is "memory" for the score itself.

    Attributes:
        expected: the label that is right, or the answers that are (strings; what they mean is the scorer's).
        answered: the label, the text, or the number that the model gave.
        score: what the scorer made of it; None where a label is right or wrong.
        scorer: name of the scorer in ``evals.scorers``, so that the row can be scored again.
        asked: the question in words.
        evidence: token ranges [start, stop) of the document that hold what is needed to answer.
        detail: what else the question and the scorer say: sizes, verdicts, further metrics; as JSON can hold it.
    """

    task: str
    length: int
    control: str
    document: int
    question: int
    digest: str
    source: str
    expected: Label
    answered: Any
    score: float | None = None
    scorer: str = ""
    asked: str = ""
    evidence: tuple[tuple[int, int], ...] = ()
    detail: Mapping[str, Any] | None = None

    @property
    def value(self) -> float:
        """The score; 1 or 0 where an answer is a label, right or wrong."""
        return float(self.answered == self.expected) if self.score is None else self.score

    @property
    def correct(self) -> bool:
        """Whether the answer is fully right."""
        return self.value >= 1

    @property
    def key(self) -> tuple[str, int, str, str]:
        """What a row is told apart by when a run goes on; places in a list may shift, digests do not."""
        return (self.digest, self.question, self.control, self.source)


_KNOWN = {field.name for field in fields(Row)}
_DEFAULTS = {field.name: field.default for field in fields(Row) if field.default is not MISSING}
_NEEDED = _KNOWN - set(_DEFAULTS)


class RowLog:
    """Rows of one model under one set of settings, on disk if ``path`` is given, else in memory only.

    ``settings`` is anything JSON can hold that changes the answers (tasks, text, seeds). A file that
    belongs to another model or other settings is refused with a ValueError that names the difference.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, fingerprint: str, settings: Mapping[str, Any], part: int = 0
    ) -> None:
        """``part``: which of several processes writes; all read all files, each appends to its own."""
        self._header = _header(fingerprint, settings)
        self._all = path
        self.path = None if path is None else part_path(path, part)
        self._rows: dict[tuple[str, int, str, str], Row] = {}
        self._ends: dict[Path, int] = {}  # how far the files of other processes have been read
        self._file: int | None = None
        if path is None or self.path is None:
            return
        if Path(path).is_dir():
            raise ValueError(f"{path}: expected a file for the rows, got a folder; name a file inside it")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _lock(self._file, self.path)
            self.refresh()
            found, end = self._take(self.path)
            os.ftruncate(self._file, end)
            if not found:
                self._write(self._header)
        except BaseException:
            os.close(self._file)
            self._file = None
            raise

    def refresh(self) -> None:
        """Take in what other processes have answered meanwhile."""
        for file in [] if self._all is None else part_paths(self._all):
            if file != self.path and self._ends.get(file, 0) < file.stat().st_size:
                self._ends[file] = self._take(file, self._ends.get(file, 0))[1]

    def _take(self, file: Path, begin: int = 0) -> tuple[bool, int]:
        """The rows of one file from byte ``begin`` on: whether its header is there, and where its next row belongs."""
        found, rows, end = _read(file, begin)
        if found is not None:
            _check_header(file, found, self._header)
        self._rows.update((row.key, row) for row in rows)
        return found is not None, end

    def append(self, row: Row) -> None:
        """Keep a row; it is with the operating system when this returns, so a kill does not lose it."""
        if self._file is not None:
            self._write({name: value for name, value in asdict(row).items() if value != _DEFAULTS.get(name, MISSING)})
        self._rows[row.key] = row

    def get(self, key: tuple[str, int, str, str]) -> Row | None:
        """The row with this key, if it was answered already."""
        return self._rows.get(key)

    def close(self) -> None:
        """Push the file to the disk and let go of it; safe to call twice."""
        if self._file is not None:
            os.fsync(self._file)
            os.close(self._file)
            self._file = None

    def __enter__(self) -> RowLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        assert self._file is not None
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n"
        line = memoryview(text.encode(errors="backslashreplace"))  # half a surrogate pair, which a model may say
        while line:  # a short write happens on a full disk; the next one then says so
            line = line[os.write(self._file, line) :]


def _lock(file: int, path: Path) -> None:
    """Keep the file to this process until it is closed; where the file system knows no locks, go on without."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{path}: expected no other process at work on this run, got one; wait, or stop it") from None
    except OSError:
        pass


def part_path(path: str | os.PathLike[str], part: int) -> Path:
    """The file of one of several processes: ``rows.jsonl`` of the first, ``rows-3.jsonl`` of the fourth."""
    path = Path(path)
    return path if part == 0 else path.with_name(f"{path.stem}-{part}{path.suffix}")


def part_paths(path: str | os.PathLike[str]) -> list[Path]:
    """All files there are of a run, whichever processes wrote them; that of the first process first."""
    path = Path(path)
    parts = [p for p in path.parent.glob(f"{path.stem}-*{path.suffix}") if p.stem[len(path.stem) + 1 :].isdigit()]
    return [p for p in [path, *sorted(parts, key=lambda p: int(p.stem[len(path.stem) + 1 :]))] if p.is_file()]


def load_rows(path: str | os.PathLike[str]) -> list[Row]:
    """All whole rows of a run, in the order written, those of further processes behind; each question once a control.

    A run that went on with more documents may lend a question another memory than before (swapped): the later row is
    taken, so that no question counts twice.

    ValueError if there are none or it is not such a file.
    """
    files = part_paths(path)
    if not files:
        raise ValueError(f"{path}: expected a file of rows, got nothing there; run the evaluation first")
    rows: dict[tuple[str, int, str], Row] = {}
    for file in files:
        for row in _read(file)[1]:
            rows[row.digest, row.question, row.control] = row
    return list(rows.values())


def load_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a run's rows belong to: ``model`` (fingerprint), ``settings``, ``key`` (hash of both), ``format``.

    ValueError if it is missing or not such a file.
    """
    files = part_paths(path)
    found = _read(files[0])[0] if files else None
    if found is None:
        raise ValueError(f"{path}: expected a file of rows, got nothing there; run the evaluation first")
    return found


def _header(fingerprint: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        # A round trip, so that a tuple given now equals the list it was read back as.
        plain = json.loads(json.dumps(dict(settings), sort_keys=True, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected settings that JSON can hold, got {error}; give numbers, text and lists") from None
    identity = json.dumps({"model": fingerprint, "settings": plain}, sort_keys=True)
    key = hashlib.sha256(identity.encode()).hexdigest()
    return {"format": FORMAT, "key": key, "model": fingerprint, "settings": plain}


def _check_header(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if found.get("key") == wanted["key"]:
        return
    if found.get("model") != wanted["model"]:
        what = f"model {wanted['model']}, got rows of model {found.get('model')}"
    else:
        old, new = found.get("settings", {}), wanted["settings"]
        names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        pairs = ", ".join(f"{name}={new.get(name)!r} (file: {old.get(name)!r})" for name in names)
        what = f"the settings of this run, got a file made with others: {pairs or 'key differs'}"
    raise ValueError(f"{path}: expected {what}; name another file, or remove this one to start again")


def _read(path: Path, begin: int = 0) -> tuple[dict[str, Any] | None, list[Row], int]:
    """Header (None for a new file, or behind it), whole rows from byte ``begin`` on, and where the next row belongs."""
    header: dict[str, Any] | None = None
    rows: list[Row] = []
    end = begin
    if not path.exists():
        return header, rows, end
    with path.open("rb") as file:
        file.seek(begin)
        for number, line in enumerate(file, start=1 if begin == 0 else 2):
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("half a line")
                record = json.loads(line)
                if number == 1:
                    header = _as_header(record)
                else:
                    rows.append(_as_row(record))
            except (ValueError, TypeError):
                # Cut off only what a killed writer of ours can leave; some other file is never overwritten. Only the
                # last line can want its end, whatever size a file has that another process writes meanwhile.
                if not line.endswith(b"\n") and (number > 1 or _starts_header(line)):
                    break
                raise ValueError(
                    f"{path}: expected a row of {FORMAT} in line {number}, got something else; "
                    "remove the file to start again"
                ) from None
            end += len(line)
    return header, rows, end


def _starts_header(line: bytes) -> bool:
    start = json.dumps({"format": FORMAT}, separators=(",", ":"))[:-1].encode()
    shared = min(len(line), len(start))
    return line[:shared] == start[:shared]


def _as_header(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict) or record.get("format") not in (FORMAT, *OLDER):
        raise ValueError("no header")
    return record


def _as_row(record: Any) -> Row:
    if not isinstance(record, dict) or not _NEEDED <= set(record) <= _KNOWN:
        raise ValueError("no row")
    if isinstance(record["expected"], list):
        record["expected"] = tuple(record["expected"])
    if "evidence" in record:
        record["evidence"] = tuple((int(start), int(stop)) for start, stop in record["evidence"])
    return Row(**record)
