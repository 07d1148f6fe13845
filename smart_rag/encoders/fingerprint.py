"""The identity of an encoder: a digest of its weights, and a fingerprint of all that changes a document's numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Entries of a description that change no number of a document, or that another entry repeats.
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
)


def fingerprint_of(description: Mapping[str, Any]) -> str:
    """Return a digest of those entries of an encoder's description that change the numbers of a document."""
    numbers = {key: value for key, value in description.items() if key not in _NOT_IN_FINGERPRINT}
    return hashlib.blake2b(json.dumps(numbers, sort_keys=True).encode(), digest_size=16).hexdigest()


def weights_digest(model: torch.nn.Module, values: int = 1024) -> str:
    """Return a digest of ``values`` evenly spaced numbers of every weight.

    It differs for a fine-tuned model. It is the same for the same model under another name or path, and in another
    precision, since values are compared in bfloat16. Names of parameters are left out, since they change between
    releases of transformers.
    """
    import torch

    digests = []
    for parameter in model.parameters():
        flat = parameter.detach().reshape(-1)
        picks = torch.linspace(0, len(flat) - 1, min(values, len(flat)), dtype=torch.float64).long()
        sample = flat[picks.to(flat.device)].to(torch.bfloat16).float().cpu().numpy()
        digests.append(hashlib.blake2b(f"{tuple(parameter.shape)}".encode() + sample.tobytes()).digest())
    return hashlib.blake2b(b"".join(sorted(digests)), digest_size=16).hexdigest()
