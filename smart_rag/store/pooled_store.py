"""Pooled embeddings, texts and metadata, as rows in Chroma.

One document is one row. A row contains the key of its token embeddings, so writing the row commits the document. The
rest of the library uses similarities, where higher is better. Chroma uses distances, which are converted here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.config import IndexConfig
from smart_rag.errors import IndexExists, IndexNotFound
from smart_rag.store.checks.chroma_tables import copy_chroma
from smart_rag.store.chroma.answers import Candidate, Found, PooledBlock, found_in
from smart_rag.store.chroma.client import FolderClient, GivenClient, chroma_errors
from smart_rag.store.pending import StoredRows
from smart_rag.store.row import Row
from smart_rag.store.row_reader import RowReader
from smart_rag.store.sources import Sources
from smart_rag.store.where import KEY, Where, chroma_where, chroma_where_document, fits, halves

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

logger = logging.getLogger(__name__)

_EVERYTHING = ["metadatas", "documents", "embeddings"]
_PAGE_ROWS = 2_000
# Maximum number of rows in one answer. SQLite refuses statements with more than 32,766 variables.
_QUERY_ROWS = 10_000


class PooledStore:
    """Rows in a collection of Chroma that uses cosine distance."""

    def __init__(
        self, chroma: GivenClient | FolderClient, collection: str, part_rows: int, folder: Path | None, root: Path
    ) -> None:
        # Whether filters can search lists. They cannot if an older smart_rag wrote the rows.
        self.has_lists = True
        self.reader = RowReader(root)
        self._chroma = chroma
        self.collection = collection
        self._part_rows = part_rows  # number of rows in one call to Chroma
        self.folder = folder  # Chroma's. None if the caller brings the client
        self.root = root
        self._closed = False

    @classmethod
    def create(
        cls, path: Path, config: IndexConfig, client: ClientAPI | None, collection: str, root: Path | None = None
    ) -> PooledStore:
        """Return a new, empty store in the folder ``path``, or in the caller's ``client``.

        Paths of files are stored relative to ``root``. By default, ``root`` is the folder that contains ``path``.

        Raises:
            IndexExists: the client already has a collection of this name.
            InvalidInput: Chroma does not accept the name of the collection.
        """

        def make(chroma: ClientAPI) -> None:
            if collection in [other.name for other in chroma.list_collections()]:
                raise IndexExists(f"Chroma already has a collection {collection!r}; pass another name as collection=")
            chroma.create_collection(
                collection,
                embedding_function=None,
                configuration={
                    "hnsw": {
                        "space": "cosine",
                        "max_neighbors": config.hnsw_max_neighbors,
                        "ef_construction": config.hnsw_ef_construction,
                        "ef_search": config.hnsw_ef_search,
                    }
                },
            )

        return cls._at(path, client, collection, make, root)

    @classmethod
    def open(cls, path: Path, client: ClientAPI | None, collection: str, root: Path | None = None) -> PooledStore:
        """Return the store that `create` made with the same arguments.

        Raises:
            IndexNotFound: the folder or the collection does not exist.
        """
        from chromadb.errors import NotFoundError

        def find(chroma: ClientAPI) -> None:
            try:
                chroma.get_collection(collection, embedding_function=None)
            except NotFoundError as error:
                raise IndexNotFound(
                    f"{path}: Chroma has no collection {collection!r}; index the documents again into another folder"
                ) from error

        if client is None and not path.is_dir():
            raise IndexNotFound(
                f"{path}: the folder of the pooled embeddings is missing; restore it, or index the documents again"
            )
        return cls._at(path, client, collection, find, root)

    @classmethod
    def _at(
        cls,
        path: Path,
        client: ClientAPI | None,
        collection: str,
        action: Callable[[ClientAPI], None],
        root: Path | None,
    ) -> PooledStore:
        with chroma_errors(path if client is None else None):
            chroma = GivenClient(client) if client is not None else FolderClient.at(path)
            try:
                with chroma.write_lock() as ready:
                    action(ready)
                    part_rows = min(int(ready.get_max_batch_size()), _PAGE_ROWS)
            except BaseException:
                chroma.release()
                raise
        root = path.absolute().parent if root is None else root
        return cls(chroma, collection, part_rows, path if client is None else None, root)

    @property
    def sources(self) -> Sources:
        """The files that rows may name. An index that is opened replaces them by its own."""
        return self.reader.sources

    @sources.setter
    def sources(self, sources: Sources) -> None:
        self.reader.sources = sources

    @property
    def given_client(self) -> ClientAPI | None:
        """The client that the caller brought. None if the rows are in a folder."""
        return self._chroma.client if isinstance(self._chroma, GivenClient) else None

    def version(self) -> int | None:
        """Return a number that changes with each write. With the caller's client, return None: it counts no writes."""
        return self._chroma.version()

    def upsert(self, rows: Sequence[Row], pooled: NDArray[np.float32], before: StoredRows | None = None) -> list[Row]:
        """Write n ``rows`` with their pooled embeddings (n, dimension). Return the old rows with the same ids.

        ``before`` are these old rows, if the caller has them from `stored`.
        """
        before = self.stored([row.document.id for row in rows]) if before is None else before
        self.write(StoredRows.of_rows(rows, pooled, self.root).over(before))
        return self.rows(before)

    def write(self, rows: StoredRows) -> None:
        """Write ``rows`` as they are."""
        for part in self._parts(len(rows)):
            some = rows.part(part)
            self._write("upsert", embeddings=some.pooled, **some.columns())

    def update_metadata(self, rows: Sequence[Row], before: StoredRows) -> None:
        """Write ``rows``, whose pooled embeddings stay as they are in ``before``, over the rows ``before``.

        If the texts stay, too, Chroma leaves its graph as it is. To put an embedding into the graph again takes longer
        than to add a new one.
        """
        places = {id: i for i, id in enumerate(before.ids)}
        pooled = before.pooled[[places[row.document.id] for row in rows]]
        changed = StoredRows.of_rows(rows, pooled, self.root).over(before)
        same = np.asarray([before.texts[places[row.document.id]] == row.document.text for row in rows])
        kept = changed.part(np.flatnonzero(same))
        for part in self._parts(len(kept)):
            some = kept.part(part)
            self._write("update", ids=list(some.ids), metadatas=list(some.metadatas))
        self.write(changed.part(np.flatnonzero(~same)))

    def stored(self, ids: Sequence[str]) -> StoredRows:
        """Return the rows with these ids as Chroma stores them. Unknown ids are left out."""
        return StoredRows.of_results(self._results(ids, _EVERYTHING))

    def rows(self, stored: StoredRows) -> list[Row]:
        """Return ``stored`` as rows. The rows of other programs and damaged rows are left out."""
        return self.reader.rows(stored.settled().columns())

    def undo_of(self, rows: Sequence[Row], before: StoredRows) -> StoredRows:
        """Return what to write to bring back the rows ``before`` after ``rows`` were written over them."""
        new = {row.document.id: row for row in rows}
        places = [i for i, id in enumerate(before.ids) if id in new]
        over = [new[before.ids[i]] for i in places]
        return before.over(StoredRows.of_rows(over, before.pooled[places], self.root))

    def get(self, ids: Sequence[str]) -> dict[str, Row]:
        """Return a dict from id to row, for these ids. Unknown ids are left out."""
        results = self._results(ids, ["metadatas", "documents"])
        return {row.document.id: row for result in results for row in self.reader.rows(result)}

    def embeddings(self, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return a dict from id to pooled embedding (dimension), for these ids. Unknown ids are left out."""
        found: dict[str, NDArray[np.float32]] = {}
        for result in self._results(ids, ["embeddings"]):
            found.update(zip(result["ids"], np.asarray(result["embeddings"], dtype=np.float32), strict=True))
        return found

    def vectors(self, ids: Sequence[str]) -> list[tuple[Row, NDArray[np.float32]]]:
        """Return, for each of these ids, the row and its pooled embedding (dimension). Unknown ids are left out."""
        return [pair for result in self._results(ids, _EVERYTHING) for pair in self._pairs(result)]

    def vectors_of_all(
        self, where: Where | None, where_document: Where | None
    ) -> list[tuple[Row, NDArray[np.float32]]]:
        """Return every row that matches the filters, and its pooled embedding (dimension)."""
        return [pair for result in self._pages(where, where_document, _EVERYTHING) for pair in self._pairs(result)]

    def _results(self, ids: Sequence[str], include: list[str]) -> Iterator[Any]:
        return (self._read("get", ids=list(ids[part]), include=include) for part in self._parts(len(ids)))

    def _pairs(self, result: Any) -> list[tuple[Row, NDArray[np.float32]]]:
        embeddings = dict(zip(result["ids"], np.asarray(result["embeddings"], dtype=np.float32), strict=True))
        return [(row, embeddings[row.document.id]) for row in self.reader.rows(result)]

    def ids(self, where: Where | None = None, where_document: Where | None = None) -> list[str]:
        """Return the ids of the rows that match the filters."""
        filters = self.filters(where, where_document)
        # This is one call, because Chroma would filter all rows again for each page. It takes 0.24 s for 50,000 of
        # 100,000 rows. The alternative, to ask which of a hundred ids match in each call, took 4 s.
        if fits(*filters.values()):
            return self._ids(**filters)
        matching = [self._matching(name, part) for name, part in filters.items() if part is not None]
        admitted = set.intersection(*matching)
        return [id for id in self._ids() if id in admitted]  # in Chroma's order

    def _ids(self, **filters: Any) -> list[str]:
        return list(self._read("get", **filters, include=[])["ids"])

    def _matching(self, name: str, part: dict[str, Any]) -> set[str]:
        """Return the ids of the rows that match a filter of any size. ``name`` is Chroma's name for such filters."""
        if fits(part):
            return set(self._ids(**{name: part}))
        operator, *parts = halves(part)
        first, second = (self._matching(name, half) for half in parts)
        return first & second if operator == "$and" else first | second

    def select(self, where: Where | None = None, where_document: Where | None = None) -> Iterator[Row]:
        """Yield every row that matches the filters. A row that is removed before it is read is left out."""
        for result in self._pages(where, where_document, ["metadatas", "documents"]):
            yield from self.reader.rows(result)

    def scan(self, where: Where | None = None, where_document: Where | None = None) -> Iterator[PooledBlock]:
        """Yield every row that matches the filters, with its pooled embedding. The rows come in blocks."""
        for result in self._pages(where, where_document, ["metadatas", "embeddings"]):
            keys = list(map(self.reader.key, result["ids"], result["metadatas"]))
            own = [i for i, key in enumerate(keys) if key is not None]
            if own:
                pooled = np.asarray(result["embeddings"], dtype=np.float32)[own]
                yield PooledBlock([result["ids"][i] for i in own], [key for key in keys if key is not None], pooled)

    def pages_with_embeddings(self) -> Iterator[Any]:
        """Yield Chroma's answers with the metadata and pooled embeddings of all rows, also of other programs."""
        return self._pages(None, None, ["metadatas", "embeddings"])

    def damage(self) -> str | None:
        """Return in one line what is wrong with the files in Chroma's folder, or None. Every byte of them is read."""
        with chroma_errors(self.folder):
            return self._chroma.damage()

    def search_only(self, pooled: NDArray[np.float32]) -> None:
        """Let Chroma search for each of n embeddings (n, dimension), and ignore what it finds."""
        self._read("query", query_embeddings=pooled, n_results=1, include=["distances"])

    def query(
        self,
        pooled: NDArray[np.float32],
        limit: int,
        where: Where | None = None,
        where_document: Where | None = None,
    ) -> list[list[Candidate]]:
        """Return, for each of n queries, the ``limit`` rows with the highest cosine, best first.

        ``pooled`` (n, dimension) are the embeddings of the queries. The search is approximate.
        """
        if limit > _QUERY_ROWS:  # read the rows in parts
            nearest = self.nearest(pooled, limit, where, where_document)
            found = [(cosines, self.get(list(cosines))) for cosines in nearest]
            return [[Candidate(rows[id], cosines[id]) for id in cosines if id in rows] for cosines, rows in found]
        answers = self._nearest(pooled, limit, ["distances", "metadatas", "documents"], where, where_document)
        return [
            [
                Candidate(row, one.cosine)
                for one in answer
                if one.metadata is not None and (row := self.reader.row(one.id, one.text, one.metadata)) is not None
            ]
            for answer in answers
        ]

    def nearest(
        self,
        pooled: NDArray[np.float32],
        limit: int,
        where: Where | None = None,
        where_document: Where | None = None,
    ) -> list[dict[str, float]]:
        """Do the same as `query`, but return only ids and cosines: for each query, a dict, best first.

        The rows are not read. So the rows of other programs and damaged rows are among them.
        """
        answers = self._nearest(pooled, limit, ["distances"], where, where_document)
        return [{one.id: one.cosine for one in answer} for answer in answers]

    def _nearest(
        self, pooled: NDArray[np.float32], limit: int, include: list[str], *where: Where | None
    ) -> list[list[Found]]:
        filters = self.filters(*where)
        if fits(*filters.values()):
            return self._query(pooled, limit, include, **filters)
        ids = self.ids(*where)
        found: list[list[Found]] = [[] for _ in pooled]
        for part in self._parts(len(ids)):
            for answer, more in zip(found, self._query(pooled, limit, include, ids=ids[part]), strict=True):
                answer += more
        return [sorted(answer, key=lambda one: one.cosine, reverse=True)[:limit] for answer in found]

    def _query(
        self, pooled: NDArray[np.float32], limit: int, include: list[str], **selection: Any
    ) -> list[list[Found]]:
        """Do the same as `_nearest`, but only among the rows that ``selection`` (arguments of Chroma) chooses."""
        step = max(1, _QUERY_ROWS // limit)
        found: list[list[Found]] = []
        for start in range(0, len(pooled), step):
            queries = pooled[start : start + step]
            found += found_in(
                self._read("query", query_embeddings=queries, n_results=limit, include=include, **selection)
            )
        return found

    def keys_in_use(self, keys: Sequence[bytes]) -> set[bytes]:
        """Return the ``keys`` that at least one row names."""
        used: set[bytes] = set()
        for part in self._parts(len(keys)):
            where = {KEY: {"$in": [key.hex() for key in keys[part]]}}
            used.update(row.key for row in self.select(where))
        return used

    def embeddings_of_keys(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Return a dict from key to pooled embedding (dimension) of a row that names it. Leave out keys with no
        row.
        """
        found: dict[bytes, NDArray[np.float32]] = {}
        for part in self._parts(len(keys)):
            for block in self.scan({KEY: {"$in": [key.hex() for key in keys[part]]}}):
                found.update(zip(block.keys, block.pooled, strict=True))
        return found

    def refused_files(self, id: str) -> list[Path]:
        """Return the files that were left out when the row ``id`` was read, because the index may not read them."""
        return self.reader.refused.get(id, [])

    def delete(self, ids: Sequence[str]) -> None:
        """Remove the rows with these ids. Unknown ids are ignored."""
        for part in self._parts(len(ids)):
            self._write("delete", ids=list(ids[part]))

    def count(self) -> int:
        """Return the number of rows."""
        return int(self._read("count"))

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """Keep other threads and processes from writing rows while the block runs.

        If the caller brought the client, there is no such lock.
        """
        with ExitStack() as stack:
            with chroma_errors(self.folder):
                stack.enter_context(self._chroma.write_lock())
            yield

    def copy_to(self, folder: Path) -> None:
        """Copy the files of the store to ``folder``. The caller holds `write_lock`, and did not bring the client."""
        assert self.folder is not None
        copy_chroma(self.folder, folder)

    @contextmanager
    def caught_up(self) -> Iterator[None]:
        """While the block runs, wait for other processes at most once, however often they write.

        As soon as a read of the block finds that another process has written, no other process may write rows until
        the block ends. So the block should be short.
        """
        with ExitStack() as stack:
            with chroma_errors(self.folder):
                stack.enter_context(self._chroma.caught_up())
            yield

    def drop(self) -> None:
        """Remove the collection from the caller's client. In a folder, the caller removes the folder instead."""
        if self.folder is None:
            self.delete(self._ids())  # first, because Chroma leaves lists of the rows of a deleted collection behind
            with chroma_errors(), self._chroma.write_lock() as client:
                client.delete_collection(self.collection)

    def close(self) -> None:
        """Close the files, unless the caller brought the client. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._chroma.release()

    def filters(self, where: Where | None, where_document: Where | None) -> dict[str, dict[str, Any] | None]:
        """Return the filters as arguments of Chroma."""
        return {
            "where": chroma_where(where, has_lists=self.has_lists),
            "where_document": chroma_where_document(where_document),
        }

    def _read(self, method: str, **arguments: Any) -> Any:
        has_filter = arguments.get("where") or arguments.get("where_document")
        with chroma_errors(self.folder, "the filter" if has_filter else "this"):
            return self._chroma.read(self.collection, method, arguments)

    def _write(self, method: str, **arguments: Any) -> None:
        with chroma_errors(self.folder):
            self._chroma.write(self.collection, method, arguments)

    def _parts(self, rows: int) -> Iterator[slice]:
        """Yield slices that together cover ``rows`` rows. Each is short enough for one call to Chroma."""
        size = self._part_rows
        return (slice(start, min(start + size, rows)) for start in range(0, rows, size))

    def _pages(self, where: Where | None, where_document: Where | None, include: list[str]) -> Iterator[Any]:
        """Yield all matching rows in parts. Each row comes once, even if others write or remove rows meanwhile."""
        filters = self.filters(where, where_document)
        version, seen = self.version(), 0
        done: set[str] = set()
        while version is not None and fits(*filters.values()):
            # By offsets, which is faster than by ids. But a row that is removed moves all later rows by one.
            result = self._read("get", limit=_PAGE_ROWS, offset=seen, include=include, **filters)
            if version != self.version():
                break
            if result["ids"]:
                yield result
            if len(result["ids"]) < _PAGE_ROWS:
                return
            seen += _PAGE_ROWS
            done.update(result["ids"])
        ids = [id for id in self.ids(where, where_document) if id not in done]
        for result in self._results(ids, include):
            if result["ids"]:
                yield result
