"""Tests that skip where a package is missing run in every environment that the Makefile builds."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def installed() -> set[str]:
    """Names of what `make test` installs, as they are imported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    found = [*project["dependencies"], *extras["dev"], *extras["offline"]]
    return {re.split(r"[^\w.-]", line)[0].replace("-", "_").lower() for line in found}


def skipping(folder: Path) -> dict[str, list[str]]:
    """What tests are skipped without, and the files that say so."""
    found: dict[str, list[str]] = {}
    for path in folder.rglob("*.py"):
        for name in re.findall(r'importorskip\(\s*"(\w+)', path.read_text()):
            found.setdefault(name, []).append(path.name)
    return found


def test_what_tests_are_skipped_without_is_installed_for_them() -> None:
    missing = {name: files for name, files in skipping(ROOT / "tests").items() if name not in installed()}
    assert not missing, f"enter these in the dev group of pyproject.toml: {missing}"


def test_the_rule_can_fail(tmp_path: Path) -> None:
    call = "importor" + 'skip("nobody_has_this", exc_type=ImportError)'  # in two: this file is looked at, too
    (tmp_path / "test_a.py").write_text(f"x = pytest.{call}\n")
    assert skipping(tmp_path) == {"nobody_has_this": ["test_a.py"]}
    assert "nobody_has_this" not in installed()
