"""The bundled models: small, whole, free of machine paths, and they know what they were trained for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import rmt
from rmt.errors import InputError
from rmt.pretrained import HERE, load, names

MANY = ("llama-armt",)  # hold many facts at once, and know no other task


def test_there_are_bundled_models_and_other_names_are_refused() -> None:
    assert "minilm-rmt" in names()
    with pytest.raises(InputError, match="minilm-rmt"):
        load("minilm-rtm")


@pytest.mark.parametrize("name", names())
def test_a_bundled_model_is_small_has_a_card_and_names_no_folder_of_a_machine(name: str) -> None:
    folder = HERE / name
    limit = 6_000_000 if (folder / "adapter_config.json").is_file() else 12_000_000
    assert sum(f.stat().st_size for f in folder.glob("*.safetensors")) <= limit
    how = "scripts/recall.py" if name in MANY else "rmt eval memory"
    assert how in (folder / "README.md").read_text(), "the card says how its figures were made"
    for file in folder.glob("*.json"):
        for value in json.loads(file.read_text()).values():
            paths = value.get("_name_or_path", "") if isinstance(value, dict) else value
            assert not str(paths).startswith("/"), file


def test_published_answers_are_those_of_the_bundled_models(root: Path) -> None:
    headers = {p.name: json.loads(p.open().readline()) for p in (root / "docs" / "results").glob("*.rows.jsonl")}
    assert headers
    for name, header in headers.items():
        model, _ = load(name.removesuffix(".rows.jsonl"))
        assert header["model"].split()[0] == model.fingerprint(), name


@pytest.mark.parametrize("name", [name for name in names() if name not in MANY])
def test_it_remembers_over_silence_and_its_memory_is_what_carries_the_answer(name: str) -> None:
    reader = rmt.Reader(*load(name), dtype="float32")
    filler = "The rain fell on the roofs of the town, and the old clock struck the hour. " * 30
    told = "Mary went to the kitchen. " + filler + "John moved to the garden. " + filler
    questions = ["Where is Mary?", "Where is John?"]
    memory = reader.read(reader.tokenizer(told, add_special_tokens=False)["input_ids"], progress=False)
    assert [a.text for a in reader.ask(memory, questions)] == ["kitchen", "garden"]
    untold = reader.read(reader.tokenizer(filler, add_special_tokens=False)["input_ids"], progress=False)
    assert [a.text for a in reader.ask(untold, questions)] != ["kitchen", "garden"]
    quiet = reader.read(reader.tokenizer(filler, add_special_tokens=False)["input_ids"], memory=memory, progress=False)
    same = (quiet.tensors["tokens"] == memory.tensors["tokens"]).all()
    assert bool(same), "a text with nothing to keep must leave the memory bit for bit as it was"


def test_llama_armt_holds_many_facts_told_in_english_and_nothing_of_another_text() -> None:
    animals = ["otter", "fox", "lion", "panda", "eagle", "horse", "badger", "llama"]
    cities = ["rome", "paris", "oslo", "lima", "cairo", "delhi", "tokyo", "quito"]
    told = " ".join(f"The {a} lives in {c.title()}." for a, c in zip(animals, cities, strict=True))
    reader = rmt.Reader(*load("llama-armt"), dtype="float32")
    questions = [f"Where does the {animal} live?" for animal in animals]
    memory = reader.read(reader.tokenizer(told, add_special_tokens=False)["input_ids"], progress=False)
    right = sum(a.text == city for a, city in zip(reader.ask(memory, questions), cities, strict=True))
    assert right >= 7
    other = " ".join(f"The {a} lives in {c.title()}." for a, c in zip(animals, reversed(cities), strict=True))
    swapped = reader.read(reader.tokenizer(other, add_special_tokens=False)["input_ids"], progress=False)
    assert sum(a.text == city for a, city in zip(reader.ask(swapped, questions), cities, strict=True)) <= 1
