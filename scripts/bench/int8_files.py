"""What a model with 8-bit layers takes on disk, and at the peak of loading, beside the same model in 32 bit.

    python scripts/bench/int8_files.py            # hidden 1024, 6 layers; about a minute
    python scripts/bench/int8_files.py --quick

Each way of loading has a process of its own, on Linux. Its peak is the largest resident set from before loading until
every number of the model was read once (weights are mapped, and count only when they are read), less the resident set
before. ``dequantised`` loads in 8 bit and makes floating-point layers of it: what a loader would cost that does so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from efficiency.int8 import Int8Linear
from efficiency.int8.checkpoint import load, load_into, save
from efficiency.int8.files import sizes
from efficiency.surgery import replace_modules

WAYS = ("float32", "int8", "int8 into a module", "dequantised")


def build(hidden: int, layers: int) -> Any:
    """A LLaMA with fresh weights and a small vocabulary, so that linear layers are most of it."""
    fields = {"vocab_size": 64, "intermediate_size": 4 * hidden, "num_attention_heads": hidden // 64}
    return LlamaForCausalLM(LlamaConfig(hidden_size=hidden, num_hidden_layers=layers, **fields))


def quantise(model: nn.Module) -> None:
    """Linear layers but the head in 8 bit, without smoothing."""

    def choose(name: str, module: nn.Module) -> nn.Module | None:
        return Int8Linear.from_linear(module) if type(module) is nn.Linear and name != "lm_head" else None

    replace_modules(model, choose)


def read(way: str, folder: Path) -> Any:
    """The model, loaded this way."""
    if way == "float32":
        return AutoModelForCausalLM.from_pretrained(folder / "float32")
    if way == "int8 into a module":
        config = LlamaConfig.from_pretrained(folder / "int8")
        del config.quantization_config
        with torch.device("meta"):
            fresh = LlamaForCausalLM(config)
        return load_into(fresh, folder / "int8")
    model = load(folder / "int8")
    return model.dequantize() if way == "dequantised" else model


def resident(field: str) -> float:
    """``VmRSS`` or ``VmHWM`` of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def peak(way: str, folder: Path, warm: Path) -> float:
    """MiB at the peak of loading in this process, and of reading every number once."""
    read(way, warm)  # code and its tables are loaded by this
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmRSS")
    model = read(way, folder)
    for tensor in model.state_dict().values():
        tensor.count_nonzero() if tensor.dtype == torch.int8 else tensor.abs().max()
    return resident("VmHWM") - before


def both(folder: Path, hidden: int, layers: int) -> None:
    """Save the model in both formats."""
    model = build(hidden, layers)
    model.save_pretrained(folder / "float32")
    quantise(model)
    save(model, folder / "int8")


def measure(hidden: int, layers: int) -> dict[str, Any]:
    """Bytes on disk, and peaks in MiB by way of loading."""
    with tempfile.TemporaryDirectory() as made:
        folder, warm = Path(made) / "model", Path(made) / "warm"
        both(folder, hidden, layers)
        both(warm, 64, 1)
        disk = sizes(folder / "int8")
        peaks = {}
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "--warm", str(warm)]
            peaks[way] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    largest = 4 * hidden * 4 * hidden / 2**20
    return {
        "layers": disk.layers,
        "stored_mib": disk.stored / 2**20,
        "float32_mib": disk.float32 / 2**20,
        "ratio": disk.ratio,
        "largest_layer_mib": largest,
        "peak_mib": peaks,
    }


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--quick", action="store_true", help="2 layers")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--warm", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    logging.disable_progress_bar()
    if given.way:
        print(peak(given.way, given.folder, given.warm))
        return 0
    found = measure(given.hidden, 2 if given.quick else given.layers)
    if given.json:
        print(json.dumps(found))
        return 0
    print(f"{found['layers']} linear layers on disk: {found['stored_mib']:.1f} MiB in 8 bit,", end=" ")
    print(f"{found['float32_mib']:.1f} in 32 bit, ratio {found['ratio']:.3f}")
    print(f"the largest in 32 bit: {found['largest_layer_mib']:.1f} MiB")
    for way, mib in found["peak_mib"].items():
        print(f"{way:20} peak of loading {mib:8.1f} MiB, {mib - found['stored_mib']:+8.1f} over 8-bit layers")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
