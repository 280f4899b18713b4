"""Models behind ``evals.model.Model``: those of Hugging Face, and the baselines that a memory is compared with.

``CausalModel`` keeps all of a document, a window, or its end; ``Truncated`` shows any model the end of a document;
``Retrieval`` shows it the chunks that are nearest to a question. Nothing heavy is imported before one is named.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evals.models.embedding import Embedder
    from evals.models.hugging_face import CausalModel
    from evals.models.retrieval import Retrieval
    from evals.models.truncated import Truncated

_WHERE = {
    "CausalModel": "evals.models.hugging_face",
    "Embedder": "evals.models.embedding",
    "Retrieval": "evals.models.retrieval",
    "Truncated": "evals.models.truncated",
}

__all__ = ["CausalModel", "Embedder", "Retrieval", "Truncated"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
