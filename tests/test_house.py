"""The rules of the house, and for each rule a proof that its check can fail."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError, install_import_hook

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("rmt", "efficiency", "multimodal", "evals")
FOLDERS = (*PACKAGES, "scripts", "tests")
MAX_LINES = 400


def read(name: str) -> str:
    """Text of a file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def python_files(root: Path) -> list[Path]:
    """Every source file of ours under the root of a repository."""
    return sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))


Run = subprocess.CompletedProcess[str]


def run_python(code: str, *args: str, path: Path = ROOT, env: dict[str, str] | None = None) -> Run:
    """Run `code` in a fresh interpreter that finds packages under `path` first."""
    full = {**os.environ, "PYTHONPATH": str(path), **(env or {})}
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, cwd=path, env=full, capture_output=True, text=True, check=False)


# Shapes are checked in tests -----------------------------------------------------------------------

SHAPED = """
from __future__ import annotations
from dataclasses import dataclass
from jaxtyping import Float
from torch import Tensor, nn

@dataclass(frozen=True)
class Value:
    tokens: Float[Tensor, "batch memory hidden"]

class Net(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Float[Tensor, "batch seq"], y: Float[Tensor, "batch seq"]) -> Float[Tensor, "batch"]:
        return (x + y).sum(1) * self.scale

def wrong_result(x: Float[Tensor, "batch seq"]) -> Float[Tensor, "batch"]:
    return x
"""


def test_shape_checks_catch_wrong_calls(tmp_path, monkeypatch, typechecker):
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("house_plain", "house_hooked"):
        (tmp_path / f"{name}.py").write_text(SHAPED)
    plain = importlib.import_module("house_plain")
    with install_import_hook("house_hooked", typechecker):
        hooked = importlib.import_module("house_hooked")

    two = torch.ones(2, 3)
    right = [
        lambda m: m.Net(2)(two, two),  # an int where a float is declared is no error
        lambda m: m.Value(torch.zeros(1, 2, 3)),
    ]
    wrong = [
        lambda m: m.Net(2)(two, torch.ones(2, 1)),  # broadcasts silently
        lambda m: m.Net(2)(two, two.long()),
        lambda m: m.Value(torch.zeros(2, 3)),
        lambda m: m.wrong_result(two),
    ]
    for call in right:
        call(hooked)
    for call in wrong:
        call(plain)  # the control: without the hook nothing is checked
        with pytest.raises(TypeCheckError):
            call(hooked)


def test_the_packages_are_under_the_hook():
    segments = importlib.import_module("rmt.segments")
    with pytest.raises(TypeCheckError):
        segments.split("not a tensor", None, 4)


def test_what_is_tested_is_what_lies_here():
    # A folder of tests that is a package is imported by its own name, `efficiency`, in place of the real one.
    assert list((ROOT / "tests").rglob("__init__.py")) == []
    for package in PACKAGES:
        assert Path(importlib.import_module(package).__file__).parent == ROOT / package


# Importing does nothing ----------------------------------------------------------------------------

IMPORT_PROBE = """
import json, os, random, signal, sys
import torch, transformers
from transformers import AutoConfig, PreTrainedModel  # what a package of ours may rely on

def state():
    return {
        "environment": dict(os.environ),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.get_default_device()),
        "grad": torch.is_grad_enabled(),
        "cuda": torch.cuda.is_initialized(),
        "random": hash((random.getstate(), tuple(torch.get_rng_state().tolist()))),
        "directory": os.getcwd(),
        "interrupt": repr(signal.getsignal(signal.SIGINT)),
    }

heavy = {"matplotlib", "datasets", "typer", "pypdf", "tensorboard"}
report = {}
for package in sys.argv[1:]:
    before, modules = state(), set(sys.modules)
    __import__(package)
    after, added = state(), {name.partition(".")[0] for name in set(sys.modules) - modules}
    report[package] = sorted(key for key in before if before[key] != after[key]) + sorted(added & heavy)
print(json.dumps(report))
"""


def test_import_does_nothing():
    result = run_python(IMPORT_PROBE, *PACKAGES)
    assert result.returncode == 0, result.stderr
    report = result.stdout.splitlines()
    assert len(report) == 1, "importing printed something"
    assert json.loads(report[0]) == {package: [] for package in PACKAGES}


def test_a_busy_import_is_noticed(tmp_path):
    (tmp_path / "busy.py").write_text(
        "import os, torch, pypdf\nos.environ['HOUSE'] = '1'\ntorch.manual_seed(1)\ntorch.set_num_threads(3)\n"
    )
    report = json.loads(run_python(IMPORT_PROBE, "busy", path=tmp_path).stdout)
    assert report == {"busy": ["environment", "random", "threads", "pypdf"]}


# Imports run one way -------------------------------------------------------------------------------

MODULES = ("rmt/core", "rmt/cli/commands", "efficiency/lora", "multimodal/llava", "evals/runner")


def lint_imports(root: Path, imports: dict[str, str]) -> Run:
    """Check a made-up project, with the given import statements per file, against our own contract."""
    ours = read("pyproject.toml")
    start = ours.index("[tool.importlinter]")
    (root / "pyproject.toml").write_text(ours[start : ours.index("[tool.pytest", start)])
    for name in (*MODULES, *(f"{package}/__init__" for package in (*PACKAGES, "rmt/cli"))):
        file = root / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(imports.get(f"{name}.py", "") + "\n")
    code = "from importlinter.cli import lint_imports_command as run; run(['--no-cache', '--no-logo'])"
    return run_python(code, path=root)


def test_contract_allows_what_the_design_allows(tmp_path):
    allowed = {
        "rmt/cli/commands.py": "import rmt.core, efficiency.lora, multimodal.llava, evals.runner",
        "multimodal/llava.py": "import rmt.core, efficiency.lora",
        "rmt/cli/__init__.py": "import rmt.cli.commands",
    }
    result = lint_imports(tmp_path, allowed)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("file", "imported"),
    [
        ("efficiency/lora.py", "rmt.core, evals.runner"),
        ("evals/runner.py", "rmt.core"),
        ("evals/runner.py", "efficiency.lora"),
        ("multimodal/llava.py", "evals.runner"),
        ("multimodal/llava.py", "rmt.cli.commands"),
        ("rmt/core.py", "efficiency.lora"),
        ("rmt/core.py", "rmt.cli.commands"),
        ("rmt/__init__.py", "multimodal.llava"),
    ],
)
def test_contract_forbids_the_other_way(tmp_path, file, imported):
    result = lint_imports(tmp_path, {file: f"def late():\n    import {imported}"})
    assert result.returncode == 1, result.stdout
    assert "BROKEN" in result.stdout


# Files ---------------------------------------------------------------------------------------------


def too_long(root: Path) -> list[str]:
    """Source files with more lines than the house allows."""
    files = {str(f.relative_to(root)): f.read_text(encoding="utf-8") for f in python_files(root)}
    return [name for name, source in files.items() if len(source.splitlines()) > MAX_LINES]


def without_init(root: Path) -> list[str]:
    """Folders inside the packages that hold Python files and would not be installed."""
    folders = {f.parent for f in python_files(root) if f.relative_to(root).parts[0] in PACKAGES}
    return sorted(str(f.relative_to(root)) for f in folders if not (f / "__init__.py").is_file())


def hiding(root: Path) -> list[str]:
    """Folders of tests that pytest would import under the name of a package, which then comes from elsewhere."""
    return [package for package in PACKAGES if (root / "tests" / package / "__init__.py").exists()]


PICKLERS = {"pickle", "cloudpickle", "dill", "joblib", "shelve"}


def unpickling(source: str) -> list[str]:
    """Expressions in a source file that could run code hidden in a data file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found += [name for name in names if name.partition(".")[0] in PICKLERS]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            found += [called] if called == "torch.load" else []
            found += [f"{called}(allow_pickle)" for k in node.keywords if k.arg == "allow_pickle"]
    return found


def test_files_are_short_and_folders_are_packages():
    assert python_files(ROOT)
    assert too_long(ROOT) == []
    assert without_init(ROOT) == []
    assert hiding(ROOT) == []


def test_nothing_unpickles():
    sources = [f for f in python_files(ROOT) if f.relative_to(ROOT).parts[0] != "tests"]
    assert sources
    assert {str(f): found for f in sources if (found := unpickling(f.read_text(encoding="utf-8")))} == {}


def test_file_checks_can_fail(tmp_path):
    (tmp_path / "rmt" / "deep").mkdir(parents=True)
    (tmp_path / "rmt" / "__init__.py").write_text("x = 1\n" * (MAX_LINES + 1))
    (tmp_path / "rmt" / "deep" / "a.py").write_text("x = 1\n" * MAX_LINES)
    assert too_long(tmp_path) == ["rmt/__init__.py"]
    assert without_init(tmp_path) == ["rmt/deep"]
    (tmp_path / "tests" / "rmt").mkdir(parents=True)
    assert hiding(tmp_path) == []
    (tmp_path / "tests" / "rmt" / "__init__.py").touch()
    assert hiding(tmp_path) == ["rmt"]
    bad = "import pickle\nfrom dill import load\ntorch.load(f)\nnp.load(f, allow_pickle=True)\nother.load(f)\n"
    assert sorted(unpickling(bad)) == ["dill", "np.load(allow_pickle)", "pickle", "torch.load"]


def test_versions_agree():
    version = re.escape(tomllib.loads(read("pyproject.toml"))["project"]["version"])
    assert re.search(rf"^version: {version}$", read("CITATION.cff"), re.M)
    assert re.search(rf"^## \[?{version}\b", read("CHANGELOG.md"), re.M)
    assert re.findall(r"torch==\S+", read("Makefile")) == re.findall(r"^torch==\S+$", read("constraints.txt"), re.M)


# Every command in the documents exists -------------------------------------------------------------

FENCE = re.compile(r"^[ \t]*```(sh|bash|shell|console)[ \t]*\n(.*?)^[ \t]*```", re.M | re.S)


def simple_commands(line: str) -> list[list[str]]:
    """Split a shell line at its operators; drop settings before a command, redirections and comments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    target_follows = False
    for word in lexer:
        if set(word) <= set("<>&") and set(word) & set("<>"):
            target_follows = True
            if found[-1] and found[-1][-1] in {"1", "2"}:
                found[-1].pop()
        elif set(word) <= set("&|;()"):
            found.append([])
        elif not target_follows and (found[-1] or not re.fullmatch(r"\w+=.*", word)):
            found[-1].append(word)
        else:
            target_follows = False
    return [words for words in found if words]


def commands(markdown: str) -> list[list[str]]:
    """Commands, as words, of the shell blocks in a document; what a console block prints is left out."""
    found: list[list[str]] = []
    for kind, block in FENCE.findall(markdown):
        for line in block.replace("\\\n", " ").splitlines():
            if kind != "console" or line.strip().startswith("$ "):
                found += simple_commands(line.strip().removeprefix("$ "))
    return found


HELP_PROBE = """
import contextlib, io, json, shlex, sys
from rmt.cli import main
pages = {}
for words in sys.argv[1:]:
    sys.argv, out, status = ["rmt", *shlex.split(words), "--help"], io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            status = main() or 0
        except SystemExit as end:
            status = end.code or 0
    pages[words] = (status, out.getvalue())
print(json.dumps(pages))
"""


def before_options(args: list[str]) -> str:
    """The words of a command of ours up to its first option: what `--help` is asked about."""
    first = next((i for i, word in enumerate(args) if word.startswith("-")), len(args))
    return shlex.join(args[:first])


def help_pages(asked: list[str]) -> dict[str, tuple[int, str]]:
    """Exit code and text of `rmt WORDS --help`."""
    wide = {"COLUMNS": "250", "TERMINAL_WIDTH": "250", "NO_COLOR": "1", "TERM": "dumb"}
    result = run_python(HELP_PROBE, *asked, env=wide)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def faults(words: list[str], targets: set[str], pages: dict[str, tuple[int, str]]) -> list[str]:
    """What a command of a document asks for and the repository does not have."""
    program, args = Path(words[0]).name, words[1:]
    if program == "make":
        wanted = {word for word in args if not word.startswith("-") and "=" not in word}
        return [f"no target {name}" for name in sorted(wanted - targets)]
    if program == "rmt":
        status, page = pages[before_options(args)]
        options = {word.partition("=")[0] for word in args if re.match(r"--\w", word)} - {"--help"}
        missing = [f"no {o}" for o in sorted(options) if not re.search(rf"{o}(?![\w-])", page)]
        return [f"no command {before_options(args)}"] if status else missing
    if program.startswith("python") and args and args[0].endswith(".py"):
        return [] if (ROOT / args[0]).is_file() else [f"no file {args[0]}"]
    return []


def make_targets() -> set[str]:
    """Targets of the Makefile that a person may type."""
    return set(re.findall(r"^([a-z][\w-]*):(?!=)", read("Makefile"), re.M))


def test_commands_are_read_from_documents():
    text = (
        "text `rmt nothing`\n```sh\n$ HF_HUB_OFFLINE=1 make demo 2>&1 > log.txt && rmt read a.txt \\\n"
        '  -o a.memory  # note\nrmt ask a.memory "who; when?" | less\n```\n'
        "```python\nrmt\n```\n```console\n$ make test\nmake output\n```\n"
    )
    assert commands(text) == [
        ["make", "demo"],
        ["rmt", "read", "a.txt", "-o", "a.memory"],
        ["rmt", "ask", "a.memory", "who; when?"],
        ["less"],
        ["make", "test"],
    ]


def test_faulty_commands_are_noticed():
    pages = {"": (0, ""), "read a": (0, "--output FILE --json"), "dance": (2, "no such command")}
    assert make_targets() >= {"demo", "test", "check", "bench", "train", "clean", "help"}
    assert faults(["make", "-j2", "demo", "X=1", "dance"], make_targets(), pages) == ["no target dance"]
    assert faults([".venv/bin/rmt", "dance"], set(), pages) == ["no command dance"]
    assert faults(["rmt", "read", "a", "--out", "b", "--json"], set(), pages) == ["no --out"]
    assert faults(["python", "scripts/none.py"], set(), pages) == ["no file scripts/none.py"]
    assert faults(["rmt", "--help"], set(), pages) == []


def test_every_command_in_the_documents_exists():
    readme = ROOT / "README.md"
    documents = [readme, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = {file.name: commands(file.read_text(encoding="utf-8")) for file in documents}
    assert found["README.md"], "the README shows no command"
    everything = [(name, words) for name, group in found.items() for words in group]
    asked = {before_options(words[1:]) for _, words in everything if Path(words[0]).name == "rmt"}
    pages, targets = help_pages(sorted(asked)) if asked else {}, make_targets()
    wrong = [(name, shlex.join(words), f) for name, words in everything for f in faults(words, targets, pages)]
    assert wrong == []
