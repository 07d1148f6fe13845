"""Training of an `Adapter` on states that are encoded once; the best epoch is kept, and compared with frozen SMART."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from smart_rag.config import AdapterObjective, Weighting, check_choice, check_count
from smart_rag.encoders.adapter import Adapter
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import InvalidInput
from smart_rag.scoring import maxsim as scoring
from smart_rag.training.batches import Batch, batch_of, check_trainable
from smart_rag.training.contrastive import DEFAULT_TEMPERATURE, contrastive_loss, late_scores
from smart_rag.training.data import TrainingData
from smart_rag.training.folder import check_folder
from smart_rag.training.hard_negatives import mine_negatives
from smart_rag.training.report import ByRanking, Epoch, TrainingReport
from smart_rag.training.split import distractors_of, split
from smart_rag.training.states import CachedStates, cached_states

Start = Literal["frozen", "random"]

# Token states that the principal components are taken of.
_SAMPLE = 50_000
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
    objective: AdapterObjective = "late"
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
        check_choice("objective", self.objective, AdapterObjective)
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


def train_adapter(
    encoder: SmartEncoder,
    data: TrainingData,
    out: str | Path,
    settings: AdapterSettings | None = None,
    *,
    held_out: TrainingData | float = 0.1,
    show_progress_bar: bool = False,
) -> TrainingReport:
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
    check_folder(out)
    if (out / "adapter.json").exists():
        raise InvalidInput(f"{out} holds an adapter; choose another folder, or remove it")
    if "adapter" in encoder.describe():
        raise InvalidInput(f"the encoder has an adapter already; train with SmartEncoder({encoder.model_name!r}) alone")
    if encoder.token_dimension != encoder.dimension:
        raise InvalidInput(
            f"{encoder.model_name} has trained token embeddings of its own, of {encoder.token_dimension} dimensions "
            f"beside {encoder.dimension} of its pooled ones; an adapter is for a model where both are of one width"
        )
    distractors: Sequence[int] = ()
    if isinstance(held_out, TrainingData):
        training, measured = data, held_out
    else:
        training, measured = split(data, held_out)
        distractors = distractors_of(data, training, measured)
    check_trainable(training, encoder, settings.batch_size)
    adapter = _fresh_adapter(encoder, settings)
    if settings.hard_negatives:
        training = mine_negatives(training, encoder, settings.hard_negatives, show_progress_bar=show_progress_bar)
    out.mkdir(parents=True, exist_ok=True)

    layers = tuple(dict.fromkeys([*settings.layers, -1]))
    with ExitStack() as stack:
        trained_on, measured_with = (
            stack.enter_context(
                cached_states(part, encoder, layers, out, settings.codec, show_progress_bar=show_progress_bar)
            )
            for part in (training, measured)
        )

        def measure(adapter: Adapter | None) -> ByRanking:
            return measured_with.ndcg(adapter, trained_on, distractors)

        frozen = measure(None)
        if settings.start == "frozen":
            adapter.start_at_frozen(trained_on.sample(_SAMPLE, settings.seed, settings.layers))
        history, best_epoch, trained = fit(adapter, trained_on, measure, settings, show_progress_bar)
    adapter.save(out)
    counts = (len(training.queries), len(measured.queries), len(measured.documents) + len(distractors))
    return TrainingReport.of(counts, history, best_epoch, frozen, trained, settings.objective)


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


def batches(cached: CachedStates, settings: AdapterSettings, generator: np.random.Generator) -> Iterator[Batch]:
    """Yield the batches of an epoch: each query once, with one of its positives, drawn by chance; the rest is left."""
    order = generator.permutation(len(cached.data.queries)).tolist()
    for start in range(0, len(order) - settings.batch_size + 1, settings.batch_size):
        positions = order[start : start + settings.batch_size]
        yield batch_of(cached.data, cached.alike, positions, settings.hard_negatives, generator)


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
    measure: Callable[[Adapter | None], ByRanking],
    settings: AdapterSettings,
    show_progress_bar: bool = False,
) -> tuple[list[Epoch], int, ByRanking]:
    """Leave ``adapter`` as it was after its best epoch; return the epochs, which of them it was, and its nDCG@10."""
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    per_epoch = len(cached.data.queries) // settings.batch_size
    steps = settings.epochs * per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps))
    generator = np.random.default_rng(settings.seed)

    def epoch(loss: float | None) -> tuple[Epoch, ByRanking]:
        values = measure(adapter)
        return Epoch(loss, *(float(values[name].mean()) for name in ("pooled", "late", "hybrid"))), values

    history = [epoch(None)[0]]
    best: tuple[float, int, Any, ByRanking] | None = None
    with tqdm(total=steps, desc="training", unit="batch", disable=not show_progress_bar) as progress:
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
