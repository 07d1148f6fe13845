"""Adapters: their numbers against plain loops, their folder, and their use in an encoder and an index."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from helpers import tiny_models
from helpers.word_encoder import WordEncoder

from smart_rag import CachedEncoder, Document, IndexConfig, Representation, SmartEncoder, SmartIndex
from smart_rag.embeddings.tokens import TokenBatch
from smart_rag.encoders.adapter import Adapter
from smart_rag.encoders.fingerprint import weights_digest
from smart_rag.errors import EncoderError, IndexMismatch, InvalidInput
from smart_rag.scoring import maxsim

TEXTS = tiny_models.SENTENCES
NO_TOKENS = ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def frozen(folder):
    return SmartEncoder(folder, device="cpu")


def trained(encoder, path, dimension=None, layers=(-1,), seed=0, **about):
    """Save an adapter of random weights for ``encoder`` in ``path``."""
    about = {"model": encoder.model_name, "model_weights": weights_digest(encoder.model), **about}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapter = Adapter(encoder.dimension, dimension, layers, **about)
        with torch.no_grad():
            adapter.norm.weight.uniform_(0.5, 2)
            adapter.norm.bias.uniform_(-1, 1)
    adapter.save(path)
    return adapter


def by_the_formula(parameters, states):
    """Return one token's embedding from its states (layers, width), computed from the specification alone."""
    if "layer_vector" in parameters:
        rms = [torch.sqrt((row * row).mean()) for row in (*states, parameters["layer_vector"])]
        key = parameters["layer_vector"] / rms[-1]
        scores = torch.stack(
            [(row / of_row) @ key / states.shape[1] ** 0.5 for row, of_row in zip(states, rms[:-1], strict=True)]
        )
        shares = torch.exp(scores) / torch.exp(scores).sum()
        state = sum(share * row for share, row in zip(shares, states, strict=True))
    else:
        state = states[0]
    centred = state - state.mean()
    normed = centred / torch.sqrt((centred * centred).mean())
    projected = parameters["projection.weight"] @ (normed * parameters["norm.weight"] + parameters["norm.bias"])
    return projected / torch.sqrt((projected * projected).sum())


@pytest.mark.parametrize("layers", [(-1,), (0, 1, -1)])
def test_an_adapter_computes_the_specification(layers, frozen, tmp_path):
    """Embeddings and the gradients of all weights equal those of plain torch."""
    adapter = trained(frozen, tmp_path, 8, layers)
    states = torch.randn(5, len(layers), frozen.dimension, generator=torch.Generator().manual_seed(1))
    parameters = {name: of.detach().clone().requires_grad_() for name, of in adapter.named_parameters()}
    ours, theirs = adapter(states), torch.stack([by_the_formula(parameters, token) for token in states])
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    towards = torch.randn(5, 8, generator=torch.Generator().manual_seed(2))
    for embeddings in (ours, theirs):
        (embeddings * towards).sum().backward()
    for name, parameter in adapter.named_parameters():
        torch.testing.assert_close(parameter.grad, parameters[name].grad, atol=1e-5, rtol=1e-5, msg=name)


def test_the_length_of_a_state_does_not_matter(frozen, tmp_path):
    """Training keeps states at length 1; the states of the model are longer."""
    adapter = trained(frozen, tmp_path, 8, (0, -1))
    states = torch.randn(5, 2, frozen.dimension)
    torch.testing.assert_close(adapter(states * 100), adapter(states * 0.01), atol=1e-6, rtol=0)


def test_an_adapter_starts_at_the_frozen_model():
    """At full width, similarities of centred states stay as they were. At a smaller width, no projection keeps more."""
    states = torch.randn(500, 1, 16, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -2, 16)
    states -= states.mean(dim=2, keepdim=True)
    rows = torch.nn.functional.normalize(states[:, 0], dim=1)
    wide = Adapter(16)
    wide.start_at_frozen(states)
    torch.testing.assert_close(wide(states) @ wide(states).T, rows @ rows.T, atol=1e-5, rtol=0)
    narrow = Adapter(16, 4)
    narrow.start_at_frozen(states)
    weight = narrow.projection.weight.detach()
    torch.testing.assert_close(weight @ weight.T, torch.eye(4), atol=1e-5, rtol=0)
    singular = torch.linalg.svdvals(narrow.norm(states[:, 0]))
    kept = torch.linalg.svdvals(narrow.projection(narrow.norm(states[:, 0])))
    torch.testing.assert_close(kept, singular[:4], atol=1e-3, rtol=0)


@pytest.mark.parametrize("layers", [(-1,), (1, -1)])
def test_an_adapter_is_saved_and_loaded(layers, frozen, tmp_path):
    adapter = trained(frozen, tmp_path / "new" / "folder", 8, layers)
    read = Adapter.load(tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "adapter.json",
        "adapter.safetensors",
    ]
    for (name, mine), (_, theirs) in zip(adapter.named_parameters(), read.named_parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    assert (read.digest, read.layers, read.model) == (adapter.digest, layers, frozen.model_name)


def test_the_digest_depends_on_weights_and_layers(frozen, tmp_path):
    adapters = [trained(frozen, tmp_path, 8, layers, seed) for layers, seed in [((-1,), 0), ((-2,), 0), ((-1,), 1)]]
    assert len({adapter.digest for adapter in adapters}) == 3
    with torch.no_grad():
        before = adapters[0].digest
        adapters[0].norm.bias[0] += 1e-3
    assert adapters[0].digest != before


@pytest.mark.parametrize(("arguments", "message"), [((4, 5), "at most.*4, got 5"), ((4, 2, (-1, -1)), "each once")])
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        Adapter(*arguments)


def test_a_folder_without_an_adapter(frozen, tmp_path):
    with pytest.raises(EncoderError, match=r"no adapter at .*adapter\.json.*smart-rag train adapter"):
        SmartEncoder(frozen.model_name, device="cpu", adapter=tmp_path)


@pytest.mark.parametrize("broken", ["json", "key", "weights", "shape", "version"])
def test_a_folder_that_is_broken(broken, frozen, tmp_path):
    trained(frozen, tmp_path, 8)
    config = json.loads((tmp_path / "adapter.json").read_text())
    if broken == "json":
        (tmp_path / "adapter.json").write_text("{")
    elif broken == "weights":
        (tmp_path / "adapter.safetensors").write_bytes(b"no weights")
    else:
        changed = {"shape": {"dimension": 4}, "version": {"format_version": 9}}.get(broken, {})
        config = {name: value for name, value in {**config, **changed}.items() if broken != "key" or name != "layers"}
        (tmp_path / "adapter.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match=str(tmp_path)):
        Adapter.load(tmp_path)


def test_an_adapter_is_for_one_model(frozen, tmp_path):
    trained(frozen, tmp_path / "adapter")
    other = tiny_models.bert(tmp_path, seed=1)
    with pytest.raises(EncoderError, match="was trained on the token states of"):
        SmartEncoder(other, device="cpu", adapter=tmp_path / "adapter")


# --- in an encoder ----------------------------------------------------------------------------


@pytest.mark.parametrize("dense", [None, 24])
def test_an_encoder_adapts_its_tokens_and_leaves_its_pooled_embeddings(dense, tmp_path):
    """In a model with a dense layer, tokens pass this layer first."""
    frozen = SmartEncoder(tiny_models.bert(tmp_path, dense=dense), device="cpu")
    adapter = trained(frozen, tmp_path / "adapter", 8)
    encoder = SmartEncoder(frozen.model_name, device="cpu", adapter=tmp_path / "adapter")
    assert (encoder.dimension, encoder.token_dimension) == (frozen.dimension, 8)
    for ours, plain in [
        (encoder.encode_document(TEXTS), frozen.encode_document(TEXTS)),
        (encoder.encode_query(TEXTS), frozen.encode_query(TEXTS)),
    ]:
        np.testing.assert_array_equal(ours.pooled, plain.pooled)
        np.testing.assert_array_equal(ours.tokens.ids, plain.tokens.ids)
        expected = adapter(torch.from_numpy(plain.tokens.embeddings)[:, None]).detach().numpy()
        np.testing.assert_allclose(ours.tokens.embeddings, expected, atol=1e-5)
    assert encoder.encode_document([]).tokens.dimension == 8


def test_a_text_without_tokens_has_its_adapted_pooled_embedding(frozen, tmp_path):
    adapter = trained(frozen, tmp_path, 8, (1, -1))
    encoder = SmartEncoder(frozen.model_name, device="cpu", adapter=tmp_path)
    [made] = encoder.encode_document([NO_TOKENS])
    state = torch.from_numpy(made.pooled)[:, None].expand(-1, 2, -1)
    np.testing.assert_allclose(made.tokens[0], adapter(state).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("build", [tiny_models.bert, tiny_models.decoder])
def test_states_of_several_layers_are_the_models_own(build, tmp_path):
    path = build(tmp_path)
    encoder = SmartEncoder(path, device="cpu")
    made = encoder.token_states(TEXTS[:2], "document", (0, -1))
    plain = encoder.encode_document(TEXTS[:2])
    width = encoder.dimension
    np.testing.assert_array_equal(made.pooled, plain.pooled)
    last = made.tokens.embeddings[:, width:]
    lengths = np.linalg.norm(last, axis=1, keepdims=True)
    np.testing.assert_allclose(last / lengths, plain.tokens.embeddings, atol=1e-6)
    model = transformers.AutoModel.from_pretrained(f"{path}").eval()
    for i, text in enumerate(TEXTS[:2]):
        with torch.no_grad():
            states = model(**encoder.model.tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        both = torch.cat([states.hidden_states[0][0], states.last_hidden_state[0]], dim=1)
        both = torch.nn.functional.normalize(both, dim=1).numpy()
        both = both[1:-1] if build is tiny_models.bert else both[:-1]  # [CLS] and [SEP], or what is pooled from
        np.testing.assert_allclose(made.tokens[i], both, atol=1e-5)
    assert not encoder.model.transformers_model.config.output_hidden_states  # as it was


def own_states(folder, encoder, text, layers):
    """Return the states (tokens, layers, width) of a text, as transformers gives them."""
    model = transformers.AutoModel.from_pretrained(f"{folder}").eval()
    with torch.no_grad():
        found = model(**encoder.model.tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
    return torch.stack([found[layer][0, :-1] for layer in layers], dim=1)  # without what is pooled from


@pytest.mark.parametrize("version", [1, 2])
def test_several_layers_are_added_up_as_the_format_says(version, tmp_path):
    """As the model gives them, as in the paper's code. Adapters of format 1 were trained on states of length 1."""
    layers, folder = (0, 1, -1), tiny_models.decoder(tmp_path / "decoder")
    frozen = SmartEncoder(folder, device="cpu")
    adapter = trained(frozen, tmp_path, 8, layers)
    config = json.loads((tmp_path / "adapter.json").read_text())
    assert config["format_version"] == 2
    (tmp_path / "adapter.json").write_text(json.dumps({**config, "format_version": version}))
    encoder = SmartEncoder(folder, device="cpu", adapter=tmp_path)
    states = own_states(folder, encoder, TEXTS[0], layers)
    lengths = states.norm(dim=2)
    assert (lengths.max(dim=1).values > 1.5 * lengths.min(dim=1).values).any()
    wanted = torch.nn.functional.normalize(states, dim=2) if version == 1 else states
    parameters = dict(adapter.named_parameters())
    expected = torch.stack([by_the_formula(parameters, token) for token in wanted]).detach().numpy()
    np.testing.assert_allclose(encoder.encode_document([TEXTS[0]]).tokens[0], expected, atol=1e-5)
    read = Adapter.load(tmp_path)
    assert (read.digest == adapter.digest) == (version == 2)
    read.save(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "adapter.json").read_text())["format_version"] == version


def test_an_adapter_of_one_layer_has_format_1(frozen, tmp_path):
    """So an older smart_rag reads it."""
    trained(frozen, tmp_path)
    assert json.loads((tmp_path / "adapter.json").read_text())["format_version"] == 1


def test_a_layer_that_is_not_there(frozen, tmp_path):
    trained(frozen, tmp_path, 8, (-1, 7))
    with pytest.raises(EncoderError, match="layer 7"):
        SmartEncoder(frozen.model_name, device="cpu", adapter=tmp_path).encode_document(TEXTS)


def test_an_adapter_changes_fingerprint_and_description(frozen, tmp_path):
    trained(frozen, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    trained(frozen, tmp_path / "b", seed=1)
    encoders = {
        name: SmartEncoder(frozen.model_name, device="cpu", adapter=tmp_path / name) for name in ("a", "b", "copy")
    }
    assert "adapter" not in frozen.describe()
    assert frozen.describe()["layer"] == "last"
    assert encoders["a"].describe()["layer"] == f"adapter {Adapter.load(tmp_path / 'a').digest}"
    assert len({frozen.fingerprint, *(encoder.fingerprint for encoder in encoders.values())}) == 3
    assert encoders["a"].fingerprint == encoders["copy"].fingerprint
    again = SmartEncoder.from_description(encoders["a"].describe(), device="cpu")
    assert again.describe() == encoders["a"].describe()


# --- in an index ------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["exact", "balanced", "compact", "int8", "1bit"])
def test_an_index_of_narrow_tokens(codec, frozen, tmp_path):
    trained(frozen, tmp_path / "adapter", 8)
    encoder = SmartEncoder(frozen.model_name, device="cpu", adapter=tmp_path / "adapter")
    config = IndexConfig(codec=codec)
    with SmartIndex.create(tmp_path / "index", encoder, config=config) as index:
        ids = index.add_texts(TEXTS)
        index.encode_documents(["another text"])
        index.add([Document("later", "another text")])
    with SmartIndex.open(tmp_path / "index") as index:  # the manifest knows the adapter
        assert (index.manifest.dimension, index.manifest.token_dimension) == (frozen.dimension, 8)
        assert index.encoder.fingerprint == encoder.fingerprint
        hits = index.search(TEXTS[3], 3, first_stage="exhaustive", weighting="none")
        assert hits[0].text == TEXTS[3]
        tokens = index.tokens([hits[0].id])
        assert tokens.dimension == 8
        late = maxsim.late_interaction(encoder.encode_query([TEXTS[3]]).tokens, tokens)
        assert hits[0].late_score == pytest.approx(late[0, 0], abs=1e-3)
        assert {hit.id for hit in index.search(TEXTS[0], 20, first_stage="pooled")} == {*ids, "later"}
        assert index.rerank(TEXTS[0], ["a cat", TEXTS[0]])[0].text == TEXTS[0]
        assert index.verify().sound


def test_an_index_belongs_to_one_adapter(frozen, tmp_path):
    for name, seed in [("a", 0), ("b", 1)]:
        trained(frozen, tmp_path / name, seed=seed)
    SmartIndex.create(tmp_path / "index", SmartEncoder(frozen.model_name, device="cpu", adapter=tmp_path / "a")).close()
    for other in (frozen, SmartEncoder(frozen.model_name, device="cpu", adapter=tmp_path / "b")):
        with pytest.raises(IndexMismatch, match=r"with the adapter '.*a' and cannot be used"):
            SmartIndex.open(tmp_path / "index", other)
    shutil.copytree(tmp_path / "b", tmp_path / "a", dirs_exist_ok=True)
    with SmartIndex.open(tmp_path / "index") as index, pytest.raises(IndexMismatch, match=r"adapter .* has changed"):
        index.search("cat")


def test_a_cached_encoder_has_the_width_of_its_encoder(frozen, tmp_path):
    trained(frozen, tmp_path / "adapter", 8)
    encoder = SmartEncoder(frozen.model_name, device="cpu", adapter=tmp_path / "adapter")
    cached = CachedEncoder(encoder, tmp_path / "cache", codec="float32")
    assert cached.token_dimension == 8
    assert CachedEncoder(WordEncoder()).token_dimension == WordEncoder.dimension
    made, plain = cached.encode_document(TEXTS), encoder.encode_document(TEXTS)
    np.testing.assert_array_equal(made.tokens.embeddings, plain.tokens.embeddings)
    assert cached.encode_document([]).tokens.dimension == 8
    cached.close()


def test_an_index_of_own_vectors_of_two_widths(tmp_path):
    """The caller's own tokens can have another width than the pooled vectors, and need no encoder."""
    generator = np.random.default_rng(0)
    pooled, tokens = generator.standard_normal((3, 6)), [generator.standard_normal((n, 4)) for n in (1, 3, 2)]
    vectors = Representation.from_embeddings(pooled, tokens)
    documents = [Document(name, name) for name in "abc"]
    with SmartIndex.from_embeddings(tmp_path / "index", documents, vectors) as index:
        assert (index.manifest.dimension, index.manifest.token_dimension) == (6, 4)
        assert index.search(vectors[1])[0].id == "b"
    with SmartIndex.create(tmp_path / "empty", None, dimension=6, token_dimension=4) as index:
        index.add_embeddings(documents, vectors)
        assert isinstance(index.tokens(["c"]), TokenBatch)
