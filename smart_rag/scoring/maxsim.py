"""The score, and the only place that computes it (arXiv 2605.24938, section 3):

    score(q, d) = w_pooled * cos(pooled_q, pooled_d) + w_late * late(q, d)
    late(q, d)  = mean over the tokens i of q of max over the tokens j of d of <q_i, d_j>

The mean may be a weighted one: by `inverse_document_frequency`, rare tokens count for more.

Documents are ragged: their tokens lie one after the other in one matrix. One matrix product
and one segmented maximum score them all. No padding exists, so none can win a maximum.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from smart_rag.embeddings.codec import RotatedCodec, rotate
from smart_rag.embeddings.representation import FloatArray, Offsets, TokenCodes, Tokens
from smart_rag.errors import DimensionMismatch

logger = logging.getLogger(__name__)

# A block of document tokens and its similarities together stay within so many bytes: on a CPU they are
# still in cache when the next step reads them, a GPU only needs to be kept busy. Half as much on a CPU
# costs a tenth of the time where documents are long: each block has calls of its own.
_BLOCK_BYTES = {"cpu": 1 << 23, "cuda": 1 << 30}
# A block is at most such a part of a GPU's free memory: up to three of its size are there at once while codes
# are unpacked, and other programs want some too. Where next to nothing is free, torch's own error says so.
_FREE_PARTS = 8
_LEAST_BLOCK_BYTES = 1 << 24
# Fewer blocks are not worth other threads: after a forward pass torch's own still spin on the cores.
_BLOCKS_ALONE = 4
_BLOCK_QUERY_TOKENS = 1024

# Scores that differ by less than float32 noise are ties.
_TIE_DECIMALS = 6


def pooled_similarity(queries: NDArray[np.float32], documents: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosines (n_queries, n_documents) float32 of L2-normalised pooled embeddings.

    >>> pooled_similarity(np.float32([[1, 0]]), np.float32([[0.6, 0.8], [0, 1]]))
    array([[0.6, 0. ]], dtype=float32)
    """
    if queries.shape[1] != documents.shape[1]:
        raise DimensionMismatch(
            f"the query's pooled embedding has {queries.shape[1]} dimensions, the documents' {documents.shape[1]}"
        )
    return np.asarray(queries @ documents.T, dtype=np.float32)


def late_interaction(
    queries: Tokens, documents: Tokens, device: str = "cpu", token_weights: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return ``late(q, d)`` for every query and document, (n_queries, n_documents) float32.

    ``token_weights`` (total query tokens), positive, make the mean over a query's tokens a weighted one.

    Similarities are averaged in float32. Float tokens are multiplied in float32; rotated codes
    are multiplied as integers where the CPU is fast at that, with queries in 15 bits, which
    leaves each similarity within 1e-4 of float arithmetic on the decoded tokens.

    >>> from smart_rag.embeddings.representation import TokenBatch
    >>> query = TokenBatch.from_list([np.float32([[1, 0], [0, 1]])])
    >>> late_interaction(query, TokenBatch.from_list([np.float32([[0.5, 0.25]]), np.float32([[1, 0], [-1, 0]])]))
    array([[0.375, 0.5  ]], dtype=float32)

    Raises:
        DimensionMismatch: queries and documents differ in width.
    """
    if queries.dimension != documents.dimension:
        raise DimensionMismatch(
            f"the query's token embeddings have {queries.dimension} dimensions, the documents' {documents.dimension}"
        )
    kernel = _kernel(documents, device)
    token_shares = shares(queries.offsets, token_weights)
    late = np.empty((len(queries), len(documents)), dtype=np.float32)
    query_blocks = [
        (start, stop, kernel.queries(queries.embeddings[slice(*queries.offsets[[start, stop]])]))
        for start, stop in _blocks(queries.offsets, _BLOCK_QUERY_TOKENS)
    ]
    widest = max((int(queries.offsets[stop] - queries.offsets[start]) for start, stop, _ in query_blocks), default=1)

    def score(start: int, stop: int) -> None:
        block = documents.slice(start, stop)
        tokens = kernel.documents(block)
        for first, last, query_tokens in query_blocks:
            best = kernel.best(query_tokens, tokens, block.offsets)
            offsets = queries.offsets[first : last + 1]
            weighted = best * token_shares[offsets[0] : offsets[-1], None]
            late[first:last, start:stop] = np.add.reduceat(weighted, offsets[:-1] - offsets[0], axis=0)

    row_bytes = kernel.number_bytes * documents.dimension + kernel.similarity_bytes * widest
    blocks = list(_blocks(documents.offsets, max(1, _block_bytes(torch.device(device)) // row_bytes)))
    if torch.device(device).type == "cpu" and len(blocks) > _BLOCKS_ALONE:
        # A core takes a block through all its steps, so that it stays in that core's cache.
        list(_cores().map(lambda block: score(*block), blocks))
    else:
        for block in blocks:
            score(*block)
    return late


def shares(offsets: Offsets, token_weights: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return each token's part (total) in the mean over its query: its weight over the sum of the query's weights.

    >>> shares(np.array([0, 2, 3]), np.float32([1, 3, 5]))
    array([0.25, 0.75, 1.  ], dtype=float32)
    """
    weights = np.ones(offsets[-1]) if token_weights is None else token_weights.astype(np.float64)
    if not len(weights):
        return np.empty(0, dtype=np.float32)
    sums = np.add.reduceat(weights, offsets[:-1])
    return np.asarray(weights / np.repeat(sums, np.diff(offsets)), dtype=np.float32)


def inverse_document_frequency(frequencies: NDArray[np.int64], documents: int) -> NDArray[np.float32]:
    """Return ``log(1 + documents / frequency)`` for each; what no document holds counts as held by one.

    It is positive for every token, also for those that all documents hold: with formulas that
    give these nothing, some queries lose all they have.

    >>> inverse_document_frequency(np.array([1, 100, 0]), 100)
    array([4.6151204, 0.6931472, 4.6151204], dtype=float32)
    """
    return np.asarray(np.log1p(documents / np.maximum(frequencies, 1)), dtype=np.float32)


def hybrid(pooled: NDArray[np.float32], late: NDArray[np.float32], weights: tuple[float, float]) -> NDArray[np.float32]:
    """Return ``w_pooled * pooled + w_late * late``, of the same shape, float32."""
    return np.asarray(weights[0] * pooled + weights[1] * late, dtype=np.float32)


def ranking(scores: NDArray[np.float32], ids: Sequence[str], top_k: int) -> list[int]:
    """Return the positions of the ``top_k`` best scores (n,), best first; ties go by id.

    >>> ranking(np.float32([0.1, 0.9, 0.9]), ["a", "c", "b"], top_k=2)
    [2, 1]
    """
    rounded = np.round(scores.astype(np.float64), _TIE_DECIMALS)
    positions: Sequence[int] = range(len(scores))
    if top_k < len(scores):
        threshold = np.partition(rounded, len(scores) - top_k)[len(scores) - top_k]
        positions = np.flatnonzero(rounded >= threshold).tolist()
    return sorted(positions, key=lambda i: (-rounded[i], ids[i]))[:top_k]


def marginal_relevance(
    relevance: NDArray[np.float32], similarities: NDArray[np.float32], top_k: int, mmr_lambda: float
) -> list[int]:
    """Return ``top_k`` positions by maximal marginal relevance (Carbonell and Goldstein, 1998), first choice first.

    Each choice maximises ``mmr_lambda * relevance - (1 - mmr_lambda) * its highest similarity to
    an earlier choice``; ``relevance`` is (n,), ``similarities`` (n, n).

    >>> same = np.float32([[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    >>> marginal_relevance(np.float32([0.9, 0.9, 0.5]), same, top_k=2, mmr_lambda=0.5)
    [0, 2]
    """
    chosen: list[int] = []
    left = list(range(len(relevance)))
    nearest = np.zeros(len(relevance), dtype=np.float32)
    while left and len(chosen) < top_k:
        best = max(left, key=lambda i: mmr_lambda * relevance[i] - (1 - mmr_lambda) * nearest[i])
        left.remove(best)
        nearest = np.maximum(nearest, similarities[best]) if chosen else similarities[best]
        chosen.append(best)
    return chosen


def similarities(query: FloatArray, document: FloatArray) -> NDArray[np.float32]:
    """Return the cosines of the query tokens (q, dimension) with the document tokens (n, dimension): (q, n).

    >>> similarities(np.float32([[1, 0]]), np.float32([[0, 1], [0.8, 0.6]]))
    array([[0. , 0.8]], dtype=float32)
    """
    return np.asarray(query @ document.T.astype(np.float32), dtype=np.float32)


class _Kernel(Protocol):
    """How similarities are computed: what is made of query tokens and of a block of documents once, and of both."""

    number_bytes: ClassVar[int]
    similarity_bytes: ClassVar[int]

    def queries(self, embeddings: FloatArray) -> Any: ...

    def documents(self, block: Any) -> Any: ...

    def best(self, queries: Any, documents: Any, offsets: Offsets) -> NDArray[np.float32]:
        """Return the highest cosine of each query token with a token of each document, (query tokens, n)."""
        ...


def _kernel(documents: Tokens, device: str) -> _Kernel:
    """Return the fastest sound way to multiply with ``documents`` on ``device``."""
    codec = documents.codec if isinstance(documents, TokenCodes) else None
    if not isinstance(codec, RotatedCodec):
        return _Floats(device)
    # Of matrices one number wide, torch 2.13 multiplies some other memory as integers.
    if torch.device(device).type == "cpu" and documents.dimension > 1 and _integers_are_fast():
        return _Integers(codec, torch._int_mm)
    return _Levels(codec, device)


@dataclass(frozen=True, slots=True)
class _Floats:
    """Tokens as float32."""

    number_bytes: ClassVar[int] = 4
    similarity_bytes: ClassVar[int] = 4
    device: str

    def queries(self, embeddings: FloatArray) -> torch.Tensor:
        return _on(embeddings, self.device).float()

    def documents(self, block: Tokens) -> torch.Tensor:
        return _on(block.embeddings, self.device).float()

    def best(self, queries: torch.Tensor, documents: torch.Tensor, offsets: Offsets) -> NDArray[np.float32]:
        return _segment_max(queries @ documents.T, offsets)


@dataclass(frozen=True, slots=True)
class _Levels:
    """Rotated codes as normalised float32 levels; the query is rotated, so no document has to be turned back."""

    number_bytes: ClassVar[int] = 4
    similarity_bytes: ClassVar[int] = 4
    codec: RotatedCodec
    device: str

    def queries(self, embeddings: FloatArray) -> torch.Tensor:
        return rotate(_on(embeddings, self.device))

    def documents(self, block: TokenCodes) -> torch.Tensor:
        levels = _unpacked(_on(block.codes, self.device), self.codec.bits, block.dimension).float() - self.codec.zero
        return torch.nn.functional.normalize(levels, dim=1)

    def best(self, queries: torch.Tensor, documents: torch.Tensor, offsets: Offsets) -> NDArray[np.float32]:
        return _segment_max(queries @ documents.T, offsets)


@dataclass(frozen=True, slots=True)
class _Integers:
    """Rotated codes multiplied as they are, by queries in two planes of int8.

    With a query q = scale * (high + low / 254) and codes c of zero z and norm n:
    cosine = (q c - z sum(q)) / n. ``multiply`` is the product of matrices of int8 as int32, exact.
    """

    number_bytes: ClassVar[int] = 1
    similarity_bytes: ClassVar[int] = 8  # an int32 for each plane
    codec: RotatedCodec
    multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def queries(self, embeddings: FloatArray) -> tuple[torch.Tensor, NDArray[np.float32], NDArray[np.float32]]:
        from smart_rag.scoring.kernels import query_planes

        count, dimension = embeddings.shape
        width = self.codec.bytes_per_token(dimension) * (8 // self.codec.bits)
        planes = np.zeros((2 * count, width), dtype=np.int8)
        scale, bias = np.empty((2, count), dtype=np.float32)
        zero = self.codec.zero - 128 if self.codec.bits == 8 else self.codec.zero
        query_planes(rotate(_on(embeddings, "cpu")).numpy(), zero, planes, scale, bias)
        return torch.from_numpy(planes), scale, bias

    def documents(self, block: TokenCodes) -> tuple[torch.Tensor, NDArray[np.float32]]:
        from smart_rag.scoring.kernels import unpack

        codes, norms = unpack(np.ascontiguousarray(block.codes), self.codec.bits, block.dimension)
        if self.codec.bits == 8:
            codes ^= 0x80  # 0 to 255 as -128 to 127
        return torch.from_numpy(codes.view(np.int8)), norms

    def best(
        self,
        queries: tuple[torch.Tensor, NDArray[np.float32], NDArray[np.float32]],
        documents: tuple[torch.Tensor, NDArray[np.float32]],
        offsets: Offsets,
    ) -> NDArray[np.float32]:
        from smart_rag.scoring.kernels import best_of_planes

        planes, scale, bias = queries
        codes, norms = documents
        best = np.empty((len(offsets) - 1, len(scale)), dtype=np.float32)
        # oneDNN's prepacked product (qlinear_pointwise) is no faster on busy cores, and is compiled anew for
        # each number of tokens, which takes milliseconds: hardly two blocks have the same.
        best_of_planes(self.multiply(codes, planes.T).numpy(), scale, bias, norms, offsets, best)
        return np.asarray(best.T, dtype=np.float32)


def _unpacked(codes: torch.Tensor, bits: int, dimension: int) -> torch.Tensor:
    """Return packed codes (n, bytes) as one uint8 for each dimension, (n, dimension)."""
    if bits == 8:
        return codes
    width = codes.shape[1]
    wide = torch.empty((len(codes), dimension), dtype=torch.uint8, device=codes.device)
    for plane, start in enumerate(range(0, dimension, width)):
        part = wide[:, start : start + width]
        part.copy_((codes[:, : part.shape[1]] >> (plane * bits)) & (2**bits - 1))
    return wide


@lru_cache(maxsize=1)
def _integers_are_fast() -> bool:
    """Return whether this CPU has instructions for products of int8 (VNNI), and torch's products are exact here.

    By what the CPU can do and not by a clock: equal machines are to give equal scores.
    """
    if not hasattr(torch, "_int_mm") or not getattr(torch.cpu, "_is_vnni_supported", lambda: False)():
        return False
    if importlib.util.find_spec("numba") is None:  # a machine with torch and little else, as in a GPU's container
        logger.info("Numba is not installed; codes are scored in float32")
        return False
    return _is_exact(torch._int_mm)


def _is_exact(multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> bool:
    """Return whether ``multiply`` gives the exact products of int8, on any CPU.

    Without VNNI, oneDNN adds 128 to the codes and then adds products in pairs, in 16 bits: sums of large
    ones do not fit. A CPU that has VNNI does so too where ``ONEDNN_MAX_CPU_ISA`` forbids it.
    """
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-128, 128, (1024, 257), dtype=torch.int8, generator=generator)
    planes = torch.randint(-127, 128, (24, 257), dtype=torch.int8, generator=generator)
    codes[:2] = torch.tensor([[-128], [127]])
    planes[:2] = torch.tensor([[-127], [127]])
    try:
        return torch.equal(multiply(codes, planes.T), (codes.long() @ planes.T.long()).int())
    except RuntimeError as error:
        logger.info("this torch does not multiply integers (%s); codes are scored in float32", error)
        return False


@lru_cache(maxsize=1)
def _cores() -> ThreadPoolExecutor:
    """Return a thread for each core that torch may use; within each of them torch uses one."""

    def alone() -> None:
        torch.get_num_threads()  # makes torch set up the thread, which would undo the limit
        threadpool_limits(1, user_api="openmp")

    return ThreadPoolExecutor(torch.get_num_threads(), "smart_rag", initializer=alone)


def _forget_threads() -> None:
    """Wait for no thread of the parent's in a forked process, which has none of them."""
    _cores.cache_clear()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def _on(array: NDArray[Any], device: str) -> torch.Tensor:
    """Return ``array`` as a tensor on ``device``."""
    if not (array.flags.c_contiguous and array.flags.writeable):  # torch takes no other
        array = array.copy()
    return torch.from_numpy(array).to(device)


def _block_bytes(device: torch.device) -> int:
    """Return how many bytes a block of document tokens and its similarities may have on ``device``."""
    most = _BLOCK_BYTES[device.type]
    if device.type == "cpu":
        return most
    # What torch keeps for itself and does not use is free to us.
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(most, max(free // _FREE_PARTS, _LEAST_BLOCK_BYTES))


def _blocks(offsets: Offsets, limit: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of whole texts of at most ``limit`` tokens each, or of one longer text."""
    start = 0
    while start < len(offsets) - 1:
        stop = int(np.searchsorted(offsets, offsets[start] + limit, side="right")) - 1
        stop = max(stop, start + 1)
        yield start, stop
        start = stop


def _segment_max(similarities: torch.Tensor, offsets: Offsets) -> NDArray[np.float32]:
    """Return the maximum of each row of (q, total) within each segment, (q, n)."""
    if similarities.device.type == "cpu":
        # Eight times as fast as torch.segment_reduce on a CPU.
        best: NDArray[np.float32] = np.maximum.reduceat(similarities.numpy(), offsets[:-1], axis=1)
        return best
    lengths = torch.from_numpy(np.diff(offsets)).to(similarities.device)
    reduced = torch.segment_reduce(similarities.T.contiguous(), "max", lengths=lengths, axis=0, unsafe=True)
    return np.asarray(reduced.T.cpu().numpy(), dtype=np.float32)


class Leaders:
    """The best documents of a scan so far: ``ids`` with their ``pooled`` and ``late`` scores."""

    def __init__(self, top_k: int) -> None:
        self._top_k = top_k
        self.ids: list[str] = []
        self.pooled = np.empty(0, dtype=np.float32)
        self.late = np.empty(0, dtype=np.float32)

    def offer(
        self,
        ids: Sequence[str],
        pooled: NDArray[np.float32],
        late: NDArray[np.float32],
        weights: tuple[float, float],
    ) -> None:
        """Keep the ``top_k`` best of what was kept and a block (n) of further documents."""
        all_ids = [*self.ids, *ids]
        all_pooled = np.concatenate([self.pooled, pooled])
        all_late = np.concatenate([self.late, late])
        best = ranking(hybrid(all_pooled, all_late, weights), all_ids, self._top_k)
        self.ids = [all_ids[i] for i in best]
        self.pooled, self.late = all_pooled[best], all_late[best]
