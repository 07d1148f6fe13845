"""Commands that compare rankings: eval, compare, tune, demo."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
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
    Measures,
    Model,
    PlotFile,
    ProfileName,
    QueryPrompt,
    QueryWeighting,
    ReportFile,
    Trusted,
    names_in,
)
from smart_rag.cli.report import print_report
from smart_rag.config import DEFAULT_CANDIDATES, DEFAULT_MODEL, IndexConfig
from smart_rag.errors import InvalidInput
from smart_rag.paths import absolute
from smart_rag.types import Content
from smart_rag.wording import one_line

DEFAULT_DEPTH = 100  # as in `evaluation.metrics`, which takes long to import


def evaluate(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="A BEIR folder; a folder with the tables corpus, queries and qrels, such as Parquet files; or a name "
            "of ir-datasets, such as ir_datasets:beir/scifact/test. With --paper, published datasets.",
        ),
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
            help="Make the paper's table: read the datasets in DATASET as they are published (MMEB-V2, ViDoRe, "
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
    run_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--runs",
            metavar="FILE",
            parser=absolute,
            help="Measure the rankings in this TREC run file, and load no model. May be given several times. Then "
            "DATASET may be a file of judgements alone.",
        ),
    ] = None,
    measures: Measures = None,
    top_k: Annotated[
        int | None,
        typer.Option(min=1, help=f"Depth of the rankings; by default {DEFAULT_DEPTH}, or what a measure needs."),
    ] = None,
    candidates: Annotated[
        int, typer.Option(min=1, help="Number of documents that the first stage chooses for scoring.")
    ] = DEFAULT_CANDIDATES,
    weighting: QueryWeighting = None,
    limit_queries: LimitQueries = None,
    db: KeptDb = None,
    device: Device = None,
    save_runs: Annotated[
        Path | None,
        typer.Option(metavar="DIR", parser=absolute, help="Write each ranking there as a TREC run file."),
    ] = None,
    per_query: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", parser=absolute, help="Write the measures of each query as JSON lines."),
    ] = None,
    plot: PlotFile = None,
    json_file: ReportFile = None,
) -> None:
    """Rank a dataset by each score and with each first stage, and say which differences are noise."""
    from smart_rag.evaluation import evaluator
    from smart_rag.evaluation.datasets import load_dataset

    reports = Reports(json_file, per_query, plot)
    reports.check()
    if paper:
        others = (db, top_k, weighting, answerable_only, run_files, measures, save_runs, per_query, plot)
        if any(others) or candidates != DEFAULT_CANDIDATES:
            raise typer.BadParameter(
                "--paper scores every document, in an index of its own for each dataset; leave out --db, --top-k, "
                "--candidates, --weighting, --answerable-only, --runs, --measures, --save-runs, --per-query, --plot"
            )
        given: dict[str, object] = {"base_model": base_model, "adapter": adapter, "device": device, "profile": profile}
        given |= {"query_prompt": query_prompt, "document_prompt": document_prompt, "max_pixels": max_pixels}
        given |= {"trust_remote_code": trust_remote_code}
        given |= {"backend": backend, "dtype": dtype}
        _evaluate_published(absolute(dataset), model, given, media, split, language, limit_queries, json_file)
        return
    if media or language:
        raise typer.BadParameter("--media and --language need --paper")
    if run_files:
        if any((db, model, base_model, adapter, profile, query_prompt, document_prompt, backend, save_runs, weighting)):
            raise typer.BadParameter(
                "--runs loads no model; leave out --db, --save-runs, --weighting and the options of a model"
            )
        runs_options = {"limit_queries": limit_queries, "split": split, "answerable_only": answerable_only}
        _evaluate_runs(dataset, run_files, runs_options, names_in(measures), top_k, reports)
        return
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
            measures=names_in(measures),
            top_k=top_k,
            candidates=candidates,
            weighting=weighting,
            save_runs=save_runs,
            show_progress_bar=on_terminal(),
        )
    reports.write(result, figures.evaluation_tables(result), data.queries)


@dataclass(frozen=True, slots=True)
class Reports:
    """The files to which an evaluation is written."""

    json_file: str | None
    per_query: Path | None
    plot: Path | None

    def check(self) -> None:
        """Check that the files can be written, before the work begins."""
        check_report_file(self.json_file)
        check_report_file(self.per_query, "--per-query", ".jsonl")
        if self.plot is not None:
            from smart_rag.evaluation.plots import check_plot_file

            check_plot_file(self.plot)

    def write(self, result: Mapping[str, Any], shown: Group, queries: Mapping[str, str | Content]) -> None:
        """Print ``shown``, and write the files."""
        from smart_rag.evaluation.plots import save_evaluation_plot
        from smart_rag.evaluation.results import write_by_query

        show_figures(result, shown, self.json_file)
        if self.per_query is not None:
            write_by_query(self.per_query, result, queries)
        if self.plot is not None:
            save_evaluation_plot(result, self.plot)


def _evaluate_runs(
    dataset: str,
    run_files: list[Path],
    options: Mapping[str, Any],
    measures: list[str] | None,
    top_k: int | None,
    reports: Reports,
) -> None:
    """Measure rankings from elsewhere, on a dataset or on a file of judgements."""
    from smart_rag.evaluation import Dataset, evaluate_runs, load_dataset, read_run
    from smart_rag.evaluation.qrels import read_qrels

    names = [path.name.removesuffix(".gz").rsplit(".", 1)[0] for path in run_files]
    if len(set(names)) < len(names):
        raise typer.BadParameter(f"two files of --runs have the same name ({', '.join(names)}); rename one of them")
    if (judgements := absolute(dataset)).is_file():
        if any(options.values()):
            raise typer.BadParameter(
                f"{judgements} is a file of judgements; --limit-queries, --split and --answerable-only need a folder"
            )
        qrels = read_qrels(judgements)
        data = Dataset(judgements.name, [], dict.fromkeys(qrels, ""), qrels)
    else:
        data = load_dataset(dataset, **options)
    runs = {name: read_run(path) for name, path in zip(names, run_files, strict=True)}
    result = evaluate_runs(data, runs, measures=measures, top_k=top_k)
    reports.write(result, figures.runs_tables(result), data.queries)


def compare(
    first: Annotated[
        Path, typer.Argument(metavar="A.json", parser=absolute, help="Figures that `eval --json A.json` has written.")
    ],
    second: Annotated[Path, typer.Argument(metavar="B.json", parser=absolute, help="Those of another evaluation.")],
    runs: Annotated[
        list[str] | None,
        typer.Option(
            "--runs",
            metavar="NAME",
            help="A ranking to compare, such as hybrid, or hybrid:bm25 for one of A and another one of B. May be given "
            "several times; by default pooled, late and hybrid.",
        ),
    ] = None,
    measures: Measures = None,
    plot: PlotFile = None,
    json_file: ReportFile = None,
) -> None:
    """Compare two evaluations, such as those of two models: A - B, over the queries that both have."""
    from smart_rag.evaluation import compare as compare_results
    from smart_rag.evaluation.plots import check_plot_file, save_comparison_plot

    check_report_file(json_file)
    if plot is not None:
        check_plot_file(plot)
    names = (first.stem, second.stem) if first.stem != second.stem else (str(first), str(second))
    found = compare_results(
        _figures_in(first), _figures_in(second), runs=runs, measures=names_in(measures), names=names
    )
    show_figures(found.as_json(), figures.comparison_tables(found), json_file)
    if plot is not None:
        save_comparison_plot(found, plot)


def _figures_in(file: Path) -> Mapping[str, Any]:
    """Return the JSON values in ``file``. `compare` checks what they are."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{file} cannot be read ({one_line(error)}); expected the figures that `smart-rag eval --json FILE` writes"
        ) from error
    if not isinstance(values, Mapping):
        raise InvalidInput(
            f"{file}: expected the figures that `smart-rag eval --json FILE` writes, got another JSON value"
        )
    return values


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
    force: Annotated[bool, typer.Option("--force", help="Save the choice even if its gain may be noise.")] = False,
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
    out.print_tables(figures.tuning_table(found))
    done = "The choice is saved in the index."
    if dry_run:
        done = "The index is unchanged."
    elif not writes:  # the scale of relevance is not
        done = "The weights of the index are unchanged."
        done += " --force saves the choice anyway." if found.choice != found.current else ""
    elif not found.is_worth_it:
        done = "The choice is saved in the index, because of --force. It may be worse than the setting before."
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
