"""Commands that compare rankings: eval, tune, demo."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from smart_rag.cli import display, figures
from smart_rag.cli.console import check_report_file, on_terminal, out, print_json, show_figures
from smart_rag.cli.opening import open_index
from smart_rag.cli.options import (
    Adapter,
    AsJson,
    Backend,
    BaseModel,
    Db,
    Device,
    DocumentPrompt,
    Dtype,
    KeptDb,
    LimitQueries,
    MaxPixels,
    Model,
    ProfileName,
    QueryPrompt,
    QueryWeighting,
    ReportFile,
    Trusted,
)
from smart_rag.cli.report import print_report
from smart_rag.config import DEFAULT_CANDIDATES, DEFAULT_MODEL, IndexConfig
from smart_rag.paths import absolute

DEFAULT_DEPTH = 100


def evaluate(
    dataset: Annotated[
        Path,
        typer.Argument(metavar="DATASET_DIR", parser=absolute, help="A BEIR folder; with --paper, published datasets."),
    ],
    model: Model = None,
    base_model: BaseModel = None,
    adapter: Adapter = None,
    profile: ProfileName = None,
    query_prompt: QueryPrompt = None,
    document_prompt: DocumentPrompt = None,
    backend: Backend = None,
    dtype: Dtype = None,
    max_pixels: MaxPixels = None,
    trust_remote_code: Trusted = False,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            help="Make the paper's table: read the datasets in DATASET_DIR as they are published (MMEB-V2, ViDoRe, "
            "VisRAG, NanoBEIR), rank them as in the paper, and print our figures beside the published ones.",
        ),
    ] = False,
    media: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=absolute,
            help="With --paper: the folder of images and videos that the datasets name by their paths.",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="The split to read: qrels/NAME.tsv, or with --paper, a table's.")
    ] = None,
    answerable_only: Annotated[
        bool,
        typer.Option(
            "--answerable-only",
            help="Leave out judgements of documents that the corpus lacks, and queries without a relevant document. "
            "Otherwise they count as not found.",
        ),
    ] = False,
    language: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --paper: use only the queries in this language; the paper uses all."),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Depth of the rankings.")] = DEFAULT_DEPTH,
    candidates: Annotated[
        int, typer.Option(min=1, help="Number of documents that the first stage chooses for scoring.")
    ] = DEFAULT_CANDIDATES,
    weighting: QueryWeighting = None,
    limit_queries: LimitQueries = None,
    db: KeptDb = None,
    device: Device = None,
    json_file: ReportFile = None,
) -> None:
    """Rank a dataset by each score and with each first stage, and say which differences are noise."""
    from smart_rag.evaluation import evaluator
    from smart_rag.evaluation.datasets import load_dataset

    check_report_file(json_file)
    if paper:
        if db is not None or top_k != DEFAULT_DEPTH or candidates != DEFAULT_CANDIDATES or answerable_only or weighting:
            raise typer.BadParameter(
                "--paper scores every document by the paper's method, in an index of its own for each dataset; leave "
                "out --db, --top-k, --candidates, --weighting and --answerable-only"
            )
        given: dict[str, object] = {"base_model": base_model, "adapter": adapter, "device": device, "profile": profile}
        given |= {"query_prompt": query_prompt, "document_prompt": document_prompt, "max_pixels": max_pixels}
        given |= {"trust_remote_code": trust_remote_code}
        given |= {"backend": backend, "dtype": dtype}
        _evaluate_published(dataset, model, given, media, split, language, limit_queries, json_file)
        return
    if media or language:
        raise typer.BadParameter("--media and --language need --paper")
    data = load_dataset(dataset, limit_queries, split=split, answerable_only=answerable_only)
    with (
        tempfile.TemporaryDirectory() as temporary,
        open_index(
            db or Path(temporary) / "index",
            model,
            config=IndexConfig(),
            base_model=base_model,
            adapter=adapter,
            device=device,
            profile=profile,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            backend=backend,
            dtype=dtype,
            max_pixels=max_pixels,
            trust_remote_code=trust_remote_code,
        ) as index,
    ):
        result = evaluator.evaluate(
            data,
            index,
            top_k=top_k,
            candidates=candidates,
            weighting=weighting,
            show_progress_bar=on_terminal(),
        )
    show_figures(result, figures.evaluation_tables(result), json_file)


def _evaluate_published(
    root: Path,
    model: str | None,
    options: Mapping[str, object],
    media: Path | None,
    split: str | None,
    language: str | None,
    limit_queries: int | None,
    json_file: str | None,
) -> None:
    from smart_rag.evaluation.paper.evaluation import evaluate_published, paper_encoder

    encoder = paper_encoder(
        model or DEFAULT_MODEL, **{name: value for name, value in options.items() if value is not None}
    )
    result = evaluate_published(
        root,
        encoder,
        media=media,
        split=split,
        language=language,
        limit_queries=limit_queries,
        show_progress_bar=on_terminal(),
    )
    show_figures(result, figures.paper_tables(result), json_file)
    if result["failed"]:
        raise SystemExit(1)


def tune(
    db: Db,
    queries: Annotated[
        Path, typer.Option(metavar="FILE", parser=absolute, help="Queries, in the format of BEIR's queries.jsonl.")
    ],
    qrels: Annotated[
        Path, typer.Option(metavar="FILE", parser=absolute, help="Judgements, in the format of BEIR's qrels.tsv.")
    ],
    limit_queries: LimitQueries = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report only, and do not change the index.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Save the best setting even if the difference may be noise.")
    ] = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Find the best weights for an index from at least 30 judged queries, and save them in the index."""
    from smart_rag.evaluation import tuner
    from smart_rag.evaluation.datasets import load_labels

    with open_index(db, device=device) as index:
        labels = load_labels(queries, qrels, limit_queries)
        found = tuner.tune(index, labels.queries, labels.qrels, show_progress_bar=on_terminal())
        found = replace(found, notes=(*labels.notes, *found.notes))
        writes = not dry_run and found.choice != found.current and (force or found.is_worth_it)
        if writes:
            index.set_weights(found.choice.weights, found.choice.weighting)
        if not dry_run:
            index.calibrate(tuner.relevant_scores(index, labels.queries, labels.qrels))
    if as_json:
        print_json(figures.tuning_json(found, written=writes))
        return
    out.print(figures.tuning_table(found))
    done = "The best setting is saved in the index." if writes else "The index is unchanged."
    if found.choice != found.current and not (writes or dry_run):
        done += " --force saves the best setting anyway."
    out.print(Text(figures.tuning_verdict(found) + "\n" + done), soft_wrap=True)


def demo(db: KeptDb = None) -> None:
    """Index the sample documents.

    Compare the ranking by the pooled vector alone with the ranking by pooled vector and late interaction.
    """
    from smart_rag.demo import sample_folder, sample_questions

    with (
        tempfile.TemporaryDirectory() as temporary,
        open_index(db or Path(temporary) / "index", config=IndexConfig()) as index,
    ):
        print_report(index.add_files([sample_folder()], show_progress_bar=on_terminal()))
        out.print(f"{index.count()} passages of the handbook, logs and reports of a small field station.\n")
        for question in (question for question in sample_questions() if question.demo):
            out.print(display.comparison(index, question))
    program = "smart-rag" if shutil.which("smart-rag") else program_name()
    out.print(display.next_steps(program), soft_wrap=True)


def program_name() -> str:
    """Return the shell command that starts this program."""
    path = Path(sys.argv[0]).absolute()
    if path.name == "__main__.py":
        return f"{display.short_path(sys.executable)} -m smart_rag"
    return display.short_path(str(path))
