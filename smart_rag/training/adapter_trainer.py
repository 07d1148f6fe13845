"""Training of an `Adapter` on cached states. The best epoch's adapter is kept and compared with the frozen model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from smart_rag.encoders.adapter import Adapter
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import InvalidInput
from smart_rag.paths import absolute
from smart_rag.scoring import maxsim
from smart_rag.training.batches import Batch, check_trainable, make_batch
from smart_rag.training.data import TrainingData
from smart_rag.training.folder import check_folder
from smart_rag.training.hard_negatives import mine_negatives
from smart_rag.training.losses import contrastive_loss, late_scores
from smart_rag.training.report import ByRanking, Epoch, TrainingReport
from smart_rag.training.settings import DEFAULT_HELD_OUT, WARM_UP, AdapterSettings
from smart_rag.training.split import hold_out
from smart_rag.training.states import CachedStates, cached_states

# Number of token states from which the principal components are computed.
_SAMPLE = 50_000
_MAX_GRADIENT_NORM = 1.0


def train_adapter(
    encoder: SmartEncoder,
    data: TrainingData,
    out: str | Path,
    settings: AdapterSettings | None = None,
    *,
    held_out: TrainingData | float = DEFAULT_HELD_OUT,
    show_progress_bar: bool = False,
) -> TrainingReport:
    """Train an adapter for ``encoder`` on ``data``, save it in the folder ``out``, and return the report.

    All texts are encoded once. During the training, their states are in a temporary folder in ``out``. So an epoch
    needs no forward pass of the model. The model does not change.

    Args:
        encoder: encoder of the frozen model.
        data: training data.
        out: folder of the adapter. It must not already hold an adapter.
        settings: settings of the training. By default, `AdapterSettings()`.
        held_out: data for the evaluation after each epoch, or the share of ``data`` that `split` holds out. If it is a
            share, training documents that answer no held-out query are ranked, too. In all, up to 2,000 documents are
            ranked.
        show_progress_bar: whether to show progress bars.

    Raises:
        InvalidInput: ``out`` already holds an adapter, ``encoder`` already has an adapter or trained token embeddings,
            there are fewer queries than a batch needs, or the model cannot encode the documents.
        EncoderError: the loss is not finite.
        MissingExtra: ir-measures is not installed.
    """
    settings = settings or AdapterSettings()
    out = absolute(out)
    _check(encoder, out)
    training, measured, distractors = hold_out(data, held_out)
    check_trainable(training, encoder, settings.batch_size)
    adapter = _new_adapter(encoder, settings)
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


def _check(encoder: SmartEncoder, out: Path) -> None:
    """Before the work begins, check that an adapter can be trained for ``encoder`` and saved in ``out``."""
    check_folder(out)
    if (out / "adapter.json").exists():
        raise InvalidInput(f"{out} holds an adapter; choose another folder, or remove it")
    if "adapter" in encoder.describe():
        raise InvalidInput(
            f"the encoder already has an adapter; train with SmartEncoder({encoder.model_name!r}), without adapter="
        )
    if encoder.token_dimension != encoder.dimension:
        raise InvalidInput(
            f"{encoder.model_name} has trained token embeddings: they have {encoder.token_dimension} dimensions, its "
            f"pooled embeddings {encoder.dimension}; use a model where both have the same number"
        )


def _new_adapter(encoder: SmartEncoder, settings: AdapterSettings) -> Adapter:
    with torch.random.fork_rng(devices=[]):  # the caller's random state does not change
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
    """Yield the batches of an epoch, in random order. If the last queries do not fill a batch, they are left out."""
    order = generator.permutation(len(cached.data.queries)).tolist()
    for start in range(0, len(order) - settings.batch_size + 1, settings.batch_size):
        positions = order[start : start + settings.batch_size]
        yield make_batch(cached.data, cached.groups, positions, settings.hard_negatives, generator)


def batch_loss(cached: CachedStates, adapter: Adapter, batch: Batch, settings: AdapterSettings) -> torch.Tensor:
    """Return the loss of ``batch``, a scalar, with gradients for ``adapter``."""
    texts = (cached.queries.tokens(batch.queries), cached.documents.tokens(batch.documents))
    queries, documents = (adapter(cached.states(tokens, adapter.layers)) for tokens in texts)
    lengths = [torch.from_numpy(np.diff(tokens.offsets)).to(cached.device) for tokens in texts]
    weights = None
    if settings.weighting == "idf":
        ids = texts[0].ids
        assert ids is not None
        weights = torch.from_numpy(cached.documents.frequencies.inverse(ids)).to(cached.device)
    scores = late_scores(queries, lengths[0], documents, lengths[1], weights)
    if settings.objective == "hybrid":  # the plain sum, as in the paper (arXiv 2605.24938, section 3)
        pooled = maxsim.pooled_similarity(
            cached.queries.pooled[batch.queries], cached.documents.pooled[batch.documents]
        )
        scores = torch.from_numpy(pooled).to(cached.device) + scores
    positives, excluded = (torch.from_numpy(of).to(cached.device) for of in (batch.positives, batch.excluded))
    return contrastive_loss(scores, positives, excluded, temperature=settings.temperature)


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the factor of the learning rate at ``step`` of ``steps``: linear warm-up over 3 %, then a cosine to 0.

    >>> [round(learning_rate_factor(step, 100), 2) for step in (0, 2, 3, 51, 99)]
    [0.33, 1.0, 1.0, 0.51, 0.0]
    """
    warm_up = max(1, math.ceil(WARM_UP * steps))
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
    """Train ``adapter`` in place. Afterwards, it has the weights of its best epoch.

    Returns:
        The evaluations, the position of the best one, and its nDCG@10.
    """
    steps = settings.epochs * (len(cached.data.queries) // settings.batch_size)
    step = _optimizer_step(adapter, cached, settings, steps)
    generator = np.random.default_rng(settings.seed)
    history = [Epoch.of(None, measure(adapter))]
    best: tuple[float, int, Any, ByRanking] | None = None
    with tqdm(total=steps, desc="training", unit="batch", disable=not show_progress_bar) as progress:
        for epoch in range(1, settings.epochs + 1):
            losses = []
            for batch in batches(cached, settings, generator):
                losses.append(step(batch))
                progress.update()
                progress.set_postfix(loss=f"{losses[-1]:.4f}", late=f"{history[-1].late:.4f}")
            ndcg = measure(adapter)
            history.append(Epoch.of(float(np.mean(losses)), ndcg))
            score = getattr(history[-1], settings.objective)
            if best is None or score > best[0]:
                best = score, epoch, copy.deepcopy(adapter.state_dict()), ndcg
    assert best is not None  # there is at least one epoch
    _, best_epoch, weights, ndcg = best
    adapter.load_state_dict(weights)
    return history, best_epoch, ndcg


def _optimizer_step(
    adapter: Adapter, cached: CachedStates, settings: AdapterSettings, steps: int
) -> Callable[[Batch], float]:
    """Return a function that trains ``adapter`` on one batch and returns its loss."""
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps))

    def step(batch: Batch) -> float:
        loss = batch_loss(cached, adapter, batch, settings)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(adapter.parameters(), _MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        return float(loss.detach())

    return step
