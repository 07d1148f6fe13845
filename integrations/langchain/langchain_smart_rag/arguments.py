"""Turn the arguments of ``HuggingFaceEmbeddings`` into arguments of `smart_rag.SmartEncoder`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from smart_rag import CachedEncoder, Encoder, SmartEncoder
from smart_rag.config import Backend, check_choice, check_model_options, nearest
from smart_rag.errors import InvalidInput

# Arguments of `SmartEncoder` that LangChain puts into ``model_kwargs``.
_OWN = ("backend", "device", "revision", "trust_remote_code")
# Arguments of ``SentenceTransformer.encode`` that belong to one call, and not to the model.
_OF_A_CALL = ("normalize_embeddings", "batch_size", "show_progress_bar")
# Arguments of ``SentenceTransformer.encode`` that change nothing if the embeddings are lists.
_WITHOUT_EFFECT = ("convert_to_numpy", "convert_to_tensor")
_INSTEAD = {
    "precision": "an embedding is a list of float; a vector store can quantize it",
    "output_value": "the token embeddings are in SmartEmbeddings.encoder.encode_document(texts).tokens",
    "pool": "pass several devices, such as device=['cuda:0', 'cuda:1']",
    "chunk_size": "pass several devices, such as device=['cuda:0', 'cuda:1']",
}
_SAME = {
    "precision": (None, "float32"),
    "output_value": ("sentence_embedding",),
    "pool": (None,),
    "chunk_size": (None,),
}


def encoder_arguments(
    options: Mapping[str, Any],
    model_kwargs: Mapping[str, Any],
    encode_kwargs: Mapping[str, Any],
    query_encode_kwargs: Mapping[str, Any],
    cache_folder: str | None,
    multi_process: bool,
) -> dict[str, Any]:
    """Return arguments of `SmartEncoder`. With them, the encoder gives the embeddings of ``HuggingFaceEmbeddings``.

    Args:
        options: arguments of `SmartEncoder`. They take precedence over the other arguments.
        model_kwargs: arguments of ``SentenceTransformer``.
        encode_kwargs, query_encode_kwargs: arguments of ``SentenceTransformer.encode`` for documents and for queries.
        cache_folder: the folder where models are stored.
        multi_process: whether to use every GPU.

    Raises:
        InvalidInput: an argument does not exist, or smart_rag has a different argument for it.
    """
    of_queries = query_encode_kwargs or encode_kwargs
    for name, kwargs in (("encode_kwargs", encode_kwargs), ("query_encode_kwargs", query_encode_kwargs)):
        _check_encode(name, kwargs)
    if of_queries.get("truncate_dim") != encode_kwargs.get("truncate_dim"):
        raise InvalidInput("truncate_dim must be the same in encode_kwargs and in query_encode_kwargs")
    of_model = {name: value for name, value in model_kwargs.items() if name not in _OWN}
    if cache_folder is not None:
        of_model["cache_folder"] = cache_folder
    if encode_kwargs.get("truncate_dim") is not None:
        of_model["truncate_dim"] = encode_kwargs["truncate_dim"]
    check_model_options(of_model, "model_kwargs")
    check_choice("backend", {**model_kwargs, **options}.get("backend", "auto"), Backend)
    arguments: dict[str, Any] = {name: model_kwargs[name] for name in _OWN if name in model_kwargs}
    if encode_kwargs.get("device") is not None:
        arguments["device"] = encode_kwargs["device"]
    elif multi_process and "device" not in arguments:
        arguments["device"] = _every_gpu()
    if "batch_size" in encode_kwargs:
        arguments["batch_size"] = encode_kwargs["batch_size"]
    # sentence-transformers loads the weights in the type of the model's files, even on a CPU.
    arguments |= {"dtype": "auto", "model_options": of_model}
    arguments |= {
        "query_prompt": of_queries.get("prompt"),
        "document_prompt": encode_kwargs.get("prompt"),
        "prompt_names": {"query": of_queries.get("prompt_name"), "document": encode_kwargs.get("prompt_name")},
    }
    return {**arguments, **options}


def of_calls(*encode_kwargs: Mapping[str, Any] | None) -> bool:
    """Return whether all these arguments of ``SentenceTransformer.encode`` belong to a call, and not to the model."""
    names = {name for kwargs in encode_kwargs for name in kwargs or {}}
    return names <= {"normalize_embeddings", "show_progress_bar", *_WITHOUT_EFFECT}


def _check_encode(argument: str, kwargs: Mapping[str, Any]) -> None:
    for name, value in kwargs.items():
        if name in _SAME:
            if value not in _SAME[name]:
                raise InvalidInput(
                    f"{argument} has {name}={value!r}, which SmartEmbeddings does not take; {_INSTEAD[name]}"
                )
        elif name not in (*_OF_A_CALL, *_WITHOUT_EFFECT, "prompt", "prompt_name", "truncate_dim", "device"):
            known = (*_OF_A_CALL, "prompt", "prompt_name", "truncate_dim", "device")
            raise InvalidInput(f"{argument} has {name!r}; {nearest(name, known)}")


def _every_gpu() -> list[str] | None:
    """Return the names of all GPUs. If there is at most one, return None, so that smart_rag chooses the device."""
    import torch

    count = torch.cuda.device_count()
    return [f"cuda:{i}" for i in range(count)] if count > 1 else None


def arguments_of(encoder: Encoder) -> dict[str, Any] | None:
    """Return the arguments, except the model and the device, with which `SmartEncoder` makes ``encoder`` again.

    The result is None if the encoder is of another class.
    """
    given = encoder.encoder if isinstance(encoder, CachedEncoder) else encoder
    if not isinstance(given, SmartEncoder):
        return None
    return {name: value for name, value in given.arguments.items() if name != "model"}


def check_names(options: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise TypeError if an argument in ``options`` is unknown. ``own`` has the arguments of `SmartEmbeddings`."""
    known = set(inspect.signature(SmartEncoder).parameters) - {"model"}
    for name in options:
        if name not in known:
            raise TypeError(f"SmartEmbeddings has no argument {name!r}; {nearest(name, known | own.keys())}")
