"""Compares stories made offline with bAbI's original files, and both with the solver.

    python scripts/bench/babi.py --files ../shared/data/babi

For each task: how many labels and supporting facts the solver agrees with, in the files and in as many stories made;
and statistics of both side by side: sentences before a question, kinds of sentences, answers, and how far back (in
sentences) the last supporting fact is. One minute. Tasks without a file are only made and solved.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evals.tasks.babi import MADE, Story, load, make, solutions, solve

NAMES = re.compile(r"\b(Bill|Daniel|Fred|Jeff|John|Julie|Mary|Sandra)\b")
ROOMS = re.compile(r"\b(bathroom|bedroom|cinema|garden|hallway|kitchen|office|park|school)\b")
THINGS = re.compile(r"\b(apple|football|milk)\b")


def form(sentence: str) -> str:
    """A sentence without its names."""
    return THINGS.sub("O", ROOMS.sub("L", NAMES.sub("P", sentence)))


def shares(counts: Counter[str]) -> dict[str, float]:
    """Counts as parts of one."""
    return {name: count / counts.total() for name, count in counts.items()}


def distance(one: Counter[str], other: Counter[str]) -> float:
    """Total variation: how much of one would have to be moved to give the other, in [0, 1]."""
    a, b = shares(one), shares(other)
    return sum(abs(a.get(name, 0) - b.get(name, 0)) for name in {*a, *b}) / 2


def statistics(stories: Sequence[Story]) -> dict[str, Counter[str]]:
    """What is compared: forms of sentences and questions, answers, and the age of the last supporting fact."""
    return {
        "sentences": Counter(form(fact) for story in stories for fact in story.facts),
        "questions": Counter(form(story.question) for story in stories),
        "answers": Counter(story.answer for story in stories),
        "support": Counter(str(min(len(s.facts) - 1 - s.support[-1], 20)) for s in stories),
    }


def agreed(number: int, stories: Sequence[Story]) -> str:
    """Labels, labels among all answers the facts allow, and supporting facts that the solver agrees with."""
    solved = [solve(number, story.facts, story.question) for story in stories]
    label = sum(answer == story.answer for (answer, _), story in zip(solved, stories, strict=True))
    among = sum(story.answer in solutions(number, story.facts, story.question) for story in stories)
    support = sum(found == story.support for (_, found), story in zip(solved, stories, strict=True))
    return f"labels {label:,}, allowed {among:,}, supports {support:,} of {len(stories):,}"


def lengths(stories: Sequence[Story]) -> str:
    """Sentences before a question: mean and quartiles."""
    facts = [len(story.facts) for story in stories]
    low, middle, high = np.percentile(facts, [25, 50, 75])
    return f"mean {np.mean(facts):.1f}, quartiles {low:.0f} {middle:.0f} {high:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=Path, help="folder of bAbI's files")
    parser.add_argument("--n", type=int, default=10_000, help="stories made of each task")
    args = parser.parse_args()
    for number in MADE:
        made = [make(number, 0, index) for index in range(args.n)]
        print(f"qa{number} made: {agreed(number, made)}; sentences {lengths(made)}")
        if args.files is None or not list(args.files.glob(f"qa{number}_*.txt")):
            print(f"    answers {shares(Counter(story.answer for story in made))}")
            continue
        files = load(args.files, number)
        print(f"qa{number} file: {agreed(number, files)}; sentences {lengths(files)}")
        for name, counts in statistics(files).items():
            print(f"    {name}: total variation {distance(counts, statistics(made)[name]):.3f}")


if __name__ == "__main__":
    main()
