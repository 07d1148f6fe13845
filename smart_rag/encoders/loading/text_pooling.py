"""The pooling and the prompts of a text model whose folder has no files for sentence-transformers.

The name of a family decides first, because its authors trained it with one way of pooling. If the name says nothing,
the architecture decides. A decoder reads from left to right, so only its last token has seen the whole text. An
encoder is pooled by the mean, as in sentence-transformers. If neither tells it, the model is refused. A wrong pooling
gives plausible rankings that are worse, and nobody would notice.
"""

from __future__ import annotations

import os
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from smart_rag.encoders.compatibility import is_decoder, reads_both_ways
from smart_rag.encoders.profiles import GENERAL_RULE
from smart_rag.errors import ModelNotFound
from smart_rag.types import Task

BY_NAME = "the model's name"
BY_ARCHITECTURE = "the model's architecture"

# Names without their owner, in lower case, and the pooling that the files or the cards of these models state. The first
# pattern that fits decides.
_POOLING: tuple[tuple[str, str], ...] = (
    ("e5-mistral-*", "lasttoken"),
    ("gte-qwen*", "lasttoken"),
    ("qwen3-embedding-*", "lasttoken"),
    ("sfr-embedding-*", "lasttoken"),
    ("linq-embed-mistral*", "lasttoken"),
    ("jina-embeddings-v5-*", "lasttoken"),
    ("e5-*", "mean"),
    ("multilingual-e5-*", "mean"),
    ("bge-multilingual-gemma2*", "lasttoken"),
    ("bge-*", "cls"),
    ("snowflake-arctic-embed-*", "cls"),
    ("mxbai-embed-*", "cls"),
    ("gte-modernbert-*", "cls"),
    ("nomic-embed-text-*", "mean"),
    ("modernbert-embed-*", "mean"),
    ("gte-multilingual-*", "cls"),
    ("gte-*-v1.5", "cls"),
    ("granite-embedding-*", "cls"),
)
# Prompts that the files for sentence-transformers of these models name, where public code states them.
_PROMPTS: tuple[tuple[str, dict[Task, str]], ...] = (
    # config_sentence_transformers.json of Qwen/Qwen3-Embedding-0.6B, -4B and -8B
    (
        "qwen3-embedding-*",
        {"query": "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"},
    ),
)
# Models whose cards name prompts, which no file names, or which we do not know letter by letter.
# mteb/models/model_implementations of https://github.com/embeddings-benchmark/mteb has prompts for these models, too.
_TRAINED_WITH_PROMPTS = (
    *("e5-*", "multilingual-e5-*", "gte-qwen*", "sfr-embedding-*", "linq-embed-mistral*", "jina-embeddings-v5-*"),
    *("bge-multilingual-gemma2*", "bge-*-en*", "bge-*-zh*", "snowflake-arctic-embed-*", "mxbai-embed-*", "uae-large-*"),
    *("nomic-embed-text-*", "modernbert-embed-*", "jina-embeddings-v3*", "kalm-embedding-*", "stella_en_*"),
    "inf-retriever-*",
)
# Models with dense layers after the pooling. Only their files for sentence-transformers hold these layers.
_WITH_DENSE_LAYERS = ("embeddinggemma-*", "gtr-t5-*", "sentence-t5-*", "instructor-*", "labse", "distiluse-*")


def pooling_of_bare_folder(model: str, config: Any, base: str | None = None) -> tuple[str, str]:
    """Return the pooling of a text model without files for sentence-transformers, and what has decided it.

    Args:
        model: the model's name on the hub, or its folder.
        config: the model's configuration in transformers.
        base: the name or the folder of the base model, if the model is a LoRA.

    Returns:
        The mode of pooling in sentence-transformers: ``"lasttoken"``, ``"mean"`` or ``"cls"``. The second value is the
        source of the decision.

    Raises:
        ModelNotFound: a part of the model is in the files that are missing, or nothing tells how it is pooled.
    """
    names = _all_names(model, base)
    if any(fnmatch(name, pattern) for name in names for pattern in _WITH_DENSE_LAYERS):
        raise _refusal(model, "its dense layers, which follow the pooling, are in these files")
    named = next((mode for pattern, mode in _POOLING for name in names if fnmatch(name, pattern)), None)
    if named is not None and not (named == "cls" and is_decoder(config)):  # its first token sees nothing of the text
        return named, BY_NAME
    if not is_decoder(config):
        return "mean", GENERAL_RULE
    if reads_both_ways(config):
        reason = f"it is a {config.model_type} that reads in both directions; some of them pool the mean, others the "
        raise _refusal(model, reason + "last token, and only these files say which")
    return "lasttoken", BY_ARCHITECTURE


def prompts_of_bare_folder(model: str, base: str | None = None) -> dict[Task, str]:
    """Return the prompts of a text model without files for sentence-transformers, by its name. It may have none."""
    names = _all_names(model, base)
    return next((prompts for pattern, prompts in _PROMPTS for name in names if fnmatch(name, pattern)), {})


def lacks_prompts(model: str, pooling_source: str, base: str | None = None) -> bool:
    """Return whether a text model without files for sentence-transformers was trained with prompts that are not known.

    Its name says it, or its architecture: nearly all decoders are trained with an instruction before a query.
    """
    names = _all_names(model, base)
    is_named = any(fnmatch(name, pattern) for pattern in _TRAINED_WITH_PROMPTS for name in names)
    return not prompts_of_bare_folder(model, base) and (is_named or pooling_source == BY_ARCHITECTURE)


def _refusal(model: str, reason: str) -> ModelNotFound:
    return ModelNotFound(
        f"the model {model!r} has no files for sentence-transformers (expected modules.json and 1_Pooling/config.json, "
        f"found neither), and smart_rag cannot do without: {reason}. Download the whole repository of the model. If it "
        "has no such files, write them: SentenceTransformer(modules=[Transformer(folder), Pooling(width, mode)])"
        ".save(another_folder)"
    )


def _all_names(model: str, base: str | None) -> list[str]:
    return [*_names(model), *(_names(base) if base is not None else [])]


def _names(model: str) -> list[str]:
    """Return the names that ``model`` may have on the hub, in lower case and without the owner."""
    if not Path(model).exists():
        return [model.rpartition("/")[2].lower()]
    names = []
    for folder in (Path(os.path.abspath(model)), Path(model).resolve()):  # a link has a name of its own
        # In the hub's cache, the name is in an upper folder (models--owner--name/snapshots/revision).
        cached = next((part for part in folder.parts if part.startswith("models--")), folder.name)
        names.append(cached.rpartition("--")[2].lower())
    return names
