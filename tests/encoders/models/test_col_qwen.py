"""ColQwen2, ColQwen2.5, ColQwen3 and ColNomic from colpali-engine's files, against the decoders of transformers."""

import functools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny_col
from helpers.vision_families import picture
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from transformers import AutoModel, Qwen2_5_VLProcessor, Qwen2VLProcessor, Qwen3VLProcessor

from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import InvalidInput, ModelNotFound
from smart_rag.types import Content

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["Interest rates rose by a quarter of a point in March.", "a", "Dogs bark at night. " * 6]
# The last one has more pixels than the models read.
IMAGES = [picture(200, 90), picture(60, 110, 1), picture(96, 96, 2), picture(400, 300, 3)]
PROCESSORS = {"ColQwen2": Qwen2VLProcessor, "ColQwen2_5": Qwen2_5_VLProcessor, "ColQwen3": Qwen3VLProcessor}
# colpali-engine 0.3.18: `visual_prompt_prefix` of ColQwen2_5_Processor, and `process_queries` with its default suffix.
PAGE = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Describe the image.<|im_end|><|endoftext|>"
SUFFIX = "<|endoftext|>" * 10


def adding(first, second):
    """Return a hook that adds what peft documents for a LoRA: lora_alpha / r times B A x."""
    return lambda _, inputs, output: output + (inputs[0] @ first.T @ second.T) * (tiny_col.ALPHA / tiny_col.RANK)


class Reference:
    """The forward pass of colpali-engine's classes: decoder, projection, L2 norm, with transformers' own modules."""

    def __init__(self, name, base, adapter=None):
        tensors = load_file(Path(base) / "model.safetensors")
        self.processor = PROCESSORS[name].from_pretrained(base)
        self.processor.tokenizer.padding_side = "left"
        model = AutoModel.from_pretrained(base)
        model.custom_text_proj = torch.nn.Linear(*reversed(tensors["custom_text_proj.weight"].shape))
        model.custom_text_proj.load_state_dict({end: tensors[f"custom_text_proj.{end}"] for end in ("weight", "bias")})
        self.model = model.eval()
        if adapter is not None:  # its product is added at each forward pass, and merged into nothing
            found = load_file(Path(adapter) / "adapter_model.safetensors")
            for key in (key for key in found if "lora_A" in key):
                module = key.removeprefix("base_model.model.").partition(".lora_A")[0]
                linear = model.get_submodule(re.sub(r"^model\.layers", "language_model.layers", module))
                linear.register_forward_hook(adding(found[key], found[key.replace("lora_A", "lora_B")]))

    @torch.inference_mode()
    def encode(self, text, image=None):
        images = {} if image is None else {"images": [image]}
        features = self.processor(text=[text], return_tensors="pt", **images)
        states = self.model(**features).last_hidden_state[0]
        tokens = normalize(self.model.custom_text_proj(states), dim=1)
        return normalize(tokens.mean(0), dim=0).numpy(), tokens.numpy()


def expected(reference, item, task):
    if not isinstance(item, str):
        return reference.encode(PAGE, item)
    return reference.encode(item + SUFFIX if task == "query" else item)


def assert_same(encoder, reference, task):
    items = [TEXTS[0], IMAGES[0], TEXTS[1], IMAGES[1], TEXTS[2], *IMAGES[2:]]
    got = getattr(encoder, f"encode_{task}")(items)
    for i, item in enumerate(items):
        pooled, tokens = expected(reference, item, task)
        np.testing.assert_allclose(got.pooled[i], pooled, rtol=0, atol=1e-5)
        np.testing.assert_allclose(got.tokens[i], tokens, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    @functools.cache
    def make(name, old=False):
        return Path(tiny_col.col_qwen(tmp_path_factory.mktemp(name), name, old=old))

    return make


@pytest.mark.parametrize(
    ("name", "old"),
    [("ColQwen2", False), ("ColQwen2", True), ("ColQwen2_5", False), ("ColQwen2_5", True), ("ColQwen3", False)],
)
def test_a_model_of_colpali_engine(folders, name, old):
    encoder = SmartEncoder(folders(name, old), device="cpu")
    assert encoder.modalities == {"text", "image"}
    assert encoder.dimension == tiny_col.DIMENSION
    assert encoder.default_weights == (0, 1)
    reference = Reference(name, folders(name))
    for task in ("query", "document"):
        assert_same(encoder, reference, task)


def test_the_names_with_which_colpali_engine_saves_colqwen3(folders, tmp_path):
    """``ColQwen3.save_pretrained`` puts ``model.`` before every name, also before that of the projection."""
    plain = folders("ColQwen3")
    shutil.copytree(plain, tmp_path / "model")
    tensors = {f"model.{name}": tensor for name, tensor in load_file(plain / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    encoder = SmartEncoder(tmp_path / "model", device="cpu")
    assert encoder.fingerprint == SmartEncoder(plain, device="cpu").fingerprint
    assert_same(encoder, Reference("ColQwen3", plain), "query")


@pytest.mark.parametrize(("name", "old"), [("ColQwen2", True), ("ColQwen2_5", True), ("ColQwen3", False)])
def test_a_lora_with_the_base_that_it_names(folders, tmp_path, name, old):
    """So ColQwen2 v1.0, ColQwen2.5 and ColNomic are published. ColNomic is a ColQwen2.5."""
    adapter = tiny_col.lora(tmp_path / "adapter", folders(name), old=old)
    encoder = SmartEncoder(adapter, device="cpu")
    reference = Reference(name, folders(name), adapter)
    for task in ("query", "document"):
        assert_same(encoder, reference, task)
    plain = SmartEncoder(folders(name), device="cpu")
    assert np.abs(encoder.encode_query(TEXTS[:1]).pooled - plain.encode_query(TEXTS[:1]).pooled).max() > 0.01
    assert encoder.fingerprint != plain.fingerprint
    assert SmartEncoder.from_description(encoder.describe()).fingerprint == encoder.fingerprint


def test_a_profile_for_a_lora_is_not_ignored(folders, tmp_path):
    """No profile is for these models."""
    adapter = tiny_col.lora(tmp_path / "adapter", folders("ColQwen2"))
    with pytest.raises(InvalidInput, match=r"profile 'vlm2vec-v2' is for vision-language decoders, which .* is not"):
        SmartEncoder(adapter, device="cpu", profile="vlm2vec-v2")
    kind = {decision.name: decision for decision in SmartEncoder(adapter, device="cpu").decisions}["kind"]
    assert (kind.value, kind.source) == ("ColQwen2 of colpali-engine", "config.json: architectures ColQwen2")


@pytest.mark.parametrize("tensor", ["language_model.layers.1.mlp.up_proj", "custom_text_proj"])
@pytest.mark.parametrize("halves", ["A", "B", "AB"])
def test_a_lora_without_one_of_its_tensors(folders, tmp_path, tensor, halves):
    """Not even a weight without both halves is left as it is in the base."""
    adapter = Path(tiny_col.lora(tmp_path / "adapter", folders("ColQwen2_5"), old=False))
    tensors = load_file(adapter / "adapter_model.safetensors")
    for half in halves:
        del tensors[f"base_model.model.{tensor}.lora_{half}.weight"]
    save_file(tensors, adapter / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(ModelNotFound, match=rf"missing: '{tensor}\.lora_{halves[0]}\.weight'"):
        SmartEncoder(adapter, device="cpu")


def test_a_lora_of_another_kind_or_for_another_weight(folders, tmp_path):
    adapter = Path(tiny_col.lora(tmp_path / "adapter", folders("ColQwen2"), use_dora=True))
    with pytest.raises(ModelNotFound, match=r"adapter_config.json has use_dora = True, a kind of LoRA"):
        SmartEncoder(adapter, device="cpu")
    adapter = Path(tiny_col.lora(tmp_path / "fewer", folders("ColQwen2"), target_modules=["q_proj"]))
    with pytest.raises(ModelNotFound, match=r"missing: none; left over: 'custom_text_proj.lora_A.weight'"):
        SmartEncoder(adapter, device="cpu")


def without_projection(tensors):
    return {key: tensor for key, tensor in tensors.items() if key != "custom_text_proj.bias"}


def spoilt(tensors):
    return tensors | {"custom_text_proj.bias": tensors["custom_text_proj.bias"] * torch.nan}


def narrow(tensors):
    return tensors | {"custom_text_proj.weight": torch.zeros(24, 8)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_projection, r"has no custom_text_proj.weight and .bias.* at random"),
        (spoilt, r"damaged: NaN or infinity is in custom_text_proj\.bias"),
        (
            lambda tensors: tensors | {"custom_text_proj.norm.weight": torch.ones(24)},
            r"in the files, but not in the model: 'custom_text_proj\.norm\.weight'",
        ),
        (narrow, r"a weight of shape \(24, 8\).*expected \(dimension, 64\)"),
        (
            lambda tensors: {key: value for key, value in tensors.items() if "layers.1.mlp.up_proj" not in key},
            r"missing in the files: '\S*layers.1.mlp.up_proj.weight'",
        ),
    ],
)
def test_weights_that_do_not_fit(folders, tmp_path, change, reason):
    shutil.copytree(folders("ColQwen2_5"), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})
    with pytest.raises(ModelNotFound, match=reason):
        SmartEncoder(tmp_path / "model", device="cpu")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"architectures": ["ColPali"]}, r"the model is ColPali, .*use .*vidore/colpali-v1.3-hf"),
        ({"architectures": ["ColIdefics3"]}, r"the model is ColIdefics3, .*encoder of your own"),
        (
            {"architectures": ["ColQwen3"], "model_type": "colqwen3"},
            r"'colqwen3'; ColQwen3 can be loaded with 'qwen3_vl'",
        ),
    ],
)
def test_models_that_are_refused_by_name(folders, tmp_path, config, reason):
    """transformers would load the decoder alone, and go on without the projection."""
    shutil.copytree(folders("ColQwen2"), tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    with pytest.raises(ModelNotFound, match=reason):
        SmartEncoder(tmp_path / "model", device="cpu")


def test_origins_lengths_and_prompts(folders):
    encoder = SmartEncoder(folders("ColQwen2_5"), device="cpu", query_prompt="Query: ", max_length=40)
    text, image = TEXTS[0], IMAGES[0]
    origins = encoder.token_origins(text, "query")
    assert "".join(text[slice(*origin.span)] for origin in origins if origin.span) == text
    words = [text[slice(*origin.span)] for origin in origins if origin.span]
    # Of the words around the text, none has an id. Of the text, only the full stop has none.
    assert (encoder.encode_query([text]).tokens.ids >= 0).sum() == len(words) - 1
    boxes = [origin.box for origin in encoder.token_origins(image) if origin.box]
    assert (boxes[0][:2], boxes[-1][2:]) == ((0, 0), (1, 1))
    reference = Reference("ColQwen2_5", folders("ColQwen2_5"))
    _, tokens = reference.encode(f"Query: {text}{SUFFIX}")
    np.testing.assert_allclose(encoder.encode_query([text]).tokens[0], tokens, rtol=0, atol=1e-5)
    # A text that is too long is cut. The tokens after a query are not.
    for encode in (encoder.encode_query, encoder.encode_document):
        assert 30 < len(encode(["cat " * 90]).tokens[0]) <= 40
    with pytest.raises(InvalidInput, match="text and image together"):
        encoder.encode_document([Content("a", image=image)])
