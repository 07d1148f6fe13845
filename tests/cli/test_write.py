"""``smart-rag index`` and ``delete``."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
from filelock import FileLock
from helpers.command_line import Terminal, error_of, good, run, usage_error_of
from helpers.hostile_files import nested_forms
from helpers.text_files import write
from helpers.word_encoder import WordEncoder
from PIL import Image

from smart_rag import AddReport, Document, SmartIndex
from smart_rag.cli.write import _add_changed, _Wanted
from smart_rag.index.smart_index import remove_empty


def test_a_second_run_adds_new_files_and_replaces_changed_ones(folder, tmp_path):
    db = tmp_path / "index"
    assert good("index", folder / "cats.txt", "--db", db) == f"passages: 1 added\n1 passage in {db}\n"
    assert good("index", folder, "--db", db) == f"passages: 3 added, 1 unchanged\n4 passages in {db}\n"
    (folder / "cats.txt").write_text("The walrus slept on the ice.")
    (folder / "dogs.md").unlink()
    assert good("index", folder, "--db", db) == f"passages: 1 replaced, 2 unchanged\n4 passages in {db}\n"
    assert good("index", folder, "--db", db, "--prune") == f"passages: 3 unchanged, 1 removed\n3 passages in {db}\n"
    assert "walrus" in good("search", "cat", "--db", db)


def test_a_run_without_prune_warns_of_missing_files(folder, tmp_path, caplog):
    good("index", folder, "--db", tmp_path / "index")
    (folder / "dogs.md").unlink()
    output = good("index", folder, "--db", tmp_path / "index")
    assert output == f"passages: 3 unchanged\n4 passages in {tmp_path / 'index'}\n"
    (warning,) = [record for record in caplog.records if record.name.startswith("smart_rag")]
    assert warning.getMessage().startswith(
        "1 file of the index no longer exists; the option prune removes its passages"
    )


def test_prompts_of_a_model_without_its_own(folder, tmp_path):
    db = tmp_path / "index"
    good("index", folder, "--db", db, "--query-prompt", "query: ", "--document-prompt", "passage: ")
    info = good("info", "--db", db)
    assert re.search(r"query prompt +query: *\n", info)
    assert re.search(r"document prompt +passage: *\n", info)
    good("convert", "--db", db, "--model", "minilm", "--query-prompt", "ask: ", "--document-prompt", "")
    info = good("info", "--db", db)
    assert re.search(r"query prompt +ask: *\n", info)
    assert re.search(r"document prompt +none *\n", info)


def test_patterns(folder, tmp_path):
    db = tmp_path / "index"
    (folder / "deep").mkdir()
    (folder / "deep" / "birds.md").write_text("Birds sing.")
    good("index", folder, "--db", db, "--include", "*.md", "--include", "*.txt", "--exclude", "deep/*")
    hits = json.loads(good("search", "animals", "--db", db, "--json"))
    assert {Path(hit["source"]).name for hit in hits} == {"cats.txt", "dogs.md"}


def test_some_broken_files_are_listed_and_the_rest_is_indexed(folder, tmp_path, monkeypatch):
    (folder / "photo.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (folder / "scan.pdf").write_bytes(b"%PDF-1.7")
    monkeypatch.chdir(tmp_path)
    code, output, errors = run("index", "docs", "--db", "index")
    assert (code, output) == (0, "passages: 4 added\n4 passages in index\n")
    assert (
        "2 files were left out:\n  docs/photo.txt: binary data, not text\n  docs/scan.pdf: damaged, or not a PDF"
        in errors
    )


def test_a_missing_path_among_others_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output, errors = run("index", "docs", "nothere", "--db", "index")
    assert (code, output) == (1, "passages: 4 added\n4 passages in index\n")
    assert "1 file was left out:\n  nothere: does not exist; expected a file or a folder of documents\n" in errors
    assert run("index", "docs", "nothere", "--db", "index", "--dry-run")[0] == 1


def test_a_dry_run_needs_no_index_and_names_the_same_files_as_the_run(folder, tmp_path):
    """Copies, a copy of a file that cannot be read, a scan, an empty file, and types that are not read."""
    (folder / "copy.md").write_bytes((folder / "dogs.md").read_bytes())
    for name in ("photo.txt", "photo2.txt"):
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    Image.new("RGB", (400, 400), "grey").save(folder / "scan.pdf")
    (folder / "blank.txt").write_text(" \n")
    (folder / "data.xyz").write_bytes(b"\0")
    (folder / "photo.png").write_bytes(b"x")
    dry, real = tmp_path / "dry.json", tmp_path / "real.json"
    code, output, errors = run("index", folder, "--dry-run", "--report", dry)
    assert (code, set(tmp_path.iterdir())) == (0, {folder, dry})
    assert "copy.md: " in output
    assert "3 files would be read, with 229 characters" in errors
    assert "1 the same content as another file" in errors
    good("index", folder, "--db", tmp_path / "index", "--report", real)
    told, done = (json.loads(file.read_text()) for file in (dry, real))
    assert [one["path"] for one in told["read"]] == sorted(one["path"] for one in done["read"])
    assert {one["path"]: one["reason"] for one in told["failed"]} == {
        one["path"]: one["reason"] for one in done["failed"]
    }
    assert len(told["failed"]) == 4
    assert sorted(map(str, told["skipped"])) == sorted(map(str, done["skipped"]))
    again = run("index", folder, "--db", tmp_path / "index", "--dry-run")[2]
    assert "files that the index has already are among them" in again
    assert "--dry-run" in usage_error_of("index", folder)


def test_an_empty_source_removes_nothing(folder, tmp_path, monkeypatch):
    """It may be a variable of the shell that is not set. The working directory is not meant."""
    monkeypatch.chdir(tmp_path)
    good("index", "docs", "--db", "index")
    assert "a path is empty" in error_of("delete", "--source", "", "--db", "index")
    assert good("sources", "--db", "index").count("1 passage") == 2


def test_sources_and_what_takes_the_place_of_a_file_that_is_gone(folder, tmp_path, monkeypatch):
    (folder / "copy.md").write_bytes((folder / "dogs.md").read_bytes())
    good("index", folder, "--db", tmp_path / "index")
    monkeypatch.chdir(tmp_path)
    (folder / "copy.md").unlink()
    (folder / "cats.txt").unlink()
    gone = "docs/cats.txt: 1 passage (gone)\ndocs/copy.md: 1 passage (gone)\n"
    assert good("sources", "--db", "index", "--gone") == gone
    code, output, errors = run("sources", "--db", "index", "--gone", "--prune")
    assert (code, output) == (0, gone)
    assert errors == "docs/dogs.md: 1 passage of a file that is gone, with the same content\n1 passage removed\n"
    assert "docs/dogs.md: 1 passage\n" in good("sources", "--db", "index")


def test_limits_for_files(folder, tmp_path):
    nested_forms(folder / "forms.pdf")
    arguments = ("index", folder, "--db", tmp_path / "index", "--file-seconds")
    code, output, errors = run(*arguments, 0.5, "--file-memory", 0)
    assert (code, output.splitlines()[0]) == (0, "passages: 4 added")
    assert "1 file was left out:\n" in errors
    assert "forms.pdf: reading it takes more than 0.5 seconds; " in errors
    _, _, errors = run(*arguments, 0, "--file-memory", 0.3)
    assert "forms.pdf: reading it takes more than 0.3 GB of memory; " in errors
    assert "--file-memory" in usage_error_of(*arguments, 1, "--file-memory", -1)


def test_only_broken_files_are_an_error(tmp_path):
    (tmp_path / "photo.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    code, output, errors = run("index", tmp_path / "photo.txt", "--db", tmp_path / "index")
    assert (code, output) == (1, "passages: none\n")
    assert errors.startswith("1 file was left out:\n")
    assert "photo.txt: binary data, not text" in errors
    assert not (tmp_path / "index").exists()


def test_only_broken_files_are_an_error_in_an_index_that_holds_something(folder, tmp_path):
    good("index", folder / "cats.txt", "--db", tmp_path / "index")
    (folder / "photo.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    assert run("index", folder / "photo.txt", "--db", tmp_path / "index")[0] == 1
    assert json.loads(good("info", "--db", tmp_path / "index", "--json"))["documents"] == 1


def test_progress_is_a_bar_for_people_and_a_line_in_a_file(folder, tmp_path, monkeypatch, caplog):
    assert "indexing" not in run("index", folder, "--db", tmp_path / "index")[2]  # it is too short for a line
    bar = run("index", folder, "--db", tmp_path / "another", stream=Terminal)[2]
    assert "indexing" in bar
    assert "tokens/s, " in bar
    assert "MB/s" in bar
    monkeypatch.setattr("smart_rag.progress._LOG_SECONDS", 0.0)
    with caplog.at_level(logging.NOTSET, "smart_rag.progress"):  # puts the level back afterwards
        run("index", folder, "--db", tmp_path / "third")
    assert re.search(r"files done, [\d.]+ a second, [\d,]+ tokens/s, [\d.]+ MB/s, 0 s left", caplog.messages[-1])


@pytest.mark.parametrize(
    ("named", "says"),
    [("gone", "gone does not exist; expected a file or a folder"), ("empty", "no documents found in ")],
)
def test_nothing_to_index_makes_no_index(tmp_path, named, says):
    (tmp_path / "empty").mkdir()
    assert says in error_of("index", tmp_path / named, "--db", tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_an_empty_index_is_removed_unless_others_use_it(tmp_path):
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as index:
        with SmartIndex.open(tmp_path / "index", WordEncoder()) as other:
            other.add([Document("theirs", "Written meanwhile.")])
        remove_empty(index)
        assert index.count() == 1
        index.delete(["theirs"])
        remove_empty(index)
    assert not (tmp_path / "index").exists()


def test_a_second_writer_is_refused(tmp_path, folder, minilm):
    """It changes nothing, and works when the first is done. tests/index/test_processes.py has real processes."""
    with SmartIndex.create(tmp_path / "index", minilm) as index:
        index.add([Document("mine", "Written first.")])
    with FileLock(tmp_path / "index" / "write.lock"):  # as another process holds it
        said = error_of("index", folder / "cats.txt", "--db", tmp_path / "index")
        assert said == (
            f"error: {tmp_path / 'index'}: another process has the index open for writing; close it there, or wait "
            "until it is done\n"
        )
        assert "Written first." in good("search", "first", "--db", tmp_path / "index")  # a reader is welcome
    assert "2 passages in" in good("index", folder / "cats.txt", "--db", tmp_path / "index")


@pytest.fixture
def tiny_db(tmp_path):
    """An index of three documents, two of one file, that a test may change; no model is needed."""
    with SmartIndex.create(tmp_path / "tiny", WordEncoder()) as index:
        source = str((tmp_path / "notes.txt").resolve())
        index.add([Document(name, f"Text {name}.", {"source": source} if name != "c" else {}) for name in "abc"])
    return tmp_path / "tiny"


def test_delete_by_id_and_by_file(tiny_db, tmp_path, monkeypatch):
    absent = f"no passage 'nobody' in {tiny_db}\n"
    assert run("delete", "--db", tiny_db, "c", "nobody", "c") == (0, "1 passage removed\n", absent)
    assert run("delete", "nobody", "--db", tiny_db) == (1, "", f"error: {absent[:-1]}; nothing was removed\n")
    said = error_of("delete", "nobody", "--source", "gone.txt", "--db", tiny_db)
    assert said == f"error: no passage 'nobody', no passage of the file gone.txt in {tiny_db}; nothing was removed\n"
    monkeypatch.chdir(tmp_path)
    absent = f"no passage of the file gone.txt in {tiny_db.name}\n"
    options = ["--source", "notes.txt", "--source", "gone.txt"]
    assert run("delete", "--db", tiny_db, *options) == (0, "2 passages removed\n", absent)
    assert json.loads(good("info", "--db", tiny_db, "--json"))["documents"] == 0


def test_a_large_index_is_calibrated(tmp_path):
    """Then a search shows the relevance of its hits, and asks no question first."""
    (tmp_path / "docs").mkdir()
    for i in range(220):
        (tmp_path / "docs" / f"{i}.txt").write_text(f"Boat {i} is moored at pier {i * 7 % 31}.")
    good("index", tmp_path / "docs", "--db", tmp_path / "index")
    assert json.loads(good("info", "--db", tmp_path / "index", "--json"))["manifest"]["relevance"]["documents"] == 220
    assert "  relevance 1.00  " in good("search", "Where is boat 12 moored?", "--db", tmp_path / "index", "-k", 1)


def test_a_change_of_a_file_that_is_not_wanted_reads_no_other_file(tmp_path):
    root = tmp_path.resolve() / "docs"
    for name in ("a.txt", "b.txt", "node_modules/x.txt", "ignored.txt", "noise.log"):
        write(root / name, f"The cat of {name}.")
    write(root / ".gitignore", "ignored.txt\n")
    db, encoder = tmp_path / "index", WordEncoder()
    wanted = _Wanted([root], (), ("*.log",), True, None)
    with SmartIndex.create(db, encoder) as index:
        assert wanted.add_to(index, prune=True).added == 2

    def report(*names):
        return _add_changed(db, encoder, wanted, {root / name for name in names})

    left_alone = report("node_modules/y/x.txt", "node_modules/x.txt", "ignored.txt", "noise.log", "gone.tmp", ".x/lock")
    assert left_alone == AddReport()
    assert report("a.txt").unchanged == 1
    assert report(".gitignore").unchanged == 2
    write(root / "a.txt", "Other words.")
    assert report("a.txt", "4913").replaced == 1
    write(root / "deep" / "c.txt", "More words.")
    assert report("deep").added == 1
    (root / "deep" / "CACHEDIR.TAG").touch()
    assert report("deep/CACHEDIR.TAG").removed == 1
    (root / "b.txt").unlink()
    assert report("b.txt").removed == 1
    (root / "a.txt").rename(root / "d.txt")
    assert report("a.txt", "d.txt").moved == 1
    root.rename(tmp_path / "elsewhere")
    assert _Wanted([root], (), (), True, None).find(("text",), may_be_empty=True).files == []
    assert report(".").removed == 1
