"""Emergence in small vision nets by choice of metric, on scikit-learn's handwritten digits.

    python scripts/vision_emergence.py -o docs/results/vision-emergence.png

After "Are Emergent Abilities of Large Language Models a Mirage?" (arXiv 2304.15004, sec. 5), which does so on CIFAR100,
MNIST and Omniglot. Two families of growing size, ten seeds each, every seed with its own split of the 1,797 images of
8 x 8 pixels into 1,200 to train on and 597 to test on:

- Autoencoders of one hidden layer. Squared error falls smoothly; the share of images whose squared error, summed over
  the 64 pixels in [0, 1], is below a fixed c jumps, and where it jumps is up to c.
- Convolutional classifiers. Accuracy a digit rises smoothly; the share of sequences of K digits that are all right, on
  the very same answers, stays at nothing for longer and turns sharper as K grows. Dashed: accuracy to the power K.

Written are the picture, and beside it, named alike, all numbers (``.json``) and the tables that are printed (``.md``).
Values are means over seeds with Student's 95% interval; the emergence score resamples seeds. The same seeds give the
same numbers on one machine. About 2 minutes on one CPU core that does nothing else; a run that was killed goes on with
the seeds that are not in the ``.json`` yet.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evals.emergence import figures
from evals.emergence.curves import Point
from evals.emergence.score import Emergence, emergence
from evals.emergence.tables import emergence_text
from evals.report import short_count
from evals.stats import Interval, student

TRAIN = 1_200
HIDDEN = (1, 2, 4, 8, 16, 32, 64)
CHANNELS = (1, 2, 3, 4, 6, 8, 12, 16)
ERRORS = (4.0, 1.0, 0.25)  # c: squared error of an image that counts as reconstructed
LENGTHS = (1, 5, 10, 20)  # K: digits that must all be right
MISSING = "scikit-learn: expected it for its images of digits, found none; pip install 'rmt-memory[emergence]'"


def images(seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images, float32 (n, 64) in [0, 1], and labels, int64 (n,): those to train on, and those to test on.

    Raises:
        SystemExit: scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit(MISSING) from None
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    x = torch.from_numpy(pixels[order] / 16.0).float()
    y = torch.from_numpy(labels[order]).long()
    return (x[:TRAIN], y[:TRAIN]), (x[TRAIN:], y[TRAIN:])


def autoencoder(hidden: int) -> nn.Module:
    """64 pixels to ``hidden`` numbers and back, with one nonlinear hidden layer as in the paper."""
    return nn.Sequential(nn.Linear(64, hidden), nn.LeakyReLU(), nn.Linear(hidden, 64), nn.Sigmoid())


def classifier(channels: int) -> nn.Module:
    """Two convolutions, the second pooled over all places, and a linear layer."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(4),
        nn.Flatten(),
        nn.Linear(channels, 10),
    )


def train(
    net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, steps: int, seed: int
) -> None:
    """Adam with batches of 100 and a learning rate that falls to 0 as a cosine."""
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        picked = torch.randint(len(x), (100,), generator=order)
        optimizer.zero_grad()
        loss(net(x[picked]), y[picked]).backward()
        optimizer.step()
        schedule.step()


@torch.inference_mode()
def reconstruction(net: nn.Module, x: Tensor) -> dict[str, float]:
    """Mean squared error a pixel, and for each c the share of images with a squared error below it."""
    error = (net(x) - x).square().sum(1)
    return {"mse": float(error.mean()) / 64, **{f"below {c:g}": float((error < c).float().mean()) for c in ERRORS}}


@torch.inference_mode()
def recognition(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Nats a digit, and for each K the share of sequences that are all right; every image in one sequence at most.

    Images come in the random order of the split, so neighbours are a random sequence.
    """
    scores = net(x)
    right = scores.argmax(1) == y
    all_right = {f"{k} right": float(right[: len(y) // k * k].view(-1, k).all(1).float().mean()) for k in LENGTHS}
    return {"nats": -float(nn.functional.cross_entropy(scores, y)), **all_right}


def run(seed: int, steps: int, hidden: Sequence[int], channels: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A record for each net of a seed: family, size, parameters, seed and its metrics on test images."""
    (x, y), (test_x, test_y) = images(seed)
    for size in hidden:
        torch.manual_seed(seed)
        net = autoencoder(size)
        train(net, nn.functional.mse_loss, x, x, steps, seed)
        yield _record("autoencoder", size, net, seed, reconstruction(net, test_x))
    for size in channels:
        torch.manual_seed(seed)
        net = classifier(size)
        train(net, nn.functional.cross_entropy, x, y, steps // 2, seed)
        yield _record("classifier", size, net, seed, recognition(net, test_x, test_y))


def kept(path: Path, settings: dict[str, Any], seeds: int) -> list[dict[str, Any]]:
    """Records of all seeds: those in ``path`` of the same settings, and the missing ones, kept there as they end.

    Raises:
        ValueError: records of other settings, or of something else.
    """
    held: dict[str, Any] = {"settings": settings, "records": []}
    if path.is_file():
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            held = {}
        if held.get("settings") != settings:
            raise ValueError(f"{path}: expected results of {settings}, got {held.get('settings')}; name another --out")
    done = {record["seed"] for record in held["records"]}
    began = time.perf_counter()
    for seed in range(seeds):
        if seed in done:
            continue
        held["records"] += run(seed, settings["steps"], settings["hidden"], settings["channels"])
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".json.part")
        beside.write_text(json.dumps(held, indent=1), encoding="utf-8")
        os.replace(beside, path)
        print(f"seed {seed}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return [record for record in held["records"] if record["seed"] < seeds]


def _record(family: str, size: int, net: nn.Module, seed: int, metrics: dict[str, float]) -> dict[str, Any]:
    parameters = sum(p.numel() for p in net.parameters())
    return {"family": family, "size": size, "parameters": parameters, "seed": seed, **metrics}


def units(metric: str, tested: int) -> int:
    """How many things one seed's number is a mean of: images, or sequences."""
    return tested // int(metric.split()[0]) if metric.endswith("right") else tested


def values(records: Sequence[dict[str, Any]], family: str, metric: str) -> dict[int, list[float]]:
    """Parameters to one value a seed, both rising."""
    found: dict[int, list[float]] = {}
    for record in sorted(records, key=lambda r: (r["parameters"], r["seed"])):
        if record["family"] == family:
            found.setdefault(record["parameters"], []).append(record[metric])
    return found


def points(records: Sequence[dict[str, Any]], family: str, metric: str, tested: int) -> list[Point]:
    """Means over seeds with Student's interval, cut to [0, 1] where the metric is a share."""
    made = []
    for parameters, own in values(records, family, metric).items():
        low, high = student(own)
        share = metric != "nats"
        interval = Interval(max(0.0, low), min(1.0, high)) if share else Interval(low, min(0.0, high))
        made.append(Point(f"{family} {parameters}", parameters, float(np.mean(own)), interval, units(metric, tested)))
    return made


def score(records: Sequence[dict[str, Any]], family: str, metric: str, tested: int) -> Emergence:
    """The emergence score of the means over seeds, seeds resampled; all seeds together resolve 1/(n · seeds)."""
    found = list(values(records, family, metric).values())
    floor = None if metric in ("mse", "nats") else 1 / (units(metric, tested) * len(found[0]))
    return emergence(found, floor=floor, rises=metric != "mse")


FAMILIES = {
    "autoencoder": ("mse", *(f"below {c:g}" for c in ERRORS)),
    "classifier": ("nats", *(f"{k} right" for k in LENGTHS)),
}


def tables(records: Sequence[dict[str, Any]], tested: int) -> str:
    """A Markdown table for each family."""
    text = ""
    for family, metrics in FAMILIES.items():
        counts = list(values(records, family, metrics[0]))
        heads = ["metric", "n a seed", *map(short_count, counts), "emergence", "steepest step"]
        text += f"{family}, by parameters\n\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}\n"
        for metric in metrics:
            made, how = points(records, family, metric, tested), score(records, family, metric, tested)
            cells = [f"{p.value:.3f} [{p.interval.low:.3f}, {p.interval.high:.3f}]" for p in made]
            row = [metric, str(units(metric, tested)), *cells, emergence_text(how), f"{100 * how.steepest:.0f}%"]
            text += f"| {' | '.join(row)} |\n"
        text += "\n"
    return text


def draw(records: Sequence[dict[str, Any]], tested: int, path: Path) -> None:
    """Smooth metrics at the left and sharp ones at the right, of the same nets; a family a row."""
    seeds = len({record["seed"] for record in records})
    title = f"Emergence by choice of metric: the same nets on digits, {seeds} seeds, 95% intervals over seeds"
    figure, grid = figures.canvas(4, title, across=2, beside=3.4)
    heads = (
        ("autoencoders: squared error a pixel", "smooth", ("mse",)),
        ("autoencoders: images reconstructed", "squared error below c, all or nothing", FAMILIES["autoencoder"][1:]),
        ("classifiers: log-likelihood, nats a digit", "smooth", ("nats",)),
        (
            "classifiers: sequences of K digits all right",
            "all or nothing; dashed: accuracy^K",
            FAMILIES["classifier"][1:],
        ),
    )
    for axes, family, (heading, under, metrics) in zip(grid, np.repeat(list(FAMILIES), 2), heads, strict=True):
        figures.dress(axes, heading, under)
        drawn = {metric: points(records, str(family), metric, tested) for metric in metrics}
        for number, (metric, made) in enumerate(drawn.items()):
            figures.draw_points(axes, made, number, said(metric))
            if metric.endswith("right") and metric != "1 right":
                power = [p.value ** int(metric.split()[0]) for p in drawn["1 right"]]
                colour = figures.COLOURS[number]
                axes.plot([p.parameters for p in made], power, color=colour, linestyle=figures.DASHES, linewidth=1.2)
        every = [p for made in drawn.values() for p in made]
        axes.set_ylim(*_limits(every, metrics))
        floors = [p.floor for p in every]
        if metrics == ("nats",):  # a digit this likely makes one right sequence of ten in n
            floors = [1 / units("10 right", tested)]
            figures.draw_floor(axes, floors, float(np.log(floors[0])) / 10, "p^K = 1/n, K = 10")
        else:
            figures.draw_floor(axes, floors)
        figures.parameter_axis(axes, sorted({p.parameters for p in every}))
        place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
        axes.legend(frameon=False, fontsize=7.5, labelcolor=figures.INK, handlelength=2.2, **place)
    figures.save(figure, path)


def _limits(every: Sequence[Point], metrics: Sequence[str]) -> tuple[float, float]:
    """Shares from 0 to 1, squared error from 0, log-likelihood up to 0."""
    if len(metrics) > 1:
        return -0.02, 1.02
    low, high = min(p.interval.low for p in every), max(p.interval.high for p in every)
    return (0, 1.1 * high) if low >= 0 else (1.1 * low, 0.02)


def said(metric: str) -> str:
    """A metric for people."""
    kind, _, number = metric.partition(" ")
    if metric.endswith("right"):
        return f"K = {kind}"
    return f"c = {number}" if kind == "below" else {"mse": "mean squared error", "nats": "log-likelihood"}[metric]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("vision-emergence.png"), help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=10, help="default: %(default)s, at least 2")
    parser.add_argument(
        "--steps", type=int, default=1_000, help="of an autoencoder, a classifier half (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="three small nets of each family, a rehearsal")
    args = parser.parse_args(argv)
    if args.seeds < 2 or args.steps < 2:
        print(f"error: expected 2 seeds and 2 steps at least, got {args.seeds} and {args.steps}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    hidden, channels = (HIDDEN[:3], CHANNELS[:3]) if args.quick else (HIDDEN, CHANNELS)
    tested = len(images(0)[1][1])
    settings = {"steps": args.steps, "train": TRAIN, "test": tested, "hidden": [*hidden], "channels": [*channels]}
    try:
        records = kept(args.out.with_suffix(".json"), settings, args.seeds)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    draw(records, tested, args.out)
    text = tables(records, tested)
    args.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
