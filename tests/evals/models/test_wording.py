"""What is said by a tokenizer that keeps no spaces, against the texts that it was made from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evals.models import CausalModel
from evals.models.hugging_face import CausalModel as Written
from evals.models.wording import forgets_spaces, rejoined, texts
from evals.scorers import score
from tests.evals.models.texts import VOCAB, llama, text, tokenizer

SIGNS = "-.,;:!?'()[]/_@$%"
UUID = "54c0a1b2-321e-4f00-9abc-0123456789ab"


def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's kind, of letters and digits and punctuation, in 64 tokens."""
    signs = SIGNS.replace("/", "").replace("[", "").replace("]", "").replace("$", "").replace("%", "")
    letters = "abcdefgnostw0123456789"
    names = ["[PAD]", "[UNK]", *signs, *letters, *(f"##{sign}" for sign in letters)]
    assert len(names) <= VOCAB
    inner = Tokenizer(models.WordPiece({name: n for n, name in enumerate(names)}, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]")


@pytest.mark.parametrize(
    "said",
    [
        UUID,
        f"the one is {UUID}.",
        "two, three and four",
        "a (b) c; d: e! f?",
        "7.5 at 12:30",
        "1,234,567 of 1,000",
        "5, 7, 9",
        "in 1998, 1999",
        "n,w",
        "it's not at a's",
        "don't go",
        "a/b a_b a@b",
        "$5 [a] 10%",
        "",
        "wait...",
    ],
)
def test_what_punctuation_split_is_one_again(said):
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str(said)
    assert rejoined(" ".join(word for word, _ in split)) == said
    assert rejoined(said) == said, "whole text is changed"


def test_tokenizers_are_told_apart():
    own = wordpiece()
    assert forgets_spaces(own)
    assert not forgets_spaces(tokenizer())
    ids = own(UUID, add_special_tokens=False)["input_ids"]
    assert " - " in own.decode(ids)
    assert texts(own, [ids, [*ids, 0, 0], []]) == [UUID, UUID, ""]
    assert texts(tokenizer(), [[3, 4]]) == ["w3 w4"]


def test_a_model_says_what_a_scorer_finds(monkeypatch):
    own = wordpiece()
    ours = CausalModel(llama(), own)
    wanted = ours.encode(f"{UUID}. two")
    steps = iter(wanted.tolist())

    def logits(self, cache, ids, seen, keep):
        return torch.nn.functional.one_hot(torch.tensor([[next(steps)]]), VOCAB).float()

    monkeypatch.setattr(Written, "_logits", logits)
    (said,) = ours.generate(ours.initial(), [text(1)], len(wanted), stop=("ab. ",))
    assert said == UUID[:-2]
    assert score("ruler_all", said, (UUID[:-2],), "") == 1
    assert np.array_equal(ours.encode(said), wanted[: len(ours.encode(said))]), "as a document it is still itself"


@pytest.mark.parametrize("kind", ["llama 2", "metaspace"])
def test_the_space_that_a_text_begins_with_is_said(kind):
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "▁b", "▁▁▁"]
    inner = Tokenizer(models.BPE({name: n for n, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True))
    stripped = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(stripped) if kind == "llama 2" else decoders.Metaspace()
    words = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    body = [names.index(name) for name in ("▁▁▁", "▁a", "▁", "b", "▁▁▁", "▁b")]
    assert not words.decode(body).startswith(" " * 4), "the tokenizer drops it"
    assert texts(words, [body, body[1:], body[3:4], []]) == ["    a b    b", " a b    b", "b", ""]
