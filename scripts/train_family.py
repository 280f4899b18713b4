"""Train a family of small decoders of growing size on few-shot tasks, so that curves over scale can be drawn.

    OMP_NUM_THREADS=1 python scripts/train_family.py --output runs/family --minutes 35

Eight LLaMA-shaped decoders with recurrent memory, of 6 thousand to 1.8 million parameters beside their embeddings, each
trained from scratch on the same mixture of the group "emergence" (``evals.tasks.emergence``): prompts of an instruction
and solved lines in the form that the evaluation uses, cut into segments of 40 tokens, so that rule and examples come
through the memory. A token is a character with the space before it. Problems of the test split are never trained on.

``--minutes`` is processor time of all models together on one core; a model's share grows with its size. The learning
rate falls with the time that is left, so steps follow from the speed of the machine. A run that was killed goes on
from its last checkpoint with the same command, and models that are done stay as they are. Then::

    python scripts/family.py --models runs/family --output runs/family-runs --n 200

Figures to expect after 15 minutes in all: exact copies of 4 letters 0, 0, 6, 100 percent of rmt-6k, 14k, 25k and 79k,
where nats a token go -3.3, -2.9, -1.6, -0.05; of 8 letters, of which a segment border cuts off two, at most 4 percent
with up to 88 percent of the letters right. No model of so little training adds modulo 5.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from evals.tasks.compositional.splits import belongs
from evals.tasks.emergence.few_shot import FewShot, Item
from evals.tasks.emergence.tasks import Arithmetic, Copying, ModifiedArithmetic, ModularSums, Unscramble
from rmt import RMTForCausalLM

# Name to hidden size and layers. All have 4 heads.
FAMILY: dict[str, tuple[int, int]] = {
    "rmt-6k": (16, 2),
    "rmt-14k": (24, 2),
    "rmt-25k": (32, 2),
    "rmt-79k": (56, 2),
    "rmt-200k": (72, 3),
    "rmt-480k": (112, 3),
    "rmt-1m": (160, 3),
    "rmt-2m": (192, 4),
}
SEGMENT, MEMORY = 40, 8
TOKENS = 160  # of a training document, four segments
# Tasks with how often each is drawn; the control of modified arithmetic is in it, or its arrow alone would tell.
MIXTURE: tuple[tuple[FewShot, float], ...] = (
    (Copying(split="train"), 0.30),
    (Arithmetic(split="train"), 0.22),
    (ModifiedArithmetic(split="train", plus=1), 0.11),
    (ModifiedArithmetic(split="train", plus=0), 0.07),
    (ModularSums(split="train"), 0.15),
    (Unscramble(split="train"), 0.15),
)
CHARACTERS = ["\n", *map(chr, range(32, 127))]
PAD, UNKNOWN = "[PAD]", "[UNK]"
IGNORE = -100


def vocabulary() -> dict[str, int]:
    """Ids of all tokens: a character, or a space and a character."""
    pieces = [PAD, UNKNOWN, *CHARACTERS, *(" " + character for character in CHARACTERS)]
    return {piece: place for place, piece in enumerate(pieces)}


def tokenizer() -> Any:
    """The tokenizer, for ``save_pretrained``; characters that it does not know are one token."""
    from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    made: Any = Tokenizer(WordLevel(vocabulary(), unk_token=UNKNOWN))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[\s\S]"), behavior="isolated")
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=PAD, unk_token=UNKNOWN, clean_up_tokenization_spaces=False
    )


class Mixture:
    """Batches of training documents.

    A document is one task's instruction and solved lines of one size until it is full, its last line cut off. Answers
    and the line breaks behind them have labels, nothing else does: the rest is random and cannot be learned.
    """

    def __init__(self) -> None:
        self.ids = vocabulary()

    def batch(self, count: int, seed: str) -> tuple[Tensor, Tensor]:
        """Token ids and labels, each of shape (count, TOKENS), int64."""
        rng = Random(seed)
        tasks, shares = zip(*MIXTURE, strict=True)
        rows = [self.document(rng.choices(tasks, shares)[0], rng) for _ in range(count)]
        ids, labels = zip(*rows, strict=True)
        return torch.tensor(ids), torch.tensor(labels)

    def document(self, task: FewShot, rng: Random) -> tuple[list[int], list[int]]:
        """Token ids and labels of one document, TOKENS of each."""
        size = rng.choice(task.sizes)
        ids = self.encode(f"{task.instruction}\n")
        labels = [IGNORE] * len(ids)
        while len(ids) < TOKENS:
            item = train_item(task, rng, size)
            left, right = self.encode(item.left), self.encode(f" {item.answer}\n")
            ids += left + right
            labels += [IGNORE] * len(left) + right
        return ids[:TOKENS], labels[:TOKENS]

    def encode(self, text: str) -> list[int]:
        """As the tokenizer does, but faster."""
        found, place = [], 0
        while place < len(text):
            width = 2 if text[place] == " " and place + 1 < len(text) else 1
            found.append(self.ids[text[place : place + width]])
            place += width
        return found


def train_item(task: FewShot, rng: Random, size: int) -> Item:
    """A problem that is not for tests."""
    while True:
        item = task.draw(rng, size)
        if belongs(item.key, "train"):
            return item


def build(hidden: int, layers: int, seed: int) -> RMTForCausalLM:
    """A fresh model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    inner = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary()),
            hidden_size=hidden,
            intermediate_size=hidden * 8 // 3 // 4 * 4,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=2 * SEGMENT + 4 * MEMORY,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
            tie_word_embeddings=True,
        )
    )
    return RMTForCausalLM.from_backbone(inner, segment_size=SEGMENT, num_memory_tokens=MEMORY).train()


def parameters(model: RMTForCausalLM) -> int:
    """Parameters beside the embeddings of words."""
    words = sum(p.numel() for p in model.get_input_embeddings().parameters())
    return sum(p.numel() for p in model.parameters()) - words


def shares(minutes: float) -> dict[str, float]:
    """Seconds for each model: by the square root of its size."""
    weights = {name: math.sqrt(hidden * hidden * layers) for name, (hidden, layers) in FAMILY.items()}
    return {name: 60 * minutes * weight / sum(weights.values()) for name, weight in weights.items()}


def train(name: str, seconds: float, args: argparse.Namespace, say: Callable[[str], None] = print) -> None:
    """Train one model for so much processor time, that before a checkpoint counted in, and save it.

    Raises:
        ValueError: a checkpoint of other settings.
    """
    folder, path = args.output / name, args.output / f"{name}.checkpoint"
    args.output.mkdir(parents=True, exist_ok=True)
    if (folder / "config.json").is_file():
        return say(f"{name}: done already")
    hidden, layers = FAMILY[name]
    model, mixture = build(hidden, layers, args.seed), Mixture()
    rate = args.rate * math.sqrt(64 / hidden)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    settings = {"batch": args.batch, "rate": args.rate, "seed": args.seed}
    step, spent = resume(path, model, optimizer, settings) if path.is_file() else (0, 0.0)
    began, written = time.process_time() - spent, spent
    losses: list[float] = []
    while spent < seconds and step != args.steps:
        for group in optimizer.param_groups:
            left = 0.02 + 0.98 * (1 + math.cos(math.pi * spent / seconds)) / 2
            group["lr"] = rate * min(1.0, (step + 1) / 100) * left
        ids, labels = mixture.batch(args.batch, f"{args.seed} {step}")
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, spent = step + 1, time.process_time() - began
        losses = [*losses[-49:], loss.item()]
        if step % 50 == 0:
            say(f"{name}: step {step}, {spent:.0f} of {seconds:.0f} s, {sum(losses) / len(losses):.3f} nats")
        if spent - written > args.every:
            keep(path, model, optimizer, {**settings, "step": step, "spent": spent})
            written = spent
    nats = sum(losses) / max(1, len(losses))
    facts = {**settings, "steps": step, "seconds": spent, "nats": nats, "parameters": parameters(model)}
    save(model.eval(), folder, facts)
    path.unlink(missing_ok=True)
    say(f"{name}: {parameters(model):,} parameters, {step} steps, {nats:.3f} nats")


def keep(path: Path, model: RMTForCausalLM, optimizer: torch.optim.Optimizer, facts: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all: weights and the optimizer's moments by number, facts as metadata."""
    tensors = {}
    for place, weight in enumerate(model.parameters()):
        tensors[f"{place} weight"] = weight.detach()
        tensors |= {f"{place} {key}": value for key, value in optimizer.state[weight].items()}
    beside = path.with_name(f"{path.name}.tmp")
    save_file(tensors, beside, metadata={"facts": json.dumps(facts)})
    os.replace(beside, path)


def resume(
    path: Path, model: RMTForCausalLM, optimizer: torch.optim.Optimizer, settings: dict[str, Any]
) -> tuple[int, float]:
    """Take over a checkpoint: the steps and the seconds that are behind it.

    Raises:
        ValueError: one of other settings.
    """
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
        if (known := {key: facts[key] for key in settings}) != settings:
            raise ValueError(
                f"{path}: expected a checkpoint of {settings}, got one of {known}; remove it, or use these"
            )
        for place, weight in enumerate(model.parameters()):
            weight.data.copy_(file.get_tensor(f"{place} weight"))
            if f"{place} step" in file.keys():  # noqa: SIM118 - not a dictionary
                optimizer.state[weight] = {
                    key: file.get_tensor(f"{place} {key}") for key in ("step", "exp_avg", "exp_avg_sq")
                }
    return facts["step"], facts["spent"]


def save(model: RMTForCausalLM, folder: Path, facts: dict[str, Any]) -> None:
    """A folder that ``rmt eval run --model`` takes, complete or not there."""
    beside = folder.with_name(f".{folder.name}.tmp")
    model.save_pretrained(beside)
    tokenizer().save_pretrained(beside)
    (beside / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    os.replace(beside, folder)


def main() -> None:
    """Train all models that are not there yet, the small ones first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=35.0, help="processor time of all models together")
    parser.add_argument("--models", nargs="+", choices=list(FAMILY), default=list(FAMILY))
    parser.add_argument("--steps", type=int, default=-1, help="stop each model after so many, for a trial")
    parser.add_argument("--batch", type=int, default=16, help="documents of a step")
    parser.add_argument("--rate", type=float, default=4e-3, help="learning rate of a hidden size of 64")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between checkpoints")
    args = parser.parse_args()
    for name, seconds in shares(args.minutes).items():
        if name in args.models:
            train(name, seconds, args, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
