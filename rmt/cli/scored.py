"""What an evaluation may score, by a spec in one line: our models, those of Hugging Face, and baselines over either.

minilm-rmt                               a bundled model, or a folder of ours
hf:/path/model,window=sliding,size=2048  a causal language model; the folder alone will do where it is not ours
truncate:minilm-rmt,size=512             the same model, shown the last 512 tokens only
retrieval:minilm-rmt,k=5,chunk=128       the same model, shown the chunks that are nearest to the question
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt.errors import InputError

if TYPE_CHECKING:
    import evals.model
    import evals.tasks.base
    import rmt.data

SCORED_HELP = (
    "A bundled model, a folder, hf:FOLDER[,window=sliding,size=2048], truncate:MODEL,size=512 or "
    "retrieval:MODEL[,k=5,chunk=128]."
)
# What each kind takes, and as what; those of truncate and retrieval go before those of the model inside.
OPTIONS: dict[str, dict[str, type]] = {
    "truncate": {"size": int, "keep": str},
    "retrieval": {"k": int, "chunk": int, "overlap": int, "neighbours": int, "query": int},
    "hf": {"window": str, "size": int, "keep": str},
}


def model(
    name: str, dtype: str = "auto", executor: str = "auto", baseline: str | None = None
) -> evals.model.Model[Any]:
    """A model to score.

    Args:
        name: a spec; see above.
        dtype: of the model: auto, float32, bfloat16 or float16.
        executor: how a model of ours reads.
        baseline: shows the model less: ``truncate,size=512`` is what ``truncate:NAME,size=512`` is to NAME.

    Raises:
        InputError: a spec that is wrong, no such model, or a dtype or executor that does not suit it.
    """
    if baseline is not None:
        kind, _, settings = baseline.partition(",")
        if kind not in ("truncate", "retrieval"):
            raise InputError(f"baseline: expected truncate or retrieval, got {kind!r}; such as truncate,size=512")
        inside, _, rest = name.partition(",")
        name = f"{kind}:{inside},{settings},{rest}"
    kind, colon, behind = name.partition(":")
    if not colon or kind not in OPTIONS:
        return _plain(name, dtype, executor)
    inner, *parts = [part.strip() for part in behind.split(",")]
    if not inner:
        raise InputError(f"{name}: expected a model behind {kind}:, got none; such as {kind}:minilm-rmt")
    own, others = _options(name, kind, parts)
    try:
        if kind == "hf":
            return _hugging_face(inner, dtype, own)
        below = model(",".join([inner, *others]), dtype, executor)
        return _truncated(name, below, own) if kind == "truncate" else _retrieval(below, own)
    except InputError:
        raise
    except ValueError as error:  # of evals, which knows no error of ours
        raise InputError(f"{name}: {error}") from error


def _options(name: str, kind: str, parts: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Settings of this kind, and what is left for the model inside."""
    own: dict[str, Any] = {}
    others = []
    for part in filter(None, parts):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        known = OPTIONS[kind] if kind == "hf" else {key for options in OPTIONS.values() for key in options}
        if not equals or key not in known or (kind == "hf" and key in own):
            raise InputError(
                f"{name}: expected settings out of {', '.join(OPTIONS[kind])}, got {part!r}; "
                "write each once, as name=value"
            )
        if key not in OPTIONS[kind] or key in own:
            others.append(part)
            continue
        try:
            own[key] = OPTIONS[kind][key](value)
        except ValueError:
            raise InputError(f"{name}: expected a number for {key}, got {value!r}; such as {key}=128") from None
    return own, others


def _plain(name: str, dtype: str, executor: str) -> evals.model.Model[Any]:
    """A model of ours, or a folder of Hugging Face's."""
    from rmt.cli import models
    from rmt.cli.recurrent import RecurrentModel

    path, *options = name.split(",")
    if any(filter(None, options)):
        raise InputError(f"{path}: expected no settings of a model that reads as it does, got {options[0]!r}; leave it")
    if _is_foreign(Path(path).expanduser()):
        return _hugging_face(path, dtype, {})
    reader: Any = models.reader(path, dtype, executor)
    if hasattr(reader.model.config, "image_token_id"):
        from rmt.cli.pictured import PicturedModel

        return PicturedModel(reader, path)
    return RecurrentModel(reader, path)


def _is_foreign(folder: Path) -> bool:
    """Whether a folder holds a causal language model that is not ours."""
    import json

    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or [""]
    except (OSError, ValueError, AttributeError):
        return False
    return not str(kind[0]).startswith("RMT") and str(kind[0]).endswith(("ForCausalLM", "LMHeadModel"))


def _hugging_face(name: str, dtype: str, own: dict[str, Any]) -> evals.model.Model[Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from evals.models import CausalModel
    from rmt.cli.models import quiet
    from rmt.executors.precision import as_dtype
    from rmt.models.building import load

    quiet()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    loaded = load(AutoModelForCausalLM.from_pretrained, folder, dtype=as_dtype(dtype, device))
    tokenizer = load(AutoTokenizer.from_pretrained, folder)
    made: Any = CausalModel(loaded.to(device), tokenizer, **own, name=Path(folder).name)
    return made  # type: ignore[no-any-return]


def _truncated(name: str, inner: evals.model.Model[Any], own: dict[str, Any]) -> evals.model.Model[Any]:
    from evals.models import Truncated

    if "size" not in own:
        raise InputError(f"{name}: expected the tokens to keep, got none; add size=512")
    return Truncated(inner, **own)


def _retrieval(inner: evals.model.Model[Any], own: dict[str, Any]) -> evals.model.Model[Any]:
    import torch
    from transformers import AutoModel, AutoTokenizer

    from evals.models import Embedder, Retrieval
    from rmt.executors.precision import auto_dtype
    from rmt.pretrained import of_minilm

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    how = {"dtype": auto_dtype(device), "add_pooling_layer": False}
    if device.type == "cpu":
        how["attn_implementation"] = "eager"  # the faster one there
    embedder = Embedder(
        of_minilm(AutoModel.from_pretrained, **how).to(device), of_minilm(AutoTokenizer.from_pretrained)
    )
    same = tokenizer(inner).get_vocab() == embedder.tokenizer.get_vocab()
    return Retrieval(inner, embedder, same_tokens=same, **own)


def tokenizer(scored: Any) -> Any:
    """The tokenizer of a model that :func:`model` made."""
    inside = innermost(scored)
    return getattr(inside, "reader", inside).tokenizer


def sees(scored: Any) -> bool:
    """Whether a model reads documents with images; truncation and retrieval show text alone."""
    return hasattr(scored, "tokens_per_image")


def check_sight(scored: Any, tasks: Sequence[evals.tasks.base.Task], name: str) -> None:
    """Refuse tasks with images for a model that does not see.

    Raises:
        InputError: with their names.
    """
    seen = [task.name for task in tasks if type(task).__module__.startswith("evals.tasks.images.")]
    if seen and not sees(scored):
        raise InputError(
            f"--model: expected a model that sees, for {', '.join(seen)}, got {name}, which reads text alone; give a "
            "folder of a LlavaRMT"
        )


def source(scored: Any, background: rmt.data.TokenFile, seed: int, bare: bool) -> evals.tasks.base.Source:
    """What documents are made of, with images where the model sees."""
    from evals.tasks.base import Source

    if not sees(scored):
        return Source(scored.encode, scored.decode, background, background.digest, seed, bare)
    from evals.tasks.images.documents import ImageSource

    return ImageSource(
        scored.encode,
        scored.decode,
        scored.words(background),
        background.digest,
        seed,
        bare,
        image_token=scored.image_token,
        tokens_per_image=scored.tokens_per_image,
        size=scored.image_size,
    )


def innermost(scored: Any) -> Any:
    """The model below truncation and retrieval."""
    while hasattr(scored, "inner"):
        scored = scored.inner
    return scored


def is_ours(scored: Any) -> bool:
    """Whether a recurrent model of ours answers in the end: trained to answer, not told to."""
    return hasattr(innermost(scored), "reader")
