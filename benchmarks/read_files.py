"""What is read of the files in a folder: words found, seconds and memory for each format.

The words of each file are compared with those that an independent reader finds: `pdftotext` for PDFs, the raw XML of
office files, lxml for HTML, and the bytes of plain text. A word that occurs three times must be found three times.

python benchmarks/read_files.py FOLDER [--limit N] [--seconds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import resource
import subprocess
import sys
import time
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import groupby
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from lxml import etree, html
from report import show, write

from smart_rag.errors import SmartRagError
from smart_rag.files.reader import FORMATS, read

_LOWEST = 0.95  # a file with a smaller share of its words is named
_PLAIN = (".txt", ".md", ".markdown", ".csv", ".tsv", ".log", ".rst", ".tex", ".org", ".json", ".jsonl")
# Hyphens within a word and at the end of a line are no difference: each reader joins words in its own way.
_HYPHEN = re.compile(r"(?<=\w)[-\u00ad\u2010\u2011]\s*(?=\w)")
# The elements of a paragraph, and of pieces of text in it, in the XML of each format.
_PARTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    ".docx": (r"word/document\.xml", "p", ("t",)),
    ".pptx": (r"ppt/slides/slide\d+\.xml", "p", ("t",)),
    ".xlsx": (r"xl/(sharedStrings|worksheets/sheet\d+)\.xml", "si", ("t",)),
    ".odt": (r"content\.xml", "body", ("p", "h")),
    ".odp": (r"content\.xml", "body", ("p", "h")),
    ".ods": (r"content\.xml", "body", ("p", "h")),
}

# The elements of HTML that do not end a word.
_INLINE = frozenset(("a", "abbr", "b", "bdi", "bdo", "cite", "code", "del", "dfn", "em", "font", "i", "ins", "kbd"))
_INLINE |= {"mark", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "tt", "u", "var", "wbr"}


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
    parser.add_argument("--limit", type=int, help="files of each format (default: all)")
    parser.add_argument("--seconds", type=float, default=120.0, help="for one file (default: 120)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    readings: dict[str, list[Reading]] = {}
    for path in sorted(arguments.folder.rglob("*")):
        suffix = path.suffix.lower()
        if suffix not in FORMATS or not path.is_file() or len(readings.get(suffix, [])) == arguments.limit:
            continue
        readings.setdefault(suffix, []).append(_reading(path, arguments.folder, arguments.seconds))
    show(f"files of {arguments.folder.name}", {suffix: _row(all) for suffix, all in sorted(readings.items())}, _COLUMNS)
    for suffix, all in sorted(readings.items()):
        for reading in sorted(all, key=lambda reading: reading.share):
            if reading.error and reading.expected:
                print(f"{suffix}: not read: {reading.file}: {reading.error} ({reading.expected:,} words)")
            elif reading.share < _LOWEST:
                reported = f" ({'; '.join(reading.left_out)})" if reading.left_out else ""
                print(f"{suffix}: {reading.share:.1%} of {reading.expected:,} words: {reading.file}{reported}")
    if arguments.json is not None:
        files = {suffix: [asdict(reading) for reading in all] for suffix, all in readings.items()}
        write(arguments.json, folder=arguments.folder.name, files=files)


_COLUMNS = (
    *("files", "not read", "compared", "words", "found %", "median %", "below 95 %"),
    *("seconds", "slowest", "peak MB"),
)


def _row(readings: list[Reading]) -> dict[str, float]:
    """Return the figures of one format. A file that was not read counts among the files and not among the words."""
    compared = [reading for reading in readings if reading.expected and not reading.error]
    row: dict[str, float] = {
        "files": len(readings),
        "not read": sum(bool(reading.error) for reading in readings),
        "compared": len(compared),
        "words": sum(reading.expected for reading in compared),
        "below 95 %": sum(reading.share < _LOWEST for reading in compared),
        "seconds": sum(reading.seconds for reading in readings),
        "slowest": max(reading.seconds for reading in readings),
        "peak MB": max(reading.megabytes for reading in readings),
    }
    if compared:
        row["found %"] = 100 * sum(reading.found for reading in compared) / row["words"]
        row["median %"] = 100 * median(reading.share for reading in compared)
    return row


def _reading(path: Path, folder: Path, seconds: float) -> Reading:
    """Read a file in a process of its own, and compare its words with those of the independent reader."""
    expected = _words(_reference(path))
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_read, args=(path, expected, theirs))
    process.start()
    theirs.close()
    reading = Reading(str(path.relative_to(folder)), expected=expected.total())
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
    started, texts, error, left_out = time.perf_counter(), [], "", {}
    try:
        for page in read(path):
            texts.append(f"{page.header}\n{page.text}" if page.header else page.text)
            left_out |= dict.fromkeys(page.left_out)
    except SmartRagError as failure:
        error = str(getattr(failure, "reason", failure))
    taken = time.perf_counter() - started
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
        if suffix == ".epub":
            return "\n".join(_html(data) for _, data in _parts(path, r".*\.x?html?"))
        if suffix in (".html", ".htm", ".xhtml"):
            return _html(path.read_bytes())
        return path.read_text("utf-8") if suffix in _PLAIN else ""
    except (OSError, ValueError, zipfile.BadZipFile, etree.LxmlError, subprocess.TimeoutExpired):
        return ""


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
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)
    for _, data in _parts(path, pattern):
        root = etree.fromstring(data, parser)
        # A picture for old programs repeats the text of the new one. What a tracked deletion holds is not shown.
        for gone in root.xpath("//*[local-name()='Fallback' or local-name()='tracked-changes']"):
            gone.getparent().remove(gone)
        for element in root.iter("{*}" + paragraph):
            nested = {id(inner) for child in element.iterdescendants("{*}" + paragraph) for inner in child.iter()}
            own = [inner for inner in element.iterdescendants() if id(inner) not in nested]
            if paragraph == "body":
                yield from (" ".join("".join(inner.itertext()).split()) for inner in own if _name(inner) in texts)
            else:
                yield "".join(_piece(inner, texts) for inner in own)


def _piece(element: etree._Element, texts: tuple[str, ...]) -> str:
    if _name(element) in texts:
        return element.text or ""
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
    hidden = " or ".join(f"ancestor::{name}" for name in ("script", "style", "template", "noscript", "head"))
    return "".join(root.xpath(f"//text()[not({hidden})]"))


if __name__ == "__main__":
    main()
