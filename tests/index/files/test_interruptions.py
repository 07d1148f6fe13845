"""`SmartIndex.add_files`: a run that was interrupted can be made again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers.indexed_files import CONFIG, FoldingEncoder, assert_whole, content, expected, texts
from helpers.text_files import write

from smart_rag import SmartIndex
from smart_rag.encoders.protocol import token_counter
from smart_rag.files.reader import Reader
from smart_rag.index.writing.duplicates import Duplicates
from smart_rag.index.writing.file_ingest import FileIngest
from smart_rag.index.writing.moves import Moves
from smart_rag.reports import AddReport


class Interruption(Exception):
    """What stops a run in these tests."""


def story(first: int, stop: int) -> str:
    return " ".join(f"Sentence number {i} says {i * i}." for i in range(first, stop))


@pytest.mark.parametrize(
    "change", ["new", "shorter", *(pytest.param(one, marks=pytest.mark.slow) for one in ("longer", "other"))]
)
def test_an_interrupted_run_can_be_made_again(tmp_path, change):
    """Whatever was there before, and wherever it stops, the second run brings what one run would have."""
    folder = tmp_path / "docs"
    big, small = folder / "big.txt", folder / "small.txt"
    versions = {"new": None, "longer": story(0, 40), "shorter": story(0, 400), "other": story(1000, 1300)}
    write(small, "A small file. It stays the same.")

    def prepared(name):
        index = SmartIndex.create(tmp_path / name, FoldingEncoder(), config=CONFIG)
        if versions[change] is not None:
            write(big, versions[change])
            index.add_files([folder])
        write(big, story(0, 300))
        return index

    with prepared("whole") as whole, prepared("stopped") as stopped:
        whole.add_files([folder])
        acknowledged = []

        def stop(ids):
            acknowledged.extend(ids)
            raise Interruption

        with pytest.raises(Interruption):
            stopped.add_files([folder], on_commit=stop)
        assert acknowledged
        assert expected(folder) != {d.id: d for d in stopped.documents()}
        assert {d.text for d in stopped.get(acknowledged)} <= set(texts(whole))
        assert stopped.verify().sound
        stopped.close()

        encoder = FoldingEncoder()
        with SmartIndex.open(stopped.path, encoder) as again:
            report = again.add_files([folder])
            assert report.failed == ()
            assert not set(encoder.documents) & {d.text for d in again.get(acknowledged)}
            assert content(again) == content(whole)
            assert {d.id: d for d in again.documents()} == expected(folder)
            assert_whole(again)
            encoder.documents.clear()
            assert again.add_files([folder]) == AddReport(unchanged=again.count())
            assert encoder.documents == []


def test_a_run_that_fails_in_the_encoder_can_be_made_again(tmp_path, folder):
    class Failing(FoldingEncoder):
        def encode_document(self, documents):
            if any("Taxes" in text for text in documents):
                raise RuntimeError("the encoder gave up")
            return super().encode_document(documents)

    with SmartIndex.create(tmp_path / "index", Failing(), config=CONFIG) as index:
        index.add_files([folder / "cats.txt"])
        with pytest.raises(RuntimeError, match="gave up"):
            index.add_files([folder])
        assert len(texts(index, folder / "cats.txt")) == 3
    with SmartIndex.open(tmp_path / "index", FoldingEncoder()) as index:
        assert index.add_files([folder]).unchanged == 3
        assert {d.id: d for d in index.documents()} == expected(folder)


def test_files_of_a_window_are_written_before_the_next_is_read(tmp_path, monkeypatch):
    """Memory stays bounded: what was read is on disk before more than a window of documents has gathered."""
    from smart_rag.index.writing import file_ingest as ingest

    monkeypatch.setattr(ingest, "_WINDOW", 4)
    folder = tmp_path / "docs"
    for i in range(6):
        write(folder / f"{i}.txt", f"File number {i} has two. Sentences in it, not one.")
    sizes = []
    with SmartIndex.create(tmp_path / "index", FoldingEncoder(), config=CONFIG) as index:
        report = index.add_files([folder], on_commit=lambda ids: sizes.append(len(ids)))
        assert sizes == [4, 4, 4]
        assert report == AddReport(added=12)
        write(folder / "0.txt", "Only one now.")
        assert index.add_files([folder]) == AddReport(replaced=1, unchanged=10, removed=1)
        assert {d.id: d for d in index.documents()} == expected(folder)
        assert_whole(index)


def test_progress_of_files_is_seen_and_kept(index, tmp_path):
    """Files are told and on disk soon after they are read, and those that are unchanged at once."""
    paths = [write(tmp_path / "docs" / f"{i}.txt", f"File {i}.") for i in range(600)]
    done = []
    waiting = []

    def taken():
        for i, path in enumerate(paths):
            waiting.append((i - sum(done), i - index.count()))
            yield path

    with index._ingest(None, "file", False, None) as quiet:
        ingest = replace(quiet, on_progress=done.append)
        files = FileIngest(
            Moves(ingest, Duplicates(index.path)), Reader({"text"}, token_counter(FoldingEncoder()), CONFIG)
        )
        assert files.add(taken()) == AddReport(added=600)
        assert max(max(pair) for pair in waiting) < 300
        assert sum(done) == 600
        done.clear()
        waiting.clear()
        assert files.add(taken()) == AddReport(unchanged=600)
        assert {unseen for unseen, _ in waiting} == {0}
