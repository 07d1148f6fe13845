"""jina-embeddings-v4 against Qwen2.5-VL with the LoRA beside its weights, pooled by plain loops."""

import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny_jina, tiny_models
from helpers.command_line import good
from helpers.vision_families import picture
from safetensors.torch import load_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel, Qwen2_5_VLProcessor

from smart_rag import CachedEncoder, Document, IndexConfig, SmartEncoder, SmartIndex
from smart_rag.errors import InvalidInput
from smart_rag.training import TrainingData, train_adapter
from smart_rag.types import Content

TEXTS = [*tiny_models.SENTENCES[:4], "a", "!", "8 cats", "Dogs bark. " * 40]
# Within the 64 patches that the model's files allow.
IMAGES = [picture(100, 90), picture(60, 110, 1), picture(200, 180, 2)]
IMAGE_TEXT = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Describe the image.<|im_end|>\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_jina.jina_v4(tmp_path_factory.mktemp("jina"))


@pytest.fixture(scope="module")
def encoder(folder):
    return SmartEncoder(folder)


@pytest.fixture(scope="module")
def reference(folder):
    return Reference(Path(folder))


@pytest.fixture
def copied(folder, tmp_path):
    """Return a copy of the folder that a test may break."""
    return Path(shutil.copytree(folder, tmp_path / "copied"))


class Reference:
    """The model by transformers, from its files: one input at a time, in float64, with unchanged weights."""

    def __init__(self, path):
        self.config = Qwen2_5_VLConfig.from_pretrained(path)
        self.processor = Qwen2_5_VLProcessor.from_pretrained(path)
        self.model = Qwen2_5_VLModel(self.config).double().eval()
        weights = {key: weight.double() for key, weight in tiny_jina.read_weights(path).items()}
        self.weight, self.bias = (weights.pop(f"{tiny_jina.PROJECTOR}.{name}") for name in ("weight", "bias"))
        new = {
            key if key.startswith("visual.") else key.replace("model.", "language_model.", 1): weight
            for key, weight in weights.items()
        }
        self.model.load_state_dict(new, strict=True)
        self.lora = {key: half.double() for key, half in load_file(path / tiny_jina.ADAPTER).items()}
        self.scaling = tiny_jina.scaling(path)
        for name, module in self.model.language_model.named_modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(self.hook(f"model.language_model.{name}"))

    def hook(self, name):
        return lambda module, inputs, output: output + self.addition(name, inputs[0])

    def addition(self, name, x):
        a, b = (self.lora[f"base_model.model.{name}.lora_{half}.retrieval.weight"] for half in "AB")
        return self.scaling * (x @ a.T) @ b.T

    @torch.no_grad()
    def __call__(self, text, image=None):
        images = {} if image is None else {"images": [image]}
        cut = {"truncation": True, "max_length": 96} if image is None else {}
        inputs = self.processor(text=[text], return_tensors="pt", **images, **cut)
        states = self.model(**inputs).last_hidden_state[0]
        ids = inputs["input_ids"][0].tolist()
        first, last = 0, len(ids) - 1
        if image is not None:
            first, last = ids.index(self.config.vision_start_token_id), ids.index(self.config.vision_end_token_id)
        mean = torch.zeros(states.shape[1], dtype=torch.float64)
        for position in range(first, last + 1):
            mean += states[position] / (last + 1 - first)
        tokens = []
        for state in states:
            projected = self.weight @ state + self.bias + self.addition(tiny_jina.PROJECTOR, state)
            tokens.append((projected / projected.norm()).numpy())
        return (mean / mean.norm()).numpy(), np.stack(tokens)


def assert_same(ours, expected):
    """Compare with (pooled, tokens) of each input."""
    singles, multis = zip(*expected, strict=True)
    assert [len(matrix) for matrix in ours.tokens] == [len(matrix) for matrix in multis]
    for pooled, tokens, single, multi in zip(ours.pooled, ours.tokens, singles, multis, strict=True):
        np.testing.assert_allclose(pooled, single, rtol=0, atol=1e-5)
        np.testing.assert_allclose(tokens, multi, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("task", "prefix"), [("query", "Query: "), ("document", "Passage: ")])
def test_texts(encoder, reference, task, prefix):
    """Every token counts, also those of the prefix, in batches and alone."""
    expected = [reference(prefix + text) for text in TEXTS]
    encode = getattr(encoder, f"encode_{task}")
    assert_same(encode(TEXTS), expected)
    for text, alone in zip(TEXTS, expected, strict=True):
        assert_same(encode([text]), [alone])
    assert len(expected[-1][1]) == encoder.max_length == 96
    assert (encoder.dimension, encoder.token_dimension) == (64, 16)


def test_images(encoder, reference):
    """The mean is over the image alone. The token embeddings are those of the whole template."""
    expected = [reference(IMAGE_TEXT, image) for image in IMAGES]
    for encode in (encoder.encode_document, encoder.encode_query):
        assert_same(encode(IMAGES), expected)
        for image, alone in zip(IMAGES, expected, strict=True):
            assert_same(encode([image]), [alone])


def test_a_scaling_by_the_root_of_the_rank(tmp_path):
    path = tiny_jina.jina_v4(tmp_path, rslora=True)
    assert tiny_jina.scaling(Path(path)) == 3.0
    assert_same(SmartEncoder(path).encode_query(TEXTS[:2]), [Reference(Path(path))("Query: " + t) for t in TEXTS[:2]])


def test_texts_are_cut_at_the_length_of_training(tmp_path):
    """The limit in the tokenizer's files is not used."""
    path = tiny_jina.jina_v4(tmp_path, max_length=131_072)
    assert SmartEncoder(path).max_length == 32_768


def test_half_precision(folder, encoder):
    """The digest is the same, since the sum of a weight and its LoRA is rounded to float32 first."""
    half = SmartEncoder(folder, dtype="bfloat16")
    assert half.fingerprint == encoder.fingerprint
    ours, full = half.encode_document([TEXTS[0], IMAGES[0]]), encoder.encode_document([TEXTS[0], IMAGES[0]])
    for mine, theirs in zip(ours.pooled, full.pooled, strict=True):
        assert 0.98 < float(mine @ theirs) < 1


def test_projector_and_adapter_are_part_of_the_fingerprint(encoder, copied):
    """If one of them changes, it is another encoder."""
    weights, bias = tiny_jina.read_weights(copied), f"{tiny_jina.PROJECTOR}.bias"
    tiny_jina.write_weights(copied, weights | {bias: weights[bias] + 1})
    assert SmartEncoder(copied).fingerprint != encoder.fingerprint
    tiny_jina.write_weights(copied, weights)
    assert SmartEncoder(copied).fingerprint == encoder.fingerprint
    tiny_jina.change_adapter(copied, lambda tensors: {key: tensor * 2 for key, tensor in tensors.items()})
    assert SmartEncoder(copied).fingerprint != encoder.fingerprint


def test_loading_warns_of_nothing(folder, caplog, capfd):
    """transformers would list the projector, which is in the same files and is no weight of Qwen2.5-VL."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        SmartEncoder(folder)
    finally:
        logger.removeHandler(caplog.handler)
    assert (caplog.text, *capfd.readouterr()) == ("", "", "")


def test_its_code_never_runs(folder, encoder):
    """Its configuration, model, processor and files for sentence-transformers name such code."""
    assert all("AssertionError" in file.read_text() for file in Path(folder).glob("*.py"))
    allowed = SmartEncoder(folder, trust_remote_code=True)
    assert allowed.describe()["trust_remote_code"] is True
    assert allowed.fingerprint == encoder.fingerprint


def test_one_by_one_and_together(folder, encoder):
    """Texts and images of one call are encoded apart and put in order again, also on two devices."""
    items = [TEXTS[0], IMAGES[0], TEXTS[7], IMAGES[2], TEXTS[4], IMAGES[1]]
    alone = [encoder.encode_document([item]) for item in items]
    two = SmartEncoder(folder, device=["cpu", "cpu"], batch_size=2)
    for together in (encoder.encode_document(items), two.encode_document(items)):
        assert_same(together, [(one.pooled[0], one.tokens[0]) for one in alone])
    assert encoder.encode_document([]).tokens.dimension == 16


def test_a_text_and_an_image_together_are_refused(encoder):
    with pytest.raises(InvalidInput, match="item 0 has text and image together"):
        encoder.encode_document([Content("a caption", image=IMAGES[0])])
    assert not encoder.combines_modalities


def test_the_profile_of_another_model_is_refused(folder):
    with pytest.raises(InvalidInput, match="profile 'qwen3-vl-embedding' is for vision-language decoders"):
        SmartEncoder(folder, profile="qwen3-vl-embedding")


@pytest.mark.parametrize("text", ["cat sat on the mat", "The cat, 8 dogs.", "8", " a", ""])
@pytest.mark.parametrize("task", ["query", "document"])
def test_origins_in_a_text(encoder, text, task):
    """A blank before the first word is part of the word's token, or else a token of the prefix."""
    tokens = getattr(encoder, f"encode_{task}")([text]).tokens
    origins = encoder.token_origins(text, task)
    assert len(origins) == len(tokens[0])
    spans = [origin.span for origin in origins if origin.span]
    assert "".join(text[slice(*span)] for span in spans) == text
    # Neither a prefix nor a blank or punctuation by itself is a word.
    words = [origin.span is not None and text[slice(*origin.span)].strip() not in ("", ",", ".") for origin in origins]
    assert (tokens.ids >= 0).tolist() == words


def test_origins_in_an_image(encoder):
    boxes = [origin.box for origin in encoder.token_origins(IMAGES[0])]
    assert len(boxes) == len(encoder.encode_document([IMAGES[0]]).tokens[0])
    boxes = [box for box in boxes if box]
    assert (len(boxes), boxes[0][:2], boxes[-1][2:]) == (4 * 3, (0, 0), (1, 1))
    assert (encoder.encode_document([IMAGES[0]]).tokens.ids == -1).all()


def test_policies_keep_fewer_tokens(folder, encoder):
    only = SmartEncoder(folder, document_tokens="patches", query_tokens="input")
    assert len(only.encode_document([IMAGES[0]]).tokens[0]) == 12
    for text in ("The cat", "8 cats"):  # the prompt's blank is part of the first word's token, or one of its own
        assert len(only.encode_query([text]).tokens[0]) == encoder.count_tokens(text)[0]
    # Of a text no token is left; the mean of its own stands for it, as wide as they are, and without padding.
    texts = ["The cat", TEXTS[1]]
    means = [tokens.mean(axis=0) for tokens in encoder.encode_document(texts).tokens]
    for tokens, mean in zip(only.encode_document(texts).tokens, means, strict=True):
        np.testing.assert_allclose(tokens, [mean / np.linalg.norm(mean)], rtol=0, atol=1e-5)


def test_the_pixels_of_an_image(folder, encoder):
    """A square of 600 pixels has 21 patches on a side. Qwen2.5-VL's processor shrinks it and rounds down."""
    large = picture(600, 600, 3)

    def patches(**options):
        origins = SmartEncoder(folder, **options).token_origins(large)
        return sum(origin.box is not None for origin in origins)

    assert (patches(max_pixels=16 * 28 * 28), patches(), patches(max_pixels=100 * 28 * 28)) == (9, 49, 100)
    assert encoder.tokens_per_page == len(encoder.encode_document([picture(210 * 2, 297 * 2)]).tokens[0])


def test_prompts_and_length_of_the_caller(folder, encoder):
    own = SmartEncoder(folder, query_prompt="Passage: ", max_length=20)
    document = encoder.encode_document(["The cat"])
    np.testing.assert_allclose(own.encode_query(["The cat"]).tokens[0], document.tokens[0], rtol=0, atol=1e-5)
    assert len(own.encode_document(["cat " * 40]).tokens[0]) == own.max_length == 20
    assert own.fingerprint != encoder.fingerprint


def test_an_index(encoder, tmp_path):
    contents = [*TEXTS[:4], Content(image=IMAGES[0])]
    documents = [Document(str(i), text) for i, text in enumerate(TEXTS[:4])] + [Document("4", image=IMAGES[0])]
    config = IndexConfig(codec="float32", weighting="none")
    with SmartIndex.create(tmp_path / "index", CachedEncoder(encoder), config=config) as index:
        index.add(documents)
        assert index.manifest.config.weights == (0, 1)
        assert (index.manifest.dimension, index.manifest.token_dimension) == (64, 16)
    query, represented = encoder.encode_query([TEXTS[1]]), encoder.encode_document(contents)
    with SmartIndex.open(tmp_path / "index") as index:
        late = [(query.tokens[0] @ tokens.T).max(axis=1).mean() for tokens in represented.tokens]
        hits = index.search(TEXTS[1], top_k=5, first_stage="exhaustive")
        assert {int(hit.id): hit.score for hit in hits} == pytest.approx(dict(enumerate(late)), abs=1e-5)
        # The first stage ranks by the model's own single vector.
        nearest = str(np.argmax(represented.pooled @ query.pooled[0]))
        assert index.search(TEXTS[1], top_k=1, candidates=1, first_stage="pooled")[0].id == nearest
        for hit in hits:
            explanation = hit.explain()
            words = "".join(word for word, _ in explanation.words if word != "[prompt]")
            assert words == TEXTS[1].replace(" ", "")
            assert sum(share for _, share in explanation.words) == pytest.approx(hit.score, abs=1e-5)
            assert sum(origin.box is not None for origin in explanation.origins) == (12 if hit.id == "4" else 0)
            assert explanation.picture() is not None
        assert index.search(Content(image=IMAGES[0]), top_k=1)[0].id == "4"
        with pytest.raises(InvalidInput, match=r"query 0 has text and image together, but .* pass one of them"):
            index.search(Content("a cat", image=IMAGES[0]))


@pytest.mark.parametrize("trusted", [False, True])
def test_a_description_makes_the_same_encoder(encoder, trusted):
    """So does that of an older index, whose manifest allows the model's code to run."""
    again = SmartEncoder.from_description(encoder.describe() | {"trust_remote_code": trusted})
    assert again.fingerprint == encoder.fingerprint


def test_decisions(folder):
    said = good("info", "--model", folder)
    lines = {row[0]: row[1:] for row in (re.split(r"\s{2,}", line.rstrip()) for line in said.splitlines())}
    assert lines["pooling"] == ["its own single vector", "the model's own files"]
    assert lines["query prompt"] == ["Query:", "the model's own files"]
    assert lines["document prompt"][0] == "Passage:"
    assert lines["query tokens"] == lines["document tokens"] == ["content", "the model's own files"]
    assert (lines["dimension"][0], lines["token dimension"][0], lines["max length"][0]) == ("64", "16", "96")
    assert lines["image pixels"][0] == "50,176"
    found = json.loads(good("info", "--model", folder, "--json"))
    assert found["bytes_per_page"]["exact"] == found["tokens_per_page"] * 16 * 2


def test_an_index_of_the_command_line(folder, tmp_path):
    (tmp_path / "a.txt").write_text("The cat sat on the mat.")
    assert "1 passage in" in good("index", tmp_path / "a.txt", "--db", tmp_path / "db", "--model", folder)
    assert "cat" in good("search", "cat", "--db", tmp_path / "db")


def test_no_adapter_can_be_trained(encoder, tmp_path):
    data = TrainingData("none", [], [])
    with pytest.raises(InvalidInput, match="they have 16 dimensions, its pooled embeddings 64; use a model"):
        train_adapter(encoder, data, tmp_path / "adapter")
