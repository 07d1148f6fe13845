"""Settings of a training. Every default is defined only here. The command line and its help text read it here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from smart_rag.config import AdapterObjective, AdapterWeighting, Objective, check_choice, check_count
from smart_rag.errors import InvalidInput

Start = Literal["frozen", "random"]
DistillationLoss = Literal["none", "kl", "margin-mse"]

# Share of the documents that is held out for the evaluation.
DEFAULT_HELD_OUT = 0.1
# Share of the steps over which the learning rate rises to its peak.
WARM_UP = 0.03
# Seconds between two lines about the progress in the log, where no bar is shown.
LOG_SECONDS = 60.0
# Peak learning rates of fine-tuning: for all weights, and for LoRA. The latter is the paper's (arXiv 2605.24938).
FULL_LEARNING_RATE = 2e-5
LORA_LEARNING_RATE = 1e-4
# Settings by which a mined hard negative is left out as a likely answer.
_LIMITS = ("max_score", "absolute_margin", "relative_margin")


@dataclass(frozen=True, kw_only=True)
class DistillationSettings:
    """Settings of how the scores of a teacher are learned.

    Attributes:
        distillation: loss of a query's documents that the teacher has scored: ``"kl"`` compares their distributions,
            ``"margin-mse"`` their distances from the positive. ``"none"`` does not use the scores.
        distillation_share: share of this loss. The rest is the contrastive loss.
        teacher: name or folder of a cross-encoder of sentence-transformers, which scores the positives and the hard
            negatives of each query once. By default, the scores are in the data.
        teacher_temperature: divisor of the teacher's scores.
    """

    distillation: DistillationLoss = "none"
    distillation_share: float = 0.5
    teacher: str | None = None
    teacher_temperature: float = 1.0

    def __post_init__(self) -> None:
        check_choice("distillation", self.distillation, DistillationLoss)
        if self.teacher is not None and self.distillation == "none":
            raise InvalidInput(
                f"the teacher {self.teacher!r} is not used, because distillation is 'none'; set it to 'kl'"
            )
        given = [
            name
            for name in ("distillation_share", "teacher_temperature")
            if getattr(self, name) != getattr(DistillationSettings, name)
        ]
        if given and self.distillation == "none":
            raise InvalidInput(f"{given[0]} is for distillation; set distillation, too, to 'kl' or 'margin-mse'")
        if not 0 < self.distillation_share <= 1:
            raise InvalidInput(f"distillation_share must be above 0 and at most 1, got {self.distillation_share}")
        if not self.teacher_temperature > 0:
            raise InvalidInput(f"teacher_temperature must be above 0, got {self.teacher_temperature}")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(DistillationSettings):
    """Settings that adapters and fine-tuning share.

    Attributes:
        epochs: number of passes over the training queries.
        batch_size: number of queries in a batch, at least 2. For each query, the positives of the other queries in the
            batch are negatives. If several processes train, each has such a batch, and all batches have the same
            negatives.
        weight_decay: weight decay of AdamW. The defaults are the paper's: 0.01 for an adapter, 0 for fine-tuning.
        hard_negatives: number of hard negatives of each query in a batch. If the data has fewer, the rest is mined. The
            next five settings are for mined ones. They mean the same as in ``mine_hard_negatives`` of
            sentence-transformers. Scores are hybrid scores of the frozen model, scaled to [-1, 1].
        range_min: number of the best hits to skip. Positives do not count.
        range_max: number of the best hits to choose from. By default ``range_min + hard_negatives``, and
            ``range_min + 10 * hard_negatives`` if one of the next settings is set.
        max_score: highest score of a hard negative.
        absolute_margin: least distance of a hard negative's score from the lowest score of the query's positives.
        relative_margin: the same as a share of this lowest score, for example 0.05.
        seed: seed of everything random except the split.
        checkpoint_minutes: number of minutes after which a checkpoint is saved, so that the training can be resumed.
            Each evaluation saves one, too.
    """

    epochs: int
    batch_size: int = 64
    weight_decay: float
    hard_negatives: int = 0
    range_min: int = 0
    range_max: int | None = None
    max_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    seed: int = 0
    checkpoint_minutes: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distillation != "none" and not self.hard_negatives:
            raise InvalidInput(
                f"distillation {self.distillation!r} compares a query's positive and hard negatives; set "
                "hard_negatives, too, to at least 1"
            )
        check_count("epochs", self.epochs)
        if self.batch_size < 2:
            raise InvalidInput(
                f"batch_size must be at least 2, got {self.batch_size}: the negatives of a query are the positives of "
                "the other queries in its batch"
            )
        if self.hard_negatives < 0:
            raise InvalidInput(f"hard_negatives must be at least 0, got {self.hard_negatives}")
        self._check_mining()
        if not self.weight_decay >= 0:
            raise InvalidInput(f"weight_decay must be at least 0, got {self.weight_decay}")
        for name in ("learning_rate", "temperature", "checkpoint_minutes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidInput(f"{name} must be above 0, got {value}")

    @property
    def leaves_out_likely_answers(self) -> bool:
        """Whether a hit that scores too high is no hard negative."""
        return any(getattr(self, name) is not None for name in _LIMITS)

    def _check_mining(self) -> None:
        given = [
            name
            for name, default in {"range_min": 0, **dict.fromkeys(("range_max", *_LIMITS))}.items()
            if getattr(self, name) != default
        ]
        if given and not self.hard_negatives:
            raise InvalidInput(f"{given[0]} is for hard negatives; set hard_negatives, too, to at least 1")
        for name in ("range_min", "absolute_margin", "relative_margin"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InvalidInput(f"{name} must be at least 0, got {value}")
        if self.max_score is not None and not -1 <= self.max_score <= 1:
            raise InvalidInput(f"max_score must be from -1 to 1, got {self.max_score}")
        if self.range_max is not None and self.range_max - self.range_min < self.hard_negatives:
            raise InvalidInput(
                f"range_max must be at least range_min + hard_negatives = {self.range_min + self.hard_negatives}, got "
                f"{self.range_max}"
            )


@dataclass(frozen=True, kw_only=True)
class AdapterSettings(TrainingSettings):
    """Settings of `train_adapter`. Defaults are the paper's, except ``start`` and ``epochs`` (arXiv 2605.24938).

    Attributes:
        dimension: width of the new token embeddings. None means the width of the model.
        layers: layers of the model whose states the adapter reads.
        objective: score to train, ``"late"`` or ``"hybrid"``.
        weighting: weights of the query tokens in this score, ``"idf"`` or ``"none"``, as in `IndexConfig`.
        start: ``"frozen"`` starts with the token embeddings of the frozen model. ``"random"`` starts with Xavier's
            uniform weights.
        learning_rate: peak learning rate.
        temperature: divisor of the scores in the loss.
        codec: codec of the states, which are kept on disk during the training.
    """

    dimension: int | None = None
    layers: tuple[int, ...] = (-1,)
    objective: AdapterObjective = "late"
    weighting: AdapterWeighting = "none"
    start: Start = "frozen"
    epochs: int = 5
    weight_decay: float = 0.01
    learning_rate: float = 1e-3
    temperature: float = 0.03
    codec: str = "float16"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("objective", self.objective, AdapterObjective)
        check_choice("weighting", self.weighting, AdapterWeighting)
        check_choice("start", self.start, Start)


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(TrainingSettings):
    """Settings of `finetune`. The default ``temperature`` is the one that the paper uses for LamRA (arXiv 2605.24938).

    Attributes:
        objective: score to train. ``"hybrid"`` is the sum of pooled cosine and late interaction.
        lora_rank: rank of the low-rank additions (LoRA) to the linear layers of the language model. At the end, the
            additions are merged into the weights of the model. If the rank is None, all weights are trained.
        lora_alpha: scale of the additions. By default, twice the rank.
        mini_batch_size: number of texts in one forward pass. If it is set, gradients are cached. Then ``batch_size``
            is not limited by memory, but each text is encoded twice. By default, the whole batch is one forward pass.
        learning_rate: peak learning rate. By default, 2e-5 for all weights and 1e-4 for LoRA.
        temperature: divisor of the scores in the loss.
        evaluate_every: number of steps between two evaluations. Each evaluation also saves a checkpoint. By default,
            the model is evaluated after each epoch.
        gradient_checkpointing: whether to keep only the inputs of each layer in memory, and to run the layer again for
            its gradients. The result does not change. It takes longer.
        bf16: whether to train in mixed precision. By default, True on a GPU that supports bfloat16.
    """

    objective: Objective = "hybrid"
    lora_rank: int | None = None
    lora_alpha: int | None = None
    epochs: int = 1
    weight_decay: float = 0.0
    mini_batch_size: int | None = None
    learning_rate: float | None = None
    temperature: float = 0.05
    evaluate_every: int | None = None
    gradient_checkpointing: bool = False
    bf16: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("objective", self.objective, Objective)
        for name in ("lora_rank", "lora_alpha", "mini_batch_size", "evaluate_every"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.lora_alpha is not None and self.lora_rank is None:
            raise InvalidInput("lora_alpha is the scale of LoRA; give lora_rank, too")

    @property
    def peak_learning_rate(self) -> float:
        """``learning_rate`` if it is set, otherwise the default."""
        return self.learning_rate or (FULL_LEARNING_RATE if self.lora_rank is None else LORA_LEARNING_RATE)
