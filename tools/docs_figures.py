"""The page of measured figures, from the JSON files that the benchmarks write with ``--json``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_INTRODUCTION = """# Measured figures

Each table comes from a file in `benchmarks/results/`, which a script has written. Below it stand the command, the date
and the machine. Other pages have figures that were measured before these files existed; they name the script.

Compare figures only within one table. The systems of a table ran in turn, so that each had the same load.
"""


def figures_page(folder: Path) -> str:
    """Return the page, in Markdown, for the results in ``folder``."""
    return "\n".join([_INTRODUCTION, *(_section(path) for path in sorted(folder.glob("*.json")))])


def _section(path: Path) -> str:
    run = json.loads(path.read_text(encoding="utf-8"))
    machine, versions = run["machine"], run["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    facts = f"{run['date']}, {machine['system']} on {machine['processor']}, {machine['cores']} cores; {packages}"
    lines = [f"## {run['title']}", "", *_table(run["rows"]), ""]
    lines += [f"{run['note']}", ""] if "note" in run else []
    return "\n".join([*lines, f"    {run['command']}", "", f"{facts}.", ""])


def _table(rows: dict[str, dict[str, Any]]) -> Iterable[str]:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    yield f"| | {' | '.join(columns)} |"
    yield f"|---|{'---|' * len(columns)}"
    for name, row in rows.items():
        yield f"| {name} | {' | '.join(_figure(row.get(column)) for column in columns)} |"


def _figure(value: float | None) -> str:
    """Return ``value`` with four digits, or all digits before the point.

    >>> _figure(25484.2), _figure(99.9515), _figure(None)
    ('25,484', '99.95', '-')
    """
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
