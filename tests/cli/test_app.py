"""``smart-rag``: what each command prints, its exit codes, and one clear line for each error."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import lmdb
import pytest
from fpdf import FPDF
from helpers.command_line import Terminal, error_of, good, run, usage_error_of
from helpers.tiny_models import bert, byt5
from helpers.word_encoder import WordEncoder
from PIL import Image
from rich.console import Console

from smart_rag import Document, Hit, SmartEncoder, SmartIndex
from smart_rag.cli import display
from smart_rag.types import Content, PdfPage

SCRIPT = Path(sys.executable).with_name("smart-rag")
PUMP = "The bearings of the seawater pump are of the type 6205-2RS, and two spares lie in the drawer."


def write_documents(folder: Path) -> Path:
    """Cats, dogs, and a PDF whose second page is about a pump."""
    folder.mkdir()
    (folder / "cats.txt").write_text("The cat sat on the mat. It purred all day long.")
    (folder / "dogs.md").write_text("# Dogs\n\nDogs bark at strangers in the night.")
    pdf = FPDF()
    pdf.set_font("Helvetica", size=12)
    for text in ("Half-yearly report of the station's engineer.", PUMP):
        pdf.add_page()
        pdf.multi_cell(0, 8, text)
    pdf.output(str(folder / "report.pdf"))
    return folder


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    return write_documents(tmp_path_factory.mktemp("documents") / "docs")


@pytest.fixture(scope="module")
def db(tmp_path_factory, documents):
    """An index that the tests only read, made by the command line."""
    db = tmp_path_factory.mktemp("db") / "index"
    code, output, errors = run("index", documents, "--db", db)
    assert (code, output) == (0, f"passages: 4 added\n4 passages in {db}\n"), errors
    return db


@pytest.fixture
def folder(tmp_path):
    """Documents that a test may change."""
    return write_documents(tmp_path / "docs")


# --- the program ----------------------------------------------------------------------------


def test_without_arguments_it_explains_itself():
    code, output, errors = run()
    assert code in (0, 2)  # typer's releases differ
    for command in ("index", "search", "ask", "eval", "tune", "train", "info", "delete", "verify", "demo"):
        assert re.search(rf"│ {command} ", output + errors)


@pytest.mark.parametrize(
    "command", ["index", "search", "ask", "eval", "tune", "train", "info", "delete", "verify", "demo"]
)
def test_every_command_has_help(command):
    assert f"smart-rag {command}" in good(command, "--help")


def test_help_says_which_model_is_taken():
    said = " ".join(good("index", "--help").replace("│", " ").split())
    assert "by default that of the index, or minilm." in said


def test_help_says_where_verbose_goes():
    said = " ".join(good("--help").replace("│", " ").split())
    assert "before the command: smart-rag -v search ..." in said


def test_as_a_module():
    """Where the script is not on the path."""
    command = [sys.executable, "-m", "smart_rag"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (0, good("--version")), done.stderr
    done = subprocess.run([*command, "info", "--db", "gone"], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no index at gone")


def test_version():
    import smart_rag

    assert good("--version") == f"smart-rag {smart_rag.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["search", "words"], "Missing option '--db'"),
        (["search", "--db", "x"], "give a QUERY, an image by --image, or both"),
        (["index", "--db", "x"], "Missing argument"),
        (["info"], "name an index by --db, or a model by --model"),
        (["info", "--db", "x", "--model", "minilm"], "name an index by --db, or a model by --model"),
        (["info", "--db", "x", "--profile", "general"], "name an index by --db, or a model by --model"),
        (["info", "--db", "x", "--device", "cpu"], "name an index by --db, or a model by --model"),
        (["search", "words", "--db", "x", "-k", "many"], "should be a valid integer"),
        (["search", "words", "--db", "x", "--nothing"], "No such option"),
        (["eval", "x", "--limit-queries", "0"], "greater than or equal to 1"),
        (["delete", "--db", "x"], "name ids, or files by --source"),
    ],
)
def test_wrong_usage(arguments, says):
    assert says in usage_error_of(*arguments)


# --- index ----------------------------------------------------------------------------------


def test_a_second_run_takes_up_what_is_new_or_changed(folder, tmp_path):
    db = tmp_path / "index"
    assert good("index", folder / "cats.txt", "--db", db) == f"passages: 1 added\n1 passage in {db}\n"
    assert good("index", folder, "--db", db) == f"passages: 3 added, 1 unchanged\n4 passages in {db}\n"
    (folder / "cats.txt").write_text("The walrus slept on the ice.")
    (folder / "dogs.md").unlink()
    assert good("index", folder, "--db", db) == f"passages: 1 replaced, 2 unchanged\n4 passages in {db}\n"
    assert good("index", folder, "--db", db, "--prune") == f"passages: 3 unchanged, 1 removed\n3 passages in {db}\n"
    assert "walrus" in good("search", "cat", "--db", db)


def test_a_run_without_prune_says_what_is_gone(folder, tmp_path):
    """In a process of its own, whose log goes to standard error."""
    good("index", folder, "--db", tmp_path / "index")
    (folder / "dogs.md").unlink()
    command = [SCRIPT, "index", folder, "--db", tmp_path / "index"]
    wide = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, env=wide, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (0, f"passages: 3 unchanged\n4 passages in {tmp_path / 'index'}\n")
    assert done.stderr == "1 file is no longer there; --prune (prune=True) removes what the index has of it\n"


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
    assert said.startswith(f"error: {db}: the index has the codec '2bit/2', --codec exact asks for 'float16', and ")
    assert said.endswith("; index the documents into another folder\n")


def test_the_default_codec_is_the_one_of_the_library(db):
    assert "by default balanced." in " ".join(good("index", "--help").replace("│", " ").split())
    assert json.loads(good("info", "--db", db, "--json"))["manifest"]["config"]["codec"] == "2bit"


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
    assert "2 files were left out:\n  docs/photo.txt: binary data, not text\n  docs/scan.pdf: not a sound PDF" in errors


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


def test_a_run_that_is_stopped_says_so_and_can_be_made_again(tmp_path):
    """With a real interrupt, in a process of its own; shells may have such processes ignore it, hence the handler."""
    folder, db = tmp_path / "docs", tmp_path / "index"
    folder.mkdir()
    for i in range(600):
        (folder / f"{i}.txt").write_text(f"Note number {i} is of no interest to anybody. " * 12)
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from smart_rag.cli.app import main; main()"
    )
    command = [sys.executable, "-c", program, "index", folder, "--db", db]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not (db / "manifest.json").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, "")
    assert errors == "\nstopped; what was done is kept, and the same command goes on from there\n"
    assert "passages in" in good("index", folder / "0.txt", folder / "1.txt", "--db", db)


def test_progress_is_shown_to_people_only(folder, tmp_path):
    assert run("index", folder, "--db", tmp_path / "index")[2] == ""
    assert "indexing" in run("index", folder, "--db", tmp_path / "another", stream=Terminal)[2]


@pytest.mark.parametrize(
    ("named", "says"),
    [("gone", "gone does not exist; expected a file or a folder"), ("empty", "no documents found in ")],
)
def test_nothing_to_index_makes_no_index(tmp_path, named, says):
    (tmp_path / "empty").mkdir()
    assert says in error_of("index", tmp_path / named, "--db", tmp_path / "index")
    assert not (tmp_path / "index").exists()


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    return bert(tmp_path_factory.mktemp("model"))


# --- models and devices ---------------------------------------------------------------------


def test_a_model_of_the_users_own_makes_an_index_that_remembers_it(documents, tmp_path, other_model):
    good("index", documents, "--db", tmp_path / "index", "--model", other_model)
    good("index", documents, "--db", tmp_path / "index", "--model", other_model)
    assert other_model in good("info", "--db", tmp_path / "index")
    assert "report.pdf, page 2" in good("search", "seawater pump", "--db", tmp_path / "index")


def test_an_index_of_another_model_is_refused(documents, db, other_model):
    said = error_of("index", documents, "--db", db, "--model", other_model)
    assert "the index was made with 'minilm' and cannot be used with" in said
    assert other_model in said


def test_a_model_that_has_changed_in_its_folder(documents, tmp_path):
    model = bert(tmp_path)
    good("index", documents, "--db", tmp_path / "index", "--model", model)
    shutil.rmtree(model)
    bert(tmp_path, seed=1)
    for command in (["index", documents], ["index", documents, "--model", model], ["search", "dogs"]):
        said = error_of(*command, "--db", tmp_path / "index")
        assert f"the model in '{model}' has changed since the index was made; put the old one back, or index" in said


@pytest.mark.parametrize("model", ["no/such-model", "empty"])
def test_an_unknown_model_says_what_to_pass(documents, tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    code, output, errors = run("index", documents, "--db", "index", "--model", model)
    assert (code, output) == (1, "")
    assert errors.startswith("error: cannot load the model ")
    assert f"{model!r}" in errors
    assert "pip install 'smart-rag[demo]'" in errors
    assert "Traceback" not in errors
    assert not Path("index").exists()


def test_a_model_that_has_moved(documents, tmp_path):
    """Where it is now is said, and nothing else: what was chosen when the index was made is in the index."""
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
def test_a_device_is_told_to_the_model(command, documents, db, dataset, tmp_path):
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


def test_an_unknown_model_is_one_line(documents, tmp_path):
    error_of("index", documents, "--db", tmp_path / "index", "--model", "no/such-model")


def test_a_second_writer_is_refused_while_the_first_is_at_work(tmp_path, folder, minilm):
    """From a process of its own, as it would happen; it changes nothing, and works when the first is done."""
    with SmartIndex.create(tmp_path / "index", minilm) as index:
        index.add([Document("mine", "Written first.")])
        command = [SCRIPT, "index", folder / "cats.txt", "--db", tmp_path / "index"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert (done.returncode, done.stdout) == (1, "")
        said = [line for line in done.stderr.splitlines() if "indexing" not in line]
        assert said == [
            f"error: {tmp_path / 'index'}: another writer has the index open; close it there, or wait until it is done"
        ]
        assert [document.id for document in index.documents()] == ["mine"]
        assert "Written first." in good("search", "first", "--db", tmp_path / "index")  # a reader is welcome
    assert "2 passages in" in good("index", folder / "cats.txt", "--db", tmp_path / "index")


# --- folders that are no index --------------------------------------------------------------

READERS = [["search", "words"], ["info"], ["verify"], ["delete", "an id"]]


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
    assert said == f"error: {tmp_path} is not empty and holds no index; choose another folder\n"
    said = error_of("index", tmp_path / "letter.txt", "--db", tmp_path / "letter.txt")
    assert said.endswith("letter.txt is not a folder; choose another folder\n")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
def test_a_file_that_is_no_index(tmp_path, command):
    (tmp_path / "letter.txt").write_text("Dear reader")
    assert "no index at" in error_of(*command, "--db", tmp_path / "letter.txt")


@pytest.mark.parametrize("manifest", ["", "{", "[]", '{"format_version": 2}', "\x00"])
def test_a_manifest_that_is_not_ours(tmp_path, manifest):
    (tmp_path / "manifest.json").write_text(manifest)
    assert "manifest.json is not the manifest of an index" in error_of("info", "--db", tmp_path)


@pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
def test_an_index_of_a_newer_format(tmp_path, command):
    SmartIndex.create(tmp_path / "index", WordEncoder()).close()
    manifest = tmp_path / "index" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": 99, "news": True}))
    said = error_of(*command, "--db", tmp_path / "index")
    assert "the index has format 99, this smart_rag reads format 2; upgrade with" in said


def test_an_index_of_vectors_that_the_caller_brought_cannot_be_asked_in_words(tmp_path):
    SmartIndex.create(tmp_path / "index", None, dimension=4).close()
    said = error_of("search", "words", "--db", tmp_path / "index")
    assert "this index has no encoder" in said
    assert "with a Representation as the query" in said
    assert "none (vectors are the caller's)" in good("info", "--db", tmp_path / "index")


# --- search ---------------------------------------------------------------------------------


def test_search_shows_scores_their_parts_source_page_and_passage(db, documents, monkeypatch):
    monkeypatch.chdir(documents)
    output = good("search", "Which bearings does the pump need?", "--db", db)
    heads = re.findall(
        r"^ *(\d+)  (-?\d\.\d{3}) = 1 x (-?\d\.\d{3}) pooled \+ 2 x (-?\d\.\d{3}) late  (.*)$", output, re.MULTILINE
    )
    assert [int(rank) for rank, *_ in heads] == [1, 2, 3, 4]
    assert heads[0][4] == "report.pdf, page 2"
    assert {place for *_, place in heads} == {"report.pdf, page 2", "report.pdf, page 1", "cats.txt", "dogs.md"}
    for _, score, pooled, late, _ in heads:
        assert float(score) == pytest.approx(float(pooled) + 2 * float(late), abs=0.0021)
    scores = [float(head[1]) for head in heads]
    assert scores == sorted(scores, reverse=True)
    lines = output.splitlines()
    assert lines[1].strip() == PUMP
    assert lines[1].startswith("    The")


def test_a_source_elsewhere_is_shown_in_full(db, documents):
    assert f"late  {documents.resolve() / 'dogs.md'}\n" in good("search", "dogs", "--db", db)


def test_search_as_json(db, documents):
    hits = json.loads(good("search", "Which bearings does the pump need?", "--db", db, "--json", "-k", "3"))
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    for hit in hits:
        assert set(hit) == {
            *("rank", "id", "score", "pooled_score", "late_score"),
            *("source", "page", "text", "image", "video", "metadata"),
        }
        assert hit["score"] == pytest.approx(hit["pooled_score"] + 2 * hit["late_score"], abs=1e-5)
    source = str((documents / "report.pdf").resolve())
    assert (hits[0]["source"], hits[0]["page"], hits[0]["id"]) == (source, 2, f"{source}#1")
    assert (hits[0]["image"], hits[0]["video"]) == (source, None)
    assert hits[0]["metadata"] == {"source": source, "page": 2, "chunk": 1}
    assert " ".join(hits[0]["text"].split()) == PUMP


def test_the_options_of_search(db, documents):
    def sources(*options):
        return [Path(hit["source"]).name for hit in json.loads(good("search", "dogs", "--db", db, "--json", *options))]

    everything = ["dogs.md", "cats.txt", "report.pdf", "report.pdf"]
    assert sorted(sources()) == sorted(everything)
    assert sources("-k", "1") == sources("--top-k", "1") == sources("-k", "1", "--candidates", "1") == ["dogs.md"]
    assert sources("--where", '{"page": 2}') == ["report.pdf"]
    assert sources("--where", json.dumps({"source": str((documents / "cats.txt").resolve())})) == ["cats.txt"]
    assert sources("--first-stage", "exhaustive", "--where", '{"page": {"$gte": 1}}') == ["report.pdf", "report.pdf"]
    assert sources("--first-stage", "exhaustive") == sources()


def test_nothing_found(db):
    assert good("search", "dogs", "--db", db, "--where", '{"page": 7}') == "nothing found\n"
    assert json.loads(good("search", "dogs", "--db", db, "--where", '{"page": 7}', "--json")) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([""], "error: the query is empty"),
        ([" \n"], "error: the query is empty"),
        (["dogs", "-k", "0"], "top_k must be a whole number of at least 1, got 0"),
        (["dogs", "-k", "-3"], "top_k must be a whole number of at least 1, got -3"),
        (["dogs", "--candidates", "0"], "candidates must be a whole number of at least 1, got 0"),
        (["dogs", "--where", '{"page": {"$near": 3}}'], "got $near"),
        (["dogs", "--where", '{"page": {"$in": []}}'], "Chroma does not accept this"),
    ],
)
def test_a_search_that_cannot_be_made(db, arguments, says):
    assert says in error_of("search", *arguments, "--db", db)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("{page: 3}", '--where must be JSON, such as {"page": 3}: '),
        ("", '--where must be JSON, such as {"page": 3}: '),
        ("[1]", "--where must be a JSON object"),
        ("3", "--where must be a JSON object"),
    ],
)
def test_a_filter_that_is_no_json_object(db, where, says):
    assert says in usage_error_of("search", "dogs", "--db", db, "--where", where)


def test_a_long_passage_is_cut_to_where_the_matches_are(tmp_path):
    path = tmp_path / "long.txt"
    filler = "Nothing of note is in this sentence of mine. "
    path.write_text(filler * 12 + "The walrus sleeps. " + filler * 2)
    good("index", path, "--db", tmp_path / "index")
    (passage,) = [line.strip() for line in passages(good("search", "walrus", "--db", tmp_path / "index", "-k", "1"))]
    assert passage.startswith("… ")
    assert "walrus sleeps." in passage
    assert len(passage) < 440
    (whole,) = passages(good("search", "walrus", "--db", tmp_path / "index", "-k", "1", "--json"), as_json=True)
    assert len(" ".join(whole.split())) > 500


def test_a_heading_stands_on_a_line_of_its_own(tmp_path):
    path = tmp_path / "report.txt"
    path.write_text("Seawater pump\n\nThe bearings\nwere changed.\n\n\nSpares")
    good("index", path, "--db", tmp_path / "index")
    lines = good("search", "pump", "--db", tmp_path / "index").splitlines()[1:4]
    assert [line.strip() for line in lines] == ["Seawater pump", "The bearings were changed.", "Spares"]


def passages(output: str, *, as_json: bool = False) -> list[str]:
    """The passages in what `search` printed, each on one line."""
    if as_json:
        return [hit["text"] for hit in json.loads(output)]
    blocks = re.split(r"^ *\d+  -?\d\.\d{3} = .*$", output, flags=re.MULTILINE)[1:]
    return [" ".join(block.split()) for block in blocks]


def test_a_model_that_knows_no_characters_has_its_hits_shown_plain(documents, tmp_path):
    good("index", documents, "--db", tmp_path / "index", "--model", byt5(tmp_path))
    code, output, errors = run("search", "dogs", "--db", tmp_path / "index", "-k", "2")
    assert (code, len(passages(output))) == (0, 2)
    assert errors.startswith("no words are emphasised: ")
    assert "gives no character offsets" in errors


def test_on_a_terminal_the_best_words_stand_out_and_the_log_says_where_it_ran(db):
    """In a process of its own, since rich looks at the terminal when it starts."""
    done = subprocess.run(
        [SCRIPT, "--verbose", "search", "Which bearings does the pump need?", "--db", db, "-k", "1"],
        env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    strong = re.findall(r"\x1b\[1;33m(.*?)\x1b\[0m", done.stdout)
    assert {"bearings", "pump"} <= set(strong)
    assert "drawer" not in strong
    assert "drawer" in done.stdout
    assert re.search(r"encoded 1 query text, \d+ tokens, on (cpu|cuda)", done.stderr)


# --- pictures -------------------------------------------------------------------------------


def test_explain_writes_a_picture_of_the_first_hit(db, tmp_path):
    path = tmp_path / "why.png"
    code, output, errors = run("search", "Which bearings does the pump need?", "--db", db, "--explain", path)
    assert (code, errors) == (0, f"what matched in the first passage: {path}\n")
    assert output == good("search", "Which bearings does the pump need?", "--db", db)
    with SmartIndex.open(db) as index, Image.open(path) as image:
        expected = index.search("Which bearings does the pump need?")[0].explain().picture()
        assert (image.size, image.tobytes()) == (expected.size, expected.tobytes())
    json_path = tmp_path / "other.jpg"
    assert len(json.loads(good("search", "dogs", "--db", db, "--explain", json_path, "--json"))) == 4
    with Image.open(json_path) as image:
        assert image.format == "JPEG"


def test_nothing_found_is_not_drawn(db, tmp_path):
    options = ["--where", '{"page": 7}', "--explain", tmp_path / "why.png"]
    assert run("search", "dogs", "--db", db, *options) == (0, "nothing found\n", "")
    assert not (tmp_path / "why.png").exists()


def test_a_picture_that_cannot_be_written(db, tmp_path):
    assert "why.txt: expected the name of a picture, which ends in .png, " in error_of(
        "search", "dogs", "--db", db, "--explain", "why.txt"
    )
    said = error_of("search", "dogs", "--db", db, "--explain", tmp_path / "gone" / "why.png")
    assert f"why.png: the folder {tmp_path / 'gone'} does not exist" in said
    assert not list(tmp_path.iterdir())


def test_hits_are_shown_also_where_the_picture_fails(db, tmp_path):
    (tmp_path / "taken.png").mkdir()
    command = ["search", "dogs", "--db", db, "--explain", tmp_path / "taken.png"]
    code, output, errors = run(*command)
    assert (code, output) == (1, good("search", "dogs", "--db", db))
    assert errors == f"error: --explain {tmp_path / 'taken.png'}: cannot be written (Is a directory)\n"
    code, output, again = run(*command, "--json")
    assert (code, again, len(json.loads(output))) == (1, errors, 4)


def test_a_model_that_knows_no_characters_draws_nothing(documents, tmp_path):
    good("index", documents, "--db", tmp_path / "index", "--model", byt5(tmp_path))
    code, output, errors = run("search", "dogs", "--db", tmp_path / "index", "--explain", tmp_path / "why.png")
    assert (code, len(passages(output))) == (1, 4)
    assert "gives no character offsets" in errors.splitlines()[-1]
    assert errors.splitlines()[-1].startswith("error: ")


def test_hits_whose_images_are_gone_are_shown(tmp_path):
    """An image alone, and one with a text: neither the picture nor the words that matched can be had any more."""
    from helpers import tiny_vision  # which skips the test where torchvision is not to be had

    model = tiny_vision.qwen3_vl(tmp_path, sentence_transformers_files=True)
    red, blue, db, why = (tmp_path / name for name in ("red.png", "blue.png", "index", "why.png"))
    for path in (red, blue):
        Image.new("RGB", (96, 64), path.stem).save(path)
    with SmartIndex.create(db, SmartEncoder(model, max_pixels=64 * 32 * 32)) as index:
        index.add([Document("red", image=red), Document("blue", "Something blue.", image=blue)])
    found = json.loads(good("search", "pump", "--db", db, "--json"))
    assert len(found) == 2
    for path in (red, blue):
        path.unlink()
    code, output, errors = run("search", "pump", "--db", db, "--explain", why)
    assert (code, sorted(passages(output))) == (1, ["Something blue.", "[image]"])
    words, picture = errors.splitlines()
    assert words == f"no words are emphasised: {blue}: cannot be read (No such file or directory)"
    assert picture == f"error: {found[0]['image']}: cannot be read (No such file or directory)"
    code, output, errors = run("search", "pump", "--db", db, "--explain", why, "--json")
    assert (code, [hit["id"] for hit in json.loads(output)]) == (1, [hit["id"] for hit in found])
    assert errors == picture + "\n"
    assert not why.exists()


def test_an_image_as_the_query(tmp_path):
    from helpers import tiny_vision  # which skips the test where torchvision is not to be had

    model = tiny_vision.qwen3_vl(tmp_path, sentence_transformers_files=True)
    red, blue = tmp_path / "red.png", tmp_path / "blue.png"
    for path, size in ((red, (96, 64)), (blue, (64, 96))):
        Image.new("RGB", size, path.stem).save(path)
    db, why = tmp_path / "index", tmp_path / "why.png"
    with SmartIndex.create(db, SmartEncoder(model, max_pixels=64 * 32 * 32)) as index:
        index.add([Document(path.stem, image=path) for path in (red, blue)])
        alone, both = index.search(Content(image=blue)), index.search(Content("something red", red))
    for query, expected in ((["--image", blue], alone), (["something red", "--image", red], both)):
        found = json.loads(good("search", *query, "--db", db, "--json"))
        assert [hit["id"] for hit in found] == [hit.id for hit in expected]
        assert [hit["score"] for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-4)
    code, output, errors = run("search", "something red", "--image", red, "--db", db, "--explain", why)
    assert (code, errors) == (0, f"what matched in the first passage: {why}\n")
    assert re.findall(r"late  (.*)$", output, re.MULTILINE) == [hit.id for hit in both]
    assert len(re.findall(r"^    \[image\] *$", output, re.MULTILINE)) == 2
    assert [hit["image"] for hit in found] == [str(hit.image) for hit in both]
    with Image.open(why) as image:
        assert image.width >= 480
    assert "gone.png" in error_of("search", "--image", tmp_path / "gone.png", "--db", db)


def test_what_a_hit_without_text_is(capsys):
    hit = Hit("a", " ", {"source": "a.mp4"}, score=1.0, pooled_score=0.5, late_score=0.5, rank=1, video="a.mp4")
    for shown, medium in ((hit, "[video]"), (replace(hit, image="a.png", video=None), "[image]")):
        Console(width=80).print(display.hit_text(shown, (1, 2), []))
        assert capsys.readouterr().out.splitlines()[1].strip() == medium
        found = display.hit_json(shown)
        assert (found["image"], found["video"]) == (shown.image, shown.video)
    page = replace(hit, image=PdfPage(Path("a.pdf"), 3), video=None)
    assert display.hit_json(page)["image"] == "a.pdf"


def test_an_image_for_a_model_that_takes_none(db, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "red.png")
    said = error_of("search", "--image", tmp_path / "red.png", "--db", db)
    assert "the query has an image, but the index's model takes text" in said


# --- info, delete, verify -------------------------------------------------------------------


def test_info(db):
    lines = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in good("info", "--db", db).splitlines())
    assert (lines["index"], lines["model"], lines["dimension"]) == (str(db), "minilm", "384")
    assert (lines["documents"], lines["codec"]) == ("4", "2bit")
    assert int(lines["tokens"]) > 40
    assert lines["score"] == "1 x pooled + 2 x late, query tokens by idf"
    assert set(lines) >= {"token embeddings, terms", "bytes per token", "bytes per document", "format"}
    assert lines["in all"].endswith("kB")
    stored, rows, total = (
        float(lines[line].split()[0]) for line in ("token embeddings, terms", "pooled embeddings, texts", "in all")
    )
    assert abs(stored + rows - total) < 0.2


def test_info_as_json(db):
    info = json.loads(good("info", "--db", db, "--json"))
    assert set(info) == {"path", "documents", "tokens", "token_bytes", "pooled_bytes", "manifest"}
    assert (info["path"], info["documents"]) == (str(db), 4)
    assert info["token_bytes"] > 384 / 4 * info["tokens"]
    assert info["manifest"]["encoder"]["model"] == "minilm"


def test_info_of_a_model_says_what_was_decided_and_why():
    rows = (re.split(r"\s{2,}", line.rstrip()) for line in good("info", "--model", "minilm").splitlines())
    lines = {row[0]: row[1:] for row in rows}
    assert lines["pooling"] == ["mean", "the model's own files"]
    assert lines["max length"][:2] == ["256", "the model's own files"]
    assert lines["document tokens"][:2] == ["content", "general rule"]
    assert lines["query prompt"][:2] == ["none", "general rule"]
    assert lines["tokens per passage"][0] == "200"
    assert lines["bytes per passage, exact"][:2] == ["153.6 kB", "codec float16"]
    assert lines["bytes per passage, balanced"][:2] == ["19.2 kB", "codec 2bit"]  # 96 bytes of 200 tokens
    assert lines["bytes per passage, compact"][:2] == ["9.6 kB", "codec 2bit/2"]


def test_info_of_a_model_as_json():
    found = json.loads(good("info", "--model", "minilm", "--json"))
    decisions = {decision["name"]: (decision["value"], decision["source"]) for decision in found["decisions"]}
    assert decisions["profile"] == ("general", "general rule")
    assert decisions["modalities"] == (["text"], "the model's own files")
    assert decisions["document_prompt"] == ("", "general rule")
    assert decisions["dimension"] == (384, "the model's own files")
    assert found["bytes_per_passage"]["balanced"] == 200 * 384 // 4


def test_info_of_a_profile_that_is_not_there():
    said = error_of("info", "--model", "minilm", "--profile", "none")
    assert "there is no profile 'none'; the profiles are qwen3-vl-embedding, gme-qwen2-vl" in said
    said = error_of("info", "--model", "minilm", "--profile", "gme-qwen2-vl")
    assert "profile 'gme-qwen2-vl' is for vision-language decoders, which 'minilm' is not" in said


def test_info_of_an_empty_index(tmp_path):
    SmartIndex.create(tmp_path / "index", WordEncoder()).close()
    assert re.search(r"bytes per token +-", good("info", "--db", tmp_path / "index"))


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
    assert run("delete", "nobody", "--db", tiny_db) == (1, "0 passages removed\n", absent)
    monkeypatch.chdir(tmp_path)
    absent = f"no passage of the file gone.txt in {tiny_db}\n"
    options = ["--source", "notes.txt", "--source", "gone.txt"]
    assert run("delete", "--db", tiny_db, *options) == (0, "2 passages removed\n", absent)
    assert json.loads(good("info", "--db", tiny_db, "--json"))["documents"] == 0


def test_verify_finds_and_repairs(folder, tmp_path):
    db = tmp_path / "index"
    good("index", folder, "--db", db)
    sound = "all 4 passages are sound\n"
    assert good("verify", "--db", db) == good("verify", "--repair", "--db", db) == sound
    with lmdb.open(str(db / "tokens"), max_dbs=1) as environment:
        places = environment.open_db(b"places")
        with environment.begin(places, write=True) as transaction:
            (first, _), (second, place), *_ = transaction.cursor()
            transaction.delete(first)
            transaction.put(second, place[:-1] + bytes([place[-1] ^ 1]))
            transaction.put(b"nobody names me!", place)
    code, output, errors = run("verify", "--db", db)
    assert (code, errors) == (1, "")
    assert output.startswith("1 passage without token embeddings, 1 with damaged ones, 1 entry that no")
    assert "encode them again with" in error_of("search", "cat", "--db", db)
    assert "; repaired" in good("verify", "--db", db, "--repair")
    assert good("verify", "--db", db) == sound
    assert len(passages(good("search", "cat", "--db", db))) == 4


# --- eval -----------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "animals"
    folder.mkdir()
    for name, texts in (
        ("corpus", {"d1": "The cat purrs.", "d2": "Dogs bark at night.", "d3": "Carp live in ponds."}),
        ("queries", {"q1": "which animal purrs?", "q2": "what do dogs do?"}),
    ):
        rows = [json.dumps({"_id": id, "text": text}) for id, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    (folder / "qrels.tsv").write_text("q1\td1\t1\nq2\td2\t2\n")
    return folder


def test_eval_shows_every_run_and_keeps_index_and_figures(dataset, tmp_path):
    output = good("eval", dataset, "--db", tmp_path / "index", "--json", tmp_path / "figures.json")
    assert "animals: 3 documents, 2 queries" in output
    searches = ("search_terms", "search_pooled", "search_exhaustive")
    for ranking in ("pooled", "late", "hybrid", "paper", *searches):
        assert re.search(rf"│ {ranking} +│ +1\.0000 │ +1\.0000 │ +1\.0000 │ +1\.0000 │", output)
    for difference in ("hybrid - pooled", "hybrid - paper", *(f"{search} - hybrid" for search in searches)):
        assert re.search(rf"│ {difference} +│ \+0\.0000 │ \+0\.0000 to \+0\.0000 │ too few queries │", output)
    assert "(auto: exhaustive)" in output
    for stage in ("terms", "pooled", "exhaustive"):
        assert re.search(rf"│ {stage} +│ +1\.0000 │ +3 │", output)
    for step in ("encode", "candidates", "gather", "score", "total", "p95"):
        assert step in output
    assert max(map(len, output.splitlines()[:-1])) <= 100
    assert re.search(r"storage: \d+ bytes per token, [\d,]+ per document, .* documents/s", output)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["runs"]["hybrid"]["ndcg@10"] == 1.0
    assert json.loads(good("info", "--db", tmp_path / "index", "--json"))["documents"] == 3
    assert "ingest: not measured, it was there" in good("eval", dataset, "--db", tmp_path / "index")


def test_the_options_of_eval(dataset, other_model):
    figures = json.loads(
        good(
            "eval",
            dataset,
            "--model",
            other_model,
            "--top-k",
            2,
            "--candidates",
            3,
            "--limit-queries",
            1,
            "--json",
            "-",
        )
    )
    assert (figures["queries"], figures["model"]) == (1, other_model)
    assert (figures["settings"]["top_k"], figures["settings"]["candidates"]) == (2, 3)


def test_one_document_and_one_query(dataset):
    (dataset / "corpus.jsonl").write_text('{"_id": "d1", "text": "The cat purrs."}\n')
    assert re.search(r"animals: 1 document, 1 query\s", good("eval", dataset, "--limit-queries", 1))


def test_eval_of_what_is_no_dataset(dataset, tmp_path):
    assert "gone/qrels.tsv is missing: a BEIR folder holds" in error_of("eval", tmp_path / "gone")
    (dataset / "corpus.jsonl").write_text("{}\n")
    assert "corpus.jsonl, line 1: expected a JSON object" in error_of("eval", dataset)


def test_figures_that_cannot_be_written(dataset, tmp_path):
    assert "gone" in error_of("eval", dataset, "--json", tmp_path / "gone" / "figures.json")


def test_a_depth_of_zero_is_found_before_the_work(dataset, tmp_path):
    assert run("eval", dataset, "--top-k", "0", "--db", tmp_path / "index")[0] in (1, 2)
    assert not (tmp_path / "index").exists()
