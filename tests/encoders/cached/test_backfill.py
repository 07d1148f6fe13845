"""`CachedEncoder.add`: documents of another store, encoded before the first query."""

from __future__ import annotations

import contextlib
import io
import logging
import subprocess
import sys
import time

import pytest
from helpers.word_encoder import TESTS, CountingEncoder, SeeingEncoder, WordEncoder
from PIL import Image

from smart_rag import CachedEncoder, Document, rerank
from smart_rag.errors import InvalidInput
from smart_rag.reports import BackfillReport
from smart_rag.types import Content

TEXTS = [f"passage {i} is about {word}" for i, word in enumerate(["cats", "dogs", "boats", "keys"] * 175)]


def test_rerank_encodes_nothing_after_it(tmp_path):
    encoder = CountingEncoder()
    cached = CachedEncoder(encoder, tmp_path)
    documents = [Document(str(i), text, {"page": i}) for i, text in enumerate(TEXTS)]
    assert cached.add(documents) == BackfillReport(added=700)
    assert sorted(encoder.documents) == sorted(TEXTS)
    encoder.documents.clear()
    hits = rerank("keys", documents, cached)
    rerank("keys", TEXTS, cached)
    assert encoder.documents == []
    assert hits[0].score == rerank("keys", TEXTS, CachedEncoder(WordEncoder(), tmp_path / "other"))[0].score


def test_what_is_there_is_skipped(tmp_path):
    encoder = CountingEncoder()
    cached = CachedEncoder(encoder, tmp_path)
    cached.encode_document(TEXTS[:300])
    assert cached.add(iter([*TEXTS, *TEXTS[:5]])) == BackfillReport(added=400, unchanged=305)
    assert cached.add(TEXTS) == BackfillReport(unchanged=700)
    assert sorted(encoder.documents) == sorted(TEXTS)
    assert cached.add([]) == BackfillReport()


def test_few_new_documents_among_many_are_encoded_together(tmp_path):
    class Batches(CountingEncoder):
        sizes = []  # noqa: RUF012

        def encode_document(self, texts):
            self.sizes.append(len(texts))
            return super().encode_document(texts)

    encoder = Batches()
    cached = CachedEncoder(encoder, tmp_path)
    cached.encode_document(TEXTS[::2])
    encoder.sizes.clear()
    cached.add(TEXTS)
    assert encoder.sizes == [256, 94]


def test_an_iterator_is_read_as_it_is_encoded(tmp_path):
    encoder = CountingEncoder()
    most = 0

    def read():
        nonlocal most
        for i, text in enumerate(TEXTS * 3):
            most = max(most, i - len(encoder.documents))
            yield f"{text} {i}"

    CachedEncoder(encoder, tmp_path).add(read())
    assert len(encoder.documents) == 2100
    assert 0 < most <= 512


def test_images(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(20)]
    for i, path in enumerate(paths):
        Image.new("RGB", (3, 3), (i, 0, 0)).save(path)
    encoder = SeeingEncoder()
    cached = CachedEncoder(encoder, tmp_path / "tokens")
    documents = [*(Document(path.name, "scan", image=path) for path in paths), Document("text", "only words")]
    read = 0

    def reading():
        nonlocal read
        for document in documents:
            read += 1
            assert read - len(encoder.documents) <= 16
            yield document

    assert cached.add(reading()) == BackfillReport(added=21)
    encoder.documents.clear()
    rerank("scan", documents, cached)
    assert cached.add([Content("scan", paths[0]), "only words"]) == BackfillReport(unchanged=2)
    assert encoder.documents == []


def test_what_cannot_be_encoded_is_counted_and_named(tmp_path, caplog):
    class Broken(SeeingEncoder):
        def encode_document(self, items):
            from smart_rag.files.content import open_image

            for item in items:
                if isinstance(item, Content):
                    open_image(item.image)
            return super().encode_document(items)

    (tmp_path / "broken.png").write_text("no image")
    Image.new("RGB", (3, 3)).save(tmp_path / "good.png")
    documents = [
        Document("a", "cats"),
        Document("empty", " \n"),
        Document("gone", image=tmp_path / "gone.png"),
        Document("broken", image=tmp_path / "broken.png"),
        Document("good", image=tmp_path / "good.png"),
        "",
    ]
    report = CachedEncoder(Broken(), tmp_path / "tokens").add(documents)
    assert (report.added, report.unchanged, report.left_out) == (2, 0, 4)
    reasons = dict(report.reasons)
    assert reasons.keys() == {"empty", "gone", "broken", "position 5"}
    assert reasons["empty"] == reasons["position 5"] == "no text"
    assert str(tmp_path / "gone.png") in reasons["gone"]
    warning = caplog.messages[-1]
    assert warning.startswith("4 documents were left out: ")
    assert "broken.png" in warning


def test_ten_are_named(tmp_path, caplog):
    report = CachedEncoder(WordEncoder(), tmp_path).add([""] * 300)
    assert (report.left_out, len(report.reasons)) == (300, 10)
    assert caplog.messages[-1].endswith("position 9: no text; and 290 more")


def test_no_folder_and_wrong_items_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="give it a folder"):
        CachedEncoder(WordEncoder()).add(TEXTS)
    cached = CachedEncoder(WordEncoder(), tmp_path)
    with pytest.raises(InvalidInput, match="got one str"):
        cached.add("a text")
    with pytest.raises(InvalidInput, match="got int"):
        cached.add([3])


def test_progress_on_a_terminal_and_off_it(tmp_path, caplog, monkeypatch):
    cached = CachedEncoder(WordEncoder(), tmp_path / "one")
    with contextlib.redirect_stderr(io.StringIO()) as shown:
        cached.add(iter(TEXTS), total=700, show_progress_bar=True)
    assert "700/700" in shown.getvalue()
    monkeypatch.setattr("smart_rag.progress._LOG_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "smart_rag"), contextlib.redirect_stderr(io.StringIO()) as shown:
        CachedEncoder(WordEncoder(), tmp_path / "two").add(TEXTS)
    assert shown.getvalue() == ""
    assert any(message.startswith("256 of 700 documents done, ") for message in caplog.messages)


SLOW = """
import sys, time
sys.path.insert(0, sys.argv[2])
from helpers.word_encoder import WordEncoder
from smart_rag import CachedEncoder

class Slow(WordEncoder):
    def encode_document(self, texts):
        time.sleep(0.2)
        return super().encode_document(texts)

CachedEncoder(Slow(), sys.argv[1]).add(f"passage {i}" for i in range(100_000))
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path), TESTS])
    encoder = CountingEncoder()
    cached = CachedEncoder(encoder, tmp_path)
    first = [f"passage {i}" for i in range(256)]
    try:
        while cached._stores.missing(cached._keys(map(Content, first))):
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    texts = [f"passage {i}" for i in range(10_000)]
    report = cached.add(texts)
    assert report.unchanged >= 256
    assert report.added + report.unchanged == 10_000
    assert report.added == len(encoder.documents) == len(set(encoder.documents))
    assert not set(first) & set(encoder.documents)
