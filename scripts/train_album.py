"""Train the model that remembers pictures, from nothing: vision tower, language model, projector and memory.

    python scripts/train_album.py --text books/ --output runs/album
    python scripts/train_album.py --text books/ --output runs/album --phases all,long

Time: half an hour of one CPU core behind the tower's five minutes. Figures to expect: accuracy 0.87 at the end of
words and 0.88 of projector (LLaVA's stage 1: the language model stays as words left it), 0.99 behind each of the
others; over length, see docs/results.md. A run that was killed goes on from its last checkpoint when the same command
is given again.

Phase 0 is `scripts/album_encoder.py`, a tower of CLIP's shape that reads handwritten digits. Each later phase is one
`rmt train model.kind=llava`, from where the one before ended, by default in LLaVA's order: words (the world told in
sentences, without a picture), projector (stage 1), all (stage 2: projector, language model and memory), long (segments
of 128 tokens), and quiet (more pictures, most of them to be passed over). The second command begins with "all" from
fresh weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import album_encoder

from rmt.cli.training_images import run
from rmt.cli.training_images_settings import ImageSettings
from rmt.training.settings import override

# Settings of each phase; what phases share is in COMMON. The tower is phase 0, in steps.
ENCODER_STEPS = 6000
COMMON = ("model.kind=llava", "model.gate_threshold=0.6", "curriculum.patience=400")
PHASES: dict[str, tuple[str, ...]] = {
    "words": (
        "stage=2",
        "curriculum.stages=2x24:t2:s0:d0:w1,4x32:t3:w1",
        "model.gate_penalty=1.0",
        "optim.steps=400",
        "optim.lr=2e-3",
    ),
    "projector": (
        "stage=1",
        "curriculum.stages=2x24:t2:s0:d0.2,4x32:t3",
        "model.gate_penalty=1.0",
        "optim.steps=200",
        "optim.lr=2e-3",
    ),
    "all": (
        "stage=2",
        "curriculum.stages=2x24:t2:s0,4x32:t3,6x48:t4",
        "model.gate_penalty=1.0",
        "optim.steps=500",
        "optim.lr=2e-3",
    ),
    "long": (
        "stage=2",
        "curriculum.stages=6x64:t6:c0.5,8x128:t8:c0.5:s0.4",
        "model.gate_penalty=0.3",
        "optim.steps=600",
        "optim.lr=1e-3",
        "optim.batch_size=16",
    ),
    # More pictures, most of them of no frame: over a million tokens a memory dies of the few that it takes for framed.
    "quiet": (
        "stage=2",
        "data.album=60000",
        "curriculum.stages=6x128:t6:c0.5:d0.7:s0.4,8x64:t4:c0.5:d0.95:s0.5",
        "model.gate_penalty=1.0",
        "model.gate_threshold=0.9",
        "optim.steps=350",
        "optim.lr=7e-4",
        "optim.batch_size=20",
    ),
}
DEFAULT = tuple(PHASES)
OWN = ("output", "stage", "seed", "data.text", "data.cache", "model.kind", "model.init", "model.vision", "optim.steps")


def main() -> None:
    """Run the phases, each from where the one before ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", required=True, help="files, folders or sources, separated by commas")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, help="a vision tower to take instead of training one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--phases", default=",".join(DEFAULT), help=f"some of {', '.join(PHASES)}, by commas")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of `rmt train`, for every phase")
    args = parser.parse_intermixed_args()
    for setting in args.settings:
        if (key := setting.partition("=")[0].strip()) in OWN:
            parser.error(f"{key}: expected a setting that phases share, got one that the recipe sets; leave it out")
    chosen = args.phases.split(",")
    if unknown := sorted(set(chosen) - set(PHASES)):
        parser.error(f"--phases: expected some of {', '.join(PHASES)}, got {', '.join(unknown)}; leave it out")
    encoder = args.encoder
    if encoder is None:
        encoder = args.output / "encoder"
        album_encoder.train_encoder(encoder, ENCODER_STEPS, seed=args.seed)
    before = [f"model.vision={encoder}"]
    for name in chosen:
        common = [f"output={args.output / name}", f"seed={args.seed}", f"data.text={args.text}"]
        common += [f"data.cache={args.output / 'text'}", *COMMON]
        print(f"phase {name}", flush=True)
        model = run(override(ImageSettings(), [*common, *PHASES[name], *args.settings, *before]))
        before = [f"model.init={model}"]
    print(f"The model is in {model}")


if __name__ == "__main__":
    main()
