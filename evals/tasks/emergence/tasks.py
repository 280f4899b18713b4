"""The tasks: arithmetic, modified arithmetic, word unscrambling, modular sums, copying. Each draws one problem.

Problems are drawn uniformly but where a line says otherwise. All default to the test split of
``evals.tasks.compositional.splits``: ``scripts/train_family.py`` trains on the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from evals.tasks.emergence.few_shot import FewShot, Item, sizes_of
from evals.tasks.emergence.words import by_length

OPERATIONS = ("add", "subtract", "both")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def operand(rng: Random, digits: int) -> int:
    """A number of exactly so many digits (0 counts as one)."""
    return rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def added(rng: Random, digits: int, sign: str, plus: int = 0) -> Item:
    """A sum of two numbers, and ``plus``."""
    a, b = operand(rng, digits), operand(rng, digits)
    return Item(f"{a} + {b} {sign}", str(a + b + plus), f"{min(a, b)}+{max(a, b)}")


def subtracted(rng: Random, digits: int) -> Item:
    """The greater of two numbers less the other."""
    b, a = sorted((operand(rng, digits), operand(rng, digits)))
    return Item(f"{a} - {b} =", str(a - b), f"{a}-{b}")


def near(rng: Random, value: int) -> Iterator[str]:
    """Numbers that slips lead to: one off, ten off, two digits swapped."""
    slips = [value + 1, value - 1, value + 10, value - 10]
    rng.shuffle(slips)
    text = str(value)
    if len(text) > 1 and text[-1] != text[-2] and len(text) > 2:
        slips.insert(1, int(text[:-2] + text[-1] + text[-2]))
    yield from (str(slip) for slip in slips if slip >= 0)
    yield str(value + 2)


@dataclass(frozen=True)
class Arithmetic(FewShot):
    """Addition and subtraction, both numbers of as many digits (GPT-3, arXiv 2005.14165, section 3.9.1).

    Attributes:
        digits: of each number, such as "1+2+3"; they take turns, until one has no more problems (few of one digit are
            for tests).
        operation: "add", "subtract" (the smaller from the greater) or "both".
    """

    digits: str = "1+2+3"
    operation: str = "add"

    def check(self) -> None:
        """As its attributes say."""
        sizes_of("digits", self.digits, 18)
        if self.operation not in OPERATIONS:
            raise ValueError(
                f"operation: expected one of {', '.join(OPERATIONS)}, got {self.operation!r}; name one of these"
            )

    @property
    def name(self) -> str:
        """As in the registry."""
        return "arithmetic"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Digits of each number."""
        return sizes_of("digits", self.digits, 18)

    @property
    def instruction(self) -> str:
        """What stands above the examples."""
        return {"add": "Add.", "subtract": "Subtract.", "both": "Add or subtract."}[self.operation]

    def draw(self, rng: Random, size: int) -> Item:
        """A problem of a number of digits."""
        adds = rng.random() < 0.5 if self.operation == "both" else self.operation == "add"
        return added(rng, size, "=") if adds else subtracted(rng, size)

    def wrong(self, rng: Random, item: Item) -> Iterator[str]:
        """Slips."""
        return near(rng, int(item.answer))


@dataclass(frozen=True)
class ModifiedArithmetic(FewShot):
    """Addition with one more, which only the examples tell (BIG-bench, modified_arithmetic, "plus one").

    The arrow and its examples are all there is to go by, as in BIG-bench: "12 + 34 -> 47". With ``plus=0`` it is the
    control that BIG-bench has: plain addition in the same form.

    Attributes:
        digits: of each number; BIG-bench has 2 and 3.
        plus: what is added to the sum.
        shots: at least one here: without any there is no way to know.
    """

    digits: str = "1+2+3"
    plus: int = 1

    def check(self) -> None:
        """As its attributes say."""
        sizes_of("digits", self.digits, 18)
        if self.shots < 1 or self.plus < 0:
            raise ValueError(
                f"shots and plus: expected at least 1 and 0, got {self.shots} and {self.plus}; 4 and 1 are usual"
            )

    @property
    def name(self) -> str:
        """As in the registry."""
        return "modified_arithmetic"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Digits of each number."""
        return sizes_of("digits", self.digits, 18)

    @property
    def instruction(self) -> str:
        """What stands above the examples; it does not tell what the arrow means."""
        return "Find the rule of ->."

    @property
    def told(self) -> bool:
        """No."""
        return False

    def draw(self, rng: Random, size: int) -> Item:
        """A problem of a number of digits."""
        return added(rng, size, "->", self.plus)

    def wrong(self, rng: Random, item: Item) -> Iterator[str]:
        """The plain sum (or the next number, where that is right), then slips."""
        value = int(item.answer)
        yield str(value - self.plus if self.plus else value + 1)
        yield from near(rng, value)


@dataclass(frozen=True)
class Unscramble(FewShot):
    """The word of which all letters stand in another order (GPT-3's "random insertion" kin; BIG-bench).

    What is kept from training is the pair of a word and its scrambled letters: the words themselves must be known. No
    example has the word of the question.

    Attributes:
        letters: of the word, 3 to 7.
    """

    letters: str = "3+4+5+6"

    def check(self) -> None:
        """As its attributes say."""
        if min(self.sizes) < 3:
            raise ValueError(f"letters: expected 3 to 7, got {self.letters!r}; leave out the shorter ones")

    @property
    def name(self) -> str:
        """As in the registry."""
        return "unscramble"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Letters of the word."""
        return sizes_of("letters", self.letters, 7)

    @property
    def instruction(self) -> str:
        """What stands above the examples."""
        return "Unscramble."

    def settings(self) -> Mapping[str, Any]:
        """The fields; version 1 had examples with the word of the question."""
        return {**super().settings(), "version": 2}

    def draw(self, rng: Random, size: int) -> Item:
        """A word, and its letters in another order."""
        word = rng.choice(by_length(size))
        letters = list(word)
        while "".join(letters) == word:
            rng.shuffle(letters)
        mixed = "".join(letters)
        return Item(f"{mixed} =", word, f"{mixed} {word}", gist=word)

    def wrong(self, rng: Random, item: Item) -> Iterator[str]:
        """Words of this length, those that share most letters first."""
        words = list(by_length(len(item.answer)))
        rng.shuffle(words)
        right = set(item.answer)
        yield from sorted(words, key=lambda word: -len(right & set(word)))


@dataclass(frozen=True)
class ModularSums(FewShot):
    """The sum of several digits, modulo p.

    Attributes:
        terms: how many digits are added, such as "2+3+4".
        modulus: p, 4 to 10, so that an answer is one digit and there are three wrong ones.
    """

    terms: str = "2+3+4+6"
    modulus: int = 5

    def check(self) -> None:
        """As its attributes say."""
        sizes_of("terms", self.terms, 64)
        if not 4 <= self.modulus <= 10:
            raise ValueError(f"modulus: expected 4 to 10, got {self.modulus}; 5 is usual")

    @property
    def name(self) -> str:
        """As in the registry."""
        return "modular_sums"

    @property
    def chance(self) -> float | None:
        """One answer in p."""
        return 1 / self.modulus

    @property
    def sizes(self) -> tuple[int, ...]:
        """Digits of a sum."""
        return sizes_of("terms", self.terms, 64)

    @property
    def instruction(self) -> str:
        """What stands above the examples."""
        return f"Add modulo {self.modulus}."

    def draw(self, rng: Random, size: int) -> Item:
        """A sum of so many digits; their order makes no other problem."""
        numbers = [rng.randrange(10) for _ in range(size)]
        key = "+".join(map(str, sorted(numbers)))
        return Item(f"{' + '.join(map(str, numbers))} =", str(sum(numbers) % self.modulus), f"{key} mod {self.modulus}")

    def wrong(self, rng: Random, item: Item) -> Iterator[str]:
        """All other remainders, in any order."""
        yield from (str(value) for value in rng.sample(range(self.modulus), self.modulus))


@dataclass(frozen=True)
class Copying(FewShot):
    """A string of random letters, said again: its length is the L of p^L (arXiv 2304.15004, section 2).

    Letters stand apart, so that most tokenizers make one token of each.

    Attributes:
        lengths: letters of the string, such as "2+4+8+16".
        letters: how many different ones there are, 4 to 26.
    """

    lengths: str = "2+4+8+16"
    letters: int = 26

    def check(self) -> None:
        """As its attributes say."""
        sizes_of("lengths", self.lengths, 256)
        if not 4 <= self.letters <= len(LETTERS):
            raise ValueError(f"letters: expected 4 to {len(LETTERS)}, got {self.letters}; 26 is usual")

    @property
    def name(self) -> str:
        """As in the registry."""
        return "copying"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Letters of a string."""
        return sizes_of("lengths", self.lengths, 256)

    @property
    def instruction(self) -> str:
        """What stands above the examples."""
        return "Copy."

    def draw(self, rng: Random, size: int) -> Item:
        """A string of so many letters, with replacement."""
        text = " ".join(rng.choices(LETTERS[: self.letters], k=size))
        return Item(f"{text} =", text, f"copy {text}")

    def wrong(self, rng: Random, item: Item) -> Iterator[str]:
        """Two neighbours swapped, then one letter changed."""
        said = item.answer.split()
        swaps = [place for place in range(len(said) - 1) if said[place] != said[place + 1]]
        if swaps:
            place = rng.choice(swaps)
            yield " ".join([*said[:place], said[place + 1], said[place], *said[place + 2 :]])
        for _ in range(32):
            place = rng.randrange(len(said))
            yield " ".join([*said[:place], rng.choice(LETTERS[: self.letters]), *said[place + 1 :]])
