"""Teach a frozen language model with a memory to see, by LLaMA-Adapter alone: 7,376 parameters and no position.

    python scripts/adapter_album.py runs/adapter --encoder runs/album/encoder

Phase 1 trains a tiny LLaMA with a memory on words alone: "look seven red", segments of noise, and then a question that
only the memory answers. Phase 2 freezes it, and an adapter (V1) learns to put into the first segment's attention what
words said there before: the picture of a handwritten digit in coloured ink. The picture is in no segment behind and not
in the question. Held out are 500 written digits, asked with their picture, without any, and with one of another.

The tower is that of `scripts/album_encoder.py`, which is trained first (5 minutes) where --encoder names none. Time
beside it: 75 seconds of one CPU core. Figure to expect of 1,000 drawings, after 4 segments, one of them with a picture:
digit 0.970 and ink 0.995 right; with no picture or another's at chance, 0.1 and 0.125. The memory is not trained to
last: after 32 segments it is 0.30 and 0.18. The bundled model, whose memory is gated, is for that.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from multimodal.adapter import AdapterConfig, LlamaAdapterRMT, save_adapter, trainable_parameters
from rmt import RMTForCausalLM

LOOK, ASK, STOP, UNSAID, DIGIT, INK, NOISE, WORDS = 1, 2, 3, 4, 10, 20, 30, 60  # ids, the last four where each begins
DIGITS, INKS = 10, 8
WIDTH, BATCH = 6, 64
SHAPE = {
    "vocab_size": WORDS,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
ADAPTER = AdapterConfig(adapter_len=4, adapter_layers=4)


def documents(digit: Tensor, ink: Tensor, segments: int, told: bool) -> dict[str, Tensor]:
    """A batch of documents and their questions, arguments of a forward.

    Args:
        digit, ink: of each, int64 (batch,).
        segments: of each document, the first of which names the two where they are ``told``.
    """
    ids = torch.randint(NOISE, WORDS, (len(digit), WIDTH * segments))
    unsaid = torch.full_like(digit, UNSAID)
    first = (torch.full_like(digit, LOOK), DIGIT + digit if told else unsaid, INK + ink if told else unsaid)
    ids[:, :3] = torch.stack(first, dim=1)
    asked = torch.stack([torch.full_like(digit, ASK), DIGIT + digit, INK + ink], dim=1)[:, None]
    wanted = asked.clone()
    wanted[:, :, 0] = -100
    return {"input_ids": ids, "question_ids": asked, "question_targets": wanted}


def right(logits: Tensor, digit: Tensor, ink: Tensor) -> tuple[float, float]:
    """Shares of digits and of inks that are said right; logits (batch, 1, 3, words)."""
    digits, inks = logits[:, 0, :2].argmax(dim=-1).T
    return float((digits == DIGIT + digit).float().mean()), float((inks == INK + ink).float().mean())


def learn(model: nn.Module, batches: Any, steps: int, rate: float, name: str) -> None:
    """Train what is left to train."""
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=rate, weight_decay=0.0)
    began = time.monotonic()
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        loss = model(**batches()).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0 or step + 1 == steps:
            print(f"{name} {step + 1}: loss {loss.item():.3f}, {time.monotonic() - began:.0f} s", flush=True)
    model.eval()


def pictures(encoder: Path, which: str, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features (count, hidden) of drawings as :func:`album_encoder.summary` has them, their digits and their inks."""
    import album_encoder

    from evals.tasks.images.pool import draw_pool

    tower = album_encoder.train_encoder(encoder).eval()
    pool = draw_pool(count, which, seed, album_encoder.SIDE, kinds=("digit",), framed=0.0)
    with torch.no_grad():
        parts = album_encoder.pixels(pool.images).split(500)
        features = torch.cat([album_encoder.summary(tower, part) for part in parts])
    return features, torch.from_numpy(pool.digit), torch.from_numpy(pool.ink)


def shown(features: Tensor) -> dict[str, Tensor]:
    """A picture in the first segment of each document."""
    rows = torch.arange(len(features))
    return {"image_features": features, "image_segments": torch.stack([rows, torch.zeros_like(rows)], dim=1)}


def main(argv: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """Run both phases, save the adapter, and print what is said right of the pictures held out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--encoder", type=Path, help="a vision tower; trained into OUTPUT/encoder where none is named")
    parser.add_argument("--segments", type=int, default=4, help="of a document in training")
    parser.add_argument("--steps", type=int, nargs=2, default=(200, 300), metavar=("WORDS", "IMAGES"))
    parser.add_argument("--pictures", type=int, nargs=2, default=(6000, 1000), metavar=("TRAIN", "TEST"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    encoder = args.encoder or args.output / "encoder"
    train, test = (
        pictures(encoder, which, count, args.seed + 1)
        for which, count in zip(("train", "test"), args.pictures, strict=True)
    )
    torch.manual_seed(args.seed)
    inner = LlamaForCausalLM(LlamaConfig(**SHAPE))
    words = RMTForCausalLM.from_backbone(inner, segment_size=WIDTH, num_memory_tokens=2)

    def told() -> dict[str, Tensor]:
        return documents(torch.randint(DIGITS, (BATCH,)), torch.randint(INKS, (BATCH,)), args.segments, told=True)

    learn(words, told, args.steps[0], 2e-3, "words")
    model = LlamaAdapterRMT.from_backbone(
        words.backbone, adapter=ADAPTER, image_features=train[0].shape[1], segment_size=WIDTH, num_memory_tokens=2
    )
    model.cell.load_state_dict(words.cell.state_dict())
    model.cell.requires_grad_(False)
    count = sum(p.numel() for p in trainable_parameters(model).values())
    print(f"the adapter has {count:,} parameters of {sum(p.numel() for p in model.parameters()):,}")

    def seen() -> dict[str, Tensor]:
        chosen = torch.randint(len(train[0]), (BATCH,))
        features, digit, ink = (t[chosen] for t in train)
        return documents(digit, ink, args.segments, told=False) | shown(features)

    learn(model, seen, args.steps[1], 5e-3, "images")
    save_adapter(model, args.output / "adapter")
    features, digit, ink = test
    found = {}
    for length in (args.segments, 8 * args.segments):
        for name, what in (("", shown(features)), (", no picture", {}), (", another's", shown(features.roll(1, 0)))):
            with torch.no_grad():
                logits = model(**documents(digit, ink, length, told=False), **what).logits
            found[f"{length} segments{name}"] = right(logits, digit, ink)
    for name, (digits, inks) in found.items():
        print(f"{name}: digit {digits:.3f}, ink {inks:.3f}")
    return found


if __name__ == "__main__":
    main()
