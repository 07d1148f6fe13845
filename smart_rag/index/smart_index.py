"""`SmartIndex`: an index in a folder, and its search. This module calls the other modules of this folder."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial, wraps
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from numpy.typing import ArrayLike

from smart_rag.config import (
    DEFAULT_CANDIDATES,
    DEFAULT_IMAGE_PIXELS,
    DEFAULT_MODEL,
    DEFAULT_TOP_K,
    Count,
    FirstStageName,
    IndexConfig,
    Number,
    Weighting,
    Weights,
    check_choice,
    check_count,
    check_fraction,
    check_weights,
)
from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.representation import Representation
from smart_rag.embeddings.tokens import TokenBatch
from smart_rag.encoders.pickling import check_pickles
from smart_rag.encoders.protocol import (
    Encoder,
    token_counter,
    token_spans_of,
)
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import IndexExists, IndexLocked, IndexNotFound, InvalidInput
from smart_rag.files.finder import SAME_FILE, find, is_asked
from smart_rag.files.reader import Reader, source_of, with_ocr
from smart_rag.index import folder
from smart_rag.index.explain.explainer import Explainer, vectors_of
from smart_rag.index.folder import check_free
from smart_rag.index.hits.selection import Rule
from smart_rag.index.index_encoder import IndexEncoder, encoder_named
from smart_rag.index.manifest import FILE_NAME, FORMAT_VERSION, Manifest
from smart_rag.index.queries import as_documents, marked, with_full_paths
from smart_rag.index.relevance import Calibration, checked_scores, relevant_hits
from smart_rag.index.search import Scores, Search, diversify, rank
from smart_rag.index.session import Session
from smart_rag.index.stopwatch import Stopwatch
from smart_rag.index.trust import check_links
from smart_rag.index.upkeep.documents import copy_documents, encode_documents, loses_nothing
from smart_rag.index.upkeep.rebuild import rebuild
from smart_rag.index.upkeep.rewrite import Rewrite, remove_old
from smart_rag.index.upkeep.snapshot import snapshot
from smart_rag.index.writing.documents import checked_documents, documents_of_texts
from smart_rag.index.writing.duplicates import Duplicates
from smart_rag.index.writing.file_ingest import FileIngest
from smart_rag.index.writing.indexed_files import ids_below, indexed_files, is_below, is_gone, is_missing
from smart_rag.index.writing.ingest import Ingest, OnCommit
from smart_rag.index.writing.moves import Moves
from smart_rag.paths import absolute, bytes_below, shown
from smart_rag.progress import Progress
from smart_rag.reports import AddReport, IndexedFile
from smart_rag.scoring.relevance import Scale
from smart_rag.store.chroma.log import shorten_log
from smart_rag.store.document_store import DocumentStore
from smart_rag.store.place import Place
from smart_rag.store.row import VECTORS, Row
from smart_rag.store.token_store import keys_of_vectors
from smart_rag.store.where import Where
from smart_rag.threads import in_reader_thread, in_writer_thread
from smart_rag.types import (
    Content,
    Document,
    Encodable,
    Hit,
    IndexInfo,
    PdfPage,
    VerifyReport,
    with_explainer,
)
from smart_rag.values import is_unicode
from smart_rag.wording import number

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

logger = logging.getLogger(__name__)

# Number of documents in one commit if the caller brings the vectors. With 128, Chroma needs a fifth more time for each.
_BATCH = 512
# A warning names at most this number of files.
_MOST_NAMES = 5
# Rounds of a repair: what replaces a damaged entry may take an entry of another document with it.
_REPAIRS = 3
# If the caller brings the vectors, the modalities are unknown.
_ALL_MODALITIES = ("text", "image", "video")
_COLLECTION = "smart_rag"
# A scheme of more than one letter, because ``C:`` is a drive of Windows.
_ADDRESS = re.compile("(?!file:)[A-Za-z][A-Za-z0-9+.-]+:")

P = ParamSpec("P")
R = TypeVar("R")


def _following(method: Callable[Concatenate[SmartIndex, P], R]) -> Callable[Concatenate[SmartIndex, P], R]:
    """Decorate a method that reads. If the index is written anew meanwhile, the method is called again.

    Stores that are closed and removed in the middle of a call can raise any error.
    """

    @wraps(method)
    def call(self: SmartIndex, /, *arguments: P.args, **options: P.kwargs) -> R:
        while True:
            store = self._store
            try:
                return method(self, *arguments, **options)
            except Exception:
                self._check_open()  # opens the new stores, if there are any
                if self._store is store:
                    raise

    return call


class SmartIndex:
    """An index in one folder. The folder can be moved, copied and opened elsewhere.

    >>> with SmartIndex.open_or_create("my.index", "minilm") as index:    # doctest: +SKIP
    ...     index.add_texts(["The cat sat on the mat.", "Dogs bark at night."])
    ...     index.search("Which animal barks?", top_k=1)[0].text
    'Dogs bark at night.'

    To get one, use `open_or_create`, `create`, `open` or `from_embeddings`. Any number of processes may search. Only
    one process at a time may write. This process keeps the right to write from its first write until it closes the
    index. Threads may share an index.

    If the folder is deleted, moved or replaced while an index is open, all methods except `close` raise
    `IndexNotFound`.

    If a process was forked after an index was opened, it cannot use or open any index. It gets `UseAfterFork` if it
    tries. Start processes with ``multiprocessing.get_context("spawn")``, or fork before you open an index.

    A pickle holds the path of the folder. It also holds the encoder and the ``sources`` that the caller gave. When the
    pickle is read, the index is opened, even if it was closed before. A copy of the object also opens the index, and
    shares the encoder.
    """

    def __init__(self, path: Path, manifest: Manifest, store: DocumentStore, encoder: Encoder | None) -> None:
        self.path = path
        self.manifest = manifest
        self._store = store
        self._encoder = IndexEncoder(path, manifest, encoder)
        self._session = Session(store.place, manifest.id, self._before_first_write, self._find_again)
        self._calibration = Calibration(self._encoder, manifest.relevance)

    # --- create and open --------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path,
        encoder: Encoder | str | Path | None = DEFAULT_MODEL,
        *,
        dimension: int | None = None,
        token_dimension: int | None = None,
        config: IndexConfig | None = None,
        client: ClientAPI | None = None,
        collection: str = _COLLECTION,
    ) -> SmartIndex:
        """Return a new, empty index in the folder ``path``.

        Args:
            path: a folder that does not exist or is empty.
            encoder: an encoder, or the name or the folder of a model. Use None if you bring the vectors yourself
                (`add_embeddings`).
            dimension: the width of the caller's pooled embeddings.
            token_dimension: the width of the caller's token embeddings. By default, it is ``dimension``.
            config: the settings of the index, such as ``IndexConfig(codec="compact")``.
            client: a Chroma client that stores the pooled embeddings, such as ``chromadb.HttpClient()``. By default,
                they are stored in the folder.
            collection: the name of the collection in Chroma.

        Raises:
            IndexExists: the folder is not empty.
            InvalidInput: a setting cannot be used.
            ModelNotFound: the model cannot be loaded.
        """
        path = absolute(path)
        check_free(path)
        get_codec((config or IndexConfig()).codec)  # a check before a model is loaded and a folder is made
        if isinstance(encoder, str | Path):
            encoder = SmartEncoder(encoder)
        manifest = Manifest.new(
            encoder,
            config or IndexConfig(),
            dimension=dimension,
            token_dimension=token_dimension,
            collection=collection,
            own_chroma=client is None,
        )
        return cls(path, manifest, folder.create(path, manifest, client), encoder)

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Return whether the folder ``path`` holds an index."""
        return (absolute(path) / FILE_NAME).is_file()

    @classmethod
    def open(
        cls,
        path: str | Path,
        encoder: Encoder | str | Path | None = None,
        *,
        client: ClientAPI | None = None,
        sources: Iterable[str | Path] = (),
    ) -> SmartIndex:
        """Return the index in the folder ``path``.

        Without ``encoder``, the encoder that the manifest describes is loaded when it is first needed. You must have
        used this encoder's model on this machine before (see ``docs/security.md``).

        Args:
            path: the folder of the index.
            encoder: an encoder that fits the index, or the name or the folder of its model.
            client: the Chroma client of the index, if it was created with one.
            sources: files and folders whose images and videos the index may read. Files that were added to the index
                on this machine need not be named.

        Raises:
            NotTrusted: there is a link in the folder.
            IndexNotFound: there is no index in the folder.
            IndexMismatch: the index was made with a different model than ``encoder``, or has another format. Or another
                copy of it has written to ``client``.
        """
        path = absolute(path)
        if path.is_dir():
            check_links(path)
        folder.check_client(path, Manifest.read(path), client)  # before a model is loaded
        if isinstance(encoder, str | Path):
            encoder = encoder_named(path, encoder)
        manifest, store = folder.open_current_stores(path, encoder, client, sources)
        return cls(path, manifest, store, encoder)

    @classmethod
    def open_or_create(
        cls,
        path: str | Path,
        encoder: Encoder | str | Path | None = None,
        *,
        dimension: int | None = None,
        token_dimension: int | None = None,
        config: IndexConfig | None = None,
        client: ClientAPI | None = None,
        collection: str | None = None,
        sources: Iterable[str | Path] = (),
    ) -> SmartIndex:
        """Return the index in the folder ``path``. If there is none, create one. So you can repeat the call.

        The arguments are those of `create`, and ``sources`` is that of `open`. If there is an index, each argument of
        `create` that you give must agree with it. Only ``weights`` and ``weighting`` of ``config`` may differ, because
        `set_weights` changes them. The index then keeps its own weights and weighting. Without ``encoder``, an existing
        index uses its own encoder, and a new index uses the default model. If ``dimension`` is given, a new index has
        no encoder.

        Raises:
            IndexMismatch: the index was made with another model or with other settings. The index does not change.
            IndexExists: the folder is not empty and holds no index.
            InvalidInput, ModelNotFound: as in `create`.
        """
        path = absolute(path)
        if not cls.exists(path):
            try:
                return cls.create(
                    path,
                    DEFAULT_MODEL if encoder is None and dimension is None else encoder,
                    dimension=dimension,
                    token_dimension=token_dimension,
                    config=config,
                    client=client,
                    collection=_COLLECTION if collection is None else collection,
                )
            except IndexExists:
                folder.wait_until_made(path)  # another thread or process was faster and is making the index
        asked = {"dimension": dimension, "token_dimension": token_dimension, "collection": collection}
        Manifest.read(path).check_settings(path, config, asked)  # before a model is loaded
        return cls.open(path, encoder, client=client, sources=sources)

    @classmethod
    def rebuild(
        cls,
        path: str | Path,
        encoder: Encoder | str | Path | None = None,
        *,
        sources: Iterable[str | Path] = (),
        show_progress_bar: bool = False,
    ) -> None:
        """Repair the index in the folder ``path`` if `open` raises `CorruptStore`.

        All documents are encoded again, and all files are written anew. For this, only the texts and metadata are read.
        The arguments are those of `open`. If the call is interrupted, the next call goes on where it stopped.

        Raises:
            CorruptStore: texts or metadata are damaged, or the vectors were the caller's own.
            IndexLocked: another process writes to the index.
        """
        if isinstance(encoder, str | Path):
            encoder = encoder_named(absolute(path), encoder)
        with Progress(None, "writing", "document", show_progress_bar) as progress:
            rebuild(absolute(path), encoder, sources, progress.update)

    @classmethod
    def from_embeddings(
        cls, path: str | Path, documents: Sequence[Document], representation: Representation, **options: Any
    ) -> SmartIndex:
        """Return a new index of ``documents`` with vectors that the caller brings.

        ``options`` are arguments of `create`.
        """
        _checked_given(documents, representation)  # first, because an error must not leave a folder behind
        widths = {"dimension": representation.pooled.shape[1], "token_dimension": representation.tokens.dimension}
        is_new = not absolute(path).exists()
        index = cls.create(path, None, **widths, **options)
        try:
            index.add_embeddings(documents, representation)
        except BaseException:
            index._store.pooled.drop()
            index.close()
            folder.clear(index.path, is_new)
            raise
        return index

    # --- write ------------------------------------------------------------------------------

    def add(
        self,
        documents: Iterable[Document],
        *,
        show_progress_bar: bool = False,
        on_commit: OnCommit | None = None,
    ) -> AddReport:
        """Write ``documents``, and return how many were added, replaced and left unchanged.

        A document replaces the document with the same id. If the stored document also has the same content and
        metadata, it is left unchanged. So you can repeat an interrupted call. Documents are committed in batches.
        Their order may differ from the given order. An iterator of any length is read in bounded memory.

        Args:
            documents: a sequence or an iterator.
            show_progress_bar: show a progress bar.
            on_commit: a function that gets the ids of each batch as soon as the batch is on disk.

        Raises:
            InvalidInput: a document has no text, its metadata cannot be stored, or two documents have the same id. If
                ``documents`` is a sequence, nothing is written in these cases. An iterator is read in parts of a few
                thousand documents, and the parts before the error have already been written. If an id comes again in a
                later part of an iterator, the later document replaces the earlier one.
            IndexLocked: another process writes to the index.
        """
        total = len(documents) if isinstance(documents, Sequence) else None
        with self._ingest(total, "document", show_progress_bar, on_commit) as ingest:
            return ingest.add(documents)

    async def aadd(
        self,
        documents: Iterable[Document],
        *,
        show_progress_bar: bool = False,
        on_commit: OnCommit | None = None,
    ) -> AddReport:
        """Do the same as `add`, without blocking the event loop.

        All async writers of this process share one thread, and take turns. The call runs in this thread. The thread
        also reads ``documents`` and calls ``on_commit``. If the caller is cancelled, the thread stops after the
        current batch. What has been written stays, so you can repeat the call.
        """
        stop = threading.Event()

        def committed(ids: Sequence[str]) -> None:
            if on_commit is not None:
                on_commit(ids)
            if stop.is_set():
                raise asyncio.CancelledError

        try:
            return await in_writer_thread(self.add, documents, show_progress_bar=show_progress_bar, on_commit=committed)
        except asyncio.CancelledError:
            stop.set()
            raise

    def add_files(
        self,
        paths: Iterable[str | Path],
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        prune: bool = False,
        gitignore: bool = True,
        max_file_size: float | None = None,
        ocr: bool = False,
        show_progress_bar: bool = False,
        on_commit: OnCommit | None = None,
    ) -> AddReport:
        """Cut the files at and below ``paths`` into documents, write these documents, and return a report.

        A file that has not changed is left alone. A file that has changed replaces its earlier documents. A file that
        was moved is known by its bytes: its documents get the new path, and nothing is encoded. If several files have
        the same bytes, one of them is added. The index remembers the others. If the one is changed or removed, in this
        call or a later one, another takes its place. A file that cannot be read, or that takes too much time or
        memory, is listed in ``failed``, and its earlier documents stay. If it has become empty, they are removed. A
        path that does not exist is listed there, too. Files that were left out are listed in ``skipped``: of unknown
        types, hidden, in folders such as ``node_modules``, or named by ``.gitignore``.

        `smart_rag.files.limits` changes how much time and memory a file may take. Each document has the metadata
        ``source`` (the file's full path), ``chunk`` (a number), and ``page`` (from 1 on) if the format has pages.

        Args:
            paths: files and folders. `smart_rag.files.FORMATS` lists the formats.
            include: patterns of the files to take from folders, such as ``"*.md"``.
            exclude: patterns of the files and folders to leave out.
            prune: if an indexed file below one of the folders no longer exists, remove its documents. Such a folder
                need not exist any more. Without ``prune``, a warning counts these documents.
            gitignore: whether to leave out what ``.gitignore`` and ``.smartragignore`` name.
            max_file_size: leave out larger files of folders, in megabytes.
            ocr: for a model that reads only text: recognise the text of image files, and of pages of PDFs that have no
                usable text (`docs/scans.md`). Their documents have the metadata ``ocr``, which is True. A later call
                without ``ocr`` keeps them.
            show_progress_bar: show a progress bar.
            on_commit: as in `add`.

        Raises:
            InvalidInput: none of ``paths`` exists, or no file is found, or ``ocr`` is True and the model reads images.
            MissingExtra: ``ocr`` is True, and the extra ``ocr`` is not installed.
            IndexLocked: another process writes to the index.
        """
        paths = [paths] if isinstance(paths, str | Path) else list(paths)
        roots = [Path(os.path.realpath(absolute(path))) for path in paths]
        readable = with_ocr(self.manifest.modalities) if ocr else self.manifest.modalities
        found = find(
            [path for path, root in zip(paths, roots, strict=True) if not (prune and is_missing(root))],
            *(include, exclude, readable),
            gitignore=gitignore,
            max_file_size=max_file_size,
            may_be_empty=prune,
        )
        own = self.path.resolve()  # the index holds images, and may itself be inside one of the folders
        wanted = [path for path in found.files if not path.is_relative_to(own)]
        taken, other_names = set(wanted), set(found.left_out(SAME_FILE))
        unasked = {one.path for one in found.skipped if not is_asked(one.reason)}

        def is_left_out(path: Path) -> bool:
            return is_below(path, unasked) and path not in taken

        self._store.images.sources.name(map(Path, paths))
        with self._session.writing():  # before a model is loaded: if another process writes, that is a waste of time
            counter, spans = token_counter(self.encoder), partial(token_spans_of, self.encoder)
            reader = Reader(self.manifest.modalities, counter, self.manifest.config, spans)
            has_vision = "image" in self.manifest.modalities
            total = sum(map(reader.count_pages, wanted)) if has_vision and show_progress_bar else len(wanted)
            with (
                self._ingest(total, "page" if has_vision else "file", show_progress_bar, on_commit) as ingest,
                Duplicates.of(self.path) as duplicates,
            ):
                duplicates.forget_all(is_left_out)
                files = FileIngest(Moves(ingest, duplicates, is_left_out), reader, ocr, show_progress_bar)
                report = files.add(wanted)
                report += AddReport(failed=tuple(found.failed), skipped=tuple(found.skipped))
                report += files.remove(ids_below(self._store.pooled, other_names, is_left_out))
                files.remember_links(found.hard_links)
                gone = ids_below(self._store.pooled, roots, is_gone)
                left = ids_below(self._store.pooled, unasked, is_left_out)
                if prune:
                    report += files.remove([*{*gone, *left}])
                    duplicates.forget_all(lambda path: is_below(path, roots) and is_gone(path))
        if not prune:
            _warn_of_stale(gone, "no longer exists", "no longer exist")
            _warn_of_stale(left, "is left out now", "are left out now")
        return report

    def sources(self) -> list[IndexedFile]:
        """Return the files whose documents are in the index, sorted by path, and whether each still exists."""
        self._check_open()
        return indexed_files(self._store.pooled)

    def prune(self) -> int:
        """Remove the documents of all files that no longer exist, and return the number of these documents.

        `add_files` with ``prune`` does this for the folders that it is given. Documents that were not made from files
        stay, and so do those of files in folders that may not be read. If another file was left out because it has the
        same bytes, the documents stay, with the path of this file.
        """
        self._check_open()
        with self._moves() as moves:
            removed = moves.remove(ids_below(self._store.pooled, [Path(self.path.anchor)], is_gone)).removed
            moves.duplicates.forget_all(is_gone)
        return removed

    def add_texts(
        self,
        texts: Sequence[str],
        ids: Sequence[str] | None = None,
        metadatas: Sequence[Mapping[str, Any]] | None = None,
        *,
        show_progress_bar: bool = False,
    ) -> list[str]:
        """Write ``texts`` and return their ids. Without ``ids``, an id is a hash of the text and its metadata."""
        documents = documents_of_texts(texts, ids, metadatas)
        names = [document.id for document in documents]
        # Without ids, equal texts with equal metadata are one document. With ids, it is an error to use an id twice.
        self.add(
            documents if ids is not None else list(dict(zip(names, documents, strict=True)).values()),
            show_progress_bar=show_progress_bar,
        )
        return names

    def add_embeddings(self, documents: Sequence[Document], representation: Representation) -> AddReport:
        """Write ``documents`` with vectors that the caller brings, and return how many were added and replaced.

        Raises:
            DimensionMismatch: the vectors are wider or narrower than those of the index.
            InvalidInput: a document cannot be stored (see `add`), or a vector is not finite.
        """
        documents = _checked_given(documents, representation)
        self._encoder.check(representation)
        keys = keys_of_vectors(self.manifest.config.codec, representation.tokens)
        saved = map(self._store.images.with_saved_images, documents)
        rows = [Row(document, key, modality=VECTORS) for document, key in zip(saved, keys, strict=True)]
        replaced = 0
        with self._session.writing():
            for start in range(0, len(rows), _BATCH):
                replaced += self._store.commit(
                    rows[start : start + _BATCH], representation.slice(start, start + _BATCH)
                )
            shorten_log(self._store.pooled)
        return AddReport(added=len(rows) - replaced, replaced=replaced)

    def delete(self, ids: Sequence[str]) -> int:
        """Remove the documents with these ids, and return the number of documents that existed.

        Raises:
            InvalidInput: ``ids`` is a single str.
            IndexLocked: another process writes to the index.
        """
        _check_ids(ids)
        with self._session.writing():
            return self._store.delete(list(dict.fromkeys(ids)))

    def delete_source(self, path: str | Path) -> int:
        """Remove every document whose metadata ``source`` is ``path``, and return the number of these documents.

        If ``path`` is a folder, or was one, remove the documents of all files in it that `add_files` has added. If a
        file elsewhere was left out because it has the same bytes, the documents stay, with the path of this file.
        """
        self._check_open()
        places = [absolute(path), Path(os.path.realpath(absolute(path)))]
        # An index stores names as text, so it has no file with another name.
        sources = [name for name in dict.fromkeys([str(path), *map(str, places)]) if is_unicode(name)]
        rows = self._store.pooled.select({"source": {"$in": sources}}) if sources else ()  # also those that are altered
        below = ids_below(self._store.pooled, places)
        with self._moves() as moves:
            moves.duplicates.forget_all(lambda one: is_below(one, places))
            report = moves.remove(list(dict.fromkeys([*(row.document.id for row in rows), *below])))
        return report.removed + report.moved

    def vacuum(self) -> int:
        """Remove token embeddings and images that no document uses. Return the number of removed token entries.

        An index of an older format is also converted to the current format. After that, filters can search lists.
        Images that an older version has added are listed under centroids (see ``docs/first_stage.md``).
        """
        with self._session.writing():
            self._encoder.forget()
            removed = self._store.vacuum()
            if self.manifest.format_version < FORMAT_VERSION:
                self.compact()
            return removed

    def compact(self, *, show_progress_bar: bool = False) -> int:
        """Write the index anew, without the space of removed documents. Return the number of bytes that became free.

        `vacuum` makes space for later documents, but the files stay as large as they are. This method makes them
        smaller. It needs as much free space as the new files take. Searches go on meanwhile, also in other processes.

        If the call is interrupted, the index stays as it was. The next call goes on where this one stopped.

        Args:
            show_progress_bar: show a progress bar.

        Raises:
            CorruptStore: something is altered, damaged or lost; see `verify`.
            NotTrusted: the index may not read the image or video of a document; see ``sources`` of `open`.
            StorageFull: there is not enough space for the new files.
            IndexLocked: another process writes to the index.
        """
        with self._session.writing():
            before = bytes_below(self.path)
            self._rewrite(Manifest.read(self.path), self._encoder, show_progress_bar, encodes=False)
            return max(0, before - bytes_below(self.path))

    def convert(
        self,
        encoder: Encoder | str | Path | None = None,
        *,
        codec: str | None = None,
        show_progress_bar: bool = False,
    ) -> None:
        """Change the model or the codec of the index. The documents stay.

        With another model, each text and each image is encoded again. Texts stay cut as they are, so a model that
        takes fewer tokens does not see the end of a long text. The index gets the weights of the new model, and
        forgets the scale of relevance.

        With another codec, the stored token embeddings are used if they are exact. Otherwise, all documents are encoded
        again.

        Searches go on meanwhile. If the call is interrupted, the index stays as it was. The next call with the same
        arguments goes on where this one stopped.

        Args:
            encoder: an encoder, or the name or the folder of a model. By default, the model does not change.
            codec: the new codec, such as ``"compact"`` (see `IndexConfig`). By default, the codec does not change.
            show_progress_bar: show a progress bar.

        Raises:
            InvalidInput: there is no such codec, the new model cannot read a document, or the vectors are the caller's
                own and cannot be converted to this codec.
            CorruptStore, NotTrusted, StorageFull, IndexLocked: as in `compact`.
        """
        self._session.check_open()
        name = get_codec(codec or self.manifest.config.codec).name
        if isinstance(encoder, str | Path):
            encoder = SmartEncoder(encoder)
        with self._session.writing():
            manifest = Manifest.read(self.path).converted(encoder, name)
            is_new_model = manifest.fingerprint != self.manifest.fingerprint
            if not is_new_model and name == self.manifest.config.codec:
                return
            encodes = is_new_model or not loses_nothing(self.manifest.config.codec, name)
            if encodes and encoder is None and not self._encoder.exists:
                raise InvalidInput(
                    f"{self.path}: the vectors are the caller's own, and are stored as {self.manifest.config.codec}"
                    f" codes, from which {name} codes cannot be made; add the vectors to an index with this codec"
                )
            new = IndexEncoder(self.path, manifest, encoder or self._encoder.given)
            new.loaded = new.loaded or self._encoder.loaded
            self._rewrite(manifest, new, show_progress_bar, encodes)

    def snapshot(self, path: str | Path) -> None:
        """Copy the index to the folder ``path``, while others may read and write.

        The copy is an index of its own. It holds the state of one moment between two batches. Writers wait until the
        copy is made, readers do not. The images that the index has saved are copied. Images, PDFs and videos that are
        elsewhere are not.

        Args:
            path: a folder that does not exist or is empty.

        Raises:
            IndexExists: the folder is not empty.
            StorageFull: there is not enough space for the copy.
        """
        self._session.check_open()
        snapshot(self.path, self.manifest, self._store, absolute(path))

    def set_weights(self, weights: Weights, weighting: Weighting | None = None) -> None:
        """Set the score weights (pooled, late) of the index and, if given, its ``weighting``. See `IndexConfig`.

        Later searches use these weights. Another process uses them after it opens the index again.
        `smart_rag.evaluation.tune` finds the best weights for labelled queries.
        """
        values = check_weights(weights)
        if weighting is not None:
            check_choice("weighting", weighting, Weighting)
        with self._session.writing():
            manifest = Manifest.read(self.path)  # another process may have changed the manifest in the meantime
            config = replace(manifest.config, weights=values, weighting=weighting or manifest.config.weighting)
            manifest = replace(manifest, config=config)
            manifest.write(self.path)
            self.manifest = manifest

    def calibrate(self, relevant: Iterable[float] | None = None) -> None:
        """Find the scale of `Hit.relevance`, and store it in the index. Then searches need not find it.

        To find the scale, the index is searched for a few hundred questions that no index answers. This takes seconds.
        If the index grows a lot after that, searches notice this and find the scale again.

        Args:
            relevant: the scores of best hits that are known to be relevant, computed with the weights of the index. If
                they are given, the relevance .5 goes to the score that best separates these hits from the best hits of
                the questions. The command ``smart-rag tune`` passes such scores. To compute them yourself, call
                `smart_rag.evaluation.tuner.relevant_scores`.

        Raises:
            InvalidInput: the index has no encoder or no documents.
        """
        labelled = checked_scores(relevant)
        with self._session.writing():
            search = self._search(1, None, None)
            if not self._encoder.exists or not self.count():
                raise InvalidInput(f"{self.path}: relevance needs an index with an encoder and with documents")
            foreign = self._calibration.foreign_scores(search)
            scale = Scale.fit(foreign, labelled) if labelled else Scale.of(foreign)
            record = self._calibration.set(search, scale, bool(labelled))
            manifest = replace(Manifest.read(self.path), relevance=record)
            manifest.write(self.path)
            self.manifest = manifest

    @property
    def is_calibrated(self) -> bool:
        """Whether the scale of `Hit.relevance` is known and still fits the size of the index."""
        self._check_open()
        return self._calibration.is_current(self._search(1, None, None))

    def verify(self, repair: bool = False) -> VerifyReport:
        """Check every entry, and report what is missing, damaged, altered or lost.

        With ``repair``, documents whose token embeddings or terms are missing or damaged are encoded again. If Chroma's
        files are damaged, all documents are encoded again, and all files are written anew. A text that is altered or
        lost cannot be repaired: add it again. The report says what was found before the repair.
        """
        self._check_open()
        report = found = self._store.integrity.verify()
        if repair and found.chroma_damage and (self._encoder.exists or not (found.altered or found.lost)):
            with self._session.writing():
                self._rewrite(Manifest.read(self.path), self._encoder, False, self._encoder.exists, lost=found.lost)
            found = self._store.integrity.verify()
        if repair and found.damaged:
            with self._session.writing():
                self._store.mend_centroids()  # first, because nothing is encoded for this
            found = self._store.integrity.verify()
        for _ in range(_REPAIRS if repair else 0):
            broken = [*found.missing, *found.damaged]
            if not broken:
                break
            with self._ingest(len(broken), "document", False, None) as ingest:
                ingest.repair(broken)
                self._store.remove_unused_terms()
            found = self._store.integrity.verify()
        return report

    # --- read -------------------------------------------------------------------------------

    @_following
    def get(self, ids: Sequence[str]) -> list[Document]:
        """Return the documents with these ids, in this order. Ids that are not in the index are left out.

        Raises:
            InvalidInput: ``ids`` is a single str.
        """
        self._check_open()
        _check_ids(ids)
        rows = self._store.pooled.get(list(dict.fromkeys(ids)))
        self._store.integrity.check_texts(rows.values())
        return [rows[id].document for id in ids if id in rows]

    def has_image(self, found: Hit | Document) -> bool:
        """Return whether a hit or a document should be shown as an image.

        For a PDF page that was found by its text, the result is False, because drawing a page takes longer than
        searching. `image_file` can still draw the page.
        """
        return found.image is not None and (not isinstance(found.image, PdfPage) or "image" in self.manifest.modalities)

    def image_file(self, found: Hit | Document, max_pixels: int = DEFAULT_IMAGE_PIXELS) -> Path:
        """Return the path of a file with the image of a hit or a document, for programs that take such a path.

        If the image comes from a file, this file is returned. A page of a PDF is drawn, with at most ``max_pixels``,
        into a file in the index's folder. `vacuum` removes this file.

        Raises:
            InvalidInput: ``found`` has no image.
            DocumentError: the image's file does not exist or cannot be read.
        """
        self._check_open()
        max_pixels = check_count("max_pixels", max_pixels)
        if found.image is None:
            raise InvalidInput(
                f"{self.path}: the document {found.id!r} has no image; ask only for documents whose image is not None"
            )
        return self._store.images.file_of(found.image, max_pixels)

    def may_read(self, path: str | Path) -> bool:
        """Return whether the index may read ``path``, a file or an address on the web.

        It may read files in its own folder, files that were added to it on this machine, and the ``sources`` that were
        given to `open`. If you have made the index on this machine, it may also read addresses on the web. Ask before
        you show or send what the metadata of a document names.
        """
        self._session.check_open()
        sources, is_address = self._store.pooled.sources, bool(_ADDRESS.match(str(path)))
        return sources.is_own if is_address else "\0" not in str(path) and sources.admits(absolute(path))

    def allow(self, paths: Iterable[str | Path]) -> None:
        """Let the index read these files and folders, now and later on this machine.

        Adding a document allows its image and its video. Use this method for files that the metadata of your documents
        names (see `may_read`), or for the images of an index that somebody else has made. For one session, ``sources``
        of `open` does the same.
        """
        self._session.check_open()
        self._store.pooled.sources.name(map(absolute, paths))

    def documents(self, where: Where | None = None, where_document: Where | None = None) -> Iterator[Document]:
        """Yield the documents that pass the filters, or all documents. The filters are those of `search`."""
        self._check_open()
        return self._documents(where, where_document)

    def _documents(self, where: Where | None, where_document: Where | None) -> Iterator[Document]:
        """Yield documents. If the index is written anew meanwhile, go on with its new stores."""
        seen: set[str] = set()
        while True:
            store = self._store
            try:
                for document in store.documents(where, where_document):
                    if document.id not in seen:
                        seen.add(document.id)
                        yield document
                return
            except Exception:  # as in `_following`
                self._check_open()
                if self._store is store:
                    raise

    @_following
    def count(self) -> int:
        """Return the number of documents in the index."""
        self._check_open()
        return self._store.pooled.count()

    def search(
        self,
        query: str | Content | Representation,
        top_k: Count = DEFAULT_TOP_K,
        *,
        candidates: Count = DEFAULT_CANDIDATES,
        first_stage: FirstStageName = "auto",
        where: Where | None = None,
        where_document: Where | None = None,
        weights: Weights | None = None,
        weighting: Weighting | None = None,
        min_relevance: Number | None = None,
        per_source: Count | None = None,
        source_key: str = "source",
        fold_duplicates: bool = False,
        stopwatch: Stopwatch | None = None,
    ) -> list[Hit]:
        """Return the ``top_k`` best documents for ``query``, best first.

        Documents with equal scores are sorted by their ids.

        Args:
            query: a text, a `Content` with an image if the model reads images, or the representation of one query.
            top_k: the number of documents to return.
            candidates: the number of documents to score.
            first_stage: how the candidates are chosen. ``"terms"`` chooses half of them by pooled cosine, and the other
                half by the rare tokens that they share with the query, or by centroids of tokens if the tokens of
                documents are no words, as those of an image. ``"pooled"`` chooses all of them by pooled cosine.
                ``"exhaustive"`` scores every document, as in the paper. ``"auto"`` means ``"exhaustive"`` in a small
                index, and ``"terms"`` otherwise.
            where: a filter on metadata, such as ``{"year": {"$gte": 2020}}`` or ``{"tags": {"$contains": "pump"}}`` for
                a list. It is written like Chroma's filters. `docs/filters.md` says what each operator finds.
            where_document: a filter on texts: ``$contains``, ``$regex`` or their opposites.
            weights: the weights of the pooled and the late score. By default, those of the index.
            weighting: the weighting of query tokens, ``"idf"``, ``"none"`` or ``"contrast"``. By default, that of the
                index.
            min_relevance: leave out hits whose `Hit.relevance` is lower than this number from 0 to 1. Start with .5.
            per_source: how many hits a source may have, such as 1 for the best passage of each file. The other hits
                come from further down the ranking, and keep their scores and ranks. Four times as many candidates are
                scored, and more if these are from too few sources. So there are ``top_k`` hits if the index has so
                many.
            source_key: the metadata key that names the source. A document without this key is its own source.
            fold_duplicates: if the texts of several hits are nearly the same, and their numbers are the same, return
                the best one. Its `Hit.duplicates` are the ids of the others.
            stopwatch: records the time in milliseconds of each of the stages ``encode``, ``candidates``, ``gather``,
                ``score`` and ``texts``.

        Raises:
            InvalidInput: the query is empty, ``top_k``, ``candidates`` or ``per_source`` is below 1, or a filter is not
                valid.
            MissingTokens: a candidate's token embeddings are missing. Call `verify` with ``repair`` to encode them
                again.
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
            min_relevance=min_relevance,
            per_source=per_source,
            source_key=source_key,
            fold_duplicates=fold_duplicates,
            stopwatch=stopwatch,
        )[0]

    async def asearch(
        self, query: str | Content | Representation, top_k: int = DEFAULT_TOP_K, **options: Any
    ) -> list[Hit]:
        """Do the same as `search`, with the same ``options``, without blocking the event loop.

        The call runs in one of a few threads (`smart_rag.threads.in_reader_thread`). If all threads are busy, a call
        waits for its turn. If the caller is cancelled, a waiting call is dropped, and a running search goes on to its
        end.
        """
        return await in_reader_thread(self.search, query, top_k, **options)

    @_following
    def search_many(
        self,
        queries: Sequence[str | Content] | Representation,
        top_k: Count = DEFAULT_TOP_K,
        *,
        candidates: Count = DEFAULT_CANDIDATES,
        first_stage: FirstStageName = "auto",
        where: Where | None = None,
        where_document: Where | None = None,
        weights: Weights | None = None,
        weighting: Weighting | None = None,
        min_relevance: Number | None = None,
        per_source: Count | None = None,
        source_key: str = "source",
        fold_duplicates: bool = False,
        stopwatch: Stopwatch | None = None,
        encoded: Representation | None = None,
    ) -> list[list[Hit]]:
        """Do the same as `search` for each of ``queries``. An exhaustive search reads the index only once.

        If `encode_queries` has encoded the ``queries`` before, pass the result as ``encoded``. Then they are not
        encoded again.
        """
        self._check_open()
        check_choice("first_stage", first_stage, FirstStageName)
        if min_relevance is not None:
            min_relevance = check_fraction("min_relevance", min_relevance)
        search = replace(
            self._search(check_count("top_k", top_k), weights, weighting),
            candidates=check_count("candidates", candidates),
            first_stage=first_stage,
            where=where,
            where_document=where_document,
            rule=Rule.of(per_source, source_key, fold_duplicates),
            stopwatch=stopwatch or Stopwatch(),
        )
        if not len(queries):
            return []
        with search.stopwatch.measure("encode"):
            vectors = self._vectors_of_queries(queries, encoded)
        self._encoder.check(vectors)
        found = [
            self._explainable(hits, query, search) for query, hits in zip(queries, search.hits(vectors), strict=True)
        ]
        if min_relevance is None:
            return found
        needed = f"an index with an encoder; leave it out for this search of {self.path}"
        return [relevant_hits(hits, min_relevance, needed) for hits in found]

    @_following
    def rerank(
        self,
        query: str | Content | Representation,
        hits: Sequence[Hit | str],
        top_k: Count | None = None,
        *,
        weights: Weights | None = None,
        weighting: Weighting | None = None,
        encoded: Representation | None = None,
    ) -> list[Hit]:
        """Score ``hits`` for ``query``, and return them, best first.

        Args:
            query: as in `search`.
            hits: hits or texts. A text is encoded. Its id is its position, padded with zeros.
            top_k: the number of hits to return. By default, all hits.
            weights, weighting: as in `search`.
            encoded: the representation of ``query``, if `encode_queries` has encoded it before.
        """
        self._check_open()
        if top_k is not None:
            top_k = check_count("top_k", top_k)
        search = self._search(top_k or 1, weights, weighting)
        vectors_of_query = self._vectors_of_queries(query if isinstance(query, Representation) else [query], encoded)
        if not hits:
            return []
        documents = as_documents(hits)
        vectors = vectors_of(documents, {hit.id for hit in hits if isinstance(hit, Hit)}, search, self._encoder)
        token_weights = search.token_weights(vectors_of_query)
        ranked = rank(vectors_of_query, documents, vectors, search.weights, top_k, self._encoder.device, token_weights)
        return self._explainable(ranked, query, search)

    async def arerank(
        self,
        query: str | Content | Representation,
        hits: Sequence[Hit | str],
        top_k: int | None = None,
        **options: Any,
    ) -> list[Hit]:
        """Do the same as `rerank`, with the same ``options``, without blocking the event loop; see `asearch`."""
        return await in_reader_thread(self.rerank, query, hits, top_k, **options)

    @_following
    def diversify(
        self,
        hits: Sequence[Hit],
        top_k: Count = DEFAULT_TOP_K,
        *,
        mmr_lambda: Number = 0.5,
        weights: Weights | None = None,
    ) -> list[Hit]:
        """Return ``top_k`` of ``hits`` by maximal marginal relevance (Carbonell and Goldstein, 1998).

        The relevance of a hit is its score, divided by the sum of the weights. The redundancy of a hit is the highest
        of its pooled cosines with the hits that were chosen before it. The scores of the hits do not change, but their
        ranks do.

        Args:
            hits: the hits of a search.
            top_k: the number of hits to return.
            mmr_lambda: with 1, the ranking does not change. With 0, only redundancy counts.
            weights: the weights with which the hits were scored. By default, those of the index.

        Raises:
            InvalidInput: ``mmr_lambda`` is not from 0 to 1, or a hit is no longer in the index.
        """
        self._check_open()
        top_k, mmr_lambda = check_count("top_k", top_k), check_fraction("mmr_lambda", mmr_lambda)
        weights = self.manifest.weights if weights is None else check_weights(weights)
        return diversify(self._store, hits, top_k, mmr_lambda, weights) if hits else []

    @_following
    def tokens(self, ids: Sequence[str]) -> TokenBatch:
        """Return the stored token embeddings of the documents with these ids, in this order.

        Raises:
            InvalidInput: an id is not in the index, or ``ids`` is a single str.
        """
        self._check_open()
        _check_ids(ids)
        rows = self._store.pooled.get(list(dict.fromkeys(ids)))
        absent = [id for id in ids if id not in rows]
        if absent:
            raise InvalidInput(f"{self.path}: no document {absent[0]!r} in the index ({len(absent)} ids are not)")
        return self._store.gather([rows[id].key for id in ids], ids).decode()

    def encode_documents(self, items: Sequence[Encodable], *, reuse_stored: bool = False) -> Representation:
        """Return the representation of texts or images.

        The index keeps it until documents with the same content are added.

        Use this method if your program needs the embeddings before it adds the documents. Then nothing is encoded
        twice. Up to 1 GiB is kept. The tokens may be `TokenCodes`. The index stores these codes as they are.

        With ``reuse_stored``, if the index already holds a content, its vectors are read from the disk. These vectors
        have no vocabulary ids. Nothing is written.
        """
        self._check_open()
        contents = [Content.of(item) for item in items]
        if not reuse_stored:
            return self._encoder.encode_ahead(contents)
        keys = [self._encoder.key(content) for content in contents]
        known = self._store.retry_unless_writing(lambda: self._store.vectors_of_keys(keys))
        rest = {key: content for key, content in zip(keys, contents, strict=True) if key not in known}
        if rest:
            known.update(zip(rest, self._encoder.encode_ahead(list(rest.values())), strict=True))
        return Representation.concatenate([known[key] for key in keys]) if keys else self._encoder.encode_ahead([])

    def check_embeddings(self, documents: Sequence[Document], embeddings: ArrayLike) -> None:
        """Check that ``embeddings`` (n, dimension) of ``documents`` come from the model of this index.

        Use this method before you add documents with the embeddings of another program. The first embedding is compared
        with the embedding that the index's model makes of the first document. If they differ, an error is raised.

        Raises:
            IndexMismatch: another model made the embeddings.
            DimensionMismatch: the embeddings are wider or narrower than those of the index.
            InvalidInput: the number of embeddings is not the number of documents, an embedding is not finite, or a
                document cannot be stored (see `add`).
        """
        self._check_open()
        documents = checked_documents(documents, self.manifest.modalities)
        if documents:
            given = Representation.from_embeddings(embeddings)
            if len(given) != len(documents):
                raise InvalidInput(f"{len(documents)} documents with {len(given)} pooled embeddings")
            self._encoder.check_same_model(documents[0], given.pooled[0])

    def encode_queries(self, queries: Sequence[str | Content]) -> Representation:
        """Encode ``queries`` with the index's encoder, and return their representation.

        Raises:
            InvalidInput: a query is empty, or the index has no encoder.
        """
        self._check_open()
        return self._encoder.encode_queries(queries)

    def _vectors_of_queries(
        self, queries: Sequence[str | Content] | Representation, encoded: Representation | None
    ) -> Representation:
        """Return the representation of ``queries``: ``encoded``, if the caller has it."""
        if isinstance(queries, Representation):
            return queries
        if encoded is None:
            return self.encode_queries(queries)
        if len(encoded) != len(queries):
            raise InvalidInput(
                f"encoded has {number(len(encoded), 'text')}, expected one for each of {number(len(queries), 'query')}"
            )
        return encoded

    @property
    def modalities(self) -> frozenset[str]:
        """The kinds of content that the index's encoder reads: some of ``"text"``, ``"image"``, ``"video"``."""
        return frozenset(self.manifest.modalities)

    @property
    def encoder(self) -> Encoder:
        """The encoder of the index. It is loaded when it is first needed.

        Raises:
            InvalidInput: the index has no encoder, because the caller brings the vectors.
            IndexMismatch: the index was made with an encoder of your own class, or the model has changed.
        """
        self._check_open()
        return self._encoder.load()

    def info(self) -> IndexInfo:
        """Return the number of documents, the number of tokens, the size on disk, and the manifest."""
        self._check_open()
        stats = self._store.tokens.stats()
        chroma = self.path / self.manifest.data / "chroma"
        pooled_bytes = bytes_below(chroma) if self.manifest.own_chroma else None
        return IndexInfo(
            str(self.path), self.count(), stats.tokens, self._store.sidecar_bytes(), pooled_bytes, asdict(self.manifest)
        )

    def close(self) -> None:
        """Release files and locks. A second call does nothing. All other methods then raise `IndexClosed`."""
        self._session.close(self._release)

    def __repr__(self) -> str:
        return f"SmartIndex({str(self.path)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        encoder, client = self._encoder.given, self._store.pooled.given_client
        for given, name, argument in ((encoder, "encoder", "encoder"), (client, "Chroma client", "client")):
            if given is not None and not isinstance(given, SmartEncoder):
                advice = f"open the index where it is needed, with SmartIndex.open({str(self.path)!r}, {argument}=...)"
                check_pickles(given, name, advice)
        return _opened_again, (self.path, encoder, client, self._store.pooled.sources.given)

    def __copy__(self) -> SmartIndex:
        pooled = self._store.pooled
        return _opened_again(self.path, self._encoder.loaded, pooled.given_client, pooled.sources.given)

    def __deepcopy__(self, memo: dict[int, Any]) -> SmartIndex:
        return self.__copy__()

    def __enter__(self) -> SmartIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- private ----------------------------------------------------------------------------

    def _release(self) -> None:
        self._encoder.forget()
        self._store.close()

    @contextmanager
    def _ingest(
        self, total: int | None, unit: str, show_progress_bar: bool, on_commit: OnCommit | None
    ) -> Iterator[Ingest]:
        device = getattr(self._encoder.loaded, "device", None)
        codec = get_codec(self.manifest.config.codec)
        bytes_per_token = codec.bytes_per_token(self.manifest.token_dimension) / codec.pool_factor
        where = "" if device is None else f" on {device}"
        with (
            self._session.writing(),
            Progress(total, f"indexing{where}", unit, show_progress_bar, bytes_per_token) as progress,
        ):
            try:
                yield Ingest(self._store, self._encoder, progress.update, on_commit, progress.encoded)
                shorten_log(self._store.pooled)
            finally:  # the texts that were written before an error count, too
                self._encoder.warn_of_unread_texts()

    @contextmanager
    def _moves(self) -> Iterator[Moves]:
        """Yield what removes documents of files. A duplicate of a file takes them over; see `Duplicates`."""
        with self._session.writing(), Duplicates.of(self.path) as duplicates:
            moves = Moves(Ingest(self._store, self._encoder, lambda _: None), duplicates)
            yield moves
            moves.warn_of_unread()

    def _explainable(self, hits: Sequence[Hit], query: str | Content | Representation, search: Search) -> list[Hit]:
        """Return the ``hits`` of ``search``, with what the model cannot read and with an explainer for ``query``."""
        hits = marked(hits, query, self._encoder.loaded)
        explainer = Explainer(
            *(with_full_paths(query), search, self._encoder, self._session, self._calibration, self.get),
            current=lambda: (self._encoder, self._store),
        )
        return [with_explainer(hit, explainer) for hit in hits]

    def _search(self, top_k: int, weights: Weights | None, weighting: Weighting | None) -> Search:
        """Return a search with the given weights and weighting, or those of the index."""
        config = self.manifest.config
        weighting = config.weighting if weighting is None else weighting
        check_choice("weighting", weighting, Weighting)
        return Search(
            store=self._store,
            device=self._encoder.device,
            top_k=top_k,
            weights=self.manifest.weights if weights is None else check_weights(weights),
            weighting=weighting,
        )

    def _check_open(self) -> None:
        """Raise an error unless the index can be used. If a write of this process has failed, try to undo it first."""
        self._session.check_open()
        if self._store.is_in_doubt:
            with self._session.unless_writing() as may_write:
                if may_write:
                    self._store.try_to_settle()

    def _before_first_write(self) -> None:
        """Clean up after a writer that has died, and bring the manifest up to date."""
        self.manifest = folder.claim(self.path, self.manifest, self._store.pooled.given_client)
        remove_old(self.path)
        self._store.settle()
        self._update_manifest()

    def _find_again(self) -> Place | None:
        """If the index has been compacted or converted elsewhere, open its new stores, and return their place."""
        manifest = self.manifest
        try:
            found = Manifest.read(self.path)
        except IndexNotFound:
            return None
        if manifest.id is None or found.id != manifest.id or found.data == manifest.data:
            return None
        given = self._encoder.given
        now, store = folder.open_current_stores(
            self.path, given, self._store.pooled.given_client, self._store.pooled.sources.given
        )
        old = self._store
        same = (now.fingerprint, now.config.codec) == (manifest.fingerprint, manifest.config.codec)
        self._use(now, store, self._encoder if same else IndexEncoder(self.path, now, given))
        old.close()
        return store.place

    def _use(self, manifest: Manifest, store: DocumentStore, encoder: IndexEncoder) -> None:
        """Use other stores and another manifest of the same index from now on."""
        self.manifest, self._store, self._encoder = manifest, store, encoder
        self._calibration = Calibration(self._encoder, manifest.relevance)

    def _rewrite(
        self,
        manifest: Manifest,
        encoder: IndexEncoder,
        show_progress_bar: bool,
        encodes: bool,
        lost: Sequence[str] | None = None,
    ) -> None:
        """Write all documents into new stores, with the settings of ``manifest``, and use these stores from now on.

        If documents are altered or lost, this raises `CorruptStore`. With ``lost``, the ids of lost documents, altered
        documents stay altered, and lost ones stay lost.
        """
        self._store.settle()
        if lost is None:
            self._store.integrity.check_complete()
        pooled = self._store.pooled
        new = Rewrite(self.path, manifest, pooled.given_client, pooled.sources.given)
        try:
            with Progress(self.count(), "writing", "document", show_progress_bar) as progress:
                if encodes:
                    checked = self._store.integrity.checked if lost is None else self._store.integrity.marked
                    encode_documents(self._store.pooled, new.store, encoder, progress.update, checked)
                    encoder.warn_of_unread_texts()
                else:
                    copy_documents(self._store, new.store, encoder, progress.update)
            new.store.mark_lost(lost or ())
            shorten_log(new.store.pooled)
        except BaseException:
            new.store.close()
            raise
        old = self._store

        def switch() -> Place:
            new.switch()
            self._use(new.manifest, new.store, encoder)
            return new.store.place

        try:
            self._session.switch(switch)
        except BaseException:
            # If the manifest was already written, the next call opens the new stores.
            if self._store is not new.store:
                new.store.close()
            raise
        try:
            old.pooled.drop()
        finally:
            old.close()
            new.finish()

    def _update_manifest(self) -> None:
        """Update the manifest. If the model was moved, write its new folder. If there is no id, write one."""
        manifest = Manifest.read(self.path)
        now = manifest if self._encoder.loaded is None else manifest.found_again(self._encoder.loaded)
        if now.id is None:
            id = secrets.token_hex(16)
            now = replace(now, id=id)
            self._store.images.sources.remember(id)
            self._session.named(id)
        if now != manifest:
            now.write(self.path)
            self.manifest = now


def _warn_of_stale(ids: Collection[str], one: str, several: str) -> None:
    """Warn of files of the index whose documents have these ``ids``, and name the first of them."""
    if ids:
        files = sorted(set(map(source_of, ids)))
        what, their = (one, "its") if len(files) == 1 else (several, "their")
        names = ", ".join(map(shown, files[:_MOST_NAMES])) + (", ..." if len(files) > _MOST_NAMES else "")
        advice = f"the option prune removes {their} passages"
        logger.warning("%s of the index %s; %s: %s", number(len(files), "file"), what, advice, names)


def _checked_given(documents: Sequence[Document], vectors: Representation) -> list[Document]:
    checked = checked_documents(documents, _ALL_MODALITIES)
    if len(checked) != len(vectors):
        raise InvalidInput(f"{len(checked)} documents with the vectors of {len(vectors)}")
    return checked


def _opened_again(path: Path, encoder: Encoder | None, client: ClientAPI | None, sources: Iterable[Path]) -> SmartIndex:
    return SmartIndex.open(path, encoder, client=client, sources=sources)


def _check_ids(ids: Sequence[str]) -> None:
    if isinstance(ids, str):
        raise InvalidInput(f"ids must be a sequence of str, got the str {ids!r}")


def scan_scores(
    index: SmartIndex,
    queries: Representation,
    where: Where | None = None,
    where_document: Where | None = None,
    *,
    weighting: Weighting | None = None,
) -> Iterator[Scores]:
    """Yield, in blocks, the scores of every document of ``index`` that passes the filters.

    The evaluation and the inspector page use this.
    """
    index._check_open()
    index._encoder.check(queries)
    search = replace(index._search(1, None, weighting), where=where, where_document=where_document)
    yield from search.scan(queries)


def encode_texts(index: SmartIndex, texts: Sequence[str]) -> Representation:
    """Return the representation of ``texts`` as documents, and keep nothing of it. The server uses this."""
    index._check_open()
    return index._encoder.encode_exactly(list(map(Content, texts)))


def remove_empty(index: SmartIndex) -> None:
    """Remove the folder of ``index`` if it has no documents. If another process writes to the index, it stays."""
    try:
        with index._session.writing():
            if not index.count():
                shutil.rmtree(index.path)
    except IndexLocked:
        return
