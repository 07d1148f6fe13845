"""`SmartRerank`: nodes from any retriever, ranked by pooled cosine plus late interaction."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_index.core import Settings
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, ImageNode, NodeWithScore, QueryBundle

from llama_index_smart_rag.embedding import SmartEmbedding
from llama_index_smart_rag.nodes import query_of, ranked_document
from llama_index_smart_rag.pickling import Pickled
from llama_index_smart_rag.store_order import StoreOrder
from smart_rag import Document, rerank
from smart_rag.config import DEFAULT_MODEL, Count, Number, Weights, check_fraction
from smart_rag.errors import InvalidInput
from smart_rag.threads import in_reader_thread

dispatcher = get_dispatcher(__name__)
logger = logging.getLogger(__name__)

_ANOTHER_MODEL = (
    "the retriever's order has little in common with that of the pooled cosines (rank correlation %.2f in 3 queries); "
    "if it searches by vectors, another model than %r has made them, or the same model with other settings"
)


class SmartRerank(Pickled, BaseNodePostprocessor):
    """A node postprocessor that keeps the ``top_n`` best nodes of any retriever, best first.

    >>> index.as_query_engine(                                              # doctest: +SKIP
    ...     similarity_top_k=100, node_postprocessors=[SmartRerank(embed_model, top_n=10)]
    ... )

    The token embeddings of a node are found by the node's text. If the model reads images, those of an `ImageNode` are
    found by its text and its image. Missing token embeddings are computed. If there is a token store, they are kept in
    it. `SmartEmbedding.backfill` computes the token embeddings for a whole vector store. The score of a node comes
    from `smart_rag.rerank`. Nodes with equal scores stay in the retriever's order.

    If the first few queries show that another model has made the vectors of the retriever, a warning is logged.

    Args:
        embed_model: the application's `SmartEmbedding`. The reranker uses its model and token store. The default is the
            embedding in LlamaIndex's ``Settings``, if it is a `SmartEmbedding`.
        top_n: the number of nodes to return. LlamaIndex's own rerankers use the same name.
        model_name, token_store: arguments of a new `SmartEmbedding`. Use them instead of ``embed_model``.
        weights: the weights of the pooled and of the late score. By default, the default weights of the model.
        keep_retrieval_score: store the retriever's score in the metadata, under ``retrieval_score``.
        min_relevance: leave out nodes whose `smart_rag.Hit.relevance` is lower than this number from 0 to 1. This needs
            one earlier call of ``embed_model.backfill(store, calibrate=True)``.
        with_relevance: use the relevance as the score of a node, so that a ``SimilarityPostprocessor`` can use it.
            This needs the same call of ``backfill`` as ``min_relevance``.

    Raises:
        InvalidInput: ``embed_model`` is not a `SmartEmbedding`, or is given together with ``model_name`` or
            ``token_store``.
    """

    embed_model: SmartEmbedding = Field(description="Embedding whose token embeddings are compared.")
    top_n: int = Field(default=5, gt=0, description="Number of nodes to return.")
    weights: tuple[float, float] | None = Field(default=None, description="Weights of the pooled and late score.")
    keep_retrieval_score: bool = Field(default=False, description="Keep the retriever's score in the metadata.")
    min_relevance: float | None = Field(default=None, ge=0, le=1, description="Leave out nodes that are less relevant.")
    with_relevance: bool = Field(default=False, description="Use the relevance as the score of a node.")

    _order: StoreOrder = PrivateAttr(default_factory=StoreOrder)

    def __init__(
        self,
        embed_model: SmartEmbedding | Mapping[str, Any] | None = None,
        *,
        top_n: Count = 5,
        model_name: str | Path | None = None,
        token_store: str | Path | None = None,
        weights: Weights | None = None,
        keep_retrieval_score: bool = False,
        min_relevance: Number | None = None,
        with_relevance: bool = False,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        is_named = model_name is not None or token_store is not None
        if embed_model is None:
            shared = None if is_named else _of_settings()
            embed_model = shared or SmartEmbedding(model_name or DEFAULT_MODEL, token_store)
        elif is_named:
            raise InvalidInput("embed_model= has its model and token store; leave out model_name and token_store")
        elif isinstance(embed_model, Mapping):  # in the form that `to_dict` writes
            embed_model = SmartEmbedding.from_dict(dict(embed_model))
        elif not isinstance(embed_model, SmartEmbedding):
            raise InvalidInput(
                f"SmartRerank needs a SmartEmbedding, got a {type(embed_model).__name__}; other embeddings give no "
                "token embeddings"
            )
        fields: dict[str, Any] = {
            "embed_model": embed_model,
            "top_n": top_n,
            "weights": weights,
            "keep_retrieval_score": keep_retrieval_score,
            "min_relevance": None if min_relevance is None else check_fraction("min_relevance", min_relevance),
            "with_relevance": with_relevance,
            "callback_manager": callback_manager or CallbackManager([]),
        }
        super().__init__(**fields)

    @classmethod
    def class_name(cls) -> str:
        return "SmartRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InvalidInput("SmartRerank needs the query; pass query_bundle= or query_str=")
        model_name = self.embed_model.model_name
        dispatcher.event(ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=self.top_n, model_name=model_name))
        with self.callback_manager.event(
            CBEventType.RERANKING,
            payload={
                EventPayload.NODES: nodes,
                EventPayload.MODEL_NAME: model_name,
                EventPayload.QUERY_STR: query_bundle.query_str,
                EventPayload.TOP_K: self.top_n,
            },
        ) as event:
            # Ids are positions. Equal scores are sorted by id, so these nodes stay in the retriever's order.
            width = len(str(len(nodes)))
            documents = [self._document(f"{i:0{width}}", node.node) for i, node in enumerate(nodes)]
            encoder = self.embed_model.encoder
            # `with_relevance` needs a relevance. With 0, no node is left out, but a missing relevance raises an error.
            least = 0 if self.with_relevance and self.min_relevance is None else self.min_relevance
            hits = rerank(query_of(query_bundle), documents, encoder, weights=self.weights, min_relevance=least)
            found = [nodes[int(hit.id)].score for hit in hits]
            correlation = self._order.unlike(found, [hit.pooled_score for hit in hits])
            if correlation is not None:
                logger.warning(_ANOTHER_MODEL, correlation, model_name)
            hits = hits[: self.top_n]
            scores = [hit.relevance if self.with_relevance else hit.score for hit in hits]
            reranked = [self._with_score(nodes[int(hit.id)], score) for hit, score in zip(hits, scores, strict=True)]
            event.on_end(payload={EventPayload.NODES: reranked})
        dispatcher.event(ReRankEndEvent(nodes=reranked))
        return reranked

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return await in_reader_thread(self._postprocess_nodes, nodes, query_bundle)

    def _document(self, id: str, node: BaseNode) -> Document:
        modalities = self.embed_model.encoder.modalities
        document = ranked_document(id, node, modalities)
        if isinstance(node, ImageNode) and not document.text.strip() and "image" not in modalities:
            raise InvalidInput(
                f"image node {node.node_id!r} has no text, and {self.embed_model.model_name} takes texts only; give "
                "the node a text, or use a model that takes images"
            )
        return document

    def _with_score(self, node: NodeWithScore, score: float | None) -> NodeWithScore:
        """Return a copy of ``node`` with another score. The caller's node does not change."""
        if not self.keep_retrieval_score:
            return NodeWithScore(node=node.node, score=score)
        metadata = {**node.node.metadata, "retrieval_score": node.score}
        return NodeWithScore(node=node.node.model_copy(update={"metadata": metadata}), score=score)


def _of_settings() -> SmartEmbedding | None:
    """Return the `SmartEmbedding` that the application has set in LlamaIndex's ``Settings``, if there is one."""
    # If none was set, the public attribute would make an embedding of OpenAI.
    embed_model = Settings._embed_model
    return embed_model if isinstance(embed_model, SmartEmbedding) else None
