"""Builders of tiny random models: each saves a sentence-transformers folder and returns its path."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling, MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    ByT5Tokenizer,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Model,
    T5Config,
    T5EncoderModel,
)

WIDTH = 32
SENTENCES = [
    "The cat sat on the mat and looked at the rain.",
    "Dogs bark at night, when nobody is there to hear them.",
    "Interest rates rose by a quarter of a point in March.",
    "A query is short; a document is long, and says many things.",
    "The embedding of a sentence is the mean of its token embeddings.",
    "Photosynthesis turns light, water and carbon dioxide into sugar.",
    "Which river flows through Vienna, Budapest and Belgrade?",
    "Represent this passage for retrieval: the quick brown fox jumps over the lazy dog.",
]


def wordpiece(specials: bool = True) -> PreTrainedTokenizerFast:
    """BERT's kind of tokenizer; without ``specials`` it puts no [CLS] and [SEP] around a text."""
    # No trainer: that of word pieces gives another vocabulary each time.
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = [chr(code) for code in range(33, 127)]
    words = sorted({word for sentence in SENTENCES for word in re.findall(r"\w+", sentence.lower())})
    endings = [f"##{ending}" for ending in [*characters, "ing", "ed", "er", "tion", "word"]]
    vocabulary = list(dict.fromkeys([*names, *characters, *endings, *words]))
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    if specials:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[(name, tokenizer.token_to_id(name)) for name in names[2:4]]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def byte_bpe(
    bos: bool = False, eos: bool = False, unk: str | None = None, chat_template: str | None = None
) -> PreTrainedTokenizerFast:
    """A decoder's kind of tokenizer: bytes, padding on the left; ``unk`` is a name only, no byte is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress_bar=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if bos or eos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=("<s> " if bos else "") + "$A" + (" </s>" if eos else ""),
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in names[1:]],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        padding_side="left",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token=unk,
        chat_template=chat_template,
    )


def sentencepiece(kind: str = "unigram", scheme: str = "always") -> PreTrainedTokenizerFast:
    """A tokenizer of words with their blanks, as of multilingual-e5 (``"unigram"``) or Gemma (``"bpe"``).

    ``scheme`` says where a blank is put before a text: ``"always"``, ``"first"`` or ``"never"``.
    """
    names = ["<pad>", "<s>", "</s>", "<unk>"]
    words = sorted({word for sentence in SENTENCES for word in re.findall(r"\w+", sentence)})
    letters = sorted({*string.printable[:95], *"".join(words)} - {" "})
    whole = [f"▁{word}" for word in words] + words
    if kind == "unigram":
        pieces = [(name, 0.0) for name in names] + [("▁", -3.0)]
        pieces += [(piece, -5.0) for piece in dict.fromkeys(whole)] + [(letter, -9.0) for letter in letters]
        known = {name for name, _ in pieces[:5]}
        pieces = pieces[:5] + [piece for piece in dict(reversed(pieces[5:])).items() if piece[0] not in known]
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    else:  # the blank is put there by the normalizer, as in files that were converted from sentencepiece
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        prepend = [normalizers.Prepend("▁")] if scheme != "never" else []
        tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=names, initial_alphabet=[*letters, "▁"], show_progress_bar=False
        )
        tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, tokenizer.token_to_id(name)) for name in names[1:3]]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
    )


def bert(
    folder: Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    pooling: str | tuple[str, ...] = "mean",
    include_prompt: bool = True,
    specials: bool = True,
    dense: int | None = None,
    normalize: bool = True,
    prompts: dict[str, str] | None = None,
    default_prompt_name: str | None = None,
    truncate_dim: int | None = None,
    seed: int = 0,
) -> str:
    """Two layers of BERT, pooled as asked, then ``dense`` outputs with a tanh, then unit length."""
    tokenizer = tokenizer or wordpiece(specials)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = _transformer(BertModel(_bert_config(tokenizer)), tokenizer, folder)
        modules = [transformer, Pooling(WIDTH, pooling_mode=pooling, include_prompt=include_prompt)]
        if dense is not None:
            modules.append(Dense(modules[-1].get_embedding_dimension(), dense))
        if normalize:
            modules.append(Normalize())
    return _save(modules, folder, prompts, default_prompt_name, truncate_dim)


def cross_encoder(folder: Path, *, labels: int = 1, seed: int = 0) -> str:
    """Save a tiny BERT that gives ``labels`` scores to a pair of texts."""
    tokenizer = wordpiece()
    config = _bert_config(tokenizer)
    config.num_labels = labels
    torch.manual_seed(seed)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def colbert(folder: Path, *, pool_factor: float = 1, document_length: int | None = 48, seed: int = 0) -> str:
    """ColBERT: BERT, 16 dimensions a token, queries filled up with [MASK] to 24, punctuation of documents left out."""
    tokenizer = wordpiece()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = _transformer(
            BertModel(_bert_config(tokenizer)),
            tokenizer,
            folder,
            query_expansion={"strategy": "fixed", "attend": False, "length": 24},
            document_length=document_length,
        )
        modules = [
            transformer,
            Dense(WIDTH, 16, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings"),
            MultiVectorMask(skiplist_words=list(string.punctuation)),
            Normalize(module_input_name="token_embeddings"),
        ]
        if pool_factor > 1:
            modules.append(HierarchicalTokenPooling(pool_factor))
    path = folder / "model"
    model = MultiVectorEncoder(modules=modules, prompts={"query": "query: ", "document": "document: "}, device="cpu")
    model.save(str(path), create_model_card=False)
    return str(path)


def decoder(
    folder: Path,
    kind: str = "qwen2",
    *,
    pooling: str = "lasttoken",
    bos: bool = False,
    eos: bool = False,
    unk: str | None = None,
    chat_template: str | None = None,
    prompts: dict[str, str] | None = None,
    seed: int = 0,
) -> str:
    """Two layers of a decoder (``kind`` is qwen2 or llama), by default pooled from the last token."""
    tokenizer = byte_bpe(bos, eos, unk, chat_template)
    config_class, model_class = {"qwen2": (Qwen2Config, Qwen2Model), "llama": (LlamaConfig, LlamaModel)}[kind]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=64,
        initializer_range=0.2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = _transformer(model_class(config), tokenizer, folder)
    return _save([transformer, Pooling(WIDTH, pooling_mode=pooling), Normalize()], folder, prompts)


def byt5(folder: Path) -> str:
    """Two layers of T5's encoder over bytes: a tokenizer in Python, and texts of any length."""
    tokenizer = ByT5Tokenizer(extra_ids=0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=WIDTH // 2,
        d_ff=2 * WIDTH,
        num_layers=2,
        num_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = _transformer(T5EncoderModel(config), tokenizer, folder)
    return _save([transformer, Pooling(WIDTH, pooling_mode="mean"), Normalize()], folder)


def static(folder: Path) -> str:
    """One vector for each token of the vocabulary, and no transformer."""
    return _save([StaticEmbedding(wordpiece(), embedding_dim=WIDTH)], folder)


def _bert_config(tokenizer: PreTrainedTokenizerBase) -> BertConfig:
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=64,
        initializer_range=0.2,  # enough for a token's neighbours to show in its state
        pad_token_id=tokenizer.pad_token_id,
    )


def _transformer(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path, **options: Any
) -> Transformer:
    bare = folder / "bare"
    model.save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    return Transformer(str(bare), **options)


def _save(
    modules: list[torch.nn.Module],
    folder: Path,
    prompts: dict[str, str] | None = None,
    default_prompt_name: str | None = None,
    truncate_dim: int | None = None,
) -> str:
    path = folder / "model"
    model = SentenceTransformer(
        modules=modules,
        prompts=prompts,
        default_prompt_name=default_prompt_name,
        truncate_dim=truncate_dim,
        device="cpu",
    )
    model.save(str(path), create_model_card=False)
    return str(path)
