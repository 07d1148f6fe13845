"""`rebuild`: an index whose vectors are damaged is built again from its rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from smart_rag.encoders.protocol import Encoder
from smart_rag.errors import CorruptStore, InvalidInput
from smart_rag.index.index_encoder import IndexEncoder
from smart_rag.index.manifest import Manifest
from smart_rag.index.session import Session
from smart_rag.index.trust import check_links
from smart_rag.index.upkeep.documents import encode_documents
from smart_rag.index.upkeep.rewrite import Rewrite
from smart_rag.store.checks.rows_alone import rows_alone
from smart_rag.store.integrity import marked
from smart_rag.store.lmdb_environment import FILE_NAME
from smart_rag.store.place import Place, identity_of
from smart_rag.store.sources import Sources
from smart_rag.wording import number

logger = logging.getLogger(__name__)


def rebuild(
    path: Path, encoder: Encoder | None, sources: Iterable[str | Path], on_progress: Callable[[int], object]
) -> None:
    """Encode all documents of the index in the folder ``path`` again, and write them into new stores.

    Only the rows of the index are read. Its vectors, token embeddings and terms may be damaged or missing. A row that
    is not what was added stays so, and `verify` names it.

    Raises:
        NotTrusted: there is a link in the folder.
        InvalidInput: the rows are in a Chroma client of the caller.
        CorruptStore: the rows are damaged, too, or the vectors were the caller's own.
    """
    if path.is_dir():
        check_links(path)
    manifest, sources = Manifest.read(path), tuple(sources)
    if not manifest.own_chroma:
        raise InvalidInput(
            f"{path}: the rows are in your own Chroma client; open the index, and call verify(repair=True)"
        )
    new_encoder = IndexEncoder(path, manifest, encoder)
    if not new_encoder.exists:
        raise CorruptStore(
            f"{path}: the vectors are the caller's own, so they cannot be made again; restore the index from a backup"
        )
    data = path / manifest.data
    tokens = data / "tokens" / FILE_NAME
    session = Session(Place(path, tokens, identity_of(tokens)), manifest.id, lambda: None, lambda: None)
    try:
        with session.writing(), rows_alone(data / "chroma", manifest.collection_name, path) as rows:
            rows.sources = Sources(path, manifest.id, sources)
            new = Rewrite(path, manifest, None, sources)
            try:
                checked = partial(marked, fingerprint=manifest.fingerprint, codec=manifest.config.codec)
                encode_documents(rows, new.store, new_encoder, on_progress, checked)
                new_encoder.warn_of_unread_texts()
                unread = set(rows.ids()).difference(new.store.pooled.ids())
                new.store.mark_lost(unread)
                _warn_of_rest(path, unread)
                new.switch()
                new.finish()
            finally:
                new.store.close()
    finally:
        session.close(lambda: None)


def _warn_of_rest(path: Path, ids: set[str]) -> None:
    if ids:
        logger.warning(
            "%s: %s cannot be read, and %s not in the new index; the first is %r",
            *(path, number(len(ids), "row"), "is" if len(ids) == 1 else "are", min(ids)),
        )
