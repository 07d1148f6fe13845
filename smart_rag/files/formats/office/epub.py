"""Books (.epub): the chapters, in the order in which they are read."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from smart_rag.errors import DocumentError
from smart_rag.files.formats.html import text_of_html
from smart_rag.files.formats.office.archive import Archive, elements, local
from smart_rag.files.formats.page import Page
from smart_rag.wording import number

if TYPE_CHECKING:
    from lxml.etree import _Element

# Of chapters without a file, so many are named. The others are counted.
_MOST_NAMED = 20
_METADATA = {"title": "title", "creator": "author"}


def read_epub(path: Path) -> Iterator[Page]:
    """Yield each chapter of a book as a page without a number. The title and the author of the book are its metadata.

    Raises:
        DocumentError: the file is encrypted or damaged.
        MissingExtra: lxml or selectolax is not installed.
    """
    with Archive(path) as archive:
        container = archive.xml("META-INF/container.xml")
        book = next((element.get("full-path", "") for element in container.iter("{*}rootfile")), "")
        root = archive.part(book)
        metadata = {} if root is None else _metadata(root)
        encrypted = _encrypted(archive)
        names, missing = (_all_chapters(archive), []) if root is None else _chapters(root, posixpath.dirname(book))
        archive.left_out += [
            f"the chapter {id!r} cannot be read (the book does not say which file it is)"
            for id in missing[:_MOST_NAMED]
        ]
        if len(missing) > _MOST_NAMED:
            archive.left_out.append(f"{number(len(missing) - _MOST_NAMED, 'more chapter')} without a file")
        for name in names:
            try:
                if name in encrypted:
                    raise DocumentError(path, "encrypted")
                yield replace(text_of_html(archive.read(name), path), metadata=metadata)
            except DocumentError as error:
                archive.left_out.append(f"the chapter {name!r} cannot be read ({error.reason})")
        yield Page("", left_out=tuple(archive.left_out))


def _chapters(root: _Element, folder: str) -> tuple[list[str], list[str]]:
    """Return the names of the parts with the chapters, each once, and the ids of chapters that have none."""
    targets = {item.get("id"): item.get("href", "") for item in root.iter("{*}item")}
    names: dict[str, None] = {}
    missing: dict[str, None] = {}
    for reference in root.iter("{*}itemref"):
        id = reference.get("idref", "")
        target = unquote(targets.get(id, "").partition("#")[0])
        if target:
            names[posixpath.normpath(posixpath.join(folder, target))] = None
        else:
            missing[id] = None
    return list(names), list(missing)


def _all_chapters(archive: Archive) -> list[str]:
    """Return the parts that may be chapters, in the order of their names, because the list of them cannot be read."""
    return sorted(name for name in archive.names if name.lower().endswith((".xhtml", ".html", ".htm")))


def _metadata(root: _Element) -> dict[str, str]:
    found: dict[str, str] = {}
    for element in elements(root):
        key = _METADATA.get(local(element), "")
        if key and element.text:
            found.setdefault(key, element.text.strip())
    return found


def _encrypted(archive: Archive) -> set[str]:
    """Return the names of the parts that are encrypted."""
    name = "META-INF/encryption.xml"
    root = archive.part(name) if name in archive.names else None
    references = () if root is None else root.iter("{*}CipherReference")
    return {unquote(reference.get("URI", "")) for reference in references}
