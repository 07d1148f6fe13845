"""``smart-rag``: index, search, ask, eval, tune, train, info, delete, verify, demo.

Exit codes: 0 good, 1 an error of the user's that one line explains, 2 usage, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from smart_rag._version import __version__
from smart_rag.cli import display
from smart_rag.cli import train as train_cli
from smart_rag.cli.console import check_report_file, err, on_terminal, out, print_json, show_figures
from smart_rag.cli.options import (
    Adapter,
    AsJson,
    Codec,
    Db,
    Device,
    MaxPixels,
    Model,
    MovedModel,
    Picture,
    ProfileName,
    ReportFile,
    Trusted,
    Where,
)
from smart_rag.config import (
    DEFAULT_CANDIDATES,
    DEFAULT_CONTEXT_TOKENS,
    DEFAULT_MODEL,
    DEFAULT_PASSAGES,
    DEFAULT_TIMEOUT,
    DEFAULT_TOP_K,
    FirstStageName,
    IndexConfig,
)
from smart_rag.embeddings.codec import get_codec
from smart_rag.errors import DocumentError, EncoderError, IndexMismatch, InvalidInput, SmartRagError
from smart_rag.index.manifest import FILE_NAME, Manifest
from smart_rag.types import AddReport, Content, Hit, Span
from smart_rag.wording import number

if TYPE_CHECKING:
    from smart_rag.index.smart_index import SmartIndex


class _Commands(TyperGroup):
    """The commands; here an interrupt is still one, beyond, typer makes an exit code of it and says nothing."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            kept = "; what was done is kept, and the same command goes on from there"
            err.print("\nstopped" + (kept if ctx.invoked_subcommand == "index" else ""))
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(train_cli.app, name="train")


def main() -> None:
    """Run the command line."""
    try:
        app()
    except SmartRagError as error:
        err.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        raise SystemExit(1) from None


def _version(value: bool) -> None:
    if value:
        out.print(f"smart-rag {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Log what happens, on which device; before the command: smart-rag -v search ..."
        ),
    ] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Better retrieval from the embedding model you already have."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("smart_rag").setLevel(logging.INFO if verbose else logging.WARNING)


@app.command("index")
def index_command(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files and folders.")],
    db: Db,
    model: Model = None,
    adapter: Adapter = None,
    include: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help='Only these, such as "*.md".')] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Not these.")] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove passages of files that are no longer there.")] = False,
    codec: Codec = None,
    profile: ProfileName = None,
    max_pixels: MaxPixels = None,
    device: Device = None,
    trust_remote_code: Trusted = False,
) -> None:
    """Index files and folders; a second run takes up what is new or changed."""
    from smart_rag.files.reader import find

    # Before a model is loaded or a folder made; what it takes is known then.
    find(paths, include or (), exclude or (), ("text", "image", "video"))
    config = IndexConfig() if codec is None else _config_with(codec, db)
    is_new = not db.exists()
    options = {"profile": profile, "max_pixels": max_pixels, "device": device}
    with _open(db, model, adapter, config, trust_remote_code=trust_remote_code, **options) as index:
        report = index.add_files(
            paths, include=include or (), exclude=exclude or (), prune=prune, show_progress_bar=on_terminal()
        )
        count = index.count()
    _print_report(report)
    if count or not is_new:
        out.print(f"{number(count, 'passage')} in {db}")
    else:
        shutil.rmtree(db, ignore_errors=True)  # all is as it was before
    if report.failed and report == AddReport(failed=report.failed):
        raise SystemExit(1)


@app.command()
def search(
    db: Db,
    query: Annotated[
        str | None, typer.Argument(metavar="QUERY", help="A text; not needed beside --image.", show_default=False)
    ] = None,
    image: Picture = None,
    top_k: Annotated[int, typer.Option("-k", "--top-k", help="How many passages.")] = DEFAULT_TOP_K,
    candidates: Annotated[int, typer.Option(help="How many passages the first stage hands on.")] = DEFAULT_CANDIDATES,
    where: Where = None,
    first_stage: Annotated[FirstStageName, typer.Option(help="How they are chosen; exhaustive: score all.")] = "auto",
    explain: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw what matched in the best passage, such as to why.png.")
    ] = None,
    model: MovedModel = None,
    adapter: Adapter = None,
    device: Device = None,
    trust_remote_code: Trusted = False,
    as_json: AsJson = False,
) -> None:
    """Search by a text, an image or both, and show the passages with the words that matched best."""
    if query is None and image is None:
        raise typer.BadParameter("give a QUERY, an image by --image, or both")
    _check_picture(explain)
    with _open(db, model, adapter, device=device, trust_remote_code=trust_remote_code) as index:
        asked = _asked(query or "", image)
        hits = index.search(asked, top_k, candidates=candidates, where=_where(where), first_stage=first_stage)
        if as_json:
            print_json([display.hit_json(hit) for hit in hits])
        else:
            _show_hits(index, hits)
        if explain is not None and hits:  # last: what it is drawn on may be gone
            _write_picture(hits[0], explain)


@app.command()
def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    db: Db,
    llm_url: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="SMART_RAG_LLM_URL",
            help="Any OpenAI-compatible endpoint, such as http://localhost:11434/v1.",
        ),
    ],
    llm_model: Annotated[
        str, typer.Option(metavar="M", envvar="SMART_RAG_LLM_MODEL", help="The language model's name there.")
    ],
    top_k: Annotated[int, typer.Option("-k", "--top-k", help="How many passages at most.")] = DEFAULT_PASSAGES,
    where: Where = None,
    image: Picture = None,
    images: Annotated[
        int, typer.Option(metavar="N", help="Send the images of N passages and of the question, to a model that sees.")
    ] = 0,
    context_tokens: Annotated[
        int, typer.Option(help="How many tokens the passages may have together.")
    ] = DEFAULT_CONTEXT_TOKENS,
    max_tokens: Annotated[
        int | None, typer.Option(help="How long the answer may be, in tokens; else the endpoint decides.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the next piece.")] = DEFAULT_TIMEOUT,
    model: MovedModel = None,
    adapter: Adapter = None,
    device: Device = None,
    trust_remote_code: Trusted = False,
    as_json: AsJson = False,
) -> None:
    """Answer a question by a language model from what the index finds, and show the sources.

    A key, where the endpoint needs one, is taken from the environment variable OPENAI_API_KEY.
    """
    from smart_rag import answer

    with _open(db, model, adapter, device=device, trust_remote_code=trust_remote_code) as index:
        reply = answer.ask(
            index,
            _asked(question, image),
            url=llm_url,
            model=llm_model,
            top_k=top_k,
            where=_where(where),
            context_tokens=context_tokens,
            images=images,
            max_tokens=max_tokens,
            timeout=timeout,
        )
    if as_json:
        text = "".join(reply) if reply.sources else None
        sources = [display.hit_json(hit) for hit in reply.sources]
        print_json({"answer": text, "finish_reason": reply.finish_reason, "sources": sources})
        return
    if not reply.sources:
        out.print("nothing found")
        return
    try:
        for piece in reply:
            sys.stdout.write(piece)
            sys.stdout.flush()
    finally:  # an error has a line of its own
        sys.stdout.write("\n" if reply.text else "")
    if reply.sources and reply.finish_reason is None:
        err.print("the endpoint did not say that the answer is complete", style="dim")
    if reply.finish_reason == "length":
        err.print(Text("the answer was cut off: it is as long as the endpoint or --max-tokens allows", style="dim"))
    out.print()
    for hit in reply.sources:
        out.print(
            Text.assemble(
                (f"[{hit.rank}]", "bold"), "  ", (f"{hit.score:.3f}", "bold green"), "  ", (display.place(hit), "cyan")
            ),
            soft_wrap=True,
        )


@app.command("eval")
def eval_command(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET_DIR", help="A folder in BEIR layout.")],
    model: Model = None,
    adapter: Adapter = None,
    top_k: Annotated[int, typer.Option(min=1, help="Depth of the rankings.")] = 100,
    candidates: Annotated[int, typer.Option(min=1, help="How many documents `search` scores.")] = DEFAULT_CANDIDATES,
    limit_queries: Annotated[int | None, typer.Option(min=1, help="Only the first N queries.")] = None,
    db: Annotated[Path | None, typer.Option("--db", metavar="DIR", help="Keep the index here.")] = None,
    device: Device = None,
    json_file: ReportFile = None,
) -> None:
    """Rank a dataset by each score and each first stage; measure, and say which differences are noise."""
    from smart_rag.evaluation.datasets import load_dataset
    from smart_rag.evaluation.evaluator import evaluate

    check_report_file(json_file)
    data = load_dataset(dataset, limit_queries)
    with (
        tempfile.TemporaryDirectory() as temporary,
        _open(db or Path(temporary) / "index", model, adapter, IndexConfig(), device=device) as index,
    ):
        result = evaluate(data, index, top_k=top_k, candidates=candidates, show_progress_bar=on_terminal())
    show_figures(result, display.evaluation_tables(result), json_file)


@app.command()
def tune(
    db: Db,
    queries: Annotated[Path, typer.Option(metavar="FILE", help="Queries as in BEIR's queries.jsonl.")],
    qrels: Annotated[Path, typer.Option(metavar="FILE", help="Judgements as in BEIR's qrels.tsv.")],
    limit_queries: Annotated[int | None, typer.Option(min=1, help="Only the first N queries.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Take the best, also where that may be noise.")] = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Find the weights that suit the index best, from 30 or more judged queries, and keep them in it."""
    from smart_rag.evaluation import tuner as tuning
    from smart_rag.evaluation.datasets import load_labels

    with _open(db, device=device) as index:
        texts, judgements = load_labels(queries, qrels, limit_queries)
        found = tuning.tune(index, texts, judgements, show_progress_bar=on_terminal())
        writes = not dry_run and found.choice != found.current and (force or found.is_worth_it)
        if writes:
            index.set_weights(found.choice.weights, found.choice.weighting)
    if as_json:
        print_json(display.tuning_json(found, written=writes))
        return
    out.print(display.tuning_table(found))
    done = "The best is now the index's own." if writes else "The index is left as it is."
    if found.choice != found.current and not (writes or dry_run):
        done += " --force takes the best all the same."
    out.print(Text(display.tuning_verdict(found) + "\n" + done), soft_wrap=True)


@app.command()
def info(
    db: Annotated[Path | None, typer.Option("--db", metavar="DIR", help="The folder of an index.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="M", help="How this model would be used, and why so.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", metavar="NAME", help="With --model: as one of this family.")
    ] = None,
    device: Device = None,
    trust_remote_code: Trusted = False,
    as_json: AsJson = False,
) -> None:
    """Show what an index holds, its model and its size; or how a model is used."""
    if (db is None) == (model is None) or ((profile or device or trust_remote_code) and model is None):
        raise typer.BadParameter(
            "name an index by --db, or a model by --model, perhaps with --profile, --device and --trust-remote-code"
        )
    if model is not None:
        from smart_rag.encoders.smart_encoder import SmartEncoder

        encoder = SmartEncoder(model, device=device, profile=profile, trust_remote_code=trust_remote_code)
        if as_json:
            print_json(display.model_json(encoder))
        else:
            out.print(display.model_table(encoder))
    elif db is not None:
        with _open(db) as index:
            found = index.info()
        if as_json:
            print_json(asdict(found))
        else:
            out.print(display.index_table(found))


@app.command()
def delete(
    db: Db,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of passages.")] = None,
    source: Annotated[list[Path] | None, typer.Option(metavar="PATH", help="Every passage of this file.")] = None,
) -> None:
    """Remove passages by id, or all of a file."""
    if not ids and not source:
        raise typer.BadParameter("name ids, or files by --source")
    with _open(db) as index:
        removed = [(f"no passage {id!r}", index.delete([id])) for id in dict.fromkeys(ids or [])]
        removed += [(f"no passage of the file {path}", index.delete_source(path)) for path in source or []]
    total = sum(count for _, count in removed)
    out.print(f"{number(total, 'passage')} removed")
    for absent in (what for what, count in removed if not count):
        err.print(Text(f"{absent} in {db}"), soft_wrap=True)
    if not total:
        raise SystemExit(1)


@app.command()
def verify(
    db: Db,
    repair: Annotated[
        bool, typer.Option("--repair", help="Encode again what is broken, and remove what nothing names.")
    ] = False,
) -> None:
    """Read everything back and say what is missing or damaged."""
    with _open(db) as index:
        report = index.verify(repair=repair)
        if repair:
            index.vacuum()
        count = index.count()
    if report.sound and not report.orphans:
        out.print(f"all {number(count, 'passage')} are sound")
        return
    out.print(
        f"{number(len(report.missing), 'passage')} without token embeddings, {len(report.damaged)} with damaged ones, "
        f"{number(report.orphans, 'entry')} that no passage names" + ("; repaired" if repair else "")
    )
    if not report.sound and not repair:
        raise SystemExit(1)


@app.command()
def demo(
    db: Annotated[Path | None, typer.Option("--db", metavar="DIR", help="Keep the index here.")] = None,
) -> None:
    """Index the bundled sample documents and compare pooled ranking with SMART."""
    from smart_rag.demo import sample_folder, sample_questions

    with tempfile.TemporaryDirectory() as temporary:
        folder = db or Path(temporary) / "index"
        with _open(folder, config=IndexConfig()) as index:
            _print_report(index.add_files([sample_folder()], show_progress_bar=on_terminal()))
            out.print(f"{index.count()} passages of the handbook, logs and reports of a small field station.\n")
            for question in (question for question in sample_questions() if question.demo):
                out.print(display.comparison(index, question))
    program = "smart-rag" if shutil.which("smart-rag") else _program()
    out.print(
        Text.assemble(
            "A pooled vector stands for a whole passage, so a detail in it drowns; SMART also looks at each word.\n",
            "These questions were chosen to show that; measure on your own data with `eval`.\n\n",
            ("Your own documents:\n", "bold"),
            f"  {program} index ~/Documents --db my.index\n",
            f'  {program} search "your question" --db my.index\n\n',
            ("A bigger model, any from sentence-transformers:\n", "bold"),
            f"  {program} index ~/Documents --db big.index --model Qwen/Qwen3-Embedding-0.6B\n",
        ),
        soft_wrap=True,
    )


def _open(
    db: Path,
    model: str | None = None,
    adapter: Path | None = None,
    config: IndexConfig | None = None,
    *,
    trust_remote_code: bool = False,
    **options: Any,
) -> SmartIndex:
    """Return the index in ``db``; where there is none, a new one by ``config``, if that is given.

    What is not said of the encoder is as the index was made with. Only the code of the index's own model is trusted
    by what the index says.
    """
    from smart_rag.encoders.smart_encoder import SmartEncoder
    from smart_rag.index.smart_index import SmartIndex

    given = {name: value for name, value in {"adapter": adapter, **options}.items() if value is not None}
    given |= {"trust_remote_code": True} if trust_remote_code else {}
    if config is not None and not (db / FILE_NAME).exists():
        return SmartIndex.create(db, SmartEncoder(model or DEFAULT_MODEL, **given), config=config)
    if model is None and not given:
        return SmartIndex.open(db)
    own = Manifest.read(db).encoder or {}
    if "weights" not in own:  # not of a model that could be loaded from what the index says
        return SmartIndex.open(db, model)
    device = given.pop("device", None)
    if model is None:
        return SmartIndex.open(db, SmartEncoder.from_description({**own, **given}, device))
    moved = {"model": model, "revision": None, "trust_remote_code": trust_remote_code}
    try:
        encoder = SmartEncoder.from_description({**own, **moved, **given}, device)
    except InvalidInput as error:  # such as more tokens than this one takes
        raise IndexMismatch(
            f"{db}: the index was made with {own['model']!r} and cannot be used with {model!r}: {error}"
        ) from error
    return SmartIndex.open(db, encoder)


def _config_with(name: str, db: Path) -> IndexConfig:
    """Return the settings of an index whose codec is called ``name``, if the one in ``db``, where there is one, has it.

    Raises:
        InvalidInput: there is no such codec.
        IndexMismatch: the index in ``db`` has another one.
    """
    wanted = get_codec(name).name
    found = Manifest.read(db).config.codec if (db / FILE_NAME).exists() else wanted
    if found != wanted:
        raise IndexMismatch(
            f"{db}: the index has the codec {found!r}, --codec {name} asks for {wanted!r}, and an index keeps the one "
            "it was made with; index the documents into another folder"
        )
    return IndexConfig(codec=wanted)


def _program() -> str:
    """Return how this program was started, for a shell."""
    path = Path(sys.argv[0]).absolute()
    if path.name == "__main__.py":
        return f"{display.short_path(sys.executable)} -m smart_rag"
    return display.short_path(str(path))


def _asked(text: str, image: Path | None) -> str | Content:
    return text if image is None else Content(text, image)


def _show_hits(index: SmartIndex, hits: Sequence[Hit]) -> None:
    """Show what was found, with the words that matched best, where the model and the files let us know them."""
    if not hits:
        out.print("nothing found")
    try:
        words = [_words(index, hit) for hit in hits]
    except (EncoderError, DocumentError) as error:
        err.print(Text(f"no words are emphasised: {error}", style="dim"))
        words = [[] for _ in hits]
    for hit, spans in zip(hits, words, strict=True):
        out.print(display.hit_text(hit, index.manifest.weights, spans))


def _words(index: SmartIndex, hit: Hit) -> list[Span]:
    """Return the words of a hit that matched best."""
    from smart_rag.index.explanation import emphasis
    from smart_rag.index.queries import as_documents

    (document,) = as_documents([hit])
    if not document.content(index.manifest.modalities).text:
        return []  # and no image is opened for nothing
    return emphasis(hit.text, hit.explain().matches)


def _check_picture(path: Path | None) -> None:
    """Raise `InvalidInput`, before the work, if no picture can be written to ``path``."""
    from smart_rag.files.images import FORMATS

    if path is None:
        return
    if path.suffix.lower() not in FORMATS:
        raise InvalidInput(f"--explain {path}: expected the name of a picture, which ends in {', '.join(FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise InvalidInput(f"--explain {path}: the folder {path.parent} does not exist")


def _write_picture(hit: Hit, path: Path) -> None:
    picture = hit.explain().picture()
    try:
        picture.save(path)
    except OSError as error:
        raise InvalidInput(f"--explain {path}: cannot be written ({error.strerror})") from error
    err.print(Text(f"what matched in the first passage: {path}"), soft_wrap=True)


def _where(text: str | None) -> Mapping[str, Any] | None:
    if text is None:
        return None
    try:
        where = json.loads(text)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f'--where must be JSON, such as {{"page": 3}}: {error}') from error
    if not isinstance(where, dict):
        raise typer.BadParameter('--where must be a JSON object, such as {"page": 3}')
    return where


def _print_report(report: AddReport) -> None:
    counts = {
        name: getattr(report, name) for name in ("added", "replaced", "unchanged", "removed") if getattr(report, name)
    }
    out.print("passages: " + (", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"))
    if report.failed:
        were = "was" if len(report.failed) == 1 else "were"
        err.print(Text(f"{number(len(report.failed), 'file')} {were} left out:", style="bold yellow"))
        for failed in report.failed:
            err.print(Text(f"  {display.short_path(str(failed.path))}: {failed.reason}"), soft_wrap=True)
