"""BABILong's scorers on the benchmark's own examples and on answers that should not count."""

from __future__ import annotations

import hashlib
import re

import pytest

from evals.scorers import find, score
from evals.tasks.babilong_prompts import PROMPTS, before, behind
from evals.tasks.babilong_scoring import LABELS, loose, strict, words

ROOMS = "bathroom bedroom garden hallway kitchen office"
WHERE = "Where is Mary?"


def test_the_prompts_are_the_benchmarks_to_the_letter():
    # SHA-256 of all twenty up to the context, as get_formatted_input of babilong/prompts.py at 7a6efee has them.
    joined = "".join(before(number) for number in range(1, 21))
    assert hashlib.sha256(joined.encode()).hexdigest() == (
        "00a42c70dcf8c411e58d9fb11c1c1667fd5a148a7d0e837d27397f82b201bef6"
    )
    assert behind("Where is Mary?") == "\n</context>\n\nQuestion: Where is Mary?"


def published(number: int) -> list[tuple[str, str]]:
    """Questions and answers of the examples in a prompt."""
    shown = re.findall(r"([^.\n]*\?)\s*Answer: (.*)\n</example>", PROMPTS[number].examples)
    return [(question.strip(), answer) for question, answer in shown]


# Places of the examples that are no labels of the benchmark: its own prompt is answered outside of its label set.
FOREIGN = ("balcony", "shop")


@pytest.mark.parametrize("number", sorted(PROMPTS))
def test_the_examples_of_the_prompts_are_right_in_the_form_they_ask_for(number):
    examples = published(number)
    assert examples
    for question, answer in examples:
        task, option = f"qa{number}", [w for w in re.findall(r"[\w,]+", answer) if w in FOREIGN]
        labels = [label for label in LABELS[task] if label in answer and label not in question]
        if option:
            assert not labels
            continue
        target = answer if answer in LABELS[task] or "," in answer else labels[0]
        if (task, answer) != ("qa7", "none"):  # a fault of the benchmark's, see below
            assert score(f"babilong:{task}", answer, (target,), question) == 1
        assert score(f"babilong_words:{task}", answer, (target,), question) == 1
        assert score("babilong_loose", answer, (target,), question) == 1
        wrong = next(label for label in LABELS[task] if label not in question and label not in answer)
        assert score(f"babilong:{task}", answer, (wrong,), question) == 0


@pytest.mark.parametrize(
    ("said", "strictly", "loosely"),
    [
        ("kitchen", 1, 1),
        ("The most recent location of Mary is kitchen.", 1, 1),
        ("\nAnswer: KITCHEN", 1, 1),  # other case
        (ROOMS, 0, 1),  # all rooms named
        ("kitchen or garden", 0, 1),
        (WHERE, 0, 0),  # the question repeated
        ("", 0, 0),
        ("   ", 0, 0),
        ("garden", 0, 0),
        ("garden. Then the kitchen.", 0, 1),  # right in the second sentence
        ("Mary was somewhere. She is in the kitchen.", 0, 1),
        ("kitchen. Not the garden.", 1, 1),  # a second sentence does not count
        ("kitchen <example>\ngarden", 1, 1),  # the model goes on with an example
        ("kitchen <context> garden", 1, 1),
        ("not in the kitchen", 1, 1),  # neither scorer reads
    ],
)
def test_answers_that_should_not_count_do_not(said, strictly, loosely):
    assert strict(said, ("kitchen",), WHERE, "qa1") == words(said, ("kitchen",), WHERE, "qa1") == strictly
    assert loose(said, ("kitchen",), WHERE) == loosely


def test_labels_in_the_question_are_not_answers():
    question = "Where was the milk before the garden?"
    assert strict("Before the garden the milk was in the kitchen.", ("kitchen",), question, "qa3") == 1
    assert strict("Before the garden it was in the kitchen, the office.", ("kitchen",), question, "qa3") == 0
    assert strict("garden", ("garden",), question, "qa3") == 0
    assert strict("Who did Mary give the milk to? Fred", ("Fred",), "Who did Mary give the milk to?", "qa5") == 1
    assert strict("Fred", ("Fred",), "What did Fred give to Mary?", "qa5") == 0


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("apple,milk", 1),
        ("The milk and the apple", 1),
        ("apple", 0),
        ("apple, milk, football", 0),
        ("nothing", 0),
        ("apple, milk and nothing else", 0),
    ],
)
def test_several_things_are_right_in_any_order_and_only_all_of_them(said, right):
    assert strict(said, ("apple,milk",), "What is Mary carrying?", "qa8") == right


def test_a_path_is_one_answer():
    assert strict("n,e", ("n,e",), "How do you go from the office to the garden?", "qa19") == 1
    assert strict("e,n", ("n,e",), "How do you go from the office to the garden?", "qa19") == 0


def test_whole_words_mend_what_the_benchmark_takes_for_another_label():
    asked = "How many objects is Mary carrying?"
    assert strict("none", ("none",), asked, "qa7") == 0  # "none" holds "one": the benchmark's own scorer rejects it
    assert words("none", ("none",), asked, "qa7") == 1
    assert strict("yes, I know", ("yes",), "Is Mary in the office?", "qa6") == 0
    assert words("yes, I know", ("yes",), "Is Mary in the office?", "qa6") == 1
    assert words("one or none", ("none",), asked, "qa7") == 0


def test_a_scorer_is_found_with_its_task():
    assert score("babilong:qa10", "maybe yes", ("yes",), "Is Mary in the office?") == 0
    assert score("babilong:qa6", "maybe yes", ("yes",), "Is Mary in the office?") == 1
    assert find("babilong")("garden", ("garden",), WHERE) == 1  # the first task that has this answer
    assert find("babilong")("maybe", ("maybe",), "Is Bill in the park?") == 1
    with pytest.raises(ValueError, match="qa1 to qa20"):
        score("babilong:qa21", "garden", ("garden",), WHERE)
    with pytest.raises(ValueError, match="an answer of BABILong's"):
        score("babilong", "tree", ("tree",), WHERE)
