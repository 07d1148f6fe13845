"""Text models as they are published: pooling, prompts, length, padding, tokens, dense layers and shorter embeddings.

Pooled embeddings are compared with those of sentence-transformers. Token embeddings are computed in the test with
transformers and numpy, one text at a time.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.text_families import MAX_LENGTH, TEXT_FAMILIES, WIDTH
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import ModelNotFound

pytestmark = pytest.mark.usefixtures("one_thread")

TASKS = ("query", "document")
TEXTS = [
    "The cat sat on the mat.",
    "a",
    "Which river flows through Vienna, Budapest and Belgrade?",
    "Dogs bark at night. " * 30,  # longer than the model can read
]


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Return a function from a family's name to the family, the folder of its model, and the encoder of this model."""

    @cache
    def make(name):
        family = TEXT_FAMILIES[name]
        folder = family.save(tmp_path_factory.mktemp("model") / "published")
        prompts = {f"{task}_prompt": prompt for task, prompt in family.given.items()}
        return family, folder, SmartEncoder(folder, device="cpu", **prompts)

    return make


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def own_pooled(family, folder, task, texts, **options):
    """The pooled embeddings (n, width) that sentence-transformers gives in one batch."""
    model = SentenceTransformer(folder, device="cpu", **options)
    if family.given:
        return unit(model.encode(texts, prompt=family.given[task]))
    return unit(model.encode_query(texts) if task == "query" else model.encode_document(texts))


def decisions(encoder):
    return {decision.name: decision.value for decision in encoder.decisions}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", TEXT_FAMILIES)
def test_pooled_embeddings_are_those_of_sentence_transformers(family, name, task):
    """They agree to 1e-6 for texts of several lengths in one batch, one of them cut."""
    kind, folder, encoder = family(name)
    ours = getattr(encoder, f"encode_{task}")(TEXTS).pooled
    np.testing.assert_allclose(ours, own_pooled(kind, folder, task, TEXTS), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", TEXT_FAMILIES)
def test_settings_are_those_of_the_files(family, name):
    """The pooling, the prompts, the length and the side of the padding are those that the files name."""
    kind, _, encoder = family(name)
    made = decisions(encoder)
    assert made["pooling"] == kind.pooling
    assert (made["query_prompt"], made["document_prompt"]) == (kind.prompt("query"), kind.prompt("document"))
    assert made["max_length"] == encoder.max_length == MAX_LENGTH
    assert made["query_tokens"] == made["document_tokens"] == "content"
    assert encoder.model.tokenizer.padding_side == ("left" if kind.pooling == "lasttoken" else "right")
    assert encoder.dimension == encoder.token_dimension == (kind.dense or (WIDTH,))[-1]


def alone(kind, folder, prompt, text):
    """Return the vocabulary's ids and the token embeddings of a text, by transformers and plain steps."""
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    if network.config.model_type == "t5":
        network = network.encoder
    inputs = tokenizer(prompt + text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.inference_mode():
        states = network.eval()(**inputs).last_hidden_state[0].numpy()
    for path in sorted(Path(folder).glob("*_Dense/model.safetensors")):
        states = states @ load_file(path)["linear.weight"].T
    ids = inputs["input_ids"][0].tolist()
    kept = [i for i, id in enumerate(ids) if id not in tokenizer.all_special_ids or id == tokenizer.unk_token_id]
    pooled = {"cls": 0, "lasttoken": len(ids) - 1}.get(kind.pooling)
    kept = [i for i in kept if i != pooled]
    return ids, unit(states[kept])


@pytest.mark.parametrize("name", TEXT_FAMILIES)
def test_token_embeddings_are_the_last_states(family, name):
    """Every token counts except special ones and the pooled one, wherever padding stands and whatever is cut."""
    kind, folder, encoder = family(name)
    for task in TASKS:
        ours = getattr(encoder, f"encode_{task}")(TEXTS)
        for i, text in enumerate(TEXTS):
            ids, rows = alone(kind, folder, kind.prompt(task), text)
            assert len(ids) <= MAX_LENGTH
            assert ours.tokens[i].shape == rows.shape
            np.testing.assert_allclose(ours.tokens[i], rows, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["Qwen3-Embedding (Qwen3)", "EmbeddingGemma (Gemma3)", "Arctic v2 (XLM-R)"])
def test_shorter_embeddings(family, name):
    """``truncate_dim`` (Matryoshka) gives the beginning of the same embeddings."""
    kind, folder, whole = family(name)
    encoder = SmartEncoder(folder, device="cpu", model_options={"truncate_dim": 8})
    for task in TASKS:
        ours = getattr(encoder, f"encode_{task}")(TEXTS)
        np.testing.assert_allclose(
            ours.pooled, own_pooled(kind, folder, task, TEXTS, truncate_dim=8), rtol=0, atol=1e-6
        )
        of_whole = getattr(whole, f"encode_{task}")(TEXTS)
        np.testing.assert_allclose(ours.tokens.embeddings, unit(of_whole.tokens.embeddings[:, :8]), rtol=0, atol=1e-5)


# --- models that need code of their own ---


def publish(family, folder, *, config=None, modules=None):
    """Write a family's folder with other entries in ``config.json`` and other types in ``modules.json``."""
    family.save(folder)
    for file, changes in (("config.json", config), ("modules.json", modules)):
        content = json.loads((folder / file).read_text())
        if isinstance(content, dict):
            content |= changes or {}
        else:
            content = [{**entry, **(changes or {}).get(entry["name"], {})} for entry in content]
        (folder / file).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("name", "model_type", "architecture", "code"),
    [
        ("gte-base-en-v1.5", "new", "NewModel", "Alibaba-NLP/new-impl--modeling.NewModel"),
        # transformers would load a BertModel from this folder, with other numbers.
        (
            "jina-embeddings-v2-base-en",
            "bert",
            "JinaBertModel",
            "jinaai/jina-bert-implementation--modeling.JinaBertModel",
        ),
    ],
)
def test_an_architecture_of_other_code_is_refused(tmp_path, name, model_type, architecture, code):
    """The message names the class, the place of its code, and the argument that runs it."""
    auto_map = {"AutoConfig": f"{code.partition('--')[0]}--configuration.Config", "AutoModel": code}
    folder = publish(
        TEXT_FAMILIES["BGE (BERT)"],
        tmp_path / name,
        config={"model_type": model_type, "architectures": [architecture], "auto_map": auto_map},
    )
    with pytest.raises(ModelNotFound, match=rf"{name}' is a {architecture}.*\({code}\).*trust_remote_code=True"):
        SmartEncoder(folder, device="cpu")


def test_an_architecture_of_transformers_needs_no_other_code(tmp_path):
    """nomic-embed-text-v1.5 names its own code. Its class has come into transformers, and that one is used."""
    family = TEXT_FAMILIES["nomic-embed-text (NomicBERT)"]
    code = "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"
    folder = publish(family, tmp_path / "nomic", config={"auto_map": {"AutoModel": code}})
    same = SmartEncoder(family.save(tmp_path / "same"), device="cpu").encode_query(TEXTS)
    np.testing.assert_array_equal(SmartEncoder(folder, device="cpu").encode_query(TEXTS).pooled, same.pooled)


def test_jina_v3_as_published_is_refused(tmp_path):
    """jina-embeddings-v3 has a first module of its own. The folder jina-embeddings-v3-hf has none."""
    folder = publish(
        TEXT_FAMILIES["jina-embeddings-v3-hf (Jina v3)"],
        tmp_path / "jina-embeddings-v3",
        modules={"0": {"type": "custom_st.Transformer"}},
    )
    with pytest.raises(ModelNotFound, match=r"'custom_st\.Transformer'.*not part of sentence-transformers.*trust"):
        SmartEncoder(folder, device="cpu")
