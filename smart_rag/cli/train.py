"""``smart-rag train``: the commands ``adapter`` and ``finetune``."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from smart_rag.cli import figures
from smart_rag.cli.console import check_report_file, err, on_terminal, out, show_figures
from smart_rag.cli.options import BaseModel, Device, LimitQueries, MaxPixels, ProfileName, ReportFile, Trusted
from smart_rag.config import DEFAULT_MODEL, AdapterObjective, Objective
from smart_rag.paths import absolute
from smart_rag.training.settings import (
    DEFAULT_HELD_OUT,
    FULL_LEARNING_RATE,
    LORA_LEARNING_RATE,
    AdapterSettings,
    DistillationLoss,
    FinetuneSettings,
    Start,
)

if TYPE_CHECKING:
    from smart_rag.training import TrainingData, TrainingReport
    from smart_rag.training.runs.folder import TrainingFolder

# Exit code of a training that gained nothing, so that nothing was saved.
NOTHING_GAINED = 3

app = typer.Typer(no_args_is_help=True, help="Train on your own questions and the passages that answer them.")


def _check_share(value: float) -> float:
    if not 0 < value < 1:
        raise typer.BadParameter(f"must be between 0 and 1, got {value:g}")
    return value


def _check_positive(value: float | None) -> float | None:
    if value is not None and not value > 0:
        raise typer.BadParameter(f"must be above 0, got {value:g}")
    return value


def _layers(text: str) -> tuple[int, ...]:
    """Return the numbers in a text such as ``20,-1``."""
    return tuple(int(number) for number in text.split(","))


def _check_layers(text: str) -> str:
    try:
        _layers(text)
    except ValueError:
        raise typer.BadParameter(f"must be numbers of layers, such as 20,-1, got {text}") from None
    return text


def _check_not_negative(value: float) -> float:
    if not value >= 0:
        raise typer.BadParameter(f"must be at least 0, got {value:g}")
    return value


Data = Annotated[
    Path,
    typer.Option(
        metavar="DATA",
        parser=absolute,
        help="A file of pairs (.jsonl, .json, .csv, .tsv, .parquet), a folder of them, a BEIR folder, or a dataset "
        "folder of Hugging Face datasets.",
    ),
]
ColumnNames = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        metavar="NAME=MEANING",
        help="Another name of a column in the data, such as search=query; id= leaves out the column id. May be given "
        "several times.",
    ),
]
TrainedModel = Annotated[
    str, typer.Option("--model", metavar="M", help="Name or folder of a sentence-transformers model.")
]
Epochs = Annotated[int, typer.Option(min=1, help="Number of passes over the training queries.")]
BatchSize = Annotated[
    int, typer.Option(min=2, help="Queries in a batch. The positives of the others are in-batch negatives.")
]
HardNegatives = Annotated[
    int, typer.Option(min=0, help="Hard negatives of each query, mined where the data has fewer.")
]
RangeMin = Annotated[int, typer.Option(min=0, help="Mining skips so many of the best hits.")]
RangeMax = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Mining chooses from so many of the best hits; by default from as many as it needs, or ten times as many "
        "with one of the next three options.",
    ),
]
MaxScore = Annotated[
    float | None,
    typer.Option(min=-1, max=1, help="Highest hybrid score of a mined hard negative, scaled to -1 ... 1."),
]
AbsoluteMargin = Annotated[
    float | None,
    typer.Option(min=0, help="Least distance of a mined hard negative's score from the positive's."),
]
RelativeMargin = Annotated[
    float | None,
    typer.Option(min=0, help="The same distance as a share of the positive's score, for example 0.05."),
]
DistillationOption = Annotated[
    DistillationLoss,
    typer.Option(
        "--distillation", help="Learn a teacher's scores, which are in the data, by KL divergence or by margins."
    ),
]
DistillationShare = Annotated[
    float, typer.Option(max=1, callback=_check_positive, help="Share of the distillation in the loss.")
]
Teacher = Annotated[
    str | None, typer.Option(help="Cross-encoder whose scores are learned, instead of scores in the data.")
]
TeacherTemperature = Annotated[float, typer.Option(callback=_check_positive, help="Divisor of the teacher's scores.")]
HeldOut = Annotated[
    float, typer.Option(callback=_check_share, help="Share of the documents to measure with, between 0 and 1.")
]
Temperature = Annotated[float, typer.Option(callback=_check_positive, help="Divisor of the scores in the loss.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random, except the split.")]
WeightDecay = Annotated[float, typer.Option(callback=_check_not_negative, help="Weight decay of AdamW.")]
MaxLength = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Cut texts after N tokens; by default, after as many as the model takes."),
]
CheckpointMinutes = Annotated[
    float,
    typer.Option(metavar="N", callback=_check_positive, help="Save a checkpoint after so many minutes."),
]
KeepAnyway = Annotated[
    bool, typer.Option("--keep-anyway", help="Save the best epoch even if it is not better than the start.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted training.")]
Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE.png", parser=absolute, help="Draw the loss and the held-out nDCG@10 into this file."),
]


@app.command("adapter")
def train_adapter_command(
    data: Data,
    to: Annotated[Path, typer.Option("--out", metavar="DIR", parser=absolute, help="Folder of the adapter.")],
    model: TrainedModel = DEFAULT_MODEL,
    dimension: Annotated[
        int | None, typer.Option(min=1, help="Width of the token embeddings; by default the model's width.")
    ] = None,
    layers: Annotated[
        str,
        typer.Option(
            metavar="N,...", callback=_check_layers, help="Layers of the model whose states the adapter reads."
        ),
    ] = ",".join(map(str, AdapterSettings.layers)),
    start: Annotated[
        Start, typer.Option(help="Start with the token embeddings of the frozen model, or with random weights.")
    ] = AdapterSettings.start,
    epochs: Epochs = AdapterSettings.epochs,
    batch_size: BatchSize = AdapterSettings.batch_size,
    learning_rate: Annotated[
        float, typer.Option(callback=_check_positive, help="Peak learning rate.")
    ] = AdapterSettings.learning_rate,
    weight_decay: WeightDecay = AdapterSettings.weight_decay,
    temperature: Temperature = AdapterSettings.temperature,
    objective: Annotated[AdapterObjective, typer.Option(help="Score to train.")] = AdapterSettings.objective,
    hard_negatives: HardNegatives = AdapterSettings.hard_negatives,
    range_min: RangeMin = AdapterSettings.range_min,
    range_max: RangeMax = AdapterSettings.range_max,
    max_score: MaxScore = AdapterSettings.max_score,
    absolute_margin: AbsoluteMargin = AdapterSettings.absolute_margin,
    relative_margin: RelativeMargin = AdapterSettings.relative_margin,
    distillation: DistillationOption = AdapterSettings.distillation,
    distillation_share: DistillationShare = AdapterSettings.distillation_share,
    teacher: Teacher = AdapterSettings.teacher,
    teacher_temperature: TeacherTemperature = AdapterSettings.teacher_temperature,
    seed: Seed = AdapterSettings.seed,
    checkpoint_minutes: CheckpointMinutes = AdapterSettings.checkpoint_minutes,
    base_model: BaseModel = None,
    profile: ProfileName = None,
    max_pixels: MaxPixels = None,
    max_length: MaxLength = None,
    device: Device = None,
    trust_remote_code: Trusted = False,
    columns: ColumnNames = None,
    limit_queries: LimitQueries = None,
    held_out: HeldOut = DEFAULT_HELD_OUT,
    keep_anyway: KeepAnyway = False,
    resume: Resume = False,
    plot: Plot = None,
    json_file: ReportFile = None,
) -> None:
    """Train an adapter that makes new token embeddings from a frozen model. Pooled embeddings do not change."""
    from smart_rag import SmartEncoder
    from smart_rag.training import train_adapter
    from smart_rag.training.runs import processes
    from smart_rag.training.runs.folder import TrainingFolder

    loaded = _training_data(data, limit_queries, columns, plot, json_file)
    settings = AdapterSettings(
        dimension=dimension,
        layers=_layers(layers),
        start=start,
        objective=objective,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        temperature=temperature,
        hard_negatives=hard_negatives,
        range_min=range_min,
        range_max=range_max,
        max_score=max_score,
        absolute_margin=absolute_margin,
        relative_margin=relative_margin,
        distillation=distillation,
        distillation_share=distillation_share,
        teacher=teacher,
        teacher_temperature=teacher_temperature,
        seed=seed,
        checkpoint_minutes=checkpoint_minutes,
    )
    encoder = SmartEncoder(
        model,
        device=device or processes.local_gpu(),
        profile=profile,
        max_pixels=max_pixels,
        max_length=max_length,
        base_model=base_model,
        trust_remote_code=trust_remote_code,
    )
    with _interruptible(TrainingFolder(to, "an adapter")):
        report = train_adapter(
            encoder,
            loaded,
            to,
            settings,
            held_out=held_out,
            keep_anyway=keep_anyway,
            resume=resume,
            show_progress_bar=on_terminal(),
        )
    same = [] if model == DEFAULT_MODEL else ["--model", model]
    same += [] if base_model is None else ["--base-model", base_model]
    same += [] if profile is None else ["--profile", profile]
    same += [] if max_pixels is None else ["--max-pixels", str(max_pixels)]
    same += ["--trust-remote-code"] if trust_remote_code else []
    options = shlex.join([*same, "--adapter", str(to)])
    _show_training(report, f"{to}: use it with `smart-rag index PATH --db DIR {options}`", plot, json_file)


@app.command("finetune")
def finetune_command(
    data: Data,
    to: Annotated[Path, typer.Option("--out", metavar="DIR", parser=absolute, help="Folder of the model.")],
    model: TrainedModel = DEFAULT_MODEL,
    objective: Annotated[Objective, typer.Option(help="Score to train.")] = FinetuneSettings.objective,
    lora_rank: Annotated[
        int | None,
        typer.Option(metavar="RANK", min=1, help="Train LoRA of this rank; by default all weights."),
    ] = FinetuneSettings.lora_rank,
    lora_alpha: Annotated[
        int | None, typer.Option(min=1, help="Scale of LoRA; by default twice the rank.")
    ] = FinetuneSettings.lora_alpha,
    epochs: Epochs = FinetuneSettings.epochs,
    batch_size: BatchSize = FinetuneSettings.batch_size,
    mini_batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Texts in one forward pass; saves memory, takes longer, does not change the result."),
    ] = FinetuneSettings.mini_batch_size,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            callback=_check_positive,
            help=f"Peak learning rate; by default {FULL_LEARNING_RATE:g} for all weights, {LORA_LEARNING_RATE:g} for "
            "LoRA.",
        ),
    ] = FinetuneSettings.learning_rate,
    weight_decay: WeightDecay = FinetuneSettings.weight_decay,
    temperature: Temperature = FinetuneSettings.temperature,
    hard_negatives: HardNegatives = FinetuneSettings.hard_negatives,
    range_min: RangeMin = FinetuneSettings.range_min,
    range_max: RangeMax = FinetuneSettings.range_max,
    max_score: MaxScore = FinetuneSettings.max_score,
    absolute_margin: AbsoluteMargin = FinetuneSettings.absolute_margin,
    relative_margin: RelativeMargin = FinetuneSettings.relative_margin,
    distillation: DistillationOption = FinetuneSettings.distillation,
    distillation_share: DistillationShare = FinetuneSettings.distillation_share,
    teacher: Teacher = FinetuneSettings.teacher,
    teacher_temperature: TeacherTemperature = FinetuneSettings.teacher_temperature,
    seed: Seed = FinetuneSettings.seed,
    checkpoint_minutes: CheckpointMinutes = FinetuneSettings.checkpoint_minutes,
    evaluate_every: Annotated[
        int | None,
        typer.Option(metavar="STEPS", min=1, help="Evaluate and save a checkpoint; by default after each epoch."),
    ] = FinetuneSettings.evaluate_every,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Run each layer twice, which saves memory.")
    ] = FinetuneSettings.gradient_checkpointing,
    profile: ProfileName = None,
    max_pixels: MaxPixels = None,
    max_length: MaxLength = None,
    device: Device = None,
    trust_remote_code: Trusted = False,
    columns: ColumnNames = None,
    limit_queries: LimitQueries = None,
    held_out: HeldOut = DEFAULT_HELD_OUT,
    keep_anyway: KeepAnyway = False,
    resume: Resume = False,
    plot: Plot = None,
    json_file: ReportFile = None,
) -> None:
    """Fine-tune all weights of a model, or only LoRA. The result is a sentence-transformers model."""
    from smart_rag.training import finetune
    from smart_rag.training.runs.folder import TrainingFolder

    loaded = _training_data(data, limit_queries, columns, plot, json_file)
    settings = FinetuneSettings(
        objective=objective,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        epochs=epochs,
        batch_size=batch_size,
        mini_batch_size=mini_batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        temperature=temperature,
        hard_negatives=hard_negatives,
        range_min=range_min,
        range_max=range_max,
        max_score=max_score,
        absolute_margin=absolute_margin,
        relative_margin=relative_margin,
        distillation=distillation,
        distillation_share=distillation_share,
        teacher=teacher,
        teacher_temperature=teacher_temperature,
        evaluate_every=evaluate_every,
        gradient_checkpointing=gradient_checkpointing,
        seed=seed,
        checkpoint_minutes=checkpoint_minutes,
    )
    with _interruptible(TrainingFolder(to)):
        report = finetune(
            model,
            loaded,
            to,
            settings,
            held_out=held_out,
            device=device,
            profile=profile,
            max_pixels=max_pixels,
            max_length=max_length,
            trust_remote_code=trust_remote_code,
            keep_anyway=keep_anyway,
            resume=resume,
            show_progress_bar=on_terminal(),
        )
    same = ["--model", str(to)]
    if (
        max_pixels is not None and not (to / "modules.json").exists()
    ):  # such as LamRA: its folder does not hold the limit
        same += ["--max-pixels", str(max_pixels)]
    done = f"{to}: use it with `smart-rag index PATH --db DIR {shlex.join(same)}`"
    _show_training(report, done, plot, json_file, "epoch" if evaluate_every is None else "evaluation")


@contextmanager
def _interruptible(folder: TrainingFolder) -> Iterator[None]:
    """After Ctrl-C, say how to continue the training in ``folder``, and exit with 130."""
    try:
        yield
    except KeyboardInterrupt:
        last = folder.last_checkpoint()
        if last is not None:
            next_step = f"add --resume to continue from {last.stem}"
        elif folder.is_interrupted:
            next_step = "there is no checkpoint yet; add --resume to keep the texts that are encoded"
        else:
            next_step = "there is no checkpoint yet"
        err.print(f"\ninterrupted; {next_step}")
        raise typer.Exit(130) from None


def _training_data(
    data: Path, limit_queries: int | None, columns: list[str] | None, plot: Path | None, json_file: str | None
) -> TrainingData:
    """Check that the plot and the JSON file can be written, and return the training data at ``data``."""
    from smart_rag.evaluation.plots import check_plot_file
    from smart_rag.training import load_training_data

    check_report_file(json_file)
    if plot is not None:
        check_plot_file(plot)
    return load_training_data(data, limit_queries, columns=_names_of_columns(columns or []))


def _names_of_columns(given: list[str]) -> dict[str, str]:
    """Return the values of ``--columns`` as the argument ``columns`` of `load_training_data`."""
    wrong = next((each for each in given if "=" not in each), None)
    if wrong is not None:
        raise typer.BadParameter(
            f"--columns {wrong}: expected NAME=MEANING, such as search=query, or NAME= to leave it out"
        )
    pairs = [each.rsplit("=", 1) for each in given]
    twice = [name for name, _ in pairs if [own for own, _ in pairs].count(name) > 1]
    if twice:
        raise typer.BadParameter(f"--columns names {twice[0]!r} twice; give it one meaning")
    return {name: meaning.strip() for name, meaning in pairs}


def _show_training(
    report: TrainingReport, done: str, plot: Path | None, json_file: str | None, unit: str = "epoch"
) -> None:
    """Show the figures of a training, the line ``done`` and the report's warning. Write the plot.

    If nothing was saved, exit with `NOTHING_GAINED`. ``unit`` is the same as in `figures.training_tables`.
    """
    if os.environ.get("RANK", "0") == "0":  # only the first of several processes prints
        if plot is not None:
            report.save_plot(plot)
        show_figures(report.as_json(), figures.training_tables(report, unit), json_file)
        for note in report.notes:
            err.print(Text(note), soft_wrap=True)
        if json_file != "-" and report.saved:
            out.print(Text(done), soft_wrap=True)
        if report.warning:
            err.print(Text.assemble(("warning: ", "bold yellow"), report.warning), soft_wrap=True)
    if not report.saved:
        raise typer.Exit(NOTHING_GAINED)
