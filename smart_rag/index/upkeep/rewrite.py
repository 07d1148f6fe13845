"""`Rewrite`: new stores in the folder of an index, which replace the old ones when they are complete.

The new stores are in a new folder inside the index's folder. Until they are complete, the manifest names the old
stores, and searches use them. One replacement of the manifest switches to the new stores. So a process that dies
leaves either the old index or the new one. The new folder also holds a manifest. By this manifest, a later call finds
the unfinished stores, and continues there.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from smart_rag.config import DEFAULT_WEIGHTS
from smart_rag.errors import IndexMismatch, IndexNotFound
from smart_rag.index import folder
from smart_rag.index.manifest import DATA_NAME, FILE_NAME, Manifest

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

logger = logging.getLogger(__name__)


class Rewrite:
    """New stores for the index in the folder ``path``, with the settings of the manifest ``wanted``.

    Only the process that may write to the index may make this object. Fill `store`, then call `switch` and `finish`.

    Attributes:
        manifest: the manifest of the new stores.
        store: the new stores. They hold what an earlier, interrupted call has written.
    """

    def __init__(
        self, path: Path, wanted: Manifest, client: ClientAPI | None = None, sources: Iterable[str | Path] = ()
    ) -> None:
        self._path = path
        _unmark(path)
        unfinished = [found for found in _unfinished(path) if _settings(found) == _settings(wanted)]
        self.manifest = wanted.with_new_data(unfinished[0].data if unfinished else None)
        _remove_unfinished(path, client, keep=self.manifest.data)
        make = folder.open_stores if unfinished else folder.create_stores
        self.store = make(path, self.manifest, client, sources)
        self.store.settle()  # first, because this may remove documents of a batch that was not finished
        self.manifest.write(path / self.manifest.data)

    def switch(self) -> None:
        """Make `store` the store of the index. Before this call, the index has its old stores. After it, the new one.

        Raises:
            StorageFull: the disk is full. The index has its old stores.
        """
        self.manifest.write(self._path)

    def finish(self) -> None:
        """Remove the old stores, which nobody uses any more. If this fails, a later rewrite removes them."""
        _unmark(self._path)
        try:
            remove_old(self._path)
        except OSError as error:  # another thread or process has just written there
            logger.warning(
                "%s: the old files could not be removed (%s); the next compaction does it", self._path, error
            )


def _unmark(path: Path) -> None:
    """Say that the present stores of the index are finished. A process that died may not have come to this."""
    current = Manifest.read(path).data
    if current:
        (path / current / FILE_NAME).unlink(missing_ok=True)


def remove_old(path: Path) -> None:
    """Remove the stores that the index in the folder ``path`` had before a rewrite. Unfinished stores are kept."""
    current = Manifest.read(path).data
    for child in _data_folders(path):
        if child.name != current and not (child / FILE_NAME).is_file():
            folder.remove_stores(child)
            shutil.rmtree(child)
    if current:
        folder.remove_stores(path)


def _unfinished(path: Path) -> list[Manifest]:
    current = Manifest.read(path).data
    found = []
    for child in _data_folders(path):
        try:
            manifest = Manifest.read(child)
        except (IndexNotFound, IndexMismatch):  # the process died before it wrote the manifest
            continue
        if child.name != current and manifest.data == child.name:
            found.append(manifest)
    return found


def _remove_unfinished(path: Path, client: ClientAPI | None, keep: str) -> None:
    """Remove all stores in the folder ``path`` except those of the index and those in ``keep``."""
    for manifest in _unfinished(path):
        if manifest.data != keep and client is not None:
            names = [collection.name for collection in client.list_collections()]
            if manifest.collection_name in names:
                client.delete_collection(manifest.collection_name)
    current = Manifest.read(path).data
    for child in _data_folders(path):
        if child.name not in (current, keep):
            shutil.rmtree(child)


def _data_folders(path: Path) -> list[Path]:
    return [child for child in path.iterdir() if DATA_NAME.fullmatch(child.name) and child.is_dir()]


def _settings(manifest: Manifest) -> str:
    """Return everything in ``manifest`` that must be the same, so that unfinished stores can be continued."""
    config = replace(manifest.config, weights=DEFAULT_WEIGHTS, weighting="none")
    same = replace(manifest, config=config, data="", created_with="", relevance=None, format_version=0, owners=())
    return json.dumps(asdict(same), sort_keys=True)
