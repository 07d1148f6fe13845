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


def replaced(path: Path, name: str, content: bytes | None) -> Path:
    """Replace the content of a part of a zip. If ``content`` is None, remove the part."""
    with zipfile.ZipFile(path) as opened:
        parts = {part: opened.read(part) for part in opened.namelist() if part != name}
    return archive(path, parts if content is None else {**parts, name: content})


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


def pptx(path: Path, *slides: str, **parts: str) -> Path:
    """Write a .pptx of these slides, the last one shown first. ``parts`` has further ones, such as ``slide1_rels``."""
    ids = [f"rId{i}" for i in range(1, len(slides) + 1)]
    listed = "".join(f'<p:sldId id="{255 + i}" r:id="{id}"/>' for i, id in reversed([*enumerate(ids, 1)]))
    made = {"_rels/.rels": related(rId1=("officeDocument", "ppt/presentation.xml"))}
    made["ppt/presentation.xml"] = part("p:presentation", f"<p:sldIdLst>{listed}</p:sldIdLst>")
    made["ppt/_rels/presentation.xml.rels"] = related(**{id: ("slide", f"slides/slide{id[3:]}.xml") for id in ids})
    for i, slide in enumerate(slides, 1):
        made[f"ppt/slides/slide{i}.xml"] = part("p:sld", f"<p:cSld><p:spTree>{slide}</p:spTree></p:cSld>")
    for name, text in parts.items():
        rels = name.removesuffix("_rels")
        made[f"ppt/slides/{name}.xml" if rels == name else f"ppt/slides/_rels/{rels}.xml.rels"] = text
    return archive(path, made)


def shape(*texts: str, kind: str = "") -> str:
    """Return a shape of a slide with these paragraphs. ``kind`` is the kind of its placeholder."""
    placeholder = f'<p:nvSpPr><p:nvPr><p:ph type="{kind}"/></p:nvPr></p:nvSpPr>' if kind else ""
    inner = "".join(f"<a:p><a:r><a:t>{text}</a:t></a:r></a:p>" for text in texts)
    return f"<p:sp>{placeholder}<p:txBody><a:lstStyle/>{inner}</p:txBody></p:sp>"


def xlsx(
    path: Path, sheets: Mapping[str, str], strings: str = "", styles: str = "", settings: str = "", **parts: str
) -> Path:
    """Write a .xlsx. ``sheets`` has the rows of each sheet by its name, ``parts`` further parts beside the sheets."""
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    ids = [f"rId{i}" for i in range(1, len(sheets) + 1)]
    listed = "".join(f'<sheet name="{name}" r:id="{id}"/>' for name, id in zip(sheets, ids, strict=True))
    made = {"_rels/.rels": related(rId1=("officeDocument", "xl/workbook.xml"))}
    made["xl/workbook.xml"] = (
        f'<workbook xmlns="{main}" xmlns:r="{OFFICE}">{settings}<sheets>{listed}</sheets></workbook>'
    )
    targets = {id: ("worksheet", f"worksheets/sheet{id[3:]}.xml") for id in ids}
    made["xl/_rels/workbook.xml.rels"] = related(
        **targets, strings=("sharedStrings", "s.xml"), styles=("styles", "t.xml")
    )
    for id, rows in zip(ids, sheets.values(), strict=True):
        made[f"xl/worksheets/sheet{id[3:]}.xml"] = (
            f'<worksheet xmlns="{main}"><sheetData>{rows}</sheetData></worksheet>'
        )
    made["xl/s.xml"] = f'<sst xmlns="{main}">{strings}</sst>'
    made["xl/t.xml"] = f'<styleSheet xmlns="{main}">{styles}</styleSheet>'
    for name, text in parts.items():
        rels = name.removesuffix("_rels")
        made[f"xl/worksheets/{name}.xml" if rels == name else f"xl/worksheets/_rels/{rels}.xml.rels"] = text
    return archive(path, made)


_ODF = " ".join(
    f'xmlns:{prefix}="urn:oasis:names:tc:opendocument:xmlns:{prefix}:1.0"'
    for prefix in ("office", "text", "table", "draw", "style", "form", "chart")
)
_ODF += ' xmlns:svg="urn:oasis:names:tc:opendocument:xmlns:svg-compatible:1.0"'


def opendocument(path: Path, kind: str, body: str, styles: str = "", **parts: str) -> Path:
    """Write an OpenDocument file. ``kind`` is ``"text"``, ``"presentation"`` or ``"spreadsheet"``."""
    content = f"<office:body><office:{kind}>{body}</office:{kind}></office:body>"
    made = {"mimetype": f"application/vnd.oasis.opendocument.{kind}"}
    made["content.xml"] = f"<office:document-content {_ODF}>{content}</office:document-content>"
    if styles:
        pages = f"<office:master-styles><style:master-page>{styles}</style:master-page></office:master-styles>"
        made["styles.xml"] = f"<office:document-styles {_ODF}>{pages}</office:document-styles>"
    return archive(path, {**made, **{f"{name}/content.xml": text for name, text in parts.items()}})


def epub(path: Path, *chapters: str, **parts: str) -> Path:
    """Write an .epub whose chapters are read in the reverse order of their files."""
    items = "".join(f'<item id="c{i}" href="text/c%20{i}.xhtml"/>' for i in range(len(chapters)))
    spine = "".join(f'<itemref idref="c{i}"/>' for i in reversed(range(len(chapters))))
    about = '<metadata xmlns:dc="dc"><dc:title>Boats</dc:title><dc:creator>T. Reed</dc:creator></metadata>'
    made = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<container><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>',
        "OPS/book.opf": f"<package>{about}<manifest>{items}</manifest><spine>{spine}</spine></package>",
        **{f"OPS/text/c {i}.xhtml": chapter for i, chapter in enumerate(chapters)},
    }
    return archive(path, {**made, **{f"META-INF/{name}.xml": text for name, text in parts.items()}})
