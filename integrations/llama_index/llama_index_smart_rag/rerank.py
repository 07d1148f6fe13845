"""`SmartRerank`: nodes from any retriever, ranked by pooled cosine and late interaction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, ImageNode, NodeWithScore, QueryBundle

from llama_index_smart_rag.embedding import SmartEmbedding
from llama_index_smart_rag.nodes import content_of, query_of
from smart_rag import CachedEncoder, Document, rerank
from smart_rag.config import DEFAULT_MODEL, DEFAULT_WEIGHTS
from smart_rag.errors import InvalidInput

dispatcher = get_dispatcher(__name__)


class SmartRerank(BaseNodePostprocessor):
    """Reranks the nodes that any retriever over any vector store found.

    >>> index.as_query_engine(                                              # doctest: +SKIP
    ...     similarity_top_k=100, node_postprocessors=[SmartRerank(embed_model, top_n=10)]
    ... )

    A node's token embeddings are looked up by its text, and by the image of an `ImageNode` where the
    model takes images; what is missing is encoded, and kept where there is a token store. The score
    of a node is the one that `smart_rag.rerank` gives; of equals the one that the retriever had first
    comes first.

    Args:
        embed_model: the application's `SmartEmbedding`, whose model and token store are shared.
        top_n: how many nodes to return.
        model_name, token_store: instead of ``embed_model``.
        weights: of the pooled and the late score.
        keep_retrieval_score: put the retriever's score into the metadata, as ``retrieval_score``.
    """

    model_name: str = Field(default=DEFAULT_MODEL, description="Name of the embedding model.")
    token_store: str | None = Field(default=None, description="Folder of the token embeddings.")
    top_n: int = Field(default=5, gt=0, description="How many nodes to return.")
    weights: tuple[float, float] = Field(default=DEFAULT_WEIGHTS, description="Of the pooled and the late score.")
    keep_retrieval_score: bool = Field(default=False, description="Keep the retriever's score in the metadata.")
    options: dict[str, Any] = Field(default_factory=dict, description="Of the encoder.")

    _encoder: CachedEncoder = PrivateAttr()

    def __init__(
        self,
        embed_model: SmartEmbedding | None = None,
        *,
        top_n: int = 5,
        model_name: str = DEFAULT_MODEL,
        token_store: str | Path | None = None,
        weights: tuple[float, float] = DEFAULT_WEIGHTS,
        keep_retrieval_score: bool = False,
        options: dict[str, Any] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        if embed_model is not None and not isinstance(embed_model, SmartEmbedding):
            raise InvalidInput(
                f"SmartRerank needs a SmartEmbedding, got a {type(embed_model).__name__}; other embeddings give no "
                "token embeddings"
            )
        if embed_model is not None:
            model_name, token_store = embed_model.model_name, embed_model.token_store
            options = {
                "device": embed_model.device,
                "max_length": embed_model.max_length,
                "query_prompt": embed_model.query_instruction,
                "document_prompt": embed_model.text_instruction,
                "trust_remote_code": embed_model.trust_remote_code,
            }
        fields: dict[str, Any] = {
            "model_name": model_name,
            "token_store": None if token_store is None else str(token_store),
            "top_n": top_n,
            "weights": weights,
            "keep_retrieval_score": keep_retrieval_score,
            "options": options or {},
            "callback_manager": callback_manager or CallbackManager([]),
        }
        super().__init__(**fields)
        self._encoder = (
            CachedEncoder(self.model_name, self.token_store, **self.options)
            if embed_model is None
            else embed_model.encoder
        )

    @classmethod
    def class_name(cls) -> str:
        return "SmartRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InvalidInput("SmartRerank needs the query: pass query_bundle= or query_str=")
        dispatcher.event(
            ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=self.top_n, model_name=self.model_name)
        )
        with self.callback_manager.event(
            CBEventType.RERANKING,
            payload={
                EventPayload.NODES: nodes,
                EventPayload.MODEL_NAME: self.model_name,
                EventPayload.QUERY_STR: query_bundle.query_str,
                EventPayload.TOP_K: self.top_n,
            },
        ) as event:
            # By position: of equals the one that the retriever had first stays first.
            width = len(str(len(nodes)))
            documents = [self._document(f"{i:0{width}}", node.node) for i, node in enumerate(nodes)]
            hits = rerank(query_of(query_bundle), documents, self._encoder, self.top_n, weights=self.weights)
            reranked = [self._scored(nodes[int(hit.id)], hit.score) for hit in hits]
            event.on_end(payload={EventPayload.NODES: reranked})
        dispatcher.event(ReRankEndEvent(nodes=reranked))
        return reranked

    def _document(self, id: str, node: BaseNode) -> Document:
        takes = self._encoder.modalities
        content = content_of(node, takes)
        if isinstance(node, ImageNode) and not content.text.strip() and "image" not in takes:
            raise InvalidInput(f"image node {node.node_id!r} has no text, and {self.model_name} takes text alone")
        return Document(id, content.text, image=content.image)

    def _scored(self, node: NodeWithScore, score: float) -> NodeWithScore:
        """Return the node under another score; what came in stays as it was."""
        if not self.keep_retrieval_score:
            return NodeWithScore(node=node.node, score=score)
        metadata = {**node.node.metadata, "retrieval_score": node.score}
        return NodeWithScore(node=node.node.model_copy(update={"metadata": metadata}), score=score)
