"""Turn the arguments of ``HuggingFaceEmbedding`` into arguments of `smart_rag.SmartEncoder`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from smart_rag import CachedEncoder, Encoder, SmartEncoder
from smart_rag.config import MODEL_OPTIONS, Backend, check_choice, check_model_options, nearest

# Names of models before whose queries (and texts) ``HuggingFaceEmbedding`` puts instructions, and the instructions.
_SIZES = ("small", "base", "large")
_BGE = {f"BAAI/bge-{size}-en{version}" for size in _SIZES for version in ("", "-v1.5")}
_BGE_CHINESE = {name.replace("-en", "-zh") for name in _BGE}
_INSTRUCTOR = {f"{owner}/instructor-{size}" for owner in ("hkunlp", "hku-nlp") for size in ("base", "large", "xl")}
_BEFORE_QUERIES = {
    **dict.fromkeys(_BGE, "Represent this question for searching relevant passages: "),
    **dict.fromkeys(_BGE_CHINESE, "为这个句子生成表示以用于检索相关文章："),  # noqa: RUF001
    **dict.fromkeys(_INSTRUCTOR, "Represent the question for retrieving supporting documents: "),
}
_BEFORE_TEXTS = dict.fromkeys(_INSTRUCTOR, "Represent the document for retrieval: ")

# Arguments of `SmartEncoder` for which `SmartEmbedding` has another name, or which it sets itself.
_SET_HERE = {
    "model": "model_name",
    "query_prompt": "query_instruction",
    "document_prompt": "text_instruction",
    "prompt_names": "query_instruction",
    "prompts": "query_instruction",
    "default_prompt_name": "query_instruction",
    "attention": "attn_implementation",
}


def encoder_arguments(
    model_name: str,
    options: Mapping[str, Any],
    *,
    query_instruction: str | None,
    text_instruction: str | None,
    cache_folder: str | None,
) -> dict[str, Any]:
    """Return arguments of `SmartEncoder`. With them, the encoder gives the embeddings of ``HuggingFaceEmbedding``.

    Args:
        model_name: the name of the model. The default instructions depend on it.
        options: arguments of `SmartEncoder` or of ``SentenceTransformer``.
        query_instruction, text_instruction: texts before each query and each text. By default, the instructions of
            this model.
        cache_folder: the folder where models are stored.

    Raises:
        InvalidInput: smart_rag has no such backend.
    """
    arguments: dict[str, Any] = {"dtype": "auto"}  # sentence-transformers loads weights in this way, even on a CPU
    further: dict[str, Any] = dict(options.get("model_options") or {})
    if cache_folder is not None:
        further["cache_folder"] = cache_folder
    for name, value in options.items():
        if name in MODEL_OPTIONS:
            further[name] = value
        elif name != "model_options":
            arguments[name] = value
    check_model_options(further)
    check_choice("backend", options.get("backend", "auto"), Backend)
    prompts = {
        "query": query_instruction or _BEFORE_QUERIES.get(model_name, ""),
        "text": text_instruction or _BEFORE_TEXTS.get(model_name, ""),
    }
    return {
        **arguments,
        "prompt_names": {"query": "query", "document": "text"},
        "model_options": {**further, "prompts": prompts},
    }


def check_names(options: Iterable[str], own: Sequence[str]) -> None:
    """Raise TypeError unless each of ``options`` is an argument of `SmartEncoder` or of ``SentenceTransformer``.

    ``own`` has the names of `SmartEmbedding`'s arguments. For a misspelt name, the error suggests one of these names.
    """
    known = set(inspect.signature(SmartEncoder).parameters)
    for name in options:
        if name in _SET_HERE:
            raise TypeError(f"SmartEmbedding has no argument {name!r}; use {_SET_HERE[name]}=")
        if name not in known and name not in MODEL_OPTIONS:
            raise TypeError(f"SmartEmbedding has no argument {name!r}; {nearest(name, {*known, *MODEL_OPTIONS, *own})}")


def arguments_of(encoder: Encoder) -> dict[str, Any] | None:
    """Return the arguments, except the model and the device, with which `SmartEncoder` makes ``encoder`` again.

    The result is None if the encoder is of another class.
    """
    given = encoder.encoder if isinstance(encoder, CachedEncoder) else encoder
    if isinstance(given, SmartEncoder):
        return {name: value for name, value in given.arguments.items() if name != "model"}
    described = given.describe()
    if "weights" not in described:
        return None
    # The encoder of an index, which may not be loaded yet; it has the default type of weights.
    names = inspect.signature(SmartEncoder).parameters.keys() & described.keys() - {"model"}
    return {"dtype": None, **{name: described[name] for name in sorted(names)}}


def every_gpu() -> list[str] | None:
    """Return the names of all GPUs. If there is at most one, return None, so that smart_rag chooses the device."""
    import torch

    count = torch.cuda.device_count()
    return [f"cuda:{i}" for i in range(count)] if count > 1 else None
