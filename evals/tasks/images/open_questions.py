"""Open questions about images of your own: a JSON-lines file with an image, a question and its answers on each line.

    {"image": "photos/kitchen.jpg", "question": "What is on the table?", "answers": ["a bowl", "a fruit bowl"]}

One question a document: its image stands at a depth of a long text, others from the same file distract. Images are
opened when they are read. Answers are compared in words (``evals.tasks.images.scoring.free``), no model judges.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from evals.tasks.base import Source
from evals.tasks.images.documents import GIVEN, ImageDocument, with_images
from evals.tasks.images.laid import Distractors, Plan
from evals.tasks.images.scoring import METRICS
from evals.tasks.images.tagged import label
from evals.tasks.images.world import ANIMALS


@dataclass(frozen=True)
class FilePicture:
    """An image file, opened when it is called for; ``told`` is what may be said of it."""

    path: str
    told: str = ""

    def __call__(self) -> UInt8[np.ndarray, "height width 3"]:
        """The pixels, in the file's own size, as its EXIF data turn them; white where transparent, 16 bits as 8.

        Raises ValueError on a file that is missing, no image, cut short, or so large that it may be a trap.
        """
        from PIL import Image, ImageOps

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(self.path) as image:
                    return np.asarray(_rgb(ImageOps.exif_transpose(image) or image))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ValueError(
                f"{self.path}: expected an image of at most {Image.MAX_IMAGE_PIXELS:,} pixels, got a larger one; make "
                "it smaller"
            ) from error
        except Exception as error:  # a broken file makes decoders fail in any way
            raise ValueError(f"{self.path}: expected an image file, got: {error}; replace it") from error

    @property
    def seen(self) -> dict[str, Any]:
        """Only where it lies."""
        return {"kind": "file", "path": self.path}

    @property
    def caption(self) -> str:
        """What is told of it."""
        return self.told


def _rgb(image: Any) -> Any:
    """A PIL image as RGB, as `rmt read` shows it to a model."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        grey = np.asarray(image)
        if image.mode == "F" or grey.max(initial=0) > 65535 or grey.min(initial=0) < 0:
            raise ValueError(f"{grey.dtype} (mode {image.mode}), not 8 or 16 bits a channel")
        image = Image.fromarray(((grey.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        whole = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole)
    return image.convert("RGB")


@dataclass(frozen=True)
class Entry:
    """One line of a file: where its image lies, what is asked of it, and what is right."""

    image: str
    question: str
    answers: tuple[str, ...]


def load(file: str | Path) -> tuple[Entry, ...]:
    """All lines of a file; paths of images are relative to it.

    Raises ValueError, with the line, on a missing file or image, on what is no JSON, or a line without an image, a
    question or an answer ("answers", a list, or "answer").
    """
    path = Path(file)
    if not path.is_file():
        raise ValueError(
            f"file: expected JSON lines of image, question and answers, got {str(file)!r}, which is no file"
        )
    return _load(path.resolve(), path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _load(path: Path, changed: int) -> tuple[Entry, ...]:
    entries = []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path.name}: expected UTF-8 text, got another byte at offset {error.start}; convert it"
        ) from error
    # str.splitlines would also cut at characters that JSON leaves inside a text, such as U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: expected JSON, got: {error.msg}; write one object a line") from error
        except RecursionError as error:
            raise ValueError(f"{where}: expected a flat object, got one nested too deep; flatten it") from error
        if not isinstance(found, dict):
            raise ValueError(f"{where}: expected an object, got {type(found).__name__}; write one object a line")
        answers = found.get("answers", found.get("answer"))
        answers = [answers] if isinstance(answers, str) else answers
        texts = [found.get("image"), found.get("question"), *(answers if isinstance(answers, list) else [None])]
        if len(texts) < 3 or not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError(
                f"{where}: expected an image, a question and answers as texts, got {sorted(found)}; give all three"
            )
        image = path.parent / found["image"]
        if not image.is_file():
            raise ValueError(f"{where}: expected an image at {image}, got no file; correct its path")
        entries.append(Entry(str(image), found["question"], tuple(texts[2:])))
    if not entries:
        raise ValueError(f"{path.name}: expected at least one question, got none; write one object a line")
    return tuple(entries)


@dataclass(frozen=True)
class OpenDocument(ImageDocument):
    """A document whose first given picture is asked about; other lines of the file may ask about the same one."""

    def gives_away(self, other: Any) -> bool:
        """Whether this document shows the picture that ``other`` asks about, or answers its question as that does."""
        if isinstance(other, OpenDocument):
            asked: Any = other.items.given[0]
            shown: Any = self.items.given
            if asked.path in [picture.path for picture in shown]:
                return True
        return super().gives_away(other)


@dataclass(frozen=True)
class ImageOpen:
    """Questions from a file of yours.

    Attributes:
        file: path of the JSON lines.
        metric: the score, "exact", "contains" or "f1"; all three are kept in the rows.
        depths: as in ``evals.tasks.images.needle``.
        others: images of other lines beside the asked one (at most 15). Each image then has a name in front of it,
            "Picture of the otter:", and the question says which one it means.
        max_tokens: tokens of an answer at most.
        distractors, sentences, kinds: as in ``evals.tasks.images.needle``.
        name: as in the registry.
    """

    file: str = ""
    metric: str = "f1"
    depths: int = 11
    others: int = 0
    max_tokens: int = 32
    distractors: float = 0.0
    sentences: float = 0.0
    kinds: str = "scene"
    name: str = "image_open"

    def __post_init__(self) -> None:
        Distractors(self.distractors, self.sentences, self.kinds)
        if self.metric not in METRICS:
            raise ValueError(f"metric: expected one of {', '.join(METRICS)}, got {self.metric!r}; name one of these")
        if self.depths < 1 or self.max_tokens < 1:
            raise ValueError(
                f"expected depths and max_tokens from 1, got {self.depths} and {self.max_tokens}; 11 and 32 are usual"
            )
        if not 0 <= self.others < len(ANIMALS):
            raise ValueError(f"others: expected 0 to {len(ANIMALS) - 1}, got {self.others}; take fewer")

    @property
    def chance(self) -> None:
        """None to speak of: anything may be said."""
        return None

    def settings(self) -> Mapping[str, Any]:
        """The fields; of the file its name and a digest of what it says."""
        said = [(Path(entry.image).name, entry.question, entry.answers) for entry in load(self.file)]
        digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
        return {**asdict(self), "file": f"{Path(self.file).name} {digest}"}

    def documents(self, source: Source, length: int, count: int, first: int = 0) -> Iterator[ImageDocument]:
        """``count`` documents from number ``first`` on; beyond the end of the file it begins again, at other places.

        Raises ValueError for a faulty file, a source without images, a background that is shorter, or no room.
        """
        seeing, entries, settings = with_images(source, self.name), load(self.file), self.settings()
        if (distinct := len({entry.image for entry in entries})) <= self.others:
            raise ValueError(f"others: expected images of more than {self.others} files, got {distinct}; take fewer")
        return (
            self._document(Plan(self.name, settings, seeing, length, index), entries)
            for index in range(first, first + count)
        )

    def _document(self, plan: Plan, entries: tuple[Entry, ...]) -> ImageDocument:
        rng, entry = plan.rng, entries[plan.index % len(entries)]
        paths = sorted({other.image for other in entries} - {entry.image})
        others = [paths[i] for i in rng.permutation(len(paths))[: self.others]]
        names = rng.permutation(len(ANIMALS))
        labels = [label(int(name)) for name in names[: 1 + len(others)]] if others else []
        drawn = Distractors(self.distractors, self.sentences, self.kinds).drawn(rng, plan.length)
        around = np.array([*(GIVEN + 1 + i for i in range(len(others))), *drawn], dtype=np.int64)
        given = [FilePicture(path) for path in (entry.image, *others)]
        depth = plan.index % self.depths / max(1, self.depths - 1)
        document, (place,) = plan.document(rng, [GIVEN], around, labels, given, depth)
        text = f"About the picture of the {ANIMALS[names[0]]}: {entry.question}" if others else entry.question
        asked = plan.question(
            text, entry.answers, (), [document.evidence(place)], f"image_free:{self.metric}", "in a few words",
            {"depth": depth, "image": Path(entry.image).name},
        )  # fmt: skip
        asked = replace(asked, max_tokens=self.max_tokens)
        parts = {part.name: getattr(document, part.name) for part in fields(document)}
        own = {known.question: known.answers[0] for known in entries if known.image == entry.image and not others}
        return OpenDocument(**{**parts, "questions": (asked,), "said": {**own, text: entry.answers[0]}})
