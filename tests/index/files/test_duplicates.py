"""Files with the same bytes: one is in the index, the others are remembered, and one takes over when the first goes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from helpers.indexed_files import CONFIG
from helpers.text_files import write
from helpers.word_encoder import CountingEncoder
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smart_rag import SmartIndex
from smart_rag.files.finder import find
from smart_rag.index.writing.duplicates import FILE_NAME
from smart_rag.reports import AddReport

TEXT = "The cat sat on the mat. It purred all day long."


@pytest.fixture
def docs(tmp_path):
    return tmp_path / "docs"


def held(index) -> dict[str, str]:
    """The text of each file in the index, by the names of the file and its folder."""
    found: dict[str, str] = {}
    for document in sorted(index.documents(), key=lambda document: document.metadata["chunk"]):
        name = "/".join(Path(document.metadata["source"]).parts[-2:])
        found[name] = f"{found[name]} {document.text}" if name in found else document.text
    return found


def remembered(index) -> set[str]:
    file = index.path / FILE_NAME
    return {Path(path).name for path in json.loads(file.read_text())} if file.exists() else set()


# --- the first of two goes, or changes ------------------------------------------------------


def test_a_hard_link_with_an_earlier_name_takes_over(index, docs, encoder):
    first = write(docs / "m.txt", TEXT)
    index.add_files([docs])
    encoder.documents.clear()
    os.link(first, docs / "a.txt")
    report = index.add_files([docs])
    assert report == AddReport(moved=2)
    assert [(one.path.name, one.reason) for one in report.skipped] == [("m.txt", "the same file as another")]
    assert held(index) == {"docs/a.txt": TEXT}
    assert encoder.documents == []
    assert index.add_files([docs]) == AddReport(unchanged=2)


@pytest.mark.parametrize("prune", [False, True])
def test_the_duplicate_of_a_file_that_is_ignored_now_takes_over(index, docs, prune):
    for name in ("a.txt", "b.txt", "c.txt"):
        write(docs / name, TEXT)
    index.add_files([docs])
    write(docs / ".gitignore", "a.txt\nb.txt\n")
    assert index.add_files([docs], prune=prune) == AddReport(moved=2)
    assert held(index) == {"docs/c.txt": TEXT}
    assert remembered(index) == set()


def test_the_duplicate_of_a_file_that_is_edited_takes_over(index, docs, encoder):
    """Only the edited file is looked at, as by ``--watch``."""
    one, _, third = (write(docs / name, TEXT) for name in ("a.txt", "b.txt", "c.txt"))
    index.add_files([docs])
    assert remembered(index) == {"b.txt", "c.txt"}
    encoder.documents.clear()
    write(one, "Dogs bark at night.")
    report = index.add_files([one])
    assert report == AddReport(replaced=1, removed=1, moved=2)
    assert held(index) == {"docs/a.txt": "Dogs bark at night.", "docs/b.txt": TEXT}
    assert encoder.documents == ["Dogs bark at night."]
    assert index.search("purred", 1)[0].source == str(docs / "b.txt")
    assert remembered(index) == {"c.txt"}
    assert index.add_files([docs]) == AddReport(unchanged=3)
    write(docs / "b.txt", "Fish swim.")
    index.add_files([docs / "b.txt"])
    assert held(index)["docs/c.txt"] == TEXT
    assert third.exists()
    assert remembered(index) == set()
    assert not (index.path / FILE_NAME).exists()


@pytest.mark.parametrize("way", ["prune of its folder", "prune of the index", "delete", "edit", "empty", "equal"])
def test_folders_that_were_indexed_by_separate_calls(index, tmp_path, encoder, way):
    first, other = write(tmp_path / "A" / "a.txt", TEXT), write(tmp_path / "B" / "a.txt", TEXT)
    write(tmp_path / "A" / "else.txt", "Fish swim.")
    index.add_files([first.parent])
    index.add_files([other.parent])
    encoder.documents.clear()
    match way:
        case "edit" | "empty" | "equal":
            write(first, {"edit": "Dogs bark at night.", "empty": "", "equal": "Fish swim."}[way])
            assert index.add_files([first]).moved == 2
        case "delete":
            assert index.delete_source(first) == 2
        case "prune of the index":
            first.unlink()
            assert index.prune() == 0
        case _:
            first.unlink()
            assert index.add_files([first.parent], prune=True) == AddReport(unchanged=1, moved=2)
    after = {"A/a.txt": "Dogs bark at night."} if way == "edit" else {}
    assert held(index) == {"A/else.txt": "Fish swim.", "B/a.txt": TEXT, **after}
    assert encoder.documents == list(after.values())
    assert index.add_files([other.parent]) == AddReport(unchanged=2)


def test_a_hard_link_that_was_left_out_takes_over(index, docs):
    first = write(docs / "a.txt", TEXT)
    os.link(first, docs / "b.txt")
    index.add_files([docs])
    first.unlink()
    assert index.prune() == 0
    assert held(index) == {"docs/b.txt": TEXT}


def test_what_no_longer_has_the_same_bytes_takes_nothing_over(index, docs):
    one, other, third = (write(docs / name, TEXT) for name in ("a.txt", "b.txt", "c.txt"))
    index.add_files([docs])
    write(other, "Dogs bark at night.")
    third.unlink()
    third.mkdir()
    one.unlink()
    assert index.prune() == 2
    assert held(index) == {}
    index.add_files([docs])
    assert held(index) == {"docs/b.txt": "Dogs bark at night."}


def test_what_was_deleted_from_the_index_takes_nothing_over(index, tmp_path):
    first, other = write(tmp_path / "A" / "a.txt", TEXT), write(tmp_path / "B" / "a.txt", TEXT)
    index.add_files([first.parent, other.parent])
    assert index.delete_source(other.parent) == 0
    assert index.delete_source(first) == 2
    assert held(index) == {}


def test_two_files_with_the_same_bytes_that_are_both_in_the_index_and_go_together(index, tmp_path):
    first = write(tmp_path / "A" / "a.txt", TEXT)
    index.add_files([first])
    write(first, "Fish swim.")
    second = write(tmp_path / "A" / "b.txt", TEXT)
    index.add_files([second])
    write(first, TEXT)
    index.add_files([write(tmp_path / "B" / "a.txt", TEXT)])
    assert held(index) == {"A/a.txt": TEXT, "A/b.txt": TEXT}
    index.delete_source(first.parent)
    assert held(index) == {"B/a.txt": TEXT}


def test_passages_that_are_not_whole_are_not_taken_over_but_read(index, docs, caplog):
    first, other = write(docs / "a.txt", TEXT), write(docs / "b.txt", TEXT)
    index.add_files([docs])
    index.delete([f"{first}#1"])
    write(first, "Dogs bark at night.")
    assert index.add_files([first]) == AddReport(added=2, replaced=1)
    assert held(index) == {"docs/a.txt": "Dogs bark at night.", "docs/b.txt": TEXT}
    write(docs / "c.txt", TEXT)
    index.add_files([docs])
    index.delete([f"{other}#1"])
    other.unlink()
    assert index.prune() == 1
    assert f"{docs / 'c.txt'}: has the same bytes as a file whose passages were removed" in caplog.text


def test_rows_of_an_interrupted_call_are_read_again(index, docs):
    """A call that is killed may leave some rows of the file that takes over, and still remember it."""
    first, other = write(docs / "a.txt", TEXT), write(docs / "b.txt", TEXT)
    index.add_files([docs])
    record = (index.path / FILE_NAME).read_text()
    write(first, "Dogs bark at night.")
    index.add_files([first])
    index.delete([f"{other}#0"])
    (index.path / FILE_NAME).write_text(record)
    write(first, TEXT)
    index.add_files([first])
    write(first, "Fish swim.")
    index.add_files([first])
    assert held(index) == {"docs/a.txt": "Fish swim.", "docs/b.txt": TEXT}


# --- what is remembered ---------------------------------------------------------------------


def test_it_is_remembered_in_an_index_that_is_opened_again_and_in_a_copy(tmp_path, docs):
    first = write(docs / "a.txt", TEXT)
    write(docs / "b.txt", TEXT)
    with SmartIndex.create(tmp_path / "index", CountingEncoder(), config=CONFIG) as index:
        index.add_files([docs])
        index.snapshot(tmp_path / "copy")
        index.compact()
    first.unlink()
    for name in ("index", "copy"):
        with SmartIndex.open(tmp_path / name, CountingEncoder()) as index:
            assert index.prune() == 0
            assert held(index) == {"docs/b.txt": TEXT}


@pytest.mark.parametrize("damage", ["", "[]", '{"/a": 1}', '{"/a\\u0000": "x"}', '{"/\\ud800": "x"}', "[" * 99_999])
def test_a_damaged_record_is_named_and_made_again(index, docs, damage, caplog):
    first = write(docs / "a.txt", TEXT)
    write(docs / "b.txt", TEXT)
    index.add_files([docs])
    (index.path / FILE_NAME).write_text(damage)
    index.add_files([docs])
    assert f"{FILE_NAME}: cannot be read (" in caplog.text
    assert remembered(index) == {"b.txt"}
    first.unlink()
    assert index.prune() == 0


def test_a_path_that_no_system_has_ends_no_run(index, docs):
    first = write(docs / "a.txt", TEXT)
    write(docs / "b.txt", TEXT)
    index.add_files([docs])
    record = (index.path / FILE_NAME).read_text()
    (index.path / FILE_NAME).write_text(record.replace("b.txt", f"{'b' * 300}.txt"))
    first.unlink()
    assert index.prune() == 2
    assert held(index) == {}


def test_a_file_that_the_user_has_not_named_is_not_looked_at(index, docs, tmp_path, caplog):
    """Anybody may have written the record of an index from elsewhere."""
    first, secret = write(docs / "a.txt", TEXT), write(tmp_path / "secret.txt", TEXT)
    write(docs / "b.txt", TEXT)
    index.add_files([first])
    index.add_files([docs])
    record = (index.path / FILE_NAME).read_text()
    (index.path / FILE_NAME).write_text(record.replace(str(docs / "b.txt"), str(secret)))
    first.unlink()
    assert index.prune() == 2
    assert held(index) == {}
    assert f"{secret}: had the same bytes as {first}" in caplog.text


def test_a_named_file_in_a_folder_that_is_left_out_is_not_pruned(index, docs):
    write(docs / "a.txt", TEXT)
    named = write(docs / "node_modules" / "b.txt", "Dogs bark at night.")
    for _ in range(2):
        index.add_files([docs, named], prune=True)
        assert held(index) == {"docs/a.txt": TEXT, "node_modules/b.txt": "Dogs bark at night."}


# --- names ----------------------------------------------------------------------------------


def test_a_folder_in_the_place_of_a_file_is_not_this_file(index, docs):
    old = write(docs / "a.txt", TEXT)
    index.add_files([docs])
    old.unlink()
    write(old / "b.txt", "Dogs bark at night.")
    assert index.add_files([docs], prune=True) == AddReport(added=1, removed=2)
    assert held(index) == {"a.txt/b.txt": "Dogs bark at night."}
    (old / "b.txt").unlink()
    (old / "b.txt").mkdir()
    assert [one.exists for one in index.sources()] == [False]
    assert index.prune() == 1


def test_a_name_whose_case_changes_is_a_move(index, docs, encoder):
    write(docs / "a.txt", TEXT)
    index.add_files([docs])
    encoder.documents.clear()
    (docs / "a.txt").rename(docs / "a.TXT")
    assert index.add_files([docs]) == AddReport(moved=2)
    assert held(index) == {"docs/a.TXT": TEXT}
    assert encoder.documents == []


@pytest.mark.parametrize("content", ["", " \n\u200b"])
def test_an_emptied_file_loses_its_passages(index, docs, content):
    write(docs / "a.txt", TEXT)
    write(docs / "b.txt", "Dogs bark at night.")
    index.add_files([docs])
    write(docs / "a.txt", content)
    report = index.add_files([docs])
    assert (report.removed, report.unchanged) == (2, 1)
    assert [(one.path.name, one.reason.partition("; ")[2]) for one in report.failed] == [
        ("a.txt", "what it had before was removed from the index")
    ]
    assert held(index) == {"docs/b.txt": "Dogs bark at night."}
    assert index.add_files([docs]).removed == 0


# --- any history ----------------------------------------------------------------------------

PATHS = st.sampled_from(["A/a.txt", "A/b.txt", "A/b.TXT", "A/c.md", "B/a.txt", "B/d.txt"])
FOLDERS = ("A", "B")
steps = st.one_of(
    st.tuples(st.sampled_from(["write", "replace"]), PATHS, st.sampled_from(["one", "two", "three", ""])),
    st.tuples(st.sampled_from(["rename", "link", "ignore"]), PATHS, PATHS),
    st.tuples(st.sampled_from(["delete", "add"]), PATHS),
    st.tuples(st.just("run"), st.sampled_from([("A",), ("B",), FOLDERS]), st.booleans()),
    st.tuples(st.just("prune")),
)


class History:
    """A folder with two folders in it, an index of them, and what the index must hold."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in FOLDERS:
            (root / name).mkdir()
        self.index = SmartIndex.create(root / "index", CountingEncoder())
        self.known: dict[Path, str] = {}  # the text of each file when it was last looked at

    def take(self, kind: str, *arguments) -> None:
        path = self.root / arguments[0] if arguments and isinstance(arguments[0], str) else None
        match kind:
            case "run":
                self.run(*arguments)
            case "prune":
                self.index.prune()
            case "add":
                if path.is_file():
                    self.index.add_files([path])
                    self.known[path] = path.read_text()
            case "ignore":
                write(path.parent / ".gitignore", f"/{path.name}\n")
                self.forget_ignored()
            case "write":
                write(path, arguments[1])
            case "replace":
                write(self.root / "new", arguments[1]).replace(path)
            case "delete":
                path.unlink(missing_ok=True)
            case "rename" | "link":
                other = self.root / arguments[1]
                if path.is_file() and not (kind == "link" and other.exists()):
                    path.rename(other) if kind == "rename" else os.link(path, other)

    def wanted(self, names) -> list[Path]:
        found = find([self.root / name for name in names], warns=False, may_be_empty=True)
        return [*found.files, *found.hard_links]

    def forget_ignored(self) -> None:
        there = set(self.wanted(FOLDERS))
        self.known = {path: text for path, text in self.known.items() if path in there}

    def run(self, names, prune: bool) -> None:
        folders = [self.root / name for name in names]
        wanted = self.wanted(names)
        if not wanted and not prune:
            return
        self.index.add_files(folders, prune=prune)
        self.known = {path: text for path, text in self.known.items() if path.parent not in folders}
        self.known |= {path: path.read_text() for path in wanted}
        if prune and names == FOLDERS:
            assert self.texts() == {path.read_text() for path in wanted} - {""}

    def texts(self) -> set[str]:
        return {document.text for document in self.index.documents()}

    def check(self) -> None:
        """What has stayed as it was since it was last looked at is in the index."""
        self.known = {p: text for p, text in self.known.items() if p.is_file() and p.read_text() == text}
        assert set(self.known.values()) - {""} <= self.texts()


@settings(max_examples=25, deadline=None)
@given(history=st.lists(steps, min_size=4, max_size=16))
@example(
    [
        ("write", "A/a.txt", "one"),
        ("run", FOLDERS, False),
        ("write", "B/a.txt", "one"),
        ("run", ("B",), False),
        ("write", "A/a.txt", "two"),
        ("add", "A/a.txt"),
    ]
)
@example(
    [
        ("write", "A/b.txt", "one"),
        ("run", FOLDERS, False),
        ("link", "A/b.txt", "A/a.txt"),
        ("run", FOLDERS, True),
        ("replace", "A/a.txt", "two"),
        ("add", "A/a.txt"),
        ("run", FOLDERS, True),
    ]
)
def test_no_history_loses_a_text_or_keeps_an_old_one(tmp_path_factory, history):
    root = tmp_path_factory.mktemp("history").resolve()
    made = History(root)
    with made.index:
        for step in [*history, ("run", FOLDERS, True)]:
            made.take(*step)
            made.check()
        assert made.index.verify().sound
