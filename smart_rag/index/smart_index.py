"""`SmartIndex`: an index in a folder, and the search over it. The only module that conducts the others."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import ArrayLike, NDArray

from smart_rag._version import __version__
from smart_rag.config import (
    DEFAULT_CANDIDATES,
    DEFAULT_IMAGE_PIXELS,
    DEFAULT_MODEL,
    DEFAULT_TOP_K,
    FirstStageName,
    IndexConfig,
    Weighting,
    check_choice,
    check_count,
    check_weights,
)
from smart_rag.embeddings.codec import RotatedCodec, get_codec
from smart_rag.embeddings.representation import Codec, FloatArray, Representation, TokenBatch, TokenCodes
from smart_rag.encoders.protocol import (
    Encoder,
    default_weights_of,
    encode_for_store,
    modalities_of,
    token_counter,
    token_dimension_of,
)
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import DimensionMismatch, IndexClosed, IndexExists, IndexLocked, IndexMismatch, InvalidInput
from smart_rag.files import reader as files
from smart_rag.files.content import identity
from smart_rag.index.explanation import Question
from smart_rag.index.ingest import Ingest, OnCommit, check_documents, documents_of_texts
from smart_rag.index.manifest import FILE_NAME, Manifest
from smart_rag.index.search import Scores, Search, as_documents, contents_of_queries, rank, scoring_device
from smart_rag.index.stopwatch import Stopwatch
from smart_rag.scoring import maxsim as scoring
from smart_rag.store.document_store import DocumentStore
from smart_rag.store.image_store import ImageFolder
from smart_rag.store.pooled_store import PooledIndex, Where
from smart_rag.store.row import Row
from smart_rag.store.term_store import TermStore
from smart_rag.store.token_store import TokenStore, content_key
from smart_rag.types import (
    AddReport,
    Content,
    Document,
    Encodable,
    Explanation,
    Hit,
    IndexInfo,
    Key,
    PdfPage,
    VerifyReport,
)
from smart_rag.wording import number

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from tqdm import tqdm

logger = logging.getLogger(__name__)

# Pooled embeddings of one text by one model on two devices or in two precisions are nearer than that.
_SAME_MODEL = 0.98
# Vectors that the caller brings are committed this many documents at a time.
_BATCH = 128
# Of vectors that the caller brings, nobody knows what they were made of.
_ALL_MODALITIES = ("text", "image", "video")


class SmartIndex:
    """An index in one folder, which can be moved, copied and opened elsewhere.

    >>> with SmartIndex.create("my.index", encoder="minilm") as index:    # doctest: +SKIP
    ...     index.add_texts(["The cat sat on the mat.", "Dogs bark at night."])
    ...     index.search("Which animal barks?", top_k=1)[0].text
    'Dogs bark at night.'

    Make one with `create`, `open` or `from_embeddings`. Any number of processes may search; one
    at a time may write, from its first write until it closes the index. Threads may share one.
    """

    def __init__(self, path: Path, manifest: Manifest, store: DocumentStore, encoder: Encoder | None) -> None:
        self.path = path
        self.manifest = manifest
        self._store = store
        self._encoder = encoder
        self._mutex = threading.RLock()
        self._lock = FileLock(path / "write.lock", timeout=0, thread_local=False)
        self._closed = False

    # --- making and opening -----------------------------------------------------------------

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Return whether the folder ``path`` holds an index."""
        return (Path(path) / FILE_NAME).is_file()

    @classmethod
    def create(
        cls,
        path: str | Path,
        encoder: Encoder | str | None = DEFAULT_MODEL,
        *,
        dimension: int | None = None,
        token_dimension: int | None = None,
        config: IndexConfig | None = None,
        client: ClientAPI | None = None,
        collection: str = "smart_rag",
    ) -> SmartIndex:
        """Return a new, empty index in the folder ``path``.

        Args:
            path: a folder that does not exist or is empty.
            encoder: an encoder, or the name of a model; None for vectors that the caller
                brings (`add_embeddings`), of width ``dimension``.
            token_dimension: the width of their token embeddings, where it is another.
            config: what is fixed for the life of the index.
            client: a Chroma client, such as ``chromadb.HttpClient()``, to hold the pooled
                embeddings; by default they lie in the folder.
            collection: the name of the collection in Chroma.

        Raises:
            IndexExists: the folder holds something already.
        """
        path = Path(path)
        config = config or IndexConfig()
        token_codec = get_codec(config.codec)
        # What a preset means may change between releases, what the index holds may not.
        config = replace(config, codec=token_codec.name)
        if (path / FILE_NAME).exists():
            raise IndexExists(f"{path} holds an index; open it with SmartIndex.open, or choose another folder")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            found = "is not empty and holds no index" if path.is_dir() else "is not a folder"
            raise IndexExists(f"{path} {found}; choose another folder")
        if isinstance(encoder, str):
            encoder = SmartEncoder(encoder)
        config = replace(config, weights=config.weights or default_weights_of(encoder))
        width = encoder.dimension if encoder is not None else dimension
        token_width = token_dimension_of(encoder) if encoder is not None else token_dimension or width
        if width is None or width < 1:
            raise InvalidInput(f"without an encoder, the dimension of the vectors must be given, got {dimension}")
        manifest = Manifest(
            created_with=__version__,
            dimension=width,
            token_dimension=token_width or width,
            encoder=None if encoder is None else encoder.describe(),
            fingerprint=None if encoder is None else encoder.fingerprint,
            collection=collection,
            own_chroma=client is None,
            config=config,
            modalities=("text",) if encoder is None else sorted(modalities_of(encoder)),
        )
        path.mkdir(parents=True, exist_ok=True)
        pooled = PooledIndex.create(path / "chroma", config, client, collection)
        store = _store(path, pooled, token_codec)
        manifest.write(path)  # last: a folder with a manifest is whole
        return cls(path, manifest, store, encoder)

    @classmethod
    def open(
        cls, path: str | Path, encoder: Encoder | str | None = None, *, client: ClientAPI | None = None
    ) -> SmartIndex:
        """Return the index in the folder ``path``.

        The encoder is the one of the manifest, loaded when it is first needed, unless one is
        given; ``client`` must be given if it was at creation.

        Raises:
            IndexNotFound: the folder holds no index.
            IndexMismatch: the index is of another model than ``encoder``, or of a newer format.
        """
        path = Path(path)
        manifest = Manifest.read(path)
        if manifest.own_chroma != (client is None):
            raise IndexMismatch(
                f"{path}: the pooled embeddings lie in the folder; open it without client="
                if manifest.own_chroma
                else f"{path}: the pooled embeddings lie in a Chroma client of your own; pass it as client="
            )
        if isinstance(encoder, str):
            encoder = SmartEncoder(encoder)
        if encoder is not None:
            manifest.check_encoder(path, encoder)
        pooled = PooledIndex.open(path / "chroma", client, manifest.collection)
        return cls(path, manifest, _store(path, pooled, get_codec(manifest.config.codec)), encoder)

    @classmethod
    def from_embeddings(
        cls, path: str | Path, documents: Sequence[Document], representation: Representation, **options: Any
    ) -> SmartIndex:
        """Return a new index of ``documents`` whose vectors the caller brings; ``options`` as in `create`."""
        _check_given(documents, representation)  # first: what is refused leaves no folder behind
        widths = {"dimension": representation.pooled.shape[1], "token_dimension": representation.tokens.dimension}
        index = cls.create(path, None, **widths, **options)
        index.add_embeddings(documents, representation)
        return index

    # --- writing ----------------------------------------------------------------------------

    def add(
        self,
        documents: Iterable[Document],
        *,
        pooled: ArrayLike | None = None,
        show_progress_bar: bool = False,
        on_commit: OnCommit | None = None,
    ) -> AddReport:
        """Write ``documents``, replacing those of the same id, and return what was done.

        A document whose text and metadata are in the index already is left alone, so that an
        interrupted call can simply be made again. Documents are committed in batches, not in
        the order given; ``on_commit`` is called with the ids of each batch once they are on
        disk. An iterator of any length is read in bounded memory.

        Where `encode_documents` has been called for a sequence of documents, ``pooled`` takes
        the pooled embeddings (n, dimension) that it returned, and nothing is encoded again.

        Raises:
            IndexMismatch: ``pooled`` is not of the index's model; nothing is written.
            InvalidInput: a document without text, with metadata that cannot be stored, or an
                id twice. In a sequence nothing is written then; of a stream, which is read a few
                thousand at a time, what was read before is, and an id that comes again replaces the earlier one.
        """
        total = len(documents) if isinstance(documents, Sequence) else None
        with self._ingest(total, "document", show_progress_bar, on_commit) as ingest:
            if pooled is None:
                return ingest.add(documents)
            if not isinstance(documents, Sequence):
                raise InvalidInput("pooled= needs a sequence of documents, got a stream")
            return ingest.add(documents, self._own_embeddings(documents, pooled))

    def add_files(
        self,
        paths: Iterable[str | Path],
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        prune: bool = False,
        show_progress_bar: bool = False,
        on_commit: OnCommit | None = None,
    ) -> AddReport:
        """Write the documents that the files at and below ``paths`` are cut into, and return what was done.

        A file whose bytes are indexed already is left alone, one that changed replaces its
        earlier documents. A file that cannot be read is reported in ``failed``, and what the
        index held of it stays. Each document has the metadata ``source`` (the file's full
        path), ``page`` (1-based, where the format has pages) and ``chunk``.

        Args:
            paths: files and folders; `smart_rag.files.reader.FORMATS` lists the formats.
            include, exclude: patterns for files in folders, such as ``"*.md"``.
            prune: remove the documents of files in the folders ``paths`` that are no longer there; without it,
                these files are counted in a warning.
            show_progress_bar: show a progress bar.
            on_commit: as in `add`.

        Raises:
            InvalidInput: a path does not exist, or no file is found.
        """
        paths = [paths] if isinstance(paths, str | Path) else list(paths)
        found = files.find(paths, include, exclude, self.manifest.modalities)
        own = self.path.resolve()  # which may lie among what it indexes, with drawings of pages in it
        found = [path for path in found if not path.is_relative_to(own)]
        with self._writing():  # first: where another process writes, no model need be loaded
            reader = files.Reader(self.manifest.modalities, token_counter(self.encoder), self.manifest.config)
            sees = "image" in self.manifest.modalities
            total = sum(map(reader.pages, found)) if sees and show_progress_bar else len(found)
            with self._ingest(total, "page" if sees else "file", show_progress_bar, on_commit) as ingest:
                report = ingest.add_files(found, reader)
                gone = ingest.gone(paths)
                if prune:
                    report += ingest.remove(id for ids in gone.values() for id in ids)
        if gone and not prune:
            are, them = ("is", "it") if len(gone) == 1 else ("are", "them")
            logger.warning(
                "%s %s no longer there; --prune (prune=True) removes what the index has of %s",
                number(len(gone), "file"),
                are,
                them,
            )
        return report

    def add_texts(
        self,
        texts: Sequence[str],
        ids: Sequence[str] | None = None,
        metadatas: Sequence[Mapping[str, Any]] | None = None,
        *,
        show_progress_bar: bool = False,
    ) -> list[str]:
        """Write ``texts`` and return their ids; by default an id is a hash of text and metadata."""
        documents = documents_of_texts(texts, ids, metadatas)
        names = [document.id for document in documents]
        # Equal texts with equal metadata are one document; an id given twice is an error.
        self.add(
            documents if ids is not None else list(dict(zip(names, documents, strict=True)).values()),
            show_progress_bar=show_progress_bar,
        )
        return names

    def add_embeddings(self, documents: Sequence[Document], representation: Representation) -> AddReport:
        """Write ``documents`` with vectors that the caller brings, replacing those of the same id.

        Raises:
            DimensionMismatch: the vectors are of another width than the index's.
            InvalidInput: as `add`, or a vector is not finite.
        """
        _check_given(documents, representation)
        self._check_vectors(representation)
        rows = []
        for document, tokens in zip(documents, representation.tokens, strict=True):
            key = content_key("vectors", self.manifest.config.codec, _bytes(tokens))
            settled = self._store.images.settled(document)
            rows.append(Row(settled, key, modality=settled.content(_ALL_MODALITIES).modality))
        replaced = 0
        with self._writing():
            for start in range(0, len(rows), _BATCH):
                replaced += self._store.commit(
                    rows[start : start + _BATCH], representation.slice(start, start + _BATCH)
                )
        return AddReport(added=len(rows) - replaced, replaced=replaced)

    def delete(self, ids: Sequence[str]) -> int:
        """Remove the documents with these ids and return how many there were."""
        if isinstance(ids, str):
            raise InvalidInput(f"ids must be a sequence of str, got the str {ids!r}")
        with self._writing():
            return self._store.delete(list(dict.fromkeys(ids)))

    def delete_source(self, path: str | Path) -> int:
        """Remove every document whose metadata ``source`` is ``path`` and return how many there were."""
        self._check_open()
        sources = list(dict.fromkeys([str(path), str(Path(path).resolve())]))
        return self.delete([document.id for document in self.documents({"source": {"$in": sources}})])

    def vacuum(self) -> int:
        """Remove token embeddings that no document names and return how many entries there were."""
        with self._writing():
            return self._store.vacuum()

    def set_weights(self, weights: tuple[float, float], weighting: Weighting | None = None) -> None:
        """Make these the index's ``weights`` (pooled, late) and, where given, its ``weighting``; see `IndexConfig`.

        Searches rank by them from now on, in other processes once they open the index.
        `smart_rag.evaluation.tuner.tune` finds the best for labelled queries.
        """
        values = check_weights(weights)
        if weighting is not None:
            check_choice("weighting", weighting, Weighting)
        with self._writing():
            manifest = Manifest.read(self.path)  # another process may have changed it since this one opened the index
            config = replace(manifest.config, weights=values, weighting=weighting or manifest.config.weighting)
            manifest = replace(manifest, config=config)
            manifest.write(self.path)
            self.manifest = manifest

    def verify(self, repair: bool = False) -> VerifyReport:
        """Read every entry back and return what was wrong; ``repair`` encodes the texts concerned again."""
        self._check_open()
        report = self._store.verify()
        broken = [*report.missing, *report.damaged]
        if repair and broken:
            with self._ingest(len(broken), "document", False, None) as ingest:
                ingest.repair(broken)
        return report

    # --- reading ----------------------------------------------------------------------------

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Return the documents with these ids, in this order; ids that are not there are left out."""
        self._check_open()
        rows = self._store.pooled.get(list(dict.fromkeys(ids)))
        return [rows[id].document for id in ids if id in rows]

    def has_image(self, found: Hit | Document) -> bool:
        """Return whether a hit or a document is to be shown as an image: not so a page that a model found by its text.

        That page can be had by `image_file` as well, but to draw it for every hit takes longer than a search.
        """
        return found.image is not None and (not isinstance(found.image, PdfPage) or "image" in self.manifest.modalities)

    def image_file(self, found: Hit | Document, max_pixels: int = DEFAULT_IMAGE_PIXELS) -> Path:
        """Return a file with the image of a hit or a document, for programs that take images by their path.

        It is the image's own, or of a page of a PDF a drawing of at most ``max_pixels`` in the index's folder,
        which stays there until `vacuum`.

        Raises:
            InvalidInput: ``found`` has no image.
            DocumentError: the image's file is gone or cannot be read.
        """
        self._check_open()
        check_count("max_pixels", max_pixels)
        if found.image is None:
            raise InvalidInput(
                f"{self.path}: the document {found.id!r} has no image; take those whose image is not None"
            )
        return self._store.images.file_of(found.image, max_pixels)

    def documents(self, where: Where | None = None) -> Iterator[Document]:
        """Yield the documents that ``where`` admits, by default all."""
        self._check_open()
        return (row.document for row in self._store.pooled.select(where))

    def count(self) -> int:
        """Return how many documents the index holds."""
        self._check_open()
        return self._store.pooled.count()

    def search(
        self,
        query: str | Content | Representation,
        top_k: int = DEFAULT_TOP_K,
        *,
        candidates: int = DEFAULT_CANDIDATES,
        first_stage: FirstStageName = "auto",
        where: Where | None = None,
        where_document: Where | None = None,
        weights: tuple[float, float] | None = None,
        weighting: Weighting | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> list[Hit]:
        """Return the ``top_k`` best documents for ``query``, best first; ties go by id.

        Args:
            query: a text, a `Content` such as an image where the model takes images, or the
                representation of one.
            candidates: how many documents are scored.
            first_stage: how they are chosen. ``"terms"``: half of them by pooled cosine, half by
                the rare tokens that they share with the query; ``"pooled"``: by pooled cosine
                alone; ``"exhaustive"``: every document is scored, as the paper does. ``"auto"``:
                all of a small index, else by terms.
            where, where_document: Chroma's filters on metadata and text.
            weights: of the pooled and the late score; by default the index's.
            weighting: what query tokens count by, ``"idf"`` or ``"none"``; by default the index's.
            stopwatch: takes the milliseconds of ``encode``, ``candidates``, ``gather``, ``score``.

        Raises:
            InvalidInput: an empty query, ``top_k`` or ``candidates`` below 1, or a filter that
                Chroma does not take.
            MissingTokens: a candidate's tokens are gone; `verify` repairs that.
        """
        queries = query if isinstance(query, Representation) else [query]
        return self.search_many(
            queries,
            top_k,
            candidates=candidates,
            first_stage=first_stage,
            where=where,
            where_document=where_document,
            weights=weights,
            weighting=weighting,
            stopwatch=stopwatch,
        )[0]

    def search_many(
        self,
        queries: Sequence[str | Content] | Representation,
        top_k: int = DEFAULT_TOP_K,
        *,
        candidates: int = DEFAULT_CANDIDATES,
        first_stage: FirstStageName = "auto",
        where: Where | None = None,
        where_document: Where | None = None,
        weights: tuple[float, float] | None = None,
        weighting: Weighting | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> list[list[Hit]]:
        """Return, for each of ``queries``, what `search` returns; an exhaustive scan is made once for all."""
        self._check_open()
        check_count("top_k", top_k)
        check_count("candidates", candidates)
        check_choice("first_stage", first_stage, FirstStageName)
        search = replace(
            self._search(top_k, weights, weighting),
            candidates=candidates,
            first_stage=first_stage,
            where=where,
            where_document=where_document,
            stopwatch=stopwatch or Stopwatch(),
        )
        if not len(queries):
            return []
        with search.stopwatch.measure("encode"):
            encoded = queries if isinstance(queries, Representation) else self.encode_queries(queries)
        self._check_vectors(encoded)
        found = zip(queries, search.hits(encoded), strict=True)
        return [self._explained(hits, query, search) for query, hits in found]

    def rerank(
        self,
        query: str | Content | Representation,
        hits: Sequence[Hit | str],
        top_k: int | None = None,
        *,
        weights: tuple[float, float] | None = None,
        weighting: Weighting | None = None,
    ) -> list[Hit]:
        """Return ``hits`` scored again for ``query``, best first, by default all of them; weights as in `search`.

        A text may stand for a hit: it is encoded, and its position among ``hits`` is its id.
        """
        self._check_open()
        if top_k is not None:
            check_count("top_k", top_k)
        search = self._search(top_k or 1, weights, weighting)
        encoded = query if isinstance(query, Representation) else self.encode_queries([query])
        if not hits:
            return []
        documents = as_documents(hits)
        vectors = self._vectors(documents, {hit.id for hit in hits if isinstance(hit, Hit)})
        token_weights = search.token_weights(encoded)
        ranked = rank(encoded, documents, vectors, search.weights, top_k, self._device, token_weights)
        return self._explained(ranked, query, search)

    def diversify(
        self,
        hits: Sequence[Hit],
        top_k: int = DEFAULT_TOP_K,
        *,
        mmr_lambda: float = 0.5,
        weights: tuple[float, float] | None = None,
    ) -> list[Hit]:
        """Return ``top_k`` of ``hits`` by maximal marginal relevance (Carbonell and Goldstein, 1998).

        Relevance is the score over the sum of the ``weights`` that it was made with, redundancy
        the highest pooled cosine with a hit chosen before. ``mmr_lambda`` 1 keeps the ranking,
        0 looks at redundancy alone. Scores stay, ranks are new.

        Raises:
            InvalidInput: ``mmr_lambda`` is not in [0, 1], or a hit is no longer in the index.
        """
        self._check_open()
        check_count("top_k", top_k)
        if not 0 <= mmr_lambda <= 1:
            raise InvalidInput(f"mmr_lambda must be between 0 and 1, got {mmr_lambda!r}")
        if not hits:
            return []
        found = self._store.pooled.embeddings([hit.id for hit in hits])
        gone = [hit.id for hit in hits if hit.id not in found]
        if gone:
            raise InvalidInput(f"{self.path}: the hit {gone[0]!r} is not in the index any more; search again")
        pooled = np.stack([found[hit.id] for hit in hits])
        relevance = np.asarray([hit.score for hit in hits], dtype=np.float32) / sum(
            check_weights(weights or self.manifest.weights)
        )
        chosen = scoring.marginal_relevance(relevance, scoring.pooled_similarity(pooled, pooled), top_k, mmr_lambda)
        return [hits[i].at(rank) for rank, i in enumerate(chosen, start=1)]

    def scores(
        self, queries: Representation, where: Where | None = None, *, weighting: Weighting | None = None
    ) -> Iterator[Scores]:
        """Yield the scores of every document that ``where`` admits, in blocks."""
        self._check_open()
        self._check_vectors(queries)
        yield from replace(self._search(1, None, weighting), where=where).scan(queries)

    def token_weights(self, query: Representation) -> NDArray[np.float32]:
        """Return what each token (n) of one query counts for in its late score: parts that add up to 1."""
        self._check_open()
        return scoring.shares(query.tokens.offsets, self._search(1, None, None).token_weights(query))

    def tokens(self, ids: Sequence[str]) -> TokenBatch:
        """Return the stored token embeddings of the documents with these ids, in this order.

        Raises:
            InvalidInput: an id that is not in the index.
        """
        self._check_open()
        rows = self._store.pooled.get(list(dict.fromkeys(ids)))
        absent = [id for id in ids if id not in rows]
        if absent:
            raise InvalidInput(f"{self.path}: no document {absent[0]!r} in the index ({len(absent)} ids are not)")
        return self._store.gather([rows[id].key for id in ids], ids).decode()

    def encode_documents(self, items: Sequence[Encodable]) -> Representation:
        """Return the representation of texts or images, and keep their token embeddings for an `add` that follows.

        For programs that want embeddings first and hand over documents later. The token embeddings may come as they
        are kept, coded. What is never added is removed by `vacuum`.
        """
        with self._writing():
            contents = [Content.of(item) for item in items]
            vectors = encode_for_store(self.encoder, [content.plain for content in contents], self._store.codec)
            self._check_vectors(vectors)
            self._store.prepare([self._key(content) for content in contents], vectors.tokens)
        return vectors

    def encode_queries(self, queries: Sequence[str | Content]) -> Representation:
        """Return the representation of ``queries``, by the index's encoder.

        Raises:
            InvalidInput: one of them is empty, or the index has no encoder.
        """
        if self._encoder is None and self.manifest.encoder is None:
            raise InvalidInput(
                f"{self.path}: this index has no encoder, its vectors are the caller's own; search it from Python, "
                "with a Representation as the query"
            )
        contents = contents_of_queries(queries, self.manifest.modalities)  # first, before a model is loaded
        return self.encoder.encode_query(contents)

    @property
    def modalities(self) -> frozenset[str]:
        """The kinds of content that the index's encoder takes, of ``"text"``, ``"image"``, ``"video"``."""
        return frozenset(self.manifest.modalities)

    @property
    def encoder(self) -> Encoder:
        """The encoder of the index, loaded when first asked for.

        Raises:
            InvalidInput: the index was made for vectors that the caller brings.
            IndexMismatch: it was made with an encoder that only its maker can bring, or the model has changed.
        """
        with self._mutex:
            if self._encoder is None:
                if self.manifest.encoder is None:
                    raise InvalidInput(
                        f"{self.path}: this index has no encoder, its vectors are the caller's own; add documents "
                        "with their vectors by add_embeddings"
                    )
                if "weights" not in self.manifest.encoder:
                    raise IndexMismatch(
                        f"{self.path}: the index was made with an encoder of your own "
                        f"({self.manifest.encoder.get('model')!r}), which cannot be loaded from its description; open "
                        "the index with encoder="
                    )
                encoder = SmartEncoder.from_description(self.manifest.encoder)
                self.manifest.check_encoder(self.path, encoder)
                self._encoder = encoder
            return self._encoder

    def info(self) -> IndexInfo:
        """Return what the index holds, its size on disk, and its manifest."""
        self._check_open()
        stats = self._store.tokens.stats()
        chroma = self.path / "chroma"
        pooled_bytes = (
            sum(file.stat().st_size for file in chroma.rglob("*") if file.is_file())
            if self.manifest.own_chroma
            else None
        )
        return IndexInfo(
            str(self.path), self.count(), stats.tokens, self._store.sidecar_bytes(), pooled_bytes, asdict(self.manifest)
        )

    def close(self) -> None:
        """Release files and locks. Closing twice does no harm; any other call after it raises `IndexClosed`."""
        with self._mutex:
            if not self._closed:
                self._closed = True
                self._store.close()
                self._lock.release()

    def __repr__(self) -> str:
        return f"SmartIndex({str(self.path)!r})"

    def __enter__(self) -> SmartIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside -----------------------------------------------------------------------------

    @contextmanager
    def _ingest(
        self, total: int | None, unit: str, show_progress_bar: bool, on_commit: OnCommit | None
    ) -> Iterator[Ingest]:
        from tqdm.auto import tqdm

        progress: tqdm[Any]
        device = getattr(self._encoder, "device", None)
        desc = "indexing" if device is None else f"indexing on {device}"
        with self._writing(), tqdm(total=total, desc=desc, unit=unit, disable=not show_progress_bar) as progress:
            yield Ingest(
                self._store,
                lambda: self.encoder,
                self._key,
                self.manifest.modalities,
                self._check_vectors,
                progress.update,
                on_commit,
            )

    def _vectors(self, documents: Sequence[Document], stored: set[str]) -> Representation:
        """Return the vectors of ``documents``: from disk where those in ``stored`` have this text, else encoded."""
        found = self._store.vectors([document for document in documents if document.id in stored])
        takes = self.manifest.modalities
        rest = [document.content(takes).plain for document in documents if document.id not in found]
        encoded = iter(self.encoder.encode_document(rest)) if rest else iter(())
        return Representation.concatenate([found.get(document.id) or next(encoded) for document in documents])

    def _explained(self, hits: Sequence[Hit], query: str | Content | Representation, search: Search) -> list[Hit]:
        """Return ``hits`` of ``search`` for ``query``, which know both from now on."""

        @cache
        def question() -> Question:
            if isinstance(query, Representation):
                raise InvalidInput(
                    "a query that was given as a Representation has neither words nor patches to explain; search with "
                    "the text or the Content that it was made of"
                )
            encoded = self.encode_queries([query])
            weights = scoring.shares(encoded.tokens.offsets, search.token_weights(encoded))
            content = contents_of_queries([query], self.manifest.modalities)[0]
            return Question.of(content, encoded.tokens[0], weights, self.encoder)

        def explain(hit: Hit) -> Explanation:
            self._check_open()
            asked = question()
            (document,) = as_documents([hit])
            # Pooled tokens stand for no place: the document is encoded again where the index keeps such.
            keeps_all = get_codec(self.manifest.config.codec).pool_factor == 1
            tokens = self._vectors([document], {hit.id} if keeps_all else set()).tokens[0]
            content = document.content(self.manifest.modalities).plain
            return asked.explanation(hit, content, tokens, search.weights, self.encoder)

        return [hit.explained_by(explain) for hit in hits]

    def _search(self, top_k: int, weights: tuple[float, float] | None, weighting: Weighting | None) -> Search:
        """Return a search by the given weights, or else by the index's."""
        config = self.manifest.config
        weighting = config.weighting if weighting is None else weighting
        check_choice("weighting", weighting, Weighting)
        return Search(
            store=self._store,
            device=self._device,
            top_k=top_k,
            weights=self.manifest.weights if weights is None else check_weights(weights),
            weighting=weighting,
        )

    @property
    def _device(self) -> str:
        return scoring_device(self._encoder)

    def _key(self, content: Content, file_digest: str | None = None) -> Key:
        fingerprint, name = self.manifest.fingerprint or "", self.manifest.config.codec
        return content_key(fingerprint, name, identity(content, file_digest))

    def _own_embeddings(self, documents: Sequence[Document], pooled: ArrayLike) -> Mapping[str, NDArray[np.float32]]:
        """Return ``pooled`` (n, dimension) by id, if it looks like the encoder's own: the first row is compared."""
        takes = self.manifest.modalities
        check_documents(documents, takes)
        if not documents:
            return {}
        given = Representation.from_embeddings(pooled)
        if len(given) != len(documents):
            raise InvalidInput(f"{len(documents)} documents with {len(given)} pooled embeddings")
        self._check_rows("pooled", given.pooled, self.manifest.dimension)
        own = self.encoder.encode_document([documents[0].content(takes).plain])
        cosine = float(scoring.pooled_similarity(own.pooled, given.pooled[:1])[0, 0])
        if cosine < _SAME_MODEL:
            raise IndexMismatch(
                f"{self.path}: the pooled embedding given for document {documents[0].id!r} has a cosine of "
                f"{cosine:.2f} with the one that the index's model makes of its text; use the model that the "
                "index was made with"
            )
        return dict(zip((document.id for document in documents), given.pooled, strict=True))

    def _check_vectors(self, vectors: Representation) -> None:
        tokens = vectors.tokens
        self._check_rows("pooled", vectors.pooled, self.manifest.dimension)
        if isinstance(tokens, TokenCodes) and isinstance(tokens.codec, RotatedCodec):  # which has no NaN
            self._check_width("token", tokens.dimension, self.manifest.token_dimension)
        else:
            self._check_rows("token", tokens.embeddings, self.manifest.token_dimension)

    def _check_width(self, what: str, width: int, dimension: int) -> None:
        if width != dimension:
            raise DimensionMismatch(
                f"{self.path}: {what} embeddings have {width} dimensions, the index has {dimension}; use the "
                "model that the index was made with"
            )

    def _check_rows(self, what: str, rows: FloatArray, dimension: int) -> None:
        self._check_width(what, rows.shape[1], dimension)
        if not np.isfinite(rows).all():
            raise InvalidInput(f"{what} embeddings hold NaN or infinite numbers; nothing was done with them")

    def _check_open(self) -> None:
        if self._closed:
            raise IndexClosed(f"{self.path}: the index is closed; open it again with SmartIndex.open")

    def _keep_locations(self) -> None:
        """Write down where the model is that the index was opened with, if the folder it was made with is gone."""
        if self._encoder is None:
            return
        manifest = Manifest.read(self.path)
        now = manifest.found_again(self._encoder)
        if now != manifest:
            now.write(self.path)
            self.manifest = now

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the index for writing: against other threads in the block, against other processes until closed."""
        with self._mutex:
            self._check_open()
            if not self._lock.is_locked:
                try:
                    self._lock.acquire()
                except Timeout:
                    raise IndexLocked(
                        f"{self.path}: another writer has the index open; close it there, or wait until it is done"
                    ) from None
                logger.debug("process %d writes to %s", os.getpid(), self.path)
                self._keep_locations()
            yield


def _store(path: Path, pooled: PooledIndex, token_codec: Codec) -> DocumentStore:
    tokens = TokenStore(path / "tokens", token_codec)
    return DocumentStore(pooled, tokens, TermStore(path / "terms"), ImageFolder(path / "images"))


def _check_given(documents: Sequence[Document], vectors: Representation) -> None:
    check_documents(documents, _ALL_MODALITIES)
    if len(documents) != len(vectors):
        raise InvalidInput(f"{len(documents)} documents with the vectors of {len(vectors)}")


def _bytes(tokens: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(tokens, dtype="<f4").tobytes()
