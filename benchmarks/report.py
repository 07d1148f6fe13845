"""What every benchmark prints: a table for people, and JSON with the machine and the versions."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

_PACKAGES = ("smart-rag", "torch", "sentence-transformers", "chromadb", "lmdb", "numpy", "llama-index-core")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the least, the median and the greatest of ``values``."""
    return {"min": min(values), "median": median(values), "max": max(values)}


def publish(title: str, rows: Mapping[str, Mapping[str, float]], path: Path | None, **facts: Any) -> None:
    """Print ``rows`` as a table and, where a path is given, write them as JSON with the facts of the run."""
    table = Table(title=title)
    table.add_column("")
    for column in ("min", "median", "max"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[column]:.3g}" for column in ("min", "median", "max")))
    Console().print(table)
    if path is not None:
        machine = {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()}
        versions = {package: importlib.metadata.version(package) for package in _PACKAGES}
        record = {"title": title, "rows": rows, **facts, "machine": machine, "versions": versions}
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
