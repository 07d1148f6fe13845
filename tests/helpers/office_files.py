"""Office files made of raw XML, with what the libraries that write such files cannot make."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_NAMESPACES = " ".join(
    f'xmlns:{prefix}="{uri}"'
    for prefix, uri in {
        "w": "http://schemas.openxmlformats.org/wordprocessingml/2006/main",
        "m": "http://schemas.openxmlformats.org/officeDocument/2006/math",
        "mc": "http://schemas.openxmlformats.org/markup-compatibility/2006",
        "r": OFFICE,
        "a": "http://schemas.openxmlformats.org/drawingml/2006/main",
        "p": "http://schemas.openxmlformats.org/presentationml/2006/main",
        "c": "http://schemas.openxmlformats.org/drawingml/2006/chart",
        "v": "urn:schemas-microsoft-com:vml",
    }.items()
)


def part(name: str, inner: str) -> str:
    """Return an XML part whose root has this qualified name."""
    return f'<?xml version="1.0" encoding="UTF-8"?><{name} {_NAMESPACES}>{inner}</{name}>'


def related(**targets: tuple[str, str]) -> str:
    """Return the .rels part of a part: for each id, (kind of part, target)."""
    rows = "".join(
        f'<Relationship Id="{id}" Type="{OFFICE}/{kind}" Target="{target}"/>' for id, (kind, target) in targets.items()
    )
    return f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{rows}</Relationships>'


def archive(path: Path, parts: Mapping[str, str | bytes]) -> Path:
    """Write a zip of these parts."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in parts.items():
            made.writestr(name, data)
    return path


def docx(path: Path, body: str, rels: str = "", **parts: str) -> Path:
    """Write a .docx with this body. ``parts`` has the names and the texts of its other parts in ``word/``."""
    main = {"_rels/.rels": related(rId1=("officeDocument", "word/document.xml"))}
    main["word/document.xml"] = part("w:document", f"<w:body>{body}</w:body>")
    if rels:
        main["word/_rels/document.xml.rels"] = rels
    return archive(path, {**main, **{f"word/{name}.xml": text for name, text in parts.items()}})


def p(text: str) -> str:
    """Return a paragraph of a Word document."""
    return f"<w:p>{run(text)}</w:p>"


def run(text: str) -> str:
    """Return a run of a Word document."""
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'
