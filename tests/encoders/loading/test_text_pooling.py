"""The pooling and the prompts of a text model whose folder has no files for sentence-transformers."""

import numpy as np
import pytest
import torch
from helpers.text_families import INSTRUCTION, TEXT_FAMILIES
from transformers import AutoModel, AutoTokenizer, Qwen3Config

from smart_rag.encoders.compatibility import is_decoder, reads_both_ways
from smart_rag.encoders.loading.text_pooling import pooling_of_bare_folder
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import ModelNotFound

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["The cat sat on the mat.", "Which river flows through Vienna?", "a"]


def states(folder, text):
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    inputs = tokenizer(text, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.inference_mode():
        return network(**inputs).last_hidden_state[0].numpy()


POOL = {"lasttoken": lambda rows: rows[-1], "cls": lambda rows: rows[0], "mean": lambda rows: rows.mean(axis=0)}


@pytest.mark.parametrize(
    ("family", "name", "mode", "source"),
    [
        ("Qwen3-Embedding (Qwen3)", "Qwen3-Embedding-0.6B", "lasttoken", "the model's name"),
        ("Qwen3-Embedding (Qwen3)", "my-own-decoder", "lasttoken", "the model's architecture"),
        ("BGE (BERT)", "bge-small-en-v1.5", "cls", "the model's name"),
        ("BGE (BERT)", "my-own-encoder", "mean", "general rule"),
        ("Qwen3-Embedding (Qwen3)", "bge-code-v1", "lasttoken", "the model's architecture"),
        ("multilingual E5 (XLM-R)", "multilingual-e5-small", "mean", "the model's name"),
        ("Arctic v2 (XLM-R)", "snowflake-arctic-embed-l-v2.0", "cls", "the model's name"),
    ],
)
def test_a_bare_folder_is_pooled_as_its_family(tmp_path, family, name, mode, source):
    """The decision names its source, and the pooled embeddings are those of transformers and a plain step."""
    folder = TEXT_FAMILIES[family].save_bare(tmp_path / name)
    encoder = SmartEncoder(folder, device="cpu")
    made = {decision.name: decision for decision in encoder.decisions}["pooling"]
    assert (made.value, made.source) == (mode, source)
    for text, pooled in zip(TEXTS, encoder.encode_document(TEXTS).pooled, strict=True):
        want = POOL[mode](states(folder, text))
        np.testing.assert_allclose(pooled, want / np.linalg.norm(want), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "name", "reason"),
    [
        ("EmbeddingGemma (Gemma3)", "embeddinggemma-300m", "its dense layers"),
        ("EmbeddingGemma (Gemma3)", "my-own-gemma", "gemma3_text that reads in both directions"),
        ("sentence-t5 (T5)", "gtr-t5-base", "its dense layers"),
    ],
)
def test_a_bare_folder_without_a_part_is_refused(tmp_path, family, name, reason):
    """The message says which files are missing, what they hold, and what to do."""
    folder = TEXT_FAMILIES[family].save_bare(tmp_path / name)
    with pytest.raises(ModelNotFound, match=rf"{name}'.*modules\.json and 1_Pooling.*{reason}.*\.save\("):
        SmartEncoder(folder, device="cpu")


@pytest.mark.parametrize(
    ("model", "mode"),
    [
        ("intfloat/e5-mistral-7b-instruct", "lasttoken"),
        ("Alibaba-NLP/gte-Qwen2-1.5B-instruct", "lasttoken"),
        ("BAAI/bge-multilingual-gemma2", "lasttoken"),
        ("intfloat/e5-base-v2", "mean"),
        ("intfloat/multilingual-e5-large-instruct", "mean"),
        ("someone/code5-7b", None),
        ("BAAI/bge-m3", "cls"),
        ("thenlper/gte-base", "mean"),
        ("Alibaba-NLP/gte-multilingual-base", "cls"),
        ("hub/models--BAAI--bge-m3/snapshots/0a1b", "cls"),
    ],
)
def test_names(model, mode, tmp_path, monkeypatch):
    """The owner's name does not count. In the hub's cache, the folder above decides. gte-Qwen2 reads both ways."""
    monkeypatch.chdir(tmp_path)
    if model.startswith("hub/"):
        (tmp_path / model).mkdir(parents=True)
    decoder = Qwen3Config(is_causal=False)
    if mode is None:
        with pytest.raises(ModelNotFound):
            pooling_of_bare_folder(model, decoder)
    else:
        encoder = TEXT_FAMILIES["BGE (BERT)"].network(50).config
        assert pooling_of_bare_folder(model, decoder if mode == "lasttoken" else encoder)[0] == mode


@pytest.mark.parametrize("name", TEXT_FAMILIES)
def test_decoders_are_told_from_encoders(name):
    """Whether a model reads both ways is seen in its states: does the first token see the last one?"""
    network = TEXT_FAMILIES[name].network(50).eval()
    if network.config.model_type == "t5":
        network = network.encoder
    with torch.inference_mode():
        one, other = (network(input_ids=torch.tensor([[5, 6, 7, last]])).last_hidden_state for last in (8, 9))
    sees = bool((one[0, 0] - other[0, 0]).abs().max() > 1e-6)
    assert sees == (not is_decoder(network.config) or reads_both_ways(network.config))


def test_the_pooling_is_in_the_fingerprint(tmp_path):
    """So an index that was made with another pooling of the same weights does not open."""
    family = TEXT_FAMILIES["BGE (BERT)"]
    one, other = (SmartEncoder(family.save_bare(tmp_path / name), device="cpu") for name in ("bge-x", "an-encoder"))
    assert one.fingerprint != other.fingerprint


# --- prompts ------------------------------------------------------------------------------------


def test_a_bare_qwen3_embedding_has_the_prompt_of_its_repository(tmp_path, caplog):
    """A query equals that of the folder with all files: config_sentence_transformers.json has this prompt."""
    family = TEXT_FAMILIES["Qwen3-Embedding (Qwen3)"]
    bare = SmartEncoder(family.save_bare(tmp_path / "Qwen3-Embedding-0.6B"), device="cpu")
    prompt = {decision.name: decision for decision in bare.decisions}["query_prompt"]
    assert (prompt.value, prompt.source) == (INSTRUCTION, "the model's name")
    whole = SmartEncoder(family.save(tmp_path / "whole"), device="cpu", max_length=bare.max_length)
    for ours, theirs in zip(bare.encode_query(TEXTS).tokens, whole.encode_query(TEXTS).tokens, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    assert bare.fingerprint == SmartEncoder(bare.model_name, query_prompt="", device="cpu").fingerprint
    bare.encode_document(TEXTS)
    assert "prompts" not in caplog.text


@pytest.mark.parametrize(
    ("family", "name", "arguments", "warns"),
    [
        ("Qwen3-Embedding (Qwen3)", "a-decoder", {}, True),
        ("Qwen3-Embedding (Qwen3)", "another-decoder", {"query_prompt": "query: "}, False),
        ("multilingual E5 (XLM-R)", "multilingual-e5-small", {}, True),
        ("BGE (BERT)", "an-encoder", {}, False),
        ("nomic-embed-text (NomicBERT)", "nomic-embed-text-v1.5", {}, True),
        ("modernbert-embed (ModernBERT)", "modernbert-embed-base", {}, True),
    ],
)
def test_prompts_that_are_not_known_are_missed_once(tmp_path, caplog, family, name, arguments, warns):
    encoder = SmartEncoder(TEXT_FAMILIES[family].save_bare(tmp_path / name), device="cpu", **arguments)
    encoder.encode_document(TEXTS)
    encoder.encode_document(TEXTS)
    assert caplog.text.count("has no files for sentence-transformers, which would name its prompts") == warns
