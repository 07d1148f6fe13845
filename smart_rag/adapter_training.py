"""Training of an `Adapter` on states that are encoded once; the best epoch is kept, and compared with frozen SMART."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from tqdm.auto import tqdm

from smart_rag import bootstrap, scoring
from smart_rag import codec as codecs
from smart_rag.adapter import Adapter
from smart_rag.bootstrap import Difference
from smart_rag.config import DEFAULT_WEIGHTS, Objective, Weighting, check_choice, check_count
from smart_rag.contrastive import DEFAULT_TEMPERATURE, contrastive_loss, late_scores
from smart_rag.encoder import SmartEncoder, plain
from smart_rag.errors import InvalidInput
from smart_rag.metrics import Metrics, Run
from smart_rag.token_store import TokenStore
from smart_rag.training_data import TrainingData, document_id, mine_negatives, split
from smart_rag.types import Representation, TokenBatch, TokenIds

Start = Literal["frozen", "random"]

_NDCG = "ndcg@10"
_DEPTH = 10
# Texts that are encoded before they are written, and documents whose tokens are in memory while they are ranked.
_AT_ONCE = 128
# Token states that the principal components are taken of.
_SAMPLE = 50_000
# Held-out queries rank so many documents, if there are: among few, every ranking is good.
_MOST_RANKED = 2_000
_WARM_UP = 0.03
_MOST_GRADIENT = 1.0
_PAPER = (1.0, 1.0)  # what the hybrid objective adds up (arXiv 2605.24938, section 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """How an adapter is trained; the defaults are the paper's (arXiv 2605.24938) but for ``start`` and ``epochs``.

    ``dimension`` is that of the token embeddings, None for the model's; ``layers`` are those of the model whose states
    are taken. ``objective`` is the score that is trained, ``weighting`` what query tokens count by in it, as in
    `IndexConfig`. ``start``: ``"frozen"`` begins with the geometry that the
    model has, ``"random"`` with Xavier's uniform numbers. ``hard_negatives`` of each query join a batch; they are mined
    where the data has fewer. ``codec`` is how states are kept while training.
    """

    dimension: int | None = None
    layers: tuple[int, ...] = (-1,)
    objective: Objective = "late"
    weighting: Weighting = "none"
    start: Start = "frozen"
    epochs: int = 5
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    temperature: float = DEFAULT_TEMPERATURE
    hard_negatives: int = 0
    codec: str = "float16"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("objective", self.objective, Objective)
        check_choice("weighting", self.weighting, Weighting)
        check_choice("start", self.start, Start)
        check_count("epochs", self.epochs)
        if self.batch_size < 2:
            raise InvalidInput(f"batch_size must be at least 2, got {self.batch_size}: the others are the negatives")
        if self.hard_negatives < 0:
            raise InvalidInput(f"hard_negatives must be at least 0, got {self.hard_negatives}")
        for name in ("learning_rate", "temperature"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"{name} must be above 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Epoch:
    """The mean loss of an epoch, and nDCG@10 on the held-out queries after it; before the first there is no loss."""

    loss: float | None
    late: float
    hybrid: float


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """What came of a training.

    ``history`` begins with the adapter before the first epoch; ``best_epoch`` is the one that was kept. ``ndcg`` is
    nDCG@10 on the held-out queries, each ranking ``documents``, by ``pooled``, ``frozen late``, ``frozen
    hybrid``, ``trained late`` and ``trained hybrid``; ``differences`` are those between two of them. The best
    epoch was chosen on the same queries, which flatters it a little.
    """

    queries: int
    held_out_queries: int
    documents: int
    history: Sequence[Epoch]
    best_epoch: int
    ndcg: Mapping[str, float]
    differences: Mapping[str, Difference]
    objective: Objective

    @property
    def warning(self) -> str | None:
        """Why the adapter should not be used, None where it is better than the frozen model."""
        found = self.differences[f"trained {self.objective} - frozen {self.objective}"]
        if found.verdict == "better":
            return None
        what = "is worse than" if found.verdict == "worse" else "is not measurably better than"
        return (
            f"the trained adapter {what} the frozen model on {found.queries} held-out queries: {found.mean:+.4f} "
            f"nDCG@10, 95 % interval {found.low:+.4f} to {found.high:+.4f}; more data, or hard negatives, may help"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        differences = {name: found.as_json(_NDCG) for name, found in self.differences.items()}
        return {**asdict(self), "differences": differences, "warning": self.warning}


def train_adapter(
    encoder: SmartEncoder,
    data: TrainingData,
    out: str | Path,
    settings: AdapterSettings | None = None,
    *,
    held_out: TrainingData | float = 0.1,
    show_progress: bool = False,
) -> AdapterReport:
    """Train an adapter for ``encoder`` on ``data``, save it in the folder ``out``, and return what came of it.

    The states of all texts are kept on disk beside ``out`` until it is done, ``codec``'s bytes for each token; an
    epoch then costs the adapter alone. The encoder's model stays as it is.

    Args:
        held_out: what is measured with after each epoch; a number is the part of ``data`` that `split` keeps apart.
            Documents of the other part that answer none of its queries are ranked with its own, up to 2,000 in all.

    Raises:
        InvalidInput: ``out`` holds an adapter, ``encoder`` has one, or there are too few queries for a batch.
        MissingExtra: ir-measures is not installed.
    """
    settings = settings or AdapterSettings()
    out = Path(out)
    if (out / "adapter.json").exists():
        raise InvalidInput(f"{out} holds an adapter; choose another folder, or remove it")
    if "adapter" in encoder.describe():
        raise InvalidInput(f"the encoder has an adapter already; train with SmartEncoder({encoder.model_name!r}) alone")
    if encoder.token_dimension != encoder.dimension:
        raise InvalidInput(
            f"{encoder.model_name} has trained token embeddings of its own, of {encoder.token_dimension} dimensions "
            f"beside {encoder.dimension} of its pooled ones; an adapter is for a model where both are of one width"
        )
    distractors: list[int] = []
    if isinstance(held_out, TrainingData):
        training, measured = data, held_out
    else:
        training, measured = split(data, held_out)
        distractors = _distractors(data, training, measured)
    if len(training.queries) < settings.batch_size:
        raise InvalidInput(
            f"{len(training.queries)} queries to train on, fewer than a batch of {settings.batch_size}; bring more, or "
            "choose a smaller batch_size"
        )
    adapter = _fresh_adapter(encoder, settings)
    if settings.hard_negatives:
        training = mine_negatives(training, encoder, settings.hard_negatives, show_progress=show_progress)
    out.mkdir(parents=True, exist_ok=True)

    layers = tuple(dict.fromkeys([*settings.layers, -1]))
    with ExitStack() as stack:
        trained_on, measured_with = (
            stack.enter_context(cached_states(part, encoder, layers, out, settings.codec, show_progress=show_progress))
            for part in (training, measured)
        )

        def measure(adapter: Adapter | None) -> dict[str, NDArray[np.float64]]:
            return measured_with.ndcg(adapter, trained_on, distractors)

        frozen = measure(None)
        if settings.start == "frozen":
            adapter.start_at_frozen(trained_on.sample(_SAMPLE, settings.seed, settings.layers))
        history, best_epoch, trained = fit(adapter, trained_on, measure, settings, show_progress)
    adapter.save(out)
    by_ranking = {
        "pooled": frozen["pooled"],
        **{f"frozen {name}": frozen[name] for name in ("late", "hybrid")},
        **{f"trained {name}": trained[name] for name in ("late", "hybrid")},
    }
    pairs = [("trained late", "frozen late"), ("trained hybrid", "frozen hybrid"), ("trained hybrid", "pooled")]
    return AdapterReport(
        len(training.queries),
        len(measured.queries),
        len(measured.documents) + len(distractors),
        tuple(history),
        best_epoch,
        {name: float(values.mean()) for name, values in by_ranking.items()},
        {f"{a} - {b}": bootstrap.difference(by_ranking[a], by_ranking[b]) for a, b in pairs},
        settings.objective,
    )


def _distractors(data: TrainingData, training: TrainingData, held_out: TrainingData) -> list[int]:
    """Return the positions in ``training`` of documents that answer no held-out query."""
    asked = {query.text for query in held_out.queries}
    answers = {i for query in data.queries if query.text in asked for i in query.positives}
    split_off = {document_id(data.documents, i) for i in answers}
    spare = max(0, _MOST_RANKED - len(held_out.documents))
    return [i for i in range(len(training.documents)) if document_id(training.documents, i) not in split_off][:spare]


def _fresh_adapter(encoder: SmartEncoder, settings: AdapterSettings) -> Adapter:
    with torch.random.fork_rng(devices=[]):  # the caller's own numbers go on as if nothing had been drawn
        torch.manual_seed(settings.seed)
        adapter = Adapter(
            encoder.dimension,
            settings.dimension,
            settings.layers,
            model=encoder.model_name,
            model_weights=encoder.describe()["weights"],
        )
    return adapter.to(encoder.device)


def _qrels(data: TrainingData) -> dict[str, dict[str, int]]:
    return {_name(i): {_name(at): 1 for at in query.positives} for i, query in enumerate(data.queries)}


def _name(position: int) -> str:
    return f"{position:09d}"


# --- states on disk ---------------------------------------------------------------------------


class _States:
    """The states of texts: those of tokens coded on disk, the pooled ones and vocabulary ids in memory."""

    def __init__(self, path: Path, codec_name: str) -> None:
        self._store = TokenStore(path, codecs.codec(codec_name))
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
    ) -> dict[str, NDArray[np.float64]]:
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
        return {kind: self.judge.by_query(run)[_NDCG] for kind, run in runs.items()}


@contextmanager
def cached_states(
    data: TrainingData,
    encoder: SmartEncoder,
    layers: Sequence[int],
    folder: Path,
    codec: str = "float16",
    *,
    show_progress: bool = False,
) -> Iterator[CachedStates]:
    """Encode ``data`` once, and keep the states in ``folder`` until the block ends.

    Raises:
        MissingExtra: ir-measures is not installed.
    """
    judge = Metrics(_qrels(data), (_NDCG,))
    with (
        tempfile.TemporaryDirectory(prefix=".states-", dir=folder) as temporary,
        closing(_States(Path(temporary) / "queries", codec)) as queries,
        closing(_States(Path(temporary) / "documents", codec)) as documents,
    ):
        total = len(data.queries) + len(data.documents)
        groups: dict[str, int] = {}
        alike = []
        with tqdm(
            total=total, desc=f"encoding on {encoder.device}", unit="item", disable=not show_progress
        ) as progress:
            for start in range(0, len(data.queries), _AT_ONCE):
                texts = [query.text for query in data.queries[start : start + _AT_ONCE]]
                queries.append(encoder.token_states(texts, "query", layers))
                progress.update(len(texts))
            for start in range(0, len(data.documents), _AT_ONCE):
                part = list(data.documents[start : start + _AT_ONCE])
                contents = [document.content(encoder.modalities) for document in part]
                for content, document in zip(contents, part, strict=True):
                    alike.append(groups.setdefault(content.text if content.image is None else document.id, len(groups)))
                documents.append(encoder.token_states(list(map(plain, contents)), "document", layers))
                progress.update(len(part))
        yield CachedStates(data, queries, documents, np.asarray(alike), layers, encoder.device, judge)


# --- epochs -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch: which queries and documents; which document each query is to find, and which are no negatives."""

    queries: list[int]
    documents: list[int]
    positives: NDArray[np.int64]
    excluded: NDArray[np.bool_]


def batches(cached: CachedStates, settings: AdapterSettings, generator: np.random.Generator) -> Iterator[Batch]:
    """Yield the batches of an epoch: each query once, with one of its positives, drawn by chance; the rest is left."""
    order = generator.permutation(len(cached.data.queries)).tolist()
    for start in range(0, len(order) - settings.batch_size + 1, settings.batch_size):
        yield _batch(cached, order[start : start + settings.batch_size], settings.hard_negatives, generator)


def _batch(cached: CachedStates, positions: list[int], hard_negatives: int, generator: np.random.Generator) -> Batch:
    queries = [cached.data.queries[i] for i in positions]
    chosen = [query.positives[generator.integers(len(query.positives))] for query in queries]
    hard = [
        query.negatives[i]
        for query in queries
        for i in generator.permutation(len(query.negatives))[:hard_negatives].tolist()
    ]
    documents = list(dict.fromkeys([*chosen, *hard]))
    column = {document: i for i, document in enumerate(documents)}
    positives = np.asarray([column[document] for document in chosen])
    excluded = np.stack([np.isin(cached.alike[documents], cached.alike[list(query.positives)]) for query in queries])
    excluded[np.arange(len(queries)), positives] = False
    return Batch(positions, documents, positives, excluded)


def batch_loss(cached: CachedStates, adapter: Adapter, batch: Batch, settings: AdapterSettings) -> torch.Tensor:
    """Return the loss of one batch, with gradients for the adapter."""
    texts = (cached.queries.tokens(batch.queries), cached.documents.tokens(batch.documents))
    queries, documents = (adapter(cached.states(tokens, adapter.layers)) for tokens in texts)
    lengths = [torch.from_numpy(np.diff(tokens.offsets)).to(cached.device) for tokens in texts]
    weights = None
    if settings.weighting == "idf":
        ids = texts[0].ids
        assert ids is not None
        weights = torch.from_numpy(cached.documents.frequencies.inverse(ids)).to(cached.device)
    scores = late_scores(queries, lengths[0], documents, lengths[1], weights)
    if settings.objective == "hybrid":
        pooled = scoring.pooled_similarity(
            cached.queries.pooled[batch.queries], cached.documents.pooled[batch.documents]
        )
        scores = _PAPER[0] * torch.from_numpy(pooled).to(cached.device) + _PAPER[1] * scores
    positives, excluded = (torch.from_numpy(of).to(cached.device) for of in (batch.positives, batch.excluded))
    return contrastive_loss(scores, positives, excluded, temperature=settings.temperature)


def learning_rate_factor(step: int, steps: int) -> float:
    """Return what part of the learning rate step ``step`` of ``steps`` has: up for 3 % of them, then a cosine to 0.

    >>> [round(learning_rate_factor(step, 100), 2) for step in (0, 2, 3, 51, 99)]
    [0.33, 1.0, 1.0, 0.51, 0.0]
    """
    warm_up = max(1, math.ceil(_WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def fit(
    adapter: Adapter,
    cached: CachedStates,
    measure: Callable[[Adapter | None], dict[str, NDArray[np.float64]]],
    settings: AdapterSettings,
    show_progress: bool = False,
) -> tuple[list[Epoch], int, dict[str, NDArray[np.float64]]]:
    """Leave ``adapter`` as it was after its best epoch; return the epochs, which of them it was, and its nDCG@10."""
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    per_epoch = len(cached.data.queries) // settings.batch_size
    steps = settings.epochs * per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps))
    generator = np.random.default_rng(settings.seed)

    def epoch(loss: float | None) -> tuple[Epoch, dict[str, NDArray[np.float64]]]:
        values = measure(adapter)
        return Epoch(loss, *(float(values[name].mean()) for name in ("late", "hybrid"))), values

    history = [epoch(None)[0]]
    best: tuple[float, int, Any, dict[str, NDArray[np.float64]]] | None = None
    with tqdm(total=steps, desc="training", unit="batch", disable=not show_progress) as progress:
        for _ in range(settings.epochs):
            losses = []
            for batch in batches(cached, settings, generator):
                loss = batch_loss(cached, adapter, batch, settings)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(adapter.parameters(), _MOST_GRADIENT)
                optimizer.step()
                schedule.step()
                losses.append(float(loss.detach()))
                progress.update()
                progress.set_postfix(loss=f"{losses[-1]:.4f}", late=f"{history[-1].late:.4f}")
            found, values = epoch(float(np.mean(losses)))
            history.append(found)
            score = getattr(found, settings.objective)
            if best is None or score > best[0]:
                best = score, len(history) - 1, copy.deepcopy(adapter.state_dict()), values
    assert best is not None  # there is one epoch at least
    adapter.load_state_dict(best[2])
    return history, best[1], best[3]
