"""The offline world at 10 times the size, trained in pieces: phases of ``scripts/train_album.py`` with more of all.

Called by ``gpu_images.py --train-album``. Each phase is a process of ``rmt train``, ended when time is up; the next
call goes on from its last checkpoint. Knows which phases are done from a file, nothing of what is in them.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from executors import Kept, say

import rmt
from rmt.errors import InputError

SCRIPTS = Path(__file__).resolve().parents[1]
CHOSEN = ("all", "long")  # the shorter of the recipe's two orders
# Behind the recipe's settings, so that these count. Rates are lower, as the model is wider; guesses, not tuned.
LARGE = ("model.hidden_size=384", "model.layers=8", "optim.batch_size=64", "save_every=50", "data.album=40000")
LARGER: dict[str, tuple[str, ...]] = {
    "all": ("optim.lr=1e-3", "optim.steps=1500", "optim.warmup=100"),
    "long": ("optim.lr=5e-4", "optim.steps=2500", "optim.warmup=100"),
}
TOYS = ("model.hidden_size=32", "model.layers=1", "optim.batch_size=2", "data.album=48", "save_every=1")
STEPS = {False: 6000, True: 2}  # of the tower; in a rehearsal
GRACE = 20.0  # seconds that a process is given to end


def recipe() -> ModuleType:
    """``scripts/train_album.py``, with its neighbours on the path while it is imported."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module("train_album")
    finally:
        sys.path.remove(str(SCRIPTS))


def settings(name: str, out: Path, text: str, before: str, small: bool) -> list[str]:
    """What ``rmt train`` is told in a phase.

    Args:
        name: of the phase.
        out: folder of all phases.
        text: around the pictures.
        before: the setting that names what it begins with.
        small: a rehearsal.
    """
    found = recipe()
    given = [f"output={out / name}", f"data.text={text}", f"data.cache={out / 'text'}", before]
    more = (*TOYS, "optim.steps=2") if small else (*LARGE, *LARGER[name])
    return [*given, *found.COMMON, *found.PHASES[name], *more]


def run(command: list[str], deadline: float) -> bool:
    """Whether a command of this Python came to its end in time; one that did not is ended.

    Raises:
        InputError: it failed.
    """
    root = str(Path(rmt.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    left = deadline - time.monotonic()
    if left <= 0:
        return False
    process = subprocess.Popen([sys.executable, *command], env={**os.environ, "PYTHONPATH": path})
    try:
        code = process.wait(left)
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if code:
        raise InputError(f"expected {' '.join(command[:4])} to end well, got exit code {code}; see what it said above")
    return True


def outcome(folder: Path) -> dict[str, Any]:
    """What the last checkpoint of a phase says: its step, and the stage and accuracy of its last entry."""
    files = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda f: int(f.parent.name.split("-")[1]))
    if not files:
        return {}
    state = json.loads(files[-1].read_text(encoding="utf-8"))
    last = next((e for e in reversed(state["log_history"]) if "accuracy" in e), {})
    return {"step": state["global_step"], **{k: last[k] for k in ("stage", "accuracy", "loss") if k in last}}


def train(out: Path, text: str, encoder: Path | None, small: bool, deadline: float) -> bool:
    """Train what is not trained yet, and print where it stands; whether all of it is done.

    Args:
        out: folder; a file and ``album`` within it.
        text: anything that ``rmt train`` reads.
        encoder: a vision tower; None to train one, which takes some minutes of the CPU and is not resumable.
        small: toys.
        deadline: of ``time.monotonic``.

    Raises:
        InputError: a phase that failed, or results of other settings.
    """
    album = out / "album"
    kept = Kept(out / "gpu_album.json", {"small": small, "text": text, "encoder": str(encoder or "")})
    phases = kept.data.setdefault("phases", {})
    tower = encoder or album / "encoder"
    finished = encoder is not None or tower.is_dir() or _tower(tower, STEPS[small], deadline)
    before = f"model.vision={tower}"
    for name in CHOSEN:
        known = phases.setdefault(name, {"seconds": 0.0, "done": False})
        if finished and not known["done"]:
            say(f"phase {name}")
            start = time.monotonic()
            command = ["-m", "rmt.cli", "train", *settings(name, album, text, before, small)]
            known["done"] = finished = run(command, deadline)
            known["seconds"] += time.monotonic() - start
            known |= outcome(album / name)
            kept.save()
        before = f"model.init={album / name / 'model'}"
    kept.save()
    print(report(phases))
    if finished:
        print(f"\nThe model is in {album / CHOSEN[-1] / 'model'}; score it by: rmt eval images --model FOLDER")
    return finished


def _tower(folder: Path, steps: int, deadline: float) -> bool:
    """A vision tower in this folder, which is there when it is whole."""
    beside = folder.with_name(f"{folder.name}.part")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not run([str(SCRIPTS / "album_encoder.py"), str(beside), "--steps", str(steps)], deadline):
        return False
    beside.rename(folder)
    return True


def report(phases: dict[str, Any]) -> str:
    """Where each phase stands."""
    rows = ["| phase | done | seconds | step | stage | accuracy |", "|" + "---|" * 6]
    for name, known in phases.items():
        told = [str(known.get(key, "")) for key in ("step", "stage", "accuracy")]
        rows.append(f"| {name} | {'yes' if known['done'] else 'no'} | {known['seconds']:,.0f} | {' | '.join(told)} |")
    return "\n".join(rows)
