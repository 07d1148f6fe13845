"""Readers of files, on files with random damage: each gives documents or one clear reason, and never a crash."""

from __future__ import annotations

import os
import random

import pytest
from helpers.odd_files import SUFFIXES, fpdf_pages
from helpers.office_files import epub, opendocument, pptx, shape, xlsx
from helpers.ole_files import doc, msg, ppt, xls
from helpers.text_files import word_file, write
from PIL import Image

from smart_rag import IndexConfig
from smart_rag.errors import DocumentError
from smart_rag.files import limits
from smart_rag.files.content import open_image
from smart_rag.files.reader import Reader

# Number of damaged files of each format in the long test, and the first seed.
FILES = int(os.environ.get("SMART_RAG_FUZZ", "300"))
SEED = int(os.environ.get("SMART_RAG_SEED", "0"))
HTML = "<html><body><h1>Title</h1><p>Keys &amp; boats</p><table><tr><td>1</td></tr></table></body></html>"


def sound_files(folder):
    """Return one sound file of each format, as bytes by suffix."""
    word_file(folder / "a.docx")
    texts = {".txt": "keys and boats\n" * 20, ".md": "# Title\n\nkeys [boat](x)\n" * 9, ".html": HTML * 9}
    return {
        **{suffix: text.encode() for suffix, text in texts.items()},
        ".pdf": fpdf_pages("keys and boats", "pumps"),
        ".docx": (folder / "a.docx").read_bytes(),
        ".csv": b"name;price\nkeys;1,50\nboats;2,00\n" * 9,
        ".json": b'{"keys": [1, {"boats": null}], "x": "\\u00e9"}',
        ".ipynb": b'{"cells": [{"source": ["keys"], "outputs": [{"text": ["boats"]}]}]}',
        ".eml": b"Subject: =?utf-8?q?keys?=\nFrom: a@b.c\nContent-Type: text/plain; charset=utf-8\n\nboats\n",
        ".rtf": rb"{\rtf1\ansi{\fonttbl{\f0\fcharset238 A;}}\f0 keys \u8364?{\footnote boats}\par}",
        **{path.suffix: path.read_bytes() for path in office_files(folder)},
    }


def office_files(folder):
    """Write one file of each office format."""
    rows = '<row><c r="A1" t="s"><v>0</v></c></row><row><c r="B2"><v>1.5</v></c></row>'
    yield pptx(folder / "a.pptx", shape("keys", "boats"), shape("pumps"))
    yield xlsx(folder / "a.xlsx", {"S": rows}, "<si><t>keys</t></si>")
    yield opendocument(folder / "a.odt", "text", "<text:p>keys <text:span>and</text:span> boats</text:p>")
    yield epub(folder / "a.epub", "<p>keys</p>", "<p>boats</p>")
    yield doc(folder / "a.doc", "keys ", "and ", "boats")
    yield ppt(folder / "a.ppt")
    yield xls(folder / "a.xls", S=[["keys", 1.5], ["boats", True]])
    yield msg(folder / "a.msg", {"0037": "keys", "1000": "boats", "__attach_1/3707": "a.pdf"})


def sound_images(folder):
    for kind, suffix in SUFFIXES.items():
        Image.effect_noise((40, 30), 50).convert("RGB").save(folder / f"a{suffix}", kind)
    return {suffix: (folder / f"a{suffix}").read_bytes() for suffix in SUFFIXES.values()}


def damaged(data, chosen):
    """Return ``data`` with bits flipped, a piece cut out, doubled or replaced, or its end cut off."""
    data = bytearray(data)
    for _ in range(chosen.choice([1, 1, 3, 20])):
        start, length = chosen.randrange(len(data)), chosen.choice([1, 4, 100, 1000])
        piece = bytes(data[start : start + length])
        what = chosen.randrange(5)
        if what == 0:
            data[start] ^= 1 << chosen.randrange(8)
        elif what == 1:
            data[start : start + length] = b"" if len(data) > length else piece
        elif what == 2:
            data[start:start] = piece
        elif what == 3:
            data[start : start + length] = chosen.randbytes(len(piece))
        else:
            data[start : start + 4] = chosen.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"-1", b"9" * 9])
    return bytes(data)


def read_damaged(folder, files, seed):
    """Read ``files`` damaged files of each format. Return how many gave documents, and how many a reason."""
    chosen = random.Random(seed)
    reader = Reader(("text",), lambda text: len(text.split()), IndexConfig())
    read, refused = 0, []
    with limits(file_seconds=20, file_memory=1.0):
        for suffix, data in sound_files(folder).items():
            for i in range(files):
                path = write(folder / f"damaged{i}{suffix}", damaged(data, chosen))
                try:
                    assert all(document.text.strip() for document in reader.read(path).documents)
                    read += 1
                except DocumentError as error:
                    refused.append((error, path))
        for suffix, data in sound_images(folder).items():
            for i in range(files):
                path = write(folder / f"damaged{i}{suffix}", damaged(data, chosen))
                try:
                    assert open_image(path, 10_000).size
                    read += 1
                except DocumentError as error:
                    refused.append((error, path))
    for error, path in refused:
        assert error.path == path
        assert error.reason
        assert "\n" not in error.reason
    return read, len(refused)


@pytest.mark.filterwarnings("default")
def test_some_damaged_files(tmp_path):
    read, refused = read_damaged(tmp_path, 4, SEED)
    assert read + refused == 4 * (len(sound_files(tmp_path)) + len(SUFFIXES))
    assert min(read, refused) > 3


@pytest.mark.faults
@pytest.mark.timeout(7200)
@pytest.mark.filterwarnings("default")
def test_many_damaged_files(tmp_path):
    read, refused = read_damaged(tmp_path, FILES, SEED + 1)
    assert min(read, refused) > FILES
