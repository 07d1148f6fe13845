"""`VectorFiles`: the files of Chroma's vectors in one folder, and the record of their checksums.

Chroma keeps no checksums of these files. So we keep them in `smart_rag.checksums`, beside Chroma's folder of vectors.
Chroma changes the files only under the lock of `FolderClient`: after each 1,000 records, and when it is opened and
applies its log. Each time, the record is written again. The record also names the number of writes at that time. If
this number is not the present one, a process was killed while it wrote, or an older smart_rag has written. Then the
checksums say nothing, and only the numbers in the files are checked.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import xxhash

from smart_rag.errors import CorruptStore
from smart_rag.store.checks.chroma_tables import segments
from smart_rag.store.checks.hnsw_files import FILES, LABELS, check_files

logger = logging.getLogger(__name__)

FILE_NAME = "smart_rag.checksums"
# Chroma writes its files when this number of records is in its log, or more.
PENDING_RECORDS = 1_000
_UNKNOWN = -1
_BLOCK_BYTES = 1 << 20
# A record has about 500 bytes for each collection in the folder.
_MOST_BYTES = 1 << 20

# Inode, length and time of the last change of each file.
_State = dict[str, tuple[int, int, int]]


class VectorFiles:
    """The files of Chroma's vectors in ``folder``. The caller holds the lock of the folder in each call."""

    def __init__(self, folder: Path, is_read_only: bool = False) -> None:
        self._folder = folder
        self._is_read_only = is_read_only  # then nothing is recorded
        self._record = folder / FILE_NAME
        self._state: _State | None = None  # of the files when they were last checked or recorded
        self._checksums: dict[str, list[Any]] = {}  # length and checksum of files in that state, as far as known
        self._recorded = _UNKNOWN  # the number of writes in the record

    def check(self, writes: int) -> None:
        """Check the files before Chroma is opened. ``writes`` is the number of writes to the folder so far.

        Raises:
            CorruptStore: a file is missing, has another length than it had, or has numbers that lead nowhere.
        """
        database = self._folder / "chroma.sqlite3"
        if not database.exists() or not database.stat().st_size:  # a new folder
            self._state = {}
            return
        record = self._read()
        is_settled = record["writes"] == writes
        self._recorded = writes if is_settled else _UNKNOWN
        self._checksums = record["files"] if is_settled else {}
        state = self._present()
        if is_settled:
            for name, (size, _) in record["files"].items():
                found = state.get(name)
                if found is None or found[1] != size:
                    raise CorruptStore(
                        f"{self._folder / name}: expected {size:,} bytes, found "
                        f"{'no file' if found is None else f'{found[1]:,}'}; the file is damaged, build it again from "
                        "the rows with `smart-rag verify --repair`, or restore the index from a backup"
                    )
        if state != self._state:
            check_files(self._folder)
        self._state = state
        if self._is_read_only:
            return
        if any(one.logged - one.persisted >= PENDING_RECORDS for one in segments(self._folder)):
            self._write(_UNKNOWN)  # Chroma will write the files now

    def note(self, writes: int) -> None:
        """Record the checksums of the files that have changed since the last call of `check` or `note`."""
        if self._is_read_only:
            return
        state = self._present()
        if state == self._state and writes == self._recorded:
            return
        before = self._state or {}
        self._checksums = {
            name: self._checksums[name]
            if before.get(name) == found and name in self._checksums
            else [found[1], _checksum(self._folder / name)]
            for name, found in state.items()
        }
        self._write(writes)
        self._state = state

    def damage(self, writes: int) -> str | None:
        """Return in one line what is wrong with the files, or None. Every byte is read."""
        record = self._read()
        try:
            check_files(self._folder)
        except CorruptStore as error:
            return str(error)
        if record["writes"] == writes:
            for name, (size, expected) in record["files"].items():
                file = self._folder / name
                found = _checksum(file) if file.is_file() else "no file"
                if found != expected:
                    return f"{file}: expected {size:,} bytes with the checksum {expected}, found {found}"
        return None

    def _present(self) -> _State:
        """Return the state of the files of each collection of which Chroma has written labels."""
        found = {}
        for labels in sorted(self._folder.glob(f"*/{LABELS}")):
            for name in FILES:
                file = labels.with_name(name)
                if file.is_file():
                    stat = file.stat()
                    found[f"{labels.parent.name}/{name}"] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        return found

    def _read(self) -> dict[str, Any]:
        """Return the record. One that is missing, too large, or left by a killed process says nothing."""
        try:
            with self._record.open("rb") as file:
                text = file.read(_MOST_BYTES + 1)
            found = json.loads(text if len(text) <= _MOST_BYTES else b"")
            files = {str(name): [int(size), str(checksum)] for name, (size, checksum) in found["files"].items()}
            return {"writes": int(found["writes"]), "files": files}
        except (FileNotFoundError, ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return {"writes": _UNKNOWN, "files": {}}

    def _write(self, writes: int) -> None:
        record = {"writes": writes, "files": self._checksums}
        try:
            # In place, because some file systems sync a file that was emptied first. That would take milliseconds.
            with open(os.open(self._record, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
                file.write(json.dumps(record).encode())
                file.truncate()
            self._recorded = writes
        except OSError as error:
            # The rows are written already, so this is no failure of the write. The next write records them again.
            self._recorded = _UNKNOWN
            logger.warning("%s: the checksums of Chroma's vectors cannot be written (%s)", self._record, error)


def _checksum(file: Path) -> str:
    """Return the XXH3-64 of ``file`` as 16 hexadecimal digits."""
    digest, buffer = xxhash.xxh3_64(), bytearray(_BLOCK_BYTES)
    with file.open("rb", buffering=0) as opened:
        while read := opened.readinto(buffer):
            digest.update(memoryview(buffer)[:read])
    return digest.hexdigest()
