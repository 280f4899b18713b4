"""The benchmark of building documents runs, and counts what it reads."""

from __future__ import annotations

import json

import numpy as np
import pytest


def test_a_quick_run(bench, capsys):
    documents = bench("documents")
    documents.main(["--quick", "--json", "--tasks", "qa1", "qa2:align=token"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["task"] for row in rows] == ["qa1", "qa2:align=token"]
    assert all(row["tokens"] == 10_000 and 0 < row["first"] <= row["seconds"] for row in rows)
    lines = documents.show(rows).splitlines()
    assert len({len(line) for line in lines}) == 1


def test_a_document_of_another_length_is_refused(bench):
    documents = bench("documents")

    class Short:
        length = 90

        def tokens(self, begin: int, end: int) -> np.ndarray:
            return np.zeros(end - begin, dtype=np.int64)

    class Task:
        name = "short"

        def documents(self, *_):
            yield Short()

    with pytest.raises(SystemExit, match="expected 100 tokens, got 90"):
        documents.build(Task(), documents.made_up(200), 100, 0)
    assert documents.build(Task(), documents.made_up(200), 90, 0)["seconds"] > 0
