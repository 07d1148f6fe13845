"""Tables of a dataset as it is published: Parquet files of the Hugging Face hub, or folders of `save_to_disk`.

A folder of a dataset holds parts, such as the corpus, the queries and the qrels. Each part has one or more splits, and
each split has one or more files. These layouts are read:

- The front matter of ``README.md`` names the parts (``configs``) and their files.
- A subfolder holds the files of one part, as ``corpus/test-00000-of-00001.parquet``.
- The folder itself or its subfolder ``data`` holds files of one part, as ``data/test-00000-of-00001.parquet``.
- The folder holds ``corpus.jsonl`` and ``queries.jsonl``, and its subfolder ``qrels`` the qrels of each split, as
  ``.jsonl`` or, as BEIR has them, as ``.tsv`` with a header.
- `Dataset.save_to_disk` or `DatasetDict.save_to_disk` has written the folder or a subfolder.

If the splits of a part are called corpus and queries, they are themselves the parts.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.values import json_value
from smart_rag.wording import one_line

# A row with a page has a megabyte.
_ROWS_AT_ONCE = 32
_SUFFIXES = (".parquet", ".jsonl", ".tsv")
# The end of `test-00000-of-00001.parquet` or `test-00000-of-00001-e2cd0b6b8d4c7a31.parquet`, of the split test.
_SHARD = re.compile(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?$")
_NUMBERED = re.compile(r"\d{4}\.parquet")
_ONLY = "default"
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Table:
    """The files of one split of one part of a dataset. Relative paths in it start from ``folder``.

    If the files or the split cannot be told, ``problem`` says why, and there are no files. ``other_splits`` are the
    splits that are not read.
    """

    name: str
    folder: Path
    files: tuple[Path, ...]
    problem: str = ""
    other_splits: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns.

        Raises:
            InvalidInput: the first file cannot be read, or there is a `problem`.
            MissingExtra: pyarrow is not installed.
        """
        if self.problem:
            raise InvalidInput(f"{self.problem}; name another split by split=, on the command line --split")
        if not self.files:
            return ()
        file = self.files[0]
        with _reading(file):
            if file.suffix == ".jsonl":
                state = file.stat()
                return _json_columns(file, state.st_mtime_ns, state.st_size)
            if file.suffix == ".tsv":
                with file.open(encoding="utf-8-sig", newline="") as lines:
                    return tuple(_tabbed(lines).fieldnames or ())
            if file.suffix == ".parquet":
                return tuple(_pyarrow("parquet").read_schema(file).names)
            with _pyarrow().memory_map(str(file)) as source:
                return tuple(_pyarrow("ipc").open_stream(source).schema.names)

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the rows as dicts, with the ``columns`` alone. By default, with all columns.

        A few rows are in memory at a time.

        Raises:
            InvalidInput: a file cannot be read.
            MissingExtra: pyarrow is not installed.
        """
        for file in self.files:
            with _reading(file):
                for row in _rows(file, columns):  # another file of the table may lack a column
                    yield row if columns is None else {name: row.get(name) for name in columns}

    def __str__(self) -> str:
        return f"{self.folder.name}/{self.name}" if self.name != _ONLY else self.folder.name


def tables_in(folder: Path, split: str | None = None) -> dict[str, Table]:
    """Return the parts of the dataset in ``folder`` by name. There are none if ``folder`` holds no table.

    Args:
        folder: the folder of one dataset.
        split: the split to read. By default, the only split of a part, or the split ``test``.

    A part with several splits, of which none is the one to read, is a table with a `Table.problem`.

    Raises:
        InvalidInput: the front matter of ``README.md`` cannot be read.
    """
    parts = _declared(folder) or _found(folder)
    tables: dict[str, Table] = {}
    named = [part for part in parts.values() if not isinstance(part, InvalidInput) and "corpus" not in part]
    is_nowhere = split is not None and bool(named) and not any(split in part for part in named)
    for name, splits in parts.items():
        if isinstance(splits, InvalidInput):
            tables[name] = Table(name, folder, (), str(splits))
            continue
        if "corpus" in splits:
            tables |= {part: Table(part, folder, files) for part, files in splits.items()}
            continue
        wanted = split if split in splits else next(iter(splits)) if len(splits) == 1 else split or "test"
        problem = (
            f"{folder}: the table {name!r} has the splits {', '.join(sorted(splits))}; expected one split, or one "
            f"called {split or 'test'!r}"
        )
        # Judgements of one split do not belong to the queries of another.
        is_other = split is not None and wanted != split and name.endswith("qrels")
        is_there = wanted in splits and not is_nowhere and not is_other
        files = splits[wanted] if is_there else ()
        others = tuple(sorted(set(splits) - {wanted}))
        tables[name] = Table(name, folder, files, "" if is_there else problem, others)
    return tables


# The files by split.
_Splits = dict[str, tuple[Path, ...]]


def _declared(folder: Path) -> Mapping[str, _Splits | InvalidInput]:
    """Return the files by part and split, as the front matter of ``README.md`` names them."""
    readme = folder / "README.md"
    found = _FRONT_MATTER.match(readme.read_text(encoding="utf-8", errors="replace")) if readme.is_file() else None
    if not found:
        return {}
    import yaml

    try:
        matter = yaml.safe_load(found[1])
        configs = (matter.get("configs") or ()) if isinstance(matter, dict) else ()
        declared = {str(config["config_name"]): _declared_splits(folder, config) for config in configs}
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        raise InvalidInput(
            f"{readme}: the front matter cannot be read ({one_line(error)}); correct or remove it"
        ) from error
    return {name: splits for name, splits in declared.items() if splits}  # a clone may hold the files of some parts


def _declared_splits(folder: Path, config: Mapping[str, Any]) -> _Splits:
    if "data_files" not in config and config.get("data_dir"):
        return _splits_in(folder / _inside(config["data_dir"]))
    splits: dict[str, list[Path]] = {}
    for split, pattern in _patterns(config.get("data_files")):
        files = sorted(path for path in folder.glob(_inside(pattern)) if path.suffix in _SUFFIXES)
        splits.setdefault(split, []).extend(files)
    return {split: tuple(files) for split, files in splits.items() if files}


def _inside(pattern: str) -> str:
    if ".." in Path(pattern).parts:
        raise ValueError(f"{pattern!r} leads out of the folder")
    return pattern


def _patterns(data_files: Any) -> Iterator[tuple[str, str]]:
    """Yield the (split, pattern) pairs of ``data_files``, which may be a str, a list of str or a list of dicts.

    As on the hub, files without a split are of the split train.
    """
    for entry in [data_files] if isinstance(data_files, str | dict) else data_files or ():
        split, paths = ("train", entry) if isinstance(entry, str) else (entry.get("split", "train"), entry["path"])
        for path in [paths] if isinstance(paths, str) else paths or ():
            yield str(split), path


def _found(folder: Path) -> Mapping[str, _Splits | InvalidInput]:
    """Return the files by part and split, as the names of files and folders show them, or why a part has none."""
    own = _splits_in(folder)
    if own and "corpus" not in own:
        return {_ONLY: own}
    parts: dict[str, _Splits | InvalidInput] = {_ONLY: own} if own else {}
    for subfolder in sorted(path for path in folder.iterdir() if path.is_dir()):
        try:
            splits = _splits_in(subfolder)
        except (InvalidInput, OSError) as error:
            parts[subfolder.name] = InvalidInput(str(error))
            continue
        if splits and "corpus" not in splits and not (own and subfolder.name != "qrels"):
            # otherwise, the subfolder is a dataset
            parts[_ONLY if subfolder.name == "data" else subfolder.name] = splits
    return parts


def _splits_in(folder: Path) -> _Splits:
    if (folder / "dataset_dict.json").is_file():
        return {name: _saved(folder / name) for name in _names(folder / "dataset_dict.json", "splits")}
    if (folder / "state.json").is_file():
        return {"saved": _saved(folder)}
    splits: dict[str, list[Path]] = {}
    for file in sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES):
        splits.setdefault(_split_of(file), []).append(file)
    if not splits:  # the hub's own conversion to Parquet: corpus/test/0000.parquet
        for file in sorted(path for path in folder.glob("*/*.parquet") if _NUMBERED.fullmatch(path.name)):
            splits.setdefault(file.parent.name, []).append(file)
    return {split: tuple(files) for split, files in splits.items()}


def _split_of(file: Path) -> str:
    return _SHARD.sub("", file.stem).rstrip("-_.") or "train"


def _saved(folder: Path) -> tuple[Path, ...]:
    """Return the files of a dataset that `Dataset.save_to_disk` has written."""
    return tuple(folder / name for name in _names(folder / "state.json", "_data_files"))


def _names(file: Path, key: str) -> list[str]:
    """Return the names of files or splits that ``file``, which `save_to_disk` has written, holds under ``key``."""
    try:
        names = json.loads(file.read_text(encoding="utf-8"))[key]
        return [_inside(name if isinstance(name, str) else name["filename"]) for name in names]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidInput(
            f"{file} does not name the files of the dataset ({one_line(error)}); save it again"
        ) from error


def _rows(file: Path, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    if file.suffix == ".jsonl":
        yield from _json_rows(file)
    elif file.suffix == ".tsv":
        with file.open(encoding="utf-8-sig", newline="") as lines:
            for row in (reader := _tabbed(lines)):
                if None in row:
                    raise ValueError(f"line {reader.line_num} has more fields than the header")
                yield row
    elif file.suffix == ".parquet":
        with _pyarrow("parquet").ParquetFile(file) as opened:
            for batch in opened.iter_batches(_ROWS_AT_ONCE, columns=None if columns is None else list(columns)):
                yield from batch.to_pylist()
    else:
        with _pyarrow().memory_map(str(file)) as source:
            for whole in _pyarrow("ipc").open_stream(source):
                chosen = whole if columns is None else whole.select([*filter(whole.schema.names.__contains__, columns)])
                for start in range(0, len(chosen), _ROWS_AT_ONCE):
                    yield from chosen.slice(start, _ROWS_AT_ONCE).to_pylist()


def _tabbed(lines: Iterable[str]) -> csv.DictReader[str]:
    return csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)


def _json_rows(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8-sig") as lines:
        for line, content in enumerate(lines, start=1):
            if content.strip():
                row = json_value(content)
                if not isinstance(row, Mapping):
                    raise ValueError(f"line {line} is not a JSON object")
                yield dict(row)


@lru_cache
def _json_columns(file: Path, changed: int, size: int) -> tuple[str, ...]:
    """Return the keys of all rows of a file in this state, because a row may lack some."""
    return tuple(dict.fromkeys(key for row in _json_rows(file) for key in row))


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """A context in which errors of pyarrow name the file. They are errors of these classes, too."""
    try:
        yield
    except (ValueError, OSError, TypeError, KeyError, NotImplementedError, RecursionError) as error:
        raise InvalidInput(
            f"{file} cannot be read ({one_line(error)}); expected a complete {file.suffix[1:]} file; download it "
            "again, with git lfs if it is only a pointer"
        ) from error


def _pyarrow(module: str = "") -> Any:
    """Return pyarrow, or one of its modules."""
    from importlib import import_module

    try:
        return import_module(f"pyarrow.{module}" if module else "pyarrow")
    except ImportError as error:
        raise MissingExtra("pyarrow", "eval", "published datasets") from error
