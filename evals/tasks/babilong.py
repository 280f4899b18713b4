"""BABILong (arXiv 2406.10149): the facts of one bAbI question, in order, scattered through a long text.

Stories are made offline (tasks 1 to 10) or come from bAbI's original files (1 to 20); the background is any text, never
tiled. Or whole documents come from the benchmark's dataset. The prompt is the benchmark's own, less where a source is
``bare``: all but the question then belongs to the document and counts in its length. Knows nothing of models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import Any

import numpy as np

from evals.tasks.babi import MADE, Story, load, make
from evals.tasks.babi.files import find
from evals.tasks.babilong_prompts import before, behind
from evals.tasks.babilong_scoring import LABELS
from evals.tasks.base import Question, Source
from evals.tasks.documents import Document, Insert

ALIGN = ("sentence", "token")
SCORERS = {"strict": "babilong:{}", "words": "babilong_words:{}", "loose": "babilong_loose"}
MAX_TOKENS = 20  # max_new_tokens of the benchmark's script, which stops at nothing else
TOKENS_A_FACT = 8  # the benchmark leaves out stories with more facts than the text has room for at this many tokens
_HELD = 2  # texts of the dataset whose tokens are held; they may have ten million
_TRIES = 1000  # stories drawn until one fits
_WINDOW = 256  # tokens in which the end of a sentence is looked for
_CLOSING = "”’)]"  # a straight quotation mark may open the next sentence
# Configurations of the dataset RMT-team/babilong and the lengths that name them.
CONFIGS = {f"{n}k": n * 1000 for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)} | {"1M": 10**6, "10M": 10**7}


@dataclass(frozen=True)
class HubDocument(Document):
    """A document of the benchmark's dataset: as long as it is, filed under the length that its configuration names."""

    nominal: int = 0


@dataclass(frozen=True)
class BABILong:
    """One task of the benchmark.

    Args:
        number: 1 to 20.
        files: folder of bAbI's original files to take stories from; tasks above 10 need it (or ``hub``).
        hub: the benchmark's dataset instead ("RMT-team/babilong", or a folder in its layout). Its documents are as long
            as they are; the length asked for chooses the configuration (4000 or 4096: "4k"), and where the facts are
            is not known.
        align: "sentence" puts facts between sentences of the background, as the benchmark does; "token" anywhere.
            Segment borders cut facts either way.
        scoring: "strict" is the benchmark's own, "words" the same with whole words, "loose" lm-eval's; see
            ``evals.tasks.babilong_scoring``.
    """

    number: int
    files: str = ""
    hub: str = ""
    align: str = "sentence"
    scoring: str = "strict"

    def __post_init__(self) -> None:
        if not 1 <= self.number <= 20:
            raise ValueError(f"number: expected a task from 1 to 20, got {self.number}")
        if self.align not in ALIGN:
            raise ValueError(f"align: expected one of {', '.join(ALIGN)}, got {self.align!r}; name one")
        if self.scoring not in SCORERS:
            raise ValueError(f"scoring: expected one of {', '.join(SCORERS)}, got {self.scoring!r}; name one")
        if self.files and self.hub:
            raise ValueError("files and hub: expected one of them, got both; leave one out")
        if self.number not in MADE and not self.files and not self.hub:
            raise ValueError(
                f"{self.name}: expected a folder of bAbI's files or a dataset, got neither; "
                f"only qa1 to qa{MADE[-1]} are made offline, so write {self.name}:files=FOLDER"
            )

    @property
    def name(self) -> str:
        """As in the registry."""
        return f"qa{self.number}"

    @property
    def labels(self) -> tuple[str, ...]:
        """The closed set of answers."""
        return LABELS[self.name]

    @property
    def chance(self) -> float:
        """One label out of all."""
        return 1 / len(self.labels)

    def settings(self) -> Mapping[str, Any]:
        """All but the source; files by what is in them."""
        stories = "made 1"
        if self.files:
            stories = hashlib.sha256(find(self.files, self.number).read_bytes()).hexdigest()[:16]
        chosen = {"dataset": self.hub} if self.hub else {"stories": stories, "align": self.align}
        return {"number": self.number, "scoring": self.scoring, **chosen}

    def documents(self, source: Source, length: int, count: int, first: int = 0) -> Iterator[Document]:
        """``count`` documents of exactly ``length`` tokens from number ``first`` on; with ``hub``, as long as they are.

        Raises ValueError where the background is shorter than the text, the length too small for any story, there is
        no file or dataset, or it has fewer questions.
        """
        if self.hub:
            return self._stored(source, length, count, first)
        prefix = np.zeros(0, dtype=np.int64) if source.bare else source.encode(before(self.number))
        room = length - len(prefix)
        if room < 1:
            raise ValueError(f"length: expected more than the {len(prefix):,} tokens of the prompt, got {length:,}")
        story = self._stories(source, room, first + count) if self.files else partial(self._made, source, room)
        ends = _Ends(source) if self.align == "sentence" else None
        return (self._document(source, length, n, prefix, story(n), ends) for n in range(first, first + count))

    def _made(self, source: Source, room: int, index: int) -> Story:
        """The first story made for this number that fits into ``room`` tokens."""
        for attempt in range(_TRIES):
            story = make(self.number, source.seed, index + attempt * 10**9)
            if _fits(source, story, room):
                return story
        raise ValueError(
            f"length: expected room for the facts of {self.name}, got {room:,} tokens of text; ask for more"
        )

    def _stories(self, source: Source, room: int, upto: int) -> Callable[[int], Story]:
        """The stories of the file that fit, in an order that follows from the seed."""
        stories = load(self.files, self.number)
        shuffled = np.random.default_rng((source.seed, self.number)).permutation(len(stories))
        order = list(islice((int(n) for n in shuffled if _fits(source, stories[n], room)), upto))
        if upto > len(order):
            raise ValueError(
                f"{self.name}: expected questions for {upto:,} documents, got {len(order):,} that fit into {room:,} "
                "tokens; ask for fewer documents or a greater length"
            )
        return lambda index: stories[order[index]]

    def _document(
        self, source: Source, length: int, index: int, prefix: np.ndarray, story: Story, ends: _Ends | None
    ) -> Document:
        rng = np.random.default_rng((source.seed, index, length, self.number))
        ids = [source.encode(" " + fact) for fact in story.facts]
        text = length - len(prefix) - sum(len(part) for part in ids)
        if len(source.background) < text:
            raise ValueError(
                f"background: expected at least {text:,} tokens for a document of {length:,} (text is never tiled), "
                f"got {len(source.background):,}; give more text or ask for a shorter document"
            )
        start = int(rng.integers(len(source.background) - text + 1))
        gaps = sorted(int(gap) for gap in rng.integers(text + 1, size=len(ids)))
        if ends is not None:
            start = min(ends.next(start, len(source.background)), len(source.background) - text)
            gaps = [ends.next(start + gap, start + text) - start if gap else 0 for gap in gaps]
        inserts = [Insert(0, before(self.number), prefix, False)] if len(prefix) else []
        shift = len(prefix)
        for gap, fact, part in zip(gaps, story.facts, ids, strict=True):
            inserts.append(Insert(gap + shift, fact, part, True))
            shift += len(part)
        facts = inserts[len(inserts) - len(ids) :]
        spans = ((facts[n].offset, facts[n].offset + len(facts[n].ids)) for n in story.support)
        asked = self._question(source, story.question, story.answer, tuple(spans))
        return Document(length, tuple(inserts), (asked,), source.background, start, index)

    def _question(
        self, source: Source, question: str, answer: str, evidence: tuple[tuple[int, int], ...] = ()
    ) -> Question:
        return Question(
            self.name,
            question,
            source.encode(question if source.bare else behind(question)),
            (answer,),
            scorer=SCORERS[self.scoring].format(self.name),
            choices=self.labels,
            max_tokens=self._most(source),
            stop=(),
            evidence=evidence,
        )

    def _most(self, source: Source) -> int:
        """Tokens of an answer: the benchmark's, or of the longest label for a model that was trained to give one.

        Such a model has learned what comes first only; what it says behind that would be rejected as a second answer.
        """
        if not source.bare or self.number == 8:  # its answers are lists
            return MAX_TOKENS
        return max(len(source.encode(" " + label)) for label in self.labels)

    def _stored(self, source: Source, length: int, count: int, first: int) -> Iterator[Document]:
        """Documents of the dataset, opened at once and tokenised as they are asked for."""
        rows = _load(self.hub, _config(length), self.name)
        if first + count > len(rows):
            raise ValueError(
                f"{self.hub}: expected {first + count:,} documents of {self.name}, got {len(rows):,}; ask for fewer"
            )
        head = "" if source.bare else before(self.number)
        encode = lru_cache(maxsize=_HELD)(lambda n: source.encode(head + rows[n]["input"].strip()))
        return (self._row(source, length, n, rows[n], partial(encode, n)) for n in range(first, first + count))

    def _row(
        self, source: Source, length: int, index: int, row: Mapping[str, str], ids: Callable[[], np.ndarray]
    ) -> HubDocument:
        text = _Stored(ids)
        asked = self._question(source, row["question"].strip(), row["target"].strip())
        return HubDocument(len(text), (), (asked,), text, 0, index, nominal=length)


class _Stored:
    """The tokens of a text of the dataset, made again where others were read since: a background of ``Document``."""

    def __init__(self, ids: Callable[[], np.ndarray]) -> None:
        self._ids, self._length = ids, len(ids())

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice, /) -> np.ndarray:
        return self._ids()[part]


class _Ends:
    """Where sentences of the background end, found where it is asked for."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[int, str] = {}

    def next(self, at: int, stop: int) -> int:
        """The first place from ``at`` on that is behind a sentence, ``stop`` at most; ``at`` where none is near."""
        begin, ended = max(at - 1, 0), False
        for n, token in enumerate(np.asarray(self._source.background[begin : min(at + _WINDOW, stop)])):
            text = self._text(int(token))
            if ended and begin + n >= at and text.strip(_CLOSING):  # what closes a quotation belongs to its sentence
                return begin + n
            ended = text.rstrip(_CLOSING).endswith((".", "!", "?")) or (ended and not text.strip(_CLOSING))
        return stop if stop <= at + _WINDOW else at

    def _text(self, token: int) -> str:
        if token not in self._known:
            self._known[token] = self._source.decode(np.array([token], dtype=np.int64)).strip()
        return self._known[token]


def _fits(source: Source, story: Story, room: int) -> bool:
    """The benchmark's rule, and that the tokens of all facts find room."""
    if len(story.facts) * TOKENS_A_FACT > room:
        return False
    return sum(len(source.encode(" " + fact)) for fact in story.facts) <= room


def _config(length: int) -> str:
    """The dataset's configuration of this length. Raises ValueError where there is none."""
    for name, tokens in CONFIGS.items():
        if length in (tokens, tokens // 1000 * 1024, tokens // 10**6 * 1024**2):
            return name
    raise ValueError(f"length: expected one of the dataset's ({', '.join(CONFIGS)}), got {length:,}; 4000 means 4k")


def _load(path: str, config: str, split: str) -> Any:
    """Rows with input, question and target. Raises ValueError where there are none."""
    from datasets import load_dataset

    try:
        rows = load_dataset(path, name=config, split=split)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"hub: expected {split} of {config} in {path}, got: {reason}; give a name or a folder"
        ) from None
    missing = [name for name in ("input", "question", "target") if name not in rows.column_names]
    if missing:
        raise ValueError(f"{path}: expected columns input, question and target, got none called {', '.join(missing)}")
    return rows
