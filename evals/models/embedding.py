"""Texts as vectors of length 1, by an encoder of Hugging Face: MiniLM above all.

Pooling is that of ``sentence-transformers/all-MiniLM-L6-v2`` (its model card): the mean of the last hidden states over
all tokens, [CLS] and [SEP] with them, divided by its length. Vectors near each other mean texts alike.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from evals.models.offers import weights_digest


class Embedder:
    """An encoder that gives one vector a text.

    Args:
        model: a BERT without pooler, on its device, in the dtype it is to run in. On a CPU with bfloat16 products,
            bfloat16 with ``attn_implementation="eager"`` was the fastest.
        tokenizer: its own, with [CLS] and [SEP].
        batch_tokens: tokens that run together; None for 1,024 on a CPU, where more is slower, and 32,768 elsewhere.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_tokens: int | None = None) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.batch_tokens = batch_tokens or (1024 if model.device.type == "cpu" else 32_768)
        self.longest = int(model.config.max_position_embeddings) - 2
        self._fingerprint: str | None = None

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str], dtype: str = "bfloat16") -> Embedder:
        """An encoder and its tokenizer from a folder, on the CPU. Raises what transformers raises."""
        from transformers import AutoModel, AutoTokenizer

        how = {"dtype": getattr(torch, dtype), "attn_implementation": "eager", "add_pooling_layer": False}
        return cls(AutoModel.from_pretrained(folder, **how), AutoTokenizer.from_pretrained(folder))

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return int(self.model.config.hidden_size)

    def fingerprint(self) -> str:
        """Hash of all weights and their dtype."""
        if self._fingerprint is None:
            self._fingerprint = hashlib.sha256(weights_digest(self.model).encode()).hexdigest()[:16]
        return self._fingerprint

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        """Token ids without special tokens, int64."""
        return np.asarray(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int64)

    def embed(self, rows: Sequence[Int[np.ndarray, " _"]]) -> Float[np.ndarray, "rows width"]:
        """A vector of length 1 for each row of token ids, float32; of a row too long its last tokens count."""
        vectors = np.zeros((len(rows), self.width), dtype=np.float32)
        widest = min(self.longest, max((len(row) for row in rows), default=0)) + 2
        together = max(1, self.batch_tokens // widest)
        for start in range(0, len(rows), together):
            vectors[start : start + together] = self._embed(rows[start : start + together])
        return vectors

    def _embed(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        cut = [row[-self.longest :] for row in rows]
        width = max(map(len, cut)) + 2
        ids = torch.full((len(cut), width), self.tokenizer.pad_token_id or 0)
        mask = torch.zeros(len(cut), width)
        for number, row in enumerate(cut):
            ids[number, 0] = self.tokenizer.cls_token_id
            ids[number, 1 : 1 + len(row)] = torch.from_numpy(np.array(row, dtype=np.int64))
            ids[number, 1 + len(row)] = self.tokenizer.sep_token_id
            mask[number, : len(row) + 2] = 1
        ids, mask = ids.to(self.model.device), mask.to(self.model.device)
        even = all(len(row) + 2 == width for row in cut)  # without a mask attention is faster
        with torch.inference_mode():
            hidden = self.model(input_ids=ids, attention_mask=None if even else mask.long())[0].float()
            mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
            vectors: np.ndarray = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
        return vectors
