"""What the README says in Python runs as it stands there, at the size of a test."""

from __future__ import annotations

import re
from pathlib import Path

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
