"""Train the bundled llama-armt: a small LLaMA-shaped decoder with associative memory that holds many needles.

    python scripts/train_needles.py --text books/war-and-peace.txt.gz --output runs/llama-armt

From scratch, first needles alone, few and one a segment; then more of them, in prose; then anywhere in whole segments
of 128 tokens. ``--memory tokens`` trains the same decoder with memory tokens instead. Time: about an hour on one CPU
core. Figure to expect: docs/results.md. A run that was killed goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.tasks.needles import NeedleTask
from rmt import RMTForCausalLM
from rmt.cli.training_run import ModelSettings, OptimSettings, Settings, accuracy, arguments, save, small_llama
from rmt.training import Curriculum, CurriculumTrainer, NumberedBatches, last_checkpoint


@dataclass(frozen=True)
class Stage:
    """Texts of so many segments of so many tokens, with so many needles; anywhere, or each inside a segment."""

    segments: int
    size: int
    pairs: int
    anywhere: bool = False


STAGES = (
    Stage(1, 6, 1),
    Stage(2, 6, 2),
    Stage(4, 6, 4),
    Stage(8, 8, 8),
    Stage(8, 16, 8),
    Stage(8, 16, 16),
    Stage(8, 32, 32),
    Stage(8, 64, 16),
    Stage(8, 128, 32),
    Stage(8, 128, 32, anywhere=True),
)
MOST = 2048  # tokens of a batch, about; short texts come in larger batches, of 256 at most


def build(args: argparse.Namespace, tokenizer: Any) -> RMTForCausalLM:
    """A fresh model."""
    import torch

    torch.manual_seed(args.seed)
    inner = small_llama(ModelSettings(hidden_size=args.hidden, layers=args.layers), tokenizer)
    for layer in inner.model.layers:
        # Attention begins by handing on what it looks at (mimetic initialisation, arXiv 2305.09828).
        width = args.hidden**-0.5
        layer.self_attn.v_proj.weight.data.normal_(0, width)
        layer.self_attn.o_proj.weight.data.copy_(layer.self_attn.v_proj.weight.data.T)
    inner.model.embed_tokens.weight.data.normal_(0, args.hidden**-0.5)
    own: dict[str, Any] = {"memory_update": "gated", "gate_penalty": args.gate_penalty, "gate_threshold": 0.5}
    if args.memory == "associative":
        own |= {"memory": "associative", "associative_key_size": 32, "associative_normalize": True}
    model = RMTForCausalLM.from_backbone(inner, segment_size=128, num_memory_tokens=args.memory_tokens, **own)
    return model.train()


def main() -> None:
    """Train, and leave the model in OUTPUT/model."""
    from transformers import AutoTokenizer

    from rmt.cli.training_run import DataSettings, backgrounds
    from rmt.pretrained import of_minilm

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", required=True, help="a file, folder or source of prose")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--memory", choices=("associative", "tokens"), default="associative")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--memory-tokens", type=int, default=8)
    parser.add_argument("--gate-penalty", type=float, default=0.02)
    parser.add_argument("--most", type=int, default=MOST)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tokenizer = of_minilm(AutoTokenizer.from_pretrained)
    tokenizer.model_max_length = int(1e30)
    settings = Settings(
        output=str(args.output),
        seed=args.seed,
        data=DataSettings(text=(args.text,)),
        optim=OptimSettings(lr=args.lr, steps=args.steps, warmup=100),
    )
    task = NeedleTask(tokenizer, backgrounds(settings, tokenizer)[0], seed=args.seed)

    def make(step: int, number: int) -> dict[str, Any]:
        stage = STAGES[number]
        tokens = stage.segments * stage.size
        texts = min(256, max(16, args.most // tokens))
        within = None if stage.anywhere else stage.size
        batch: dict[str, Any] = task.batch(step, texts, tokens, stage.pairs, within)
        return batch | {"segment_size": stage.size, "logits_to_keep": 2}

    curriculum = Curriculum(len(STAGES), 0.9, mix=0.2, window=10, seed=args.seed)
    trainer = CurriculumTrainer(
        batches=NumberedBatches(make, curriculum),
        accuracy=accuracy,
        model=build(args, tokenizer),
        args=arguments(settings, args.output),
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(args.output))
    save(trainer.model, tokenizer, args.output / "model")
    print(f"The model is in {args.output / 'model'}")


if __name__ == "__main__":
    main()
