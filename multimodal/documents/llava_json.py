"""Conversations about images from files: LLaVA's training format and messages as Hugging Face writes them.

LLaVA (arXiv 2304.08485): a JSON array, or a JSON object a line, of
`{"id", "image": NAME or [NAMES], "conversations": [{"from": "human" or "gpt", "value": "<image>\\n..."}]}`.
Messages: `{"messages": [{"role", "content": TEXT or [{"type": "image"}, {"type": "text", "text"}]}]}`, with the images
in the items (`path`, `url` or `image`) or, in order, in a list `images` beside the messages.

Every sample is checked by itself, and none is dropped without a word. Knows nothing of tokens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multimodal.documents.records import read_records
from multimodal.images import MAX_PIXELS, ImageFile, Picture
from multimodal.pieces import Figure
from rmt.errors import InputError

TAG = "<image>"
"""What stands for an image in LLaVA's human turns. In an answer it is text: a model writes no images."""

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_REASONS_KEPT = 20


@dataclass(frozen=True, eq=False)
class Turn:
    """What one side says.

    Attributes:
        role: "system", "user" or "assistant".
        content: texts and images in order; a text is only text, whatever it holds.
    """

    role: str
    content: tuple[str | Picture, ...]

    @property
    def images(self) -> list[Picture]:
        """The images in order."""
        return [part for part in self.content if not isinstance(part, str)]


@dataclass(frozen=True, eq=False)
class Sample:
    """One conversation: perhaps a system's turn, then user and assistant in turn.

    Attributes:
        id: its name, "" for none.
        turns: at least one.
        where: file and index, for errors.
    """

    id: str
    turns: tuple[Turn, ...]
    where: str = ""

    @property
    def images(self) -> list[Picture]:
        """The images of all turns in order."""
        return [image for turn in self.turns for image in turn.images]


@dataclass
class Skipped:
    """What was left out: give one to :func:`read_samples`, and look at it afterwards.

    Attributes:
        count: samples left out.
        reasons: the errors of the first 20.
    """

    count: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, error: InputError) -> None:
        """Count one sample and note why."""
        self.count += 1
        if len(self.reasons) < _REASONS_KEPT:
            self.reasons.append(str(error))


def read_samples(
    path: str | Path,
    *,
    images: str | Path | None = None,
    skip: Skipped | None = None,
    check_files: bool = True,
    decode: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Sample]:
    """Conversations of a file in order, one at a time in memory, each checked.

    Args:
        path: a `.json` file with an array, or one with a JSON object a line.
        images: the folder that names of images start from; None for the file's own.
        skip: None: a bad sample is an error. Else bad samples are counted in it and left out.
        check_files: look whether the images are there.
        decode: also decode each of them once, so that a broken one is found here.
        max_pixels: as of :func:`multimodal.images.open_image`.

    Raises:
        InputError: a bad sample, with file, index from 0 and reason; broken JSON, whatever ``skip`` says.
    """
    path = Path(os.path.expanduser(path))
    folder = path.parent if images is None else Path(os.path.expanduser(images))
    for index, record in read_records(path):
        try:
            sample = parse_sample(record, folder, where=f"{path}, index {index}", max_pixels=max_pixels)
            for image in sample.images if check_files or decode else ():
                if isinstance(image, ImageFile):
                    image.load() if decode else image.check()
        except InputError as error:
            if skip is None:
                raise
            skip.add(error)
            continue
        yield sample


def is_conversations(path: Path) -> bool:
    """Whether the first record of a JSON file is a conversation; false for what cannot be read."""
    try:
        _, record = next(read_records(path))
    except (InputError, StopIteration):
        return False
    return isinstance(record, dict) and any(isinstance(record.get(key), list) for key in ("conversations", "messages"))


def conversation_pieces(path: Path, *, max_pixels: int = MAX_PIXELS) -> Iterator[str | Figure]:
    """Conversations to be read as a document: "USER: ..." and "ASSISTANT: ..." a line, a blank line between two."""
    begun = False
    for sample in read_samples(path, max_pixels=max_pixels):
        if begun:
            yield "\n"
        begun = True
        for turn in sample.turns:
            yield f"{turn.role.upper()}: "
            for part in turn.content:
                if not isinstance(part, str):
                    yield Figure(part)
                elif part:
                    yield part
            yield "\n"


def parse_sample(record: Any, folder: Path, *, where: str = "", max_pixels: int = MAX_PIXELS) -> Sample:
    """One record of either format as a sample.

    Args:
        record: the JSON object.
        folder: the folder that names of images start from.
        where: file and index; errors begin with it.
        max_pixels: as of :func:`multimodal.images.open_image`.

    Raises:
        InputError: not a conversation, an empty one, roles out of order, an answer or a turn that is no text, or
            not as many images as `<image>` tags.
    """
    where = where or "sample"
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected a JSON object, got {_kind(record)}; write one a sample")
    name = record.get("id")
    where = f"{where} (id {str(name)[:80]!r})" if name is not None else where
    if isinstance(record.get("conversations"), list):
        entries, speaker, words = record["conversations"], "from", "value"
    elif isinstance(record.get("messages"), list):
        entries, speaker, words = record["messages"], "role", "content"
    else:
        raise InputError(
            f'{where}: expected a list "conversations" or "messages", got the keys {sorted(record)[:10]}; bring it to '
            "LLaVA's format"
        )
    listed = [ImageFile(_path(image, folder), where, max_pixels) for image in _listed(record, where)]
    turns = []
    used = 0
    for number, entry in enumerate(entries):
        here = f"{where}, turn {number}"
        if not isinstance(entry, dict) or words not in entry or speaker not in entry:
            raise InputError(f'{here}: expected an object with "{speaker}" and "{words}", got {_kind(entry)}; mend it')
        role = _ROLES.get(entry[speaker]) if isinstance(entry[speaker], str) else None
        if role is None:
            raise InputError(f"{here}: expected one of {sorted(_ROLES)}, got {str(entry[speaker])[:80]!r}; rename it")
        content: list[str | Picture] = []
        for part in _parts(entry[words], role, words == "value", here):
            if isinstance(part, str):
                content.append(part)
            elif part.path:
                content.append(ImageFile(_path(part.path, folder), where, max_pixels))
            else:
                content.extend(listed[used : used + 1])
                used += 1
        turns.append(Turn(role, tuple(content)))
    if used != len(listed):
        tags = f"{used} {TAG} tag{'' if used == 1 else 's'} in the user's turns"
        raise InputError(f"{where}: expected as many images as {TAG} tags, got {len(listed)} for {tags}; mend it")
    _check_order(turns, where)
    return Sample("" if name is None else str(name), tuple(turns), where)


@dataclass(frozen=True)
class _Image:
    path: str = ""  # "" for the next one of the list


def _parts(value: Any, role: str, tagged: bool, where: str) -> Iterator[str | _Image]:
    if isinstance(value, str):
        texts = value.split(TAG) if tagged and role == "user" else [value]
        for number, text in enumerate(texts):
            if number:
                yield _Image()
            if text:
                yield text
        return
    if tagged or not isinstance(value, list):
        raise InputError(f"{where}: expected text, got {_kind(value)}; mend it")
    for item in value:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "text" and isinstance(item.get("text"), str):
            if item["text"]:
                yield item["text"]
        elif kind == "image" and role != "assistant":
            path = next((item[key] for key in ("path", "url", "image") if item.get(key)), "")
            if not isinstance(path, str):
                raise InputError(f"{where}: expected the path of an image, got {_kind(path)}; save it to a file")
            yield _Image(path)
        else:
            raise InputError(
                f'{where}: expected items of type "text" or, but in answers, "image", got '
                f"{json.dumps(item, default=str)[:80]}; mend it"
            )


def _listed(record: dict[str, Any], where: str) -> list[str]:
    found = record.get("image", record.get("images"))
    names = [] if found is None else found if isinstance(found, list) else [found]
    for name in names:
        if not isinstance(name, str) or not name:
            raise InputError(f"{where}: expected the name of an image, got {_kind(name)}; name a file")
    return names


def _path(name: str, folder: Path) -> Path:
    if name.lower().startswith("file://"):
        return Path(name[7:])
    # A link stays one: opening it says that it must be downloaded.
    return Path(name) if "://" in name[:10] else folder / name


def _check_order(turns: list[Turn], where: str) -> None:
    roles = [turn.role for turn in turns]
    said = roles[1:] if roles[:1] == ["system"] else roles
    if not said:
        raise InputError(f"{where}: expected a conversation, got one without turns; leave it out")
    for number, role in enumerate(said):
        if role != ("user", "assistant")[number % 2]:
            raise InputError(
                f"{where}: expected user and assistant in turn, the user first, got {' '.join(roles[:12])}; mend it"
            )


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    return "an empty text" if value == "" else f"a {type(value).__name__}"
