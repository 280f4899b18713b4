"""The few-shot tasks against solvers that read the prompt as text."""

from __future__ import annotations

import re
from itertools import islice
from random import Random

import pytest

from evals.tasks.base import Task
from evals.tasks.compositional.splits import held_out
from evals.tasks.emergence import few_shot
from evals.tasks.emergence.tasks import Arithmetic, Copying, ModifiedArithmetic, ModularSums, Unscramble
from evals.tasks.emergence.words import by_length
from evals.tasks.registry import create, names
from tests.evals.words import Words, source

ALL = names("emergence")


def solve(prompt: str) -> str:
    """What the last line of a prompt wants, by its instruction and examples."""
    instruction, *lines = prompt.split("\n")
    left, sign = lines[-1].rsplit(" ", 1)
    if instruction.startswith(("Add.", "Subtract.", "Add or")):
        return str(eval(left))
    if instruction.startswith("Add modulo"):
        return str(eval(left) % int(re.findall(r"\d+", instruction)[0]))
    if instruction == "Copy.":
        return left
    if instruction == "Unscramble.":
        (word,) = [word for word in by_length(len(left)) if sorted(word) == sorted(left)]
        return word
    assert sign == "->"
    more = {int(line.split("->")[1]) - eval(line.split("->")[0]) for line in lines[:-1]}
    (plus,) = more  # all examples have one rule
    return str(eval(left) + plus)


@pytest.mark.parametrize(
    "spec",
    [*ALL, "arithmetic:operation=both", "arithmetic:operation=subtract,shots=0", "modified_arithmetic:plus=0",
     "modular_sums:modulus=9", "copying:letters=4,lengths=3", "unscramble:letters=3+7,split=all"],
)  # fmt: skip
def test_answers_are_right_and_problems_differ(spec):
    task = create(spec)
    assert isinstance(task, Task)
    drawn = list(islice(few_shot.items(task, 0), 60))
    assert [size for size, _ in drawn[: len(task.sizes)]] == list(task.sizes)
    keys = [item.key for _, item in drawn]
    assert len(set(keys)) == len(keys)
    for index, (size, item) in enumerate(drawn):
        problem = few_shot.problem(task, source(Words()), index, size, item)
        (question,) = problem.questions
        assert solve(problem.prompt) == question.answers[0] == question.choices[0]
        assert problem.prompt.count("\n") == task.shots + 1
        assert len(question.choices) == len(set(question.choices)) == 4
        assert question.about == {"size": size}
        for line in problem.prompt.split("\n")[1:-1]:  # examples are right too, and not the question
            shown, answer = re.fullmatch(r"(.* (?:=|->)) (.*)", line).groups()
            assert shown != item.left
            if "->" not in line:
                assert solve(f"{task.instruction}\n{shown}") == answer


@pytest.mark.parametrize("name", ALL)
def test_a_problem_is_the_same_at_every_length_and_another_by_seed(name):
    words = Words()
    task = create(name)
    text = source(words, 600)
    short = list(task.documents(text, 0, 5, first=2))
    long = list(task.documents(text, 400, 5, first=2))
    assert [document.index for document in short] == [2, 3, 4, 5, 6]
    for one, other in zip(short, long, strict=True):
        (asked,), (behind,) = one.questions, other.questions
        assert (asked.text, asked.choices, asked.continuation.tolist()) == (
            behind.text, behind.choices, behind.continuation.tolist()
        )  # fmt: skip
        assert one.length == 0
        assert words.decode(asked.ids).endswith(asked.text)
        document = words.decode(other.tokens())
        assert len(document.split()) == 400
        places = [words.decode(other.tokens(*part)) for part in behind.evidence]
        # Examples are needed only where nothing else says what to do.
        needed = other.inserts if name == "modified_arithmetic" else other.inserts[-1:]
        assert places == [insert.text for insert in needed]
        assert len(other.inserts) == task.shots + 1
        said = re.sub(r" (=|->)$", "", asked.text)
        assert places[-1] == f"Question: {said} ?"
        assert said not in words.decode(behind.ids)  # the question is in the document alone
        assert asked.answers[0] not in words.decode(behind.ids).split()
    again = [document.questions[0].text for document in task.documents(text, 0, 5, first=2)]
    assert again == [document.questions[0].text for document in short]
    other = [document.questions[0].text for document in task.documents(source(words, 600, seed=1), 0, 5, first=2)]
    assert other != again


@pytest.mark.parametrize("name", ALL)
def test_examples_and_training_never_meet_the_test_problems(name):
    tested = {item.key for _, item in islice(few_shot.items(create(name), 3), 80)}
    trained = {item.key for _, item in islice(few_shot.items(create(f"{name}:split=train"), 3), 200)}
    assert all(map(held_out, tested))
    assert not any(map(held_out, trained))
    task = create(name)
    for size, item in islice(few_shot.items(task, 0), 40):
        shown = few_shot.examples(task, Random(size), size, item)
        assert len({other.key for other in shown}) == task.shots
        assert not any(held_out(other.key) for other in shown)


def test_no_example_has_the_word_that_is_asked_for():
    task = Unscramble()
    for index, (size, item) in enumerate(islice(few_shot.items(task, 0), 200)):
        solved = few_shot.problem(task, source(Words()), index, size, item).prompt.split("\n")[1:-1]
        assert len(solved) == 4
        assert not any(line.endswith(f" {item.answer}") for line in solved)


def test_a_problem_in_another_order_is_the_same_problem():
    keys = {Arithmetic().draw(Random(seed), 1).key for seed in range(3000)}
    assert len(keys) == 55  # of 100 sums of two digits
    keys = {ModularSums().draw(Random(seed), 2).key for seed in range(3000)}
    assert len(keys) == 55
    assert {Arithmetic().draw(Random(1), 3).key} == {ModifiedArithmetic().draw(Random(1), 3).key}


def test_what_a_size_lacks_the_others_give_until_there_is_none():
    drawn = [size for size, _ in islice(few_shot.items(Arithmetic("1+2", split="all"), 0), 200)]
    assert drawn[:110] == [1, 2] * 55
    assert drawn[110:] == [2] * 90
    with pytest.raises(ValueError, match=r"expected at most 55 problems of sizes 1 .*got 56"):
        Arithmetic("1", split="all").documents(source(Words()), 0, 6, first=50)
    with pytest.raises(ValueError, match="to have 64 examples of size 1"):
        list(Arithmetic("1", shots=64).documents(source(Words()), 0, 1))


def test_one_more_is_told_by_the_examples_alone():
    item = ModifiedArithmetic().draw(Random(0), 2)
    control = ModifiedArithmetic(plus=0).draw(Random(0), 2)
    assert (item.left, int(item.answer)) == (control.left, int(control.answer) + 1)
    assert ModifiedArithmetic().instruction == ModifiedArithmetic(plus=0).instruction
    assert next(ModifiedArithmetic().wrong(Random(0), item)) == control.answer


def test_no_word_has_the_letters_of_another():
    words = [word for letters in range(3, 8) for word in by_length(letters)]
    assert len(words) > 480
    assert len({"".join(sorted(word)) for word in words}) == len(words)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Arithmetic(digits="0"), "digits: expected different numbers from 1 to 18, got '0'"),
        (lambda: Arithmetic(digits="1+1"), "digits: expected different"),
        (lambda: Arithmetic(digits="1-3"), "digits: expected different"),
        (lambda: Arithmetic(operation="times"), "operation: expected one of add, subtract, both"),
        (lambda: Arithmetic(shots=65), "shots: expected 0 to 64"),
        (lambda: Arithmetic(split="dev"), "split: expected one of all, train, test"),
        (lambda: ModifiedArithmetic(shots=0), "expected at least 1 and 0, got 0 and 1"),
        (lambda: Unscramble(letters="2+3"), "letters: expected 3 to 7"),
        (lambda: ModularSums(modulus=3), "modulus: expected 4 to 10, got 3"),
        (lambda: Copying(letters=2), "letters: expected 4 to 26, got 2"),
        (lambda: create("copying:lengths=2+x"), "lengths: expected different numbers"),
    ],
)
def test_bad_settings_are_refused(make, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        make()
