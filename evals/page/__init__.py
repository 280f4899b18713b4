"""One self-contained HTML page of one or more runs: models side by side, each number linked to its answers.

    write(["out/minilm", "baseline=out/truncated"], "report.html")

The page asks the network for nothing, and its policy forbids it; the same input gives the same bytes. Jinja2 is
imported when a page is made.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Hashable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from evals.page.collect import Place, Run, collect

TITLE = "Evaluation report"

__all__ = ["TITLE", "Run", "collect", "page", "write"]


def page(runs: Sequence[Place], title: str = TITLE) -> str:
    """The page of these runs.

    Args:
        runs: folders that ``evals.run`` or ``rmt eval memory`` wrote, or files of rows; ``NAME=PATH`` names a model.
        title: of the page.

    Raises:
        ValueError: no runs, the same one twice, or one that holds no rows.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from evals.page import numbers, svg

    environment = Environment(
        loader=PackageLoader("evals.page"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["tokens"] = numbers.tokens
    environment.filters["short"] = numbers.short_count
    environment.filters["p"] = numbers.p_text
    environment.filters["signed"] = numbers.signed
    environment.filters["name"] = numbers.name_of
    environment.globals["marker"] = lambda number: Markup(svg.marker(number))
    style, script = (_asset(name) for name in ("style.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        title=title,
        style=Markup(style),
        script=Markup(script),
        script_hash=digest,
        svg=Markup,
        **_context(collect(runs)),
    )


def write(runs: Sequence[Place], path: str | os.PathLike[str], title: str = TITLE) -> Path:
    """Write the page to ``path``, beside and then renamed, and return the path. Raises as ``page``, and OSError."""
    text = page(runs, title)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        beside.write_text(text, encoding="utf-8", newline="\n")
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    return target


def _asset(name: str) -> str:
    return (files("evals.page") / "templates" / name).read_text(encoding="utf-8")


def _context(runs: Sequence[Run]) -> dict[str, Any]:
    """All that the templates show."""
    from evals.page import broken_down, families, figures, ruler, summary
    from evals.page.compare import compare
    from evals.page.numbers import Numbers
    from evals.page.samples import Samples, grouped

    tasks = list(dict.fromkeys(row.task for run in runs for row in run.rows))
    samples = Samples(runs, tasks)
    numbers = Numbers(runs, tasks, samples)
    comparisons, controls, costs = compare(runs), numbers.controls(), figures.costs(runs)
    lines = ruler.effective_lengths(runs)
    nats = [task for task in tasks if task in numbers.nats and numbers.lengths(task)]
    distances = figures.over_distance(numbers, samples, "distance")
    return {
        "runs": runs,
        "cards": summary.cards(runs, costs),
        "headline": summary.headline(runs, numbers),
        "findings": summary.findings(numbers, comparisons, controls),
        "results": numbers.results(numbers.rates),
        "nats": numbers.results(nats),
        "curves": [figures.over_length(numbers, task, f"curve-{i}") for i, task in enumerate(numbers.rates)],
        "nats_curves": [figures.over_length(numbers, task, f"nats-{i}") for i, task in enumerate(nats)],
        "families": families.families(numbers, samples, "size"),
        "breakdowns": broken_down.sheets(runs, "table"),
        "heat_maps": figures.heat_maps(numbers, samples, "heat"),
        "distances": distances,
        "comparisons": _by(comparisons, lambda one: (one.first, one.second)),
        "controls": _by(controls, lambda line: line.task),
        "costs": costs,
        "cost_figures": figures.cost_figures(runs, costs, "cost"),
        "ruler": lines,
        "ruler_line": ruler.LINE,
        "ruler_lengths": sorted({length for line in lines for length in line.averages}),
        "ruler_note": ruler.note(lines),
        "samples": grouped(samples.groups.values()),
    }


def _by(items: Sequence[Any], key: Callable[[Any], Hashable]) -> dict[Any, list[Any]]:
    """Items by key, both in order of appearance."""
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
