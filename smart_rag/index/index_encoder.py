"""`IndexEncoder`: the encoder of one index, and the checks of its vectors."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from smart_rag.embeddings.codec import RotatedCodec, get_codec
from smart_rag.embeddings.representation import Representation
from smart_rag.embeddings.tokens import FloatArray, TokenCodes
from smart_rag.encoders.profiles import GENERAL
from smart_rag.encoders.protocol import MULTILINGUAL, Encoder, device_of, encode_for_store, model_name, unread_by
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import DimensionMismatch, IndexMismatch, InvalidInput
from smart_rag.files.content import identity
from smart_rag.index.manifest import Manifest
from smart_rag.index.queries import checked_queries
from smart_rag.index.search import scoring_device
from smart_rag.index.trust import check_model
from smart_rag.paths import model_location
from smart_rag.scoring.maxsim import pooled_similarity
from smart_rag.store.token_store import content_key
from smart_rag.types import Content, Document, Key
from smart_rag.wording import number

logger = logging.getLogger(__name__)

# If two devices or two precisions give pooled embeddings of the same text, their cosine is at least this.
_SAME_MODEL = 0.98
# Maximum number of bytes of the vectors that `encode_ahead` keeps.
_BYTES_AHEAD = 1 << 30


def encoder_named(path: Path, model: str | Path) -> SmartEncoder:
    """Return the encoder of the ``model`` that the caller has named for the index at ``path``.

    If it is the index's model, it is used as a model of the family that the manifest names. If the manifest names no
    family, this is so for every model, because a later release may recognise one.
    """
    described = Manifest.read(path).encoder or {}
    profile = described.get("profile")
    keeps = profile == GENERAL.name or described.get("model") == model_location(model)
    return SmartEncoder(model, profile=profile if keeps and isinstance(profile, str) else None)


class IndexEncoder:
    """The encoder of the index at ``path``.

    If no encoder is given, the encoder that the manifest describes is loaded when it is first needed. The vectors that
    the encoder makes are checked against the manifest.

    Args:
        path: the folder of the index, for messages.
        manifest: the settings and the model that the index was made with.
        encoder: an encoder that fits the manifest. With None, the encoder that the manifest describes is loaded.
        bytes_ahead: maximum size of the vectors that `encode_ahead` keeps.
    """

    def __init__(
        self, path: Path, manifest: Manifest, encoder: Encoder | None, *, bytes_ahead: int = _BYTES_AHEAD
    ) -> None:
        self.path = path
        self.given = encoder
        self.loaded = encoder
        self._manifest = manifest
        self._codec = get_codec(manifest.config.codec)
        self._mutex = threading.RLock()
        self._encoding = threading.Lock()
        self._ahead: dict[Key, Representation] = {}
        self._bytes_ahead = bytes_ahead
        self._texts = 0  # of the rows since the last `warn_of_unread_texts`
        self._unread: set[Key] = set()

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the model; see `Manifest`."""
        return self._manifest.fingerprint

    @property
    def exists(self) -> bool:
        """Whether the index has an encoder. If not, the caller brings the vectors."""
        return self.loaded is not None or self._manifest.encoder is not None

    @property
    def modalities(self) -> tuple[str, ...]:
        """The kinds of content that the encoder reads: some of ``"text"``, ``"image"``, ``"video"``."""
        return tuple(self._manifest.modalities)

    @property
    def device(self) -> str:
        """The device to score on: the encoder's GPU if the encoder is loaded and uses one, otherwise the CPU."""
        return scoring_device(device_of(self.loaded))

    def load(self) -> Encoder:
        """Return the encoder.

        Raises:
            InvalidInput: the index was made for vectors that the caller brings.
            NotTrusted: the user has never named the model of the index on this machine, or the model runs its own
                code.
            IndexMismatch: the manifest does not say how to load the encoder, or the model has changed.
        """
        with self._mutex:
            if self.loaded is None:
                self.loaded = self._from_manifest()
            return self.loaded

    def _from_manifest(self) -> Encoder:
        described = self._manifest.encoder
        if described is None:
            raise InvalidInput(
                f"{self.path}: this index has no encoder, its vectors are the caller's own; add documents "
                "with their vectors by add_embeddings"
            )
        if "weights" not in described:
            raise IndexMismatch(
                f"{self.path}: the index was made with an encoder of your own ({described.get('model')!r}), which "
                "cannot be loaded from its description; open the index with encoder="
            )
        check_model(self.path, described)
        try:
            encoder = SmartEncoder.from_description(described)
        except (AttributeError, KeyError, TypeError) as error:
            raise IndexMismatch(f"{self.path}: the description of the model in the manifest is damaged") from error
        self._manifest.check_encoder(self.path, encoder)
        return encoder

    def key(self, content: Content, file_digest: str | None = None) -> Key:
        """Return the storage key of ``content``. ``file_digest`` is the digest of the content's file, if known."""
        fingerprint, codec = self._manifest.fingerprint or "", self._manifest.config.codec
        return content_key(fingerprint, codec, identity(content, file_digest))

    def encode_queries(self, queries: Sequence[str | Content]) -> Representation:
        """Return the representation of ``queries``, in their order.

        Raises:
            InvalidInput: a query is empty, the encoder cannot read it, or the index has no encoder.
        """
        if not self.exists:
            raise InvalidInput(
                f"{self.path}: this index has no encoder, its vectors are the caller's own; search it from Python, "
                "with a Representation as the query"
            )
        contents = checked_queries(queries, self.modalities)  # before a model is loaded
        vectors = self.load().encode_query(contents)
        self.check(vectors)
        return vectors

    def encode_documents(self, contents: Sequence[Content]) -> Representation:
        """Return the representation of ``contents`` for the store, in their order.

        If the encoder can turn tokens into codes, it does so. Threads take turns, because only one can use the
        tokenizer.
        """
        encoder = self.load()
        with self._encoding:
            vectors = encode_for_store(encoder, [content.plain for content in contents], self._codec)
        self.check(vectors)
        return vectors

    def encode_exactly(self, contents: Sequence[Content]) -> Representation:
        """Return the representation of ``contents``. Its token embeddings are numbers from the encoder, not codes."""
        encoder = self.load()
        with self._encoding:
            vectors = encoder.encode_document([content.plain for content in contents])
        self.check(vectors)
        return vectors

    def encode_ahead(self, contents: Sequence[Content]) -> Representation:
        """Return the representation of ``contents``, and keep it until `encode_rows` needs it.

        The memory for kept vectors is limited. Vectors that do not fit are not kept, and are computed again when they
        are needed.
        """
        keys = list(map(self.key, contents))
        vectors = self.encode_documents(contents)
        with self._mutex:
            # These are copies, because a slice would keep the memory of the whole batch.
            self._ahead.update((key, vectors.take([i])) for i, key in enumerate(keys))
            self._forget_oldest()
        return vectors

    def forget(self, keys: Iterable[Key] | None = None) -> None:
        """Forget the vectors that `encode_ahead` keeps under ``keys``. By default, forget all of them."""
        with self._mutex:
            for key in list(self._ahead if keys is None else keys):
                self._ahead.pop(key, None)

    def encode_rows(self, contents: Mapping[Key, Content]) -> Representation:
        """Return the representation of ``contents`` in their order. Vectors that `encode_ahead` keeps are used."""
        self._count_unread({key: content.text for key, content in contents.items() if content.text})
        with self._mutex:
            known = {key: self._ahead.pop(key) for key in contents if key in self._ahead}
        new = [key for key in contents if key not in known]
        if not known:
            return self.encode_documents(list(contents.values()))
        if new:
            known.update(zip(new, self.encode_documents([contents[key] for key in new]), strict=True))
        return Representation.concatenate([known[key] for key in contents])

    def could_read(self, key: Key) -> bool:
        """Return False if the text under ``key`` was encoded in this call, and the model cannot read it."""
        return key not in self._unread

    def _count_unread(self, texts: Mapping[Key, str]) -> None:
        unread = unread_by(self.load())
        self._texts += len(texts)
        if unread is not None:
            told = unread(list(texts.values()))
            self._unread.update(key for key, is_unread in zip(texts, told, strict=True) if is_unread)

    def _forget_oldest(self) -> None:
        forgotten = 0
        total = sum(map(_size, self._ahead.values()))
        while total > self._bytes_ahead:
            total -= _size(self._ahead.pop(next(iter(self._ahead))))
            forgotten += 1
        if forgotten:
            logger.warning(
                "the vectors of %s did not fit into memory until they were added, and are computed again; add fewer "
                "documents at a time",
                number(forgotten, "document"),
            )

    def warn_of_unread_texts(self) -> None:
        """Warn if the model could not read texts of the rows that were encoded since the last call, and count them."""
        texts, unread = self._texts, len(self._unread)
        self._texts, self._unread = 0, set()
        if unread:
            logger.warning(
                "%s cannot read %s of %s, because its tokenizer does not know the script, or no blanks part the words; "
                "searches will hardly find them by what they say; %s",
                *(model_name(self.load()), f"{unread:,}", number(texts, "new text"), MULTILINGUAL),
            )

    def check(self, vectors: Representation) -> None:
        """Check that ``vectors`` can be stored in the index.

        Raises:
            DimensionMismatch: the vectors are wider or narrower than those of the index.
            InvalidInput: a number is NaN or infinite.
        """
        tokens = vectors.tokens
        self._check_rows("pooled", vectors.pooled, self._manifest.dimension)
        if isinstance(tokens, TokenCodes) and isinstance(tokens.codec, RotatedCodec):  # such codes cannot be NaN
            self._check_width("token", tokens.dimension, self._manifest.token_dimension)
        else:
            self._check_rows("token", tokens.embeddings, self._manifest.token_dimension)

    def check_same_model(self, document: Document, pooled: FloatArray) -> None:
        """Raise `IndexMismatch` unless ``pooled`` (dimension) looks like this encoder's embedding of ``document``."""
        self._check_rows("pooled", pooled[None], self._manifest.dimension)
        content = document.content(self.modalities)
        known = self._ahead.get(self.key(content)) or self.encode_ahead([content])
        cosine = float(pooled_similarity(known.pooled, pooled[None])[0, 0])
        if cosine < _SAME_MODEL:
            raise IndexMismatch(
                f"{self.path}: the pooled embedding given for document {document.id!r} has a cosine of "
                f"{cosine:.2f} with the one that the index's model makes of its text; use the model that the "
                "index was made with"
            )

    def _check_width(self, what: str, width: int, dimension: int) -> None:
        if width != dimension:
            raise DimensionMismatch(
                f"{self.path}: {what} embeddings have {width} dimensions, the index has {dimension}; use the "
                "model that the index was made with"
            )

    def _check_rows(self, what: str, rows: FloatArray, dimension: int) -> None:
        self._check_width(what, rows.shape[1], dimension)
        if not np.isfinite(rows).all():
            raise InvalidInput(f"{what} embeddings contain NaN or infinite numbers; nothing was done with them")


def _size(vectors: Representation) -> int:
    tokens = vectors.tokens
    rows = tokens.codes if isinstance(tokens, TokenCodes) else tokens.embeddings
    return int(vectors.pooled.nbytes + rows.nbytes)
