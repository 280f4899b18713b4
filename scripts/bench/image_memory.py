"""Peak resident memory and speed of reading documents with images, over their length.

    python scripts/bench/image_memory.py                      # 64k, 256k and 1M tokens; some minutes
    python scripts/bench/image_memory.py --small              # seconds; figures of no worth
    python scripts/bench/image_memory.py --model FOLDER --lengths 64k,1M

Documents are those of the image needle: real text that is never tiled, one framed digit, and other pictures and
sentences around it. Each is read in a process of its own, drawing and encoding of its images included; beside it the
same length is read with that one picture alone, which says what images cost. To be expected: a peak that soon does not
depend on the length (ratio at most 1.1), and with 4 images of 16 tokens a thousand tokens some 0.8 of the speed
of text.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from peak import file_bytes, peak_mb, reset_peak

from rmt.cli.common import parse_lengths
from rmt.errors import InputError

SHUT = -8.0  # a slot gate of sigmoid(-8) = 0.0003: how a trained model reads what it is not asked to keep
CHARACTERS = 8  # of a token, at most, on average
FULL, SMALL = "64k,256k,1M", "500,2k"


def fresh(segment_size: int) -> tuple[Any, Any]:
    """A model of the bundled one's shape with random weights, and its processor; an image is 16 tokens."""
    import torch
    from transformers import (
        AutoTokenizer,
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    from multimodal import LlavaRMT
    from rmt.pretrained import of_minilm

    torch.manual_seed(0)
    tokenizer = of_minilm(AutoTokenizer.from_pretrained)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    shape: dict[str, Any] = {"num_hidden_layers": 4, "num_attention_heads": 4}
    vision = CLIPVisionConfig(hidden_size=96, intermediate_size=384, image_size=32, patch_size=8, **shape)
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=352, num_key_value_heads=4,
        max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, pad_token_id=0,
        **shape,
    )  # fmt: skip
    token = tokenizer.convert_tokens_to_ids("<image>")
    llava = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=token, image_seq_length=16)
    )
    model = LlavaRMT.from_backbone(
        llava.eval(), segment_size=segment_size, num_memory_tokens=16, memory_update="gated", gate_threshold=0.6
    )
    assert model.cell.slot_gate is not None
    torch.nn.init.constant_(model.cell.slot_gate.bias, SHUT)
    size = {"height": 32, "width": 32}
    images = CLIPImageProcessor(size=size, crop_size=size)
    return model, LlavaProcessor(images, tokenizer, patch_size=8, vision_feature_select_strategy="default")


def reader(args: argparse.Namespace) -> Any:
    """What reads: of a folder, or of a fresh model."""
    if args.model != "fresh":
        from rmt.cli import models

        return models.reader(args.model, args.dtype, args.executor)
    from multimodal.reader import AlbumReader

    model, processor = fresh(args.segment_size)
    return AlbumReader(model, processor, dtype=args.dtype, executor=args.executor)


def read_one(args: argparse.Namespace) -> dict[str, Any]:
    """Read one document in this process.

    Returns:
        ``reading_mb``, the peak while reading, all that is resident counted; tokens, images and seconds.
    """
    from evals.tasks.images.needle import ImageNeedle
    from rmt.cli import scored
    from rmt.cli.pictured import PicturedModel
    from rmt.data import TokenFile

    model = PicturedModel(reader(args))
    with TokenFile.open(args.tokens, model.reader.tokenizer) as background:
        source = scored.source(model, background, 0, True)
        task = ImageNeedle(distractors=args.rate, sentences=args.rate, depths=1)
        (warm,) = task.documents(source, min(args.length, 1_000), 1)
        model.reader.read_tokens(warm)
        (document,) = task.documents(source, args.length, 1, first=1)
        reset = reset_peak()
        began, busy = time.perf_counter(), time.process_time()
        memory = model.reader.read_tokens(document)
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
    return {
        "length": memory.meta.tokens_read,
        "images": int(memory.meta.extra["images"]),
        "reading_mb": peak_mb(),
        "peak_was_reset": reset,
        "seconds": seconds,
        "cpu_seconds": busy,
        "memory_bytes": file_bytes(memory),
        "executor": model.reader.executor.name,
    }


def measured(args: argparse.Namespace, tokens: Path, length: int, rate: float) -> dict[str, Any]:
    """A document read in a process of its own.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    options = ["--model", args.model, "--segment-size", str(args.segment_size), "--dtype", args.dtype]
    options += ["--executor", args.executor, "--tokens", str(tokens), "--length", str(length), "--rate", str(rate)]
    command = [sys.executable, __file__, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{length:,} tokens: reading failed: {done.stderr.strip()[-2000:]}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def some(text: Iterable[str], characters: int) -> Iterator[str]:
    """The pieces of a text up to so many characters."""
    for piece in text:
        if characters <= 0:
            return
        yield piece[:characters]
        characters -= len(piece)


def measure(args: argparse.Namespace, lengths: Sequence[int]) -> dict[str, Any]:
    """Every length with images and, but for one, without."""
    from rmt.data import TokenFile, iter_text

    rows = []
    with tempfile.TemporaryDirectory(prefix="rmt-bench-") as folder:
        path = Path(folder) / "text.tokens"
        text = some(iter_text(args.text), CHARACTERS * max(lengths))
        with contextlib.closing(TokenFile.build(text, reader(args).tokenizer, path)) as tokens:
            if len(tokens) < max(lengths):
                raise InputError(
                    f"--text: expected {max(lengths):,} tokens in {args.text}, got {len(tokens):,}; give more text"
                )
        for length in sorted(lengths):
            print(f"{length:,} tokens", file=sys.stderr, flush=True)
            row, text = (measured(args, path, length, rate) for rate in (args.rate, 0.0))
            rows.append({**row, "text_seconds": text["seconds"], "text_cpu_seconds": text["cpu_seconds"]})
    ratio = rows[-1]["reading_mb"] / rows[0]["reading_mb"]
    return {"rate": args.rate, "model": args.model, "segment_size": args.segment_size, "ratio": ratio, "rows": rows}


def show(result: dict[str, Any]) -> str:
    """As a table."""
    lines = [
        f"{'':>42}{'tokens a second':^28}{'a CPU second':^24}",
        "   tokens   images   peak MB   images/s   with images   text alone   with images   text alone",
    ]
    for row in result["rows"]:
        length = row["length"]
        speeds = [length / row[key] for key in ("seconds", "text_seconds", "cpu_seconds", "text_cpu_seconds")]
        lines.append(
            f"{length:>9,}{row['images']:>9,}{row['reading_mb']:>10,.1f}{row['images'] / row['seconds']:>11,.1f}"
            + "".join(f"{speed:>{width},.0f}" for speed, width in zip(speeds, (14, 13, 14, 13), strict=True))
        )
    lines.append(f"peak of the longest over that of the shortest: {result['ratio']:.3f}")
    return "\n".join(lines)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Arguments; ``--length`` and ``--tokens`` make it one document of this process."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--small", action="store_true", help="seconds instead of minutes, figures of no worth")
    made.add_argument("--lengths", default="", help=f"tokens of the documents; {FULL}")
    made.add_argument("--rate", type=float, default=4.0, help="images and misleading sentences, a thousand tokens")
    made.add_argument("--text", default="installed:", help="anything that `rmt read` takes")
    made.add_argument("--model", default="fresh", help="fresh (random weights), a bundled model or a folder")
    made.add_argument("--segment-size", type=int, default=128, help="tokens, of a fresh model")
    made.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    made.add_argument("--executor", default="auto", help="auto, or one of rmt.executors.EXECUTORS")
    made.add_argument("--out", type=Path, default=Path("out/bench"), help="folder for image_memory.json")
    made.add_argument("--length", type=int, help=argparse.SUPPRESS)
    made.add_argument("--tokens", type=Path, help=argparse.SUPPRESS)
    return made.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and keep; the exit code."""
    args = parse(argv)
    try:
        if args.length is not None:
            print(json.dumps(read_one(args)))
            return 0
        result = measure(args, parse_lengths(args.lengths or (SMALL if args.small else FULL)))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "image_memory.json"
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    os.replace(beside, path)
    print(show(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
