"""Fine-tuning of all weights, or of LoRA, by the model's SMART scores. The result is a sentence-transformers folder."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.model import BaseModel
from transformers import PrinterCallback, TrainerCallback

from smart_rag.config import Objective
from smart_rag.encoders.loading.weights_report import no_loading_bar
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import EncoderError
from smart_rag.paths import absolute
from smart_rag.progress import Progress
from smart_rag.training import lora
from smart_rag.training.batches import check_trainable, content_groups, with_notes_on_teacher
from smart_rag.training.data import TrainingData
from smart_rag.training.report import RANKINGS, ByRanking, Epoch, TrainingReport
from smart_rag.training.runs import processes
from smart_rag.training.runs.folder import TrainingFolder, record_of
from smart_rag.training.runs.prepared import prepare_once
from smart_rag.training.settings import DEFAULT_HELD_OUT, LOG_SECONDS, WARM_UP, FinetuneSettings
from smart_rag.training.smart_loss import SmartCollator, SmartLoss
from smart_rag.training.split import hold_out, with_distractors
from smart_rag.training.states import cached_states

_METRIC = "held-out nDCG@10, {}"


def finetune(
    model: str | Path,
    data: TrainingData,
    out: str | Path,
    settings: FinetuneSettings | None = None,
    *,
    held_out: TrainingData | float = DEFAULT_HELD_OUT,
    device: str | None = None,
    profile: str | None = None,
    max_pixels: int | None = None,
    max_length: int | None = None,
    trust_remote_code: bool = False,
    keep_anyway: bool = False,
    resume: bool = False,
    show_progress_bar: bool = False,
) -> TrainingReport:
    """Fine-tune ``model`` on ``data``, save the result in the folder ``out``, and return the report.

    ``SentenceTransformer`` and `SmartEncoder` load the folder like any other model. The folder also holds the prompts
    and a model card. LamRA is saved as a folder of transformers, because only `SmartEncoder` pools it as in the
    training. The weights that have the best evaluation by ``objective`` are kept. If no evaluation is better than the
    one before the first step, the training gained nothing, and nothing is saved. Texts and images are encoded in the
    same way as by `SmartEncoder` with the same ``profile`` and ``max_pixels``.

    Each process that ``accelerate launch`` or ``torchrun`` starts has its own device and its own batches. The documents
    of all processes are negatives of each query.

    Args:
        model: name or folder of the model, as for `SmartEncoder`.
        data: training data.
        out: folder of the result. It must be new, or hold only checkpoints of this training.
        settings: settings of the training. By default, `FinetuneSettings()`.
        held_out: data for the evaluation, or the share of ``data`` that `split` holds out. If it is a share, training
            documents that answer no held-out query are ranked, too. In all, up to 2,000 documents are ranked.
        device: torch device. None means the best one.
        profile: as for `SmartEncoder`.
        max_pixels: as for `SmartEncoder`.
        max_length: as for `SmartEncoder`. The trained model keeps this limit.
        trust_remote_code: as for `SmartEncoder`.
        keep_anyway: whether to save the model of the best evaluation even if the training gained nothing.
        resume: whether to continue an interrupted training from its last checkpoint in ``out``. All other arguments
            must be the same as before.
        show_progress_bar: whether to show progress bars. Without them, the log has a line about every minute.

    Raises:
        InvalidInput: ``out`` holds other files; ``out`` holds checkpoints and ``resume`` is False; ``out`` holds no
            checkpoints and ``resume`` is True; the checkpoints belong to another model, other data or other settings;
            there are too few queries for a batch; or the model cannot encode the documents.
        EncoderError: the loss is not finite, the best checkpoint cannot be loaded, or a sentence-transformers folder
            cannot describe how this model makes its pooled embedding.
        MissingExtra: ``lora_rank`` is set and peft is not installed.
    """
    settings = settings or FinetuneSettings()
    folder = TrainingFolder(absolute(out))
    checkpoint = folder.check(resume)
    encoder = SmartEncoder(
        model,
        device=device or processes.local_gpu(),
        # If all weights are trained, they are in float32, because bfloat16 would round small updates to nothing.
        dtype="float32" if settings.lora_rank is None else None,
        profile=profile,
        max_pixels=max_pixels,
        max_length=max_length,
        trust_remote_code=trust_remote_code,
    )
    encoder.trainable.make_portable()
    trained_model = encoder.model
    assert isinstance(trained_model, SentenceTransformer)
    rank = settings.lora_rank
    lora_config = None if rank is None else lora.config(trained_model, rank, settings.lora_alpha)
    training, held_out_part, distractors = hold_out(data, held_out)
    measured = with_distractors(training, held_out_part, distractors)
    check_trainable(training, encoder, settings.batch_size)
    training = with_notes_on_teacher(training, settings)
    record = record_of(settings, encoder, training, measured)
    record["learning_rate"] = settings.peak_learning_rate
    if checkpoint is not None:
        folder.check_record(record)
    else:
        folder.start(record)
    training = prepare_once(training, encoder, settings, folder.checkpoints, show_progress_bar=show_progress_bar)
    evaluator = HeldOutEvaluator(encoder, measured, folder.checkpoints, settings.objective)
    frozen = evaluator.measure()
    if lora_config is not None:
        with torch.random.fork_rng(devices=[]):  # the caller's random state does not change
            torch.manual_seed(settings.seed)
            trained_model.add_adapter(lora_config)
    if settings.gradient_checkpointing:
        _checkpoint_layers(trained_model)
    trainer = _trainer(trained_model, encoder, training, evaluator, folder.checkpoints, settings, show_progress_bar)
    with no_loading_bar():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        history = _history(frozen, trainer.state.log_history)
        best = max(range(1, len(history)), key=lambda i: history[i].by(settings.objective))
        counts = (len(training.queries), len(measured.queries), len(measured.documents))
        if not keep_anyway and history[best].by(settings.objective) <= history[0].by(settings.objective):
            trainer.accelerator.wait_for_everyone()
            if trainer.is_world_process_zero():
                folder.remove_checkpoints()
            return TrainingReport.of(counts, history, 0, frozen, frozen, settings.objective, notes=training.notes)
        load_checkpoint(trained_model, Path(str(trainer.state.best_model_checkpoint)))
        # Mixed precision is only for the training. The model is measured and saved without it.
        trainer.accelerator.unwrap_model(trained_model, keep_fp32_wrapper=False)
        trained_model.eval()
        if lora_config is not None:
            lora.merge(trained_model)
        trained = evaluator.measure()
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            trained_model.requires_grad_(True)
            evaluator.add_results_to_card(trained_model, frozen, trained)
            _add_settings_to_card(trained_model, settings)
            encoder.trainable.save(folder.path)
            folder.remove_checkpoints()
    return TrainingReport.of(counts, history, best, frozen, trained, settings.objective, notes=training.notes)


def _checkpoint_layers(model: SentenceTransformer) -> None:
    """Make the layers of ``model`` keep only their inputs for the backward pass.

    Raises:
        EncoderError: the model cannot do so.
    """
    transformer: Any = model.transformers_model
    options = {"use_reentrant": False}  # the other kind has no gradients for LoRA, because the inputs have none
    try:
        if hasattr(transformer, "activation_checkpointing_enable"):  # the name since transformers 5.23
            transformer.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
        else:
            transformer.gradient_checkpointing_enable(options)
    except ValueError as error:
        raise EncoderError(f"{error}; train without gradient_checkpointing") from error


def load_checkpoint(model: SentenceTransformer, checkpoint: Path) -> None:
    """Load the weights of ``checkpoint`` into ``model``, in place.

    The trainer has already tried to load the checkpoint. But if it cannot load it, it only logs an error and keeps the
    last weights. So this function loads the checkpoint again, and raises an error if the checkpoint cannot be loaded.

    Raises:
        EncoderError: the checkpoint cannot be loaded, or its weights are not finite.
    """
    try:
        loaded = SentenceTransformer(str(checkpoint), device="cpu", trust_remote_code=model.trust_remote_code)
        model.load_state_dict(loaded.state_dict())
    except Exception as error:  # a broken file may raise any error. It becomes the cause
        raise EncoderError(
            f"the best checkpoint, {checkpoint}, cannot be loaded ({error}); the other checkpoints are kept in "
            f"{checkpoint.parent}"
        ) from error
    if not all(bool(weights.isfinite().all()) for weights in model.parameters()):
        raise EncoderError(f"the weights in {checkpoint} became NaN or infinite; train with a smaller learning rate")


# --- the trainer ------------------------------------------------------------------------------


class HeldOutEvaluator(BaseEvaluator):
    """Evaluator: nDCG@10 of the held-out queries by each ranking, with the default scores of `SmartIndex.search`."""

    def __init__(self, encoder: SmartEncoder, data: TrainingData, folder: Path, objective: Objective) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.name = "held-out"
        self.primary_metric = _METRIC.format(objective)  # the model card shows this metric in its log of the training
        self._encoder = encoder
        self._data = data
        self._folder = folder

    def measure(self) -> ByRanking:
        """Return nDCG@10 of each query."""
        with (
            tempfile.TemporaryDirectory(prefix=".held-out-", dir=self._folder) as folder,
            cached_states(self._data, self._encoder, (-1,), Path(folder)) as cached,
        ):
            return cached.ndcg()

    def __call__(
        self, model: BaseModel, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        was_training = model.training
        model.eval()
        means = {name: float(values.mean()) for name, values in self.measure().items()}
        model.train(was_training)
        metrics = {_METRIC.format(name): mean for name, mean in means.items()}
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)  # type: ignore[arg-type]  # epoch is a float
        return means

    def add_results_to_card(self, model: SentenceTransformer, frozen: ByRanking, trained: ByRanking) -> None:
        """Replace the results in the model card.

        The new results are those from before the training and those of the model that was kept.
        """
        both = {"": trained, ", before training": frozen}
        model.model_card_data.eval_results_dict = {
            self: {_METRIC.format(name) + when: float(by[name].mean()) for when, by in both.items() for name in by}
        }


class _Course(TrainerCallback):
    """Course of the training: the epoch for the collator, the progress, and when to evaluate and to save."""

    def __init__(
        self, collator: SmartCollator, loss: SmartLoss, device: str, show: bool, checkpoint_minutes: float
    ) -> None:
        self._collator = collator
        self._loss = loss
        self._title = f"training on {device}"
        self._show = show
        self._minutes = checkpoint_minutes
        self._next_save = 0.0
        self._stack = ExitStack()
        self._progress: Progress | None = None
        self._hybrid = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._next_save = time.monotonic() + 60 * self._minutes
        if state.is_world_process_zero:
            self._progress = self._stack.enter_context(
                Progress(
                    state.max_steps, self._title, "step", self._show, log_seconds=LOG_SECONDS, done=state.global_step
                )
            )

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._collator.epoch = int(state.epoch)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self._progress is not None:
            epoch = f"epoch {self._collator.epoch + 1} of {args.num_train_epochs:g}"
            self._progress.show(f"{epoch}, loss {self._loss.last:.4f}{self._hybrid}")
            self._progress.update(1)
        if args.eval_strategy == "steps" and state.global_step >= state.max_steps:
            # After the last step, there is always an evaluation, even after fewer steps than `evaluate_every`.
            control.should_log = control.should_evaluate = control.should_save = True
        elif processes.any_of(time.monotonic() >= self._next_save):
            # The log has the loss up to here. A resumed training knows only the loss of the steps after it.
            control.should_log = control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._next_save = time.monotonic() + 60 * self._minutes

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if "eval_hybrid" in more["logs"]:
            self._hybrid = f", hybrid {more['logs']['eval_hybrid']:.4f}"

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._stack.close()


class _Arguments(SentenceTransformerTrainingArguments):
    """Training arguments for one GPU in each process.

    Without this class, on a machine with several GPUs, a single process would split a batch between the GPUs. But the
    rows of a batch are parts of queries and documents, which must stay together.
    """

    @property
    def n_gpu(self) -> int:
        return min(1, int(super().n_gpu))


def _trainer(
    model: SentenceTransformer,
    encoder: SmartEncoder,
    training: TrainingData,
    evaluator: HeldOutEvaluator,
    checkpoints: Path,
    settings: FinetuneSettings,
    show_progress_bar: bool,
) -> SentenceTransformerTrainer:
    groups = content_groups(training, encoder.modalities)
    collator = SmartCollator(
        training, groups, encoder, settings.hard_negatives, settings.mini_batch_size, settings.seed
    )
    cached = settings.mini_batch_size is not None
    loss = SmartLoss(encoder, settings.objective, settings.temperature, settings, cached=cached)
    card = model.model_card_data
    card.generate_widget_examples = False  # they would need another model
    card.set_widget_examples = lambda dataset: None  # type: ignore[method-assign]  # it would read positions as texts
    card.local_files_only = True  # otherwise the card looks on the hub for models with the name of this folder
    trainer = SentenceTransformerTrainer(
        model=model,
        args=_arguments(torch.device(encoder.device), checkpoints, settings),
        train_dataset=Dataset.from_dict({"position": list(range(len(training.queries)))}),
        loss=loss,
        evaluator=evaluator,
        data_collator=collator,  # type: ignore[arg-type]  # it has all members that the trainer uses
        callbacks=[_Course(collator, loss, encoder.device, show_progress_bar, settings.checkpoint_minutes)],
    )
    trainer.remove_callback(PrinterCallback)
    # The statistics of the rows are left out, because the rows are positions, not texts.
    about = card.train_datasets[0]
    kept = {name: about[name] for name in ("size", "loss") if name in about}
    card.train_datasets = [{"name": training.name, "columns": ["query", "positive"], **kept}]  # type: ignore[dict-item]
    return trainer


def _arguments(device: torch.device, checkpoints: Path, settings: FinetuneSettings) -> _Arguments:
    bf16 = settings.bf16
    if bf16 is None:
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    strategy: Any = "epoch" if settings.evaluate_every is None else "steps"
    steps = settings.evaluate_every or 500  # with "epoch", the trainer does not use this number, but requires it
    return _Arguments(
        output_dir=str(checkpoints),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        dataloader_drop_last=True,
        learning_rate=settings.peak_learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=WARM_UP,
        weight_decay=settings.weight_decay,
        bf16=bf16,
        use_cpu=device.type == "cpu",
        seed=settings.seed,
        eval_strategy=strategy,
        eval_steps=steps,
        save_strategy=strategy,
        save_steps=steps,
        save_total_limit=1,
        logging_strategy=strategy,
        logging_steps=steps,
        load_best_model_at_end=True,
        metric_for_best_model=settings.objective,
        greater_is_better=True,
        disable_tqdm=True,
        report_to="none",
    )


def _add_settings_to_card(model: SentenceTransformer, settings: FinetuneSettings) -> None:
    """Add to the model card the settings that the trainer does not know."""
    names = ("lora_rank", "lora_alpha", "mini_batch_size", "hard_negatives")
    added = {name: getattr(settings, name) for name in names if getattr(settings, name)}
    model.model_card_data.non_default_hyperparameters |= added
    model.model_card_data.all_hyperparameters |= added


def _history(frozen: ByRanking, log: list[dict[str, float]]) -> list[Epoch]:
    """Return the evaluations in a trainer's log. Each has the mean loss of the steps since the last one."""
    history = [Epoch.of(None, frozen)]
    total, first, last = 0.0, 0.0, 0.0  # sum of the losses since the last evaluation, and its first and last step
    for entry in log:
        if "loss" in entry:  # the mean since the last entry with a loss
            total += entry["loss"] * (entry["step"] - last)
            last = entry["step"]
        if "eval_hybrid" in entry:
            history.append(Epoch(total / (last - first), *(entry[f"eval_{name}"] for name in RANKINGS)))
            total, first = 0.0, last
    return history
