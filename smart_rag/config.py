"""Every default, once. An index saves its `IndexConfig` in its manifest."""

from __future__ import annotations

from dataclasses import dataclass

from smart_rag.errors import InvalidInput

DEFAULT_MODEL = "minilm"
DEFAULT_TOP_K = 10
DEFAULT_CANDIDATES = 100
# The paper's own weights of the pooled and the late score (arXiv 2605.24938, section 3).
DEFAULT_WEIGHTS = (1.0, 1.0)
# For `ask`: what small language models read with ease, and how long a large one may think on a CPU.
DEFAULT_PASSAGES = 8
DEFAULT_CONTEXT_TOKENS = 3000
DEFAULT_TIMEOUT = 300.0  # seconds


def check_count(name: str, value: int) -> None:
    """Raise `InvalidInput` unless ``value`` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInput(f"{name} must be a whole number of at least 1, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """What is fixed when an index is made.

    ``codec`` is how token embeddings are kept: a preset, ``"exact"`` (float16), ``"balanced"``
    (2 bits a dimension) or ``"compact"`` (2 bits, and two tokens made one), or any name that
    `smart_rag.codec.codec` takes.

    ``hnsw_*`` go to Chroma, which reads them only at creation: with these, 400 candidates
    of 20,000 random vectors are found with a recall of .998 (Chroma's own defaults: .65).
    """

    codec: str = "balanced"
    chunk_tokens: int = 200
    chunk_overlap: int = 40
    hnsw_max_neighbors: int = 48
    hnsw_ef_construction: int = 400
    hnsw_ef_search: int = 1000

    def __post_init__(self) -> None:
        check_count("chunk_tokens", self.chunk_tokens)
        if not 0 <= self.chunk_overlap < self.chunk_tokens:
            raise InvalidInput(
                f"chunk_overlap must be at least 0 and below chunk_tokens ({self.chunk_tokens}), "
                f"got {self.chunk_overlap}"
            )
