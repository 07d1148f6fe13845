"""Paths that a caller gives name the same files after a change of the working directory, and ``~`` is the home."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import tiny_models
from helpers.command_line import good
from helpers.some_pairs import some_data
from helpers.word_encoder import WordEncoder

from smart_rag import CachedEncoder, Document, Representation, SmartEncoder, SmartIndex
from smart_rag.encoders.loading.model_options import with_full_paths
from smart_rag.errors import InvalidInput, ModelNotFound, StorageFull
from smart_rag.evaluation import load_dataset
from smart_rag.paths import absolute, check_room, model_location, write_whole
from smart_rag.training import AdapterSettings, load_training_data, train_adapter


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home folder. The working directory is a folder beside it, which has to stay empty."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    yield home
    assert list(here.iterdir()) == []


def test_absolute(home, monkeypatch):
    """Links are kept: what a link leads to may change. ``~$report.docx`` is a file that Word makes."""
    here = Path.cwd()
    assert absolute("a/b") == absolute(Path("a/b")) == here / "a" / "b"
    assert absolute("~/a") == absolute(Path("~/a")) == home / "a"
    assert absolute("~$report.docx") == here / "~$report.docx"
    (home / "link").symlink_to(here)
    assert absolute(home / "link") == home / "link"
    with pytest.raises(InvalidInput, match="NUL"):
        absolute("a\0b")


def test_the_location_of_a_model(home, monkeypatch):
    """A folder is named in full, also one that is missing. The name of a model stays as it is."""
    (home / "model").mkdir()
    monkeypatch.chdir(home)
    assert model_location("model") == model_location("~/model") == model_location(Path("model")) == str(home / "model")
    assert model_location("owner/model") == "owner/model"
    assert model_location("~/gone") == model_location(Path("gone")) == str(home / "gone")
    (home / "minilm").mkdir()
    assert model_location("minilm") == "minilm"
    monkeypatch.chdir(home.parent / "here")


def test_an_index_in_the_home(home):
    with SmartIndex.create("~/index", WordEncoder()) as index:
        assert index.path == home / "index"
        index.add_texts(["bearings"], ["a"])
    assert SmartIndex.exists("~/index")
    with SmartIndex.open("~/index", WordEncoder()) as index:
        assert index.count() == 1
    vectors = Representation.from_embeddings([[1.0, 0.0]])
    SmartIndex.from_embeddings("~/own", [Document("a", "one")], vectors).close()
    assert SmartIndex.exists(home / "own")


def test_files_in_the_home(home):
    (home / "docs").mkdir()
    for name in ("a.txt", "~$b.txt"):
        (home / "docs" / name).write_text(f"bearings {name}")
    with SmartIndex.create(home / "index", WordEncoder()) as index:
        assert index.add_files(["~/docs"]).added == 2
        assert index.delete_source("~/docs/a.txt") == 1
        (home / "docs" / "a.txt").unlink()
        assert index.delete_source(home / "docs" / "~$b.txt") == 1


def test_a_file_whose_name_begins_with_a_tilde(home, monkeypatch):
    (home / "~$report.txt").write_text("bearings")
    monkeypatch.chdir(home)
    with SmartIndex.create("index", WordEncoder()) as index:
        assert index.add_files(["~$report.txt"]).added == 1
        assert index.delete_source("~$report.txt") == 1
    monkeypatch.chdir(home.parent / "here")


def test_a_model_and_an_adapter_that_are_loaded_later(home, monkeypatch):
    """A `CachedEncoder` loads them at its first use."""
    tiny_models.bert(home)
    monkeypatch.chdir(home)
    adapted = train_adapter(
        SmartEncoder("model"),
        some_data(40),
        "adapter",
        AdapterSettings(epochs=1, batch_size=4),
        held_out=0.3,
        keep_anyway=True,
    )
    assert adapted.history
    cached = CachedEncoder("model", adapter="adapter", device="cpu")
    loaded = SmartEncoder("model", adapter="adapter", device="cpu")
    monkeypatch.chdir(home.parent / "here")
    assert cached.describe()["model"] == loaded.describe()["model"] == str(home / "model")
    assert cached.describe()["adapter"] == loaded.describe()["adapter"] == str(home / "adapter")
    assert SmartEncoder("~/model", adapter="~/adapter").fingerprint == loaded.fingerprint
    with pytest.raises(ModelNotFound, match=f"there is no model folder {home / 'gone'}"):
        SmartEncoder("~/gone")


def test_the_folder_of_downloaded_models(home):
    options = {"cache_folder": "~/models", "local_files_only": True}
    assert with_full_paths(options) == {**options, "cache_folder": str(home / "models")}
    assert with_full_paths({"cache_folder": None}) == {"cache_folder": None}
    with pytest.raises(ModelNotFound):
        SmartEncoder("owner/model", model_options=options)
    with pytest.raises(ModelNotFound):
        CachedEncoder("owner/model", model_options=options).describe()


def test_a_folder_with_the_name_of_the_bundled_model(home, monkeypatch):
    """The name stands for the bundled model, so the description must not name the folder."""
    (home / "minilm").mkdir()
    monkeypatch.chdir(home)
    assert SmartEncoder("minilm", device="cpu").describe()["model"] == "minilm"
    monkeypatch.chdir(home.parent / "here")


def test_training_and_evaluation_in_the_home(home):
    tiny_models.bert(home)
    (home / "set").mkdir()
    (home / "set" / "corpus.jsonl").write_text('{"_id": "d", "text": "a text"}\n')
    (home / "set" / "queries.jsonl").write_text('{"_id": "q", "text": "a query"}\n')
    (home / "set" / "qrels.tsv").write_text("q\td\t1\n")
    assert len(load_dataset("~/set").documents) == len(load_training_data("~/set").documents) == 1
    settings = AdapterSettings(epochs=1, batch_size=4)
    report = train_adapter(
        SmartEncoder("~/model"), some_data(40), "~/adapter", settings, held_out=0.3, keep_anyway=True
    )
    assert (home / "adapter" / "adapter.json").is_file()
    report.save_plot("~/plot.png")
    assert (home / "plot.png").is_file()
    with pytest.raises(InvalidInput, match=f"{home / 'adapter'} holds an adapter"):
        train_adapter(SmartEncoder("~/model"), some_data(40), "~/adapter", settings, held_out=0.3)


def test_the_command_line_in_the_home(home):
    """The shell does not expand ``--db=~/index``."""
    (home / "docs").mkdir()
    (home / "docs" / "a.txt").write_text("Bearings of the pump.")
    assert good("index", "~/docs", "--db=~/index").endswith(f"1 passage in {home / 'index'}\n")
    assert "Bearings of the pump." in good("search", "bearings", "--db=~/index", "--explain=~/why.png")
    assert (home / "why.png").is_file()
    assert good("delete", "--db=~/index", "--source=~/docs/a.txt") == "1 passage removed\n"


def test_a_file_is_written_as_a_whole(tmp_path):
    """No other file is left, and others may read it if the user's files may be read by others."""
    (tmp_path / "plain").write_text("")
    for text in ("first", "zweite ä"):
        write_whole(tmp_path / "file.json", text)
        assert (tmp_path / "file.json").read_text(encoding="utf-8") == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.json", "plain"]
    assert (tmp_path / "file.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_whole(tmp_path / "folder", "text")
    assert not list(tmp_path.glob("*.new"))


def test_room_on_the_disk(tmp_path):
    check_room(tmp_path, 1)
    with pytest.raises(StorageFull, match=r"no space left on the disk: this write needs about 1000000000000\.0 MB"):
        check_room(tmp_path, 10**18)


def test_an_empty_path_is_not_the_working_directory():
    with pytest.raises(InvalidInput, match="a path is empty; expected the name of a file or folder"):
        absolute("")
