"""Training of an `Adapter` on cached states. The best epoch's adapter is kept and compared with the frozen model."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch

from smart_rag.encoders.adapter import Adapter
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import InvalidInput
from smart_rag.paths import absolute
from smart_rag.progress import Progress
from smart_rag.scoring import maxsim
from smart_rag.training.batches import Batch, check_trainable, make_batch, with_notes_on_teacher
from smart_rag.training.data import TrainingData
from smart_rag.training.losses import late_scores, training_loss
from smart_rag.training.report import ByRanking, Epoch, TrainingReport
from smart_rag.training.runs import processes
from smart_rag.training.runs.checkpoints import read_checkpoint, write_checkpoint
from smart_rag.training.runs.folder import TrainingFolder, record_of
from smart_rag.training.runs.interrupts import uninterrupted
from smart_rag.training.runs.prepared import prepare_once
from smart_rag.training.settings import DEFAULT_HELD_OUT, LOG_SECONDS, WARM_UP, AdapterSettings
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
    keep_anyway: bool = False,
    resume: bool = False,
    show_progress_bar: bool = False,
) -> TrainingReport:
    """Train an adapter for ``encoder`` on ``data``, save it in the folder ``out``, and return the report.

    All texts are encoded once. During the training, their states are in the folder ``checkpoints`` in ``out``. So an
    epoch needs no forward pass of the model. The model does not change.

    The adapter of the best epoch is saved. If no epoch ranks the held-out queries better than the adapter did before
    the first step, the training gained nothing, and nothing is saved. An adapter as wide as the model must also be
    better than the frozen model.

    If the training is interrupted by Ctrl-C, by an error or by the end of the process, ``checkpoints`` stays in
    ``out``. With Ctrl-C, no step is lost.

    Processes that ``torchrun`` starts train one adapter. Each encodes its part of the texts, and each step has
    ``batch_size`` queries for each process. The documents of all of them are negatives of each query. The first process
    evaluates and writes, and all return the same report.

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
    with processes.joined(encoder.device):
        return _train(encoder, data, out, settings, held_out, keep_anyway, resume, show_progress_bar)


def _train(
    encoder: SmartEncoder,
    data: TrainingData,
    out: str | Path,
    settings: AdapterSettings,
    held_out: TrainingData | float,
    keep_anyway: bool,
    resume: bool,
    show_progress_bar: bool,
) -> TrainingReport:
    """Do what `train_adapter` says, in processes that are joined."""
    show_progress_bar = show_progress_bar and processes.is_first()
    folder = TrainingFolder(absolute(out), "an adapter")
    checkpoint = folder.check(resume)
    _check(encoder)
    training, measured, distractors = hold_out(data, held_out)
    check_trainable(training, encoder, settings.batch_size)
    training = with_notes_on_teacher(training, settings)
    adapter = _new_adapter(encoder, settings)
    record = record_of(settings, encoder, training, measured)
    processes.wait()  # all have checked the folder before the first one writes into it
    with processes.first_ahead():
        if resume:
            folder.check_record(record)
        else:
            folder.start(record)
        # The first process mines and asks the teacher, and the others read what it wrote.
        training = prepare_once(training, encoder, settings, folder.checkpoints, show_progress_bar=show_progress_bar)

    layers = tuple(dict.fromkeys([*settings.layers, -1]))
    with ExitStack() as stack:
        trained_on, measured_with = (
            stack.enter_context(
                cached_states(
                    part,
                    encoder,
                    layers,
                    folder.checkpoints,
                    settings.codec,
                    name=name,
                    show_progress_bar=show_progress_bar,
                )
            )
            for name, part in (("training", training), ("held-out", measured))
        )

        def measure(adapter: Adapter | None) -> ByRanking:
            return processes.from_first(lambda: measured_with.ndcg(adapter, trained_on, distractors))

        frozen = measure(None)
        if settings.start == "frozen":
            adapter.start_at_frozen(trained_on.sample(_SAMPLE, settings.seed, settings.layers))
        fitting = Fitting(adapter, trained_on, settings, folder.checkpoints)
        if checkpoint is not None:
            fitting.load(checkpoint)
        history, best_epoch, trained = fitting.run(measure, show_progress_bar)
    to_beat = history[0].by(settings.objective)
    if adapter.dimension == adapter.width:  # a narrower one has another use: it makes the store smaller
        to_beat = max(to_beat, float(frozen[settings.objective].mean()))
    is_saved = keep_anyway or history[best_epoch].by(settings.objective) > to_beat
    if not is_saved:
        best_epoch, trained = 0, frozen
    processes.wait()  # all have closed the states
    if processes.is_first():
        if is_saved:
            adapter.save(folder.path)
        folder.remove_checkpoints()
    processes.wait()
    counts = (len(training.queries), len(measured.queries), len(measured.documents) + len(distractors))
    return TrainingReport.of(
        counts, history, best_epoch, frozen, trained, settings.objective, to_beat, notes=training.notes
    )


def _check(encoder: SmartEncoder) -> None:
    """Before the work begins, check that an adapter can be trained for ``encoder``."""
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
    """Yield the batches of an epoch, in random order. If the last queries do not fill a batch, they are left out.

    Several processes share a batch of ``batch_size`` queries for each of them. All get the same batches.
    """
    order = generator.permutation(len(cached.data.queries)).tolist()
    size = settings.batch_size * processes.joined_count()
    for start in range(0, len(order) - size + 1, size):
        positions = order[start : start + size]
        yield make_batch(cached.data, cached.groups, positions, settings.hard_negatives, generator)


def batch_loss(cached: CachedStates, adapter: Adapter, batch: Batch, settings: AdapterSettings) -> torch.Tensor:
    """Return the loss of ``batch``, a scalar, with gradients for ``adapter``.

    Several processes share the batch: each adapts its part of the documents, and has the loss of its part of the
    queries. The mean over the processes, of the loss and of the gradients, is that of the whole batch.
    """
    own = _own_part(len(batch.queries))
    # With too few documents for a part each, all adapt all of them.
    is_shared = processes.are_joined() and len(batch.documents) >= processes.joined_count()
    adapted = batch.documents[_own_part(len(batch.documents))] if is_shared else batch.documents
    texts = (cached.queries.tokens(batch.queries[own]), cached.documents.tokens(adapted))
    queries, documents = (adapter(cached.states(tokens, adapter.layers)) for tokens in texts)
    lengths = [torch.from_numpy(np.diff(tokens.offsets)).to(cached.device) for tokens in texts]
    if is_shared:
        documents, lengths[1] = processes.gather(documents), processes.gather(lengths[1])
    weights = None
    if settings.weighting == "idf":
        ids = texts[0].ids
        assert ids is not None
        weights = torch.from_numpy(cached.documents.frequencies.inverse(ids)).to(cached.device)
    scores = late_scores(queries, lengths[0], documents, lengths[1], weights)
    if settings.objective == "hybrid":  # the plain sum, as in the paper (arXiv 2605.24938, section 3)
        pooled = maxsim.pooled_similarity(
            cached.queries.pooled[batch.queries[own]], cached.documents.pooled[batch.documents]
        )
        scores = torch.from_numpy(pooled).to(cached.device) + scores
    positives, excluded, teacher = (
        torch.from_numpy(of[own]).to(cached.device) for of in (batch.positives, batch.excluded, batch.teacher)
    )
    return training_loss(scores, positives, excluded, teacher, settings, temperature=settings.temperature)


def _own_part(count: int) -> slice:
    """Return the part of ``count`` items that belongs to this process. The parts differ in length by one at most."""
    rank, processes_in_all = processes.rank(), processes.joined_count()
    return slice(count * rank // processes_in_all, count * (rank + 1) // processes_in_all)


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the factor of the learning rate at ``step`` of ``steps``: linear warm-up over 3 %, then a cosine to 0.

    >>> [round(learning_rate_factor(step, 100), 2) for step in (0, 2, 3, 51, 99)]
    [0.33, 1.0, 1.0, 0.51, 0.0]
    """
    warm_up = max(1, math.ceil(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


class Fitting:
    """Training of ``adapter``, in place. After any step, `save` writes a checkpoint, from which `load` goes on.

    The batches of an epoch depend only on the seed and on the number of the epoch.

    Args:
        adapter: the adapter, in its state before the first step.
        cached: states of the training data.
        settings: settings of the training.
        checkpoints: folder of the checkpoints.
    """

    def __init__(self, adapter: Adapter, cached: CachedStates, settings: AdapterSettings, checkpoints: Path) -> None:
        self.adapter = adapter
        self.cached = cached
        self.settings = settings
        self.checkpoints = checkpoints
        self._steps_of_epoch = len(cached.data.queries) // (settings.batch_size * processes.joined_count())
        self._steps = settings.epochs * self._steps_of_epoch
        self._optimizer = torch.optim.AdamW(
            adapter.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: learning_rate_factor(step, self._steps)
        )
        self._history: list[Epoch] = []
        self._losses: list[float] = []  # of the steps of the epoch that is under way
        self._best: tuple[int, dict[str, torch.Tensor], ByRanking] | None = None
        self._next_save = 0.0

    def run(
        self, measure: Callable[[Adapter | None], ByRanking], show_progress_bar: bool = False
    ) -> tuple[list[Epoch], int, ByRanking]:
        """Train the adapter. Afterwards, it has the weights of its best epoch.

        Returns:
            The evaluations, the position of the best one after the first step, and its nDCG@10.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed. The checkpoint has all steps that were made.
            EncoderError: the loss is not finite.
        """
        processes.copy_from_first(self.adapter.parameters())
        if not self._history:
            self._history = [Epoch.of(None, measure(self.adapter))]
        self._plan_save()
        done = (len(self._history) - 1) * self._steps_of_epoch + len(self._losses)
        title = f"training on {self.cached.device}"
        log_seconds = LOG_SECONDS if processes.is_first() else math.inf
        with Progress(self._steps, title, "step", show_progress_bar, log_seconds=log_seconds, done=done) as progress:
            try:
                while len(self._history) <= self.settings.epochs:
                    self._train_epoch(progress)
                    self._evaluate(measure(self.adapter))
            except KeyboardInterrupt:
                self.save()
                raise
        assert self._best is not None  # there is at least one epoch
        best_epoch, weights, ndcg = self._best
        self.adapter.load_state_dict(weights)
        return self._history, best_epoch, ndcg

    def _train_epoch(self, progress: Progress) -> None:
        """Train on the batches of the epoch that no step was made for yet."""
        epoch, late = len(self._history), self._history[-1].late
        made = len(self._losses)
        generator = np.random.default_rng([self.settings.seed, epoch])
        for i, batch in enumerate(batches(self.cached, self.settings, generator)):
            if i < made:
                continue
            with uninterrupted(in_all=True) if processes.are_joined() else nullcontext():
                self._step(batch)
            loss = self._losses[-1]
            progress.show(f"epoch {epoch} of {self.settings.epochs}, loss {loss:.4f}, late {late:.4f}")
            progress.update(1)
            if time.monotonic() >= self._next_save:
                self.save()

    def _step(self, batch: Batch) -> None:
        loss = batch_loss(self.cached, self.adapter, batch, self.settings)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        mean_loss = loss.detach().clone()
        processes.average([mean_loss, *(weights.grad for weights in self.adapter.parameters())])
        torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), _MAX_GRADIENT_NORM)
        with uninterrupted():
            self._optimizer.step()
            self._schedule.step()
            self._losses.append(float(mean_loss))

    def _evaluate(self, ndcg: ByRanking) -> None:
        """End an epoch with the evaluation ``ndcg``."""
        with uninterrupted():
            objective, epoch = self.settings.objective, len(self._history)
            self._history.append(Epoch.of(float(np.mean(self._losses)), ndcg))
            self._losses = []
            if self._best is None or self._history[-1].by(objective) > self._history[self._best[0]].by(objective):
                self._best = epoch, copy.deepcopy(self.adapter.state_dict()), ndcg
        self.save()

    def _plan_save(self) -> None:
        self._next_save = time.monotonic() + 60 * self.settings.checkpoint_minutes

    def save(self) -> None:
        """Write a checkpoint of the last step. Of several processes, which all have the same, the first one writes."""
        self._plan_save()
        if not processes.is_first():
            return
        best = None
        if self._best is not None:
            epoch, weights, ndcg = self._best
            best = [epoch, weights, {name: torch.from_numpy(values) for name, values in ndcg.items()}]
        state = {
            "adapter": self.adapter.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "history": [list(astuple(epoch)) for epoch in self._history],
            "losses": self._losses,
            "best": best,
        }
        step = (len(self._history) - 1) * self._steps_of_epoch + len(self._losses)
        write_checkpoint(self.checkpoints, step, state)

    def load(self, checkpoint: Path) -> None:
        """Continue from ``checkpoint``.

        Raises:
            EncoderError: the file cannot be read.
        """
        state = read_checkpoint(checkpoint, self.cached.device)
        self.adapter.load_state_dict(state["adapter"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._history = [Epoch(*values) for values in state["history"]]
        self._losses = state["losses"]
        if state["best"] is not None:
            epoch, weights, ndcg = state["best"]
            self._best = epoch, weights, {name: values.cpu().numpy() for name, values in ndcg.items()}
