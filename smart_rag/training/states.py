"""States of training data: token embeddings of some layers, encoded once and kept on disk.

`CachedStates.ndcg` ranks the documents by these states and returns nDCG@10.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from smart_rag.config import DEFAULT_WEIGHTS
from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.representation import Representation
from smart_rag.embeddings.tokens import TokenBatch, TokenIds
from smart_rag.encoders.adapter import Adapter
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import EncoderError
from smart_rag.evaluation.metrics import Metrics, Run
from smart_rag.progress import Progress
from smart_rag.scoring import maxsim, ranking
from smart_rag.store.token_store import TokenStore
from smart_rag.training.batches import content_groups
from smart_rag.training.data import TrainingData
from smart_rag.training.report import NDCG, ByRanking
from smart_rag.training.runs import processes
from smart_rag.training.runs.interrupts import uninterrupted
from smart_rag.training.settings import LOG_SECONDS, AdapterSettings

_DEPTH = 10  # depth of nDCG
# Number of texts that are encoded before they are written. Also the number of documents in memory during the ranking.
_BATCH = 128


class TextStates:
    """States of texts. Token states are on disk, coded. Pooled embeddings and vocabulary ids are in memory, too.

    ``pooled`` is (n, dimension) float32. ``ids`` holds the vocabulary ids of each text's tokens. If the folder ``path``
    holds the states of the first texts from an interrupted encoding, the object has them.

    Raises:
        EncoderError: these states cannot be read.
    """

    def __init__(self, path: Path, codec_name: str) -> None:
        self._store = TokenStore(path, get_codec(codec_name))
        self._path = path
        self._pooled: list[NDArray[np.float32]] = []
        self.ids: list[TokenIds] = []
        self.read_written()

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def pooled(self) -> NDArray[np.float32]:
        return np.concatenate(self._pooled)

    @cached_property
    def frequencies(self) -> DocumentFrequencies:
        return DocumentFrequencies.of(self.ids)

    def read_written(self) -> None:
        """Read what is in the folder after the existing texts: from before, or written by another process."""
        while (part := self._part(len(self))).exists():
            self._read(part)

    def has(self, start: int) -> bool:
        """Return whether a batch of texts from the position ``start`` on is written."""
        return self._part(start).exists()

    def write(self, start: int, batch: Representation) -> None:
        """Write the texts of ``batch``. The first has the position ``start``. `read_written` adds them."""
        tokens = batch.tokens
        assert isinstance(tokens, TokenBatch)
        assert tokens.ids is not None  # SmartEncoder always returns ids
        self._store.put([_key(start + i) for i in range(len(batch))], tokens)
        # The part says that the states before it are complete, so it is written last, and at once.
        part = self._part(start)
        with uninterrupted():
            with (temporary := part.with_suffix(".writing")).open("wb") as file:
                np.savez(file, pooled=batch.pooled, ids=tokens.ids, offsets=tokens.offsets)
            os.replace(temporary, part)

    def _part(self, start: int) -> Path:
        """Return the file of pooled embeddings and ids of the texts from the position ``start`` on."""
        return self._path / f"from-{start:09d}.npz"

    def _read(self, part: Path) -> None:
        try:
            with np.load(part) as arrays:
                self.ids += np.split(arrays["ids"], arrays["offsets"][1:-1])
                self._pooled.append(arrays["pooled"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise EncoderError(
                f"{part} cannot be read ({error}); remove it, and the texts are encoded again from there on"
            ) from error

    def tokens(self, positions: Sequence[int]) -> TokenBatch:
        """Return the token states of the texts at ``positions``: (tokens, layers x width), with layers side by side."""
        codes = self._store.gather([_key(i) for i in positions])
        return TokenBatch(codes.embeddings, codes.offsets, np.concatenate([self.ids[i] for i in positions]))

    def close(self) -> None:
        self._store.close()


@dataclass(frozen=True, slots=True)
class DocumentFrequencies:
    """For each vocabulary id, the number of texts that contain it. The last id is the highest one that occurs.

    ``counts`` is (highest id + 1). ``texts`` is the number of all texts.
    """

    counts: NDArray[np.int64]
    texts: int

    @classmethod
    def of(cls, texts: Sequence[TokenIds]) -> DocumentFrequencies:
        """Return the document frequencies in ``texts``. Each text is given as the vocabulary ids of its tokens."""
        return cls(np.bincount(np.concatenate([np.unique(ids[ids >= 0]) for ids in texts]), minlength=1), len(texts))

    def inverse(self, ids: TokenIds) -> NDArray[np.float32]:
        """Return the inverse document frequency of each token (n). A token without an id counts as a token that every
        text contains.
        """
        known = np.where(ids < len(self.counts), self.counts[np.minimum(ids, len(self.counts) - 1)], 0)
        return maxsim.inverse_document_frequency(np.where(ids < 0, self.texts, known), self.texts)


def _key(position: int) -> bytes:
    return position.to_bytes(16, "big")


@dataclass(frozen=True, slots=True)
class CachedStates:
    """Training data with the states of its queries and documents.

    Attributes:
        data: the training data.
        queries: states of the queries.
        documents: states of the documents.
        groups: `content_groups` of the documents (n_documents).
        layers: layers of the states. They include the last layer.
        device: torch device to compute on.
        metrics: computes nDCG@10 from the positives of the queries.
    """

    data: TrainingData
    queries: TextStates
    documents: TextStates
    groups: NDArray[np.int64]
    layers: Sequence[int]
    device: str
    metrics: Metrics

    def states(self, tokens: TokenBatch, layers: Sequence[int]) -> torch.Tensor:
        """Return the states (tokens, layers, width) of ``layers`` from ``tokens``, float32 on the device."""
        rows: torch.Tensor = torch.from_numpy(np.array(tokens.embeddings)).to(self.device).float()
        return rows.view(len(rows), len(self.layers), -1)[:, [self.layers.index(layer) for layer in layers]]

    def embeddings(self, tokens: TokenBatch, adapter: Adapter | None) -> TokenBatch:
        """Return the token embeddings that ``adapter`` makes from ``tokens``. If it is None: the frozen model's."""
        with torch.inference_mode():
            if adapter is None:
                embeddings = functional.normalize(self.states(tokens, (-1,))[:, 0], dim=1)
            else:
                embeddings = adapter(self.states(tokens, adapter.layers))
            return replace(tokens, embeddings=embeddings.cpu().numpy())

    def sample(self, count: int, seed: int, layers: Sequence[int]) -> torch.Tensor:
        """Return states (tokens, layers, width) of random documents. Together they have about ``count`` tokens."""
        order = np.random.default_rng(seed).permutation(len(self.documents)).tolist()
        lengths = np.cumsum([len(self.documents.ids[i]) for i in order])
        enough = int(np.searchsorted(lengths, count)) + 1
        return self.states(self.documents.tokens(order[:enough]), layers)

    def ndcg(
        self, adapter: Adapter | None = None, others: CachedStates | None = None, distractors: Sequence[int] = ()
    ) -> ByRanking:
        """Return nDCG@10 of each query (n_queries) by the rankings ``pooled``, ``late`` and ``hybrid``.

        Scores are computed as `SmartIndex.search` computes them by default: query tokens are weighted by inverse
        document frequency, and ``hybrid`` has the default weights. For each query, all documents are ranked, and also
        the documents of ``others`` at the positions ``distractors``.
        """
        rankings = {"pooled": (1.0, 0.0), "late": (0.0, 1.0), "hybrid": DEFAULT_WEIGHTS}
        corpus = [(self.documents, "", list(range(len(self.documents))))]
        if others is not None:
            corpus.append((others.documents, "distractor ", list(distractors)))
        everything = list(range(len(self.queries)))
        queries = self.embeddings(self.queries.tokens(everything), adapter)
        ids = [documents.ids[i] for documents, _, positions in corpus for i in positions]
        weights = DocumentFrequencies.of(ids).inverse(np.concatenate(self.queries.ids))
        leaders = {name: [ranking.Leaders(_DEPTH) for _ in everything] for name in rankings}
        for documents, prefix, positions in corpus:
            for start in range(0, len(positions), _BATCH):
                block = positions[start : start + _BATCH]
                tokens = self.embeddings(documents.tokens(block), adapter)
                late = maxsim.late_interaction(queries, tokens, self.device, weights)
                pooled = maxsim.pooled_similarity(self.queries.pooled, documents.pooled[block])
                names = [prefix + _name(i) for i in block]
                for name, score_weights in rankings.items():
                    for i, leader in enumerate(leaders[name]):
                        leader.offer(names, pooled[i], late[i], score_weights)
        runs: dict[str, Run] = {
            name: {_name(i): leader.ids for i, leader in enumerate(of_queries)} for name, of_queries in leaders.items()
        }
        return {name: self.metrics.by_query(run)[NDCG] for name, run in runs.items()}


@contextmanager
def cached_states(
    data: TrainingData,
    encoder: SmartEncoder,
    layers: Sequence[int],
    folder: Path,
    codec: str = AdapterSettings.codec,
    *,
    name: str | None = None,
    show_progress_bar: bool = False,
) -> Iterator[CachedStates]:
    """Encode ``data`` once. The states are in a folder in ``folder``, which has to exist.

    With ``name``, the states stay in the folder of this name. If an encoding was interrupted, the next one goes on
    there. Then all other arguments must be the same. If there are several processes, each encodes its part, and all
    read all of it. Without ``name``, the folder is removed when the ``with`` block ends.

    Raises:
        EncoderError: the states of an interrupted encoding cannot be read.
        MissingExtra: ir-measures is not installed.
    """
    metrics = Metrics(_qrels(data), (NDCG,))
    with ExitStack() as stack:
        if name is None:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".states-", dir=folder)))
        else:
            path = folder / name
            path.mkdir(exist_ok=True)
        with processes.first_ahead() if name is not None else nullcontext():  # one process makes the stores
            queries, documents = (
                stack.enter_context(closing(TextStates(path / part, codec))) for part in ("queries", "documents")
            )

        share = processes.joined_count() if name is not None else 1

        def own(states: TextStates, count: int) -> list[int]:
            """Return the starts of the batches that this process has to encode."""
            starts = range(0, count, _BATCH)[processes.rank() % share :: share]
            return [start for start in starts if not states.has(start)]

        total = (len(data.queries) + len(data.documents)) // share
        done = (len(queries) + len(documents)) // share
        title = f"encoding on {encoder.device}"
        with Progress(total, title, "text", show_progress_bar, log_seconds=LOG_SECONDS, done=done) as progress:
            for start in own(queries, len(data.queries)):
                texts = [query.text for query in data.queries[start : start + _BATCH]]
                queries.write(start, encoder.token_states(texts, "query", layers))
                progress.update(len(texts))
            for start in own(documents, len(data.documents)):
                part = list(data.documents[start : start + _BATCH])
                contents = [document.content(encoder.modalities) for document in part]
                plain = [content.plain for content in contents]
                documents.write(start, encoder.token_states(plain, "document", layers))
                progress.update(len(part))
        if name is not None:
            processes.wait()
        for states in (queries, documents):
            states.read_written()
        groups = content_groups(data, encoder.modalities)
        yield CachedStates(data, queries, documents, groups, layers, encoder.device, metrics)


def _qrels(data: TrainingData) -> dict[str, dict[str, int]]:
    return {_name(i): {_name(at): 1 for at in query.positives} for i, query in enumerate(data.queries)}


def _name(position: int) -> str:
    return f"{position:09d}"
