"""The owner of a collection in a Chroma client that the caller brings.

Two copies of an index folder may use the same collection. If both write, each removes or replaces rows that the other
one needs. So each writer leaves a random token in the collection's metadata, and in its folder. If the token of the
collection is not in a folder, another copy has written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smart_rag.store.chroma.client import chroma_errors

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

# Keys of the collection's metadata: the id of the index, and the token.
INDEX, OWNER = "smart_rag.index", "smart_rag.owner"


def owner_of(client: ClientAPI, collection: str) -> str | None:
    """Return the token in ``collection``. Return None if there is none."""
    with chroma_errors():
        metadata = client.get_collection(collection, embedding_function=None).metadata or {}
    return None if metadata.get(OWNER) is None else str(metadata[OWNER])


def set_owner(client: ClientAPI, collection: str, index: str | None, token: str) -> None:
    """Write the id of an index and a token into ``collection``. Other metadata of the collection stays."""
    with chroma_errors():
        found = client.get_collection(collection, embedding_function=None)
        # Chroma replaces all metadata. It refuses its own setting of the distance, which cannot change.
        kept = {key: value for key, value in (found.metadata or {}).items() if not key.startswith("hnsw:")}
        found.modify(metadata={**kept, **({} if index is None else {INDEX: index}), OWNER: token})
