"""A folder from somebody else: nothing outside of it is read, written, removed or run without the user's word."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest
from helpers import tiny_models
from helpers.command_line import error_of, good
from helpers.word_encoder import SeeingEncoder, WordEncoder
from PIL import Image

from smart_rag import Document, PdfPage, SmartEncoder, SmartIndex, errors
from smart_rag.errors import CorruptStore, InvalidInput, ModelNotFound, NotTrusted
from smart_rag.index.manifest import FILE_NAME
from smart_rag.store.checks.row_checksum import CHECKSUM
from smart_rag.store.row import sealed

TEXTS = ["Dogs bark at night.", "The keys are in the boat."]


@pytest.fixture
def another_user(tmp_path, monkeypatch):
    """A user, or a machine, that has never named a model or a source."""
    monkeypatch.setenv("SMART_RAG_HOME", str(tmp_path / "another user"))
    return tmp_path / "another user"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a tiny model."""
    return tiny_models.bert(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def index(model, tmp_path):
    """The folder of an index that was made with this model."""
    with SmartIndex.create(tmp_path / "index", SmartEncoder(model, device="cpu")) as made:
        made.add_texts(TEXTS)
    return tmp_path / "index"


def edit(folder, **values):
    """Change what the manifest says of the encoder."""
    manifest = json.loads((folder / FILE_NAME).read_text())
    manifest["encoder"].update(values)
    (folder / FILE_NAME).write_text(json.dumps(manifest))


def refused(folder, *parts, **options):
    with SmartIndex.open(folder, **options) as opened:
        for action in (lambda: opened.search("dogs"), lambda: opened.add_texts(["new"]), lambda: opened.encoder):
            with pytest.raises(NotTrusted) as caught:
                action()
        assert opened.count() == 2  # what needs no model works
    for part in (str(folder), *parts):
        assert part in str(caught.value)


# --- models -------------------------------------------------------------------------------------


def test_a_model_that_the_user_has_named(index):
    """On this machine, in this test's `index`."""
    with SmartIndex.open(index) as opened:
        assert opened.search("dogs")


def test_a_model_that_nobody_has_named(index, model, another_user):
    refused(index, f"SmartEncoder({str(model)!r})", f"--model {model}")
    assert f"{index}: the index was made with the model" in error_of("search", "dogs", "--db", index)
    assert not another_user.exists()
    with SmartIndex.open(index, model) as opened:
        assert opened.search("dogs")
    with SmartIndex.open(index) as opened:  # from now on it is known
        assert opened.search("dogs")


def test_the_command_line_takes_the_users_word(index, model, another_user):
    assert "Dogs" in good("search", "dogs", "--db", index, "--model", model)
    assert "Dogs" in good("search", "dogs", "--db", index)


def test_the_bundled_model_is_known(tmp_path, another_user):
    with SmartIndex.create(tmp_path / "index") as made:
        made.add_texts(TEXTS)
    shutil.rmtree(another_user, ignore_errors=True)
    with SmartIndex.open(tmp_path / "index") as opened:
        assert opened.search("dogs")


@pytest.mark.parametrize(
    "changed",
    [
        {"revision": "refs/pr/1"},
        {"adapter": "/nowhere/adapter"},
        {"model_options": {"cache_folder": "/nowhere"}},
        {"model_options": {"model_kwargs": {"attn_implementation": "somebody/kernel"}}},
        {"model": "somebody/model"},
        {"model": "/nowhere/model"},
        {"model": "../model"},
    ],
)
def test_whatever_decides_what_is_loaded_must_be_known(index, changed):
    edit(index, **changed)
    refused(index, repr(next(iter(changed.values()))))


def test_what_the_user_names_does_not_bring_the_rest(index, model, another_user):
    """On the command line, the model is the user's word, but not the adapter that the index adds to it."""
    edit(index, adapter="/nowhere/adapter")
    assert "adapter='/nowhere/adapter'" in error_of("search", "dogs", "--db", index, "--model", model)


def test_a_model_in_the_index_is_never_known(index, model):
    inside = index / "model"
    shutil.copytree(model, inside)
    SmartEncoder(inside, device="cpu")
    edit(index, model=str(inside))
    refused(index, "in its own folder")


CODE = """
import pathlib
pathlib.Path(__file__).parent.joinpath("ran").touch()
pathlib.Path({marker!r}).touch()
from sentence_transformers.sentence_transformer.modules import Pooling
class Evil(Pooling):
    pass
"""


@pytest.fixture
def evil(model, tmp_path):
    """A model with a module class of its own, which leaves a mark when it is imported."""
    folder = tmp_path / "evil"
    shutil.copytree(model, folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "evil_module.Evil"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "evil_module.py").write_text(CODE.format(marker=str(tmp_path / "ran")))
    return folder


@pytest.mark.parametrize("kind", ["SentenceTransformer", "MultiVectorEncoder"])
def test_code_in_a_model_is_not_run(evil, tmp_path, monkeypatch, kind):
    """Also not if Python would find the module by its name, as in a program that runs in this folder."""
    monkeypatch.syspath_prepend(str(evil))
    (evil / "config_sentence_transformers.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ModelNotFound, match=r"evil_module\.Evil.*trust_remote_code=True"):
        SmartEncoder(evil, device="cpu")
    assert not (tmp_path / "ran").exists()
    if kind == "SentenceTransformer":
        SmartEncoder(evil, device="cpu", trust_remote_code=True)
        assert (tmp_path / "ran").exists()


def test_an_index_cannot_allow_code(evil, tmp_path):
    """Neither for a stranger's model, nor for one that the user has allowed once: the caller says it each time."""
    with SmartIndex.create(tmp_path / "index", SmartEncoder(evil, device="cpu", trust_remote_code=True)) as made:
        made.add_texts(TEXTS)
    (tmp_path / "ran").unlink()
    refused(tmp_path / "index", "runs code of its own", "trust_remote_code=True", "--trust-remote-code")
    assert "--trust-remote-code" in error_of("search", "dogs", "--db", tmp_path / "index")
    assert not (tmp_path / "ran").exists()
    assert "Dogs" in good("search", "dogs", "--db", tmp_path / "index", "--trust-remote-code")


def test_a_record_that_cannot_be_written(index, model, another_user, caplog):
    another_user.write_text("a file where the folder should be")
    with SmartIndex.open(index, model) as opened:
        assert opened.search("dogs")
    assert "cannot record that you have used this model" in caplog.text


# --- links --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["tokens", "terms", "chroma", "images", "manifest.json", "write.lock", "chroma/smart_rag.lock"]
)
def test_links_are_refused(tmp_path, name):
    """A lock that is a link would empty the file that it leads to."""
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as made:
        made.add_texts(TEXTS)
    outside, place = tmp_path / "outside", tmp_path / "index" / name
    if place.exists():
        shutil.move(place, outside)
    elif name == "images":
        outside.mkdir()
        (outside / "photo.png").write_text("a photo")
    else:
        outside.write_text("precious")
    place.symlink_to(outside)
    content = outside.read_bytes() if outside.is_file() else sorted(outside.rglob("*"))
    with pytest.raises(NotTrusted, match=re.escape(f"{place} is a link")):
        SmartIndex.open(tmp_path / "index", WordEncoder())
    assert content == (outside.read_bytes() if outside.is_file() else sorted(outside.rglob("*")))
    assert f"{place} is a link" in error_of("info", "--db", tmp_path / "index")


FILES = ("write.lock", *(f"chroma/smart_rag.{name}" for name in ("lock", "turn", "writes", "checksums")))


@pytest.mark.parametrize("name", [*FILES, "chroma/chroma.sqlite3", "tokens/data.mdb", "terms/lock.mdb"])
def test_a_folder_in_the_place_of_a_file(tmp_path, name):
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as made:
        made.add_texts(TEXTS)
    place = tmp_path / "index" / name
    place.unlink(missing_ok=True)
    place.mkdir()
    advice = "remove it, the file is made again" if name in FILES else "restore the index from a backup"
    with pytest.raises(CorruptStore, match=re.escape(f"{place} is a folder, expected a file; {advice}")):
        SmartIndex.open(tmp_path / "index", WordEncoder())
    if name in FILES:
        place.rmdir()
        with SmartIndex.open(tmp_path / "index", WordEncoder()) as opened:
            opened.add_texts(["once more"])
            assert opened.verify().sound


@pytest.mark.parametrize("name", ["chroma", "tokens", "terms", "images"])
def test_a_file_in_the_place_of_a_folder(tmp_path, name):
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as made:
        made.add_texts(TEXTS)
    place = tmp_path / "index" / name
    shutil.rmtree(place, ignore_errors=True)
    place.write_text("a file")
    with pytest.raises(CorruptStore, match=re.escape(f"{place} is a file, expected a folder; restore")):
        SmartIndex.open(tmp_path / "index", WordEncoder())


def test_an_index_with_links_is_not_rebuilt(tmp_path):
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as made:
        made.add_texts(TEXTS)
    shutil.move(tmp_path / "index" / "chroma", tmp_path / "outside")
    (tmp_path / "index" / "chroma").symlink_to(tmp_path / "outside")
    with pytest.raises(NotTrusted, match="is a link"):
        SmartIndex.rebuild(tmp_path / "index", WordEncoder())


def test_hard_links_are_refused(tmp_path):
    """LMDB writes to its lock file whenever it is opened."""
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as made:
        made.add_texts(TEXTS)
    (tmp_path / "precious").write_text("precious")
    lock = tmp_path / "index" / "tokens" / "lock.mdb"
    lock.unlink()
    lock.hardlink_to(tmp_path / "precious")
    with pytest.raises(NotTrusted, match="hard link"):
        SmartIndex.open(tmp_path / "index", WordEncoder())
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_journal_that_names_another_file_is_refused(tmp_path):
    """SQLite applies such a journal when it opens the database, and then removes the file with the name."""
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as made:
        made.add_texts(TEXTS)
    database = (tmp_path / "index" / "chroma" / "chroma.sqlite3").read_bytes()
    page = int.from_bytes(database[16:18]) or 65_536
    magic = bytes.fromhex("d9d505f920a163d7")
    precious = tmp_path / "precious"
    precious.write_text("precious")
    name = str(precious).encode()
    pages = len(database) // page
    header = magic + b"".join(value.to_bytes(4) for value in (1, 0, pages, 512, page))
    first = database[:page]
    checksum = sum(first[i] for i in range(page - 200, 0, -200)) % 2**32
    record = (1).to_bytes(4) + first + checksum.to_bytes(4)
    tail = (0x40000000 // page + 1).to_bytes(4) + name + len(name).to_bytes(4) + sum(name).to_bytes(4) + magic
    journal = tmp_path / "index" / "chroma" / "chroma.sqlite3-journal"
    journal.write_bytes(header.ljust(512, b"\0") + record + tail)
    with pytest.raises(NotTrusted, match="journal"):
        SmartIndex.open(tmp_path / "index", WordEncoder())
    assert precious.exists()
    journal.write_bytes(header.ljust(512, b"\0") + record)  # as a crash leaves it
    with SmartIndex.open(tmp_path / "index", WordEncoder()) as opened:
        assert opened.count() == 2


def test_settings_of_chroma_beside_the_index_are_not_read(tmp_path, monkeypatch):
    """The user may be in the folder of an index that somebody else made."""
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as made:
        made.add_texts(TEXTS)
    (tmp_path / "index" / ".env").write_text("chroma_product_telemetry_impl=evil.Telemetry\n")
    (tmp_path / "index" / "evil.py").write_text("raise SystemExit('code of somebody else')")
    monkeypatch.chdir(tmp_path / "index")
    monkeypatch.syspath_prepend(str(tmp_path / "index"))
    with SmartIndex.open(".", WordEncoder()) as opened:
        assert opened.search("dogs")


@pytest.mark.parametrize(
    "changed",
    [{"weights": "w", "model": None}, {"model_options": ["x"]}, {"model_options": {"truncate_dim": "x"}}],
)
def test_a_damaged_description_is_an_error_of_ours(index, changed):
    edit(index, **changed)
    with SmartIndex.open(index) as opened, pytest.raises(errors.SmartRagError):
        opened.search("dogs")


def test_an_index_cannot_choose_kernels_or_a_device(index):
    edit(index, attn_implementation="somebody/kernel", dtype="nonsense", device="nowhere")
    with SmartIndex.open(index) as opened:
        assert opened.search("dogs")


def test_names_are_shown_as_they_are(index):
    edit(index, model="x[/red] `; evil\n--model y")
    assert "x[/red]" in good("info", "--db", index)
    assert "--model 'x[/red] `; evil --model y'" in error_of("search", "dogs", "--db", index)


def test_a_pipe_is_refused(tmp_path):
    """Reading it would wait for ever."""
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as made:
        made.add_texts(TEXTS)
    os.mkfifo(tmp_path / "index" / "tokens" / "pipe")
    with pytest.raises(NotTrusted, match="special file"):
        SmartIndex.open(tmp_path / "index", WordEncoder())


def test_the_folder_itself_may_be_a_link(tmp_path):
    with SmartIndex.create(tmp_path / "index", WordEncoder()) as made:
        made.add_texts(TEXTS)
    (tmp_path / "link").symlink_to(tmp_path / "index")
    with SmartIndex.open(tmp_path / "link", WordEncoder()) as opened:
        assert opened.search("dogs")


def test_vacuum_removes_only_its_own_files(tmp_path):
    with SmartIndex.create(tmp_path / "index", SeeingEncoder()) as made:
        made.add([Document("a", image=Image.new("RGB", (8, 8)))])
        (own,) = (tmp_path / "index" / "images").iterdir()
        (tmp_path / "index" / "images" / "photo.png").write_text("a photo")
        made.delete(["a"])
        made.vacuum()
        assert not own.exists()
        assert (tmp_path / "index" / "images" / "photo.png").exists()
        shutil.move(tmp_path / "index" / "images", tmp_path / "outside")
        (tmp_path / "outside" / own.name).write_text("somebody's file")
        (tmp_path / "index" / "images").symlink_to(tmp_path / "outside")
        made.vacuum()
        assert (tmp_path / "outside" / own.name).exists()


# --- files that rows name -----------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """An index with an image file, a page, a video, and an image of its own; and the folder of the files."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "red.png")
    with SmartIndex.create(tmp_path / "index", SeeingEncoder()) as made:
        made.add([Document("file", "red", image=folder / "red.png")])
        made.add([Document("own", "red", image=Image.new("RGB", (8, 8)))])
    return folder


def test_the_user_reads_what_was_added(pictures, tmp_path):
    with SmartIndex.open(tmp_path / "index", SeeingEncoder()) as opened:
        assert {hit.id for hit in opened.search("red") if hit.image is not None} == {"file", "own"}


def test_a_file_that_is_a_link_is_its_users_own(pictures, tmp_path):
    (tmp_path / "link.png").symlink_to(pictures / "red.png")
    with SmartIndex.open(tmp_path / "index", SeeingEncoder()) as opened:
        opened.add([Document("link", "red", image=tmp_path / "link.png")])
        assert opened.get(["link"])[0].image == tmp_path / "link.png"
    with SmartIndex.open(tmp_path / "index", SeeingEncoder()) as opened:
        assert opened.get(["link"])[0].image == tmp_path / "link.png"


def test_a_link_in_a_folder_of_sources_does_not_lead_out_of_it(pictures, tmp_path, another_user):
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "private.png")
    (pictures / "red.png").unlink()
    (pictures / "red.png").symlink_to(tmp_path / "private.png")

    def image(*sources):
        with SmartIndex.open(tmp_path / "index", SeeingEncoder(), sources=sources) as opened:
            return opened.get(["file"])[0].image

    assert image(pictures) is None
    assert image(pictures / "red.png") == pictures / "red.png"
    assert image(pictures, tmp_path / "private.png") == pictures / "red.png"
    (pictures / "red.png").unlink()
    (pictures / "red.png").symlink_to(pictures / "red.png")  # a circle
    assert image(pictures) is None or not image(pictures).exists()


def test_others_read_only_what_is_in_the_folder(pictures, tmp_path, another_user, caplog):
    with SmartIndex.open(tmp_path / "index", SeeingEncoder()) as opened:
        hits = {hit.id: hit for hit in opened.search("red")}
        assert hits["file"].image is None
        assert hits["file"].text == "red"
        assert opened.image_file(hits["own"]).is_file()
        with pytest.raises(InvalidInput, match="has no image"):
            opened.image_file(hits["file"])
        assert [document.image is None for document in opened.get(["file", "own"])] == [True, False]
    (message,) = [line for line in caplog.messages if "are not read" in line]
    assert f"'file' shows {pictures / 'red.png'}" in message
    assert f"sources=[{str(pictures)!r}]" in message
    assert not another_user.exists()  # reading writes nothing
    with SmartIndex.open(tmp_path / "index", SeeingEncoder(), sources=[pictures]) as opened:
        assert all(hit.image is not None for hit in opened.search("red"))


def forge(index, id, **columns):
    """Change metadata of a row as somebody does who also makes its checksum fit."""
    row = index._store.pooled.get([id])[id]
    metadata = {**row.stored, **{f"_smart_rag.{name}": value for name, value in columns.items()}}
    del metadata[CHECKSUM]
    index._store.pooled._write("update", ids=[id], metadatas=[sealed(row, metadata)])


def test_a_path_with_dots_does_not_lead_out(tmp_path, pictures, another_user):
    """As a row of somebody else's may have it."""
    with SmartIndex.open(tmp_path / "index", SeeingEncoder()) as opened:
        forge(opened, "file", image="images/../../pictures/red.png")
        assert opened.get(["file"])[0].image is None


def test_a_file_beside_one_that_was_added_is_not_read(tmp_path, pictures):
    (pictures / "secret.png").write_bytes((pictures / "red.png").read_bytes())
    with SmartIndex.open(tmp_path / "index", SeeingEncoder()) as opened:
        forge(opened, "file", image=str(pictures / "secret.png"))
        assert opened.get(["file"])[0].image is None


def test_a_folder_that_was_added(tmp_path, pictures):
    with SmartIndex.open(tmp_path / "index", SeeingEncoder()) as opened:
        opened.add_files([pictures])
    with SmartIndex.open(tmp_path / "index", SeeingEncoder()) as opened:
        assert all(document.image is not None for document in opened.documents())


def test_an_index_of_an_older_version_gets_an_id_when_it_is_written(tmp_path, pictures):
    manifest = json.loads((tmp_path / "index" / FILE_NAME).read_text())
    del manifest["id"]
    (tmp_path / "index" / FILE_NAME).write_text(json.dumps(manifest))
    with SmartIndex.open(tmp_path / "index", SeeingEncoder()) as opened:
        assert opened.get(["file"])[0].image is None
        opened.add([Document("file", "red", image=pictures / "red.png")])
        assert opened.get(["file"])[0].image is not None
    with SmartIndex.open(tmp_path / "index", SeeingEncoder()) as opened:
        assert opened.get(["file"])[0].image is not None


def test_pages_of_pdfs(tmp_path, another_user):
    from helpers import odd_files

    (tmp_path / "page.pdf").write_bytes(odd_files.one_page())
    with SmartIndex.create(tmp_path / "index", SeeingEncoder()) as made:
        made.add([Document("page", "red", image=PdfPage(tmp_path / "page.pdf", 1))])
        assert made.get(["page"])[0].image == PdfPage(tmp_path / "page.pdf", 1)
    shutil.rmtree(another_user)
    with SmartIndex.open(tmp_path / "index", SeeingEncoder()) as opened:
        assert opened.get(["page"])[0].image is None
    assert issubclass(NotTrusted, errors.SmartRagError)


def test_the_advice_for_an_adapter_and_for_a_revision(index):
    """The command line is named only if its options can say what the index needs."""
    edit(index, model="some/model", adapter="/some where/adapter")
    said = error_of("search", "dogs", "--db", index)
    assert "or `--model some/model --adapter '/some where/adapter'`" in said
    edit(index, model="some/model", adapter=None, revision="refs/pr/1")
    said = error_of("search", "dogs", "--db", index)
    assert "SmartEncoder('some/model', revision='refs/pr/1'))\n" in said
    edit(index, revision=None, model_options={"processor_kwargs": {"x": 1}})
    assert "`--model" not in error_of("search", "dogs", "--db", index)


def test_open_or_create_with_sources(index, tmp_path):
    with SmartIndex.open_or_create(index, sources=[tmp_path / "scans"]) as opened:
        assert opened.may_read(tmp_path / "scans" / "x.png")
        assert not opened.may_read(tmp_path / "x.png")


def test_verify_warns_of_no_file(tmp_path, pictures, caplog):
    """It looks at all vectors, but shows nobody what the rows name."""
    with SmartIndex.open(tmp_path / "index", SeeingEncoder()) as opened:
        assert opened.verify().sound
    assert [message for message in caplog.messages if "are not read" in message] == []
