"""From a question to an answer with citations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.llms import LLM
from llama_index.core.query_engine import CitationQueryEngine

from smart_rag.errors import InvalidInput


@dataclass(frozen=True)
class Citation:
    """A passage that the language model was given: ``[number]`` in the answer."""

    number: int
    source: str | None
    page: int | str | None
    score: float
    text: str


def query_engine(retriever: BaseRetriever, llm: LLM | None = None, **options: Any) -> CitationQueryEngine:
    """Return a query engine that answers from what ``retriever`` finds, with numbered sources.

    >>> engine = query_engine(SmartRetriever("my.index", similarity_top_k=5), llm)      # doctest: +SKIP
    >>> response = engine.query("Where are the boat keys?")                 # doctest: +SKIP
    >>> citations(response)[0].source                                       # doctest: +SKIP

    Args:
        retriever: such as a `SmartRetriever`.
        llm: by default the one of LlamaIndex's ``Settings``.
        options: of ``CitationQueryEngine.from_args``, such as ``node_postprocessors`` (a
            `SmartRerank`), ``citation_chunk_size`` or, from LlamaIndex 0.14.23 on, ``multimodal=True``
            for a model that is to be sent the images of `ImageNode`s.
    """
    if not isinstance(retriever, BaseRetriever):
        raise InvalidInput(f"expected a retriever, such as index.as_retriever(), got a {type(retriever).__name__}")
    return CitationQueryEngine.from_args(None, llm=llm, retriever=retriever, **options)  # type: ignore[arg-type]


def citations(response: RESPONSE_TYPE) -> list[Citation]:
    """Return the passages that the language model was given, in the order of their numbers."""
    return [
        Citation(
            number=number,
            # As smart_rag names them, or LlamaIndex's own readers.
            source=next(filter(None, map(node.metadata.get, ("source", "file_path", "file_name"))), None),
            page=next(filter(None, map(node.metadata.get, ("page", "page_label"))), None),
            score=float(node.score or 0.0),
            # As the query engine heads it for the language model.
            text=node.get_content().removeprefix(f"Source {number}:").strip(),
        )
        for number, node in enumerate(response.source_nodes, start=1)
    ]
