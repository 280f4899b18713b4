"""One process of a distributed training step; started by test_ddp.py, one for each rank.

    python ddp_worker.py FOLDER MEETING RANK WORLD

Trains each model in FOLDER on this rank's share of its batch, for each mode of the recurrence, and writes the
gradients to FOLDER/MODEL-MODE-RANK.safetensors. The processes find each other by the file FOLDER/MEETING.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

STUCK = 90  # seconds until a process that waits says for what, and gives up


def main(folder: Path, meeting: str, rank: int, world: int) -> None:
    """Take part in one step for each mode."""
    faulthandler.dump_traceback_later(STUCK, exit=True)
    from rmt import models

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/{meeting}", rank=rank, world_size=world)
    for made in sorted(path.parent for path in folder.glob("*/config.json")):
        kind = getattr(models, json.loads((made / "config.json").read_text())["architectures"][0])
        share = {k: v[rank::world] for k, v in load_file(made.with_name(f"{made.name}.safetensors")).items()}
        for mode in ("plain", "checkpointed"):
            model = kind.from_pretrained(made).train()
            model.config.recurrence = mode
            wrapped = DistributedDataParallel(model)
            for _ in range(2):  # a second step shows that the first left nothing half done
                model.zero_grad()
                wrapped(**share).loss.backward()
            grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            save_file(grads, folder / f"{made.name}-{mode}-{rank}.safetensors")
    distributed.barrier()  # one that leaves early can leave the other waiting for it
    distributed.destroy_process_group()
    sys.stderr.flush()
    os._exit(0)  # the files are written; threads of sockets must not hold up the interpreter's end


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
