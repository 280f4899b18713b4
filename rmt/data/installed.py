"""English that is already on the machine: the documentation carried by CPython and installed packages.

Knows Python source text and nothing of tokens or models. No package is imported: files are scanned for their
documentation strings, these are reduced to paragraphs of prose, and every paragraph is given once.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from importlib import metadata
from operator import itemgetter
from pathlib import Path

from rmt.data.prose import paragraphs
from rmt.errors import InputError

MIN_PROSE_CHARS = 200
"""A documentation string gives text only when this many characters of prose are left of it."""

# Vendored copies and tests repeat text or carry none; the standard library's folder has site-packages inside
# it.
_PACKAGES = {"site-packages", "dist-packages"}
_SKIPPED = frozenset(_PACKAGES | {"__pycache__", "test", "tests", "testing", "_vendor", "vendored", "_vendored"})
_RAW = ("r", "R")
_PREFIXES = ("", "u", "U", *_RAW)
_QUOTES = ('"""', "'''")


def installed_text(packages: Sequence[str] | None = None) -> Iterator[str]:
    """Prose of `pydoc_data` and of the docstrings of the standard library and of installed packages.

    Args:
        packages: names to limit the text to: import names (`torch`, `json`, `pydoc_data`), distribution names
            (`scikit-learn`) or `stdlib` for all of the standard library. None or empty takes everything.

    Yields:
        One string for each documentation string with at least `MIN_PROSE_CHARS` characters of prose; its
        paragraphs end in a blank line, so the strings joined with nothing between them read on. The order is
        fixed (standard library first, then by path) and no paragraph comes twice.

    Raises:
        InputError: a name is not installed, or it carries no Python source.
    """
    seen: set[bytes] = set()
    for path in _source_files(packages):
        for document in _documents(path):
            fresh = []
            for paragraph in paragraphs(document):
                digest = hashlib.blake2b(paragraph.encode("utf-8", "replace"), digest_size=12).digest()
                if digest not in seen:
                    seen.add(digest)
                    fresh.append(paragraph)
            if sum(map(len, fresh)) >= MIN_PROSE_CHARS:
                yield "\n\n".join(fresh) + "\n\n"


def docstrings(source: str) -> Iterator[str]:
    """Triple-quoted literals of Python source text that stand at the start of a line, in order.

    That is where docstrings stand, and the texts that C extensions pass to `add_newdoc`. Looking for quotes
    is several times as fast as `ast.parse` over a whole environment. A triple quote inside a comment or a
    plain string misleads it; what comes out then is code, which does not pass for prose. Literals shorter
    than `MIN_PROSE_CHARS` are left out.
    """
    position = 0
    opens = {quote: source.find(quote) for quote in _QUOTES}
    while opens := {quote: at for quote, at in opens.items() if at >= 0}:
        quote, opening = min(opens.items(), key=itemgetter(1))
        start = opening + 3
        end = source.find(quote, start)
        while end > 0 and source[end - 1] == "\\" and _is_escaped(source, end):
            end = source.find(quote, end + 1)
        if end < 0:
            return
        position = end + 3
        # Each kind of quote is looked for again only once the scan has passed it: one pass over the file.
        opens = {q: at if at >= position else source.find(q, position) for q, at in opens.items()}
        prefix = source[source.rfind("\n", 0, opening) + 1 : opening].strip()
        if end - start < MIN_PROSE_CHARS or prefix not in _PREFIXES:
            continue
        body = source[start:end]
        if "\\" not in body or prefix in _RAW:
            yield body
            continue
        if (value := _evaluated(f"{prefix}{quote}{body}{quote}")) is not None:
            yield value


def _evaluated(literal: str) -> str | None:
    """What Python reads in a literal; None for one that it refuses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "\\d" and the like, in code that is not ours
        try:
            value = ast.literal_eval(literal)
        except (SyntaxError, ValueError):
            return None
    return value if isinstance(value, str) else None


def _is_escaped(source: str, end: int) -> bool:
    """Whether an odd number of backslashes stands before `end`."""
    before = source[max(end - 64, 0) : end]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _documents(path: Path) -> Iterator[str]:
    try:
        source = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return  # a file in a legacy encoding, or a broken link: nothing to read here
    if path.name == "topics.py" and path.parent.name == "pydoc_data":
        yield from _topics(source)
    elif '"""' in source or "'''" in source:
        yield from docstrings(source)


def _topics(source: str) -> Iterator[str]:
    """The values of `topics = {...}`: chapters of the language reference, in the order of the file."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for value in node.value.values:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield value.value


def _roots() -> list[Path]:
    """Folders that hold the standard library and the installed packages, each once, existing ones only."""
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    unique = {Path(path).resolve(): None for path in paths if path}
    return [path for path in unique if path.is_dir()]


def _source_files(packages: Sequence[str] | None) -> Iterator[Path]:
    if not packages:
        for root in _roots():
            yield from _walk(root)
        return
    # Every name is resolved before the first file is read: a typing error shows at once.
    found = [path for name in packages for path in _locate(name)]
    for path in dict.fromkeys(found):
        yield from _walk(path) if path.is_dir() else iter((path,))


def _walk(folder: Path) -> Iterator[Path]:
    for name, folders, files in os.walk(folder):
        folders[:] = sorted(entry for entry in folders if entry not in _SKIPPED)
        yield from (Path(name, entry) for entry in sorted(files) if entry.endswith(".py"))


def _locate(name: str) -> list[Path]:
    roots = _roots()
    if name == "stdlib":
        return roots[:1]
    modules = [name]
    if not any(_module_paths(roots, name)):
        wanted = _normal(name)
        distributions = metadata.packages_distributions().items()
        modules = sorted(module for module, owners in distributions if wanted in map(_normal, owners))
    found = [path for module in modules for path in _module_paths(roots, module)]
    if not any(True for path in found for _ in (_walk(path) if path.is_dir() else (path,))):
        raise InputError(
            f"installed:{name}: expected an installed package with Python source, got none of that name; "
            "give an import name such as 'torch', a distribution name, or 'stdlib'"
        )
    return found


def _module_paths(roots: Sequence[Path], module: str) -> list[Path]:
    if not module.isidentifier():
        return []
    candidates = [root / entry for root in roots for entry in (module, f"{module}.py")]
    return [path for path in candidates if path.exists()]


def _normal(name: str) -> str:
    """A distribution name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
