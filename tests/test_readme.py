"""What the README says in Python runs as it stands there, at the size of a test; links lead somewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from rmt.pretrained import of_minilm
from tests.rmt.families import build

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
SMALL = {"segment_size=512": "segment_size=16", "max_new_tokens=1000": "max_new_tokens=40"}


def test_the_readme_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(BLOCKS) >= 2
    monkeypatch.chdir(tmp_path)
    Path("war-and-peace.txt").write_text("Mary went to the kitchen. " + "It was a long evening. " * 60)
    for name in ("one", "two", "three"):
        Path(f"{name}.txt").write_text(f"This is document {name}. " * len(name))
    tokenizer = of_minilm(AutoTokenizer.from_pretrained)
    build("llama", max_position_embeddings=128, vocab_size=len(tokenizer)).save_pretrained("folder-or-hub-name")
    names = {"ids": torch.randint(3, 61, (1, 70)), "prompt_ids": torch.randint(3, 61, (1, 5)), "tokenizer": tokenizer}
    for block in BLOCKS:
        for full, small in SMALL.items():
            block = block.replace(full, small)
        exec(compile(block, "README.md", "exec"), names)
    assert Path("peace.memory").stat().st_size < 64_000
    assert names["new_ids"].shape[1] > 5


def test_the_task_of_the_evaluation_guide_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/evaluation.md").read_text(encoding="utf-8"), re.DOTALL)
    assert "lengths=[4_000]" in block
    monkeypatch.chdir(tmp_path)
    Path("war-and-peace.txt").write_text("It was a long evening, and nobody spoke. " * 60)
    names: dict[str, Any] = {"__name__": "guide"}
    monkeypatch.setitem(sys.modules, "guide", type(sys)("guide"))  # dataclasses look their module up
    exec(compile(block.replace("lengths=[4_000]", "lengths=[300]"), "evaluation.md", "exec"), names)
    scores = {cell.task: cell.rate for cell in names["cells"] if cell.control == "memory"}
    assert set(scores) == {"password", "memorize", "detect", "reasoning"}
    assert scores["password"] > 0.5
    assert "password" in capsys.readouterr().out


def lost(file: Path) -> list[str]:
    """Relative links of a Markdown file to files that are not there, or to headings that these do not have."""
    faults = []
    text = re.sub(r"```.*?```|`[^`\n]*`", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(<?([^)\s>]+)", text) + re.findall(r"^\[[^\]]+\]: *(\S+)", text, re.MULTILINE):
        if re.match(r"[a-z][a-z+.-]*:", link):
            continue
        path, _, heading = link.partition("#")
        place = (file.parent / path) if path else file
        if not place.exists() or (heading and place.suffix == ".md" and heading not in headings(place)):
            faults.append(f"{file.name}: {link}")
    return faults


def headings(file: Path) -> set[str]:
    """Headings of a Markdown file as links name them."""
    found = re.findall(r"^#+ +(.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


def test_links_of_the_documents_lead_somewhere() -> None:
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    assert [fault for file in documents for fault in lost(file)] == []


def test_lost_links_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# What it is, in short\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](there.md) [b](there.md#what-it-is-in-short) [c](#here) [d](https://x.org/no.md) `[e](no.md)`\n"
        "[f](no.md) ![g](no.png) [h](there.md#else) [i](#there)\n[j]: no.txt\n"
    )
    assert lost(page) == [f"page.md: {link}" for link in ("no.md", "no.png", "there.md#else", "#there", "no.txt")]
