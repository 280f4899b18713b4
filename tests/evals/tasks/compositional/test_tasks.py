"""Multiplication and dynamic programming as tasks: problems, prompts, documents, splits, scores, a whole run."""

from __future__ import annotations

import json
import re
from itertools import islice

import numpy as np
import pytest

from evals import MEMORY, load_rows, run
from evals.scorers import assess
from evals.tasks.base import Task
from evals.tasks.compositional.drawing import _tuples, distinct
from evals.tasks.compositional.dynamic_programming import MaximumSum
from evals.tasks.compositional.long_multiplication import LongMultiplication
from evals.tasks.compositional.maximum_sum import NonAdjacent
from evals.tasks.compositional.multiplication import KIND, Multiplication
from evals.tasks.compositional.scratchpads import final_number, numbers
from evals.tasks.compositional.splits import held_out
from evals.tasks.registry import create
from tests.evals.words import Remembers, Words, source


def asked(task, words, length=0, count=6, first=0, **settings):
    made = list(task.documents(source(words, **settings), length, count, first))
    assert all(len(document.questions) == 1 for document in made)
    return [(document, document.questions[0]) for document in made]


def letters(seed=0, bare=False):
    """A source whose tokens are characters, so that prompts can be read back as they are."""
    from evals.tasks.base import Source

    encode = lambda text: np.array([ord(letter) for letter in text], dtype=np.int64)  # noqa: E731
    return Source(encode, lambda ids: "".join(map(chr, ids)), encode("background. " * 400), "l", seed, bare)


def prompt(task, index=0, length=0, **settings):
    text = letters(**settings)
    (document,) = task.documents(text, length, 1, index)
    return text.decode(document.questions[0].ids)


def test_the_prompt_of_multiplication():
    task = Multiplication("2x2")
    (_, question), *_ = asked(task, Words())
    x, y = question.text.split("*")
    assert prompt(task).endswith(f"obtain the final result.\n\nQuestion: What is {x} times {y}?\nAnswer:")
    assert prompt(task, bare=True) == f"Question: What is {x} times {y}?\nAnswer:"
    assert prompt(Multiplication("2x2", scratchpad=True), bare=True).endswith("?\nScratchpad:")
    assert question.answers == (str(int(x) * int(y)),)
    shown = prompt(Multiplication("2x2", shots=2))
    assert re.search(r"What is (\d\d) times (\d\d)\?\nAnswer: \d+\n\nQuestion: What is \d\d times \d\d\?\nAns", shown)


def test_the_prompt_of_dynamic_programming():
    task = MaximumSum("5")
    (_, question), *_ = asked(task, Words())
    assert prompt(task).endswith(f"the lexicographically smallest.\n\ninput = {question.text}\noutput =")
    pad = prompt(MaximumSum("5", scratchpad=True))
    assert "We define dp[i] as" in pad
    assert pad.endswith(f"\n\nLet's solve input = {question.text}.")
    assert question.answers == (NonAdjacent.parse(question.text).answer,)
    assert all(-5 <= value <= 5 for value in NonAdjacent.parse(question.text).given)


@pytest.mark.parametrize("task", [Multiplication("2x2+3x1"), MaximumSum("2-6")])
def test_the_same_problems_at_every_length_in_turn_and_never_twice(task):
    words = Words()
    here = [question.text for _, question in asked(task, words, count=40)]
    there = asked(task, words, 300, count=40)
    assert here == [question.text for _, question in there]
    assert here[25:30] == [question.text for _, question in asked(task, words, count=5, first=25)]
    assert len(set(here)) == 40
    assert here != [question.text for _, question in asked(task, words, count=40, seed=1)]
    sizes = [question.about["size"] for _, question in there]
    assert sizes == [sizes[i % len(set(sizes))] for i in range(40)]
    for document, question in there:
        assert document.length == 300
        text = words.decode(document.tokens())
        found = [int(number) for number in re.findall(r"(-?\d+)\.", text)]
        assert found == [int(number) for number in re.findall(r"-?\d+", question.text)]
        assert not any(number in words.decode(question.ids).split() for number in question.text.split("*"))
        assert len(question.evidence) == len(found)
        assert json.loads(json.dumps(question.about)) == question.about


def test_all_small_products_and_no_more():
    words = Words()
    texts = {question.text for _, question in asked(Multiplication("1x1"), words, count=81)}
    assert texts == {f"{x}*{y}" for x in range(1, 10) for y in range(1, 10)}
    with pytest.raises(ValueError, match=r"new problem of size 1x1 for document 81, got no more in split 'all'"):
        asked(Multiplication("1x1"), words, count=82)
    with pytest.raises(ValueError, match="got no more of size 2 behind"):
        list(MaximumSum("2").training(121))
    assert len({question.text for _, question in asked(MaximumSum("2"), words, count=121)}) == 121


def test_a_large_pool_is_drawn_evenly_without_repeats():
    drawn = [(problem.x, problem.y) for problem in islice(distinct(KIND, "5x5", "all", 0), 3000)]
    assert len(set(drawn)) == 3000
    assert all(10_000 <= value < 100_000 for pair in drawn for value in pair)
    assert abs(np.mean(drawn) - 54_999.5) < 1500  # 4 standard errors
    every = list(_tuples(np.random.default_rng(0), (300, 250)))  # more than are shuffled at once
    assert len(set(every)) == len(every) == 75_000


@pytest.mark.parametrize("task", [Multiplication, MaximumSum])
def test_training_and_test_problems_never_meet(task):
    sizes = {Multiplication: "2x2", MaximumSum: "3"}[task]
    words = Words()
    read = LongMultiplication.parse if task is Multiplication else NonAdjacent.parse
    tested = [read(question.text) for _, question in asked(task(sizes, split="test"), words, count=40)]
    trained = [read(question.text) for _, question in asked(task(sizes, split="train"), words, count=300)]
    assert all(held_out(problem.key) for problem in tested)
    assert not {problem.key for problem in tested} & {problem.key for problem in trained}
    examples = list(task(sizes).training(300, seed=3, bare=True))
    text = " ".join(prompt for prompt, _ in examples)
    said = re.findall(r"\[.*?\]", text) or [f"{x}*{y}" for x, y in re.findall(r"(\d+) times (\d+)", text)]
    assert len(set(said)) == 300
    assert not {problem.key for problem in tested} & {read(each).key for each in said}


@pytest.mark.parametrize("task", [Multiplication("1x1+2x2", scratchpad=True), MaximumSum("2+4", scratchpad=True)])
def test_training_texts_are_what_the_scorer_wants(task):
    for shown, completion in task.training(10, bare=True):
        found = re.search(r"What is (\d+) times (\d+)", shown)
        problem = f"{found[1]}*{found[2]}" if found else re.search(r"\[.*\]", shown)[0]
        scored = assess(f"{task.name}:scratchpad", completion, (), problem)
        assert scored.score == 1
        assert set(scored.detail["labels"]) == {"correct"}
    (shown, answer), *_ = Multiplication("2x2").training(1, bare=True)
    x, y = re.findall(r"\d+", shown)
    assert answer == f" {int(x) * int(y)}"


@pytest.mark.parametrize("task", [Multiplication("1x1", shots=5), MaximumSum("2", shots=5)])
def test_examples_are_neither_the_question_nor_of_the_test_split(task):
    problems = r"What is (\d+) times (\d+)" if task.name == "multiplication" else r"\ninput = (\[.*?\])\n"
    for index in range(40):
        *shown, own = re.findall(problems, prompt(task, index))
        keys = ["*".join(sorted(each)) if isinstance(each, tuple) else each for each in (*shown, own)]
        assert len(shown) == 5
        assert len(set(keys)) == 6  # mirror images are the same
        assert not any(held_out(key) for key in keys[:-1])
    with pytest.raises(ValueError, match="shots: expected 200 examples of size"):
        prompt(type(task)(task.sizes, shots=200))


@pytest.mark.parametrize(
    ("answered", "score"),
    [
        ("408", 1),
        (" 408.", 1),
        ("The answer is 408.", 1),
        ("12 x 34 = 408", 1),
        ("**408**", 1),
        ("The answer is 12 x 4 + 12 x 30 = 48 + 360 = 408. Check: 408 / 12 = 34", 1),
        ("Answer: 407. The final answer is 408", 1),
        ("The answer: 409. Earlier I had 408", 0),
        ("408 409", 0),
        ("406 407 408 409", 0),  # tries to please
        ("-408", 0),
        ("\u2212408", 0),
        ("408 = 12 x 34", 1),
        ("408 is 12 times 34", 1),
        ("408 = 34 x 12 x 1", 0),
        ("4,08", 0),
        ("408.5", 0),
        ("408x", 0),
        ("four hundred and eight", 0),
        ("", 0),
        ("9" * 5000, 0),
    ],
)
def test_which_number_counts(answered, score):
    assert assess("multiplication", answered, ("408",), "12*34").score == score


@pytest.mark.parametrize(
    "said", ["What is 1 times 7?", "1 x 7", "Multiply 1 by 7.", "1*7 =", "1 \\times 7", "1 \u00d7 7"]
)
def test_the_question_alone_is_no_answer(said):
    assert assess("multiplication", said, ("7",), "1*7").score == 0
    assert assess("multiplication", f"{said} is 7", ("7",), "1*7").score == 1
    assert assess("multiplication", "The final answer is 1 x 1 = 1 = 1.", ("1",), "1*1").score == 1


def test_numbers_in_a_text():
    assert numbers("1,234 and -5, 12,34 or 1.5, a1 2b 7. (8) [9,10] 3-4 x=6") == [1234, -5, 7, 8, 3, 6]
    assert final_number("1,234,567.") == 1234567
    assert final_number("The answer") is None
    assert assess("multiplication", "1,002,001", ("1002001",), "1001*1001").score == 1


def test_what_else_an_answer_shows():
    found = assess("multiplication", "4098", (), "12*34")
    assert found.detail == {"said": 4098, "first": True, "last": True}
    assert assess("multiplication", "no", (), "12*34").detail == {"said": None, "first": False, "last": False}
    found = assess("dp", "[2, 2, 1]", (), "[3, -1, 4]")
    assert (found.score, found.detail) == (0, {"said": [2, 2, 1], "allowed": True, "short": 3})
    equal = assess("dp", "[2, 1]", (), "[3, 3]")  # as good as the right one, not the smallest
    assert (equal.score, equal.detail["short"]) == (0, 0)
    assert assess("dp", "[1, 1]", (), "[3, 3]").detail == {"said": [1, 1], "allowed": False, "short": None}
    assert assess("dp", "output = [1, 2]", (), "[3, 3]").score == 1
    with pytest.raises(ValueError, match="expected no option or scratchpad"):
        assess("dp:steps", "[1, 2]", (), "[3, 3]")


class Calculator(Remembers):
    """Answers rightly from the prompt, or from the text it remembers."""

    def generate(self, state, prompts, max_tokens, stop=(), sampling=None):
        return [self._say(state, self.decode(prompt), max_tokens) for prompt in prompts]

    def _say(self, state, shown, most):
        found = re.search(r"What is (\d+) times (\d+)\?(?!.*What is)", shown)
        listed = re.search(r"input = (\[[^\]]*\])(?!.*input =)", shown)
        if "times" in shown:
            pair = found.groups() if found else re.findall(r"to multiply is (\d+)\.", state)
            problem = LongMultiplication(*map(int, pair)) if pair else None
        else:
            given = re.findall(r"of the list is (-?\d+)\.", state)
            problem = NonAdjacent.parse(listed[1] if listed else f"[{', '.join(given)}]") if listed or given else None
        if problem is None:
            return "I forgot"
        text = problem.scratchpad() if "Scratchpad:" in shown or "solve" in shown else problem.answer
        return " ".join(text.split(" ")[:most])


@pytest.mark.parametrize("scratchpad", [False, True])
def test_a_model_that_remembers_is_right_and_one_that_forgets_is_not(tmp_path, scratchpad):
    words = Words()
    tasks = [Multiplication("1x1+2x2", 1, scratchpad), MaximumSum("2-4", 1, scratchpad)]
    assert all(isinstance(task, Task) for task in tasks)
    cells = run(Calculator(words), tasks, source(words), lengths=[0, 200], n=6, folder=tmp_path)
    rates = {(cell.task, cell.length, cell.control): cell.rate for cell in cells}
    for task in ("multiplication", "dp"):
        assert rates[task, 0, MEMORY] == rates[task, 200, MEMORY] == 1
        assert rates[task, 200, "zeroed"] == 0
        assert rates[task, 200, "swapped"] < 0.5
    for row in load_rows(tmp_path / "rows.jsonl"):
        again = assess(row.scorer, row.answered, row.expected, row.asked)
        assert again.score == row.value
        assert {**row.detail, **json.loads(json.dumps(dict(again.detail)))} == row.detail
        assert ("labels" in row.detail) == scratchpad
        if scratchpad and row.control == MEMORY:
            assert list(row.detail["labels"]) == ["correct"]
            assert row.detail["unsaid"] == 0


def test_the_registry_makes_them():
    assert create("multiplication:sizes=2x2+3x3,shots=2,scratchpad=true") == Multiplication("2x2+3x3", 2, True)
    assert create("dp:sizes=7,split=test") == MaximumSum("7", split="test")
    assert len(asked(Multiplication("1-2"), Words(), count=4)) == 4
    assert {question.about["size"] for _, question in asked(Multiplication("1-2"), Words(), count=4)} == {
        "1x1", "1x2", "2x1", "2x2",
    }  # fmt: skip
    assert create("multiplication").chance is None


@pytest.mark.parametrize(
    ("task", "fields", "said"),
    [
        (Multiplication, {"sizes": "6x1"}, "sizes: expected 2x2"),
        (Multiplication, {"sizes": "0x1"}, "sizes: expected 2x2"),
        (Multiplication, {"sizes": ""}, "sizes: expected 2x2"),
        (Multiplication, {"sizes": "3-2"}, "sizes: expected 2x2"),
        (MaximumSum, {"sizes": "1"}, "sizes: expected lengths"),
        (MaximumSum, {"sizes": "2x2"}, "sizes: expected lengths"),
        (MaximumSum, {"sizes": "9-51"}, "sizes: expected lengths"),
        (MaximumSum, {"shots": -1}, "shots: expected at least 0"),
        (Multiplication, {"split": "dev"}, "split: expected one of all, train, test"),
    ],
)
def test_bad_settings_are_refused(task, fields, said):
    with pytest.raises(ValueError, match=said):
        task(**fields)


@pytest.mark.parametrize("task", [Multiplication("2x2"), MaximumSum("4")])
def test_lengths_that_do_not_fit_are_refused(task):
    words = Words()
    with pytest.raises(ValueError, match="length: expected room"):
        asked(task, words, 5)
    with pytest.raises(ValueError, match="never tiled"):
        asked(task, words, 9000)
    with pytest.raises(ValueError, match="length: expected at least 0"):
        asked(task, words, -1)
