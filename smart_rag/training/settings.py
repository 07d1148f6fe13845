"""Settings of a training. Every default stands here once; the command line and its help text read it here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from smart_rag.config import AdapterObjective, Objective, Weighting, check_choice, check_count
from smart_rag.errors import InvalidInput

Start = Literal["frozen", "random"]

# Share of the documents that is held out to measure with.
DEFAULT_HELD_OUT = 0.1
# Share of the steps over which the learning rate rises to its peak.
WARM_UP = 0.03
# Peak learning rates of fine-tuning: of all weights, and of LoRA (the paper's, arXiv 2605.24938).
FULL_LEARNING_RATE = 2e-5
LORA_LEARNING_RATE = 1e-4


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings that adapters and fine-tuning share.

    Attributes:
        epochs: number of passes over the training queries.
        batch_size: number of queries in a batch, at least 2. For each query, the positives of the other queries in the
            batch serve as negatives.
        weight_decay: weight decay of AdamW.
        hard_negatives: number of hard negatives of each query in a batch. If the data has fewer, the rest is mined.
        seed: seed of everything that is random, except the split.
    """

    epochs: int
    batch_size: int = 64
    weight_decay: float = 0.01
    hard_negatives: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("epochs", self.epochs)
        if self.batch_size < 2:
            raise InvalidInput(
                f"batch_size must be at least 2, got {self.batch_size}: the negatives of a query are the positives of "
                "the other queries in its batch"
            )
        if self.hard_negatives < 0:
            raise InvalidInput(f"hard_negatives must be at least 0, got {self.hard_negatives}")
        for name in ("learning_rate", "temperature"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidInput(f"{name} must be above 0, got {value}")


@dataclass(frozen=True, kw_only=True)
class AdapterSettings(TrainingSettings):
    """Settings of `train_adapter`. All defaults except ``start`` and ``epochs`` are the paper's (arXiv 2605.24938).

    Attributes:
        dimension: width of the new token embeddings. None means the model's width.
        layers: layers of the model whose states the adapter reads.
        objective: score to train, ``"late"`` or ``"hybrid"``.
        weighting: weights of the query tokens in that score, as in `IndexConfig`.
        start: ``"frozen"`` starts with the frozen model's token embeddings, ``"random"`` with Xavier's uniform weights.
        learning_rate: peak learning rate.
        temperature: divisor of the scores in the loss.
        codec: codec of the states that are kept on disk during the training.
    """

    dimension: int | None = None
    layers: tuple[int, ...] = (-1,)
    objective: AdapterObjective = "late"
    weighting: Weighting = "none"
    start: Start = "frozen"
    epochs: int = 5
    learning_rate: float = 1e-3
    temperature: float = 0.03
    codec: str = "float16"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("objective", self.objective, AdapterObjective)
        check_choice("weighting", self.weighting, Weighting)
        check_choice("start", self.start, Start)


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(TrainingSettings):
    """Settings of `finetune`. ``temperature`` is that of the paper (arXiv 2605.24938) for LamRA.

    Attributes:
        objective: score to train. ``"hybrid"`` is the sum of pooled cosine and late interaction.
        lora_rank: rank of the low-rank additions (LoRA) to the linear layers of the language model. They are merged
            into its weights at the end. If it is None, all weights are trained.
        lora_alpha: scale of the additions; by default twice the rank.
        mini_batch_size: number of texts in one forward pass. If this is set, gradients are cached: ``batch_size`` can
            be larger than memory allows otherwise, but each text is encoded twice. By default, the whole batch is one
            forward pass.
        learning_rate: peak learning rate; by default 2e-5 for all weights and 1e-4 for LoRA.
        temperature: divisor of the scores in the loss.
        evaluate_every: number of steps after which the model is evaluated and a checkpoint is saved; by default the
            steps of an epoch.
        bf16: whether to train in mixed precision; by default on a GPU that supports bfloat16.
    """

    objective: Objective = "hybrid"
    lora_rank: int | None = None
    lora_alpha: int | None = None
    epochs: int = 1
    mini_batch_size: int | None = None
    learning_rate: float | None = None
    temperature: float = 0.05
    evaluate_every: int | None = None
    bf16: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("objective", self.objective, Objective)
        for name in ("lora_rank", "lora_alpha", "mini_batch_size", "evaluate_every"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))

    @property
    def peak_learning_rate(self) -> float:
        """``learning_rate``, with its default filled in."""
        return self.learning_rate or (FULL_LEARNING_RATE if self.lora_rank is None else LORA_LEARNING_RATE)
