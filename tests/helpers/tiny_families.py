"""Tiny random text models of families by their class, as plain folders of transformers, without pooling files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from helpers.tiny_models import byte_bpe, sentencepiece, wordpiece
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertModel,
    MPNetConfig,
    MPNetForMaskedLM,
    MPNetModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaModel,
)

_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 80,
    "initializer_range": 0.2,
}
_WINDOWS = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
# Per family: configuration, tokenizer, the model alone, the model with the head that it is trained with.
_FAMILIES: dict[str, tuple[Any, Any, type[PreTrainedModel], type[PreTrainedModel], dict[str, Any]]] = {
    "bert": (BertConfig, wordpiece, BertModel, BertForMaskedLM, {}),
    "mpnet": (MPNetConfig, wordpiece, MPNetModel, MPNetForMaskedLM, {}),
    "xlm-r": (XLMRobertaConfig, sentencepiece, XLMRobertaModel, XLMRobertaForMaskedLM, {}),
    "modernbert": (ModernBertConfig, wordpiece, ModernBertModel, ModernBertForMaskedLM, _WINDOWS),
    "qwen3": (
        Qwen3Config,
        byte_bpe,
        Qwen3Model,
        Qwen3ForCausalLM,
        {"num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": False},
    ),
}
NAMES = tuple(_FAMILIES)


def family(folder: Path, name: str, *, head: bool = False, **options: Any) -> str:
    """Save a model of the family ``name``: with ``head``, the one that predicts words. Return the folder."""
    config_class, make_tokenizer, alone, with_head, of_family = _FAMILIES[name]
    tokenizer: PreTrainedTokenizerBase = make_tokenizer()
    config = config_class(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **{**_SIZES, **of_family})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        (with_head if head else alone)(config, **options).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
