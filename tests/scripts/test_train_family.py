"""The recipe for the family at toy size: its documents say what they claim, and what was killed goes on."""

from __future__ import annotations

import re
from argparse import Namespace
from random import Random

import numpy as np
import pytest
import torch

from evals.rows import load_rows
from evals.tasks.compositional.splits import held_out
from evals.tasks.emergence.tasks import Copying, Unscramble


@pytest.fixture
def recipe(script, monkeypatch):
    module = script("train_family")
    monkeypatch.setattr(module, "FAMILY", {"small": (8, 1), "large": (16, 1)})
    return module


def options(tmp_path, steps, **changed):
    return Namespace(
        **{"output": tmp_path, "steps": steps, "batch": 2, "rate": 4e-3, "seed": 0, "every": 0.0, **changed}
    )


def test_the_tokenizer_gives_text_back_and_the_mixture_agrees(recipe):
    tokenizer, mixture = recipe.tokenizer(), recipe.Mixture()
    for text in ("Copy.\na b  c =  a\n x \n", "12 + 34 -> 47", " ", "", 'He said: "no."'):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == mixture.encode(text)
        assert tokenizer.decode(ids) == text
    assert len(tokenizer(" 123", add_special_tokens=False)["input_ids"]) == 3  # no token for the space alone
    assert tokenizer("a é", add_special_tokens=False)["input_ids"][1] == tokenizer.unk_token_id


def test_documents_hold_solved_lines_of_the_training_split_and_labels_at_answers(recipe):
    tokenizer = recipe.tokenizer()
    ids, labels = recipe.Mixture().batch(60, "some seed")
    assert ids.shape == labels.shape == (60, recipe.TOKENS)
    seen = set()
    for row, marks in zip(ids.tolist(), labels.tolist(), strict=True):
        assert all(mark in (recipe.IGNORE, token) for token, mark in zip(row, marks, strict=True))
        text = tokenizer.decode(row)
        instruction, *lines = text.split("\n")
        seen.add(instruction)
        asked = tokenizer.decode([mark for mark in marks if mark != recipe.IGNORE])
        whole = lines[:-1]
        assert asked.split("\n")[: len(whole)] == [re.split(" = | -> ", line)[1].join((" ", "")) for line in whole]
        if instruction == "Copy.":
            assert not any(held_out(f"copy {line.split(' = ')[0]}") for line in whole)
        if instruction == "Unscramble.":
            assert not any(held_out(line.replace(" =", "")) for line in whole)
        if instruction in ("Add.", "Find the rule of ->."):
            pairs = [sorted(map(int, re.findall(r"\d+", line)[:2])) for line in whole]
            assert not any(held_out(f"{a}+{b}") for a, b in pairs)
    assert len(seen) == 5
    for task in (Copying(split="train"), Unscramble(split="train")):
        row, _ = recipe.Mixture().document(task, Random(0))
        text = tokenizer.decode(row)
        assert text.startswith(f"{task.instruction}\n")


def test_a_run_that_was_killed_gives_the_same_weights(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe.time, "process_time", lambda: 0.0)  # so that the rate does not fall
    said = []
    recipe.train("small", 9.0, options(tmp_path / "whole", 4, every=-1.0), said.append)
    keep = recipe.keep

    def killed(path, model, optimizer, facts):
        keep(path, model, optimizer, facts)
        if facts["step"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "keep", killed)
    with pytest.raises(KeyboardInterrupt):
        recipe.train("small", 9.0, options(tmp_path / "broken", 4, every=-1.0), said.append)
    with pytest.raises(ValueError, match=r"expected a checkpoint of .*'batch': 3"):
        recipe.train("small", 9.0, options(tmp_path / "broken", 4, batch=3), said.append)
    monkeypatch.setattr(recipe, "keep", keep)
    recipe.train("small", 9.0, options(tmp_path / "broken", 4, every=-1.0), said.append)
    from rmt import RMTForCausalLM

    whole, again = (RMTForCausalLM.from_pretrained(tmp_path / name / "small") for name in ("whole", "broken"))
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    fresh = recipe.build(8, 1, 0)
    assert not all(torch.equal(a, b) for a, b in zip(fresh.parameters(), whole.parameters(), strict=True))
    recipe.train("small", 9.0, options(tmp_path / "whole", 4), said.append)
    assert said[-1] == "small: done already"
    assert not list((tmp_path / "broken").glob("*.checkpoint"))


def test_the_family_runs_and_its_table_tells_sizes_apart(recipe, script, tmp_path, monkeypatch, capsys):
    for name in recipe.FAMILY:
        recipe.train(name, 9.0, options(tmp_path / "family", 1), lambda line: None)
    family = script("family")
    found = family.members(tmp_path / "family")
    assert [name for name, _ in found] == ["small", "large"]
    assert found[0][1] == recipe.parameters(recipe.build(8, 1, 0)) < found[1][1]
    assert family.counted(tmp_path / "family" / "small") == found[0][1]
    call = ["family.py", "--models", str(tmp_path / "family"), "--output", str(tmp_path / "runs"), "--n", "2"]
    monkeypatch.setattr("sys.argv", call)
    family.main()
    printed = capsys.readouterr().out
    assert printed.count("0 tokens of background") == 5
    rows = load_rows(tmp_path / "runs" / "small" / "rows.jsonl")
    assert len(rows) == 10
    edits = [row.detail["edit"] for row in rows if row.task == "copying"]
    line = next(
        line
        for line in printed[printed.index("copying, 0") :].split("\n")
        if line.startswith("small") and "| all |" in line
    )
    assert f"| {100 * np.mean(edits):.1f}" in line
    assert '"parameters"' in (tmp_path / "runs" / "small" / "run.json").read_text()
    before = (tmp_path / "runs" / "small" / "rows.jsonl").read_bytes()
    family.main()  # done: nothing is added
    assert (tmp_path / "runs" / "small" / "rows.jsonl").read_bytes() == before
    with pytest.raises(ValueError, match="expected folders of models, got none"):
        family.members(tmp_path)
