"""The words of the offline world: its colours, its digits, what is asked of a picture, and sentences that only seem to.

Everything lower case and in single words, so that a small vocabulary has an answer in one token. Knows how a colour
looks, but draws nothing; knows no document.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

# Red, green and blue of each colour, 0 to 255; far enough apart to be told from each other through noise.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 215, 50),
    "purple": (150, 60, 190),
    "orange": (240, 140, 30),
    "turquoise": (60, 205, 215),
    "white": (240, 240, 240),
}
NAMES = tuple(COLOURS)  # of inks and of frames alike
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ATTRIBUTES = ("digit", "color")  # what is asked of a digit, in the order in which memory slots are filed
UNKNOWN = "unknown"
UNFRAMED = -1

ANIMALS = (
    "otter", "heron", "badger", "falcon", "beaver", "lynx", "raven", "tortoise", "walrus", "gecko", "panda", "magpie",
    "donkey", "lobster", "squirrel", "penguin",
)  # fmt: skip


@runtime_checkable
class Picture(Protocol):
    """An image that is made when asked for, and what is to be seen in it."""

    def __call__(self) -> UInt8[np.ndarray, "height width 3"]:
        """The pixels, the same at each call."""

    @property
    def seen(self) -> dict[str, Any]:
        """What is to be seen, as JSON can hold it; "kind" is digit, scene, photograph or file."""

    @property
    def caption(self) -> str:
        """The same in words, as it would stand behind the image."""


def asked(attribute: str, frame: int) -> str:
    """The question of what is in a frame: ``attribute`` is one of :data:`ATTRIBUTES`, ``frame`` an index of colours."""
    if attribute == "digit":
        return f"what digit was in the {NAMES[frame]} frame?"
    if attribute == "color":
        return f"what color was the digit in the {NAMES[frame]} frame?"
    raise ValueError(f"attribute: expected one of {', '.join(ATTRIBUTES)}, got {attribute!r}; name one of these")


def asked_of(attribute: str, animal: str) -> str:
    """The question of what is in the picture that the text names."""
    if attribute == "digit":
        return f"what digit was in the picture of the {animal}?"
    if attribute == "color":
        return f"what color was the digit in the picture of the {animal}?"
    raise ValueError(f"attribute: expected one of {', '.join(ATTRIBUTES)}, got {attribute!r}; name one of these")


def told(attribute: str, digit: int, ink: int) -> str:
    """The answer, one word."""
    return DIGITS[digit] if attribute == "digit" else NAMES[ink]


def worded(digit: int, ink: int, frame: int) -> str:
    """The sentence that says what an image of a digit shows, to stand in its place."""
    where = f"in the {NAMES[frame]} frame" if frame >= 0 else "without a frame"
    return f"{where} is {_a(NAMES[ink])} {DIGITS[digit]}."


def captioned(digit: int, ink: int, frame: int) -> str:
    """What an image of a digit shows, as a caption."""
    where = f"in {_a(NAMES[frame])} frame" if frame >= 0 else "without a frame"
    return f"{_a(NAMES[ink])} {DIGITS[digit]} {where}."


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


# Of a colour and a digit, drawn apart from all that is in the pictures: such a sentence tempts, and tells nothing.
_SENTENCES = (
    "the {colour} frame on the wall was empty.",
    "she drew a {colour} {digit}.",
    "he painted the old frame {colour}.",
    "{digit} {colour} frames hung in the hall.",
    "someone had written a {digit} in {colour} ink.",
    "nobody looked at the {colour} frame.",
)
SENTENCES = len(_SENTENCES) * len(NAMES) * len(DIGITS)


def sentence(number: int) -> str:
    """Near-fact number ``number`` of :data:`SENTENCES`: it speaks of frames, colours and digits, never of a picture.

    None of them contradicts a picture, and each is as likely beside any, so text gives no answer away.
    """
    number, digit = divmod(number, len(DIGITS))
    form, colour = divmod(number, len(NAMES))
    return _SENTENCES[form].format(colour=NAMES[colour], digit=DIGITS[digit])
