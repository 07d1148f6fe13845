"""`Place` notices when the path of an open folder leads to another folder.

A notebook may delete the folder of an open index, and make a new index there. Objects of the old index must then
neither read nor write the new index. So the path is not enough to identify a folder. The identity of a folder is the
device and inode of one of its files, which stays open. (A file system may give the inode of a deleted file to a new
file, but not while the deleted file is open.) A moved folder keeps its identity. A copy has a different identity.

For an index, this file is ``tokens/data.mdb``, which LMDB keeps open. `DocumentStore.place` holds the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from smart_rag.errors import IndexNotFound, IndexReadOnly
from smart_rag.paths import is_writable

Identity = tuple[int, int]


def identity_of(file: Path) -> Identity | None:
    """Return device and inode of ``file``. Return None if there is no such file."""
    try:
        stat = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_dev, stat.st_ino


@dataclass(frozen=True, slots=True)
class Place:
    """A folder, and the identity of its ``file``, which is open as long as the folder is in use."""

    folder: Path
    file: Path
    identity: Identity | None

    def is_same(self) -> bool:
        """Return whether the path still leads to the folder that was opened."""
        return identity_of(self.file) == self.identity

    def check(self) -> None:
        """Raise `IndexNotFound` unless the path still leads to the folder that was opened."""
        if not self.is_same():
            raise self.replaced()

    def replaced(self) -> IndexNotFound:
        """Return the error that says that the folder was replaced."""
        return IndexNotFound(
            f"{self.folder}: the folder that was opened here has been deleted, moved or replaced by another; close "
            "this object, and open again what is there now, an index with SmartIndex.open"
        )

    def check_writable(self) -> None:
        """Raise `IndexReadOnly` if this user cannot write to a part of the index in the folder."""
        stores = [self.folder / name for name in ("tokens", "terms", "chroma")]
        parts = [self.folder, self.folder / "write.lock", self.folder / "images"]
        parts += [part for store in stores for part in (store, *sorted(store.rglob("*")))]
        refused = next((part for part in parts if part.exists() and not is_writable(part)), None)
        if refused is not None:
            raise IndexReadOnly(
                f"{self.folder}: this user can search the index, but cannot write to {refused}; to write, get the "
                "permission from its owner, or copy the folder to a place where you can write"
            )
