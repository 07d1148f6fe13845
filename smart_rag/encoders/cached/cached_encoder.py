"""`CachedEncoder`: encodes each document once. It is for applications that have a vector store of their own."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.config import DEFAULT_MODEL, IndexConfig
from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.representation import Representation
from smart_rag.embeddings.tokens import Codec, TokenBatch, TokenCodes
from smart_rag.encoders.cached.backfill import Backfill
from smart_rag.encoders.cached.foreign_hits import ForeignHits
from smart_rag.encoders.loading.model_options import with_full_paths
from smart_rag.encoders.pickling import check_pickles
from smart_rag.encoders.protocol import (
    Encoder,
    default_weights_of,
    device_of,
    encode_for_store,
    modalities_of,
    scale_of,
    token_counter,
    token_dimension_of,
    token_origins_of,
    token_spans_of,
    unread_by,
    warn_once,
)
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import CorruptStore, IndexMismatch, InvalidInput
from smart_rag.files.content import identity
from smart_rag.paths import absolute, model_location
from smart_rag.reports import BackfillReport
from smart_rag.scoring.relevance import Scale
from smart_rag.store.token_store import TokenStore, content_key
from smart_rag.types import Content, Document, Encodable, Key, Task, TokenOrigin

# Number of queries that are kept in memory. A retriever and a reranker both encode the same query.
_MAX_QUERIES = 128
# Number of documents that are encoded before they are written. An image can have a thousand tokens.
_BATCH_SIZE, _VISUAL_BATCH_SIZE = 256, 8
# With more documents, the best hit of any question has a higher score. After this growth, a warning is logged.
_MUCH = 1.5

logger = logging.getLogger(__name__)


class CachedEncoder:
    """A wrapper around another encoder. It keeps the embeddings of documents in a folder.

    If a document has the same content as an earlier one, its embeddings are read from the folder.

    >>> encoder = CachedEncoder("minilm", "tokens")                     # doctest: +SKIP
    >>> encoder.encode_document(["The cat sat on the mat."])            # doctest: +SKIP
    Representation(texts=1, dimension=384, tokens=7)

    Several models and several processes can share one folder. The encoder also keeps the last queries in memory.
    Without a folder, it does not keep embeddings of documents. The model is loaded and the folder is opened on first
    use. A pickle holds the name of the model, or your own encoder. It also holds the path of the folder and the
    arguments, but no embeddings. A copy shares the loaded encoder. Call `close` before a fork. If the folder is still
    open in the parent, the child gets `UseAfterFork` when it uses the folder. A deleted folder is made again.

    Args:
        encoder: an encoder, or the name or the folder of a model.
        path: the folder. It is created if it does not exist.
        codec: the codec of the token embeddings. Pooled embeddings are kept in float32.
        options: arguments of `SmartEncoder`. They are allowed only with the name or the folder of a model.

    Raises:
        InvalidInput: ``options`` are given although ``encoder`` is an encoder, or there is no such codec.
    """

    def __init__(
        self,
        encoder: Encoder | str | Path = DEFAULT_MODEL,
        path: str | Path | None = None,
        *,
        codec: str = IndexConfig().codec,
        **options: Any,
    ) -> None:
        if options and not isinstance(encoder, str | Path):
            raise InvalidInput(
                f"{', '.join(options)}: expected only with the name of a model, got a {type(encoder).__name__}; pass "
                "these to the encoder itself"
            )
        # Full paths, because the program may change its working directory before the first use.
        self._given = model_location(encoder) if isinstance(encoder, str | Path) else encoder
        self._options = options
        of_paths = (("adapter", absolute), ("base_model", model_location), ("model_options", with_full_paths))
        self._options |= {name: full(options[name]) for name, full in of_paths if options.get(name) is not None}
        self._codec = get_codec(codec).name
        self.path = None if path is None else absolute(path)
        self._start()

    def _start(self) -> None:
        self._mutex = threading.RLock()
        self._queries: OrderedDict[str, Representation] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        if not isinstance(self._given, str):
            check_pickles(self._given, "encoder", "make the CachedEncoder again in the other process")
        return self._settings()

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("_given", "_options", "_codec", "path")}

    def __copy__(self) -> CachedEncoder:
        copied = object.__new__(type(self))
        copied.__setstate__(self._settings())
        if "_encoder" in self.__dict__:
            copied.__dict__["_encoder"] = self._encoder
        return copied

    def __deepcopy__(self, memo: object) -> CachedEncoder:
        return self.__copy__()

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    @property
    def encoder(self) -> Encoder:
        """The wrapped encoder."""
        with self._mutex:
            return self._encoder

    @cached_property
    def _encoder(self) -> Encoder:
        return SmartEncoder(self._given, **self._options) if isinstance(self._given, str) else self._given

    @cached_property
    def _folder(self) -> _Stores | None:
        return None if self.path is None else _Stores(self.path, self._codec)

    @property
    def _stores(self) -> _Stores | None:
        with self._mutex:
            opened = self.__dict__.get("_folder")
            if opened is not None and not opened.is_same():
                self.close()  # the folder was deleted or replaced. The folder that is now there is opened
            return self._folder

    @property
    def dimension(self) -> int:
        return self.encoder.dimension

    @property
    def token_dimension(self) -> int:
        """The width of the token embeddings."""
        return token_dimension_of(self.encoder)

    @property
    def fingerprint(self) -> str:
        with self._mutex:
            return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return self._encoder.fingerprint

    @property
    def device(self) -> str:
        """The device of the model."""
        return device_of(self.encoder)

    @property
    def default_weights(self) -> tuple[float, float]:
        """The weights (pooled, late) that suit the wrapped encoder."""
        return default_weights_of(self.encoder)

    @property
    def modalities(self) -> frozenset[str]:
        """The kinds of content that the wrapped encoder reads, such as ``{"text", "image"}``."""
        return modalities_of(self.encoder)

    def describe(self) -> Mapping[str, Any]:
        return self.encoder.describe()

    def count_tokens(self, texts: str | Sequence[str]) -> list[int]:
        """Return the number of tokens of each text. If the encoder cannot count tokens, count words and warn."""
        return list(map(token_counter(self.encoder), [texts] if isinstance(texts, str) else texts))

    def token_spans(self, text: str) -> Sequence[tuple[int, int]] | None:
        """Return the first and last place of each token of ``text``. Return None if the encoder knows no places."""
        return token_spans_of(self.encoder, text)

    @property
    def unread(self) -> Callable[[Sequence[str]], list[bool]] | None:
        """Tells for each text whether the wrapped encoder cannot read its script. None if the encoder cannot tell."""
        return unread_by(self.encoder)

    def token_origins(self, item: Encodable, task: Task = "document") -> list[TokenOrigin]:
        """Return the origin of each token embedding of ``item``.

        Raises:
            EncoderError: the wrapped encoder does not know the origins.
        """
        return token_origins_of(self.encoder, item, task)

    def encode_query(self, queries: Sequence[Encodable]) -> Representation:
        """Return the representation of ``queries``, in their order. The result for a single query is kept."""
        if len(queries) != 1:
            return self.encoder.encode_query(queries)
        name = identity(Content.of(queries[0]))
        with self._mutex:
            known = self._queries.get(name)
        if known is None:
            known = self.encoder.encode_query(queries)
            known.pooled.setflags(write=False)  # all callers share this array
            with self._mutex:
                self._queries[name] = known
                while len(self._queries) > _MAX_QUERIES:
                    self._queries.popitem(last=False)
        return known

    def encode_document(
        self, documents: Sequence[Encodable], *, codec: str | None = None, show_progress_bar: bool = False
    ) -> Representation:
        """Return the representation of ``documents``, in their order.

        Documents that are not yet in the folder are encoded.

        An image or a video is recognised by the content of its file, not by its path. With a folder, token embeddings
        are coded by the codec of the folder, and ``codec`` is not used. Without a folder, ``codec`` is passed to the
        wrapped encoder. ``show_progress_bar`` shows how many documents were encoded.

        Raises:
            CorruptStore: an entry of the folder cannot be read back.
            DocumentError: the file of an image or a video cannot be read.
            InvalidInput: there is no such codec, or the codec merges tokens, which only a store can do.
        """
        contents = _contents([documents] if isinstance(documents, str) else documents)
        coded = None if codec is None else get_codec(codec, pooling=False)
        items = [content.plain for content in contents]
        stores = self._stores
        if stores is None and (not show_progress_bar or not items):
            return self._encode(items, coded)
        if stores is None:
            return Representation.concatenate([self._encode(part, coded) for part in _parts(items, show_progress_bar)])
        if not items:
            none = np.zeros((0, self.dimension), dtype=np.float32)
            no_tokens = np.zeros((0, self.token_dimension), dtype=np.float32)
            return Representation(none, TokenBatch(no_tokens, np.zeros(1, dtype=np.int64)))
        keys = self._keys(contents)
        new = list({keys[i]: items[i] for i in stores.missing(keys)}.items())
        keys_of_new = iter([key for key, _ in new])
        for part in _parts([item for _, item in new], show_progress_bar):
            self._put(list(islice(keys_of_new, len(part))), part)
        # New entries are read from the store, too. The codec rounds, and a text must always get the same score.
        return stores.gather(keys, [str(item)[:80] for item in items])

    def _encode(self, items: Sequence[Encodable], codec: Codec | None) -> Representation:
        return self.encoder.encode_document(items) if codec is None else encode_for_store(self.encoder, items, codec)

    def _put(self, keys: Sequence[Key], items: Sequence[Encodable]) -> None:
        """Encode ``items``, and write them to the folder under ``keys``."""
        vectors = encode_for_store(self.encoder, items, get_codec(self._codec))
        self._opened().put(keys, vectors)

    def add(
        self,
        documents: Iterable[Encodable | Document],
        *,
        total: int | None = None,
        calibrate: bool = False,
        show_progress_bar: bool = False,
    ) -> BackfillReport:
        """Encode ``documents`` and write them to the folder, so that later calls find them there.

        Call this method before the first queries, with the documents of your own store. Documents that are already in
        the folder are skipped. Documents without content are left out, and a warning names them. Each batch is written
        as soon as it is encoded, so you can repeat an interrupted call. An iterator of any length is read in bounded
        memory.

        Args:
            documents: the texts, images or documents that `encode_document` or `smart_rag.rerank` will get. The id of a
                document is only for messages.
            total: the number of documents, if ``documents`` has no length.
            calibrate: find the scale of `smart_rag.Hit.relevance` for hits of `smart_rag.rerank`, and write it to the
                folder. ``documents`` should be all the documents that your queries search. They are scored for a few
                hundred questions that they do not answer. This takes seconds.
            show_progress_bar: show a progress bar. Without it, the progress is logged every ten seconds.

        Raises:
            InvalidInput: this encoder has no folder, or an item is neither a document nor a content.
        """
        self._opened()
        asked: dict[Key, None] = {}  # keys of all documents, in their order

        def missing(keys: Sequence[Key]) -> list[int]:
            if calibrate:
                asked.update(dict.fromkeys(keys))
            return self._opened().missing(keys)

        backfill = Backfill(self.modalities, lambda content: self._keys([content])[0], missing, self._put)
        report = backfill.add(documents, total, show_progress_bar)
        if calibrate:
            self._calibrate(list(asked))
        return report

    def _calibrate(self, keys: Sequence[Key]) -> None:
        """Score the documents under ``keys`` for the foreign questions. Keys without an entry are left out."""
        stores = self._opened()
        absent = set(stores.missing(keys))
        kept = [key for i, key in enumerate(keys) if i not in absent]
        if not kept:
            logger.warning("%s: there are no documents, so the relevance of hits stays unknown", self.path)
            return
        found = ForeignHits.find(
            self.encoder.encode_query,
            kept,
            len(stores.tokens),
            stores.pooled_of,
            stores.vectors_of,
            self.default_weights,
            self.unread,
        )
        found.write(self._foreign_hits_file(stores.path))

    def relevance_scale(self, weights: tuple[float, float]) -> Scale | None:
        """Return the scale of relevance for scores with these ``weights``.

        If `add` has not written a scale, return the scale of the wrapped encoder. If that encoder has no scale either,
        return None.
        """
        found = None if self.path is None else ForeignHits.read(self._foreign_hits_file(self.path))
        if found is None:
            return scale_of(self.encoder, weights)
        entries = len(self._opened().tokens)
        if entries > _MUCH * found.entries:
            warn_once(
                f"{self.path} has grown from {found.entries:,} to {entries:,} entries since the relevance of hits was "
                "calibrated; calibrate again"
            )
        return found.scale(weights)

    def _foreign_hits_file(self, folder: Path) -> Path:
        return folder / "relevance" / f"{content_key(self.fingerprint, self._codec, '').hex()}.json"

    def _opened(self) -> _Stores:
        stores = self._stores
        if stores is None:
            raise InvalidInput("this CachedEncoder keeps no documents; give it a folder: CachedEncoder(encoder, path)")
        return stores

    def vacuum(self, documents: Iterable[Encodable]) -> int:
        """Keep only the entries that this model made for ``documents``.

        Remove all other entries, even those of other models, and return their number.
        """
        stores = self._stores
        return 0 if stores is None else stores.vacuum(set(self._keys(_contents(documents))))

    def close(self) -> None:
        """Close the folder's files. The next use opens them again."""
        with self._mutex:
            stores = self.__dict__.pop("_folder", None)
        if stores is not None:
            stores.close()

    def _keys(self, contents: Iterable[Content]) -> list[Key]:
        fingerprint = self.fingerprint
        return [content_key(fingerprint, self._codec, identity(content)) for content in contents]


def _contents(documents: Iterable[Encodable]) -> list[Content]:
    contents = []
    for i, document in enumerate(documents):
        try:
            contents.append(Content.of(document))
        except InvalidInput as error:
            raise InvalidInput(f"text {i}: {error}") from None
    return contents


def _parts(items: Sequence[Encodable], show_progress_bar: bool) -> Iterator[Sequence[Encodable]]:
    """Yield ``items`` in parts. Each part fits into memory together with its token embeddings."""
    from tqdm.auto import tqdm

    size = _BATCH_SIZE if all(isinstance(item, str) for item in items) else _VISUAL_BATCH_SIZE
    with tqdm(total=len(items), desc="encoding", unit="item", disable=not show_progress_bar) as progress:
        for start in range(0, len(items), size):
            part = items[start : start + size]
            yield part
            progress.update(len(part))


class _Stores:
    """A `TokenStore` for token embeddings and a `TokenStore` for pooled embeddings, with the same keys."""

    def __init__(self, path: Path, codec_name: str) -> None:
        self.path = path
        try:
            self.tokens = TokenStore(path / "tokens", get_codec(codec_name))
            # A pooled embedding is stored like a text with one token. It is the model's own vector, not normalised.
            self.pooled = TokenStore(path / "vectors", get_codec("float32"))
        except (CorruptStore, IndexMismatch) as error:
            raise type(error)(f"{error}, or delete {path}; it is filled again as texts are encoded") from error

    def is_same(self) -> bool:
        """Return whether the path still leads to the folder that was opened."""
        return self.tokens.place.is_same() and self.pooled.place.is_same()

    def missing(self, keys: Sequence[Key]) -> list[int]:
        """Return the positions of the keys whose token or pooled embeddings are not stored."""
        return sorted({*self.tokens.missing(keys), *self.pooled.missing(keys)})

    def put(self, keys: Sequence[Key], vectors: Representation) -> None:
        self.tokens.put(keys, vectors.tokens)
        pooled = vectors.pooled if vectors.norms is None else vectors.pooled * vectors.norms[:, None]
        self.pooled.put(keys, TokenBatch(pooled, np.arange(len(keys) + 1)))

    def gather(self, keys: Sequence[Key], names: Sequence[str]) -> Representation:
        try:
            pooled, norms = _normalised(self.pooled.gather(keys, names))
            return Representation(pooled, self.tokens.gather(keys, names), norms)
        except CorruptStore as error:
            raise CorruptStore(f"{error}; delete {self.path}, it is filled again as texts are encoded") from error

    def pooled_of(self, keys: Sequence[Key]) -> NDArray[np.float32]:
        return _normalised(self.pooled.gather(keys))[0]

    def vectors_of(self, keys: Sequence[Key]) -> Representation:
        return self.gather(keys, [key.hex() for key in keys])

    def vacuum(self, live: set[Key]) -> int:
        self.pooled.vacuum(live)
        return self.tokens.vacuum(live)

    def close(self) -> None:
        self.tokens.close()
        self.pooled.close()


def _normalised(vectors: TokenCodes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return ``vectors`` as unit vectors, and the norms of ``vectors``."""
    pooled = np.array(vectors.embeddings, dtype=np.float32)
    norms: NDArray[np.float32] = np.linalg.norm(pooled, axis=1)
    pooled /= np.where(norms, norms, 1)[:, None]
    return pooled, norms
