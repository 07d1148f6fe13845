"""Commands that read an index: search, ask, info."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smart_rag.cli import display
from smart_rag.cli.console import err, note, out, print_json, printable
from smart_rag.cli.opening import open_index
from smart_rag.cli.options import (
    Adapter,
    AsJson,
    Backend,
    BaseModel,
    Db,
    Device,
    Dtype,
    FoldDuplicates,
    MinRelevance,
    MovedModel,
    PerSource,
    QueryImage,
    QueryWeighting,
    SourcePaths,
    Trusted,
    Where,
    WhereDocument,
)
from smart_rag.config import (
    DEFAULT_CANDIDATES,
    DEFAULT_CONTEXT_TOKENS,
    DEFAULT_PASSAGES,
    DEFAULT_TIMEOUT,
    DEFAULT_TOP_K,
    FirstStageName,
)
from smart_rag.errors import DocumentError, EncoderError, InvalidInput, MissingExtra
from smart_rag.json_shapes import hit_json
from smart_rag.paths import absolute
from smart_rag.types import Content, Document, Hit, Span

if TYPE_CHECKING:
    from smart_rag.answer import Answer
    from smart_rag.index.smart_index import SmartIndex

_HTML_SUFFIXES = (".html", ".htm")


def search(
    db: Db,
    query: Annotated[
        str | None,
        typer.Argument(
            metavar="QUERY",
            help="A text. Without it and without --image, each line of the input is a query.",
            show_default=False,
        ),
    ] = None,
    image: QueryImage = None,
    top_k: Annotated[int, typer.Option("-k", "--top-k", help="Number of passages.")] = DEFAULT_TOP_K,
    candidates: Annotated[
        int, typer.Option(help="Number of passages that the first stage chooses for scoring.")
    ] = DEFAULT_CANDIDATES,
    where: Where = None,
    where_document: WhereDocument = None,
    min_relevance: MinRelevance = None,
    per_source: PerSource = None,
    fold_duplicates: FoldDuplicates = False,
    neighbours: Annotated[
        int, typer.Option(min=0, metavar="N", help="Show N passages of the file before and after each passage.")
    ] = 0,
    first_stage: Annotated[
        FirstStageName, typer.Option(help="How candidates are chosen; exhaustive scores all passages.")
    ] = "auto",
    weighting: QueryWeighting = None,
    explain: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=absolute,
            help="Show in this file what matched in the first passage: why.html for a browser, or a picture, why.png.",
        ),
    ] = None,
    model: MovedModel = None,
    base_model: BaseModel = None,
    adapter: Adapter = None,
    device: Device = None,
    trust_remote_code: Trusted = False,
    sources: SourcePaths = None,
    as_json: AsJson = False,
) -> None:
    """Search by a text, an image or both. In each passage, the words that matched best are emphasised.

    Without a query, the model stays loaded, and you can ask again and again. An empty line ends it.
    """
    if query is None and image is None and explain is not None:
        raise typer.BadParameter("--explain needs a QUERY, an image with --image, or both")
    _check_picture(explain)
    choices: dict[str, Any] = {
        "candidates": candidates,
        "where": _filter("--where", where, '{"page": 3}'),
        "where_document": _filter("--where-document", where_document, '{"$contains": "pump"}'),
        "first_stage": first_stage,
        "weighting": weighting,
        "min_relevance": min_relevance,
        "per_source": per_source,
        "fold_duplicates": fold_duplicates,
    }
    options: dict[str, Any] = {"base_model": base_model, "adapter": adapter, "device": device}
    options |= {"trust_remote_code": trust_remote_code}
    with open_index(db, model, sources=sources, **options) as index:
        for question in _questions(query, image):
            hits = index.search(question, top_k, **choices)
            is_calibrated = index.is_calibrated
            around = [hit.neighbours(neighbours) if neighbours else [] for hit in hits]
            if as_json:
                shown = zip(hits, around, strict=True)
                print_json([hit_json(hit, is_calibrated, documents) for hit, documents in shown])
            else:
                _show_hits(index, hits, around, is_calibrated, _nothing(min_relevance))
            if explain is not None and hits:  # print the hits first, because the image file may no longer exist
                _write_picture(hits[0], explain)


def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    db: Db,
    llm_url: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="SMART_RAG_LLM_URL",
            help="Base URL of an OpenAI-compatible endpoint, such as http://localhost:11434/v1.",
        ),
    ],
    llm_model: Annotated[
        str, typer.Option(metavar="M", envvar="SMART_RAG_LLM_MODEL", help="Name of the language model there.")
    ],
    top_k: Annotated[int, typer.Option("-k", "--top-k", help="Number of passages, at most.")] = DEFAULT_PASSAGES,
    where: Where = None,
    where_document: WhereDocument = None,
    min_relevance: MinRelevance = None,
    per_source: PerSource = None,
    fold_duplicates: FoldDuplicates = False,
    neighbours: Annotated[
        int, typer.Option(min=0, metavar="N", help="Send N passages of the file before and after each passage, too.")
    ] = 0,
    image: QueryImage = None,
    images: Annotated[
        int,
        typer.Option(
            metavar="N", help="Send the images of N passages and of the question, to a language model with vision."
        ),
    ] = 0,
    context_tokens: Annotated[
        int, typer.Option(help="Number of tokens that the passages may have together.")
    ] = DEFAULT_CONTEXT_TOKENS,
    max_tokens: Annotated[
        int | None, typer.Option(help="Number of tokens that the answer may have; by default the endpoint decides.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the next piece.")] = DEFAULT_TIMEOUT,
    model: MovedModel = None,
    base_model: BaseModel = None,
    adapter: Adapter = None,
    device: Device = None,
    trust_remote_code: Trusted = False,
    sources: SourcePaths = None,
    as_json: AsJson = False,
) -> None:
    """Let a language model answer a question from the passages that a search finds, and show the sources.

    If the endpoint needs a key, set the environment variable OPENAI_API_KEY.
    """
    from smart_rag import answer

    options: dict[str, Any] = {"base_model": base_model, "adapter": adapter, "device": device}
    options |= {"trust_remote_code": trust_remote_code}
    with open_index(db, model, sources=sources, **options) as index:
        reply = answer.ask(
            index,
            _query(question, image),
            llm_url=llm_url,
            llm_model=llm_model,
            top_k=top_k,
            where=_filter("--where", where, '{"page": 3}'),
            where_document=_filter("--where-document", where_document, '{"$contains": "pump"}'),
            min_relevance=min_relevance,
            per_source=per_source,
            fold_duplicates=fold_duplicates,
            neighbours=neighbours,
            context_tokens=context_tokens,
            images=images,
            max_tokens=max_tokens,
            timeout=timeout,
        )
    if as_json:
        _print_answer_json(reply)
    elif reply.sources:
        _print_answer(reply)
    else:
        out.print(_nothing(min_relevance))


def info(
    db: Annotated[
        Path | None, typer.Option("--db", metavar="DIR", parser=absolute, help="Folder of the index.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="M", help="Show how this model is used, and why.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", metavar="NAME", help="With --model: use it as a model of this family.")
    ] = None,
    base_model: BaseModel = None,
    backend: Backend = None,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: Trusted = False,
    as_json: AsJson = False,
) -> None:
    """Show the contents, the model and the size of an index. With --model, show how a model is used."""
    options: dict[str, Any] = {"profile": profile, "base_model": base_model, "dtype": dtype, "device": device}
    if (db is None) == (model is None) or ((any(options.values()) or backend or trust_remote_code) and model is None):
        raise typer.BadParameter(
            "give an index with --db, or a model with --model, and only with it --profile, --base-model, --backend, "
            "--dtype, --device and --trust-remote-code"
        )
    if model is not None:
        from smart_rag.encoders.smart_encoder import SmartEncoder

        chosen: Any = backend or "auto"
        encoder = SmartEncoder(model, trust_remote_code=trust_remote_code, backend=chosen, **options)
        if as_json:
            print_json(display.model_json(encoder))
        else:
            out.print(display.model_table(encoder))
    elif db is not None:
        with open_index(db) as index:
            found = index.info()
        if as_json:
            print_json(asdict(found))
        else:
            out.print(display.index_table(found))


def _nothing(min_relevance: float | None) -> str:
    return "nothing found" if min_relevance is None else "nothing relevant found"


def _questions(query: str | None, image: Path | None) -> Iterator[str | Content]:
    """Yield the query of the command line or, if there is none, the lines of the input.

    On a terminal, an empty line is the end. In a file, empty lines are left out.
    """
    if query is not None or image is not None:
        yield _query(query or "", image)
        return
    is_asked = sys.stdin.isatty()
    while True:
        if is_asked:
            err.print("query: ", end="")
        line = sys.stdin.readline()
        if not line or (is_asked and not line.strip()):
            return
        if line.strip():
            yield line.strip()


def _query(text: str, image: Path | None) -> str | Content:
    return text if image is None else Content(text, image)


def _filter(option: str, text: str | None, example: str) -> Mapping[str, Any] | None:
    """Return the filter in ``text``, the JSON that the user passed to ``option``."""
    if text is None:
        return None
    try:
        where = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{option} must be JSON, such as {example}: {error}") from error
    if not isinstance(where, dict):
        raise typer.BadParameter(f"{option} must be a JSON object, such as {example}, got {text}")
    return where


def _show_hits(
    index: SmartIndex, hits: Sequence[Hit], around: Sequence[Sequence[Document]], has_relevance: bool, nothing: str
) -> None:
    """Print ``hits`` with the documents ``around`` each, or ``nothing``.

    Emphasise the words that matched best, if the model and the files allow this.
    """
    if not hits:
        out.print(nothing)
    try:
        words = [_words(index, hit) for hit in hits]
    except (EncoderError, DocumentError) as error:
        note(f"no words are emphasised: {error}", "dim")
        words = [[] for _ in hits]
    for hit, spans, documents in zip(hits, words, around, strict=True):
        relevance = hit.relevance if has_relevance else None
        out.print(display.hit_text(hit, index.manifest.weights, spans, relevance, documents))


def _words(index: SmartIndex, hit: Hit) -> list[Span]:
    """Return the spans of those words in ``hit`` that matched best."""
    from smart_rag.index.explain.explanation import emphasis
    from smart_rag.index.queries import as_documents

    (document,) = as_documents([hit])
    if not document.content(index.manifest.modalities).text:
        return []  # the text was not encoded, and `explain` would only open the image
    return emphasis(hit.text, hit.explain().matches)


def _check_picture(path: Path | None) -> None:
    """Before the work begins, check that a picture can be written to ``path``.

    Raises:
        InvalidInput: the suffix is not the suffix of an image format, or the folder does not exist.
    """
    if path is None:
        return
    from smart_rag.files.formats.images import PILLOW_SUFFIXES

    if path.suffix.lower() not in (*PILLOW_SUFFIXES, *_HTML_SUFFIXES):
        raise InvalidInput(
            f"--explain {path}: expected a name that ends in .html, or that of an image, which ends in "
            f"{', '.join(PILLOW_SUFFIXES)}"
        )
    if not path.parent.is_dir():
        raise InvalidInput(f"--explain {path}: the folder {path.parent} does not exist")


def _write_picture(hit: Hit, path: Path) -> None:
    explanation = hit.explain()
    write: Callable[[Path], object]
    if path.suffix.lower() in _HTML_SUFFIXES:
        write = partial(Path.write_text, data=_single_file(hit, explanation), encoding="utf-8")
    else:
        write = explanation.picture().save
    try:
        write(path)
    except OSError as error:
        raise InvalidInput(f"--explain {path}: cannot be written ({error.strerror})") from error
    note(f"what matched in the first passage: {display.short_path(str(path))}")


def _single_file(hit: Hit, explanation: Any) -> str:
    try:
        from smart_rag.serving.inspector.single_file import single_file
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "fastapi", "serve", "--explain with a name that ends in .html") from error
    return single_file(hit, explanation)


def _print_answer_json(reply: Answer) -> None:
    text = "".join(reply) if reply.sources else None
    cited = {hit.rank for hit in reply.cited}
    sources = [{**hit_json(hit), "cited": hit.rank in cited} for hit in reply.sources]
    print_json(
        {
            "answer": text,
            "finish_reason": reply.finish_reason,
            "sources": sources,
            "unknown_citations": reply.unknown_citations,
        }
    )


def _print_answer(reply: Answer) -> None:
    """Print each piece of an answer as it arrives. Then print the cited sources, and then the others."""
    try:
        for piece in reply:
            sys.stdout.write(printable(piece))
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n" if reply.text else "")  # so that an error begins a new line
    if reply.finish_reason is None:
        note("the endpoint did not say whether the answer is complete", "dim")
    if reply.finish_reason == "length":
        note("the answer was cut off at the limit of the endpoint or of --max-tokens", "dim")
    if reply.unknown_citations:
        note(display.unknown_citations(reply.unknown_citations, len(reply.sources)), "yellow")
    out.print()
    for hit in reply.cited:
        out.print(display.source_line(hit), soft_wrap=True)
    cited = {hit.rank for hit in reply.cited}
    others = [hit for hit in reply.sources if hit.rank not in cited]
    if others:
        out.print("found, but not cited:", style="dim")
    for hit in others:
        out.print(display.source_line(hit), soft_wrap=True, style="dim")
