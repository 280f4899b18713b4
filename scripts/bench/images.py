"""Images per second of a tower, with features kept and without, and what an image weighs behind each projector.

    python scripts/bench/images.py

Some minutes on one core; ``--device cuda`` on a GPU, ``--small`` in seconds. The tower has the shape of LLaVA-1.5's
(CLIP-L, 336 pixels) and random weights, images are noise. Sides take turns in one process; a figure is the median over
rounds, and gains are medians of ratios within a round. "new" has never seen its images and shows what the cache costs;
"kept" finds them in memory, "files" in a folder. The fingerprint is taken once per tower. Expect on a CPU "new" near
"encode", "kept" and "files" hundreds of times as fast.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from multimodal.encoders import freeze, patch_features, patches_of
from multimodal.feature_cache import FeatureCache, fingerprint
from multimodal.projector import KINDS, new_projector, tokens_per_image

LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 336,
}
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 4,
    "image_size": 32,
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def encode_rows(
    shape: dict[str, int], count: int, batch: int, rounds: int, dtypes: list[str], device: str
) -> list[dict[str, Any]]:
    """Images per second of each side, a row for each dtype.

    Args:
        shape: of a CLIPVisionConfig.
        count: images a round.
        batch: images that the tower sees at once.
        rounds: after one to warm up.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModel

    rows = []
    for dtype in dtypes:
        torch.manual_seed(0)
        tower = freeze(CLIPVisionModel(CLIPVisionConfig(**shape))).to(device, DTYPES[dtype])
        start = settled(device)
        fingerprint(tower)
        took = settled(device) - start
        with tempfile.TemporaryDirectory() as folder:
            seconds = sides(tower, shape["image_size"], count, batch, rounds, folder)
        row: dict[str, Any] = {"dtype": dtype, "images": count, "batch": batch, "fingerprint_s": took}
        for side, times in seconds.items():
            row[side] = count / median(times)
            row[f"{side}_gain"] = median(a / b for a, b in zip(seconds["encode"], times, strict=True))
        rows.append(row)
    return rows


def sides(tower: Any, size: int, count: int, batch: int, rounds: int, folder: str) -> dict[str, list[float]]:
    """Seconds of each side in each round, in turn, after one round to warm up; each round has images of its own."""
    device = str(next(tower.parameters()).device)
    new, files = FeatureCache(None, batch=batch), FeatureCache(0, folder, batch=batch)
    found: dict[str, list[float]] = {"encode": [], "new": [], "kept": [], "files": []}
    for number in range(rounds + 1):
        pixels = torch.randn(count, 3, size, size, device=device)
        files.features(tower, pixels)  # written by this, read by the side
        work: dict[str, Callable[[], Tensor]] = {
            "encode": lambda pixels=pixels: patch_features(tower, pixels, batch=batch),
            "new": lambda pixels=pixels: new.features(tower, pixels),
            "kept": lambda pixels=pixels: new.features(tower, pixels),
            "files": lambda pixels=pixels: files.features(tower, pixels),
        }
        for side, run in work.items():
            start = settled(device)
            run()
            took = settled(device) - start
            if number:
                found[side].append(took)
        new.clear()
    return found


def settled(device: str) -> float:
    """The time when a device is done with what it was given, in seconds."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def projector_rows(shape: dict[str, int], hidden: int, pool: int, queries: int) -> list[dict[str, Any]]:
    """What an image weighs as features and behind each projector; nothing is computed, so a GPU is not needed."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(**shape)
    text = LlamaConfig(hidden_size=hidden, num_attention_heads=max(1, hidden // 128), num_hidden_layers=1)
    config, patches = LlavaConfig(vision_config=vision, text_config=text), patches_of(vision)
    rows = [row_of("features", patches, shape["hidden_size"], 0)]
    for kind in KINDS:
        with torch.device("meta"):
            net = new_projector(kind, config, pool=pool, queries=queries)
        tokens = tokens_per_image(kind, patches, pool, queries)
        rows.append(row_of(kind, tokens, hidden, sum(p.numel() for p in net.parameters())))
    return rows


def row_of(kind: str, tokens: int, width: int, parameters: int) -> dict[str, Any]:
    """A row of the second table; bytes are those of bfloat16."""
    return {"kind": kind, "tokens": tokens, "width": width, "bytes": 2 * tokens * width, "parameters": parameters}


def show(encoding: list[dict[str, Any]], weights: list[dict[str, Any]]) -> str:
    """Both tables."""
    lines = ["dtype         encode img/s    new    gain    kept     gain   files     gain   fingerprint s"]
    for r in encoding:
        lines.append(
            f"{r['dtype']:<12}{r['encode']:>14.2f}{r['new']:>7.2f}{r['new_gain']:>8.2f}{r['kept']:>8.0f}"
            f"{r['kept_gain']:>9.1f}{r['files']:>8.0f}{r['files_gain']:>9.1f}{r['fingerprint_s']:>16.2f}"
        )
    lines += ["", "projector    tokens/image   width   KB/image (bf16)   parameters"]
    for r in weights:
        lines.append(
            f"{r['kind']:<13}{r['tokens']:>12,}{r['width']:>8,}{r['bytes'] / 1e3:>18,.1f}{r['parameters']:>13,}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2, help="a round")
    parser.add_argument("--batch", type=int, default=1, help="images that the tower sees at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", choices=sorted(DTYPES), default=list(DTYPES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--hidden", type=int, default=4096, help="width of the language model, 7B's")
    parser.add_argument("--pool", type=int, default=2)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--small", action="store_true", help="a tiny tower, to see that this runs")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse_args(argv)
    shape = SMALL if args.small else LARGE
    encoding = encode_rows(shape, args.images, args.batch, args.rounds, args.dtypes, args.device)
    weights = projector_rows(shape, args.hidden, args.pool, args.queries)
    print(json.dumps({"encoding": encoding, "projectors": weights}, indent=2) if args.json else show(encoding, weights))


if __name__ == "__main__":
    main()
