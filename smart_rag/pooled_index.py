"""Pooled embeddings, texts and metadata, in Chroma; the only file that imports chromadb.

One document is one row. A row names the key of its token embeddings, so that writing the row
is what commits a document. Inside of the library only similarities exist, higher is better;
Chroma's distances do not leave this file.

Chroma keeps what it has read in memory and does not notice that another process writes. It may
also write when it opens: it applies and purges its log. So two files of ours lie beside its own.
`smart_rag.lock` is held for one write, or while Chroma is opened: an opening never sees half a
write, and two processes never write to the files at once. `smart_rag.writes` is a byte longer
for each write: before each read its length is compared, and where it is not the one known,
Chroma is opened anew. (Chroma's own files tell nothing: a mere opening changes them.)
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from smart_rag.config import IndexConfig
from smart_rag.errors import (
    ChromaFailure,
    DimensionMismatch,
    IndexClosed,
    IndexExists,
    IndexNotFound,
    InvalidInput,
    SmartRagError,
    StorageFull,
)
from smart_rag.types import Document

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

Where = Mapping[str, Any]

# Bookkeeping lives in metadata keys of this prefix, which no result shows.
_RESERVED = "_smart_rag."
_KEY = _RESERVED + "key"
_FILE_HASH = _RESERVED + "file_hash"
_FILE_CHUNKS = _RESERVED + "file_chunks"
# What Chroma cannot hold (None, lists, dicts) or not to the last digit (floats) is kept here as
# JSON, and given back as it was.
_JSON = _RESERVED + "json"

# How no metadata key may begin: ours, and what Chroma refuses.
_REFUSED = (_RESERVED, "chroma:", "#", "$")

_PAGE_ROWS = 2_000
# Rows in one answer, at most: SQLite refuses statements of more than 32,766 variables.
_QUERY_ROWS = 10_000
_NO_ROOM = 16 << 20
# Seconds between two looks at a lock that another process holds.
_POLL = 0.001


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Which file a document was cut from: a hash of its bytes, and into how many documents it was cut."""

    hash: str
    chunks: int


@dataclass(frozen=True, slots=True)
class Row:
    """A document as the index holds it, with the key of its token embeddings."""

    document: Document
    key: bytes
    stamp: FileStamp | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that the first stage found, with its pooled cosine."""

    row: Row
    pooled_score: float


@dataclass(frozen=True, slots=True)
class PooledBlock:
    """Some rows of a scan: ids, keys of token embeddings, pooled embeddings (n, dimension) float32."""

    ids: list[str]
    keys: list[bytes]
    pooled: NDArray[np.float32]


class PooledIndex:
    """Rows in a Chroma collection with cosine space."""

    def __init__(self, chroma: _Given | _Folder, collection: str, part_rows: int, folder: Path | None) -> None:
        self._chroma = chroma
        self._collection = collection
        self._part_rows = part_rows  # what Chroma takes in one call
        self._folder = folder  # None where the client is the caller's
        self._closed = False

    @classmethod
    def create(cls, path: Path, config: IndexConfig, client: ClientAPI | None, collection: str) -> PooledIndex:
        """Return a new, empty index in the folder ``path``, or in ``client`` where one is given."""

        def make(chroma: ClientAPI) -> None:
            if collection in [other.name for other in chroma.list_collections()]:
                raise IndexExists(f"Chroma has a collection {collection!r} already; pass another name as collection=")
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

        return cls._at(path, client, collection, make)

    @classmethod
    def open(cls, path: Path, client: ClientAPI | None, collection: str) -> PooledIndex:
        """Return the index that `create` made.

        Raises:
            IndexNotFound: the collection is not there.
        """
        from chromadb.errors import NotFoundError

        def find(chroma: ClientAPI) -> None:
            try:
                chroma.get_collection(collection, embedding_function=None)
            except NotFoundError as error:
                raise IndexNotFound(f"{path}: Chroma has no collection {collection!r} there") from error

        if client is None and not path.is_dir():
            raise IndexNotFound(
                f"{path}: the folder of the pooled embeddings is missing; the index cannot be read without it"
            )
        return cls._at(path, client, collection, find)

    @classmethod
    def _at(
        cls, path: Path, client: ClientAPI | None, collection: str, prepare: Callable[[ClientAPI], None]
    ) -> PooledIndex:
        with _chroma_errors():
            chroma = _Given(client) if client is not None else _Folder.at(path)
            try:
                with chroma.still() as ready:
                    prepare(ready)
                    part_rows = min(int(ready.get_max_batch_size()), _PAGE_ROWS)
            except BaseException:
                chroma.release()
                raise
        return cls(chroma, collection, part_rows, path if client is None else None)

    def upsert(self, rows: Sequence[Row], pooled: NDArray[np.float32]) -> list[Row]:
        """Write ``rows`` with their pooled embeddings (n, dimension); return the rows of the same ids before."""
        before = self.get([row.document.id for row in rows])
        metadatas = [_to_chroma(row) for row in rows]
        for row, metadata in zip(rows, metadatas, strict=True):
            if row.document.id in before:
                # Chroma merges metadata; a key that is to go must be set to None.
                gone = _to_chroma(before[row.document.id]).keys() - metadata.keys()
                metadata.update(dict.fromkeys(gone))
        for part in self._parts(len(rows)):
            self._write(
                "upsert",
                ids=[row.document.id for row in rows[part]],
                embeddings=pooled[part],
                metadatas=metadatas[part],
                documents=[row.document.text for row in rows[part]],
            )
        return list(before.values())

    def get(self, ids: Sequence[str]) -> dict[str, Row]:
        """Return the rows with these ids, by id; ids that are not there are left out."""
        found: dict[str, Row] = {}
        for part in self._parts(len(ids)):
            result = self._read("get", ids=list(ids[part]), include=["metadatas", "documents"])
            found.update((row.document.id, row) for row in _rows(result))
        return found

    def embeddings(self, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the pooled embeddings of the rows with these ids, by id."""
        found: dict[str, NDArray[np.float32]] = {}
        for part in self._parts(len(ids)):
            result = self._read("get", ids=list(ids[part]), include=["embeddings"])
            found.update(zip(result["ids"], np.asarray(result["embeddings"], dtype=np.float32), strict=True))
        return found

    def select(self, where: Where | None = None) -> Iterator[Row]:
        """Yield every row that ``where`` admits."""
        for result in self._pages(where, None, ["metadatas", "documents"]):
            yield from _rows(result)

    def scan(self, where: Where | None = None, where_document: Where | None = None) -> Iterator[PooledBlock]:
        """Yield every row that the filters admit, in blocks, with its pooled embedding."""
        for result in self._pages(where, where_document, ["metadatas", "embeddings"]):
            keys = [bytes.fromhex(metadata[_KEY]) for metadata in result["metadatas"]]
            yield PooledBlock(result["ids"], keys, np.asarray(result["embeddings"], dtype=np.float32))

    def query(
        self,
        pooled: NDArray[np.float32],
        limit: int,
        where: Where | None = None,
        where_document: Where | None = None,
    ) -> list[list[Candidate]]:
        """Return, for each query (n, dimension), the ``limit`` rows of highest cosine, best first."""
        step = max(1, _QUERY_ROWS // limit)
        found: list[list[Candidate]] = []
        for start in range(0, len(pooled), step):
            result = self._read(
                "query",
                query_embeddings=pooled[start : start + step],
                n_results=limit,
                where=_filter(where),
                where_document=_filter(where_document),
                include=["distances"] if limit > _QUERY_ROWS else ["distances", "metadatas", "documents"],
            )
            found += self._many_candidates(result) if limit > _QUERY_ROWS else _candidates(result)
        return found

    def _many_candidates(self, result: Any) -> list[list[Candidate]]:
        """Return the candidates of an answer without texts and metadata, which are fetched in parts."""
        found = []
        for ids, distances in zip(result["ids"], result["distances"], strict=True):
            rows = self.get(ids)
            pairs = zip(ids, distances, strict=True)
            found.append([Candidate(rows[name], 1.0 - distance) for name, distance in pairs if name in rows])
        return found

    def shared(self, keys: Sequence[bytes]) -> set[bytes]:
        """Return which of ``keys`` some row still names."""
        used: set[bytes] = set()
        for part in self._parts(len(keys)):
            where = {_KEY: {"$in": [key.hex() for key in keys[part]]}}
            used.update(row.key for row in self.select(where))
        return used

    def delete(self, ids: Sequence[str]) -> None:
        """Remove the rows with these ids; ids that are not there do no harm."""
        for part in self._parts(len(ids)):
            self._write("delete", ids=list(ids[part]))

    def count(self) -> int:
        return int(self._read("count"))

    @contextmanager
    def still(self) -> Iterator[None]:
        """Let nobody write rows while the block runs; a client of the caller's cannot promise that."""
        with ExitStack() as stack:
            with _chroma_errors(self._folder):
                stack.enter_context(self._chroma.still())
            yield

    def close(self) -> None:
        """Release the files, unless the client is the caller's."""
        if not self._closed:
            self._closed = True
            self._chroma.release()

    def _read(self, method: str, **arguments: Any) -> Any:
        with _chroma_errors(self._folder):
            return self._chroma.read(self._collection, method, arguments)

    def _write(self, method: str, **arguments: Any) -> None:
        with _chroma_errors(self._folder):
            self._chroma.write(self._collection, method, arguments)

    def _parts(self, rows: int) -> Iterator[slice]:
        """Yield slices that Chroma takes in one call."""
        size = self._part_rows
        return (slice(start, min(start + size, rows)) for start in range(0, rows, size))

    def _pages(self, where: Where | None, where_document: Where | None, include: list[str]) -> Iterator[Any]:
        offset = 0
        while True:
            result = self._read(
                "get",
                where=_filter(where),
                where_document=_filter(where_document),
                limit=_PAGE_ROWS,
                offset=offset,
                include=include,
            )
            if result["ids"]:
                yield result
            if len(result["ids"]) < _PAGE_ROWS:
                return
            offset += _PAGE_ROWS


def check_metadata(document: Document) -> None:
    """Raise `InvalidInput` if the document's metadata cannot be stored and given back."""
    for key, value in document.metadata.items():
        if not isinstance(key, str) or not key or key.startswith(_REFUSED) or not is_unicode(key):
            raise InvalidInput(
                f"document {document.id!r}: metadata key {key!r} must be a str that is not empty and begins with none "
                f"of {', '.join(_REFUSED)}"
            )
        if isinstance(value, str) and not is_unicode(value):
            raise InvalidInput(f"document {document.id!r}: metadata {key!r} holds a lone surrogate")
        if not _is_scalar(value):
            try:
                same = json.loads(json.dumps(value)) == value
            except (TypeError, ValueError):
                same = False
            if not same:
                raise InvalidInput(
                    f"document {document.id!r}: metadata {key!r} is a {type(value).__name__} that JSON cannot "
                    "hold; use str, int, float, bool, None, or lists and dicts of them"
                )


def is_unicode(text: str) -> bool:
    """Return whether UTF-8 can hold ``text``: whether it is free of lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_scalar(value: Any) -> bool:
    if isinstance(value, float):
        return bool(np.isfinite(value))
    # Chroma's integers have 64 bits.
    return isinstance(value, str | bool) or (isinstance(value, int) and -(2**63) <= value < 2**63)


def _to_chroma(row: Row) -> dict[str, Any]:
    metadata = {key: value for key, value in row.document.metadata.items() if _is_scalar(value)}
    rest = {
        key: value for key, value in row.document.metadata.items() if key not in metadata or isinstance(value, float)
    }
    if rest:
        metadata[_JSON] = json.dumps(rest)
    if row.stamp is not None:
        metadata[_FILE_HASH] = row.stamp.hash
        metadata[_FILE_CHUNKS] = row.stamp.chunks
    metadata[_KEY] = row.key.hex()
    return metadata


def _row(id: str, text: str | None, metadata: Mapping[str, Any]) -> Row:
    kept = {key: value for key, value in metadata.items() if not key.startswith(_RESERVED)}
    if _JSON in metadata:
        kept.update(json.loads(metadata[_JSON]))
    stamp = FileStamp(metadata[_FILE_HASH], metadata[_FILE_CHUNKS]) if _FILE_HASH in metadata else None
    return Row(Document(id, text or "", kept), bytes.fromhex(metadata[_KEY]), stamp)


def _rows(result: Any) -> list[Row]:
    parts = zip(result["ids"], result["documents"], result["metadatas"], strict=True)
    return [_row(*part) for part in parts if part[-1] is not None]


def _candidates(result: Any) -> list[list[Candidate]]:
    queries = zip(*(result[name] for name in ("ids", "documents", "metadatas", "distances")), strict=True)
    return [
        # Chroma has no metadata of a row that went away after its vector was found.
        [
            Candidate(_row(*parts), 1.0 - distance)
            for *parts, distance in zip(*query, strict=True)
            if parts[-1] is not None
        ]
        for query in queries
    ]


def _filter(where: Where | None) -> dict[str, Any] | None:
    """Return a filter as Chroma takes it: an empty one is none."""
    with _chroma_errors():
        return dict(where) if where else None


class _Given:
    """A Chroma client of the caller's."""

    def __init__(self, client: ClientAPI) -> None:
        self._client = client
        self._collections: dict[str, Collection] = {}

    @contextmanager
    def still(self) -> Iterator[ClientAPI]:
        yield self._client

    def read(self, name: str, method: str, arguments: Mapping[str, Any]) -> Any:
        if name not in self._collections:
            self._collections[name] = self._client.get_collection(name, embedding_function=None)
        return getattr(self._collections[name], method)(**arguments)

    write = read

    def release(self) -> None:
        """Leave the client open: it is the caller's."""


class _Folder:
    """The Chroma in a folder: one client for every `PooledIndex` of this process on that path.

    It is opened anew where another process has written, in a moment when no thread is inside of
    a call to it.
    """

    _open: ClassVar[dict[Path, _Folder]] = {}
    _registry = threading.Lock()

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._users = 0
        self._calls = 0
        self._reopening = False
        self._closed = False
        self._condition = threading.Condition()
        self._thread_lock = threading.RLock()
        self._process_lock = FileLock(path / "smart_rag.lock", thread_local=False)
        self._writes = path / "smart_rag.writes"
        self._writes.touch()
        self._known = -1  # writes that the client knows of
        self._client: Any = None
        self._collections: dict[str, Collection] = {}

    @classmethod
    def at(cls, path: Path) -> _Folder:
        """Return the Chroma in the folder ``path``, for one user more."""
        path = path.resolve()
        with cls._registry:
            folder = cls._open.get(path) or cls(path)
            cls._open[path] = folder
            folder._users += 1
            return folder

    def release(self) -> None:
        """Count one user less; when none is left, close."""
        with self._registry:
            self._users -= 1
            if self._users == 0:
                del self._open[self._path]
                with self._thread_lock, self._alone():
                    self._closed = True
                    self._close()

    @contextmanager
    def still(self) -> Iterator[ClientAPI]:
        """Yield the client, which knows of every write; there is none by another thread or process in the block."""
        with self._thread_lock, self._process_lock.acquire(poll_interval=_POLL):
            if self._closed:
                raise IndexClosed(f"{self._path}: the pooled index is closed; open it again")
            if self._known != (written := self._written()):
                with self._alone():
                    self._close()
                    self._client = _persistent(self._path)
                    self._known = written
            yield self._client

    def read(self, name: str, method: str, arguments: Mapping[str, Any]) -> Any:
        """Call a method of the collection; what fails while another process writes is done again after that."""
        written = self._written()
        try:
            return self._call(name, method, arguments)
        except Exception:
            if written == self._written():
                raise
        with self.still():
            return self._call(name, method, arguments)

    def write(self, name: str, method: str, arguments: Mapping[str, Any]) -> None:
        """Call a method of the collection that writes."""
        with self.still():
            # Told first: a process that is killed while it writes has told the others.
            with self._writes.open("ab") as file:
                file.write(b".")
            self._known = self._written()
            self._call(name, method, arguments)

    def _call(self, name: str, method: str, arguments: Mapping[str, Any]) -> Any:
        collection = None
        while collection is None:
            if self._known != self._written() or name not in self._collections:
                with self.still() as client:
                    found = client.get_collection(name, embedding_function=None)
                    found.count()  # the first call has Chroma apply its log, which is to happen in here
                    self._collections[name] = found
            with self._condition:
                self._condition.wait_for(lambda: not self._reopening)
                collection = self._collections.get(name)
                self._calls += collection is not None
        try:
            return getattr(collection, method)(**arguments)
        finally:
            with self._condition:
                self._calls -= 1
                self._condition.notify_all()

    def _written(self) -> int:
        """Return how many writes there were, by all processes."""
        return self._writes.stat().st_size

    def _close(self) -> None:
        self._known = -1
        self._collections.clear()
        client, self._client = self._client, None
        if client is not None:
            client.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep calls out, once those that are in have ended."""
        with self._condition:
            self._reopening = True
            try:
                self._condition.wait_for(lambda: self._calls == 0)
                yield
            finally:
                self._reopening = False
                self._condition.notify_all()


def _persistent(path: Path) -> ClientAPI:
    import chromadb
    from chromadb.config import Settings

    return chromadb.PersistentClient(path, settings=Settings(anonymized_telemetry=False))


@contextmanager
def _chroma_errors(folder: Path | None = None) -> Iterator[None]:
    """Turn Chroma's errors into ours; ``folder`` is where Chroma writes, if that is on this machine."""
    from chromadb.errors import InvalidArgumentError, InvalidDimensionException

    try:
        yield
    except SmartRagError:
        raise
    except InvalidDimensionException as error:
        raise DimensionMismatch(str(error)) from error
    except InvalidArgumentError as error:
        kind = DimensionMismatch if "dimension" in str(error) else InvalidInput
        raise kind(f"Chroma does not take this: {error}") from error
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"Chroma does not take this: {error}") from error
    except Exception as error:  # ChromaError, OSError, an HTTP client's own; it is chained
        # Chroma does not pass the system's error on: a disk without room is found by looking.
        if folder is not None and shutil.disk_usage(folder).free < _NO_ROOM:
            raise StorageFull(
                f"{folder}: no space left on the disk; make room and open the index again: "
                f"what was acknowledged is safe ({error})"
            ) from error
        raise ChromaFailure(f"{type(error).__name__}: {error}") from error
