"""Families of text embedding models: tiny random models in folders with the files that the families are published with.

The files have the names and keys of older releases of sentence-transformers, which wrote most of the published folders.
The poolings and prompts are those of the model cards. mteb 2.26 has some of the prompts in
``mteb/models/model_implementations``: of E5 (e5_models.py), Arctic (arctic_models.py), nomic-embed-text and
modernbert-embed (nomic_models.py) and jina-embeddings-v5 (jina_models.py); of EmbeddingGemma, for a model trained from
it (saga_models.py); of Qwen3-Embedding, the words around an instruction (qwen3_models.py). It does not have the prompt
of Arctic v2, or the instruction in the files of Qwen3-Embedding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from helpers import tiny_models
from safetensors.torch import save_file
from tokenizers import processors
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    EuroBertConfig,
    EuroBertModel,
    Gemma2Config,
    Gemma2Model,
    Gemma3TextConfig,
    Gemma3TextModel,
    JinaEmbeddingsV3Config,
    JinaEmbeddingsV3Model,
    MistralConfig,
    MistralModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    NomicBertConfig,
    NomicBertModel,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

WIDTH = 32
MAX_LENGTH = 24
INSTRUCTION = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
_SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 2 * WIDTH,
    "initializer_range": 0.2,  # enough for a token's neighbours to show in its state
}
_MODES = {"cls": "cls_token", "mean": "mean_tokens", "lasttoken": "lasttoken"}


@dataclass(frozen=True, kw_only=True)
class TextFamily:
    """A family: its network, its tokenizer, and what its files for sentence-transformers say.

    ``prompts`` are in the model's files. ``given`` are the prompts that a user must name, because the files have none.
    ``dense`` are the widths of the dense layers after the pooling.
    """

    network: Callable[[int], PreTrainedModel]
    tokenizer: Callable[[], PreTrainedTokenizerFast] = tiny_models.sentencepiece
    pooling: str = "mean"
    prompts: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)
    dense: tuple[int, ...] = ()
    normalize: bool = True

    def prompt(self, task: str) -> str:
        return {**self.prompts, **self.given}.get(task, "")

    def save(self, folder: Path) -> str:
        """Write the folder of a model, and return its path."""
        self.save_bare(folder)
        modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
        modules += [(f"{i}_Dense", "Dense") for i in range(2, 2 + len(self.dense))]
        modules += [(f"{len(modules)}_Normalize", "Normalize")] if self.normalize else []
        _write(
            folder / "modules.json",
            [
                {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for i, (path, kind) in enumerate(modules)
            ],
        )
        _write(folder / "sentence_bert_config.json", {"max_seq_length": MAX_LENGTH, "do_lower_case": False})
        pooling = {f"pooling_mode_{name}": mode == self.pooling for mode, name in _MODES.items()}
        _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": WIDTH, **pooling})
        width = WIDTH
        for (path, _), out in zip(modules[2:], self.dense, strict=False):
            settings: dict[str, object] = {"in_features": width, "out_features": out, "bias": False}
            settings["activation_function"] = "torch.nn.modules.linear.Identity"
            _write(folder / path / "config.json", settings)
            with torch.random.fork_rng():
                torch.manual_seed(out)
                save_file({"linear.weight": torch.randn(out, width) / width**0.5}, folder / path / "model.safetensors")
            width = out
        if self.prompts:
            _write(folder / "config_sentence_transformers.json", {"prompts": self.prompts, "default_prompt_name": None})
        return str(folder)

    def save_bare(self, folder: Path) -> str:
        """Write the folder without the files for sentence-transformers, and return its path."""
        tokenizer = self.tokenizer()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = self.network(len(tokenizer))
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)


def _write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def _bpe_with_cls() -> PreTrainedTokenizerFast:
    """ModernBERT's kind of tokenizer: pieces of bytes, between [CLS] and [SEP]."""
    tokenizer = tiny_models.byte_bpe(bos=True, eos=True)
    tokenizer.padding_side = "right"
    return tokenizer


def _bpe_with_end() -> PreTrainedTokenizerFast:
    """The kind of Qwen3-Embedding: pieces of bytes, an end after the text, padding on the left."""
    return tiny_models.byte_bpe(eos=True)


def _gemma() -> PreTrainedTokenizerFast:
    """Gemma's kind of tokenizer: no blank is put before a text."""
    return tiny_models.sentencepiece("bpe", "never")


def _t5() -> PreTrainedTokenizerFast:
    """T5's kind of tokenizer: nothing before a text, and </s> after it."""
    tokenizer = tiny_models.sentencepiece()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.eos_token_id)]
    )
    return tokenizer


def _bert(size: int) -> PreTrainedModel:
    return BertModel(BertConfig(vocab_size=size, max_position_embeddings=64, **_SIZES))


def _mpnet(size: int) -> PreTrainedModel:
    return MPNetModel(MPNetConfig(vocab_size=size, max_position_embeddings=64, **_SIZES))


def _xlm_r(size: int) -> PreTrainedModel:
    # The padding's id is 0 in the tests' tokenizer. XLM-R counts positions from the one after it.
    return XLMRobertaModel(XLMRobertaConfig(vocab_size=size, max_position_embeddings=64, pad_token_id=0, **_SIZES))


def _modernbert(size: int) -> PreTrainedModel:
    ids = {"pad_token_id": 0, "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
    return ModernBertModel(
        ModernBertConfig(vocab_size=size, max_position_embeddings=64, local_attention=8, **ids, **_SIZES)
    )


def _qwen3(size: int) -> PreTrainedModel:
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return Qwen3Model(
        Qwen3Config(vocab_size=size, num_key_value_heads=1, head_dim=16, max_position_embeddings=64, **ids, **_SIZES)
    )


def _gemma3(size: int) -> PreTrainedModel:
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return Gemma3TextModel(
        Gemma3TextConfig(
            vocab_size=size,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=64,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"],
            use_bidirectional_attention=True,
            **ids,
            **_SIZES,
        )
    )


def _decoder(config: type[PretrainedConfig], size: int, **further: Any) -> Any:
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return config(vocab_size=size, num_key_value_heads=1, max_position_embeddings=64, **ids, **further, **_SIZES)


def _mistral(size: int) -> PreTrainedModel:
    return MistralModel(_decoder(MistralConfig, size, head_dim=16))


def _qwen2(size: int) -> PreTrainedModel:
    return Qwen2Model(_decoder(Qwen2Config, size, is_causal=False))


def _gemma2(size: int) -> PreTrainedModel:
    return Gemma2Model(_decoder(Gemma2Config, size, head_dim=16))


def _roberta(size: int) -> PreTrainedModel:
    return RobertaModel(RobertaConfig(vocab_size=size, max_position_embeddings=64, pad_token_id=0, **_SIZES))


def _distilbert(size: int) -> PreTrainedModel:
    return DistilBertModel(
        DistilBertConfig(vocab_size=size, dim=WIDTH, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64)
    )


def _albert(size: int) -> PreTrainedModel:
    return AlbertModel(AlbertConfig(vocab_size=size, embedding_size=16, max_position_embeddings=64, **_SIZES))


def _nomic(size: int) -> PreTrainedModel:
    return NomicBertModel(NomicBertConfig(vocab_size=size, max_position_embeddings=64, **_SIZES))


def _jina_v3(size: int) -> PreTrainedModel:
    return JinaEmbeddingsV3Model(
        JinaEmbeddingsV3Config(vocab_size=size, max_position_embeddings=64, pad_token_id=0, **_SIZES)
    )


def _eurobert(size: int) -> PreTrainedModel:
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return EuroBertModel(
        EuroBertConfig(vocab_size=size, num_key_value_heads=1, max_position_embeddings=64, **ids, **_SIZES)
    )


def _t5_encoder(size: int) -> PreTrainedModel:
    return T5EncoderModel(
        T5Config(vocab_size=size, d_model=WIDTH, d_kv=WIDTH // 2, d_ff=2 * WIDTH, num_layers=2, num_heads=2)
    )


TEXT_FAMILIES = {
    "all-MiniLM (BERT)": TextFamily(network=_bert, tokenizer=tiny_models.wordpiece),
    "all-mpnet (MPNet)": TextFamily(network=_mpnet, tokenizer=tiny_models.wordpiece),
    "BGE (BERT)": TextFamily(network=_bert, tokenizer=tiny_models.wordpiece, pooling="cls"),
    "multilingual E5 (XLM-R)": TextFamily(network=_xlm_r, given={"query": "query: ", "document": "passage: "}),
    "BGE-M3 (XLM-R)": TextFamily(network=_xlm_r, pooling="cls"),
    "Arctic (BERT)": TextFamily(
        network=_bert,
        tokenizer=tiny_models.wordpiece,
        pooling="cls",
        prompts={"query": "Represent this sentence for searching relevant passages: "},
    ),
    "Arctic v2 (XLM-R)": TextFamily(network=_xlm_r, pooling="cls", prompts={"query": "query: "}),
    "modernbert-embed (ModernBERT)": TextFamily(
        network=_modernbert,
        tokenizer=_bpe_with_cls,
        prompts={"query": "search_query: ", "document": "search_document: "},
    ),
    "gte-modernbert (ModernBERT)": TextFamily(
        network=_modernbert, tokenizer=_bpe_with_cls, pooling="cls", normalize=False
    ),
    "Qwen3-Embedding (Qwen3)": TextFamily(
        network=_qwen3,
        tokenizer=_bpe_with_end,
        pooling="lasttoken",
        prompts={"query": INSTRUCTION, "document": ""},
    ),
    "EmbeddingGemma (Gemma3)": TextFamily(
        network=_gemma3,
        tokenizer=_gemma,
        prompts={"query": "task: search result | query: ", "document": "title: none | text: "},
        dense=(3 * WIDTH, WIDTH),
    ),
    "nomic-embed-text (NomicBERT)": TextFamily(
        network=_nomic,
        tokenizer=tiny_models.wordpiece,
        prompts={"query": "search_query: ", "document": "search_document: "},
        normalize=False,
    ),
    "jina-embeddings-v3-hf (Jina v3)": TextFamily(network=_jina_v3),
    "jina-embeddings-v5-text-small (Qwen3)": TextFamily(
        network=_qwen3,
        tokenizer=_bpe_with_end,
        pooling="lasttoken",
        prompts={"query": "Query: ", "document": "Document: "},
    ),
    "jina-embeddings-v5-text-nano (EuroBERT)": TextFamily(
        network=_eurobert,
        tokenizer=_bpe_with_end,
        pooling="lasttoken",
        prompts={"query": "Query: ", "document": "Document: "},
    ),
    "sentence-t5 (T5)": TextFamily(network=_t5_encoder, tokenizer=_t5, dense=(WIDTH // 2,)),
    "e5-mistral (Mistral)": TextFamily(
        network=_mistral,
        tokenizer=_bpe_with_end,
        pooling="lasttoken",
        prompts={"web_search_query": INSTRUCTION, "sts_query": "Instruct: Retrieve similar text.\nQuery: "},
    ),
    "gte-Qwen2 (Qwen2, in both directions)": TextFamily(
        network=_qwen2, tokenizer=_bpe_with_end, pooling="lasttoken", prompts={"query": INSTRUCTION}
    ),
    "bge-multilingual-gemma2 (Gemma2)": TextFamily(network=_gemma2, tokenizer=_bpe_with_end, pooling="lasttoken"),
    "granite-embedding (RoBERTa)": TextFamily(network=_roberta, tokenizer=_bpe_with_cls, pooling="cls"),
    "msmarco-distilbert (DistilBERT)": TextFamily(
        network=_distilbert, tokenizer=tiny_models.wordpiece, normalize=False
    ),
    "paraphrase-albert (ALBERT)": TextFamily(network=_albert, normalize=False),
}
