"""Undocumented names of other packages: each still exists, and still does what we use it for."""

import inspect
from importlib.metadata import version

import huggingface_hub.utils
import numpy as np
import pytest
import sentence_transformers.base.modules
import sentence_transformers.multi_vector_encoder.modules
import sentence_transformers.sentence_transformer.modules
import sentence_transformers.util
import torch
import transformers.image_processing_backends
import transformers.integrations.peft
import transformers.modeling_utils
import transformers.utils.loading_report
import transformers.utils.logging
from helpers import tiny_models, tiny_vision
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Transformer
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    SiglipModel,
)
from transformers.models.auto import modeling_auto, processing_auto
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging as transformers_logging

from smart_rag.encoders import compatibility
from smart_rag.encoders.smart_encoder import SmartEncoder

pytestmark = pytest.mark.usefixtures("one_thread")

PACKAGES = ("torch", "transformers", "sentence-transformers", "huggingface-hub")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    prompts = {"query": "query: ", "document": "document: "}
    folder = tiny_models.bert(tmp_path_factory.mktemp("bert"), prompts=prompts, include_prompt=False, dense=24)
    return SentenceTransformer(folder, device="cpu")


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    return MultiVectorEncoder(tiny_models.colbert(tmp_path_factory.mktemp("colbert")), device="cpu")


def has(home, name):
    return name in home if isinstance(home, dict | str) else hasattr(home, name)


def test_each_name_still_exists(model, late):
    """The failure names the missing names and the versions of the packages."""
    transformer, pooling, dense = model[0], model[1], model[2]
    prompted = model.preprocess(["a cat"], prompt="query: ", task="query")
    with compatibility.returning_all_layers(model) as options:
        features = model({**prompted, **options}, task="query")
    images, crop = Qwen2VLImageProcessor(), CLIPImageProcessor()
    clip, siglip = CLIPModel(tiny_clip()), SiglipModel(tiny_siglip())
    names = {
        "sentence_transformers.util": (
            sentence_transformers.util,
            ("load_file_path", "is_sentence_transformer_model", "batch_to_device"),
        ),
        "transformers.modeling_utils": (transformers.modeling_utils, ("log_state_dict_report",)),
        "transformers.integrations.peft": (transformers.integrations.peft, ("log_state_dict_report",)),
        "transformers.utils.loading_report": (transformers.utils.loading_report, ("log_state_dict_report",)),
        "LoadStateDictInfo": (
            transformers.utils.loading_report.LoadStateDictInfo.__dataclass_fields__,
            ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs", "conversion_errors"),
        ),
        "transformers.models.auto.processing_auto": (processing_auto, ("PROCESSOR_MAPPING_NAMES",)),
        "transformers.image_processing_backends": (
            transformers.image_processing_backends,
            ("TorchvisionBackend",),
        ),
        "Qwen2VLModel": (transformers.Qwen2VLModel, ("get_rope_index",)),
        "ColModernVBertProcessor": (transformers.ColModernVBertProcessor, ("process_images", "process_queries")),
        "Siglip2ImageProcessor": (transformers.Siglip2ImageProcessor, ("max_num_patches",)),
        "sentence_transformers.base.modules": (sentence_transformers.base.modules, ("Transformer", "Normalize")),
        "sentence_transformers.sentence_transformer.modules": (
            sentence_transformers.sentence_transformer.modules,
            ("Pooling", "StaticEmbedding"),
        ),
        "sentence_transformers.multi_vector_encoder.modules": (
            sentence_transformers.multi_vector_encoder.modules,
            ("MultiVectorMask", "BaseTokenPooling"),
        ),
        "BaseTokenPooling": (
            sentence_transformers.multi_vector_encoder.modules.BaseTokenPooling,
            ("applies_to",),
        ),
        "SentenceTransformer": (
            model,
            ("transformers_model", "modalities", "max_seq_length", "prompts", "preprocess", "truncate_dim"),
        ),
        "Transformer": (
            transformer,
            (
                "can_flatten_inputs",
                "unpad_inputs",
                "processing_kwargs",
                "processor",
                "model",
                "get_embedding_dimension",
            ),
        ),
        "Transformer of ColBERT": (late[0], ("document_length",)),
        "Pooling": (pooling, ("pooling_mode", "include_prompt", "embedding_dimension", "get_config_dict")),
        "modeling_auto": (modeling_auto, ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_MASKED_LM_MAPPING_NAMES")),
        "Dense": (dense, ("get_config_dict",)),
        "features of preprocess": (prompted, ("input_ids", "attention_mask", "prompt_length", "encodings")),
        "features of forward": (features, ("token_embeddings", "sentence_embedding", "all_layer_embeddings")),
        "config": (model.transformers_model.config, ("output_hidden_states", "max_position_embeddings")),
        "Qwen2VLImageProcessor": (images, ("size", "merge_size")),
        "Qwen2VLImageProcessor.size": (dict(images.size), ("shortest_edge", "longest_edge")),
        "Qwen2VLProcessor": (
            Qwen2VLProcessor(images, tiny_vision.tokenizer(), Qwen2VLVideoProcessor()),
            ("image_token", "image_token_id"),
        ),
        "CLIPImageProcessor": (crop, ("do_center_crop", "crop_size")),
        "CLIPModel": (clip, ("text_model", "vision_model", "text_projection", "visual_projection")),
        "CLIPModel.vision_model": (clip.vision_model, ("post_layernorm",)),
        "SiglipModel.text_model": (siglip.text_model, ("head",)),
        "SiglipModel.vision_model": (siglip.vision_model, ("head",)),
        "the message of ProcessorMixin about placeholders": (inspect.getsource(ProcessorMixin), ("token count",)),
        "transformers.utils.logging": (
            transformers.utils.logging,
            ("is_progress_bar_enabled", "enable_progress_bar", "disable_progress_bar"),
        ),
        "huggingface_hub.utils": (
            huggingface_hub.utils,
            ("are_progress_bars_disabled", "enable_progress_bars", "disable_progress_bars"),
        ),
    }
    gone = [f"{home}: {name}" for home, (value, used) in names.items() for name in used if not has(value, name)]
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    assert not gone, f"with {versions} these names are gone: {'; '.join(gone)}; mend {compatibility.__name__}"


def tiny_clip():
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return transformers.CLIPConfig(text_config=tower, vision_config=tower, projection_dim=8)


def tiny_siglip():
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return transformers.SiglipConfig(text_config=tower, vision_config=tower)


def test_pooling_and_what_follows_it(model, late):
    pooling = compatibility.pooling_of(model)
    assert (pooling.modes, pooling.include_prompt) == (("mean",), False)
    assert [type(module).__name__ for module in pooling.after] == ["Dense", "Normalize"]
    assert compatibility.pooling_of(late) == compatibility.Pooling()


def test_all_layers_are_returned_and_the_configuration_is_restored(model):
    features = model.preprocess(["a cat"])
    with torch.inference_mode(), compatibility.returning_all_layers(model) as options:
        layers = compatibility.layers_of(model({**features, **options}))
    assert len(layers) == 1 + model.transformers_model.config.num_hidden_layers
    assert model.transformers_model.config.output_hidden_states is False
    with torch.inference_mode():
        states = model(dict(features))["token_embeddings"]
    torch.testing.assert_close(layers[-1], states)
    assert compatibility.layers_of({}) == ()


def test_tokens_that_a_late_interaction_model_counts(late):
    """A query counts with its [MASK] tokens, a document without its punctuation."""
    for task, text in (("query", "a cat"), ("document", "a cat, a dog.")):
        features = late.preprocess([text], task=task)
        names = late.tokenizer.convert_ids_to_tokens(features["input_ids"][0].tolist())
        counted = compatibility.counted_tokens(late, features, task)[0]
        left_out = {name for name, counts in zip(names, counted, strict=True) if not counts}
        assert left_out == (set() if task == "query" else {",", "."})
        assert not compatibility.merges_tokens(late, task)


def test_sizes_of_images():
    qwen, clip = Qwen2VLImageProcessor(), CLIPImageProcessor(crop_size={"height": 56, "width": 48})
    assert compatibility.merged_patches(qwen) == 2
    assert compatibility.merged_patches(None) == 1
    assert compatibility.image_size(None) == {}
    assert compatibility.center_crop(qwen) is None
    assert compatibility.center_crop(clip) == (48, 56)


def test_placeholders_are_those_of_configuration_and_processor(tmp_path):
    model = SentenceTransformer(tiny_vision.qwen2_vl(tmp_path), device="cpu")
    ids = {kind: compatibility.placeholder_ids(model, kind).tolist() for kind in ("image", "video")}
    named = {kind: model.tokenizer.convert_tokens_to_ids(f"<|{kind}_pad|>") for kind in ids}
    assert ids == {kind: [id] for kind, id in named.items()}
    np.testing.assert_array_equal(compatibility.placeholder_ids(model, *ids), sorted(named.values()))


def test_loading_shows_no_bar_and_restores_the_setting(tmp_path, capsys):
    """The user has two settings: one of transformers and one of the hub."""
    model = tiny_models.bert(tmp_path)
    capsys.readouterr()
    before = transformers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    try:
        for switch, hub in (("enable", True), ("enable", False), ("disable", True), ("disable", False)):
            getattr(transformers_logging, f"{switch}_progress_bar")()
            (enable_progress_bars if hub else disable_progress_bars)()
            SmartEncoder(model, device="cpu")
            assert transformers_logging.is_progress_bar_enabled() == (switch == "enable")
            assert are_progress_bars_disabled() != hub
            assert capsys.readouterr().err == ""
    finally:
        (transformers_logging.enable_progress_bar if before[0] else transformers_logging.disable_progress_bar)()
        (disable_progress_bars if before[1] else enable_progress_bars)()


def test_texts_keep_their_rows_with_flash_attention(tmp_path, monkeypatch):
    """sentence-transformers would join them in one row, where a token's text is unknown."""
    monkeypatch.setattr(Transformer, "_can_flatten_inputs", lambda self: True)
    encoder = SmartEncoder(tiny_models.decoder(tmp_path), device="cpu")
    assert encoder.model[0].can_flatten_inputs is False
    assert [len(tokens) for tokens in encoder.encode_document(["a cat", "dogs bark at night"]).tokens] == [
        *(len(encoder.encode_document([text]).tokens[0]) for text in ("a cat", "dogs bark at night")),
    ]
