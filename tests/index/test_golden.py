"""Indexes that this and earlier versions of smart_rag have written. `golden/` has one of each format."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from helpers.golden import METADATA, TEXTS, GoldenEncoder, make

from smart_rag import Document, SmartIndex
from smart_rag.index.manifest import FORMAT_VERSION

GOLDEN = sorted((Path(__file__).parent / "golden").glob("format*.zip"))
RANKINGS = {
    "oil of the pump": {"b": 2.956692, "a": 2.26726, "c": 1.477577, "old": 0.459543, "picture": 0.314127},
    "keys boat": {"c": 3.533221, "old": 1.800203, "b": 1.396648, "a": 0.540941, "picture": 0.515144},
}


@pytest.fixture(params=GOLDEN, ids=lambda path: path.stem)
def folder(request, tmp_path):
    with zipfile.ZipFile(request.param) as archive:
        archive.extractall(tmp_path / "index")
    return tmp_path / "index"


def check(index, stages=("auto", "terms", "pooled", "exhaustive")):
    assert {document.id: document.text for document in index.documents()} == TEXTS
    (first, second, picture) = index.get(["a", "b", "picture"])
    assert first.metadata == METADATA
    assert second.metadata == {"tags": ["y"], "name": "Größe"}
    assert picture.image.parent == index.path / "images"
    assert picture.image.is_file()
    for question, expected in RANKINGS.items():
        for stage in stages:
            hits = index.search(question, 5, first_stage=stage)
            assert {hit.id: hit.score for hit in hits} == pytest.approx(expected, abs=1e-5)
    assert index.verify().sound


def test_each_format_has_an_index():
    # The second of format 4 has centroids in terms/, and the last two have traces of their pooled embeddings.
    versions = [2, 3, 4, 4, 4]
    for path, version in zip(GOLDEN, versions, strict=True):
        with zipfile.ZipFile(path) as archive:
            assert json.loads(archive.read("manifest.json"))["format_version"] == version
    assert versions[-1] == FORMAT_VERSION


def test_a_new_index_is_the_same(tmp_path):
    make(tmp_path / "index")
    with SmartIndex.open(tmp_path / "index", GoldenEncoder()) as index:
        check(index)


def test_it_opens_and_is_searched(folder):
    with SmartIndex.open(folder, GoldenEncoder()) as index:
        check(index)


def test_one_has_centroids(tmp_path):
    """The picture, of which a codebook was made. It is found by it."""
    with zipfile.ZipFile(GOLDEN[-2]) as archive:
        archive.extractall(tmp_path / "index")
    with SmartIndex.open(tmp_path / "index", GoldenEncoder()) as index:
        query = GoldenEncoder().encode_query(["a red image"])
        assert index._store.centroids.best(query.tokens.embeddings, None, 5) == []  # one centroid is no choice
        [row] = index._store.pooled.get(["picture"]).values()
        [book] = index._store.centroids._codebooks.all()
        [terms] = index._store._terms.get([row.revision])
        words = sorted(map(GoldenEncoder.id_of, ["red", "image"]))
        assert terms.tolist() == [*words, book.first]


def test_it_is_written_and_brought_up_to_date(folder):
    with SmartIndex.open(folder, GoldenEncoder()) as index:
        index.add([Document("new", "a lamp", {"tags": ["x"]})])
        index.delete(["new"])
        index.vacuum()
        check(index)
        assert [document.id for document in index.documents({"tags": {"$contains": "x"}})] == ["a"]
    with SmartIndex.open(folder, GoldenEncoder()) as index:
        assert index.manifest.format_version == FORMAT_VERSION
        check(index)
        index.convert(codec="2bit/2")
        assert index.count() == len(TEXTS)


def test_a_copy_of_it_is_the_same(folder, tmp_path):
    with SmartIndex.open(folder, GoldenEncoder()) as index:
        index.snapshot(tmp_path / "copy")
    with SmartIndex.open(tmp_path / "copy", GoldenEncoder()) as copy:
        check(copy)


def test_tokens_are_repaired_in_it(folder):
    """Rows of older formats have no checksum, and a repair must not call them altered for this."""
    shutil.rmtree(folder / "terms")
    with SmartIndex.open(folder, GoldenEncoder()) as index:
        index._store.tokens.delete([row.key for row in index._store.pooled.select()])
        index.verify(repair=True)
        check(index)
