"""The index that a command opens: its model, its codec, and folders that hold no index."""

from __future__ import annotations

import json
import re
import shutil
import threading
from pathlib import Path

import pytest
from helpers.command_line import error_of, good, run
from helpers.word_encoder import WordEncoder

from smart_rag import Document, SmartEncoder, SmartIndex
from smart_rag.index.manifest import FILE_NAME


def test_the_codec_of_a_new_index(folder, tmp_path):
    db = tmp_path / "index"
    said = error_of("index", folder, "--db", db, "--codec", "nothing", "--model", "no/such-model")
    assert "unknown codec 'nothing'; the codecs are exact, balanced, compact, " in said
    assert not db.exists()
    good("index", folder, "--db", db, "--codec", "compact")
    assert re.search(r"^codec +2bit/2 *$", good("info", "--db", db), re.MULTILINE)
    for named in ("compact", "2bit/2"):
        assert "4 unchanged" in good("index", folder, "--db", db, "--codec", named)
    said = error_of("index", folder, "--db", db, "--codec", "exact", "--model", "no/such-model")
    assert said.startswith(f"error: {db}: the index has the codec '2bit/2', but --codec exact asks for 'float16'")
    assert said.endswith(": index the documents into another folder\n")


def test_the_default_codec_is_that_of_the_library(db):
    assert "by default balanced." in " ".join(good("index", "--help").replace("│", " ").split())
    assert json.loads(good("info", "--db", db, "--json"))["manifest"]["config"]["codec"] == "2bit"


def test_an_index_that_another_process_is_making(folder, tmp_path, minilm):
    """The command waits until it is made, and adds to it. The other process writes the manifest last."""
    db = tmp_path / "index"
    with SmartIndex.create(db, minilm) as index:
        index.add([Document("theirs", "Written by the other process.")])
    (db / FILE_NAME).rename(tmp_path / "manifest")
    other = threading.Timer(1, (tmp_path / "manifest").rename, [db / FILE_NAME])
    other.start()
    assert "passages: 1 added\n2 passages in" in good("index", folder / "cats.txt", "--db", db)
    other.join()


def test_an_index_remembers_the_model_that_made_it(documents, tmp_path, other_model):
    good("index", documents, "--db", tmp_path / "index", "--model", other_model)
    good("index", documents, "--db", tmp_path / "index", "--model", other_model)
    assert other_model in good("info", "--db", tmp_path / "index")
    assert "report.pdf, page 2" in good("search", "seawater pump", "--db", tmp_path / "index")


def test_an_index_of_another_model_is_refused(documents, db, other_model):
    said = error_of("index", documents, "--db", db, "--model", other_model)
    assert "the index was made with 'minilm' and cannot be used with" in said
    assert other_model in said


def test_another_model_that_cannot_be_loaded(documents, db):
    """The reason may be the network, but the model of the index is there."""
    said = error_of("index", documents, "--db", db, "--model", "no/such-model")
    assert said.startswith(f"error: {db}: the index was made with 'minilm' (leave out --model to use that); cannot ")


def test_a_model_that_has_changed_in_its_folder(documents, tmp_path):
    from helpers.tiny_models import bert  # which takes seconds to import

    model = bert(tmp_path)
    good("index", documents, "--db", tmp_path / "index", "--model", model)
    shutil.rmtree(model)
    bert(tmp_path, seed=1)
    for command in (["index", documents], ["index", documents, "--model", model], ["search", "dogs"]):
        said = error_of(*command, "--db", tmp_path / "index")
        assert f"the model in '{model}' has changed since the index was made; put the old one back, or index" in said


@pytest.mark.parametrize("model", ["no/such-model", "empty"])
def test_an_unknown_model_is_an_error_with_advice(documents, tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    code, output, errors = run("index", documents, "--db", "index", "--model", model)
    assert (code, output) == (1, "")
    assert errors.startswith("error: cannot load the model ")
    assert f"{model}'" in errors
    assert "pip install 'smart-rag[demo]'" in errors
    assert "Traceback" not in errors
    assert not Path("index").exists()


def test_a_model_that_has_moved(documents, tmp_path):
    """Where it is now is said, and nothing else: what was chosen when the index was made is in the index."""
    from helpers.tiny_models import bert  # which takes seconds to import

    model, db, moved = bert(tmp_path), tmp_path / "index", tmp_path / "elsewhere"
    with SmartIndex.create(db, SmartEncoder(model, query_prompt="cat ", document_prompt="a ", max_length=32)) as index:
        index.add_files([documents])
        expected = [(hit.id, hit.score) for hit in index.search("dogs")]
    shutil.move(model, moved)
    asked = ("ask", "dogs?", "--db", db, "--llm-url", "http://localhost:1/v1", "--llm-model", "none", "--timeout", 5)
    for command in (("search", "dogs", "--db", db), asked):
        assert f"there is no model folder {model}; name the place where it is now" in error_of(*command)
    assert "http://localhost:1/v1" in error_of(*asked, "--model", moved)  # beyond the model
    found = json.loads(good("search", "dogs", "--db", db, "--model", moved, "--json"))
    assert [(hit["id"], pytest.approx(hit["score"], abs=1e-5)) for hit in found] == expected
    assert "4 unchanged" in good("index", documents, "--db", db, "--model", moved)
    assert json.loads(good("search", "dogs", "--db", db, "--json")) == found  # from now on it is known
    said = error_of("search", "dogs", "--db", db, "--model", "minilm")
    assert f"{db}: the index was made with {str(moved)!r} and cannot be used with 'minilm'" in said


def test_an_index_without_a_model_takes_none(tmp_path):
    SmartIndex.create(tmp_path / "index", None, dimension=4).close()
    said = error_of("search", "words", "--db", tmp_path / "index", "--model", "minilm")
    assert "the index was made with \"vectors of the caller's own\" and cannot be used with 'minilm'" in said
    assert "this index has no encoder" in error_of("search", "words", "--db", tmp_path / "index", "--device", "cpu")


def test_a_model_that_takes_fewer_tokens_is_another_one(db, other_model):
    said = error_of("search", "dogs", "--db", db, "--model", other_model)
    assert f"{db}: the index was made with 'minilm' and cannot be used with {other_model!r}: max_length must be" in said


@pytest.mark.parametrize("command", ["index", "search", "ask", "eval", "tune", "info"])
def test_every_command_passes_the_device_to_the_model(command, documents, db, dataset, tmp_path):
    arguments = {
        "index": [documents, "--db", tmp_path / "index"],
        "search": ["dogs", "--db", db],
        "ask": ["dogs?", "--db", db, "--llm-url", "http://localhost:1/v1", "--llm-model", "none"],
        "eval": [dataset],
        "tune": ["--db", db, "--queries", dataset / "queries.jsonl", "--qrels", dataset / "qrels.tsv"],
        "info": ["--model", "minilm"],
    }[command]
    assert "device 'nowhere'" in error_of(command, *arguments, "--device", "nowhere")
    if command not in ("ask", "tune"):  # which need a language model, and 30 queries
        good(command, *arguments, "--device", "cpu")


# --- folders that are no index --------------------------------------------------------------


READERS = [["search", "words"], ["info"], ["verify"], ["vacuum"], ["delete", "an id"]]


@pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
def test_no_index_there(tmp_path, command):
    said = error_of(*command, "--db", tmp_path / "gone")
    assert f"no index at {tmp_path / 'gone'}: the folder does not exist" in said
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
def test_a_folder_that_is_no_index(tmp_path, command):
    (tmp_path / "letter.txt").write_text("Dear reader")
    said = error_of(*command, "--db", tmp_path)
    assert f"no index at {tmp_path}: the folder holds no manifest.json" in said
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_an_index_is_made_in_no_folder_that_holds_something_else(tmp_path):
    (tmp_path / "letter.txt").write_text("Dear reader")
    said = error_of("index", tmp_path / "letter.txt", "--db", tmp_path)
    advice = "choose another folder, or move this one away first"
    assert said == f"error: {tmp_path} is not empty and holds no index; {advice}\n"
    said = error_of("index", tmp_path / "letter.txt", "--db", tmp_path / "letter.txt")
    assert said.endswith(f"letter.txt is not a folder; {advice}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
def test_a_file_that_is_no_index(tmp_path, command):
    (tmp_path / "letter.txt").write_text("Dear reader")
    assert "no index at" in error_of(*command, "--db", tmp_path / "letter.txt")


@pytest.mark.parametrize("manifest", ["", "{", "[]", '{"format_version": 2}', "\x00"])
def test_a_broken_manifest(tmp_path, manifest):
    (tmp_path / "manifest.json").write_text(manifest)
    assert "manifest.json is not the manifest of an index" in error_of("info", "--db", tmp_path)


@pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
def test_an_index_of_a_newer_format(tmp_path, command):
    SmartIndex.create(tmp_path / "index", WordEncoder()).close()
    manifest = tmp_path / "index" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": 99, "news": True}))
    said = error_of(*command, "--db", tmp_path / "index")
    assert "the index has format 99, this smart_rag reads formats 2 to 4; upgrade with" in said


def test_an_index_without_an_encoder_cannot_be_searched_by_text(tmp_path):
    SmartIndex.create(tmp_path / "index", None, dimension=4).close()
    said = error_of("search", "words", "--db", tmp_path / "index")
    assert "this index has no encoder" in said
    assert "with a Representation as the query" in said
    assert "none (the caller brings vectors)" in good("info", "--db", tmp_path / "index")
