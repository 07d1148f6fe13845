"""``smart-rag``: the program and the list of its commands.

Exit codes: 0 success; 1 an error of the user, explained in one line; 2 wrong usage; 3 a training gained nothing and
saved nothing; 130 interrupted with Ctrl-C.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from smart_rag._version import __version__
from smart_rag.cli import measure, read, train, upkeep, write
from smart_rag.cli.console import err, on_terminal, out
from smart_rag.cli.serve import inspect, mcp, serve
from smart_rag.errors import SmartRagError

# Commands that go on where an interrupted run stopped.
_RESUMABLE = ("index", "backfill", "compact", "convert")


class _Commands(TyperGroup):
    """The group of commands. After Ctrl-C, it prints a message. Without this class, typer would exit silently."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            advice = "; finished work is kept, run the same command again to continue"
            err.print(
                "\ninterrupted"
                + (advice if ctx.invoked_subcommand in ("index", "backfill", "compact", "convert") else "")
            )
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "index": write.index,
    "search": read.search,
    "ask": read.ask,
    "serve": serve,
    "inspect": inspect,
    "mcp": mcp,
    "eval": measure.evaluate,
    "compare": measure.compare,
    "tune": measure.tune,
    "info": read.info,
    "sources": write.sources,
    "delete": write.delete,
    "verify": upkeep.verify,
    "vacuum": upkeep.vacuum,
    "compact": upkeep.compact,
    "convert": upkeep.convert,
    "backup": upkeep.backup,
    "restore": upkeep.restore,
    "backfill": upkeep.backfill,
    "demo": measure.demo,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)
app.add_typer(train.app, name="train")


def main() -> None:
    """Run the command line."""
    try:
        app()
    except SmartRagError as error:
        err.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        raise SystemExit(1) from None


def _print_version(value: bool) -> None:
    if value:
        out.print(f"smart-rag {__version__}")
        raise typer.Exit


@app.callback()
def _configure(
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="Log the steps and the device. Give it before the command: smart-rag -v search ...",
        ),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Better retrieval from the embedding model you already have."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("smart_rag").setLevel(logging.INFO if verbose else logging.WARNING)
    if not on_terminal():  # without a progress bar, a line shows the progress from time to time
        logging.getLogger("smart_rag.progress").setLevel(logging.INFO)
