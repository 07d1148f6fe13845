"""Tiny random ModernVBERT and ColModernVBERT: encoders, not decoders, that read images among words."""

from __future__ import annotations

from pathlib import Path

import torch
from helpers.tiny_models import wordpiece
from transformers import (
    ColModernVBertConfig,
    ColModernVBertForRetrieval,
    ColModernVBertProcessor,
    Idefics3ImageProcessor,
    Idefics3Processor,
    ModernBertConfig,
    ModernVBertConfig,
    ModernVBertForMaskedLM,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)

# 4 x 4 patches of a square of 64 pixels, four of which become one token.
_SIDE, _PATCH, _SHUFFLE = 64, 16, 2
TOKENS_PER_SQUARE = (_SIDE // _PATCH // _SHUFFLE) ** 2
_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
CHAT = (
    "{% for message in messages %}User:{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<end_of_utterance>{% endfor %}"
)


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = wordpiece()
    squares = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer.add_special_tokens(
        {
            "additional_special_tokens": [
                *("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", "<|begin_of_text|>"),
                *squares,
            ]
        }
    )
    tokenizer.model_max_length = 512
    return tokenizer


def _config(tokenizer: PreTrainedTokenizerFast) -> ModernVBertConfig:
    text = ModernBertConfig(
        **_SIZES,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        initializer_range=0.2,
        initializer_cutoff_factor=2.0,
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=2,
        sep_token_id=3,
        bos_token_id=2,
        eos_token_id=3,
    )
    return ModernVBertConfig(
        text_config=text,
        vision_config=SiglipVisionConfig(**_SIZES, image_size=_SIDE, patch_size=_PATCH),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pixel_shuffle_factor=_SHUFFLE,
        initializer_range=0.2,
    )


def _images(squares: int = 1) -> Idefics3ImageProcessor:
    return Idefics3ImageProcessor(
        size={"longest_edge": squares * _SIDE},
        max_image_size={"longest_edge": _SIDE},
        do_image_splitting=squares > 1,
    )


def modernvbert(folder: Path) -> str:
    """ModernVBERT with its head for words, as it is published."""
    tokenizer = _tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ModernVBertForMaskedLM(_config(tokenizer)).save_pretrained(folder)
    Idefics3Processor(_images(), tokenizer, image_seq_len=TOKENS_PER_SQUARE, chat_template=CHAT).save_pretrained(folder)
    return str(folder)


def colmodernvbert(folder: Path, *, squares: int = 1) -> str:
    """ColModernVBERT in the format of transformers, with 24 dimensions a token.

    An image is cut into ``squares`` along its longer side, as in the published model, which has up to four.
    """
    tokenizer = _tokenizer()
    config = ColModernVBertConfig(vlm_config=_config(tokenizer), embedding_dim=24, initializer_range=0.2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ColModernVBertForRetrieval(config).save_pretrained(folder)
    ColModernVBertProcessor(_images(squares), tokenizer, image_seq_len=TOKENS_PER_SQUARE).save_pretrained(folder)
    return str(folder)
