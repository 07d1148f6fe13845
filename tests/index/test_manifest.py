"""The manifest: what goes in comes out, and a file that is none is said to be none."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.tiny_models import bert

from smart_rag import SmartEncoder, SmartIndex
from smart_rag.config import IndexConfig
from smart_rag.errors import IndexMismatch, IndexNotFound, ModelNotFound
from smart_rag.index.manifest import FILE_NAME, FORMAT_VERSION, Manifest

MANIFEST = Manifest(
    created_with="0.1.0",
    dimension=384,
    encoder={"model": "modèle 😀", "prompts": {"query": None}, "layers": [1, 2]},
    fingerprint="f00d",
    collection="smart_rag",
    own_chroma=True,
    config=IndexConfig(
        codec="float32",
        chunk_tokens=64,
        chunk_overlap=7,
        hnsw_max_neighbors=48,
        hnsw_ef_construction=400,
        hnsw_ef_search=55,
    ),
    id="0123456789abcdef0123456789abcdef",
    data="data-0123456789abcdef",
    owners=("00ff",),
)
# A file of format 4 as it lies on users' disks.
GOLDEN = """{
  "format_version": 4,
  "created_with": "0.1.0",
  "dimension": 384,
  "encoder": {"model": "modèle 😀", "prompts": {"query": null}, "layers": [1, 2]},
  "fingerprint": "f00d",
  "collection": "smart_rag",
  "own_chroma": true,
  "config": {
    "codec": "float32",
    "weights": [
      1.0,
      2.0
    ],
    "weighting": "idf",
    "chunk_tokens": 64,
    "chunk_overlap": 7,
    "hnsw_max_neighbors": 48,
    "hnsw_ef_construction": 400,
    "hnsw_ef_search": 55
  },
  "modalities": ["text"],
  "token_dimension": 384,
  "relevance": null,
  "id": "0123456789abcdef0123456789abcdef",
  "owners": ["00ff"],
  "data": "data-0123456789abcdef"
}"""
# What was written before indexes could be compacted and had owners, before they had ids, before filters could look into
# lists, before adapters, and before models could see.
FORMAT_3 = GOLDEN.replace('"format_version": 4', '"format_version": 3').replace(
    ',\n  "owners": ["00ff"],\n  "data": "data-0123456789abcdef"', ""
)
WITHOUT_ID = FORMAT_3.replace(',\n  "id": "0123456789abcdef0123456789abcdef"', "")
FORMAT_2 = WITHOUT_ID.replace('"format_version": 3', '"format_version": 2').replace(',\n  "relevance": null', "")
OLD = FORMAT_2.replace(
    """,
  "token_dimension": 384""",
    "",
)
OLDER = OLD.replace(
    """,
  "modalities": ["text"]""",
    "",
)


class SomeEncoder:
    """An encoder as far as a manifest looks at it."""

    def __init__(self, fingerprint):
        self.fingerprint = fingerprint

    def describe(self):
        return {"model": "another model"}


def not_a_manifest(path):
    return pytest.raises(IndexNotFound, match=re.escape(str(path)) + " is not the manifest of an index")


@pytest.mark.parametrize("manifest", [MANIFEST, replace(MANIFEST, encoder=None, fingerprint=None, own_chroma=False)])
def test_round_trip(tmp_path, manifest):
    """A manifest is read back as it was written, with and without an encoder."""
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest


def test_golden_file(tmp_path):
    """The file of format 4 is this JSON, in UTF-8, and can be read for ever."""
    MANIFEST.write(tmp_path)
    text = (tmp_path / "manifest.json").read_text(encoding="utf-8")
    assert json.loads(text) == json.loads(GOLDEN)
    assert "modèle 😀" in text
    for kept, version in ((GOLDEN, 4), (FORMAT_3, 3), (WITHOUT_ID, 3), (FORMAT_2, 2), (OLD, 2), (OLDER, 2)):
        (tmp_path / "manifest.json").write_text(kept, encoding="utf-8")
        id = MANIFEST.id if kept in (GOLDEN, FORMAT_3) else None
        data, owners = (MANIFEST.data, MANIFEST.owners) if kept == GOLDEN else ("", ())
        assert Manifest.read(tmp_path) == replace(MANIFEST, format_version=version, id=id, data=data, owners=owners)


def test_writing_leaves_one_file(tmp_path):
    """Writing, also over an older manifest, leaves no temporary file."""
    MANIFEST.write(tmp_path)
    other = replace(MANIFEST, dimension=3)
    other.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    assert Manifest.read(tmp_path) == other


def test_a_failed_write_leaves_the_old_manifest(tmp_path):
    """What cannot be written does not damage what was."""
    MANIFEST.write(tmp_path)
    with pytest.raises(TypeError, match="not JSON serializable"):
        replace(MANIFEST, encoder={"model": object()}).write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    assert Manifest.read(tmp_path) == MANIFEST


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("format_version", value) for value in ("2", 2.5, None, True, [3])),
        *(("dimension", value) for value in ("3", 0, -1, True, None, 3.0)),
        *(("config", value) for value in (None, [], {"codec": ["exact"]}, {"weights": [1e308, 1]}, {"weights": [1]})),
        *(("config", {"chunk_tokens": value}) for value in (0, "9", 1e9)),
        *(("encoder", value) for value in ("minilm", 3, [])),
        *(("collection", value) for value in (None, 3, ["a"])),
        *(("modalities", value) for value in ("text", None, [1], [["text"]], [None], ["text", True])),
        *(("owners", [value]) for value in (1, None, [])),
        *(("encoder", {"model": value}) for value in (True, 3, 1.5, ["minilm"], {"a": 1})),
        *(("encoder", {"model": "m", "adapter": value}) for value in (True, 3, ["a"])),
        *((name, "\ud800") for name in ("created_with", "collection", "id", "fingerprint")),
        ("encoder", {"model": "m", "revision": "\udfff"}),
        *(("config", {"hnsw_max_neighbors": value}) for value in (10_001, 10**8, 1 << 62, 10**400)),
        *(("config", {name: 1 << 62}) for name in ("hnsw_ef_construction", "hnsw_ef_search", "chunk_tokens")),
        *(("own_chroma", value) for value in (1, None)),
        *(("id", value) for value in (3, ["a"])),
        *(("data", value) for value in (None, 3, "..", "/", "data-", "data-../../../../etc")),
        ("another key", 1),
    ],
)
def test_values_of_other_types_are_refused(tmp_path, name, value):
    (tmp_path / FILE_NAME).write_text(json.dumps({**json.loads(GOLDEN), name: value}))
    with not_a_manifest(tmp_path / FILE_NAME):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "{}", "[" * 100_000, " " * (2 << 20)])
def test_files_that_are_no_manifest(tmp_path, text):
    (tmp_path / FILE_NAME).write_text(text)
    with not_a_manifest(tmp_path / FILE_NAME):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b'{"dimension": 3', r"it is no whole JSON object \(line 1, column 16\)"),
        (b"\xff\xfe", "it is not UTF-8"),
        (b"{}", "it has no 'format_version'"),
        (b"[" * 100_000, "it is nested too deeply"),
    ],
)
def test_the_error_says_what_to_do(tmp_path, content, found):
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(IndexNotFound, match=rf"of an index: {found}; restore the file from a backup, or index the"):
        Manifest.read(tmp_path)


def test_an_encoder_without_the_name_of_a_model(tmp_path):
    (tmp_path / FILE_NAME).write_text(json.dumps({**json.loads(GOLDEN), "encoder": {"a": 1}}))
    with pytest.raises(IndexMismatch, match="the index was made with None"):
        Manifest.read(tmp_path).check_encoder(tmp_path, SomeEncoder("beef"))


def test_newer_format(tmp_path):
    """A newer format is not read; both numbers and the way out are named."""
    path = tmp_path / FILE_NAME
    path.write_text(json.dumps({"format_version": FORMAT_VERSION + 1, "what": "nobody knows"}))
    message = (
        f"{re.escape(str(path))}: the index has format {FORMAT_VERSION + 1}, "
        f"this smart_rag reads formats 2 to 4; upgrade with: pip install"
    )
    with pytest.raises(IndexMismatch, match=message):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("version", [0, 1])
def test_an_older_format(tmp_path, version):
    """An older format is not read; both numbers and the way out are named."""
    path = tmp_path / FILE_NAME
    path.write_text(json.dumps({**json.loads(GOLDEN), "format_version": version}))
    message = (
        f"{re.escape(str(path))}: the index has format {version}, this smart_rag reads formats 2 to 4; "
        "index the documents again into another folder"
    )
    with pytest.raises(IndexMismatch, match=message):
        Manifest.read(tmp_path)


def test_no_folder(tmp_path):
    """A folder that is not there is named."""
    folder = tmp_path / "nowhere"
    with pytest.raises(IndexNotFound, match=f"no index at {re.escape(str(folder))}: the folder does not exist.*create"):
        Manifest.read(folder)


def test_no_manifest(tmp_path):
    """A folder without a manifest is named."""
    with pytest.raises(IndexNotFound, match=f"no index at {re.escape(str(tmp_path))}: the folder holds no {FILE_NAME}"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", GOLDEN.encode()[:-1], b"[]", b"null", b"3", b'"format_version"', b"{}", b"\xff\xfe{}"],
)
def test_a_file_that_is_no_manifest(tmp_path, content):
    """Broken JSON, other JSON and other bytes are no manifest."""
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    with not_a_manifest(path):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("key", sorted(json.loads(OLDER)))
def test_a_missing_key(tmp_path, key):
    """Every key is needed."""
    values = json.loads(GOLDEN)
    del values[key]
    path = tmp_path / FILE_NAME
    path.write_text(json.dumps(values))
    with not_a_manifest(path):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"unheard": 1},
        {"config": {"unheard": 1}},
        {"config": None},
        {"config": {"chunk_tokens": 10, "chunk_overlap": 10}},
    ],
)
def test_a_key_or_value_that_no_manifest_has(tmp_path, change):
    """A file of format 2 with other keys or an impossible configuration is not ours."""
    path = tmp_path / FILE_NAME
    path.write_text(json.dumps({**json.loads(GOLDEN), **change}))
    with not_a_manifest(path):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [({}, "the model in 'm1' has changed since"), ({"max_length": 64}, "made with 'm1' and cannot be used with 'm1'")],
)
def test_a_model_of_the_same_name(tmp_path, chosen, message):
    """The model has changed, unless the caller sets it up otherwise."""
    encoder = SomeEncoder("beef")
    encoder.describe = lambda: {"model": "m1", "weights": "new", **chosen}
    with pytest.raises(IndexMismatch, match=message):
        replace(MANIFEST, encoder={"model": "m1", "weights": "old"}).check_encoder(tmp_path, encoder)


def test_a_model_that_another_version_of_smart_rag_gave_other_images(tmp_path):
    """The index is refused, and the message says which settings changed and what to do."""

    def described(**settings):
        return {"model": "m1", "weights": "same", "images": {"pixels": [1, 2], **settings}}

    encoder = SomeEncoder("beef")
    encoder.describe = lambda: described(resizing="Pillow", positions="counted")
    says = r"other images and positions than this one \(positions, resizing\); encode .* SmartIndex.convert\(encoder\)"
    with pytest.raises(IndexMismatch, match=says):
        replace(MANIFEST, encoder=described()).check_encoder(tmp_path, encoder)


def test_a_model_that_another_version_of_smart_rag_pooled_in_another_way(tmp_path):
    """Not the model has changed, so there is no old one to put back."""
    encoder = SomeEncoder("beef")
    encoder.describe = lambda: {"model": "m1", "weights": "same", "pooling": "cls", "modules": [2]}
    mine = {"model": "m1", "weights": "same", "pooling": "mean", "modules": [1]}
    with pytest.raises(IndexMismatch, match=r"pooled the model in 'm1' in another way; encode .* SmartIndex.convert"):
        replace(MANIFEST, encoder=mine).check_encoder(tmp_path, encoder)


@pytest.mark.parametrize(
    ("mine", "other", "says"),
    [
        (None, "b", "with 'm1' without an adapter and cannot be used with the adapter 'b'; leave the adapter out, or"),
        ("a", None, "with 'm1' with the adapter 'a' and cannot be used without an adapter; use the adapter of the"),
        ("a", "b", "with 'm1' with the adapter 'a' and cannot be used with the adapter 'b'; use the adapter of the"),
    ],
)
def test_another_adapter_of_the_same_model(tmp_path, mine, other, says):
    """The message names the adapters alone, unless another setting differs, too."""

    def described(adapter):
        return {"model": "m1", "layer": f"of {adapter}"} | ({} if adapter is None else {"adapter": adapter})

    encoder = SomeEncoder("beef")
    encoder.describe = lambda: described(other)
    manifest = replace(MANIFEST, encoder=described(mine))
    with pytest.raises(IndexMismatch, match=says):
        manifest.check_encoder(tmp_path, encoder)
    encoder.describe = lambda: {**described(other), "max_length": 64}
    with pytest.raises(IndexMismatch, match=r"as it is set up here \(other (adapter, )?layer, max_length\)"):
        manifest.check_encoder(tmp_path, encoder)


def test_the_encoder_of_the_index(tmp_path):
    """The encoder that the index was made with is accepted."""
    MANIFEST.check_encoder(tmp_path, SomeEncoder("f00d"))


@pytest.mark.parametrize(
    ("manifest", "made_with"),
    [(MANIFEST, "'modèle 😀'"), (replace(MANIFEST, encoder=None, fingerprint=None), '"vectors of the caller\'s own"')],
)
def test_another_encoder(tmp_path, manifest, made_with):
    """Another encoder is refused; the folder and both models are named."""
    message = f"{re.escape(str(tmp_path))}: the index was made with {made_with} and cannot be used with 'another model'"
    with pytest.raises(IndexMismatch, match=message):
        manifest.check_encoder(tmp_path, SomeEncoder("beef"))


def test_an_index_finds_its_model_from_anywhere(tmp_path, monkeypatch):
    """The folder is kept whole; where it has gone, the one that the index is written with next takes its place."""
    (tmp_path / "here" / "below").mkdir(parents=True)
    bert(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    with SmartIndex.create("my.index", "model") as index:
        index.add_texts(["The cat sat on the mat."])
    monkeypatch.chdir("below")
    path, moved = Path("../my.index"), tmp_path / "moved"
    with SmartIndex.open(path) as index:
        assert index.search("cat")
    (tmp_path / "here" / "model").rename(moved)
    with (
        SmartIndex.open(path) as index,
        pytest.raises(ModelNotFound, match=r"no model folder \S+here/model; name the place where it is now, .*--model"),
    ):
        index.search("cat")
    with SmartIndex.open(path, SmartEncoder(moved)) as index:
        assert index.search("cat")
    assert Manifest.read(path).encoder["model"] == str(tmp_path / "here" / "model")  # nothing is written by reading
    with SmartIndex.open(path, SmartEncoder(moved)) as index:
        index.add_texts(["Dogs bark."])
    with SmartIndex.open(path) as index:
        assert index.search("cat")
    assert Manifest.read(path).encoder["model"] == str(moved)
    # Another place of the same model is none of its business while that one is there.
    shutil.copytree(moved, tmp_path / "copy")
    with SmartIndex.open(path, SmartEncoder(tmp_path / "copy")) as index:
        index.add_texts(["Fish swim."])
    assert Manifest.read(path).encoder["model"] == str(moved)
