"""The nodes that the tests of LlamaIndex put into a store, and a query to it."""

from __future__ import annotations

from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery

WORDS = ["cats", "dogs", "boats", "keys", "taxes", "rain"]


def nodes_of(words=WORDS, ref="doc"):
    return [
        TextNode(
            id_=f"{ref}-{i}",
            text=f"{word} is what this passage is about",
            metadata={"n": i, "word": word, "even": i % 2 == 0, "tags": ["a", word]},
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=ref)},
        )
        for i, word in enumerate(words)
    ]


def ids(store, query="keys", top_k=3, **options):
    return store.query(VectorStoreQuery(query_str=query, similarity_top_k=top_k, **options)).ids
