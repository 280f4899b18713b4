"""Each document of many requests read once, and the last states kept. Knows nothing of lm-eval."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Generic

from evals.lm_eval.texts import Split
from evals.model import Document, Model, State


class States(Generic[State]):
    """Reads documents into states.

    Args:
        model: who reads.
        together: documents of one length that are read in one call.
        keep: states kept for later calls, the last ones used.
    """

    def __init__(self, model: Model[State], together: int = 1, keep: int = 4) -> None:
        self.model = model
        self.together = together
        self.keep = keep
        self._kept: OrderedDict[bytes, State] = OrderedDict()

    def of(self, splits: Sequence[Split]) -> Iterator[tuple[State, list[int]]]:
        """Each different document's state, with the places of the splits that begin with it; the longest first."""
        places: dict[bytes, list[int]] = {}
        for place, part in enumerate(splits):
            places.setdefault(part.key, []).append(place)
        documents = {key: splits[found[0]].document for key, found in places.items()}
        longest = sorted(documents, key=lambda key: -documents[key].length)
        for _, alike in groupby(longest, key=lambda key: documents[key].length):
            keys = list(alike)
            for start in range(0, len(keys), self.together):
                for key, state in self._read({k: documents[k] for k in keys[start : start + self.together]}):
                    yield state, places[key]

    def _read(self, documents: dict[bytes, Document]) -> list[tuple[bytes, State]]:
        found = {key: self._kept[key] for key in documents if key in self._kept}
        missing = [key for key, document in documents.items() if key not in found and document.length]
        if missing:
            found.update(zip(missing, self.model.read([documents[key] for key in missing]), strict=True))
        for key, state in found.items():
            self._kept[key] = state
            self._kept.move_to_end(key)
        while len(self._kept) > self.keep:
            self._kept.popitem(last=False)
        return [(key, found[key] if key in found else self.model.initial()) for key in documents]
