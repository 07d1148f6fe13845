"""Identity of an encoder: a digest of its weights, and a fingerprint of all that changes a document's embeddings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Entries of a description that are arguments of `SmartEncoder`. An index must not choose others, such as kernels that
# run code.
DESCRIBED = (
    *("model", "revision", "trust_remote_code", "query_prompt", "document_prompt", "max_length", "profile"),
    *("query_tokens", "document_tokens", "max_pixels", "paper", "adapter", "model_options", "base_model"),
    *("backend", "dtype"),
)
# The precisions that an index may choose.
PRECISIONS = ("bfloat16", "int8")
# Entries of a description that do not change the embeddings of a document, or that repeat another entry.
_NOT_IN_FINGERPRINT = (
    "model",
    "revision",
    "trust_remote_code",
    "query_prompt",
    "query_tokens",
    "document_tokens",
    "profile",
    "max_pixels",
    "adapter",
    "model_options",
    "base_model",
    "dtype",
    "backend",
)
# Options of a model that change its embeddings and that are not in another entry.
_OPTIONS = ("config_kwargs", "processor_kwargs", "tokenizer_kwargs")


def arguments_in(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `SmartEncoder` in an encoder's description."""
    arguments = {name: description[name] for name in DESCRIBED if name in description}
    if arguments.get("dtype") not in PRECISIONS:
        arguments.pop("dtype", None)
    return arguments


def fingerprint_of(description: Mapping[str, Any]) -> str:
    """Return a digest of those entries of an encoder's description that change the embeddings of a document."""
    numbers = {key: value for key, value in description.items() if key not in _NOT_IN_FINGERPRINT}
    options = description.get("model_options") or {}
    numbers |= {name: options[name] for name in _OPTIONS if name in options}
    return hashlib.blake2b(json.dumps(numbers, sort_keys=True).encode(), digest_size=16).hexdigest()


def weights_digest(model: torch.nn.Module, values: int = 1024) -> str:
    """Return a digest of ``values`` evenly spaced numbers of every weight.

    A fine-tuned model has a different digest. The same model under another name or path has the same digest. Another
    precision does not change the digest either, because the numbers are first rounded to bfloat16. The names of
    parameters do not matter, because they differ between releases of transformers.
    """
    import torch

    digests = []
    for parameter in model.parameters():
        flat = parameter.detach().reshape(-1)
        picks = torch.linspace(0, len(flat) - 1, min(values, len(flat)), dtype=torch.float64).long()
        sample = flat[picks.to(flat.device)].to(torch.bfloat16).float().cpu().numpy()
        digests.append(hashlib.blake2b(f"{tuple(parameter.shape)}".encode() + sample.tobytes()).digest())
    return hashlib.blake2b(b"".join(sorted(digests)), digest_size=16).hexdigest()
