"""Output folder of a training: files of others are safe, and only a matching training is resumed."""

import json
from pathlib import Path

import pytest

from smart_rag.errors import InvalidInput
from smart_rag.training.runs.folder import TrainingFolder, check_folder

RECORD = {"epochs": 2, "learning_rate": 1e-3, "model": "abc", "data": "def", "held_out": "ghi"}


@pytest.fixture
def folder(tmp_path):
    return TrainingFolder(tmp_path / "model")


def add_checkpoint(folder, step, complete=True):
    path = folder.checkpoints / f"checkpoint-{step}"
    path.mkdir(parents=True)
    if complete:
        (path / "trainer_state.json").write_text("{}")
    return path


def test_a_new_folder(folder):
    assert folder.check(resume=False) is None
    assert not folder.path.exists()
    with pytest.raises(InvalidInput, match="holds no checkpoint of an interrupted training; start a new training"):
        folder.check(resume=True)


def test_the_last_complete_checkpoint_is_resumed(folder):
    """The number of steps decides, not the order of the names."""
    folder.start(RECORD)
    add_checkpoint(folder, 9)
    last = add_checkpoint(folder, 10)
    add_checkpoint(folder, 11, complete=False)
    assert folder.check(resume=True) == folder.last_checkpoint() == last
    with pytest.raises(InvalidInput, match="holds checkpoints of an interrupted training; continue it with resume"):
        folder.check(resume=False)


def test_a_folder_with_a_model_is_refused(folder):
    folder.path.mkdir()
    (folder.path / "modules.json").write_text("[]")
    with pytest.raises(InvalidInput, match="holds a model; choose another folder"):
        folder.check(resume=False)


@pytest.mark.parametrize("name", ["README.md", "checkpoints/checkpoint-7/optimizer.pt", "checkpoints/mine.pt"])
@pytest.mark.parametrize("resume", [False, True])
def test_files_of_others_are_not_replaced(name, resume, folder):
    (folder.path / name).parent.mkdir(parents=True)
    (folder.path / name).write_text("mine")
    with pytest.raises(InvalidInput, match="holds other files, which the training might replace; choose a new folder"):
        folder.check(resume)


def test_temporary_folders_of_another_process_are_allowed(folder):
    """Another process of the same training may be ahead, and measure already."""
    (folder.checkpoints / ".held-out-abc").mkdir(parents=True)
    assert folder.check(resume=False) is None


def test_the_record_must_be_the_same(folder):
    folder.start(RECORD)
    folder.check_record(RECORD)
    changed = {**RECORD, "epochs": 3, "data": "xyz"}
    message = r"with another epochs \(2 before, 3 now\), data; resume with the arguments that it started with"
    with pytest.raises(InvalidInput, match=message):
        folder.check_record(changed)


def test_only_the_first_process_writes_the_record(folder, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    folder.start(RECORD)
    assert list(folder.checkpoints.iterdir()) == []
    monkeypatch.setenv("RANK", "0")
    folder.start(RECORD)
    assert json.loads((folder.checkpoints / "training.json").read_text()) == RECORD


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(InvalidInput, match="file is a file, expected a folder; choose another path"):
            check_folder(path)
    check_folder(tmp_path)
    check_folder(tmp_path / "new" / "model")


def test_a_folder_that_cannot_be_made_is_an_error_of_one_line():
    with pytest.raises(InvalidInput, match=r"/proc/nowhere/x cannot be written \(.*\); choose another folder"):
        TrainingFolder(Path("/proc/nowhere/x")).start({})
