"""The swap in an application of a framework: what differs between its two files, and how well each ranks."""

from __future__ import annotations

import difflib
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path


def load(path: Path):
    """Return the module at ``path``."""
    spec = importlib.util.spec_from_file_location(f"swap_{path.parts[-3]}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def difference(before: Path, after: Path) -> tuple[list[str], list[str]]:
    """Return the imports and the other lines that differ, as ``difflib`` writes them."""
    old, new = (path.read_text(encoding="utf-8").splitlines() for path in (before, after))
    lines = [line for line in difflib.ndiff(old, new) if line.startswith(("+ ", "- "))]
    imports = [line for line in lines if line[2:].startswith("from ")]
    return imports, [line for line in lines if line not in imports]


def ndcg_at_10(found: Sequence[bool], relevant: int) -> float:
    """Return the nDCG@10 of one ranking, in which each hit is relevant or not."""
    gains = sum(gain / math.log2(rank + 2) for rank, gain in enumerate(found[:10]))
    return gains / sum(1 / math.log2(rank + 2) for rank in range(min(10, relevant)))
