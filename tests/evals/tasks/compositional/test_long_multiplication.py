"""Long multiplication: gold by three ways, the paper's scratchpad, and what is read back from one."""

from __future__ import annotations

import random
from itertools import product

import pytest

from evals.tasks.compositional.graph import LABELS, label
from evals.tasks.compositional.long_multiplication import LongMultiplication
from evals.tasks.compositional.scratchpads import about, labelled
from tests.evals.tasks.compositional.planting import planted, steps

SIZES = list(product(range(1, 6), repeat=2))

# "What is 55 times 57?" of the authors' released data (github.com/nouhadziri/faith-and-fate, data/multiplication.zip).
RELEASED = """Let's perform the multiplication step by step:

Let's multiply 55 by the digit in the ones place of 57, which is 7.

1. Multiply 7 by the digit in the ones place of 55, which is 5. This gives 5 x 7 = 35. Write down the result 5 and carry over the 3 to the next step.
2. Multiply 7 by the digit in the tens place of 55, which is 5. Add the carryover from the previous step to account for this. This gives (5 x 7) + 3 = 38. Write down the result 38.
3. The partial product for this step is A=385 which is the concatenation of the digits we found in each step.

Now, let's multiply 55 by the digit in the tens place of 57, which is 5.

4. Multiply 5 by the digit in the ones place of 55, which is 5. This gives 5 x 5 = 25. Write down the result 5 and carry over the 2 to the next step.
5. Multiply 5 by the digit in the tens place of 55, which is 5. Add the carryover from the previous step to account for this. This gives (5 x 5) + 2 = 27. Write down the result 27.
6. The partial product for this step is B=275 which is the concatenation of the digits we found in each step.

Now, let's sum the 2 partial products A and B, and take into account the position of each digit: A=385 (from multiplication by 7) and B=275 (from multiplication by 5 but shifted one place to the left, so it becomes 2750). The final answer is 385 x 1 + 275 x 10 = 385 + 2750 = 3135."""  # noqa: E501

# In the same words, but worked by hand.
OF_THE_PAPER = """Let's perform the multiplication step by step:

Let's multiply 35 by the digit in the ones place of 92, which is 2.

1. Multiply 2 by the digit in the ones place of 35, which is 5. This gives 5 x 2 = 10. Write down the result 0 and carry over the 1 to the next step.
2. Multiply 2 by the digit in the tens place of 35, which is 3. Add the carryover from the previous step to account for this. This gives (3 x 2) + 1 = 7. Write down the result 7.
3. The partial product for this step is A=70 which is the concatenation of the digits we found in each step.

Now, let's multiply 35 by the digit in the tens place of 92, which is 9.

4. Multiply 9 by the digit in the ones place of 35, which is 5. This gives 5 x 9 = 45. Write down the result 5 and carry over the 4 to the next step.
5. Multiply 9 by the digit in the tens place of 35, which is 3. Add the carryover from the previous step to account for this. This gives (3 x 9) + 4 = 31. Write down the result 31.
6. The partial product for this step is B=315 which is the concatenation of the digits we found in each step.

Now, let's sum the 2 partial products A and B, and take into account the position of each digit: A=70 (from multiplication by 2) and B=315 (from multiplication by 9 but shifted one place to the left, so it becomes 3150). The final answer is 70 x 1 + 315 x 10 = 70 + 3150 = 3220."""  # noqa: E501


def draw(rng, sizes=None):
    x, y = sizes or rng.choice(SIZES)
    return LongMultiplication(rng.randrange(10 ** (x - 1), 10**x), rng.randrange(10 ** (y - 1), 10**y))


def by_digits(x, y):
    """The product, digit by digit, without Python's product of the numbers."""
    total = 0
    for i, a in enumerate(reversed(str(x))):
        for j, b in enumerate(reversed(str(y))):
            total += sum(int(a) for _ in range(int(b))) * 10 ** (i + j)
    return total


def test_gold_is_right_in_ten_thousand_cases():
    rng = random.Random(0)
    for _ in range(10_000):
        problem = draw(rng)
        assert problem.answer == str(problem.x * problem.y) == str(by_digits(problem.x, problem.y))
        assert problem.graph.values["product"] == problem.x * problem.y


def test_the_scratchpad_of_the_paper():
    assert LongMultiplication(55, 57).scratchpad() == RELEASED
    assert LongMultiplication(35, 92).scratchpad() == OF_THE_PAPER


def test_values_by_hand():
    values = LongMultiplication(35, 92).graph.values
    assert values == {
        "x[0]": 5, "x[1]": 3, "y[0]": 2, "y[1]": 9,
        "step[0][0]": 10, "digit[0][0]": 0, "carry[0][0]": 1, "step[0][1]": 7, "digit[0][1]": 7,
        "partial[0]": 70, "shifted[0]": 70,
        "step[1][0]": 45, "digit[1][0]": 5, "carry[1][0]": 4, "step[1][1]": 31, "digit[1][1]": 31,
        "partial[1]": 315, "shifted[1]": 3150, "product": 3220,
    }  # fmt: skip


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_a_perfect_scratchpad_is_all_correct_and_the_graph_follows_from_the_size(n, m):
    rng = random.Random(n * m)
    low, high = LongMultiplication(10 ** (n - 1), 10 ** (m - 1)), LongMultiplication(10**n - 1, 10**m - 1)
    for problem in (low, high, *(draw(rng, (n, m)) for _ in range(5))):
        found = labelled(problem, problem.scratchpad())
        assert found["labels"] == {"correct": len(steps(problem))}
        assert found["unsaid"] == 0
        assert sum(layer["correct"] for layer in found["layers"].values()) == len(steps(problem))
        measured = about(problem)
        assert (measured["size"], measured["depth"], measured["nodes"]) == (
            f"{n}x{m}", 2 * n + 3, 3 * n * m + n + 2 * m + 1,
        )  # fmt: skip


def test_planted_errors_come_out_as_planted():
    rng = random.Random(1)
    kinds = set()
    for _ in range(200):
        problem = draw(rng)
        said, labels = planted(problem, rng)
        read = problem.read(problem.scratchpad(said))
        assert read == {node.name: said[node.name] for node in steps(problem)}
        assert label(problem.graph, read) == labels
        kinds |= set(labels.values())
    assert kinds == set(LABELS)


def test_prose_around_the_steps_is_passed_over():
    text = OF_THE_PAPER.replace("1. Multiply", "Sure! We know 35 is 5 x 7.\n\n**Step 1**: multiply").replace(
        "\n\n", "\n"
    )
    text = text.replace("= 3220.", "= 3,220. Hope that helps with 17 questions!").replace("Let's", "Let us")
    problem = LongMultiplication(35, 92)
    assert label(problem.graph, problem.read(text)) == dict.fromkeys((n.name for n in steps(problem)), "correct")


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("5 x 2 = 10", "5 x 2 = 11", {"step[0][0]": 11}),
        ("5 x 2 = 10", "5 x 2 = 1O", {"step[0][0]": None}),  # the letter
        ("5 x 2 = 10", "5 x 2 = ten", {"step[0][0]": None}),
        ("5 x 2 = 10", "5 x 2", {"step[0][0]": None}),
        ("5 x 2 = 10.", "5 x 2 = 10.5.", {"step[0][0]": None}),
        ("Write down the result 0 and carry over the 1 to the next step", "Carry", {"digit[0][0]": None,
            "carry[0][0]": None}),
        ("result 0 and carry over the 1 to the next step", "result 0", {"carry[0][0]": 0}),
        ("A=70 which", "A=71 which", {"partial[0]": 71}),
        ("A=70 which is", "C=70 which is", {"partial[0]": None}),  # there is no third row
        ("70 + 3150 = 3220", "3220", {"shifted[0]": None}),  # the second is read where it is explained
        ("= 70 + 3150 = 3220", "= 70 + 3150 = 32 20", {"product": None}),
        ("= 70 + 3150 = 3220", "= 70 + 3,150 = 3,220", {}),
        ("= 3220.", "= " + "9" * 5000 + ".", {"product": None}),
    ],
)  # fmt: skip
def test_numbers_are_read_strictly(old, new, changed):
    problem = LongMultiplication(35, 92)
    assert old in OF_THE_PAPER
    read = problem.read(OF_THE_PAPER.replace(old, new))
    whole = problem.read(OF_THE_PAPER)
    assert {name: read.get(name) for name in whole if read.get(name) != whole[name]} == changed
    assert set(read) <= set(whole)


def test_steps_and_rows_that_the_problem_has_not_are_left_out():
    text = LongMultiplication(12345, 678).scratchpad()
    read = LongMultiplication(12, 34).read(text)
    assert set(read) <= {node.name for node in steps(LongMultiplication(12, 34))}
    assert LongMultiplication(12, 34).read("I do not know. 408.") == {}
    assert LongMultiplication(12, 34).read("") == {}


@pytest.mark.parametrize("text", ["12", "12*", "123456*1", "1.5*2", "-3*4", "12 * 34"])
def test_what_is_no_problem_is_refused(text):
    with pytest.raises(ValueError, match=r"problem: expected a product such as 12\*34"):
        LongMultiplication.parse(text)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="y: expected a whole number of 1 to 5 digits, got 100000"):
        LongMultiplication(3, 100_000)
    assert LongMultiplication.parse("12*34") == LongMultiplication(12, 34)
    assert LongMultiplication(34, 12).key == LongMultiplication(12, 34).key == "12*34"
