"""The task, in a prompt and spread over a document, answered by a reader that solves what it can read."""

from __future__ import annotations

import re

import pytest

from evals import run
from evals.breakdowns import breakdowns
from evals.rows import load_rows
from evals.scorers import score
from evals.tasks.compositional.puzzle import Puzzle, training
from evals.tasks.compositional.puzzle.clues import parse_clue
from evals.tasks.compositional.puzzle.riddle import Riddle, grid, parse_riddle
from evals.tasks.compositional.puzzle.solve import solutions
from evals.tasks.compositional.puzzle.steps import scratchpad
from evals.tasks.compositional.splits import held_out
from evals.tasks.registry import ABOUT, create
from tests.evals.words import Remembers, Words, source


class Solver(Remembers):
    """Reads clues and setting, and writes the table: whatever it lacks, it cannot solve."""

    def generate(self, state, prompts, max_tokens, stop=(), sampling=None):
        return [self._solve(state + " " + self.decode(prompt)) for prompt in prompts]

    def _solve(self, text: str) -> str:
        about = text[text.rindex("This is a logic puzzle") :]
        lines = re.sub(r" (?=- |\d+\. |Its |Please |Let's )", "\n", about).replace("\n- ", "\n - ")
        riddle = parse_riddle(lines)
        if not riddle.clues:
            said = re.findall(r"Clue \d+: (.*?\.)", text)
            riddle = Riddle(riddle.attributes, tuple(parse_clue(clue, riddle.items) for clue in said))
        (first, *others) = solutions(riddle)
        before = scratchpad(riddle) + " " if "Reasoning:" in about and not others else ""
        return before + riddle.table(first)


@pytest.mark.parametrize("scratch", [False, True])
def test_a_solver_scores_one_at_any_length_and_not_without_the_text(scratch, tmp_path):
    words = Words()
    task = create(f"puzzle:sizes=2x2+3x3,scratchpad={scratch}")
    run(Solver(words), [task], source(words), lengths=[0, 900], n=4, folder=tmp_path, controls=("zeroed",))
    rows = load_rows(tmp_path / "rows.jsonl")
    memory = [row for row in rows if row.control == "memory"]
    assert len(memory) == 8
    assert all(row.correct and row.detail["cells"] == 1 for row in memory)
    assert {row.detail["size"] for row in memory} == {"2x2", "3x3"}
    zeroed = [row for row in rows if row.control == "zeroed" and row.length]
    assert len(zeroed) == 4
    assert sum(row.value for row in zeroed) < 4
    # The log alone is enough to score again.
    for row in memory:
        assert score(row.scorer, row.answered, row.expected, row.asked) == row.score
    if scratch:
        assert all(row.detail["labels"]["correct"] == row.detail["nodes"] for row in memory)
    tables = {table.title: table for table in breakdowns(rows)}
    assert len(tables) == (4 if scratch else 2)
    sizes = tables["Solved puzzles by size"]
    assert [line[:2] for line in sizes.lines] == [(0, "2x2"), (0, "3x3"), (900, "2x2"), (900, "3x3")]
    assert all(entry.value == 1 and entry.n == 2 for line in sizes.lines for entry in line[2:])
    assert all(entry.interval.low < 0.5 for line in sizes.lines for entry in line[2:])  # two puzzles prove little
    if scratch:
        correct = tables["Nodes of scratchpads by size"].lines
        assert all([entry.value for entry in line[2:]] == [1, 1, 0, 0, 0] for line in correct)


def test_parts_stand_in_the_document_and_the_rest_in_the_question():
    words = Words()
    given = source(words)
    task = Puzzle("3x3", shots=1, scratchpad=True)
    at_once = next(iter(task.documents(given, 0, 1)))
    spread = next(iter(task.documents(given, 800, 1)))
    (asked,), (other,) = at_once.questions, spread.questions
    assert (asked.text, asked.answers, asked.about) == (other.text, other.answers, other.about)
    riddle = parse_riddle(asked.text)
    assert [words.decode(spread.tokens(*place)) for place in other.evidence] == [
        f"Clue {number}: {clue.text}" for number, clue in enumerate(riddle.clues, start=1)
    ]
    prompt, ask = words.decode(asked.ids), words.decode(other.ids)
    assert prompt.count("The puzzle is solved.") == ask.count("The puzzle is solved.") == 1
    for clue in riddle.clues:
        assert prompt.count(clue.text) == ask.count(clue.text) + 1
    assert asked.about["size"] == "3x3"
    assert asked.about["nodes"] == 9
    assert asked.about["clues"] == len(riddle.clues)
    assert asked.max_tokens >= len(words.encode(scratchpad(riddle)))
    bare = next(iter(task.documents(source(words, bare=True), 0, 1))).questions[0]
    assert words.decode(bare.ids) == " ".join((riddle.text + " Reasoning:").split())


def test_the_prompt_is_the_papers():
    problem = Puzzle("2x2").problem(source(Words()), 0)
    lines = problem.prompt.splitlines()
    assert lines[0] == (
        "This is a logic puzzle. There are 2 houses (numbered 1 on the left, 2 on the right), from the perspective of "
        "someone standing across the street from them. Each has a different person in them. They have different "
        "characteristics:"
    )
    assert re.fullmatch(r" - Each person has a unique name: (arnold, eric|eric, arnold)", lines[1])
    assert lines[3] == ""
    assert lines[4].startswith("1. ")
    assert "Please show your final solution by filling the blanks in the below table." in lines
    assert re.fullmatch(r"\$ House: ___ \$ Name: ___ \$ \w+: ___", lines[-3])


def test_training_data_holds_no_test_grid():
    pairs = list(training("2x2,3x3", 30, reason=True))
    assert len(set(pairs)) == 30
    for prompt, answer in pairs:
        riddle = parse_riddle(prompt)
        (solution,) = solutions(riddle)
        assert not held_out(grid(riddle, solution))
        assert answer == f"{scratchpad(riddle)}\nFinal solution:\n{riddle.table(solution)}"
        assert score("puzzle", answer, (riddle.table(solution),), riddle.text) == 1
    words = Words()
    task = Puzzle("2x2,3x3", split="test")
    for document in task.documents(source(words), 0, 10):
        riddle = parse_riddle(document.questions[0].text)
        assert held_out(grid(riddle, solutions(riddle)[0]))


def test_settings():
    task = create("puzzle:sizes=2x3,shots=2,scratchpad=true,split=test")
    assert task == Puzzle("2x3", 2, True, "test")
    assert task.settings() == {
        "sizes": "2x3", "shots": 2, "scratchpad": True, "split": "test", "name": "puzzle", "version": 1,
    }  # fmt: skip
    assert task.chance == 1 / 8
    assert "puzzle" in ABOUT
    with pytest.raises(ValueError, match="sizes: expected houses x attributes"):
        Puzzle("7x7")
    with pytest.raises(ValueError, match="split: expected one of all, train, test"):
        Puzzle(split="dev")
    with pytest.raises(ValueError, match="shots: expected at least 0"):
        Puzzle(shots=-1)
    with pytest.raises(ValueError, match="length: expected room"):
        list(Puzzle("5x5").documents(source(Words()), 10, 1))
