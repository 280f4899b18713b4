"""What every test runs under: no network, one thread, fixed seeds, and shapes checked at run time.

Shape annotations of the four packages are checked here and nowhere else: an import hook puts jaxtyping with
beartype around every function and dataclass before the packages are first imported. The packages
themselves carry annotations only.
"""

from __future__ import annotations

import os

# Before anything reads them: Hugging Face libraries and OpenMP look at these at import time.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
for _threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_threads] = "1"

import random
import sys
from pathlib import Path

import hypothesis
import pytest
from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("rmt", "efficiency", "multimodal", "evals")
# A Hugging Face config takes keywords beyond its dataclass fields, which the check of a dataclass's signature
# would refuse, accelerate builds model outputs from a dictionary, and TorchScript compiles functions from their source.
# Triton does so too. They live in modules of their own.
UNCHECKED = {
    "rmt.config",
    "multimodal.config",
    "rmt.models.outputs",
    "rmt.executors.scripted",
    "efficiency.int8.triton_kernels",
    "multimodal.adapter.rmt_config",
}
# With the numeric tower an int is accepted where a float is declared, as in PEP 484.
TYPECHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"


def checked_modules(root: Path = ROOT) -> list[str]:
    """Dotted names of all modules and subpackages of the four packages, less the unchecked.

    A subpackage that holds an unchecked module is listed module by module.
    """

    def inside(folder: Path, name: str) -> set[str]:
        found: set[str] = set()
        for entry in folder.iterdir():
            dotted = f"{name}.{entry.stem}"
            if (entry / "__init__.py").is_file():
                split = any(u.startswith(f"{dotted}.") for u in UNCHECKED)
                found |= inside(entry, dotted) if split else {dotted}
            elif entry.suffix == ".py" and entry.stem != "__init__":
                found.add(dotted)
        return found

    return sorted(set().union(*(inside(root / package, package) for package in PACKAGES)) - UNCHECKED)


_early = sorted(name for name in sys.modules if name.partition(".")[0] in PACKAGES)
assert not _early, f"imported before the shape checks were in place: {_early}"
install_import_hook(checked_modules(), TYPECHECKER)

# No deadline: a test must not fail because the machine is busy. Same examples in every run.
hypothesis.settings.register_profile("house", deadline=None, derandomize=True, max_examples=50, database=None)
hypothesis.settings.load_profile("house")


def pytest_configure(config: pytest.Config) -> None:
    """One compute thread per worker, so that workers do not fight for cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed Python, NumPy and torch before each test; returns the seed, to derive others from."""
    import numpy as np
    import torch

    value = 20220711
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002 - Hugging Face code draws from the global generator
    torch.manual_seed(value)
    return value


@pytest.fixture(scope="session")
def typechecker() -> str:
    """The type checker the import hook runs, for tests that install a hook of their own."""
    return TYPECHECKER


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT
