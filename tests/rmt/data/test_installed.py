"""Text that Python and installed packages carry."""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from pathlib import Path

import pytest

from rmt.data import installed, installed_text
from rmt.data.installed import MIN_PROSE_CHARS, docstrings
from rmt.errors import InputError


def tree(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, source in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return tmp_path


def prose(subject: str) -> str:
    return (
        f"This is about {subject}, and it is what one would write about it if one were asked to. It goes on "
        f"for a while, so that there is enough of it to be taken for a text about {subject} and not for a "
        f"label or for the name of a thing."
    )


@pytest.fixture
def fake_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(installed, "_roots", lambda: [tmp_path])
    return tmp_path


def test_reads_as_english(corpus: list[str]) -> None:
    text = "".join(corpus)
    words = text.split()
    assert len(words) > 20_000
    assert sum(word == "the" for word in words) > 0.05 * len(words)
    assert ">>>" not in text
    assert "::" not in text
    letters = sum(character.isalpha() or character in " \n.,'" for character in text)
    assert letters > 0.93 * len(text)


def test_documents_are_long_enough_and_end_in_a_blank_line(corpus: list[str]) -> None:
    assert all(document.endswith(".\n\n") or document[-3] in "!?:\"')" for document in corpus)
    assert min(map(len, corpus)) >= MIN_PROSE_CHARS


def test_no_paragraph_comes_twice(corpus: list[str]) -> None:
    paragraphs = [paragraph for document in corpus for paragraph in document.split("\n\n") if paragraph]
    assert len(paragraphs) == len(set(paragraphs)) > 500


def test_order_is_fixed(corpus: list[str]) -> None:
    assert list(installed_text(["pydoc_data", "argparse", "logging", "unittest"])) == corpus


def test_nothing_is_imported() -> None:
    code = (
        "import sys\n"
        "from rmt.data import installed_text\n"
        "assert sum(map(len, installed_text(['turtle', 'xmlrpc']))) > 0\n"
        "sys.exit('turtle' in sys.modules or 'xmlrpc' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[3])


def test_order_skips_and_repeats(fake_root: Path) -> None:
    tree(
        fake_root,
        {
            "zoo.py": f'"""{prose("zebras")}"""',
            "ant/__init__.py": f'"""{prose("ants")}"""\ndef f():\n    r"""{prose("soldiers")}"""',
            "ant/tests/test_ant.py": f'"""{prose("tests")}"""',
            "bee/b.py": f'"""{prose("ants")}"""\nx = """{prose("values")}"""',
            "bee/c.py": '"""A short one about the bees that is not long enough."""',
            "bee/latin.py": "",
            "site-packages/inner.py": f'"""{prose("inner")}"""',
            "notes.txt": prose("notes"),
        },
    )
    (fake_root / "bee" / "latin.py").write_bytes(b'"""\xe9"""' + b'"""' + prose("latin").encode() + b'"""')
    assert list(installed_text()) == [prose(kind) + "\n\n" for kind in ("zebras", "ants", "soldiers")]
    assert list(installed_text(["ant"])) == [prose(kind) + "\n\n" for kind in ("ants", "soldiers")]
    assert list(installed_text(["zoo", "ant", "zoo"])) == list(installed_text(["zoo", "ant"]))


def test_topics_are_parsed(fake_root: Path) -> None:
    source = f"topics = {{'a': {prose('assertions')!r}, 'b': r'''{prose('books')}'''}}"
    tree(
        fake_root,
        {"pydoc_data/topics.py": source},
    )
    assert list(installed_text(["pydoc_data"])) == [prose("assertions") + "\n\n", prose("books") + "\n\n"]


def test_distribution_names_are_understood() -> None:
    by_distribution = installed_text(["PyYAML", "safetensors"])
    by_import = installed_text(["yaml", "_yaml", "safetensors"])
    assert next(by_distribution) == next(by_import)
    assert next(installed_text(["stdlib"])) == next(installed_text())


@pytest.mark.parametrize("name", ["no_such_package", "../secrets", "/etc", "a b"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="expected an installed package") as error:
        list(installed_text(["json", name]))
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_scan_finds_the_docstrings_that_parsing_finds() -> None:
    found = expected = 0
    for path in sorted(Path(argparse.__file__).parent.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        scanned = set(docstrings(source))
        nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        for node in ast.walk(ast.parse(source)):
            text = ast.get_docstring(node, clean=False) if isinstance(node, nodes) else None
            if text and len(text) >= 2 * MIN_PROSE_CHARS:
                expected += 1
                found += text in scanned
    assert expected > 300
    assert found >= 0.98 * expected


def test_scan_evaluates_escapes_as_python_does() -> None:
    long = "word " * 60
    source = "\n".join(
        [
            f'"""{long}\\n tab\\t quote \\""" end\\\\"""',
            f"def f():\n    r'''{long}\\n raw'''",
            f'value = """{long} assigned"""',
            f'    """{long} broken \\x"""',
            f'f("""{long} argument""")',
            f'    """{long} never closed',
        ]
    )
    assert list(docstrings(source)) == [f'{long}\n tab\t quote """ end\\', f"{long}\\n raw"]
