"""`SmartRetriever`: a `SmartIndex` as a retriever of LangChain."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import BeforeValidator, ConfigDict, PlainSerializer

from langchain_smart_rag.documents import query_of, to_langchain, with_score
from smart_rag import SmartIndex
from smart_rag.config import (
    DEFAULT_CANDIDATES,
    Count,
    FirstStageName,
    Number,
    Weights,
    check_count,
    check_fraction,
    check_weights,
)
from smart_rag.threads import in_reader_thread

# The fields that `invoke` takes, too.
_OF_A_SEARCH = (
    *("k", "candidates", "first_stage", "weights", "filter", "where_document", "min_relevance"),
    *("per_source", "source_key", "fold_duplicates", "neighbours"),
)


def _opened(index: Any) -> Any:
    return SmartIndex.open(index) if isinstance(index, str | Path) else index


def _folder(index: SmartIndex) -> str:
    return str(index.path)


class SmartRetriever(BaseRetriever):
    """A retriever over an index that smart_rag made, for example with ``smart-rag index`` on the command line.

    >>> retriever = SmartRetriever("my.index", k=5)                 # doctest: +SKIP
    >>> retriever.invoke("Which animal barks?", k=1)                # doctest: +SKIP
    [Document(id='b2', metadata={'source': 'dogs.txt', 'relevance_score': 1.21}, page_content='Dogs bark at night.')]

    Documents have the scores of `SmartIndex.search`. If a document is a page or an image, ``image_path`` in its
    metadata is the path of the image's file. `message_content` uses this file.

    You can also pass every field except ``index`` and ``with_score`` to ``invoke``. ``invoke`` has one more argument,
    ``image``: an image file to search with. The image is used together with the text, or alone if the text is empty. A
    pickle and ``model_dump`` hold the path of the index's folder, not its content.

    Args:
        index: an open index, or the folder of an index.
        k: the number of documents to return. smart_rag calls it ``top_k``.
        candidates: the number of documents to score.
        first_stage: how the candidates are chosen, as in `SmartIndex.search`. ``"exhaustive"`` scores every document.
        weights: the weights of the pooled and of the late score. By default, those of the index.
        filter: a filter on metadata, as in `SmartIndex.search`, where it is called ``where``.
        where_document: a filter on texts, as in `SmartIndex.search`, such as ``{"$contains": "pump"}``.
        min_relevance: leave out documents whose `smart_rag.Hit.relevance` is lower than this number from 0 to 1.
        per_source: how many documents a source may have, such as 1 for the best passage of each file. See
            `SmartIndex.search`.
        source_key: the metadata key that names the source.
        fold_duplicates: return documents that say nearly the same only once. ``duplicates`` in the metadata are the ids
            of the others.
        neighbours: the number of chunks before and after each passage that ``page_content`` holds, too, as
            `smart_rag.Hit.window` does.
        with_score: store the score in the metadata of each document, under ``relevance_score``. Citations and other
            parts of LangChain look for the score there.
        sources: files and folders whose images the index may read, as in `SmartIndex.open`. Ignored if ``index`` is
            open.
        options: LangChain's own arguments, such as ``tags``, ``metadata`` and ``name``.

    Raises:
        IndexNotFound: the folder holds no index.
        InvalidInput: ``k``, ``candidates``, ``weights``, ``min_relevance``, ``per_source`` or ``neighbours`` is out of
            range.
    """

    # Unknown arguments raise an error. Otherwise a misspelt filter, such as `where=`, would search all documents.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    index: Annotated[SmartIndex, BeforeValidator(_opened), PlainSerializer(_folder, return_type=str)]
    k: int = 4
    candidates: int = DEFAULT_CANDIDATES
    first_stage: FirstStageName = "auto"
    weights: tuple[float, float] | None = None
    filter: dict[str, Any] | None = None
    where_document: dict[str, Any] | None = None
    min_relevance: float | None = None
    per_source: int | None = None
    source_key: str = "source"
    fold_duplicates: bool = False
    neighbours: int = 0
    with_score: bool = True

    # Without this method, type checkers would give the arguments the types of the fields, and would refuse a folder.
    def __init__(
        self,
        index: SmartIndex | str | Path,
        *,
        k: Count = 4,
        candidates: Count = DEFAULT_CANDIDATES,
        first_stage: FirstStageName = "auto",
        weights: Weights | None = None,
        filter: dict[str, Any] | None = None,
        where_document: dict[str, Any] | None = None,
        min_relevance: Number | None = None,
        per_source: Count | None = None,
        source_key: str = "source",
        fold_duplicates: bool = False,
        neighbours: int = 0,
        with_score: bool = True,
        sources: Iterable[str | Path] = (),
        **options: Any,
    ) -> None:
        fields: dict[str, Any] = {
            "index": SmartIndex.open(index, sources=sources) if isinstance(index, str | Path) else index,
            "k": check_count("k", k),
            "candidates": check_count("candidates", candidates),
            "first_stage": first_stage,
            "weights": None if weights is None else check_weights(weights),
            "filter": filter,
            "where_document": where_document,
            "min_relevance": None if min_relevance is None else check_fraction("min_relevance", min_relevance),
            "per_source": None if per_source is None else check_count("per_source", per_source),
            "source_key": source_key,
            "fold_duplicates": fold_duplicates,
            "neighbours": neighbours and check_count("neighbours", neighbours),
            "with_score": with_score,
        }
        super().__init__(**fields, **options)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        search = {**{name: getattr(self, name) for name in _OF_A_SEARCH}, **options}
        question = query_of(query, search.pop("image", None))
        neighbours = search.pop("neighbours")
        hits = self.index.search(question, search.pop("k"), where=search.pop("filter"), **search)
        found = to_langchain(hits, self.index)
        if neighbours:
            for document, hit in zip(found, hits, strict=True):
                document.page_content = hit.window(neighbours)
        if not self.with_score:
            return found
        return [with_score(document, hit.score) for document, hit in zip(found, hits, strict=True)]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        # LangChain's default method does not pass on the options.
        return await in_reader_thread(
            self._get_relevant_documents, query, run_manager=run_manager.get_sync(), **options
        )
