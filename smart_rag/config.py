"""Every default, once. An index saves its `IndexConfig` in its manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from smart_rag.errors import InvalidInput

DEFAULT_MODEL = "minilm"
DEFAULT_TOP_K = 10
DEFAULT_CANDIDATES = 100
# Of the pooled and the late score, with query tokens weighted by their inverse document frequency: over five
# datasets 2.7 % better than the paper's own (1, 1) with equal tokens (arXiv 2605.24938, section 3), on each as good.
DEFAULT_WEIGHTS = (1.0, 2.0)
# Up to so many documents, all of them are scored: that takes no longer than to choose among them.
EXHAUSTIVE_DOCUMENTS = 500

Weighting = Literal["idf", "none"]
Objective = Literal["pooled", "late", "hybrid"]
# An adapter leaves the pooled embeddings as they are.
AdapterObjective = Literal["late", "hybrid"]
FirstStageName = Literal["auto", "terms", "pooled", "exhaustive"]

# For `ask`: what small language models read with ease, and how long a large one may think on a CPU.
DEFAULT_PASSAGES = 8
DEFAULT_CONTEXT_TOKENS = 3000
DEFAULT_TIMEOUT = 300.0  # seconds
# Of an image for a language model: an A4 page at 125 dpi, whose small print can be read; most shrink what is larger.
DEFAULT_IMAGE_PIXELS = 1_500_000


def check_count(name: str, value: int) -> None:
    """Raise `InvalidInput` unless ``value`` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInput(f"{name} must be a whole number of at least 1, got {value!r}")


def check_choice(name: str, value: str, choices: object) -> None:
    """Raise `InvalidInput` unless ``value`` is one of the strings of a Literal."""
    if value not in get_args(choices):
        raise InvalidInput(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}")


def check_weights(weights: tuple[float, float]) -> tuple[float, float]:
    """Return ``weights`` (pooled, late) if they can be used.

    Raises:
        InvalidInput: they are not two finite numbers, negative, or both zero.
    """
    try:
        values = tuple(float(weight) for weight in weights)
    except (TypeError, ValueError):
        values = ()
    if len(values) != 2 or not np.isfinite(values).all() or min(values) < 0 or max(values) == 0:
        raise InvalidInput(f"weights must be two numbers (pooled, late), none negative and not both 0; got {weights!r}")
    return values[0], values[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """What is fixed when an index is made, but for ``weights`` and ``weighting``: `SmartIndex.set_weights`.

    ``codec`` is how token embeddings are kept: a preset, ``"exact"`` (float16), ``"balanced"``
    (2 bits a dimension) or ``"compact"`` (2 bits, and two tokens made one), or any name that
    `smart_rag.embeddings.codec.get_codec` takes.

    ``weights`` are those of the pooled and the late score; without them a new index gets those that suit its
    encoder: `DEFAULT_WEIGHTS`, or the late score alone for a model that was trained for late interaction.
    ``weighting`` is what query tokens count by: ``"idf"``, the inverse document frequency, over this index, of
    what they are in the model's vocabulary, or ``"none"``, all the same.

    ``hnsw_*`` go to Chroma, which reads them only at creation: with these, 400 candidates
    of 20,000 random vectors are found with a recall of .998 (Chroma's own defaults: .65).
    """

    codec: str = "balanced"
    weights: tuple[float, float] | None = None
    weighting: Weighting = "idf"
    chunk_tokens: int = 200
    chunk_overlap: int = 40
    hnsw_max_neighbors: int = 48
    hnsw_ef_construction: int = 400
    hnsw_ef_search: int = 1000

    def __post_init__(self) -> None:
        if self.weights is not None:
            object.__setattr__(self, "weights", check_weights(self.weights))  # JSON gives a list
        check_choice("weighting", self.weighting, Weighting)
        check_count("chunk_tokens", self.chunk_tokens)
        if not 0 <= self.chunk_overlap < self.chunk_tokens:
            raise InvalidInput(
                f"chunk_overlap must be at least 0 and below chunk_tokens ({self.chunk_tokens}), "
                f"got {self.chunk_overlap}"
            )
