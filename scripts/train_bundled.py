"""Train the bundled models again: MiniLM with a gated memory (LoRA), or a small LLaMA-shaped decoder from scratch.

    python scripts/train_bundled.py minilm-rmt --text books/ --output runs/minilm-rmt
    python scripts/train_bundled.py minilm-rmt --text books/ --output runs/minilm-qlora model.quantization=nf4
    python scripts/train_bundled.py llama-rmt --text books/ --output runs/llama-rmt

The second trains the adapters over 4-bit weights (QLoRA); settings of `rmt train` hold for every phase.
Time on one CPU core: about 20 minutes for minilm-rmt, an hour for llama-rmt. Figure to expect: accuracy about 0.95 on
the last training stage of minilm-rmt, 0.9 on those of llama-rmt; over length, see docs/results.md. A run that was
killed goes on from its last checkpoint when the same command is given again.

Each phase is one `rmt train`. The first phase opens the gates of all memory tokens at once, on short segments that
hold one fact each: a gate that hears nothing but background for long shuts for good (docs/log.md, 2026-11-24). The
last teaches whole segments of 128 tokens and the silence between facts. The weights of llama-rmt are those that this
script makes; those of minilm-rmt are of an earlier version of the training batches (their card tells which).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rmt.cli.training_run import Settings, run
from rmt.training.settings import override

SHORT = "3x16:p2:r0.8:n0.3:f1:s,4x16:p2:r0.8:n0.3:s,5x24:p3:r0.6:n0.8:s,5x48:p4:r0.6:n1.0:s,4x128:p4:r0.6:n1.5:s"
LONG = "4x128:p2:r0.5:n1.0:s:c0.3:o0.5,5x128:p3:r0.5:n1.2:s:c0.3:o0.5,5x128:p3:r0.5:n1.2:o0.5"
PHASES: dict[str, tuple[tuple[str, ...], ...]] = {
    "minilm-rmt": (
        (f"curriculum.stages={SHORT}", "model.gate_penalty=0.002", "optim.steps=350", "optim.lr=1e-3"),
        (
            f"curriculum.stages={LONG}",
            "model.gate_penalty=0.01",
            "model.gate_threshold=0.3",
            "optim.steps=420",
            "optim.lr=4e-4",
            "optim.batch_size=16",
            "curriculum.patience=100",
        ),
    ),
    "llama-rmt": tuple(
        (
            f"curriculum.stages={stages}",
            f"optim.steps={steps}",
            f"optim.lr={rate}",
            f"model.gate_penalty={penalty}",
            "model.gate_threshold=0.6",
            "model.kind=decoder",
            "optim.batch_size=32",
            "curriculum.patience=400",
        )
        for stages, steps, rate, penalty in (
            ("4x16:p3:r0.7:n0.3:s", 2000, 2e-3, 1.0),
            ("5x24:p3:r0.7:n0.8:s,5x48:p4:r0.6:n1.0:s", 900, 1.5e-3, 0.3),
            ("4x128:p4:r0.6:n1.5:s:c0.3,5x128:p3:r0.6:n1.2", 1200, 1e-3, 0.3),
        )
    ),
}

OWN = ("output", "seed", "data.text", "data.cache", "model.init", "curriculum.stages", "optim.steps")


def main() -> None:
    """Run the phases of one model, each from where the one before ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=sorted(PHASES))
    parser.add_argument("--text", required=True, help="files, folders or sources, separated by commas")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of `rmt train`, for every phase")
    args = parser.parse_intermixed_args()
    for setting in args.settings:
        if (key := setting.partition("=")[0].strip()) in OWN:
            parser.error(f"{key}: expected a setting that phases share, got one that the recipe sets; leave it out")
    before: list[str] = []
    for number, phase in enumerate(PHASES[args.model]):
        folder = args.output / f"phase-{number}"
        common = [f"output={folder}", f"seed={args.seed}", f"data.text={args.text}", f"data.cache={args.output}/text"]
        model = run(override(Settings(), [*common, *phase, *args.settings, *before]))
        before = [f"model.init={model}"]
    print(f"The model is in {model}")


if __name__ == "__main__":
    main()
