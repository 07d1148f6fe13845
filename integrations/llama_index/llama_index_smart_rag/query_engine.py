"""`query_engine`: answers with numbered sources, and `citations` to list them."""

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
    """A passage that the language model got: ``[number]`` in the answer."""

    number: int
    source: str | None
    page: int | str | None
    score: float
    text: str


def query_engine(retriever: BaseRetriever, llm: LLM | None = None, **options: Any) -> CitationQueryEngine:
    """Return a query engine that answers from the passages of ``retriever``, with numbered sources.

    >>> engine = query_engine(SmartRetriever("my.index", similarity_top_k=5), llm)      # doctest: +SKIP
    >>> response = engine.query("Where are the boat keys?")                 # doctest: +SKIP
    >>> citations(response)[0].source                                       # doctest: +SKIP

    Args:
        retriever: such as a `SmartRetriever`.
        llm: the language model; by default that of LlamaIndex's ``Settings``.
        options: passed to ``CitationQueryEngine.from_args``, such as ``node_postprocessors`` (for example a
            `SmartRerank`) or ``citation_chunk_size``. From LlamaIndex 0.14.23 on, ``multimodal=True`` sends the images
            of `ImageNode`s to the language model.

    Raises:
        InvalidInput: ``retriever`` is not a retriever.
    """
    if not isinstance(retriever, BaseRetriever):
        raise InvalidInput(f"expected a retriever, such as index.as_retriever(), got {type(retriever).__name__}")
    return CitationQueryEngine.from_args(None, llm=llm, retriever=retriever, **options)  # type: ignore[arg-type]


def citations(response: RESPONSE_TYPE) -> list[Citation]:
    """Return the passages that the language model got, in the order of their numbers."""
    return [
        Citation(
            number=number,
            # The first key is smart_rag's, the others are those of LlamaIndex's readers.
            source=next(filter(None, map(node.metadata.get, ("source", "file_path", "file_name"))), None),
            page=next(filter(None, map(node.metadata.get, ("page", "page_label"))), None),
            score=float(node.score or 0.0),
            # The query engine puts this heading before each passage.
            text=node.get_content().removeprefix(f"Source {number}:").strip(),
        )
        for number, node in enumerate(response.source_nodes, start=1)
    ]
