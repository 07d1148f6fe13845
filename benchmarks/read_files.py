"""What is read of the files in a folder: words found, seconds and memory for each format.

The words of each file are compared with those that an independent reader finds: `pdftotext` for PDFs, the raw XML of
office files, lxml for HTML, the bytes of plain text, `antiword` for .doc, and `unrtf` for .rtf. A word that occurs
three times must be found three times. Of the other formats, only what cannot be read is counted.

Each folder in FOLDER is a source, such as a repository. Its files are FOLDER/SOURCE/..., and so the name of each file
begins with its source. FOLDER/SOURCES.tsv may have a line for each source: its folder, its address, and its commit. The
JSON file repeats them. Files with the same bytes count once.

Each file is read in a process of its own, which begins with the imports of the reader and with nothing else. The
seconds are those of the processor, and the peak memory is that of this process.

python benchmarks/read_files.py FOLDER [--limit N] [--seconds N] [--processes N] [--json FILE]
"""

from __future__ import annotations

import argparse
import email.policy
import hashlib
import json
import multiprocessing
import os
import posixpath
import re
import resource
import subprocess
import sys
import time
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from email.message import EmailMessage
from functools import partial
from itertools import chain, groupby, zip_longest
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import unquote

import olefile
from lxml import etree, html
from report import show, write

from smart_rag.errors import SmartRagError
from smart_rag.files.reader import FORMATS, read

_LOWEST = 0.95  # a file with a smaller share of its words is named
_PLAIN = (".txt", ".md", ".markdown", ".csv", ".tsv", ".log", ".rst", ".tex", ".org", ".json", ".jsonl")
# Hyphens within a word and at the end of a line are no difference: each reader joins words in its own way.
_COLOUR = re.compile(r"\x1b\[[\d;]*m")  # in the output of a program
_HYPHEN = re.compile(r"(?<=\w)[-\u00ad\u2010\u2011]\s*(?=\w)")
# The elements of a paragraph, and of pieces of text in it, in the XML of each format.
_PARTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    ".docx": (r"word/document\.xml", "p", ("t",)),
    ".pptx": (r"ppt/slides/slide\d+\.xml", "p", ("t",)),
    ".xlsx": (r"xl/(sharedStrings|worksheets/sheet\d+)\.xml", "si", ("t",)),
}
_WORD_95 = b"\xdc\xa5"  # such a file does not say its code page, and antiword takes each for a Western one
_OPEN_DOCUMENT = (".odt", ".odp", ".ods")
_UNSEEN = ("tracked-changes", "note-citation", "date-string")
_DESCRIPTIONS = ("creator", "date", "title", "desc")
# What the processes begin with: the imports of the readers and of this script.
_IMPORTS = ("smart_rag.files.reader", "lxml.html", "pypdfium2", "selectolax.lexbor", "python_calamine", "olefile")
_IMPORTS += ("email.policy", "rich.console", "rich.table", "importlib.metadata", "concurrent.futures.thread")
_SOURCES = "SOURCES.tsv"

# The elements of HTML that do not end a word.
_INLINE = frozenset(("a", "abbr", "b", "bdi", "bdo", "cite", "code", "del", "dfn", "em", "font", "i", "ins", "kbd"))
_INLINE |= {"mark", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "tt", "u", "var", "wbr"}

_NOT_SHOWN = ("script", "style", "template", "noscript", "head", "audio", "video", "iframe")


@dataclass
class Reading:
    """What became of one file."""

    file: str
    seconds: float = 0.0
    megabytes: float = 0.0
    expected: int = 0
    found: int = 0
    error: str = ""
    left_out: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """The share of the expected words that were found."""
        return self.found / self.expected if self.expected else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=200, help="files of each format (default: 200)")
    parser.add_argument("--seconds", type=float, default=120.0, help="for one file (default: 120)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="at once (default: one for each core)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    # `fork` would copy the memory of this process. The server has the imports of the reader, and nothing else.
    multiprocessing.set_forkserver_preload(list(_IMPORTS))
    chosen = list(_chosen(arguments.folder, arguments.limit))
    with ThreadPoolExecutor(arguments.processes) as threads:
        found = threads.map(partial(_reading, folder=arguments.folder, seconds=arguments.seconds), chosen)
        readings: dict[str, list[Reading]] = {}
        for path, reading in zip(chosen, found, strict=True):
            readings.setdefault(path.suffix.lower(), []).append(reading)
    show("", {suffix: _row(all) for suffix, all in sorted(readings.items())}, _COLUMNS)
    for suffix, all in sorted(readings.items()):
        for reading in sorted(all, key=lambda reading: reading.share):
            if reading.error and reading.expected:
                print(f"{suffix}: not read: {reading.file}: {reading.error} ({reading.expected:,} words)")
            elif reading.share < _LOWEST:
                reported = f" ({'; '.join(reading.left_out)})" if reading.left_out else ""
                print(f"{suffix}: {reading.share:.1%} of {reading.expected:,} words: {reading.file}{reported}")
    if arguments.json is not None:
        files = {suffix: [asdict(reading) for reading in all] for suffix, all in readings.items()}
        write(arguments.json, folder=arguments.folder.name, sources=_sources(arguments.folder), files=files)


def _chosen(folder: Path, limit: int) -> Iterator[Path]:
    """Yield at most ``limit`` files of each format, in turn from each source, and only one of those that are equal."""
    found: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(folder.rglob("*")):
        suffix = path.suffix.lower()
        if suffix in FORMATS and path.is_file() and path.parent != folder:
            found.setdefault(suffix, {}).setdefault(path.relative_to(folder).parts[0], []).append(path)
    for sources in found.values():
        different: dict[bytes, Path] = {}
        for path in filter(None, chain.from_iterable(zip_longest(*sources.values()))):
            if len(different) < limit:
                different.setdefault(hashlib.blake2b(path.read_bytes()).digest(), path)
        yield from different.values()


def _sources(folder: Path) -> list[dict[str, str]]:
    """Return the folder, the address and the commit of each source, as FOLDER/SOURCES.tsv says."""
    if not (folder / _SOURCES).is_file():
        return []
    lines = (folder / _SOURCES).read_text("utf-8").splitlines()
    return [dict(zip(("folder", "address", "commit"), line.split("\t"), strict=True)) for line in lines]


_COLUMNS = (
    *("sources", "files", "not read", "compared", "words", "found %", "median %", "least %"),
    *("< 95 %", "unnamed", "seconds", "peak MB"),
)


def _row(readings: list[Reading]) -> dict[str, float]:
    """Return the figures of one format. A file that was not read counts among the files and not among the words."""
    compared = [reading for reading in readings if reading.expected and not reading.error]
    row: dict[str, float] = {
        "sources": len({reading.file.partition("/")[0] for reading in readings}),
        "files": len(readings),
        "not read": sum(bool(reading.error) for reading in readings),
        "compared": len(compared),
        "words": sum(reading.expected for reading in compared),
        "< 95 %": sum(reading.share < _LOWEST for reading in compared),
        "unnamed": sum(reading.share < _LOWEST and not reading.left_out for reading in compared),
        "seconds": sum(reading.seconds for reading in readings),
        "peak MB": max(reading.megabytes for reading in readings),
    }
    if compared:
        row["found %"] = 100 * sum(reading.found for reading in compared) / row["words"]
        row["median %"] = 100 * median(reading.share for reading in compared)
        row["least %"] = 100 * min(reading.share for reading in compared)
    return row


def _reading(path: Path, folder: Path, seconds: float) -> Reading:
    """Read a file in a process of its own, and compare its words with those of the independent reader."""
    expected = _words(_reference(path))
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("forkserver").Process(target=_read, args=(path, expected, theirs))
    process.start()
    theirs.close()
    reading = Reading(path.relative_to(folder).as_posix(), expected=expected.total())
    try:
        if ours.poll(seconds):
            found, taken, megabytes, error, left_out = ours.recv()
            reading = Reading(reading.file, taken, megabytes, reading.expected, found, error, left_out)
        else:
            reading.error, reading.seconds = f"takes more than {seconds:g} seconds", seconds
    except EOFError:
        reading.error = "crashed the reader"
    process.kill()
    process.join()
    return reading


def _read(path: Path, expected: Counter[str], to: Connection) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # parsers write their errors there
    started, texts, error, left_out = time.process_time(), [], "", {}
    try:
        for page in read(path):
            texts.append(f"{page.header}\n{page.text}" if page.header else page.text)
            left_out |= dict.fromkeys(page.left_out)
    except SmartRagError as failure:
        error = str(getattr(failure, "reason", failure))
    taken = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    found = (expected & _words("\n".join(texts))).total()
    to.send((found, taken, peak, error, list(left_out)))


def _words(text: str) -> Counter[str]:
    whole = _HYPHEN.sub("", unicodedata.normalize("NFKC", text).casefold())
    return Counter(re.findall(r"\w+", whole))


def _reference(path: Path) -> str:
    """Return the text that an independent reader finds in a file. It is empty if there is none."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".pdf":
            parts = (_output("pdftotext", "-enc", "UTF-8", *pages, str(path), "-") for pages in _page_ranges(path))
            return "\n".join(parts)
        if suffix in _PARTS:
            return "\n".join(_paragraphs(path, *_PARTS[suffix]))
        if suffix in _OPEN_DOCUMENT:
            return "\n".join(_open_document(path))
        if suffix == ".doc":
            with olefile.OleFileIO(path) as opened:
                if opened.openstream("WordDocument").read(2) == _WORD_95:
                    return ""
            return _output("antiword", "-w", "0", "-m", "UTF-8.txt", str(path)).replace("[pic]", "")
        if suffix == ".rtf":
            return _html(_output("unrtf", "--html", "--nopict", str(path)).encode())
        if suffix == ".eml":
            return "\n".join(_mail(path.read_bytes()))
        if suffix == ".ipynb":
            return "\n".join(_cells(json.loads(path.read_bytes())))
        if suffix == ".epub":
            return "\n".join(_html(chapter) for chapter in _chapters(path))
        if suffix in (".html", ".htm", ".xhtml"):
            return _html(path.read_bytes())
        text = path.read_text("utf-8-sig") if suffix in _PLAIN else ""
        return "" if "\0" in text else text
    except (OSError, ValueError, LookupError, zipfile.BadZipFile, etree.LxmlError, subprocess.TimeoutExpired):
        return ""


def _mail(data: bytes) -> Iterator[str]:
    """Yield the subject and the text of a mail: plain if there is one, or else HTML."""
    mail = email.message_from_bytes(
        data.replace(b"\0", b"").lstrip(b"\xff\xfe"), EmailMessage, policy=email.policy.default
    )
    yield str(mail["subject"] or "")
    body = mail.get_body(("plain", "html"))
    if body is not None:
        text = body.get_content()
        yield _html(text.encode()) if body.get_content_subtype() == "html" else text


def _cells(notebook: Any) -> Iterator[str]:
    """Yield the sources of the cells of a notebook, and the texts that they gave."""
    for cell in notebook["cells"]:
        yield "".join(cell["source"])
        for output in cell.get("outputs", ()):
            shown = output.get("text") or output.get("data", {}).get("text/plain") or output.get("traceback") or ()
            yield _COLOUR.sub("", "".join(shown))


def _page_ranges(path: Path) -> Iterator[list[str]]:
    """Yield the options of pdftotext for pages of one size: without what is printed beside their visible part."""
    sizes = re.findall(r"(\d+) size: +([\d.]+) x ([\d.]+)", _output("pdfinfo", "-f", "1", "-l", "100000", str(path)))
    for (width, height), group in groupby(sizes, key=lambda size: (float(size[1]), float(size[2]))):
        pages = [page for page, _, _ in group]
        area = ["-x", "0", "-y", "0", "-W", str(round(width) + 1), "-H", str(round(height) + 1)]
        yield ["-f", pages[0], "-l", pages[-1], "-cropbox", *area]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, timeout=120).stdout.decode("utf-8", "replace")


def _parts(path: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if re.fullmatch(pattern, name):
                yield name, archive.read(name)


def _paragraphs(path: Path, pattern: str, paragraph: str, texts: tuple[str, ...]) -> Iterator[str]:
    """Yield the texts of the elements named ``texts``, in a line for each ``paragraph``, of the XML in a zip."""
    for _, data in _parts(path, pattern):
        root = etree.fromstring(data, _xml())
        # A picture for old programs repeats the text of the new one. Phonetic texts and deleted ones are not shown.
        for gone in root.xpath("//*[local-name()='Fallback' or local-name()='rPh' or local-name()='moveFrom']"):
            gone.getparent().remove(gone)
        for element in root.iter("{*}" + paragraph):
            own = (inner for inner in element.iterdescendants() if _within(inner, paragraph) is element)
            yield "".join(_piece(inner, texts) for inner in own)


def _within(element: etree._Element, name: str) -> etree._Element:
    """Return the nearest element of this name that holds ``element``."""
    return next(element.iterancestors("{*}" + name))


def _xml() -> etree.XMLParser:
    return etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)


def _open_document(path: Path) -> Iterator[str]:
    """Yield the paragraphs of an OpenDocument file, without numbers of notes, authors of comments and descriptions."""
    with zipfile.ZipFile(path) as archive:
        root = etree.fromstring(archive.read("content.xml"), _xml())
    open_paragraphs: list[list[str]] = []
    unseen = 0
    for event, element in etree.iterwalk(root, events=("start", "end"), tag="{*}*"):
        name = _name(element)
        starts = event == "start"
        is_unseen = name in _UNSEEN or (name in _DESCRIPTIONS and ":text:" not in element.tag)
        unseen += (1 if starts else -1) * is_unseen
        if name in ("p", "h") and starts:
            open_paragraphs.append([])
        elif name in ("p", "h"):
            yield "".join(open_paragraphs.pop())
        elif name in ("s", "tab", "line-break") and open_paragraphs and starts:
            open_paragraphs[-1].append(" ")
        if open_paragraphs and not unseen:
            open_paragraphs[-1].append((element.text if starts else element.tail) or "")


def _chapters(path: Path) -> Iterator[bytes]:
    """Yield the chapters of a book."""
    with zipfile.ZipFile(path) as archive:
        container = etree.fromstring(archive.read("META-INF/container.xml"), _xml())
        name = next(container.iter("{*}rootfile")).get("full-path")
        book = etree.fromstring(archive.read(name), _xml())
        targets = {item.get("id"): item.get("href") for item in book.iter("{*}item")}
        for reference in book.iter("{*}itemref"):
            yield archive.read(posixpath.join(posixpath.dirname(name), unquote(targets[reference.get("idref")])))


def _piece(element: etree._Element, texts: tuple[str, ...]) -> str:
    if _name(element) in texts:  # each reader joins the signs of a formula in its own way
        return " " if "/math" in element.tag else element.text or ""
    return " " if _name(element) in ("tab", "br", "cr", "noBreakHyphen") else ""


def _name(element: etree._Element) -> str:
    return etree.QName(element).localname if isinstance(element.tag, str) else ""


def _html(data: bytes) -> str:
    """Return the text in an HTML document, with its navigation, without its scripts."""
    try:
        parser = html.HTMLParser(encoding="utf-8" if data.decode("utf-8") else None)
    except UnicodeDecodeError:
        parser = html.HTMLParser()
    root = html.document_fromstring(data, parser)
    for element in root.iter(etree.Element):
        if element.tag not in _INLINE:
            element.text, element.tail = f"\n{element.text or ''}", f"\n{element.tail or ''}"
    hidden = " or ".join(f"ancestor::{name}" for name in _NOT_SHOWN)
    return "".join(root.xpath(f"//text()[not({hidden})]"))


if __name__ == "__main__":
    main()
