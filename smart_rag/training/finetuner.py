"""Fine-tuning of a model, whole or by LoRA, on its SMART scores; out comes a sentence-transformers folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
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
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from smart_rag.config import Objective, check_choice, check_count
from smart_rag.encoders.compatibility import no_loading_bar
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import EncoderError, InvalidInput
from smart_rag.training import lora
from smart_rag.training.batches import alike, check_trainable
from smart_rag.training.data import TrainingData, digest
from smart_rag.training.folder import TrainingFolder
from smart_rag.training.hard_negatives import mine_negatives
from smart_rag.training.report import ByRanking, Epoch, TrainingReport
from smart_rag.training.smart_loss import SmartCollator, SmartLoss
from smart_rag.training.split import distractors_of, split, with_distractors
from smart_rag.training.states import cached_states

_WARM_UP = 0.03
_RANKINGS = ("pooled", "late", "hybrid")
_METRIC = "held-out nDCG@10, {}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneSettings:
    """How a model is fine-tuned; the temperature is the paper's (arXiv 2605.24938), of its fine-tuned LamRA.

    ``objective`` is the score that is trained: ``"hybrid"`` is pooled cosine plus late interaction. ``lora_rank``
    trains low-rank additions to the linear layers of the language model, which are merged into it at the end; None
    trains all weights. ``mini_batch_size`` texts are in a forward pass at a time, at the price of a second pass, so
    that memory does not bound ``batch_size`` (gradient caching); None takes the whole batch at once. Every
    ``evaluate_every`` steps there is an evaluation and a checkpoint, None for after each epoch. ``bf16`` is
    mixed precision, None for where the device is a GPU that has it.
    """

    objective: Objective = "hybrid"
    lora_rank: int | None = None
    lora_alpha: int | None = None
    epochs: int = 1
    batch_size: int = 64
    mini_batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float = 0.01
    temperature: float = 0.05
    hard_negatives: int = 0
    evaluate_every: int | None = None
    bf16: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("objective", self.objective, Objective)
        check_count("epochs", self.epochs)
        for name in ("lora_rank", "lora_alpha", "mini_batch_size", "evaluate_every"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.batch_size < 2:
            raise InvalidInput(f"batch_size must be at least 2, got {self.batch_size}: the others are the negatives")
        if self.hard_negatives < 0:
            raise InvalidInput(f"hard_negatives must be at least 0, got {self.hard_negatives}")
        if not self.temperature > 0 or not (self.learning_rate is None or self.learning_rate > 0):
            raise InvalidInput(
                f"temperature and learning_rate must be above 0, got {self.temperature} and {self.learning_rate}"
            )

    @property
    def rate(self) -> float:
        """The learning rate: by default 2e-5 for all weights, 1e-4, the paper's, for LoRA."""
        return self.learning_rate or (2e-5 if self.lora_rank is None else 1e-4)


def finetune(
    model: str | Path,
    data: TrainingData,
    out: str | Path,
    settings: FinetuneSettings | None = None,
    *,
    held_out: TrainingData | float = 0.1,
    device: str | None = None,
    profile: str | None = None,
    max_pixels: int | None = None,
    trust_remote_code: bool = False,
    resume: bool = False,
    show_progress_bar: bool = False,
) -> TrainingReport:
    """Fine-tune ``model`` on ``data``, save the result in the folder ``out``, and return what came of it.

    The folder is one that ``SentenceTransformer`` loads, with a model card, prompts and all, and `SmartEncoder` like
    any other. Of the evaluations, the weights of the best by ``objective`` are kept. Texts and images are
    encoded as `SmartEncoder` does it with the same ``profile`` and ``max_pixels``.

    Started by ``accelerate launch`` or ``torchrun``, each process has its device and its own batches.

    Args:
        held_out: what is measured with; a number is the part of ``data`` that `split` keeps apart. Documents of
            the other part that answer none of its queries are ranked with its own, up to 2,000 in all.
        resume: go on from the last checkpoint of a training into ``out`` that was stopped, with the same arguments.

    Raises:
        InvalidInput: ``out`` holds anything but checkpoints of a training, or these and ``resume`` is False, or
            ``resume`` is True and it holds none, or some of another model, other data or settings; there are too few
            queries for a batch; the model takes nothing of the documents.
        EncoderError: the loss became NaN; or the model has no pooled embedding of its own, or none that a folder of
            sentence-transformers' can say how to take.
        MissingExtra: ``lora_rank`` needs peft.
    """
    settings = settings or FinetuneSettings()
    folder = TrainingFolder(Path(out))
    last = folder.check(resume)
    encoder = SmartEncoder(
        model,
        device=device or _own_gpu(),
        # All weights are trained in float32: what is added to them would be lost in bfloat16.
        dtype="float32" if settings.lora_rank is None else None,
        profile=profile,
        max_pixels=max_pixels,
        trust_remote_code=trust_remote_code,
    )
    encoder.trainable.make_portable()
    trained_model = encoder.model
    assert isinstance(trained_model, SentenceTransformer)
    rank = settings.lora_rank
    additions = None if rank is None else lora.config(trained_model, rank, settings.lora_alpha)
    if isinstance(held_out, TrainingData):
        training, measured = data, held_out
    else:
        training, apart = split(data, held_out)
        measured = with_distractors(training, apart, distractors_of(data, training, apart))
    check_trainable(training, encoder, settings.batch_size)
    record = _record(settings, encoder, training, measured)
    if last is not None:
        folder.check_record(record)
    if settings.hard_negatives:
        training = mine_negatives(training, encoder, settings.hard_negatives, show_progress_bar=show_progress_bar)
    if last is None:
        folder.start(record)
    evaluator = HeldOutEvaluator(encoder, measured, folder.checkpoints, settings.objective)
    frozen = evaluator.measure()
    if additions is not None:
        with torch.random.fork_rng(devices=[]):  # the caller's own numbers go on as if nothing had been drawn
            torch.manual_seed(settings.seed)
            trained_model.add_adapter(additions)
    collator = SmartCollator(
        training,
        alike(training, encoder.modalities),
        encoder,
        settings.hard_negatives,
        settings.mini_batch_size,
        settings.seed,
    )
    trainer = _trainer(
        trained_model, encoder, training, evaluator, collator, folder.checkpoints, settings, show_progress_bar
    )
    with no_loading_bar():
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
        _load_best(trainer, folder.checkpoints)
        # Mixed precision is for training: what is measured and saved is the model as it will be used.
        trainer.accelerator.unwrap_model(trained_model, keep_fp32_wrapper=False)
        trained_model.eval()
        if additions is not None:
            lora.merge(trained_model)
        trained = evaluator.measure()
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            trained_model.requires_grad_(True)
            evaluator.tell_card(trained_model, frozen, trained)
            _tell_card(trained_model, settings)
            trained_model.save_pretrained(str(folder.path))
            shutil.rmtree(folder.checkpoints)
    history = _history(frozen, trainer.state.log_history)
    best = max(range(1, len(history)), key=lambda i: getattr(history[i], settings.objective))
    counts = (len(training.queries), len(measured.queries), len(measured.documents))
    return TrainingReport.of(counts, history, best, frozen, trained, settings.objective)


def _record(
    settings: FinetuneSettings, encoder: SmartEncoder, training: TrainingData, measured: TrainingData
) -> dict[str, Any]:
    """Return what a training is started with, as JSON values."""
    return {
        **asdict(settings),
        "learning_rate": settings.rate,
        "model": encoder.fingerprint,
        "profile": encoder.describe()["profile"],
        "data": digest(training),
        "held_out": digest(measured),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def _own_gpu() -> str | None:
    """Return the GPU of this process, if it was started as one of several."""
    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if rank is not None and torch.cuda.is_available() else None


# --- the trainer ------------------------------------------------------------------------------


class HeldOutEvaluator(BaseEvaluator):
    """nDCG@10 of the held-out queries by each ranking, as `search` ranks by default."""

    def __init__(self, encoder: SmartEncoder, data: TrainingData, folder: Path, objective: Objective) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.name = "held-out"
        self.primary_metric = _METRIC.format(objective)  # what the card's log of the training has
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
        found = {name: float(values.mean()) for name, values in self.measure().items()}
        model.train(was_training)
        named = {_METRIC.format(name): of for name, of in found.items()}
        self.store_metrics_in_model_card_data(model, named, epoch, steps)  # type: ignore[arg-type]  # a float, too
        return found

    def tell_card(self, model: SentenceTransformer, frozen: ByRanking, trained: ByRanking) -> None:
        """Have the model card say how the model that is kept ranks, not the last one, and how it did before."""
        both = {"": trained, ", before training": frozen}
        model.model_card_data.eval_results_dict = {
            self: {_METRIC.format(name) + when: float(by[name].mean()) for when, by in both.items() for name in by}
        }


class _Progress(TrainerCallback):
    """Tells the collator which epoch it is, and a progress bar how far it is."""

    def __init__(self, collator: SmartCollator, device: str, show: bool) -> None:
        self._collator = collator
        self._bar = tqdm(desc=f"training on {device}", unit="batch", disable=not show)

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._bar.total = state.max_steps
        self._bar.update(state.global_step)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._collator.epoch = int(state.epoch)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._bar.update()
        if args.eval_strategy == "steps" and state.global_step >= state.max_steps:
            # The last steps count, too, however few they are.
            control.should_log = control.should_evaluate = control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        logs: dict[str, float] = more["logs"]
        shown = {name.removeprefix("eval_"): of for name, of in logs.items() if name in ("loss", "eval_hybrid")}
        self._bar.set_postfix({name: f"{of:.4f}" for name, of in shown.items()})

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._bar.close()


def _trainer(
    model: SentenceTransformer,
    encoder: SmartEncoder,
    training: TrainingData,
    evaluator: HeldOutEvaluator,
    collator: SmartCollator,
    checkpoints: Path,
    settings: FinetuneSettings,
    show_progress_bar: bool,
) -> SentenceTransformerTrainer:
    device = torch.device(encoder.device)
    bf16 = settings.bf16
    if bf16 is None:
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    when: Any = "epoch" if settings.evaluate_every is None else "steps"
    steps = settings.evaluate_every or 500
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        dataloader_drop_last=True,
        learning_rate=settings.rate,
        lr_scheduler_type="cosine",
        warmup_steps=_WARM_UP,
        weight_decay=settings.weight_decay,
        bf16=bf16,
        use_cpu=device.type == "cpu",
        seed=settings.seed,
        eval_strategy=when,
        eval_steps=steps,
        save_strategy=when,
        save_steps=steps,
        save_total_limit=1,
        logging_strategy=when,
        logging_steps=steps,
        load_best_model_at_end=True,
        metric_for_best_model=settings.objective,
        greater_is_better=True,
        disable_tqdm=True,
        report_to="none",
    )
    if device.type == "cuda":
        # On a machine with several GPUs, one process would split the batches of tensors that do not belong together.
        arguments._n_gpu = 1
    rows = Dataset.from_dict({"position": list(range(len(training.queries)))})
    card = model.model_card_data
    card.generate_widget_examples = False  # these would want another model
    card.set_widget_examples = lambda dataset: None  # type: ignore[method-assign]  # it takes positions for texts
    card.local_files_only = True  # it would ask the hub for models of names like this folder's
    loss = SmartLoss(encoder, settings.objective, settings.temperature, cached=settings.mini_batch_size is not None)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        loss=loss,
        evaluator=evaluator,
        data_collator=collator,  # type: ignore[arg-type]  # what it does is all that is asked of one
        callbacks=[_Progress(collator, encoder.device, show_progress_bar)],
    )
    trainer.remove_callback(PrinterCallback)
    # The rows are positions, and tables of them say nothing.
    about = card.train_datasets[0]
    kept = {name: about[name] for name in ("size", "loss") if name in about}
    card.train_datasets = [{"name": training.name, "columns": ["query", "positive"], **kept}]  # type: ignore[dict-item]
    return trainer


def _tell_card(model: SentenceTransformer, settings: FinetuneSettings) -> None:
    """Have the model card say what the trainer does not know of."""
    ours = {name: getattr(settings, name) for name in ("lora_rank", "mini_batch_size", "hard_negatives")}
    said = {name: value for name, value in ours.items() if value}
    model.model_card_data.non_default_hyperparameters |= said
    model.model_card_data.all_hyperparameters |= said


def _history(frozen: ByRanking, log: list[dict[str, float]]) -> list[Epoch]:
    """Return the evaluations of a trainer's log, each with the mean loss since the one before."""
    history = [Epoch(None, *(float(frozen[name].mean()) for name in _RANKINGS))]
    loss: float | None = None
    for entry in log:
        loss = entry.get("loss", loss)
        if "eval_hybrid" in entry:
            history.append(Epoch(loss, *(entry[f"eval_{name}"] for name in _RANKINGS)))
    return history


def _load_best(trainer: SentenceTransformerTrainer, checkpoints: Path) -> None:
    """Leave the model as it was at its best. The trainer did so, but if it could not it only logs that.

    Raises:
        EncoderError: the best checkpoint cannot be loaded, or its weights are not numbers.
    """
    path = trainer.state.best_model_checkpoint
    try:
        trainer._load_from_checkpoint(str(path))
    except Exception as error:  # whatever a broken file gives; it is chained
        raise EncoderError(
            f"the best checkpoint, {path}, cannot be loaded ({error}); the others are kept in {checkpoints}"
        ) from error
    if not all(bool(weights.isfinite().all()) for weights in trainer.model.parameters()):
        raise EncoderError("the weights became NaN or infinite; choose a smaller learning rate")
