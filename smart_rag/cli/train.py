"""``smart-rag train``: adapter, finetune."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from smart_rag.cli import display
from smart_rag.cli.console import check_report_file, err, on_terminal, out, show_figures
from smart_rag.cli.options import Device, MaxPixels, ProfileName, ReportFile, Trusted
from smart_rag.config import DEFAULT_MODEL, AdapterObjective, Objective

if TYPE_CHECKING:
    from smart_rag.training.data import TrainingData
    from smart_rag.training.report import TrainingReport

app = typer.Typer(no_args_is_help=True, help="Train for your own data, from questions and the passages that answer.")


def _check_part(value: float) -> float:
    if not 0 < value < 1:
        raise typer.BadParameter(f"must be between 0 and 1, got {value:g}")
    return value


def _check_positive(value: float | None) -> float | None:
    if value is not None and not value > 0:
        raise typer.BadParameter(f"must be above 0, got {value:g}")
    return value


Data = Annotated[
    Path, typer.Option(metavar="DATA", help="Pairs (.jsonl), a BEIR folder, or a dataset folder of Hugging Face's.")
]
TrainedModel = Annotated[
    str, typer.Option("--model", metavar="M", help="Name or folder of a sentence-transformers model.")
]
Epochs = Annotated[int, typer.Option(min=1, help="How often each query is seen.")]
BatchSize = Annotated[int, typer.Option(min=2, help="Queries in a batch; each other's answers are negatives.")]
HardNegatives = Annotated[int, typer.Option(min=0, help="Hard negatives of each query, mined or given.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N queries.")]
HeldOut = Annotated[
    float, typer.Option(callback=_check_part, help="The part of the documents that is measured with, between 0 and 1.")
]
Temperature = Annotated[float, typer.Option(callback=_check_positive, help="Scores are divided by it in the loss.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of all that is drawn by chance, but for the split.")]
Plot = Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw loss and held-out nDCG@10.")]


@app.command("adapter")
def train_adapter_command(
    data: Data,
    to: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the adapter goes.")],
    model: TrainedModel = DEFAULT_MODEL,
    dimension: Annotated[
        int | None, typer.Option(min=1, help="Width of the token embeddings; by default the model's.")
    ] = None,
    epochs: Epochs = 5,
    batch_size: BatchSize = 64,
    learning_rate: Annotated[float, typer.Option(callback=_check_positive, help="At its highest.")] = 1e-3,
    temperature: Temperature = 0.03,
    objective: Annotated[AdapterObjective, typer.Option(help="Which score is trained.")] = "late",
    hard_negatives: HardNegatives = 0,
    seed: Seed = 0,
    profile: ProfileName = None,
    max_pixels: MaxPixels = None,
    device: Device = None,
    trust_remote_code: Trusted = False,
    limit: Limit = None,
    held_out: HeldOut = 0.1,
    plot: Plot = None,
    json_file: ReportFile = None,
) -> None:
    """Train token embeddings for late interaction on a frozen model; pooled embeddings stay as they are."""
    from smart_rag.encoders.smart_encoder import SmartEncoder
    from smart_rag.training.adapter_trainer import AdapterSettings, train_adapter

    loaded = _training_data(data, limit, plot, json_file)
    settings = AdapterSettings(
        dimension=dimension,
        objective=objective,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        temperature=temperature,
        hard_negatives=hard_negatives,
        seed=seed,
    )
    encoder = SmartEncoder(
        model, device=device, profile=profile, max_pixels=max_pixels, trust_remote_code=trust_remote_code
    )
    report = train_adapter(encoder, loaded, to, settings, held_out=held_out, show_progress_bar=on_terminal())
    named = [] if model == DEFAULT_MODEL else ["--model", model]
    named += [] if profile is None else ["--profile", profile]
    named += [] if max_pixels is None else ["--max-pixels", str(max_pixels)]
    named += ["--trust-remote-code"] if trust_remote_code else []
    options = shlex.join([*named, "--adapter", str(to)])
    _show_training(report, f"{to}: use it with `smart-rag index PATH --db DIR {options}`", plot, json_file)


@app.command("finetune")
def finetune_command(
    data: Data,
    to: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the model goes.")],
    model: TrainedModel = DEFAULT_MODEL,
    objective: Annotated[Objective, typer.Option(help="Which score is trained.")] = "hybrid",
    lora_rank: Annotated[
        int | None, typer.Option("--lora", metavar="RANK", min=1, help="LoRA of this rank; by default all weights.")
    ] = None,
    epochs: Epochs = 1,
    batch_size: BatchSize = 64,
    mini_batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Texts in memory at a time, for large batches: slower, the result is the same."),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(callback=_check_positive, help="At its highest; by default 2e-5 for all weights, 1e-4 for LoRA."),
    ] = None,
    temperature: Temperature = 0.05,
    hard_negatives: HardNegatives = 0,
    seed: Seed = 0,
    evaluate_every: Annotated[
        int | None, typer.Option(metavar="STEPS", min=1, help="Measure and keep a checkpoint; by default each epoch.")
    ] = None,
    profile: ProfileName = None,
    max_pixels: MaxPixels = None,
    device: Device = None,
    trust_remote_code: Trusted = False,
    limit: Limit = None,
    held_out: HeldOut = 0.1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a training that was stopped.")] = False,
    plot: Plot = None,
    json_file: ReportFile = None,
) -> None:
    """Fine-tune a model, whole or by LoRA; out comes an ordinary sentence-transformers model."""
    from smart_rag.training.finetuner import FinetuneSettings, finetune
    from smart_rag.training.folder import TrainingFolder

    loaded = _training_data(data, limit, plot, json_file)
    settings = FinetuneSettings(
        objective=objective,
        lora_rank=lora_rank,
        epochs=epochs,
        batch_size=batch_size,
        mini_batch_size=mini_batch_size,
        learning_rate=learning_rate,
        temperature=temperature,
        hard_negatives=hard_negatives,
        evaluate_every=evaluate_every,
        seed=seed,
    )
    try:
        report = finetune(
            model,
            loaded,
            to,
            settings,
            held_out=held_out,
            device=device,
            profile=profile,
            max_pixels=max_pixels,
            trust_remote_code=trust_remote_code,
            resume=resume,
            show_progress_bar=on_terminal(),
        )
    except KeyboardInterrupt:
        last = TrainingFolder(to).last_checkpoint()
        kept = "no checkpoint yet" if last is None else f"the same command with --resume goes on from {last.name}"
        err.print(f"\nstopped; {kept}")
        raise typer.Exit(130) from None
    _show_training(report, f"{to}: use it with `smart-rag index PATH --db DIR --model {to}`", plot, json_file)


def _training_data(data: Path, limit: int | None, plot: Path | None, json_file: str | None) -> TrainingData:
    """Return what is at ``data``, once it is sure that what comes of it can be written."""
    from smart_rag.training.data import load_training_data
    from smart_rag.training.plot import check_plot

    check_report_file(json_file)
    if plot is not None:
        check_plot(plot)
    return load_training_data(data, limit)


def _show_training(report: TrainingReport, done: str, plot: Path | None, json_file: str | None) -> None:
    """Show what came of a training, and that it is ``done``."""
    from smart_rag.training.plot import save_plot

    if os.environ.get("RANK", "0") != "0":  # one of several processes; the first one speaks
        return
    if plot is not None:
        save_plot(report, plot)
    show_figures(report.as_json(), display.training_tables(report), json_file)
    if json_file != "-":
        out.print(Text(done), soft_wrap=True)
    if report.warning:
        err.print(Text.assemble(("warning: ", "bold yellow"), report.warning), soft_wrap=True)
