"""Output of the benchmarks: a table, and a JSON file with the machine and the versions."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

_PACKAGES = ("smart-rag", "torch", "sentence-transformers", "chromadb", "lmdb", "numpy", "llama-index-core")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the minimum, the median and the maximum of ``values``."""
    return {"min": min(values), "median": median(values), "max": max(values)}


def publish(title: str, rows: Mapping[str, Mapping[str, float]], path: Path | None, **facts: Any) -> None:
    """Print ``rows`` as a table. With a ``path``, also write them as JSON with the ``facts`` of the run."""
    show(title, rows)
    if path is not None:
        write(path, title=title, rows=rows, **facts)


def show(
    title: str, rows: Mapping[str, Mapping[str, float]], columns: Sequence[str] = ("min", "median", "max")
) -> None:
    """Print ``rows`` as a table. A missing figure is a dash."""
    table = Table(title=title)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(_figure(row[column]) if column in row else "-" for column in columns))
    # Rich takes a pipe to be 80 columns wide.
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def write(path: Path, **facts: Any) -> None:
    """Write the ``facts`` of a run as JSON, with the date, the command, the machine and the versions."""
    run = {
        **facts,
        "date": date.today().isoformat(),
        "command": command(sys.argv),
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "versions": {package: importlib.metadata.version(package) for package in _PACKAGES},
    }
    path.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def command(arguments: Sequence[str]) -> str:
    """Return the command of a run without the folders of this machine.

    >>> command(["/home/me/benchmarks/query.py", "/data/cranfield", "--queries", "50", "--json", "out/q.json"])
    'python benchmarks/query.py cranfield --queries 50 --json q.json'
    """
    names = [Path(argument).name if "/" in argument else argument for argument in arguments]
    return " ".join(["python", f"benchmarks/{names[0]}", *names[1:]])


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
