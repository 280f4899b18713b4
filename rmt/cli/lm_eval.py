"""``rmt lm-eval``: EleutherAI's lm-eval with our models and our tasks. All arguments are its own."""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import evals.lm_eval.model
    import evals.tasks.base

# Everything behind the name of the command, --help too, is lm-eval's.
CONTEXT_SETTINGS = {"ignore_unknown_options": True, "help_option_names": []}
MODEL = "rmt"


def lm_eval(arguments: Annotated[list[str] | None, typer.Argument(help="Of lm-eval.")] = None) -> None:
    """Run lm-eval with our models and tasks; all arguments are its own.

    --model rmt --model_args pretrained=MODEL scores what `rmt eval` scores, of any length, without truncation.
    --tasks rmt_TASK_LENGTH are our tasks (rmt_qa1_4k, rmt_ruler-offline_16k, rmt_paper_*); --metadata documents=100,
    seed=0, text=installed: and bare=True (no words of the benchmark; so for our models) are their settings.

    \b
    Examples:
      rmt lm-eval --model rmt --model_args pretrained=llama-rmt --tasks rmt_paper_4k
      rmt lm-eval --model rmt --model_args pretrained=llama-rmt --tasks niah_single_1 --limit 8
      rmt lm-eval --help
    """
    from rmt.cli.common import raised_in
    from rmt.errors import InputError

    if find_spec("lm_eval") is None:
        raise InputError('lm-eval: expected the package lm_eval, got none; pip install "rmt-memory[lm-eval]"')
    try:
        with TemporaryDirectory(prefix="rmt-lm-eval-") as folder:
            run(list(arguments or []), Path(folder))
    except ValueError as error:
        if not raised_in(error).startswith("evals."):
            raise
        raise InputError(str(error)) from error


def run(arguments: list[str], folder: Path) -> None:
    """What lm-eval's own command does with these arguments, with our model type and the tasks that are asked for.

    Args:
        arguments: of lm-eval.
        folder: an empty one, for what lm-eval reads from files.
    """
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    from evals.lm_eval.model import register

    register(MODEL, load)
    setup_logging()
    sys.argv = ["lm-eval", *arguments]  # where its parser looks
    harness = HarnessCLI()
    chosen = harness.parse_args()
    if hasattr(chosen, "include_path"):
        _offer_tasks(chosen, folder / "tasks")
    if getattr(chosen, "command", None) == "run":
        _offer_tokenizer(chosen, folder / "tokenizer")
    harness.execute(chosen)


def load(
    pretrained: str | None = None,
    dtype: str = "auto",
    executor: str = "auto",
    baseline: str | None = None,
    device: str | None = None,
) -> evals.lm_eval.model.Loaded:
    """The model of ``--model rmt``; once for the same arguments.

    Args:
        pretrained, dtype, executor, baseline: see ``rmt.cli.scored.model``.
        device: lm-eval passes cuda:0 of itself; the model goes to the GPU where there is one.

    Raises:
        InputError: no such model, or another device.
    """
    import torch

    from rmt.errors import InputError

    if pretrained is None:
        raise InputError("model_args: expected pretrained=MODEL, got none; such as pretrained=llama-rmt")
    if torch.cuda.is_available() and device is not None and torch.device(device).type != "cuda":
        raise InputError(
            f"device: expected a GPU, where there is one, got {device}; set CUDA_VISIBLE_DEVICES= for none"
        )
    return _loaded(pretrained, dtype, executor, baseline)


@cache
def _loaded(pretrained: str, dtype: str, executor: str, baseline: str | None) -> evals.lm_eval.model.Loaded:
    from evals.lm_eval.model import Loaded
    from rmt.cli import scored
    from rmt.cli.recurrent import Recalled, RecurrentModel

    model = scored.model(pretrained, dtype, executor, baseline)
    below: Any = scored.innermost(model)
    extend = None
    if isinstance(model, RecurrentModel):
        reader: Any = model.reader

        def extend(state: Any, ids: Any) -> Any:
            return Recalled(reader.read(ids, memory=state.memory, progress=False))

    return Loaded(model, getattr(below, "reader", below).tokenizer, extend)


def source(
    tokenizer: str | None = None,
    pretrained: str | None = None,
    text: str = "installed:",
    seed: int = 0,
    bare: bool = False,
    **_: Any,
) -> evals.tasks.base.Source:
    """What the documents of our tasks are made of; called by lm-eval with ``--metadata`` and ``--model_args``.

    Args:
        tokenizer, pretrained: a folder or a name of the hub with the tokenizer; the first one counts.
        text: to hide facts in; anything that ``rmt read`` takes.
        seed: other documents for another one.
        bare: without the benchmarks' instructions and examples.

    Raises:
        InputError: no tokenizer, or no such text.
    """
    from transformers import AutoTokenizer

    from evals.tasks.base import Source
    from rmt.errors import InputError
    from rmt.models.building import load as from_pretrained

    name = tokenizer or pretrained
    if name is None:
        raise InputError("metadata: expected tokenizer=FOLDER to count tokens with, got none; add it to --metadata")
    words: Any = from_pretrained(AutoTokenizer.from_pretrained, name)
    background = _background(name, text)

    def encode(said: str) -> Any:
        import numpy as np

        return np.asarray(words(said, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int64)

    def decode(ids: Any) -> str:
        return str(words.decode([int(i) for i in ids]))

    return Source(encode, decode, background, background.digest, int(seed), bool(bare))


@cache
def _background(tokenizer: str, text: str) -> Any:
    """The tokens of a text. Their file has no name any more, and is gone when this process ends."""
    from transformers import AutoTokenizer

    from rmt.data.sources import iter_text
    from rmt.data.tokens import TokenFile

    words = AutoTokenizer.from_pretrained(tokenizer)
    with TemporaryDirectory(prefix="rmt-text-") as folder:
        return TokenFile.build(iter_text(text), words, Path(folder) / "text.tokens", source=text)


def _offer_tasks(chosen: Any, folder: Path) -> None:
    """Let lm-eval find the tasks of ours that it is asked for; all of them where it lists what there is."""
    from evals.lm_eval.names import known, wanted, write

    asked = _setting(chosen, "tasks") or []
    asked = asked.split(",") if isinstance(asked, str) else [name for part in asked for name in part.split(",")]
    names = known("4k") if chosen.command == "ls" else wanted(asked)
    if names:
        folder.mkdir()
        write(folder, names, f"{__name__}.source")
        own = _setting(chosen, "include_path")
        chosen.include_path = [str(folder), *([own] if own else [])]


def _offer_tokenizer(chosen: Any, folder: Path) -> None:
    """Tell tasks that count tokens, lm-eval's RULER and ours, the tokenizer of our model: in a folder of its own.

    Where it is one of ours, and so was trained to answer, prompts are bare unless told otherwise, as in ``rmt eval``.
    """
    from rmt.cli.scored import is_ours

    if _setting(chosen, "model") != MODEL:
        return
    known = ("pretrained", "dtype", "executor", "baseline")
    arguments = _setting(chosen, "model_args") or {}
    loaded = load(**{key: value for key, value in arguments.items() if key in known})
    loaded.tokenizer.save_pretrained(folder)
    given = dict(_setting(chosen, "metadata") or {})
    chosen.metadata = {"tokenizer": str(folder), "bare": is_ours(loaded.model)} | given


def _setting(chosen: Any, name: str) -> Any:
    """An argument as it was given, or as lm-eval's ``--config`` file has it."""
    from lm_eval.config.evaluate_config import EvaluatorConfig
    from lm_eval.utils import simple_parse_args_string

    value = getattr(chosen, name, None)
    if value is None and getattr(chosen, "config", None):
        value = EvaluatorConfig.load_yaml_config(chosen.config).get(name)
    if name in ("model_args", "metadata") and isinstance(value, str):
        value = simple_parse_args_string(value)
    return value
