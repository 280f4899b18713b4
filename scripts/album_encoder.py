"""Train the small CLIP-shaped vision tower of the offline world from scratch: phase 0 of `scripts/train_album.py`.

    python scripts/album_encoder.py runs/album/encoder

Time: 5 minutes of one CPU core. Figure to expect: of drawings of the 500 written digits that are set apart for tests
0.985 are read right by a linear layer on the mean of the patches at layer -2, which is trained along, inks and frames
all of them (seed 0: digit 0.9857, ink 1.0000, frame 1.0000 of 3,000 drawings).

The 1,297 written digits of training are few: a tower that sees each drawn a few times learns them by heart and reads
0.945 of the others. So no drawing is seen twice. They are made as they are needed, bent, sheared, turned, thinner or
thicker, and half of them are mixtures of two digits that mean the same. Attention is transformers' plain one, which for
so few tokens is three times as fast here as PyTorch's fused one.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evals.tasks.images.digits import split, written
from evals.tasks.images.pool import draw_pool
from evals.tasks.images.world import COLOURS, DIGITS, NAMES

SIDE, FRAME, MARGIN = 32, 3, 4
SHAPE = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
KINDS = (len(DIGITS), len(NAMES), len(NAMES) + 1)  # digits, inks, frames and none
LAYER = -2


def pixels(images: np.ndarray) -> Tensor:
    """uint8 (images, side, side, 3) to what the tower takes: float32 (images, 3, side, side) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


class Drawer:
    """Endless drawings of the written digits for training, a batch at a time; as `evals.tasks.images.digits.draw`
    makes them, but wilder.

    Args:
        seed: all the randomness there is.
        scenes: pictures that are no digits, an eighth of each batch.
    """

    def __init__(self, seed: int = 0, scenes: int = 2000) -> None:
        shades, labels = written()
        self.glyphs = torch.from_numpy(shades[split("train")])
        self.by_digit = [torch.from_numpy(np.flatnonzero(labels[split("train")] == d)) for d in range(len(DIGITS))]
        self.inks = torch.tensor([COLOURS[name] for name in NAMES]).float()
        self.random = torch.Generator().manual_seed(seed)
        self.scenes = pixels(draw_pool(scenes, "train", seed + 1, SIDE, kinds=("scene",), framed=0.0).images)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Numbers in [low, high)."""
        return torch.rand(*shape, generator=self.random) * (high - low) + low

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Pixels (size, 3, side, side), and (size, 3): digit, ink and frame (0 for none), -100 where there is none."""
        digit, ink = (torch.randint(kinds, (size,), generator=self.random) for kinds in KINDS[:2])
        mask = self.strokes(self.mixed(digit))
        dark = self.uniform(5, 60, size, 1, 1, 1)
        images = dark + 4 * torch.randn(size, 3, SIDE, SIDE, generator=self.random)
        images = images * (1 - mask) + mask * self.tinted(ink)
        frame = torch.randint(-2, KINDS[2], (size,), generator=self.random).clamp(min=0)
        edge = F.pad(torch.zeros(SIDE - 2 * FRAME, SIDE - 2 * FRAME), (FRAME,) * 4, value=1.0).bool()
        images = torch.where(edge & (frame > 0)[:, None, None, None], self.tinted((frame - 1).clamp(min=0)), images)
        images = images.clamp(0, 255).round() / 127.5 - 1
        labels = torch.stack([digit, ink, frame], dim=1)
        others = size // 8
        images[:others] = self.scenes[torch.randint(len(self.scenes), (others,), generator=self.random)]
        labels[:others] = torch.tensor([-100, -100, 0])
        return images, labels

    def mixed(self, digit: Tensor) -> Tensor:
        """Written digits (batch, 8, 8): half of them as they are, half with another of the same digit over them."""

        def any_of() -> Tensor:
            at = torch.rand(len(digit), generator=self.random).tolist()
            mine = [self.by_digit[d] for d in digit.tolist()]
            return self.glyphs[torch.stack([m[int(a * len(m))] for m, a in zip(mine, at, strict=True)])]

        share = torch.where(self.uniform(0, 1, len(digit)) < 0.5, self.uniform(0.5, 1, len(digit)), 1.0)[:, None, None]
        return share * any_of() + (1 - share) * any_of()

    def strokes(self, glyphs: Tensor) -> Tensor:
        """How much ink there is, (batch, 1, side, side): glyphs of any size at any place, turned, sheared and bent."""
        count = len(glyphs)
        high = self.uniform(17.5, 22.5, count)
        wide = (high * self.uniform(0.82, 1.13, count)).clamp(14, SIDE - 2 * MARGIN - 2)
        left, top = (MARGIN + self.uniform(0, 1, count) * (SIDE - 2 * MARGIN - s).clamp(min=0) for s in (wide, high))
        at = torch.arange(SIDE) + 0.5
        x = (at[None, None, :] - (left + wide / 2)[:, None, None]) / (wide / 2)[:, None, None]
        y = (at[None, :, None] - (top + high / 2)[:, None, None]) / (high / 2)[:, None, None]
        turn = self.uniform(-15, 15, count)[:, None, None] * math.pi / 180
        x, y = turn.cos() * x + turn.sin() * y, turn.cos() * y - turn.sin() * x
        x = x + self.uniform(-0.25, 0.25, count)[:, None, None] * y
        coarse = torch.randn(count, 2, 4, 4, generator=self.random) * self.uniform(0, 0.12, count, 1, 1, 1)
        bend = F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic", align_corners=True)
        grid = torch.stack([x + bend[:, 0], y + bend[:, 1]], dim=-1)
        ink = F.grid_sample(glyphs[:, None], grid, mode="bicubic", align_corners=False).clamp(0, 1)
        return ink ** self.uniform(-0.4, 0.45, count, 1, 1, 1).exp()

    def tinted(self, colour: Tensor) -> Tensor:
        """Each colour, a little off: (batch, 3, 1, 1)."""
        return (self.inks[colour] + 8 * torch.randn(len(colour), 3, generator=self.random))[:, :, None, None]


def summary(tower: nn.Module, images: Tensor) -> Tensor:
    """What a linear probe is given: the mean of the patches at :data:`LAYER`, normalised; (images, hidden)."""
    states = tower(images, output_hidden_states=True).hidden_states[LAYER][:, 1:].mean(dim=1)
    return F.layer_norm(states, states.shape[-1:])


@torch.no_grad()
def accuracies(tower: nn.Module, probe: nn.Module, count: int = 3000) -> dict[str, float]:
    """Shares read right of drawings of the written digits that are set apart."""
    pool = draw_pool(count, "test", 99, SIDE, kinds=("digit",))
    said = torch.cat([probe(summary(tower, part)) for part in pixels(pool.images).split(500)])
    wanted = (pool.digit, pool.ink, pool.frame + 1)
    names = ("digit", "ink", "frame")
    return {
        name: float((part.argmax(dim=1) == torch.from_numpy(truth)).float().mean())
        for name, part, truth in zip(names, said.split(KINDS, dim=1), wanted, strict=True)
    }


def train_encoder(folder: Path, steps: int = 6000, batch: int = 128, rate: float = 2e-3, seed: int = 0) -> Any:
    """Train, and save the tower to ``folder`` with its image processor; one that is there already is left alone."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    if (folder / "config.json").is_file():
        return CLIPVisionModel.from_pretrained(folder)
    torch.manual_seed(seed)
    drawer, began = Drawer(seed), time.monotonic()
    config = CLIPVisionConfig(image_size=SIDE, patch_size=8, **SHAPE)
    tower = CLIPVisionModel._from_config(config, attn_implementation="eager")
    probe = nn.Linear(SHAPE["hidden_size"], sum(KINDS))
    every = [*tower.parameters(), *probe.parameters()]
    groups = [
        {"params": [p for p in every if p.dim() > 1], "weight_decay": 0.05},
        {"params": [p for p in every if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))

    def slope(step: int) -> float:
        return min(1.0, (step + 1) / 100) * max(0.01, 0.5 * (1 + math.cos(math.pi * step / steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, slope)
    for step in range(steps):
        images, labels = drawer.batch(batch)
        with torch.autocast("cpu", torch.bfloat16):
            parts = probe(summary(tower, images)).float().split(KINDS, dim=1)
        losses = [F.cross_entropy(p, labels[:, n], label_smoothing=0.05) for n, p in enumerate(parts)]
        loss = losses[0] + 0.3 * (losses[1] + losses[2])  # colours are learned within a minute
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(every, 1.0)
        optimizer.step()
        schedule.step()
        if step % 500 == 499:
            print(f"step {step + 1}, {time.monotonic() - began:.0f} s, loss {loss.detach():.3f}", flush=True)
    found = accuracies(tower, probe)
    print("read right: " + ", ".join(f"{name} {share:.4f}" for name, share in found.items()), flush=True)
    processor = CLIPImageProcessor(
        size={"height": SIDE, "width": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    processor.save_pretrained(folder)
    tower.save_pretrained(folder)
    return tower


def main() -> None:
    """Train a tower into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train_encoder(args.folder, args.steps, seed=args.seed)


if __name__ == "__main__":
    main()
