"""Page images in the rows of a dataset, as documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from smart_rag.errors import InvalidInput
from smart_rag.files.formats.images import image_from_bytes
from smart_rag.types import Document


@dataclass(frozen=True, slots=True)
class Pages(Sequence[Document]):
    """Page images in the rows of a dataset, as documents. Each image is opened when it is used, and is not kept.

    ``ids`` and ``positions`` (the row of each page) have the same length.
    """

    folder: Path
    rows: Any
    ids: Sequence[str]
    positions: Sequence[int]

    def select(self, indices: Sequence[int]) -> Pages:
        return replace(self, ids=[self.ids[i] for i in indices], positions=[self.positions[i] for i in indices])

    def __add__(self, others: Pages) -> Pages:
        return replace(self, ids=[*self.ids, *others.ids], positions=[*self.positions, *others.positions])

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, i: int) -> Document: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Document]: ...
    def __getitem__(self, i: int | slice) -> Document | Sequence[Document]:
        if isinstance(i, slice):
            return self.select(range(*i.indices(len(self))))
        row = self.positions[i]
        content = image_bytes(self.folder, self.rows[row]["image"])
        try:
            return Document(self.ids[i], image=image_from_bytes(content))
        except InvalidInput as error:
            raise InvalidInput(
                f"{self.folder}: the image of row {row} ({self.ids[i]}) cannot be read: expected the bytes of an image "
                f"file, found {content[:8]!r} at the start; correct the row or leave it out ({error})"
            ) from error


def image_bytes(folder: Path, image: Mapping[str, Any]) -> bytes:
    """Return the bytes of an image in a row: those in the table, or those of the file that it names.

    Raises:
        InvalidInput: the file cannot be read.
    """
    if image["bytes"] is not None:
        return bytes(image["bytes"])
    path = Path(image["path"])
    try:
        return (path if path.is_absolute() else folder / path).read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"{folder}: the image file {str(path)!r} of the dataset cannot be read ({error.strerror}); put it there or "
            "leave its row out"
        ) from error
