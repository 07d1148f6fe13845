"""Chroma's SQLite file comes from somebody else: no code of theirs runs, and no document is lost."""

from __future__ import annotations

import json
import shutil
import sqlite3

import pytest
from helpers.word_encoder import VocabularyEncoder

from smart_rag import SmartIndex
from smart_rag.errors import CorruptStore

TEXTS = ["pump and oil", "the oil of the boat", "keys are in the boat", "boat and carp"]
MODULE = "from pathlib import Path\nPath({!r}).touch()\nclass Theirs: pass\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "index"
    with SmartIndex.create(path, VocabularyEncoder()) as index:
        index.add_texts(TEXTS, ["a", "b", "c", "d"], [{"n": i} for i in range(4)])
        return path, answers(index)


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "index")
    return tmp_path / "index"


def answers(index):
    return [
        {hit.id: round(hit.score, 4) for hit in index.search(question, 5, first_stage=stage)}
        for question in ("oil boat", "keys")
        for stage in ("terms", "pooled", "exhaustive")
    ]


def sql(folder, *statements):
    database = sqlite3.connect(folder / "chroma" / "chroma.sqlite3")
    with database:
        for statement in statements:
            database.execute(*statement)
    database.close()


def settings(folder, **values):
    """Change settings of the collection."""
    for key, value in values.items():
        place = f'$.keys."#embedding".float_list.vector_index.config.{key}'
        change = "UPDATE collections SET schema_str = json_set(schema_str, ?, json(?))"
        sql(folder, [change, (place, json.dumps(value))])


def opened(folder):
    return SmartIndex.open(folder, VocabularyEncoder())


def test_the_model_that_the_file_names_is_not_made(folder, tmp_path):
    """Chroma would make it on each write. The model's folder lies in the index, and has a module."""
    model = folder / "images"
    model.mkdir()
    (model / "config.json").write_text("{}")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "theirs.Theirs"}]
    (model / "modules.json").write_text(json.dumps(modules))
    (model / "theirs.py").write_text(MODULE.format(str(tmp_path / "ran")))
    config = {"model_name": str(model), "device": "cpu", "normalize_embeddings": False}
    config["kwargs"] = {"trust_remote_code": True}
    settings(folder, embedding_function={"type": "known", "name": "sentence_transformer", "config": config})
    with pytest.raises(CorruptStore, match="names the embedding function 'sentence_tr"), opened(folder) as index:
        index.add_texts(["a new text"])
    SmartIndex.rebuild(folder, VocabularyEncoder())
    with opened(folder) as index:
        index.add_texts(["a new text"])
    assert not (tmp_path / "ran").exists()


FAULTS = {
    "another space": lambda folder: settings(folder, space="l2"),
    "no neighbours": lambda folder: settings(folder, **{"hnsw.max_neighbors": 0}),
    "a later record": lambda folder: sql(folder, ["UPDATE max_seq_id SET seq_id = 100000"]),
    "a log without its end": lambda folder: sql(folder, ["DELETE FROM embeddings_queue WHERE seq_id > 2"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_repaired(folder, made, fault):
    FAULTS[fault](folder)
    with pytest.raises(CorruptStore, match=r"chroma\.sqlite3: .*smart-rag verify --repair"):
        opened(folder)
    SmartIndex.rebuild(folder, VocabularyEncoder())
    with opened(folder) as index:
        assert answers(index) == made[1]
        index.add_texts(["a new lamp"], ["new"])
        assert index.search("lamp", 1)[0].id == "new"
        assert index.verify().sound


@pytest.mark.parametrize(
    "statements",
    [
        ["ALTER TABLE collections RENAME TO other", "CREATE VIEW collections AS SELECT * FROM other"],
        ["CREATE TRIGGER other AFTER INSERT ON embeddings_queue BEGIN DELETE FROM embeddings; END"],
    ],
    ids=["view", "trigger"],
)
def test_views_and_triggers_are_refused(folder, statements):
    sql(folder, *([one] for one in statements))
    message = "expected the tables that Chroma makes, found .*(other|collections).* restore it from a backup"
    with pytest.raises(CorruptStore, match=message):
        opened(folder)
    with pytest.raises(CorruptStore, match=message):
        SmartIndex.rebuild(folder, VocabularyEncoder())


def test_two_values_in_a_row(folder):
    """Chroma would return one of them."""
    sql(folder, ["UPDATE embedding_metadata SET bool_value = 1 WHERE key = 'n'"])
    with opened(folder) as index:
        assert "with two values" in index.verify().chroma_damage
        index.verify(repair=True)
        assert index.verify().sound
