"""`SmartRetriever`: a `SmartIndex` as a retriever of LlamaIndex."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores import MetadataFilters

from llama_index_smart_rag.nodes import WINDOW, nodes_of, note, query_of, where_of
from llama_index_smart_rag.pickling import with_callbacks_that_pickle
from smart_rag import SmartIndex
from smart_rag.config import (
    DEFAULT_CANDIDATES,
    DEFAULT_TOP_K,
    Count,
    FirstStageName,
    Number,
    Weights,
    check_count,
    check_fraction,
    check_weights,
)
from smart_rag.errors import InvalidInput
from smart_rag.threads import in_reader_thread


class SmartRetriever(BaseRetriever):
    """A retriever over an index that smart_rag made, for example with ``smart-rag index`` on the command line.

    >>> retriever = SmartRetriever("my.index", similarity_top_k=5)          # doctest: +SKIP
    >>> RetrieverQueryEngine.from_args(retriever, llm=llm).query("...")     # doctest: +SKIP
    >>> retriever.retrieve(QueryBundle("the same, newer", image_path="chart.png"))      # doctest: +SKIP

    Nodes have the scores of `SmartIndex.search`. Pages and images are `ImageNode`s.

    Args:
        index: an open index, or the folder of an index.
        similarity_top_k: the number of nodes to return. smart_rag calls it ``top_k``.
        candidates: the number of nodes to score.
        first_stage: how the candidates are chosen, as in `SmartIndex.search`. ``"exhaustive"`` scores every node.
        filters: LlamaIndex's filters on metadata. smart_rag calls them ``where``.
        where_document: a filter on texts, such as ``{"$contains": "pump"}``. See `SmartIndex.search`.
        weights: the weights of the pooled and of the late score. By default, those of the index.
        min_relevance: leave out nodes whose `smart_rag.Hit.relevance` is lower than this number from 0 to 1.
        per_source: how many nodes a source may have, such as 1 for the best passage of each file. See
            `SmartIndex.search`.
        source_key: the metadata key that names the source.
        fold_duplicates: return nodes that say nearly the same only once. ``duplicates`` in the metadata are the ids of
            the others.
        neighbours: the number of chunks before and after each passage that ``window`` in the metadata holds. As with
            LlamaIndex's ``SentenceWindowNodeParser``, a ``MetadataReplacementPostProcessor("window")`` puts this text
            in the place of the passage.
        with_relevance: use the relevance as the score of a node, so that a ``SimilarityPostprocessor`` can use it.
        sources: files and folders whose images the index may read, as in `SmartIndex.open`. Ignored if ``index`` is
            open.
        allow_urls: return the addresses on the web that nodes name, even if somebody else has made the index.
        options: arguments of LlamaIndex's ``BaseRetriever``.

    Raises:
        IndexNotFound: the folder holds no index.
    """

    def __init__(
        self,
        index: SmartIndex | str | Path,
        similarity_top_k: Count = DEFAULT_TOP_K,
        *,
        candidates: Count = DEFAULT_CANDIDATES,
        first_stage: FirstStageName = "auto",
        filters: MetadataFilters | None = None,
        where_document: dict[str, Any] | None = None,
        weights: Weights | None = None,
        min_relevance: Number | None = None,
        per_source: Count | None = None,
        source_key: str = "source",
        fold_duplicates: bool = False,
        neighbours: int = 0,
        with_relevance: bool = False,
        sources: Iterable[str | Path] = (),
        allow_urls: bool = False,
        callback_manager: CallbackManager | None = None,
        **options: Any,
    ) -> None:
        self._sources = [str(source) for source in sources]
        self._allow_urls = allow_urls
        self._index = index if isinstance(index, SmartIndex) else SmartIndex.open(index, sources=self._sources)
        self._filters = filters
        self._options: dict[str, Any] = {
            "top_k": check_count("similarity_top_k", similarity_top_k),
            "candidates": check_count("candidates", candidates),
            "first_stage": first_stage,
            "where_document": where_document,
            "weights": None if weights is None else check_weights(weights),
            "min_relevance": None if min_relevance is None else check_fraction("min_relevance", min_relevance),
            "per_source": None if per_source is None else check_count("per_source", per_source),
            "source_key": source_key,
            "fold_duplicates": fold_duplicates,
        }
        self._neighbours = neighbours and check_count("neighbours", neighbours)
        self._with_relevance = with_relevance
        super().__init__(callback_manager=callback_manager, **options)

    @classmethod
    def class_name(cls) -> str:
        return "SmartRetriever"

    @property
    def index(self) -> SmartIndex:
        """The open index."""
        return self._index

    def to_dict(self) -> dict[str, Any]:
        """Return a description, without callbacks, from which `from_dict` makes the same retriever.

        Raises:
            InvalidInput: the retriever has objects of LlamaIndex, which a description cannot hold.
        """
        if self.object_map:
            raise InvalidInput(
                f"a description cannot hold the {len(self.object_map)} objects of this retriever; pickle it, or leave "
                "out objects= and object_map="
            )
        options = dict(self._options)
        return {
            "class_name": self.class_name(),
            "index": str(self._index.path),
            "similarity_top_k": options.pop("top_k"),
            "filters": None if self._filters is None else self._filters.model_dump(mode="json"),
            "neighbours": self._neighbours,
            "with_relevance": self._with_relevance,
            "sources": self._sources,
            "allow_urls": self._allow_urls,
            "verbose": self._verbose,
            **options,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SmartRetriever:
        """Return the retriever that ``data`` describes. ``data`` is a result of `to_dict`."""
        values = {name: value for name, value in data.items() if name != "class_name"}
        if values["filters"] is not None:
            values["filters"] = MetadataFilters.model_validate(values["filters"])
        return cls(**values)

    def __getstate__(self) -> dict[str, Any]:
        return with_callbacks_that_pickle(self.__dict__)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self._index.search(query_of(query_bundle), where=where_of(self._filters), **self._options)
        scores = [hit.relevance if self._with_relevance else hit.score for hit in hits]
        nodes = nodes_of(hits, self._index, allow_urls=self._allow_urls)
        if self._neighbours:
            for node, hit in zip(nodes, hits, strict=True):
                note(node, WINDOW, hit.window(self._neighbours))
        return [NodeWithScore(node=node, score=score) for node, score in zip(nodes, scores, strict=True)]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await in_reader_thread(self._retrieve, query_bundle)
