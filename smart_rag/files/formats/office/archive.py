"""`Archive`: a zip of XML parts, such as a .docx, .odt or .epub, from somebody who may want to do harm."""

from __future__ import annotations

import io
import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from smart_rag.errors import DocumentError, MissingExtra

if TYPE_CHECKING:
    from lxml.etree import _Element

MOST_BYTES = 256_000_000  # of all parts that are read, unpacked; a zip bomb has more
_MOST_DEPTH = 3  # of documents in documents
_STEP = 1 << 12
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


class Archive:
    """An open zip with parts, for use in a ``with`` statement. `left_out` has a phrase for each part that is broken.

    Args:
        path: the file.
        data: the zip, if it is a part of the file.

    Raises:
        DocumentError: the file is encrypted, or it is not a zip.
        MissingExtra: lxml is not installed.
    """

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        try:
            import lxml.etree
        except ImportError as error:
            raise MissingExtra("lxml", "office", f"reading {path.name}") from error
        self.path = path
        self.left_out: list[str] = []
        self._etree = lxml.etree
        self._room = MOST_BYTES
        self._depth = 0
        self._parts: dict[str, _Element | None] = {}
        try:
            self._zip = zipfile.ZipFile(path if data is None else io.BytesIO(data))
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise DocumentError(path, _why_no_zip(path) if data is None else "no sound document") from error
        self.names = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exception: object) -> None:
        self._zip.close()

    @contextmanager
    def within(self, name: str) -> Iterator[Archive]:
        """Open a part that is such a zip itself. All parts together have the room of one file.

        Raises:
            DocumentError: as `read`; or the part is no zip, or it is too deep in the file.
        """
        if self._depth >= _MOST_DEPTH:
            raise DocumentError(self.path, "documents in documents are nested too deeply")
        with Archive(self.path, self.read(name)) as inside:
            inside._room, inside._depth = self._room, self._depth + 1
            try:
                yield inside
            finally:
                self._room = inside._room

    def read(self, name: str) -> bytes:
        """Return the bytes of a part.

        Raises:
            DocumentError: there is no such part, it is encrypted or broken, or all parts together are too large.
        """
        info = self.names.get(name)
        if info is None:
            raise DocumentError(self.path, f"damaged, or not a {self.path.suffix} file (it has no part {name!r})")
        if info.flag_bits & 1:
            raise DocumentError(self.path, "encrypted; save it without a password")
        data = bytearray()
        try:
            with self._zip.open(info) as part:
                # The size that is stated may be wrong.
                while len(data) <= self._room and info.file_size <= self._room and (more := part.read(_STEP)):
                    data += more
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError) as error:
            if not data:
                raise DocumentError(
                    self.path, f"damaged, or not a {self.path.suffix} file (its part {name!r} cannot be unpacked)"
                ) from error
            self._note_damage(name)
        if max(len(data), info.file_size) > self._room:
            raise DocumentError(
                self.path,
                f"its parts unpack to more than {MOST_BYTES // 10**6} MB; expected a document, found a zip bomb?",
            )
        self._room -= len(data)
        return bytes(data)

    def xml(self, name: str) -> _Element:
        """Return the root of a part in XML. Entities are not replaced, and nothing outside of the part is read.

        Raises:
            DocumentError: as `read`; or the part is not XML.
        """
        root = self._parts.get(name)
        if root is None:
            root = self._parse(name, self.read(name))
            self._parts[name] = root
        return root

    def part(self, name: str) -> _Element | None:
        """Return the root of a part that the document can do without. If it is broken, note that and return None."""
        if name in self._parts:
            return self._parts[name]
        self._parts[name] = None
        try:
            return self.xml(name)
        except DocumentError as error:
            self.left_out.append(f"the part {name!r} cannot be read ({error.reason})")
            return None

    def _parse(self, name: str, data: bytes) -> _Element:
        """Return the root of a part. If the XML is broken, return what stands before the damage, and note that."""
        broken = f"damaged, or not a {self.path.suffix} file (its part {name!r} is not XML)"
        try:
            root = parse(data)
        except self._etree.XMLSyntaxError as error:
            found = recovered(data)
            if found is None or not any(text.strip() for text in found.itertext("{*}*")):
                raise DocumentError(self.path, broken) from error
            self._note_damage(name)
            root = found
        if root is None:
            raise DocumentError(self.path, broken)
        if next(root.iter(self._etree.Entity), None) is not None:
            self.left_out.append(f"the part {name!r} has XML entities, which are not read")
        return root

    def _note_damage(self, name: str) -> None:
        phrase = f"the part {name!r} is damaged, and what follows the damage may be missing"
        if phrase not in self.left_out:
            self.left_out.append(phrase)

    def related(self, name: str) -> dict[str, tuple[str, str]]:
        """Return what a part of an OOXML document refers to: for each id, (kind of part, name of part).

        References to other files and to the network are left out.
        """
        folder, base = posixpath.split(name)
        rels = posixpath.join(folder, "_rels", f"{base}.rels")
        root = self.part(rels) if rels in self.names else None
        found = {}
        for relation in () if root is None else elements(root):
            target = unquote(relation.get("Target", ""))
            if local(relation) == "Relationship" and relation.get("TargetMode") != "External" and target:
                where = posixpath.normpath(posixpath.join(folder, target)).lstrip("/")
                kind = relation.get("Type", "").rpartition("/")[2]
                found[relation.get("Id", "")] = (kind, where)
        return found

    def main(self, fallback: str) -> str:
        """Return the name of the main part of an OOXML document."""
        for kind, name in self.related("").values():
            if kind == "officeDocument" and name in self.names:
                return name
        return fallback


def parse(data: bytes, recover: bool = False) -> _Element | None:
    """Return the root of an XML text. Entities are not replaced, and nothing outside of the text is read.

    Args:
        data: the text.
        recover: whether to return what can be read of a damaged text, or None if there is nothing.

    Raises:
        lxml.etree.XMLSyntaxError: the text is not XML.
    """
    import lxml.etree

    # `huge_tree` allows deep nesting and long texts. The size of the text is limited already.
    parser = lxml.etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=True, recover=recover
    )
    return lxml.etree.fromstring(data, parser)


def recovered(data: bytes) -> _Element | None:
    """Return the root of what can be read of a damaged XML text, or None if there is nothing."""
    import lxml.etree

    try:
        return parse(data, recover=True)
    except lxml.etree.XMLSyntaxError:  # there is no element at all
        return None


def elements(root: _Element) -> Iterator[_Element]:
    """Yield an element and all elements below it, without comments and processing instructions."""
    yield from root.iter("{*}*")


def local(element: _Element) -> str:
    """Return the name of an element without its namespace."""
    tag: Any = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def inner(element: _Element) -> str:
    """Return the text that stands in an element itself, without that of the elements in it."""
    return (element.text or "") + "".join(child.tail or "" for child in element)


def value(element: _Element, name: str) -> str | None:
    """Return an attribute, whatever its namespace, or None."""
    for key, found in element.attrib.items():
        if str(key).rpartition("}")[2] == name:
            return str(found)
    return None


def _why_no_zip(path: Path) -> str:
    with path.open("rb") as file:
        if file.read(8) == _OLE and "EncryptedPackage".encode("utf-16-le") in file.read(MOST_BYTES):
            return "encrypted; save it without a password"
    return f"damaged, or not a {path.suffix} file"
