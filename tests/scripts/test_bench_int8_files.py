"""Loading 8-bit weights makes no copy of them in floating point, measured by the benchmark."""

from __future__ import annotations

import json
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_the_peak_of_loading_has_no_float_copy(bench, capsys, monkeypatch, root):
    monkeypatch.setenv("PYTHONPATH", str(root))
    assert bench("int8_files").main(["--quick", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ratio"] <= 0.30
    bound = found["stored_mib"] + found["largest_layer_mib"]
    peaks = found["peak_mib"]
    assert peaks["int8"] < bound
    assert peaks["int8 into a module"] < bound
    assert peaks["dequantised"] > found["float32_mib"] > bound  # so the measure would tell
    assert peaks["float32"] > found["float32_mib"]
