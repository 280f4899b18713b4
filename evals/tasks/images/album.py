"""An album on disk: pictures of the world with text between them, as Markdown, and what is right to say of them.

For people to look at, and for commands that read a folder. Knows no task and no model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from evals.tasks.images.digits import DigitPicture, any_digit
from evals.tasks.images.photographs import any_photograph
from evals.tasks.images.scenes import ScenePicture, any_scene
from evals.tasks.images.world import ATTRIBUTES, NAMES, SENTENCES, UNFRAMED, UNKNOWN, Picture, asked, sentence, told

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_WEATHER = ("It rained until noon.", "The wind came from the sea.", "The morning was clear and cold.", "Fog lay about.")
_DOINGS = ("walked to", "rested at", "drove past", "had lunch near", "turned back before", "waited for an hour at")
_WHERE = ("the mill", "the old bridge", "the station", "a farm", "the lake", "the last house", "a church", "the pier")


def diary(rng: np.random.Generator) -> Iterator[str]:
    """Paragraphs without end, of plain sentences: what stands between pictures where no text is given."""
    day = int(rng.integers(len(_DAYS)))
    while True:
        lines = [f"{_DAYS[day % len(_DAYS)]}. {rng.choice(_WEATHER)}"]
        doings, places = rng.permutation(_DOINGS), rng.permutation(_WHERE)
        lines += [f"We {doing} {place}." for doing, place in zip(doings[: rng.integers(1, 4)], places, strict=False)]
        if rng.random() < 0.5:
            lines.append(sentence(int(rng.integers(SENTENCES))).capitalize())
        yield " ".join(lines)
        day += 1


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a text, each in one line, none repeated."""
    return (" ".join(part.split()) for part in text.split("\n\n") if part.strip())


def pictures(
    seed: int, framed: int, others: int, size: int = 32, which: str = "test", photographs: bool = False
) -> list[Picture]:
    """``framed`` digits in frames of different colours and ``others`` without a frame, in random order.

    The others are digits, scenes, and where asked for ``photographs``. Raises ValueError for more frames than there are
    colours, no picture at all, or photographs without scikit-image.
    """
    if not 0 <= framed <= len(NAMES):
        raise ValueError(f"framed: expected 0 to {len(NAMES)}, one for each colour, got {framed}; take fewer")
    if others < 0 or framed + others < 1:
        raise ValueError(f"pictures: expected at least one, got {framed} framed and {others} others; take more")
    rng = np.random.default_rng(seed)
    drawn: list[Picture] = [any_digit(rng, which, int(frame), size) for frame in rng.permutation(len(NAMES))[:framed]]
    makers: list[Callable[[], Picture]] = [lambda: any_digit(rng, which, UNFRAMED, size), lambda: any_scene(rng, size)]
    if photographs:
        makers.append(lambda: any_photograph(rng, size))
    drawn += [makers[number % len(makers)]() for number in range(others)]
    return [drawn[place] for place in rng.permutation(len(drawn))]


def questions(shown: Sequence[Picture]) -> list[tuple[str, str]]:
    """What can be asked of an album by the frames in it, with the answers; frames that are not there are unknown."""
    by_frame = {picture.frame: picture for picture in shown if isinstance(picture, DigitPicture) and picture.frame >= 0}
    return [
        (asked(a, frame), told(a, by_frame[frame].digit, by_frame[frame].ink) if frame in by_frame else UNKNOWN)
        for frame in range(len(NAMES))
        for a in ATTRIBUTES
    ]


def write(
    folder: str | Path, shown: Sequence[Picture], text: Iterator[str], seed: int = 0, most: int = 3
) -> dict[str, Path]:
    """Write an album.

    Args:
        folder: a new or an empty one.
        shown: its pictures, in order.
        text: paragraphs between them, taken in order.
        seed: of how many paragraphs stand before each picture.
        most: at most so many.

    Returns:
        Paths by name. "album": Markdown with images, whose alternative texts are empty so as to tell nothing;
        "answers": questions about the whole album, and what each picture shows, as JSON; "questions": lines of image,
        question and answers, as the task ``image_open`` reads them.

    Raises:
        ValueError: a folder with something in it, or a text that ends before the pictures do.
    """
    folder, rng = Path(folder), np.random.default_rng((seed, 1))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: expected a new or an empty folder, got one with something in it; name another")
    folder.mkdir(parents=True, exist_ok=True)
    from PIL import Image

    lines, listed, asks = [], [], []
    for number, picture in enumerate(shown, start=1):
        for _ in range(int(rng.integers(1, most + 1))):
            if (paragraph := next(text, None)) is None:
                raise ValueError(
                    f"text: expected paragraphs for {len(shown)} pictures, got too few; give a longer text"
                )
            lines.append(paragraph)
        name = f"{number:04}.png"
        Image.fromarray(picture()).save(folder / name)
        lines.append(f"![]({name})")
        listed.append({"file": name, "caption": picture.caption, "seen": picture.seen})
        asks += [{"image": name, "question": q, "answers": [a]} for q, a in _of(picture)]
    whole = [{"question": question, "answers": [answer]} for question, answer in questions(shown)]
    paths = {name: folder / file for name, file in _FILES.items()}
    paths["album"].write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    answers = json.dumps({"questions": whole, "pictures": listed}, indent=1)
    paths["answers"].write_text(answers + "\n", encoding="utf-8")
    paths["questions"].write_text("".join(json.dumps(ask) + "\n" for ask in asks), encoding="utf-8")
    return paths


_FILES = {"album": "album.md", "answers": "answers.json", "questions": "questions.json"}


def _of(picture: Picture) -> list[tuple[str, str]]:
    """Questions of one picture alone."""
    if isinstance(picture, ScenePicture):
        return list(picture.questions())
    if isinstance(picture, DigitPicture):
        seen = picture.seen
        return [("what digit is it?", seen["digit"]), ("what color is the digit?", seen["color"])]
    return []


def contact_sheet(
    images: Sequence[UInt8[np.ndarray, "height width 3"]], columns: int = 0, scale: int = 2
) -> UInt8[np.ndarray, "rows pixels 3"]:
    """Images of one size side by side, each pixel ``scale`` wide, a dark line between them; as square as may be.

    Raises ValueError for no images, or sizes that differ.
    """
    if not images or len({image.shape for image in images}) > 1:
        sizes = sorted({image.shape[:2] for image in images})
        raise ValueError(f"images: expected some of one size, got {sizes or 'none'}; draw them alike")
    columns = columns or math.ceil(math.sqrt(len(images)))
    high, wide = (side * scale + 1 for side in images[0].shape[:2])
    sheet = np.zeros((high * math.ceil(len(images) / columns), wide * columns, 3), dtype=np.uint8)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        large = image.repeat(scale, axis=0).repeat(scale, axis=1)
        sheet[row * high : (row + 1) * high - 1, column * wide : (column + 1) * wide - 1] = large
    return sheet
