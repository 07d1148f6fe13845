"""The states of training data's texts, encoded once and kept on disk; and how well they rank, adapted or not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from tqdm.auto import tqdm

from smart_rag.config import DEFAULT_WEIGHTS
from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.representation import Representation, TokenBatch, TokenIds
from smart_rag.encoders.adapter import Adapter
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.evaluation.metrics import Metrics, Run
from smart_rag.scoring import maxsim as scoring
from smart_rag.store.token_store import TokenStore
from smart_rag.training.batches import alike
from smart_rag.training.data import TrainingData
from smart_rag.training.report import NDCG, ByRanking

_DEPTH = 10
# Texts that are encoded before they are written, and documents whose tokens are in memory while they are ranked.
_AT_ONCE = 128


class _States:
    """The states of texts: those of tokens coded on disk, the pooled ones and vocabulary ids in memory."""

    def __init__(self, path: Path, codec_name: str) -> None:
        self._store = TokenStore(path, get_codec(codec_name))
        self._pooled: list[NDArray[np.float32]] = []
        self.ids: list[TokenIds] = []

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def pooled(self) -> NDArray[np.float32]:
        return np.concatenate(self._pooled)

    @cached_property
    def frequencies(self) -> _Frequencies:
        return _Frequencies.of(self.ids)

    def append(self, batch: Representation) -> None:
        tokens = batch.tokens
        assert isinstance(tokens, TokenBatch)
        assert tokens.ids is not None  # as a SmartEncoder gives them
        self._store.put([_key(len(self) + i) for i in range(len(batch))], tokens)
        self.ids += np.split(tokens.ids, tokens.offsets[1:-1])
        self._pooled.append(batch.pooled)

    def tokens(self, positions: Sequence[int]) -> TokenBatch:
        """Return the states of the texts at ``positions``, those of a token's layers side by side."""
        codes = self._store.gather([_key(i) for i in positions])
        return TokenBatch(codes.embeddings, codes.offsets, np.concatenate([self.ids[i] for i in positions]))

    def close(self) -> None:
        self._store.close()


@dataclass(frozen=True, slots=True)
class _Frequencies:
    """How many of ``texts`` hold each vocabulary id, up to the greatest that one of them holds."""

    counts: NDArray[np.int64]
    texts: int

    @classmethod
    def of(cls, texts: Sequence[TokenIds]) -> _Frequencies:
        return cls(np.bincount(np.concatenate([np.unique(ids[ids >= 0]) for ids in texts]), minlength=1), len(texts))

    def inverse(self, ids: TokenIds) -> NDArray[np.float32]:
        """Return the inverse document frequencies (n) of tokens; what stands for no word is held by all."""
        known = np.where(ids < len(self.counts), self.counts[np.minimum(ids, len(self.counts) - 1)], 0)
        return scoring.inverse_document_frequency(np.where(ids < 0, self.texts, known), self.texts)


def _key(position: int) -> bytes:
    return position.to_bytes(16, "big")


@dataclass(frozen=True, slots=True)
class CachedStates:
    """Training data with the states of its queries and documents. Documents of one content are ``alike``.

    ``layers`` are those of which there are states, the last one among them.
    """

    data: TrainingData
    queries: _States
    documents: _States
    alike: NDArray[np.int64]
    layers: Sequence[int]
    device: str
    judge: Metrics

    def states(self, tokens: TokenBatch, layers: Sequence[int]) -> torch.Tensor:
        """Return ``tokens`` as states (n, layers, width) on the device."""
        rows: torch.Tensor = torch.from_numpy(np.array(tokens.embeddings)).to(self.device).float()
        return rows.view(len(rows), len(self.layers), -1)[:, [self.layers.index(layer) for layer in layers]]

    def adapted(self, tokens: TokenBatch, adapter: Adapter | None) -> TokenBatch:
        """Return token embeddings made of states, without an adapter the frozen model's."""
        with torch.inference_mode():
            if adapter is None:
                embeddings = functional.normalize(self.states(tokens, (-1,))[:, 0], dim=1)
            else:
                embeddings = adapter(self.states(tokens, adapter.layers))
            return replace(tokens, embeddings=embeddings.cpu().numpy())

    def sample(self, count: int, seed: int, layers: Sequence[int]) -> torch.Tensor:
        """Return the states (n, layers, width) of the tokens of some documents, about ``count`` of them."""
        order = np.random.default_rng(seed).permutation(len(self.documents)).tolist()
        lengths = np.cumsum([len(self.documents.ids[i]) for i in order])
        enough = int(np.searchsorted(lengths, count)) + 1
        return self.states(self.documents.tokens(order[:enough]), layers)

    def ndcg(
        self, adapter: Adapter | None = None, others: CachedStates | None = None, distractors: Sequence[int] = ()
    ) -> ByRanking:
        """Return nDCG@10 of each query, all documents ranked by ``pooled``, ``late`` and ``hybrid``.

        As `SmartIndex.search` does by default: query tokens by inverse document frequency, hybrid by its weights.
        Documents at the positions ``distractors`` of ``others`` are ranked with them.
        """
        kinds = {"pooled": (1.0, 0.0), "late": (0.0, 1.0), "hybrid": DEFAULT_WEIGHTS}
        corpus = [(self.documents, "", list(range(len(self.documents))))]
        if others is not None:
            corpus.append((others.documents, "distractor ", list(distractors)))
        everything = list(range(len(self.queries)))
        queries = self.adapted(self.queries.tokens(everything), adapter)
        held = [documents.ids[i] for documents, _, positions in corpus for i in positions]
        weights = _Frequencies.of(held).inverse(np.concatenate(self.queries.ids))
        leaders = {kind: [scoring.Leaders(_DEPTH) for _ in everything] for kind in kinds}
        for documents, prefix, positions in corpus:
            for start in range(0, len(positions), _AT_ONCE):
                block = positions[start : start + _AT_ONCE]
                tokens = self.adapted(documents.tokens(block), adapter)
                late = scoring.late_interaction(queries, tokens, self.device, weights)
                pooled = scoring.pooled_similarity(self.queries.pooled, documents.pooled[block])
                names = [prefix + _name(at) for at in block]
                for kind, leading in leaders.items():
                    for i, leader in enumerate(leading):
                        leader.offer(names, pooled[i], late[i], kinds[kind])
        runs: dict[str, Run] = {
            kind: {_name(i): leader.ids for i, leader in enumerate(leading)} for kind, leading in leaders.items()
        }
        return {kind: self.judge.by_query(run)[NDCG] for kind, run in runs.items()}


@contextmanager
def cached_states(
    data: TrainingData,
    encoder: SmartEncoder,
    layers: Sequence[int],
    folder: Path,
    codec: str = "float16",
    *,
    show_progress_bar: bool = False,
) -> Iterator[CachedStates]:
    """Encode ``data`` once, and keep the states in ``folder`` until the block ends.

    Raises:
        MissingExtra: ir-measures is not installed.
    """
    judge = Metrics(_qrels(data), (NDCG,))
    with (
        tempfile.TemporaryDirectory(prefix=".states-", dir=folder) as temporary,
        closing(_States(Path(temporary) / "queries", codec)) as queries,
        closing(_States(Path(temporary) / "documents", codec)) as documents,
    ):
        total = len(data.queries) + len(data.documents)
        with tqdm(
            total=total, desc=f"encoding on {encoder.device}", unit="item", disable=not show_progress_bar
        ) as progress:
            for start in range(0, len(data.queries), _AT_ONCE):
                texts = [query.text for query in data.queries[start : start + _AT_ONCE]]
                queries.append(encoder.token_states(texts, "query", layers))
                progress.update(len(texts))
            for start in range(0, len(data.documents), _AT_ONCE):
                part = list(data.documents[start : start + _AT_ONCE])
                contents = [document.content(encoder.modalities) for document in part]
                documents.append(encoder.token_states([content.plain for content in contents], "document", layers))
                progress.update(len(part))
        yield CachedStates(data, queries, documents, alike(data, encoder.modalities), layers, encoder.device, judge)


def _qrels(data: TrainingData) -> dict[str, dict[str, int]]:
    return {_name(i): {_name(at): 1 for at in query.positives} for i, query in enumerate(data.queries)}


def _name(position: int) -> str:
    return f"{position:09d}"
