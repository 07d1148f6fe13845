"""Builders of tiny random vision-language models: each saves a folder and returns its path.

A test module that imports this one is skipped where torchvision is not to be had.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torchvision", reason="vision-language models need torchvision; `make install` puts it where it is")

import torch
from helpers.tiny_models import SENTENCES, byte_bpe, sentencepiece
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    ColPaliConfig,
    ColPaliForRetrieval,
    ColPaliProcessor,
    ColQwen2Config,
    ColQwen2ForRetrieval,
    ColQwen2Processor,
    GemmaConfig,
    PaliGemmaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    Siglip2Processor,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
    SiglipVisionConfig,
)

WIDTH = 64
SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
# Renders as theirs do. Qwen2-VL's puts a system turn of its own where there is none, Qwen3-VL's does not.
CHAT_TEMPLATE = """
{%- macro render(content) %}
    {%- if content is string %}
        {{- content }}
    {%- else %}
        {%- for part in content %}
            {%- if part.type == 'image' or 'image' in part or 'image_url' in part %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif part.type == 'video' or 'video' in part %}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' }}
            {%- elif 'text' in part %}
                {{- part.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- if messages[0].role != 'system' and DEFAULT_SYSTEM %}
    {{- '<|im_start|>system\\n' + DEFAULT_SYSTEM + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + render(message.content) + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,  # enough for a token's neighbours to show in its state
}
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {"depth": 3, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "initializer_range": 0.2}
ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [6, 5, 5]}


def tokenizer(*, eos: bool = False, emb: bool = False, padding_side: str = "left") -> Qwen2Tokenizer:
    """Qwen's: bytes, and the special tokens after them; with ``eos`` each text ends in <|endoftext|>.

    ``emb`` adds LamRA's <emb>, which is no special token.
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress_bar=False
    )
    # As in theirs, a blank is part of the letter after it, but never of a digit.
    trained.train_from_iterator(["system user assistant\n", " A B" * 20, *SENTENCES], trainer)
    bpe = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=bpe["vocab"] | {token: len(bpe["vocab"]) + i for i, token in enumerate(SPECIAL_TOKENS)},
        merges=[tuple(merge) for merge in bpe["merges"]],
        eos_token="<|im_end|>",
        extra_special_tokens=SPECIAL_TOKENS[1:],
        model_max_length=4096,
        padding_side=padding_side,
    )
    if emb:
        tokenizer.add_tokens(["<emb>"])
    if eos:
        end = ("<|endoftext|>", tokenizer.convert_tokens_to_ids("<|endoftext|>"))
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {end[0]}", special_tokens=[end]
        )
    return tokenizer


def qwen3_vl(
    folder: Path,
    *,
    sentence_transformers_files: bool = False,
    eos: bool = False,
    emb: bool = False,
    padding_side: str = "left",
    generation_prompt: bool = True,
    seed: int = 0,
    spare_rows: int = 0,
) -> str:
    """Qwen3-VL, three layers on top of a vision tower of three, two of which also feed the first layers.

    With ``emb`` it is what LamRA-Ret is made from. ``spare_rows`` are rows of the vocabulary that no token uses.
    """
    text = tokenizer(eos=eos, emb=emb, padding_side=padding_side)
    config = Qwen3VLConfig(
        text_config=TEXT
        | {
            "vocab_size": len(text) + spare_rows,
            "head_dim": WIDTH // 2,
            "rope_parameters": ROPE | {"mrope_interleaved": True},
            "pad_token_id": text.pad_token_id,
        },
        vision_config=VISION
        | {"out_hidden_size": WIDTH, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
        **_token_ids(text),
    )
    normal = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            patch_size=16, size={"shortest_edge": 256 * 256, "longest_edge": 4096 * 4096}, **normal
        ),
        tokenizer=text,
        video_processor=Qwen3VLVideoProcessor(cap_pixels_per_frame=False),
        chat_template=_chat_template(""),
    )
    return _save(
        folder,
        Qwen3VLForConditionalGeneration,
        config,
        processor,
        sentence_transformers_files,
        seed,
        generation_prompt,
    )


def qwen2_vl(
    folder: Path,
    *,
    sentence_transformers_files: bool = False,
    eos: bool = False,
    padding_side: str = "left",
    seed: int = 0,
    spare_rows: int = 0,
) -> str:
    """Qwen2-VL, as GME and DSE are built on it. ``spare_rows`` are rows of the vocabulary that no token uses."""
    text = tokenizer(eos=eos, padding_side=padding_side)
    config = _qwen2_vl_config(text, spare_rows)
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(),
        tokenizer=text,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=_chat_template("You are a helpful assistant."),
    )
    return _save(folder, Qwen2VLForConditionalGeneration, config, processor, sentence_transformers_files, seed)


def colqwen2(folder: Path, seed: int = 0) -> str:
    """ColQwen2: Qwen2-VL with 24 dimensions a token, and words of its own around a query and an image."""
    text = tokenizer()
    config = ColQwen2Config(vlm_config=_qwen2_vl_config(text), embedding_dim=24, initializer_range=0.2)
    size = {"shortest_edge": 4 * 28 * 28, "longest_edge": 64 * 28 * 28}
    processor = ColQwen2Processor(image_processor=Qwen2VLImageProcessor(size=size), tokenizer=text)
    return _save(folder, ColQwen2ForRetrieval, config, processor, False, seed)


def colpali(folder: Path, seed: int = 0) -> str:
    """ColPali: PaliGemma with 24 dimensions a token; every image is 4 x 4 patches."""
    images = SiglipImageProcessor(size={"height": 56, "width": 56})
    images.image_seq_length = 16
    processor = ColPaliProcessor(image_processor=images, tokenizer=byte_bpe(bos=True))
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = SiglipVisionConfig(image_size=56, patch_size=14, projection_dim=32, **layers)
    text = GemmaConfig(vocab_size=len(processor.tokenizer), num_key_value_heads=1, head_dim=16, **layers)
    image_token = processor.tokenizer.convert_tokens_to_ids("<image>")
    vlm = PaliGemmaConfig(
        vision_config=vision, text_config=text, projection_dim=32, hidden_size=32, image_token_index=image_token
    )
    config = ColPaliConfig(vlm_config=vlm, text_config=text, embedding_dim=24)
    return _save(folder, ColPaliForRetrieval, config, processor, False, seed)


def clip(folder: Path, *, sentence_transformers_files: bool = False) -> str:
    """CLIP: 4 x 4 patches of the central square, 24 dimensions."""
    text = byte_bpe(bos=True, eos=True)
    text.padding_side = "right"
    ids = {"bos_token_id": text.bos_token_id, "eos_token_id": text.eos_token_id, "pad_token_id": text.pad_token_id}
    config = CLIPConfig(
        text_config=TOWER | {"vocab_size": len(text), "max_position_embeddings": 64} | ids,
        vision_config=TOWER | {"image_size": 56, "patch_size": 14},
        projection_dim=24,
    )
    images = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    return _save_towers(folder, CLIPModel(config), CLIPProcessor(images, text), sentence_transformers_files)


def siglip(folder: Path, *, sentence_transformers_files: bool = False, eos: bool = True) -> str:
    """SigLIP: 4 x 4 patches of all of an image, 32 dimensions, texts of 64 tokens, padding included."""
    text = byte_bpe(eos=eos)
    text.padding_side = "right"
    text.model_input_names = text.init_kwargs["model_input_names"] = ["input_ids"]  # as theirs: padding is attended to
    config = SiglipConfig(
        text_config=TOWER | {"vocab_size": len(text), "max_position_embeddings": 64, "projection_size": 32},
        vision_config=TOWER | {"image_size": 56, "patch_size": 14},
    )
    images = SiglipImageProcessor(size={"height": 56, "width": 56})
    return _save_towers(folder, SiglipModel(config), SiglipProcessor(images, text), sentence_transformers_files)


def siglip2(folder: Path, *, sentence_transformers_files: bool = False) -> str:
    """SigLIP 2 NaFlex: at most 20 patches of an image in its own shape, 32 dimensions, padding on the left to 64."""
    text = sentencepiece("bpe")
    text.model_input_names = text.init_kwargs["model_input_names"] = ["input_ids"]  # as theirs: padding is attended to
    config = Siglip2Config(
        text_config=TOWER | {"vocab_size": len(text), "max_position_embeddings": 64, "projection_size": 32},
        vision_config=TOWER | {"num_patches": 16, "patch_size": 16},
    )
    processor = Siglip2Processor(Siglip2ImageProcessor(patch_size=16, max_num_patches=20), text)
    return _save_towers(folder, Siglip2Model(config), processor, sentence_transformers_files)


def qwen2_5_vl(
    folder: Path,
    *,
    sentence_transformers_files: bool = False,
    eos: bool = False,
    padding_side: str = "left",
    seed: int = 0,
) -> str:
    """Qwen2.5-VL: Qwen2-VL's processors, and a vision tower with windows."""
    text = tokenizer(eos=eos, padding_side=padding_side)
    config = Qwen2_5_VLConfig(
        text_config=TEXT | {"vocab_size": len(text), "rope_parameters": ROPE} | _text_ids(text),
        vision_config=VISION | {"out_hidden_size": WIDTH, "window_size": 56, "fullatt_block_indexes": [2]},
        **_token_ids(text),
    )
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(),
        tokenizer=text,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=_chat_template("You are a helpful assistant."),
    )
    return _save(folder, Qwen2_5_VLForConditionalGeneration, config, processor, sentence_transformers_files, seed)


def _save_towers(folder: Path, model: PreTrainedModel, processor: ProcessorMixin, wrapped: bool) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    bare, path = folder / "bare", folder / "model"
    model.save_pretrained(bare)
    processor.save_pretrained(bare)
    if not wrapped:
        return str(bare)
    SentenceTransformer(str(bare), device="cpu").save(str(path), create_model_card=False)
    return str(path)


def _qwen2_vl_config(text: Qwen2Tokenizer, spare_rows: int = 0) -> Qwen2VLConfig:
    return Qwen2VLConfig(
        text_config=TEXT | {"vocab_size": len(text) + spare_rows, "rope_parameters": ROPE} | _text_ids(text),
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": WIDTH,
            "num_heads": 2,
            "mlp_ratio": 2,
            "initializer_range": 0.2,
        },
        **_token_ids(text),
    )


def _chat_template(default_system: str) -> str:
    return f"{{%- set DEFAULT_SYSTEM = '{default_system}' %}}" + CHAT_TEMPLATE.strip("\n")


def _token_ids(tokenizer: Qwen2Tokenizer) -> dict[str, int]:
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    return {f"{key}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for key, name in names.items()}


def _text_ids(tokenizer: Qwen2Tokenizer) -> dict[str, int]:
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    return {"bos_token_id": pad, "eos_token_id": end, "pad_token_id": pad}


def _save(
    folder: Path,
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    processor: ProcessorMixin,
    sentence_transformers_files: bool,
    seed: int,
    generation_prompt: bool = True,
) -> str:
    bare, path = folder / "bare", folder / "model"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model_class(config).save_pretrained(bare)
    processor.save_pretrained(bare)
    if not sentence_transformers_files:
        return str(bare)
    transformer = Transformer(
        str(bare), processing_kwargs={"chat_template": {"add_generation_prompt": generation_prompt}}
    )
    modules = [transformer, Pooling(WIDTH, pooling_mode="lasttoken"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(path), create_model_card=False)
    return str(path)
