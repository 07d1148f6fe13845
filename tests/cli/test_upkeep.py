"""``smart-rag verify``, ``vacuum``, ``compact``, ``convert``, ``backup`` and ``restore``."""

from __future__ import annotations

import json
import shutil

import lmdb
from helpers.command_line import error_of, good, run, usage_error_of

from smart_rag import SmartIndex


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
    assert (code, errors) == (1, "to repair the index: smart-rag verify --repair\n")
    for line in (
        "1 passage without token embeddings or terms: ",
        "1 passage with damaged token embeddings or terms: ",
        "1 entry of no passage, which `smart-rag vacuum` removes",
    ):
        assert line in output
    assert "encode them again with" in error_of("search", "cat", "--db", db)
    assert "\nrepaired\nall 4 passages are sound\n" in good("verify", "--db", db, "--repair")
    assert good("verify", "--db", db) == sound
    assert len(json.loads(good("search", "cat", "--db", db, "--json"))) == 4


def hits(db):
    return [(hit["id"], hit["metadata"]) for hit in json.loads(good("search", "cat", "--db", db, "--json"))]


def test_compact_and_convert(folder, tmp_path):
    db = tmp_path / "index"
    good("index", folder, "--db", db)
    before = hits(db)
    assert good("compact", "--db", db).endswith(" MB freed\n")
    assert good("convert", "--codec", "exact", "--db", db) == f"{db}: minilm, codec float16\n"
    assert good("index", folder, "--db", db) == f"passages: 4 unchanged\n4 passages in {db}\n"
    assert hits(db) == before
    assert "give a codec with --codec" in usage_error_of("convert", "--db", db)
    assert "unknown codec" in error_of("convert", "--codec", "3bit", "--db", db)


def test_convert_to_another_model(folder, tmp_path, other_model):
    db = tmp_path / "index"
    good("index", folder, "--db", db)
    assert good("convert", "--model", other_model, "--db", db) == f"{db}: {other_model}, codec 2bit\n"
    assert hits(db)
    with SmartIndex.open(db) as index:
        assert index.manifest.encoder["model"] == str(other_model)


def test_convert_to_the_same_model_keeps_what_was_chosen(folder, tmp_path):
    """What is not kept is named, such as prompts, which another version may have chosen otherwise."""
    from helpers import tiny_vision  # which skips the test where torchvision is not to be had

    db, model = tmp_path / "index", tiny_vision.qwen3_vl(tmp_path / "model")
    options = ("--max-pixels", 50_176, "--query-prompt", "ask: ", "--model", model)
    good("index", folder / "cats.txt", "--db", db, *options)
    code, _, errors = run("convert", "--model", model, "--db", db)
    assert code == 0
    assert "max_pixels=50176, as in the index" in errors
    assert "query_prompt is ''; in the index, it is 'ask: '" in errors
    with SmartIndex.open(db) as index:
        assert index.encoder.describe()["max_pixels"] == 50_176
    assert "max_pixels" not in run("convert", "--model", model, "--max-pixels", 100_352, "--db", db)[2]


def test_backup_and_restore(folder, tmp_path):
    db, copy = tmp_path / "index", tmp_path / "copies" / "monday"
    good("index", folder, "--db", db)
    before = hits(db)
    assert good("backup", copy, "--db", db) == f"copied to {copy}\n"
    assert "is not empty" in error_of("backup", folder, "--db", db)
    shutil.rmtree(db)
    assert good("restore", copy, "--db", db) == f"4 passages in {db}\n"
    assert hits(db) == before
    assert "to restore a copy in its place, move this folder away first" in error_of("restore", copy, "--db", db)


def test_a_damaged_copy_is_not_restored(folder, tmp_path):
    db, copy = tmp_path / "index", tmp_path / "copy"
    good("index", folder, "--db", db)
    good("backup", copy, "--db", db)
    with SmartIndex.open(copy) as index:
        row = next(iter(index._store.pooled.select()))
        index._store.tokens.delete([row.key])
    shutil.rmtree(db)
    assert "the copy is damaged" in error_of("restore", copy, "--db", db)
    assert not db.exists()
