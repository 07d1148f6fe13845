"""Text models as ONNX files: the numbers of torch, without torch, and what happens where they cannot be had."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from helpers import tiny_vision
from helpers.small_disk import small_disk
from helpers.text_families import MAX_LENGTH, TEXT_FAMILIES
from onnxscript.rewriter import ort_fusions
from onnxscript.rewriter.ort_fusions import optimize_for_ort
from safetensors.torch import load_file, save_file

from smart_rag import SmartEncoder, SmartIndex
from smart_rag.encoders.exported.folder import ExportFolder, local_files, stored_precision
from smart_rag.encoders.exported.model import POOLINGS, pool
from smart_rag.encoders.protocol import warn_once
from smart_rag.errors import EncoderError, IndexMismatch, InvalidInput

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = [
    "The cat sat on the mat.",
    "a",
    "Which river flows through Vienna, Budapest and Belgrade?",
    "  blanks\n\nand\ttabs ",
    "Dogs bark at night. " * 30,  # longer than the model can read
]


def assert_same(ours, theirs, tolerance=1e-5):
    """Every number and every id is the same."""
    np.testing.assert_allclose(ours.pooled, theirs.pooled, rtol=0, atol=tolerance)
    np.testing.assert_allclose(ours.norms, theirs.norms, rtol=tolerance)
    np.testing.assert_array_equal(ours.tokens.offsets, theirs.tokens.offsets)
    np.testing.assert_array_equal(ours.tokens.ids, theirs.tokens.ids)
    np.testing.assert_allclose(ours.tokens.embeddings, theirs.tokens.embeddings, rtol=0, atol=tolerance)


def backend(encoder):
    return next((d.value, d.source) for d in encoder.decisions if d.name == "backend")


def decisions(encoder):
    return [d for d in encoder.decisions if d.name != "backend"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The folder of a tiny model, with its export."""
    folder = TEXT_FAMILIES["BGE (BERT)"].save(tmp_path_factory.mktemp("model") / "bge")
    SmartEncoder(folder, device="cpu", backend="onnx")
    return folder


# Two that differ in most: a tokenizer with bytes, padding on the left and the last token; dense layers and the mean.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("Qwen3-Embedding (Qwen3)", "sentence-t5 (T5)") else pytest.mark.slow)
        for name in TEXT_FAMILIES
    ],
)
def test_each_family_has_the_numbers_of_torch(name, tmp_path):
    """So do prompts, lengths, shorter embeddings, decisions and the fingerprint."""
    family = TEXT_FAMILIES[name]
    folder = family.save(tmp_path / "model")
    prompts = {f"{task}_prompt": prompt for task, prompt in family.given.items()}
    for options in ({}, {"max_length": 12, "query_prompt": "find: ", "model_options": {"truncate_dim": 16}}):
        given = {**prompts, **options}
        ours, theirs = (SmartEncoder(folder, device="cpu", backend=each, **given) for each in ("onnx", "torch"))
        assert backend(ours)[0] == "onnx"
        for task in ("query", "document"):
            assert_same(getattr(ours, f"encode_{task}")(TEXTS), getattr(theirs, f"encode_{task}")(TEXTS))
        assert ours.fingerprint == theirs.fingerprint
        assert {**ours.describe(), "backend": "torch"} == theirs.describe()
        assert decisions(ours) == decisions(theirs)
        assert [ours.token_origins(text) for text in TEXTS] == [theirs.token_origins(text) for text in TEXTS]
        assert ours.count_tokens(TEXTS) == theirs.count_tokens(TEXTS)
        foreign = ["泵需要新的轴承和密封件。", *TEXTS]
        assert ours.unread(foreign) == theirs.unread(foreign)


@pytest.mark.slow
def test_a_bare_folder_keeps_the_prompts_of_its_name(tmp_path):
    folder = TEXT_FAMILIES["Qwen3-Embedding (Qwen3)"].save_bare(tmp_path / "Qwen3-Embedding-0.6B")
    ours, theirs = (SmartEncoder(folder, device="cpu", backend=each) for each in ("onnx", "torch"))
    assert decisions(ours) == decisions(theirs)
    assert ours.fingerprint == theirs.fingerprint
    assert_same(ours.encode_query(TEXTS), theirs.encode_query(TEXTS))


def test_a_bare_folder_without_known_prompts_is_named(tmp_path, caplog):
    folder = TEXT_FAMILIES["BGE (BERT)"].save_bare(tmp_path / "nomic-embed-text-v1")
    for _ in range(2):  # the second time, nothing is exported
        warn_once.cache_clear()
        SmartEncoder(folder, device="cpu", backend="onnx").encode_document(TEXTS)
        assert "which would name its prompts, so it gets none" in caplog.text
        caplog.clear()


@pytest.mark.slow
def test_prompts_and_profiles_share_one_export(tmp_path, monkeypatch):
    """The caller's prompts go over those of the model, as in sentence-transformers."""
    monkeypatch.setenv("SMART_RAG_CACHE", str(tmp_path / "cache"))
    family = TEXT_FAMILIES["Qwen3-Embedding (Qwen3)"]
    folder = family.save(tmp_path / "model")
    for given in (
        {"profile": "general", "model_options": {"prompts": {"query": "ask: ", "other": "o: "}}},
        {},
        {"model_options": {"prompts": {"extra": "e: "}, "default_prompt_name": "extra"}},
        {"prompt_names": {"query": None}, "model_options": {"default_prompt_name": "query"}},
    ):
        ours, theirs = (SmartEncoder(folder, device="cpu", backend=each, **given) for each in ("onnx", "torch"))
        assert decisions(ours) == decisions(theirs)
        for task in ("query", "document"):
            assert_same(getattr(ours, f"encode_{task}")(TEXTS), getattr(theirs, f"encode_{task}")(TEXTS))
        assert len(list((tmp_path / "cache" / "exports").iterdir())) == 1
    with pytest.raises(InvalidInput, match="default_prompt_name is 'qery'; did you mean 'query'"):
        SmartEncoder(folder, device="cpu", backend="onnx", model_options={"default_prompt_name": "qery"})


@pytest.mark.parametrize("mode", POOLINGS)
def test_poolings_are_those_of_sentence_transformers(mode):
    """Rows have padding on the left or on the right, and the tokens of a prompt may be left out."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    generator = np.random.default_rng(0)
    hidden = generator.standard_normal((3, 6, 4), dtype=np.float32)
    for mask in ([[1] * 6, [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]], [[1] * 6, [0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]]):
        attended = np.asarray(mask)
        for skipped in (0, 2):
            theirs = Pooling(4, pooling_mode=mode, include_prompt=not skipped)(
                {
                    "token_embeddings": torch.from_numpy(hidden),
                    "attention_mask": torch.from_numpy(attended),
                    "prompt_length": skipped,
                }
            )["sentence_embedding"]
            ours = pool(hidden, np.cumsum(attended, axis=1) * attended, skipped, mode)
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-6)


def test_a_later_start_needs_no_torch(bert):
    """Neither torch nor transformers is imported, and the numbers are those of this process."""
    code = f"""
import sys
from smart_rag import SmartEncoder, SmartIndex
encoder = SmartEncoder({bert!r}, backend="onnx")
found = encoder.encode_document({TEXTS!r})
assert not {{"torch", "transformers", "sentence_transformers"}} & set(sys.modules), "imported"
print(repr(float(found.pooled.sum())), encoder.fingerprint)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    total, fingerprint = ran.stdout.split()
    here = SmartEncoder(bert, device="cpu", backend="onnx")
    assert (float(total), fingerprint) == (float(here.encode_document(TEXTS).pooled.sum()), here.fingerprint)


def test_auto_leaves_small_models_to_torch_and_takes_the_bundled_one(bert, minilm):
    value, why = backend(SmartEncoder(bert, device="cpu"))
    assert value == "onnx"  # it has an export
    (Path(bert) / "new.txt").write_text("another state of the folder")
    value, why = backend(SmartEncoder(bert, device="cpu"))
    assert value == "torch"
    assert "too small" in why
    (Path(bert) / "new.txt").unlink()
    value, why = backend(minilm)
    assert value == "onnx"
    assert "differs from torch by at most" in why


@pytest.mark.slow
def test_new_weights_are_exported_again(tmp_path):
    """A folder whose files have changed does not get the numbers of its old files."""
    folder = TEXT_FAMILIES["BGE (BERT)"].save(tmp_path / "model")
    before = SmartEncoder(folder, device="cpu", backend="onnx")
    trained = SmartEncoder(folder, device="cpu", backend="torch")
    with torch.no_grad():
        for weight in trained.model.parameters():
            weight.mul_(1.5)
    trained.model.save(folder)
    after = SmartEncoder(folder, device="cpu", backend="onnx")
    assert after.fingerprint != before.fingerprint
    assert_same(after.encode_document(TEXTS), trained.encode_document(TEXTS))


def test_who_takes_the_model_gets_torch(bert):
    """So training changes what the encoder gives."""
    encoder = SmartEncoder(bert, device="cpu", backend="onnx", document_prompt="passage: ")
    first = encoder.encode_document(TEXTS)
    model = encoder.model
    assert backend(encoder) == ("torch", "the caller has taken the model")
    assert_same(encoder.encode_document(TEXTS), first)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    assert np.abs(encoder.encode_document(TEXTS).pooled - first.pooled).max() > 1e-3


def test_states_of_other_layers_come_from_torch(bert):
    ours, theirs = (SmartEncoder(bert, device="cpu", backend=each) for each in ("onnx", "torch"))
    found, wanted = (encoder.token_states(TEXTS, "document", (-2, -1)) for encoder in (ours, theirs))
    np.testing.assert_allclose(found.tokens.embeddings, wanted.tokens.embeddings, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_an_onnx_file_of_the_model_itself_is_used(tmp_path):
    """It is in ``onnx/model.onnx``, as on the hub. If it has other numbers, it is not used."""
    folder = TEXT_FAMILIES["BGE (BERT)"].save(tmp_path / "model")
    trained = SmartEncoder(folder, device="cpu", backend="torch")
    own = Path(folder) / "onnx" / "model.onnx"
    own.parent.mkdir()
    SmartEncoder(folder, device="cpu", backend="onnx")  # the same weights, so the same file
    made = ExportFolder.of(Path(folder), loading(folder))
    shutil.copy(made.model, own)
    shutil.copy(made.weights, own.parent)
    encoder = SmartEncoder(folder, device="cpu", backend="onnx")
    settings = ExportFolder.of(Path(folder), loading(folder)).settings()
    assert settings["own_file"] == str(own)
    assert_same(encoder.encode_document(TEXTS), trained.encode_document(TEXTS))
    own.write_bytes(b"no model")
    encoder = SmartEncoder(folder, device="cpu", backend="onnx")
    assert ExportFolder.of(Path(folder), loading(folder)).settings()["own_file"] is None
    assert_same(encoder.encode_document(TEXTS), trained.encode_document(TEXTS))


def operations(file):
    return {node.op_type for node in onnx.load(file, load_external_data=False).graph.node}


def test_attention_is_one_step(bert):
    """ONNX Runtime computes it faster so. OpenVINO and int8 take the form with standard operations."""
    export = ExportFolder.of(Path(bert), loading(bert))
    assert export.settings()["fused"]
    assert "Attention" in operations(export.fused_model) - operations(export.model)
    assert "Softmax" in operations(export.model) - operations(export.fused_model)
    assert SmartEncoder(bert, device="cpu", backend="onnx")._model.model.runner._path == export.fused_model
    assert export.weights.name.encode() in export.fused_model.read_bytes()  # they share the weights


def altered(model):
    fused, counts = optimize_for_ort(model)
    weight = max(fused.graph.initializers.values(), key=lambda value: value.const_value.size)
    weight.const_value = onnx_ir.tensor(weight.const_value.numpy()[::-1].copy(), name=weight.name)
    return fused, counts


def failing(model):
    raise RuntimeError("no pattern fits")


@pytest.mark.parametrize("rewrite", [altered, failing])
def test_a_rewrite_that_changes_numbers_is_not_used(rewrite, tmp_path, monkeypatch):
    folder = TEXT_FAMILIES["BGE (BERT)"].save(tmp_path / "model")
    monkeypatch.setattr(ort_fusions, "optimize_for_ort", rewrite)
    encoder = SmartEncoder(folder, device="cpu", backend="onnx")
    export = ExportFolder.of(Path(folder), loading(folder))
    assert not export.settings()["fused"]
    assert not export.fused_model.exists()
    assert_same(
        encoder.encode_document(TEXTS), SmartEncoder(folder, device="cpu", backend="torch").encode_document(TEXTS)
    )


def loading(folder):
    """The arguments of a model that are a part of the key of its export."""
    return {"model": str(folder), "revision": None, "trust_remote_code": False, "options": {}}


@pytest.mark.slow
def test_a_damaged_export_is_made_again(tmp_path):
    """Settings that are no JSON are as good as none."""
    folder = TEXT_FAMILIES["BGE (BERT)"].save(tmp_path / "model")
    first = SmartEncoder(folder, device="cpu", backend="onnx").encode_document(TEXTS)
    export = ExportFolder.of(Path(folder), loading(folder))
    for name in ("settings.json", "model.onnx", "model.onnx.data", "model_fused.onnx", "tokenizer.json"):
        (export.path / name).write_bytes((export.path / name).read_bytes()[:50])
        assert_same(SmartEncoder(folder, device="cpu", backend="onnx").encode_document(TEXTS), first)


def test_an_adapter_a_lora_and_images_run_on_torch(bert, tmp_path):
    """An explicit backend is refused with the reason."""
    with pytest.raises(InvalidInput, match="only a CPU runs ONNX files"):
        SmartEncoder(bert, device="meta", backend="onnx")
    with pytest.raises(InvalidInput, match="settings of torch"):
        SmartEncoder(bert, device="cpu", attn_implementation="eager", backend="onnx")
    with pytest.raises(InvalidInput, match="dtype is 'bfloat16'"):
        SmartEncoder(bert, device="cpu", dtype="bfloat16", backend="onnx")
    folder = tiny_vision.qwen3_vl(tmp_path / "vision")
    with pytest.raises(EncoderError, match="reads images"):
        SmartEncoder(folder, device="cpu", backend="onnx")
    assert backend(SmartEncoder(folder, device="cpu"))[0] == "torch"


@pytest.mark.parametrize("where", ["config", "weights"])
@pytest.mark.slow
def test_the_precision_of_the_files(where, tmp_path):
    """With "auto", weights of 16 bits are run in 16 bits, as sentence-transformers runs them. That needs torch."""
    folder = Path(TEXT_FAMILIES["BGE (BERT)"].save(tmp_path / "model"))
    assert stored_precision(folder) == "float32"
    assert backend(SmartEncoder(folder, device="cpu", backend="onnx", dtype="auto"))[0] == "onnx"
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: of.to(torch.bfloat16) for name, of in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {"dtype": "bfloat16" if where == "config" else None}
    (folder / "config.json").write_text(json.dumps(config))
    assert stored_precision(folder) == "bfloat16"
    auto = SmartEncoder(folder, device="cpu", dtype="auto")
    assert backend(auto) == ("torch", "the precision of its weights is bfloat16")
    assert {of.dtype for of in auto.model.parameters()} == {torch.bfloat16}
    with pytest.raises(EncoderError, match="its weights is bfloat16"):
        SmartEncoder(folder, device="cpu", backend="onnx", dtype="auto")


def test_int8_is_another_model(bert):
    """Its numbers differ, its fingerprint too, and a description makes it again."""
    ours, int8 = (SmartEncoder(bert, device="cpu", backend="onnx", dtype=dtype) for dtype in (None, "int8"))
    assert int8.fingerprint != ours.fingerprint
    again = SmartEncoder.from_description(int8.describe(), "cpu")
    assert again.fingerprint == int8.fingerprint
    one, two = int8.encode_document(TEXTS), ours.encode_document(TEXTS)
    assert_same(again.encode_document(TEXTS), one, 1e-7)
    cosines = (one.pooled * two.pooled).sum(axis=1)
    assert 0.9 < cosines.min() < 0.999999
    with pytest.raises(InvalidInput, match="name another dtype"):
        SmartEncoder(bert, device="cpu", backend="torch", dtype="int8")


def test_a_damaged_int8_file_is_made_again(bert, caplog):
    wanted = SmartEncoder(bert, device="cpu", backend="onnx", dtype="int8").encode_document(TEXTS)
    file = ExportFolder.of(Path(bert), loading(bert)).int8_model
    sound = file.read_bytes()
    for damaged in (sound[:-50], sound[:100] + bytes([sound[100] ^ 1]) + sound[101:]):
        file.write_bytes(damaged)
        caplog.clear()
        assert_same(SmartEncoder(bert, device="cpu", backend="onnx", dtype="int8").encode_document(TEXTS), wanted, 1e-7)
        assert "model_int8.onnx is damaged, so it is made again" in caplog.text
    caplog.clear()
    assert_same(SmartEncoder(bert, device="cpu", backend="onnx", dtype="int8").encode_document(TEXTS), wanted, 1e-7)
    assert "damaged" not in caplog.text


@pytest.mark.slow
def test_a_full_disk_is_no_fault_of_the_model(bert, tmp_path, monkeypatch):
    """As soon as there is room again, the model is exported."""
    with small_disk(tmp_path / "disk", "3m") as disk:
        monkeypatch.setenv("SMART_RAG_CACHE", str(disk))
        (disk / "filler").write_bytes(bytes(2_900_000))
        with pytest.raises(EncoderError, match=r"the export cannot be written to .*: [Nn]o space left"):
            SmartEncoder(bert, device="cpu", backend="onnx")
        (disk / "filler").unlink()
        assert backend(SmartEncoder(bert, device="cpu", backend="onnx"))[0] == "onnx"


def test_an_index_takes_the_backend_that_writes_to_it(bert, tmp_path):
    """It must not need for ever what is no longer installed."""
    with SmartIndex.create(tmp_path / "index", SmartEncoder(bert, device="cpu", backend="onnx")) as index:
        index.add_texts(["A pump."])
    with SmartIndex.open(tmp_path / "index", SmartEncoder(bert, device="cpu", backend="torch")) as index:
        index.add_texts(["A boat."])
    with SmartIndex.open(tmp_path / "index") as index:
        assert backend(index.encoder)[0] == "torch"


def test_the_message_for_another_precision_names_it(bert, tmp_path):
    ours, int8 = (SmartEncoder(bert, device="cpu", backend="onnx", dtype=dtype) for dtype in (None, "int8"))
    with SmartIndex.create(tmp_path / "index", int8) as index:
        index.add_texts(["A pump."])
    with pytest.raises(IndexMismatch, match=r"other dtype, precision\).*SmartEncoder\(\.\.\., dtype='int8'\)"):
        SmartIndex.open(tmp_path / "index", ours)


def test_threads_and_forks_encode_at_once(bert):
    encoder = SmartEncoder(bert, device="cpu", backend="onnx")
    wanted = encoder.encode_document(TEXTS)
    with ThreadPoolExecutor(4) as pool_of_threads:
        for found in pool_of_threads.map(lambda _: encoder.encode_document(TEXTS), range(8)):
            assert_same(found, wanted, 1e-7)
    if hasattr(os, "fork"):
        child = os.fork()
        if not child:
            try:
                assert_same(encoder.encode_document(TEXTS), wanted, 1e-7)
            except BaseException:
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0


def test_an_export_that_cannot_be_written(bert, tmp_path, monkeypatch):
    """With "auto", torch runs the model. What was asked for is an error."""
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("SMART_RAG_CACHE", str(blocked))
    with pytest.raises(EncoderError, match="the export cannot be written to"):
        SmartEncoder(bert, device="cpu", backend="onnx")
    assert backend(SmartEncoder("minilm", device="cpu"))[0] == "torch"


def test_models_of_the_hub_are_found_in_its_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    model = tmp_path / "hub" / "models--org--name"
    assert local_files("org/name", None, None) is None
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc")
    assert local_files("org/name", None, None) is None
    (model / "snapshots" / "abc").mkdir(parents=True)
    assert local_files("org/name", None, None) == model / "snapshots" / "abc"
    assert local_files("org/name", "abc", None) == model / "snapshots" / "abc"
    assert local_files("org/name", "other", None) is None


def test_settings_are_json(bert):
    settings = json.loads((ExportFolder.of(Path(bert), loading(bert)).path / "settings.json").read_text())
    assert settings["max_seq_length"] == MAX_LENGTH
    assert settings["difference"] <= 1e-5
