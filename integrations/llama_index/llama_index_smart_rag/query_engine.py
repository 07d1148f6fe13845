"""`query_engine`: answers questions with numbered sources. `citations` lists the sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import (
    RESPONSE_TYPE,
    AsyncStreamingResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.llms import LLM
from llama_index.core.query_engine import CitationQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.types import TokenAsyncGen, TokenGen

from llama_index_smart_rag.sources import SourcePacker, fence_sources, prompt_templates, text_of
from smart_rag.citations import Marker, cited_numbers, mark_unknown, unknown_numbers
from smart_rag.errors import InvalidInput


@dataclass(frozen=True)
class Citation:
    """A passage that the language model got. The answer cites it as ``[number]``.

    ``cited`` says whether the answer cites the passage. If an answer is streamed, first read it to its end. Until then,
    ``cited`` may be None.
    """

    number: int
    source: str | None
    page: int | str | None
    score: float
    text: str
    cited: bool | None


def query_engine(retriever: BaseRetriever, llm: LLM | None = None, **options: Any) -> CitationQueryEngine:
    """Return a query engine that answers from the passages of ``retriever``, with numbered sources.

    >>> engine = query_engine(SmartRetriever("my.index", similarity_top_k=5), llm)      # doctest: +SKIP
    >>> response = engine.query("Where are the boat keys?")                 # doctest: +SKIP
    >>> citations(response)[0].source                                       # doctest: +SKIP

    If the answer cites a number that belongs to no source, the number gets a question mark: ``[9?]``.
    `smart_rag.citations` says what counts as a citation.

    In the prompt, the text and the metadata of each source stand in a fence (`smart_rag.fences`). So no text can pass
    for another source or for the query. If you pass a prompt template of your own, let the template say that the text
    in a fence is only quoted.

    Args:
        retriever: any retriever, such as a `SmartRetriever`.
        llm: the language model. By default, the one in LlamaIndex's ``Settings``.
        options: arguments of ``CitationQueryEngine.from_args``, such as ``node_postprocessors`` (for example a
            `SmartRerank`) or ``citation_chunk_size``. From LlamaIndex 0.14.23 on, ``multimodal=True`` sends the images
            of `ImageNode`s to the language model.

    Raises:
        InvalidInput: ``retriever`` is not a retriever.
    """
    if not isinstance(retriever, BaseRetriever):
        raise InvalidInput(f"expected a retriever, such as index.as_retriever(), got {type(retriever).__name__}")
    options = {**prompt_templates(bool(options.get("multimodal"))), **options}
    engine = _MarkingQueryEngine.from_args(None, llm=llm, retriever=retriever, **options)  # type: ignore[arg-type]
    if options.get("response_synthesizer") is None:
        synthesizer = engine._response_synthesizer
        synthesizer._prompt_helper = SourcePacker.like(synthesizer._prompt_helper)
    return engine


def citations(response: RESPONSE_TYPE) -> list[Citation]:
    """Return the passages that the language model got, in the order of their numbers."""
    text = _text(response)
    cited = None if text is None else set(cited_numbers(text))
    return [
        Citation(
            number=number,
            # The first key is smart_rag's, the others are those of LlamaIndex's readers.
            source=next(filter(None, map(node.metadata.get, ("source", "file_path", "file_name"))), None),
            page=next(filter(None, map(node.metadata.get, ("page", "page_label"))), None),
            score=float(node.score or 0.0),
            text=text_of(node.get_content()),
            cited=None if cited is None else number in cited,
        )
        for number, node in enumerate(response.source_nodes, start=1)
    ]


def unknown_citations(response: RESPONSE_TYPE) -> list[int]:
    """Return the numbers in the answer that belong to no source. Read a streamed answer to its end first."""
    return unknown_numbers(_text(response) or "", len(response.source_nodes))


def _text(response: RESPONSE_TYPE) -> str | None:
    """Return the answer. Return None if the answer is streamed and has not been read yet."""
    if isinstance(response, StreamingResponse | AsyncStreamingResponse):
        return response.response_txt
    return str(response)


class _MarkingQueryEngine(CitationQueryEngine):
    """A `CitationQueryEngine` with fences around its sources. It marks citations of sources that do not exist."""

    def _create_citation_nodes(self, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        created = super()._create_citation_nodes(nodes)
        fence_sources(created)
        return created

    def synthesize(self, *args: Any, **kwargs: Any) -> RESPONSE_TYPE:
        return _marked(super().synthesize(*args, **kwargs))

    async def asynthesize(self, *args: Any, **kwargs: Any) -> RESPONSE_TYPE:
        return _marked(await super().asynthesize(*args, **kwargs))

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        return _marked(super()._query(query_bundle))

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        return _marked(await super()._aquery(query_bundle))


def _marked(response: RESPONSE_TYPE) -> RESPONSE_TYPE:
    """Return ``response`` with marks in its answer. A stream is marked while it is read."""
    if isinstance(response, StreamingResponse):
        response.response_gen = _stream(response, response.response_gen)
    elif isinstance(response, AsyncStreamingResponse):
        response.response_gen = _astream(response, response.response_gen)
    elif isinstance(response, Response) and response.response is not None:
        response.response = mark_unknown(response.response, len(response.source_nodes))
    return response


def _stream(response: StreamingResponse, pieces: TokenGen) -> TokenGen:
    text = ""
    for piece in Marker(len(response.source_nodes)).mark(pieces):
        text += piece
        yield piece
    response.response_txt = text  # for `citations`, because LlamaIndex keeps it only if it reads the stream itself


async def _astream(response: AsyncStreamingResponse, pieces: TokenAsyncGen) -> TokenAsyncGen:
    text = ""
    async for piece in Marker(len(response.source_nodes)).amark(pieces):
        text += piece
        yield piece
    response.response_txt = text
