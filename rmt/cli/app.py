"""The ``rmt`` command: what commands there are, and what becomes of bad input; not what they do."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rmt.errors import InputError

# In the order of the help. Each is a module here with a function of that name, or an `app` of subcommands.
COMMANDS = ("demo", "train", "quantize", "read", "ask", "eval", "lm-eval", "report", "info")
_MODULES = {"eval": "evaluate", "lm-eval": "lm_eval"}  # `eval` is a builtin


class Commands(TyperGroup):
    """A group of commands that turns bad input into one line on standard error and exit code 2."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in our order, not groups behind commands."""
        return [name for name in COMMANDS if name in self.commands]

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            if ctx.params.get("debug"):
                raise
            typer.echo("rmt: " + " ".join(str(error).split()), err=True)
            raise typer.Exit(2) from error


def build() -> typer.Typer:
    """The command with all its subcommands."""
    # It tells every process, through PEFT, of a kernel of the hub that it would have liked.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    app = typer.Typer(
        cls=Commands,
        help="Read documents of any length into a small memory, and answer from it.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def common(
        debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
    ) -> None:
        """Read documents of any length into a small memory, and answer from it."""

    for name in COMMANDS:
        module = f"rmt.cli.{_MODULES.get(name, name)}"
        if importlib.util.find_spec(module) is None:
            continue
        part = importlib.import_module(module)
        if hasattr(part, "app"):
            app.add_typer(part.app, name=name)
        else:
            settings = getattr(part, "CONTEXT_SETTINGS", None)
            app.command(name, context_settings=settings)(getattr(part, name.replace("-", "_")))
    return app


app = build()
