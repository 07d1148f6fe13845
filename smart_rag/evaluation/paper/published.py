"""Find the datasets in a folder, in the layouts in which MMEB-V2, ViDoRe, VisRAG and NanoBEIR are published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from smart_rag.errors import InvalidInput
from smart_rag.evaluation.datasets import Dataset
from smart_rag.evaluation.paper.layouts import COLUMNS, READERS, Reader
from smart_rag.evaluation.paper.media import Places
from smart_rag.evaluation.paper.tables import Table, tables_in

# How deep below the given folder a dataset may lie, such as vidore/esg_reports_v2.
_DEPTH = 4
# The tables of a judged dataset, each with the names that it is published under.
_PARTS = {
    "corpus": ("corpus",),
    "queries": ("queries", "query"),
    "qrels": ("qrels", "default", "relevant_docs"),
    "top_ranked": ("top_ranked",),
    "instruction": ("instruction",),
}


@dataclass(frozen=True, slots=True)
class Published:
    """A dataset in a folder. `load` reads it. ``names`` are its possible names, the most exact one first.

    If the tables of the folder cannot be told, ``reason`` says why, and `load` raises it.
    """

    names: tuple[str, ...]
    folder: Path
    layout: str
    tables: Mapping[str, Table]
    left_out: tuple[str, ...] = ()
    reason: str = ""

    def load(
        self,
        places: Places,
        *,
        name: str = "",
        language: str | None = None,
        instruction: str = "",
        limit_queries: int | None = None,
    ) -> Dataset:
        """Return the dataset. It says in `Dataset.left_out` what it leaves out.

        Args:
            places: folders for images and videos.
            name: the name of the dataset. By default, the first of ``names``.
            language: the value of the column ``language`` of the queries to keep. By default, all are kept.
            instruction: the instruction of the queries that have none of their own.
            limit_queries: the number of queries to keep.

        Raises:
            InvalidInput: a table cannot be read, a file is missing, or no judged query or no document is left.
        """
        if self.reason:
            raise InvalidInput(self.reason)
        if self.layout not in READERS:
            raise InvalidInput(
                f"{self.folder}: found {'; '.join(self.left_out)}; expected the tables corpus, queries and qrels, or "
                "the columns of MMEB-V2, or of pages with questions"
            )
        reader = Reader(self.names, self.folder, self.tables, places, language, limit_queries)
        READERS[self.layout](reader)
        dataset = reader.dataset(name or self.names[0], instruction)
        return replace(dataset, left_out=(*dataset.left_out, *self.left_out))


def find_published(root: Path, split: str | None = None) -> list[Published]:
    """Return the datasets in ``root``: the folder of one dataset, or of many, up to four folders deep.

    A folder whose tables cannot be told is a dataset with a `Published.reason`. An example is a table with several
    splits, of which none is the one to read.

    Args:
        root: the folder.
        split: the split to read, as in `smart_rag.evaluation.paper.tables.tables_in`.

    Raises:
        InvalidInput: there is none.
    """
    if not root.is_dir():
        raise InvalidInput(f"{root} is not a folder; expected the folder of a dataset, or of several datasets")
    found = list(_walk(root, split, _DEPTH))
    if not found:
        raise InvalidInput(
            f"{root}: found no dataset in {_DEPTH} levels of folders; expected Parquet files or folders of "
            "save_to_disk, with the tables corpus, queries and qrels, or with the columns of MMEB-V2"
        )
    return found


def _walk(folder: Path, split: str | None, depth: int) -> Iterator[Published]:
    try:
        tables = tables_in(folder, split)
        found = list(_datasets(folder, tables))
        inner = sorted(path for path in folder.iterdir() if path.is_dir())
    except (InvalidInput, OSError) as error:
        yield Published((folder.name,), folder, "unknown", {}, reason=str(error))
        return
    yield from found
    used = {folder / name for name, table in tables.items() if table.problem}
    used |= {path for table in tables.values() for file in table.files for path in (file.parent, file.parent.parent)}
    if found and any(dataset.layout == "judged" for dataset in found):
        return
    if depth:
        for subfolder in inner:
            if not subfolder.name.startswith(".") and subfolder not in used:
                yield from _walk(subfolder, split, depth - 1)


def _datasets(folder: Path, tables: Mapping[str, Table]) -> Iterator[Published]:
    """Yield the datasets in one folder. MMEB-V2 has a dataset in each part. Others have a part in each table."""
    left = dict(tables)
    for prefix in [name.removesuffix("corpus") for name in tables if name == "corpus" or name.endswith("-corpus")]:
        parts = {}
        for part, names in _PARTS.items():
            named = next((prefix + name for name in names if prefix + name in left), None)
            if named:
                parts[part] = left.pop(named)
        if len({"corpus", "queries", "qrels"} & set(parts)) == 3:
            own = (f"{folder.name}-{prefix[:-1]}", folder.name) if prefix else (folder.name,)
            others = tuple(f"the table {name}" for name in left if not prefix and "-" not in name)
            yield Published(own, folder, "judged", parts, others)
        else:
            found = ", ".join(table.name for table in parts.values())
            lacking = " and ".join(part for part in ("corpus", "queries", "qrels") if part not in parts)
            yield Published((folder.name,), folder, "unknown", parts, (f"the tables {found}, without {lacking}",))
    for name, table in left.items():
        try:
            columns = set(table.columns)
        except InvalidInput as error:
            yield Published((name, folder.name), folder, "unknown", {}, reason=str(error))
            continue
        layout = next((layout for layout, needed in COLUMNS.items() if needed(columns)), None)
        if "corpus" not in tables and not name.endswith(tuple(_PARTS)):
            names = (folder.name,) if name == "default" else (name, folder.name)
            others = () if layout else (f"the table {name} with the columns {', '.join(table.columns)}",)
            yield Published(names, folder, layout or "unknown", {"rows": table}, others)
