"""`SmartIndex.add_files` and `delete_source`: files come, change, shrink, break and go."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import tempfile
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import docx
import numpy as np
import pytest
from fpdf import FPDF
from helpers import bad_parsers
from helpers.hostile_files import nested_forms
from helpers.odd_files import fpdf_pages
from helpers.other_users import as_nobody

from smart_rag import Document, IndexConfig, Representation, SmartIndex
from smart_rag.encoders.protocol import Encoder, token_counter
from smart_rag.errors import InvalidInput
from smart_rag.files import limits
from smart_rag.files.finder import find
from smart_rag.files.reader import Reader
from smart_rag.files.worker import call
from smart_rag.index.writing import file_ingest
from smart_rag.index.writing.duplicates import Duplicates
from smart_rag.index.writing.file_ingest import FileIngest
from smart_rag.index.writing.indexed_files import is_gone
from smart_rag.index.writing.moves import Moves
from smart_rag.reports import AddReport, SkippedFile

CONFIG = IndexConfig(chunk_tokens=6, chunk_overlap=0)


class Recorder:
    """A deterministic encoder that remembers what it encoded: a token for each word, pooled is their mean."""

    def __init__(self):
        self.encoded = []

    @property
    def dimension(self):
        return 12

    @property
    def fingerprint(self):
        return "recorder"

    def describe(self):
        return {"model": "recorder"}

    def encode_query(self, queries):
        return self._encode(queries)

    def encode_document(self, documents):
        self.encoded += documents
        return self._encode(documents)

    def _encode(self, texts):
        tokens = [np.stack([self._word(word) for word in text.lower().split()]) for text in texts]
        return Representation.from_embeddings(np.stack([matrix.mean(axis=0) for matrix in tokens]), tokens)

    def _word(self, word):
        return np.random.default_rng(zlib.crc32(word.strip(".,#").encode())).standard_normal(self.dimension)


assert isinstance(Recorder(), Encoder)


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def index(tmp_path, recorder):
    with SmartIndex.create(tmp_path / "index", recorder, config=CONFIG) as index:
        yield index
        assert_whole(index)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "docs"
    write(folder / "cats.txt", "The cat sat on the mat. It purred all day long. Nobody knew why it purred.")
    write(folder / "deep" / "dogs.md", "Dogs bark at strangers at night. The postman runs away again.")
    write(folder / "tax.html", "<p>Taxes are due in late April.</p>")
    return folder


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def assert_whole(index):
    """Every document has its tokens, and no tokens are left of documents that are gone."""
    report = index.verify()
    assert report.sound
    assert report.orphans == 0


def texts(index, path=None):
    """The texts of the index, or of one file of it, in the file's order."""
    where = None if path is None else {"source": str(path.resolve())}
    return [d.text for d in sorted(index.documents(where), key=lambda d: (d.metadata["source"], d.metadata["chunk"]))]


def expected(*paths):
    """The documents that these files are to be, by id."""
    reader = Reader({"text"}, token_counter(Recorder()), CONFIG)
    return {d.id: d for path in find(paths).files for d in reader.read(path).documents}


def content(index):
    """All that a search can see: documents, tokens and pooled scores."""
    documents = {d.id: d for d in index.documents()}
    ids = sorted(documents)
    tokens = {id: matrix.tobytes() for id, matrix in zip(ids, index.tokens(ids), strict=True)}
    pooled = {hit.id: hit.pooled_score for hit in index.search("cat", top_k=max(len(ids), 1), first_stage="exhaustive")}
    return documents, tokens, pooled


def found(index, query):
    return index.search(query, top_k=1, first_stage="exhaustive")[0]


# --- a first run and a second ---------------------------------------------------------------


def test_a_first_run_adds_what_the_files_hold(index, folder, recorder):
    report = index.add_files([folder])
    assert report == AddReport(added=6)
    assert {d.id: d for d in index.documents()} == expected(folder)
    assert sorted(recorder.encoded) == sorted(texts(index))
    assert texts(index, folder / "cats.txt") == [
        "The cat sat on the mat.",
        "It purred all day long.",
        "Nobody knew why it purred.",
    ]
    hit = found(index, "strangers bark")
    assert (hit.text, hit.source, hit.page) == (
        "Dogs bark at strangers at night.",
        str((folder / "deep" / "dogs.md").resolve()),
        None,
    )


def test_a_pdf_brings_its_page_numbers(index, tmp_path):
    pdf = FPDF()
    pdf.set_font("Helvetica", size=12)
    for text in ("The cat sat.", "", "Dogs bark loudly."):
        pdf.add_page()
        pdf.cell(0, 8, text)
    index.add_files([write(tmp_path / "a.pdf", bytes(pdf.output()))])
    assert found(index, "dogs bark").page == 3
    assert found(index, "cat sat").page == 1


def test_a_second_run_encodes_nothing(index, folder, recorder):
    index.add_files([folder])
    before = content(index)
    recorder.encoded.clear()
    assert index.add_files([folder]) == AddReport(unchanged=6)
    assert recorder.encoded == []
    assert content(index) == before


def test_a_second_run_in_an_index_that_was_reopened_encodes_nothing(tmp_path, folder):
    with SmartIndex.create(tmp_path / "index", Recorder(), config=CONFIG) as index:
        index.add_files([folder])
        before = content(index)
    recorder = Recorder()
    with SmartIndex.open(tmp_path / "index", recorder) as index:
        assert index.add_files([folder]) == AddReport(unchanged=6)
        assert recorder.encoded == []
        assert content(index) == before


def test_a_file_that_was_touched_is_unchanged(index, folder, recorder):
    index.add_files([folder])
    recorder.encoded.clear()
    path = folder / "cats.txt"
    path.write_bytes(path.read_bytes())
    os.utime(path, (1, 1))
    assert index.add_files([path]) == AddReport(unchanged=3)
    assert recorder.encoded == []


def test_a_path_may_be_a_str_alone(index, folder):
    assert index.add_files(str(folder / "tax.html")) == AddReport(added=1)
    assert index.add_files(folder / "tax.html") == AddReport(unchanged=1)


def test_patterns_are_passed_on(index, folder):
    index.add_files([folder], include=["*.txt", "deep/*"], exclude=["cats.*"])
    assert {Path(d.metadata["source"]).name for d in index.documents()} == {"dogs.md"}


def test_commits_are_told(index, folder):
    told = []
    index.add_files([folder], on_commit=told.extend)
    assert sorted(told) == sorted(d.id for d in index.documents())


def test_a_folder_without_documents_or_a_missing_path_writes_nothing(index, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"no documents found in .*empty"):
        index.add_files([tmp_path / "empty"])
    with pytest.raises(InvalidInput, match="gone does not exist"):
        index.add_files([tmp_path / "gone", tmp_path / "gone"])
    assert index.count() == 0


def test_a_missing_path_among_others_costs_only_itself(index, folder, tmp_path):
    report = index.add_files([tmp_path / "gone", folder])
    assert [(one.path, one.reason[:14]) for one in report.failed] == [(tmp_path / "gone", "does not exist")]
    assert report.added == 6


# --- files change ---------------------------------------------------------------------------


def test_a_file_that_changed_replaces_its_documents(index, folder, recorder):
    index.add_files([folder])
    others = [text for text in texts(index) if text not in texts(index, folder / "cats.txt")]
    recorder.encoded.clear()
    write(folder / "cats.txt", "The cat sat on the mat. A walrus slept on the ice. Nobody knew why it slept.")
    assert index.add_files([folder]) == AddReport(replaced=3, unchanged=3)
    assert sorted(recorder.encoded) == ["A walrus slept on the ice.", "Nobody knew why it slept."]
    assert found(index, "walrus slept").text == "A walrus slept on the ice."
    assert not any("purred" in text for text in texts(index))
    assert index.search("purred", where_document={"$contains": "purred"}) == []
    assert set(others) < set(texts(index))
    assert_whole(index)
    assert index.add_files([folder]) == AddReport(unchanged=6)


def test_a_file_that_shrank_loses_its_surplus(index, folder):
    index.add_files([folder])
    write(folder / "cats.txt", "The cat sat on the mat.")
    report = index.add_files([folder])
    assert report == AddReport(replaced=1, unchanged=3, removed=2)
    assert texts(index, folder / "cats.txt") == ["The cat sat on the mat."]
    assert_whole(index)
    assert index.add_files([folder]) == AddReport(unchanged=4)


def test_a_file_that_grew_gains_documents(index, folder):
    index.add_files([folder])
    with (folder / "tax.html").open("a") as file:
        file.write("<p>Fines are due in early May.</p>")
    assert index.add_files([folder]) == AddReport(added=1, replaced=1, unchanged=5)
    assert texts(index, folder / "tax.html") == ["Taxes are due in late April.", "Fines are due in early May."]


def test_a_document_of_the_caller_is_not_replaced_by_a_passage(index, folder):
    own = Document(f"{folder / 'cats.txt'}#0", "My own words.")
    index.add([own])
    report = index.add_files([folder])
    (failed,) = report.failed
    assert failed.path == folder / "cats.txt"
    assert failed.reason == (
        f"its passage would replace the document {own.id!r}, which was not added from a file; delete that document, or "
        "give it another id"
    )
    assert index.get([own.id]) == [own]
    assert {document.metadata.get("source") for document in index.documents()} == {
        *(None, str(folder / "deep" / "dogs.md"), str(folder / "tax.html"))
    }
    moved = folder / "moved.html"
    index.add([Document(f"{moved}#0", "My own words, too.")])
    (folder / "tax.html").rename(moved)
    assert {failed.path for failed in index.add_files([folder]).failed} == {folder / "cats.txt", moved}
    assert index.get([f"{moved}#0"])[0].text == "My own words, too."
    index.delete([own.id, f"{moved}#0"])
    report = index.add_files([folder])
    assert (report.failed, report.moved) == ((), 1)
    assert texts(index, folder / "cats.txt")[0].startswith("The cat sat")


def test_files_with_the_same_bytes_are_added_once(index, tmp_path, recorder):
    one, other = (write(tmp_path / "docs" / name, "The cat sat on the mat.") for name in ("one.txt", "other.txt"))
    third = write(tmp_path / "docs" / "third.md", "The cat sat on the mat.")  # it is read in another way
    for count in (AddReport(added=2), AddReport(unchanged=2)):
        report = index.add_files([tmp_path / "docs"])
        assert report == count
        assert report.skipped == (SkippedFile(other, "the same content as another file", str(one)),)
    assert recorder.encoded == ["The cat sat on the mat."]
    # As soon as they differ, both are added.
    write(one, "Dogs bark at strangers at night.")
    assert index.add_files([tmp_path / "docs"]) == AddReport(replaced=1, unchanged=1, moved=1)
    # As soon as they are equal again, one of them goes.
    write(other, "Dogs bark at strangers at night.")
    assert index.add_files([tmp_path / "docs"]) == AddReport(unchanged=2, removed=1)
    # If the file that is in the index goes, the other one takes its place.
    one.unlink()
    assert index.add_files([tmp_path / "docs"]) == AddReport(unchanged=1, moved=1)
    assert {d.id for d in index.documents()} == {f"{other}#0", f"{third}#0"}
    assert recorder.encoded[1:] == ["Dogs bark at strangers at night."]
    assert_whole(index)


def test_another_name_of_a_file_that_was_indexed_goes(index, tmp_path):
    """Hard links and links that are left at the old place."""
    docs = tmp_path / "docs"
    first = write(docs / "z.txt", "The cat sat on the mat.")
    index.add_files([docs])
    os.link(first, docs / "a.txt")
    write(first, "Dogs bark at strangers at night.")
    report = index.add_files([docs])
    assert [d.id for d in index.documents()] == [f"{docs / 'a.txt'}#0"]
    assert found(index, "dogs bark").text.startswith("Dogs")
    assert (docs / "z.txt") in {one.path for one in report.skipped}
    (docs / "a.txt").unlink()
    (docs / "z.txt").rename(docs / "moved.txt")
    (docs / "z.txt").symlink_to(docs / "moved.txt")
    assert index.add_files([docs]) == AddReport(moved=1)
    write(docs / "moved.txt", "Fish swim.")
    assert index.add_files([docs]) == AddReport(replaced=1)
    assert [(d.id, d.text) for d in index.documents()] == [(f"{docs / 'moved.txt'}#0", "Fish swim.")]


def test_a_twin_that_is_not_whole_is_no_reason_to_leave_a_file_out(index, tmp_path):
    text = "The cat sat on the mat. It purred all day long. Nobody knew why it purred."
    one = write(tmp_path / "a" / "one.txt", text)
    index.add_files([one])
    index.delete([f"{one}#1"])
    other = write(tmp_path / "b" / "other.txt", text)
    report = index.add_files([tmp_path / "b"])
    assert report.added == report.read[0].passages == 3
    assert {d.metadata["source"] for d in index.documents()} == {str(one), str(other)}


def test_files_that_are_left_out_now_are_named_and_pruned(index, folder, caplog):
    index.add_files([folder])
    write(folder / ".gitignore", "cats.txt\n")
    assert index.add_files([folder], exclude=["*.html"]).removed == 0
    assert "1 file of the index is left out now; the option prune removes its passages" in caplog.text
    assert index.add_files([folder], exclude=["*.html"], prune=True).removed == 3
    assert {Path(d.metadata["source"]).name for d in index.documents()} == {"dogs.md", "tax.html"}


def test_prune_of_a_folder_whose_last_file_is_gone(index, folder):
    index.add_files([folder / "deep"])
    (folder / "deep" / "dogs.md").unlink()
    with pytest.raises(InvalidInput, match="no documents found"):
        index.add_files([folder / "deep"])
    assert index.add_files([folder / "deep"], prune=True).removed == 2
    assert index.count() == 0


def test_files_are_read_once_more_if_they_are_read_in_a_better_way(index, folder, recorder, monkeypatch):
    monkeypatch.setattr(file_ingest, "_READING", "")  # as releases before did
    index.add_files([folder])
    assert index.add_files([folder]) == AddReport(unchanged=6)
    monkeypatch.undo()
    recorder.encoded.clear()
    assert index.add_files([folder]) == AddReport(replaced=6)
    assert recorder.encoded == []
    assert index.add_files([folder]) == AddReport(unchanged=6)


def test_long_metadata_of_a_file_are_cut(index, tmp_path):
    """Each passage holds them. The text has all of them."""
    receivers = ", ".join(f"somebody{i}@example.org" for i in range(300))
    write(tmp_path / "a.eml", f"Subject: Keys\nTo: {receivers}\nTo: last@example.org\n\n" + "Keys hang here. " * 200)
    index.add_files([tmp_path / "a.eml"])
    found = list(index.documents())
    assert len(found) > 100
    assert {len(d.metadata["to"]) for d in found} == {501}
    assert {d.metadata["subject"] for d in found} == {"Keys"}
    assert "last@example.org" in " ".join(d.text for d in found)


def test_a_folder_that_was_moved_is_known_again(index, folder, recorder):
    index.add_files([folder])
    before = {d.id.removeprefix(str(folder)): (d.text, d.metadata) for d in index.documents()}
    scores = [(hit.text, hit.score) for hit in index.search("cats and taxes", 6)]
    recorder.encoded.clear()
    new = folder.rename(folder.with_name("renamed"))
    assert {one.exists for one in index.sources()} == {False}
    report = index.add_files([new])
    assert report == AddReport(moved=6)
    assert recorder.encoded == []
    after = {d.id.removeprefix(str(new)): (d.text, d.metadata) for d in index.documents()}
    assert after.keys() == before.keys()
    for name, (text, metadata) in after.items():
        old = before[name][1]
        assert (text, metadata) == (
            before[name][0],
            {**old, "source": str(new) + old["source"].removeprefix(str(folder))},
        )
    assert [(hit.text, hit.score) for hit in index.search("cats and taxes", 6)] == scores
    assert {one.exists for one in index.sources()} == {True}
    assert index.add_files([new]) == AddReport(unchanged=6)
    assert_whole(index)


def test_a_file_that_was_moved_and_changed_is_another_file(index, folder):
    index.add_files([folder])
    write((folder / "cats.txt").rename(folder / "lions.txt"), "Lions roar.")
    report = index.add_files([folder], prune=True)
    assert (report.added, report.moved, report.removed + report.unchanged) == (1, 0, 6)


def test_rows_of_a_moved_file_that_were_altered_are_read_again(index, folder, recorder):
    index.add_files([folder])
    with sqlite3.connect(index.path / "chroma" / "chroma.sqlite3") as database:
        sql = "update embedding_metadata set string_value='forged' where key='chroma:document' and string_value like ?"
        assert database.execute(sql, ["%cat%"]).rowcount > 0
    (folder / "cats.txt").rename(folder / "lions.txt")
    report = index.add_files([folder], prune=True)
    assert (report.added, report.moved, report.removed) == (3, 0, 3)
    assert_whole(index)


def test_nobody_knows_whether_a_file_in_a_closed_folder_is_gone():
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        write(root / "closed" / "a.txt", "Words.")
        assert not is_gone(root / "closed" / "a.txt")
        assert is_gone(root / "closed" / "b.txt")
        assert is_gone(root / "closed" / "a.txt" / "b.txt")
        (root / "closed").chmod(0)
        with as_nobody():
            assert not is_gone(root / "closed" / "a.txt")
            assert not is_gone(root / "closed" / "b.txt")
        (root / "closed").chmod(0o700)


def test_sources_and_prune_of_the_whole_index(index, folder, tmp_path):
    index.add_files([folder])
    index.add([Document("mine", "A note.", {"source": str(folder / "nowhere.txt")})])
    names = [one.path.name for one in index.sources()]
    assert len(names) == len(set(names))
    assert sum(one.passages for one in index.sources()) == 6
    (folder / "cats.txt").unlink()
    gone = [one for one in index.sources() if not one.exists]
    assert [one.path.name for one in gone] == ["cats.txt"]
    assert index.prune() == gone[0].passages
    assert index.prune() == 0
    assert "mine" in {d.id for d in index.documents()}


def test_a_folder_can_be_deleted_and_pruned_after_it_is_gone(index, folder, tmp_path):
    other = write(tmp_path / "docs2" / "a.txt", "Not below the folder.")
    index.add_files([folder, other])
    copy = folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(InvalidInput, match="does not exist"):
        index.add_files([folder])
    assert index.add_files([folder], prune=True) == AddReport(removed=6)
    index.add_files([copy])
    assert index.delete_source(copy) == 6
    assert [d.metadata["source"] for d in index.documents()] == [str(other)]


def test_repeated_passages_of_a_file_are_kept_each(index, tmp_path):
    path = write(tmp_path / "song.txt", "We all live down here now. " * 3)
    assert index.add_files([path]) == AddReport(added=3)
    assert len(index.search("live here")) == 3
    assert index.add_files([path]) == AddReport(unchanged=3)


def test_documents_that_came_from_no_file_are_left_alone(index, folder):
    by_hand = {"mine": {}, "other": {"source": "by hand"}, "gone": {"source": str(folder.resolve() / "gone.txt")}}
    index.add([Document(id, f"A note, {id}.", metadata) for id, metadata in by_hand.items()])
    index.add_files([folder])
    write(folder / "cats.txt", "Changed.")
    (folder / "tax.html").unlink()
    assert index.add_files([folder], prune=True).removed == 3
    assert len(index.get(list(by_hand))) == 3


def test_a_document_of_the_users_own_about_a_file_is_left_alone(index, folder):
    index.add([Document("mine", "A note on the cats.", {"source": str((folder / "cats.txt").resolve())})])
    index.add_files([folder])
    assert index.get(["mine"])


# --- files go -------------------------------------------------------------------------------


def test_a_file_that_vanished_stays_unless_pruned(index, folder, caplog):
    index.add_files([folder])
    index.add([Document(f"{folder / 'gone.txt'}#0", "A note.", {"source": str(folder / "gone.txt")})])
    (folder / "cats.txt").unlink()
    assert index.add_files([folder]) == AddReport(unchanged=3)
    assert len(texts(index, folder / "cats.txt")) == 3
    gone = "1 file of the index no longer exists; the option prune removes its passages"
    gone = f"{gone}: {(folder / 'cats.txt').resolve()}"
    assert caplog.messages == [gone]
    (folder / "tax.html").unlink()
    for path in (folder / "deep", folder / "deep" / "dogs.md"):
        index.add_files([path])  # nothing is gone there
    assert caplog.messages == [gone]
    index.add_files([folder])
    both = f"{(folder / 'cats.txt').resolve()}, {(folder / 'tax.html').resolve()}"
    assert caplog.messages[1:] == [
        f"2 files of the index no longer exist; the option prune removes their passages: {both}"
    ]
    assert index.add_files([folder], prune=True) == AddReport(unchanged=2, removed=4)
    assert texts(index, folder / "cats.txt") == []
    assert_whole(index)
    index.add_files([folder])
    assert len(caplog.messages) == 2


def test_only_files_below_the_paths_are_pruned(index, folder, tmp_path):
    twin = tmp_path / "docs2"  # of which "docs" is a prefix
    gone = [
        write(path, f"Words of {path.name}.") for path in (folder / "deep" / "a.txt", folder / "b.txt", twin / "c.txt")
    ]
    index.add_files([folder, twin])
    for path in gone:
        path.unlink()
    assert index.add_files([folder / "deep"], prune=True).removed == 1
    assert [len(texts(index, path)) for path in gone] == [0, 1, 1]
    assert index.add_files([folder], prune=True).removed == 1
    assert [len(texts(index, path)) for path in gone] == [0, 0, 1]


def test_a_file_that_is_excluded_now_is_not_pruned(index, folder):
    index.add_files([folder])
    assert index.add_files([folder], exclude=["cats.txt"], prune=True) == AddReport(unchanged=3)
    assert index.count() == 6


def test_delete_source_takes_any_name(index, folder):
    index.add_files([folder])
    assert index.delete_source(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")) == 0
    assert index.delete_source(folder) == 6


def test_delete_source_takes_relative_and_absolute_paths(index, folder, monkeypatch):
    index.add_files([folder])
    monkeypatch.chdir(folder)
    assert index.delete_source("deep/../cats.txt") == 3
    assert index.delete_source(folder / "tax.html") == 1
    assert index.delete_source(Path("tax.html")) == 0
    assert {d.metadata["source"] for d in index.documents()} == {str((folder / "deep" / "dogs.md").resolve())}
    assert index.delete_source(str((folder / "deep" / "dogs.md").resolve())) == 2
    assert index.count() == 0


def test_delete_source_takes_a_source_that_is_no_path(index):
    index.add([Document("a", "Some words.", {"source": "https://example.org/a b"}), Document("b", "More words.")])
    assert index.delete_source("https://example.org/a b") == 1
    assert [d.id for d in index.documents()] == ["b"]


def test_a_file_that_was_deleted_from_the_index_comes_back(index, folder, recorder):
    index.add_files([folder])
    index.delete_source(folder / "cats.txt")
    assert index.add_files([folder]) == AddReport(added=3, unchanged=3)
    index.delete([d.id for d in index.documents() if "purred all" in d.text])
    recorder.encoded.clear()
    assert index.add_files([folder]) == AddReport(added=1, unchanged=5)
    assert recorder.encoded == ["It purred all day long."]


# --- files break ----------------------------------------------------------------------------


def test_broken_files_are_reported_and_the_rest_is_indexed(index, folder):
    write(folder / "a_binary.txt", b"\x89PNG\r\n\x1a\n\0\0")
    write(folder / "an_empty.md", b"")
    write(folder / "broken.pdf", b"%PDF-1.7 and no more")
    write(folder / "deep" / "word.docx", b"no zip")
    report = index.add_files([folder])
    assert report.added == 6
    assert {d.id: d for d in index.documents()} == expected(
        *(folder / name for name in ("cats.txt", "deep/dogs.md", "tax.html"))
    )
    assert [(failed.path.name, failed.reason) for failed in report.failed][:2] == [
        ("a_binary.txt", "binary data, not text"),
        ("an_empty.md", "the file is empty"),
    ]
    assert [failed.path for failed in report.failed] == [
        (folder / name).resolve() for name in ("a_binary.txt", "an_empty.md", "broken.pdf", "deep/word.docx")
    ]
    again = index.add_files([folder])
    assert (again.unchanged, again.added, again.failed) == (6, 0, report.failed)


def test_a_named_file_of_an_unknown_format_is_reported(index, folder):
    photo = write(folder / "photo.xyz", b"x")
    report = index.add_files([photo, folder / "tax.html"])
    assert report.added == 1
    assert [(failed.path, failed.reason[:27]) for failed in report.failed] == [
        (photo.resolve(), ".xyz is not a known format;")
    ]


@pytest.mark.parametrize("prune", [False, True])
def test_a_file_that_breaks_keeps_what_was_indexed(index, folder, prune):
    index.add_files([folder])
    before = content(index)
    good = (folder / "cats.txt").read_bytes()
    write(folder / "cats.txt", b"\0\1\2")
    report = index.add_files([folder], prune=prune)
    assert (report.unchanged, report.removed, len(report.failed)) == (3, 0, 1)
    assert content(index) == before
    write(folder / "cats.txt", good)
    assert index.add_files([folder]) == AddReport(unchanged=6)


@pytest.mark.parametrize("limit", ["file_seconds", "file_memory"])
def test_a_file_that_exceeds_a_limit_keeps_what_was_indexed(index, folder, limit):
    sound = fpdf_pages("Some words.", "More words.")
    report = write(folder / "a_report.pdf", sound)
    index.add_files([folder])
    nested_forms(report)
    write(folder / "zoo.md", "The zoo is closed.")
    with limits(**{limit: 0.3}):
        added = index.add_files([folder])
    (failed,) = added.failed
    assert failed.path == report.resolve()
    assert failed.reason.startswith("reading it takes more than 0.3 ")
    assert f"--{limit.replace('_', '-')} allows more" in failed.reason
    assert (added.added, added.unchanged, added.removed) == (1, 6, 0)
    assert texts(index, report) == ["Some words.", "More words."]
    report.write_bytes(sound)
    assert index.add_files([folder]) == AddReport(unchanged=9)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a single allocation")
def test_giant_texts_are_left_out_and_the_rest_is_read(index, folder):
    """They are files of holes, which take no place on the disk."""
    for name in ("a.txt", "c.html"):
        os.truncate(write(folder / name, "Some words."), 150_000_000)
    with limits(file_memory=0.05):
        added = index.add_files([folder])
    assert [failed.path.name for failed in added.failed] == ["a.txt", "c.html"]
    assert all(failed.reason.startswith("reading it takes more than 0.05 GB") for failed in added.failed)
    assert added.added == 6


def test_a_giant_file_whose_digest_takes_too_long(index, folder):
    os.truncate(write(folder / "a.txt", "Some words."), 1 << 40)
    with limits(file_seconds=0.05):
        (failed,) = index.add_files([folder / "a.txt"]).failed
    assert failed.reason.startswith("reading it takes more than 0.05 seconds; ")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a single allocation")
def test_a_file_that_needs_more_memory_than_there_is_costs_one_file(index, folder):
    import resource

    os.truncate(write(folder / "a.txt", "Some words."), 300_000_000)
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + 250_000_000, before[1]))
        with limits(file_seconds=None, file_memory=None):  # the file is read in this process
            added = index.add_files([folder])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert [(failed.path.name, failed.reason) for failed in added.failed] == [
        ("a.txt", "reading it takes more memory than there is; split the file")
    ]
    assert added.added == 6


def test_a_crash_of_a_parser_costs_one_file(index, folder):
    """The process is killed while it reads, as the system does when memory runs out."""
    nested_forms(folder / "a_report.pdf")
    with limits(file_memory=None):
        killer = threading.Timer(1.5, os.kill, (call(bad_parsers.process, folder), signal.SIGKILL))
        killer.start()
        added = index.add_files([folder])
    killer.join()
    assert added.added == 6
    (failed,) = added.failed
    assert "crashed the parser (SIGKILL)" in failed.reason


# --- interruptions --------------------------------------------------------------------------


class Interruption(Exception):
    """What stops a run in these tests."""


def story(first: int, stop: int) -> str:
    return " ".join(f"Sentence number {i} says {i * i}." for i in range(first, stop))


@pytest.mark.parametrize("change", ["new", "longer", "shorter", "other"])
def test_an_interrupted_run_can_be_made_again(tmp_path, change):
    """Whatever was there before, and wherever it stops, the second run brings what one run would have."""
    folder = tmp_path / "docs"
    big, small = folder / "big.txt", folder / "small.txt"
    versions = {"new": None, "longer": story(0, 40), "shorter": story(0, 400), "other": story(1000, 1300)}
    write(small, "A small file. It stays the same.")

    def prepared(name):
        index = SmartIndex.create(tmp_path / name, Recorder(), config=CONFIG)
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

        recorder = Recorder()
        with SmartIndex.open(stopped.path, recorder) as again:
            report = again.add_files([folder])
            assert report.failed == ()
            assert not set(recorder.encoded) & {d.text for d in again.get(acknowledged)}
            assert content(again) == content(whole)
            assert {d.id: d for d in again.documents()} == expected(folder)
            assert_whole(again)
            recorder.encoded.clear()
            assert again.add_files([folder]) == AddReport(unchanged=again.count())
            assert recorder.encoded == []


def test_a_run_that_fails_in_the_encoder_can_be_made_again(tmp_path, folder):
    class Failing(Recorder):
        def encode_document(self, documents):
            if any("Taxes" in text for text in documents):
                raise RuntimeError("the encoder gave up")
            return super().encode_document(documents)

    with SmartIndex.create(tmp_path / "index", Failing(), config=CONFIG) as index:
        index.add_files([folder / "cats.txt"])
        with pytest.raises(RuntimeError, match="gave up"):
            index.add_files([folder])
        assert len(texts(index, folder / "cats.txt")) == 3
    with SmartIndex.open(tmp_path / "index", Recorder()) as index:
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
    with SmartIndex.create(tmp_path / "index", Recorder(), config=CONFIG) as index:
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
        files = FileIngest(Moves(ingest, Duplicates(index.path)), Reader({"text"}, token_counter(Recorder()), CONFIG))
        assert files.add(taken()) == AddReport(added=600)
        assert max(max(pair) for pair in waiting) < 300
        assert sum(done) == 600
        done.clear()
        waiting.clear()
        assert files.add(taken()) == AddReport(unchanged=600)
        assert {unseen for unseen, _ in waiting} == {0}


def test_a_damaged_word_file_does_not_end_the_run(index, folder):
    made = docx.Document()
    made.add_paragraph("Words.")
    made.save(str(folder / "word.docx"))
    data = (folder / "word.docx").read_bytes()
    start = data.index(b"word/document.xml") + 40
    write(folder / "word.docx", data[:start] + b"\xff" * 300 + data[start + 300 :])
    report = index.add_files([folder])
    assert report.added == 6
    assert len(report.failed) == 1
