"""Readers of files, on files with random damage: each gives documents or one clear reason, and never a crash."""

from __future__ import annotations

import os
import random

import pytest
from helpers.odd_files import SUFFIXES, fpdf_pages
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
    }


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
    assert read + refused == 4 * (5 + len(SUFFIXES))
    assert min(read, refused) > 3


@pytest.mark.faults
@pytest.mark.timeout(7200)
@pytest.mark.filterwarnings("default")
def test_many_damaged_files(tmp_path):
    read, refused = read_damaged(tmp_path, FILES, SEED + 1)
    assert min(read, refused) > FILES
