"""The layouts of published datasets: which columns their tables have, and what the rows mean.

The columns are those that https://github.com/TIGER-AI-Lab/VLM2Vec, https://github.com/HanSolo9682/SMART and
https://github.com/embeddings-benchmark/mteb read:

=============  ==========================================================================================
layout         columns
=============  ==========================================================================================
``judged``     the tables ``corpus``, ``queries`` and ``qrels``, and perhaps ``top_ranked`` and ``instruction``
``candidates`` ``qry_text``, ``qry_img_path``, ``qry_inst``; the lists ``tgt_text`` and ``tgt_img_path``, whose
               first entries are relevant
``videos``     a video and its captions in each row
``pages``      ``query``, ``image`` and ``image_filename`` in each row: the page answers the query
=============  ==========================================================================================
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from smart_rag.errors import InvalidInput
from smart_rag.evaluation.datasets import Dataset, Qrels
from smart_rag.evaluation.tables import Table
from smart_rag.types import Content, Document
from smart_rag.wording import number

_DOCUMENT_ID = ("corpus-id", "corpus_id", "_id", "id")
_QUERY_ID = ("query-id", "query_id", "_id", "id")
_VIDEO_ID = ("video_id", "id", "videoID")
_CAPTIONS = ("caption", "sentence", "enCap")
_VIDEOS = ("video", "video_path", "videoID")
# The texts of MMEB hold this mark where the image belongs. The template of the model puts the image there.
_IMAGE_MARK = "<|image_1|>"
_MOST_FRAMES = 64  # of a video, as in the paper's code
_VIDEO_SUFFIXES = ("", ".mp4", ".avi", ".mov", ".mkv")


# A file, or the frames of a video.
Video: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Places:
    """Folders for the images and videos of a dataset.

    Attributes:
        written: an empty folder. The images inside tables are written into it, byte for byte.
        searched: the folders in which the paths in tables are looked up.
    """

    written: Path
    searched: tuple[Path, ...] = ()

    def image(self, value: Any, folder: Path) -> Path | None:
        """Return the file of an image in a table: bytes, a path, or a dict of both. None if there is no image."""
        path, content = (value.get("path"), value.get("bytes")) if isinstance(value, Mapping) else (value, None)
        if content:
            file = self.written / hashlib.blake2b(content, digest_size=16).hexdigest()
            if not file.exists():
                file.write_bytes(content)
            return file
        return self.find(str(path), folder) if path else None

    def find(self, path: str, folder: Path) -> Path:
        """Return the file or folder at ``path``, in ``folder`` or in one of the folders `searched`.

        Raises:
            InvalidInput: there is none, or ``path`` leads out of these folders.
        """
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise InvalidInput(f"{folder}: {path!r} leads out of the folder; expected a relative path without '..'")
        places = [place / part for place in (*self.searched, folder) for part in ("", "image-tasks")]
        found = next((place / path for place in places if (place / path).exists()), None)
        if found is None:
            looked = ", ".join(map(str, dict.fromkeys(places)))
            raise InvalidInput(
                f"{folder}: the file {path!r} is missing; looked in {looked}; name its folder with --media"
            )
        return found


@dataclass(slots=True)
class Reader:
    """Collects the parts of a dataset, and counts what is left out."""

    names: tuple[str, ...]
    folder: Path
    tables: Mapping[str, Table]
    places: Places
    language: str | None
    limit: int | None
    documents: dict[str, Document] = field(default_factory=dict)
    queries: dict[str, str | Content] = field(default_factory=dict)
    qrels: Qrels = field(default_factory=dict)
    instructions: dict[str, str] = field(default_factory=dict)
    candidates: dict[str, list[str]] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    missing: Counter[tuple[str, str]] = field(default_factory=Counter)
    columns: list[str] = field(default_factory=list)

    def document(self, id: str, text: str = "", image: Path | None = None, video: Video | None = None) -> None:
        if id in self.documents:
            self.missing["document", "with the id of an earlier one"] += 1
        elif not (text.strip() or image or video):
            self.missing["document", "without text, image or video"] += 1
        else:
            self.documents[id] = Document(id, text, image=image, video=video)

    def query(self, id: str, text: str, image: Path | None = None, instruction: str = "") -> None:
        content = Content(text, image)
        if not content.modality:
            self.missing["query", "without text or image"] += 1
            return
        self.queries[id] = content.plain
        if instruction:
            self.instructions[id] = instruction

    def used(self, table: str, *columns: str | None) -> list[str]:
        """Note the columns of ``table`` that are not among ``columns``. Return those that are."""
        used = [column for column in columns if column]
        unused = [column for column in self.tables[table].columns if column not in used]
        if unused:
            noun = "column" if len(unused) == 1 else "columns"
            self.columns.append(f"the {noun} {', '.join(unused)} of the {table}")
        return used

    def one_of(self, table: str, names: Sequence[str]) -> str:
        """Return the first of the columns ``names`` that ``table`` has.

        Raises:
            InvalidInput: it has none of them.
        """
        columns = self.tables[table].columns
        for name in names:
            if name in columns:
                return name
        raise InvalidInput(
            f"{self.folder}: the table {self.tables[table].name!r} has the columns {', '.join(columns)}; "
            f"expected one of {', '.join(names)}"
        )

    def optional(self, table: str, *names: str) -> str | None:
        columns = self.tables[table].columns
        return next((name for name in names if name in columns), None)

    def dataset(self, name: str, instruction: str) -> Dataset:
        judged = [id for id in self.queries if self.qrels.get(id)]
        unjudged = len(self.queries) - len(judged)
        if unjudged:
            self.missing["query", "without a relevant document"] += unjudged
        if not judged or not self.documents:
            raise InvalidInput(
                f"{self.folder}: {number(len(self.documents), 'document')} and "
                f"{number(len(judged), 'judged query')} are left; left out: {'; '.join(self.notes()) or 'nothing'}"
            )
        strange = sum(id not in self.queries and id not in self.elsewhere for id in self.qrels)
        if strange:
            self.missing["judged query", "outside of the table of queries"] += strange
        if self.limit is not None and self.limit < len(judged):
            self.missing["query", "after the limit"] += len(judged) - self.limit
            judged = judged[: self.limit]
        unknown = {id for query in judged for id in self.qrels[query] if id not in self.documents}
        if unknown:  # they stay in the qrels, and count as not found
            self.missing["judged document", "outside of the corpus"] += len(unknown)
        candidates = {}
        for id in judged:
            if id in self.candidates:
                candidates[id] = [document for document in self.candidates[id] if document in self.documents]
                lost = len(self.candidates[id]) - len(candidates[id])
                self.missing.update({("candidate", "outside of the corpus"): lost} if lost else {})
        own = {id: self.instructions.get(id, instruction) for id in judged}
        return Dataset(
            name,
            list(self.documents.values()),
            {id: self.queries[id] for id in judged},
            {id: self.qrels[id] for id in judged},
            {id: text for id, text in own.items() if text},
            candidates,
            self.notes(),
        )

    def notes(self) -> tuple[str, ...]:
        counted = tuple(f"{number(count, noun)} {kind}" for (noun, kind), count in self.missing.items())
        return (*counted, *self.columns)


def _read_judged(reader: Reader) -> None:
    """Read the tables corpus, queries and qrels, and, if they exist, top_ranked and instruction."""
    _read_corpus(reader)
    _read_queries(reader)
    folder = reader.tables["qrels"]
    query, document = reader.one_of("qrels", _QUERY_ID), reader.one_of("qrels", ("corpus_ids", *_DOCUMENT_ID))
    score = reader.optional("qrels", "score", "scores")
    for row in folder.rows(reader.used("qrels", query, document, score)):
        many = isinstance(row[document], list)
        documents = row[document] if many else [row[document]]
        scores = [1] * len(documents) if score is None else row[score] if many else [row[score]]
        for id, grade in zip(documents, scores, strict=True):
            if grade > 0:
                grades = reader.qrels.setdefault(str(row[query]), {})
                grades[str(id)] = max(int(grade), grades.get(str(id), 0))
    if "top_ranked" in reader.tables:
        query, ids = reader.one_of("top_ranked", _QUERY_ID), reader.one_of("top_ranked", ("corpus-ids", "corpus_ids"))
        for row in reader.tables["top_ranked"].rows(reader.used("top_ranked", query, ids)):
            reader.candidates[str(row[query])] = [str(id) for id in row[ids]]
    if "instruction" in reader.tables:
        query = reader.one_of("instruction", _QUERY_ID)
        for row in reader.tables["instruction"].rows(reader.used("instruction", query, "instruction")):
            reader.instructions[str(row[query])] = row["instruction"] or ""


def _read_corpus(reader: Reader) -> None:
    table = reader.tables["corpus"]
    id = reader.one_of("corpus", _DOCUMENT_ID)
    title, text = reader.optional("corpus", "title"), reader.optional("corpus", "text")
    image = reader.optional("corpus", "image", "image_path")
    video = reader.optional("corpus", "video", "video_paths")
    if text is None and image is None and video is None:
        reader.one_of("corpus", ("text", "image", "image_path", "video", "video_paths"))
    for row in table.rows(reader.used("corpus", id, title, text, image, video)):
        words = f"{(row[title] if title else '') or ''} {(row[text] if text else '') or ''}".strip()
        picture = reader.places.image(row[image], table.folder) if image else None
        clip: Video = None
        if video and isinstance(row[video], list):
            clip = tuple(reader.places.find(frame, table.folder) for frame in row[video]) or None
        elif video and row[video]:
            clip = reader.places.find(row[video], table.folder)
        reader.document(str(row[id]), words, picture, clip)


def _read_queries(reader: Reader) -> None:
    table = reader.tables["queries"]
    id, image = reader.one_of("queries", _QUERY_ID), reader.optional("queries", "image", "image_path")
    text = reader.optional("queries", "query", "text")
    if text is None and image is None:
        reader.one_of("queries", ("query", "text", "image", "image_path"))
    language, instruction = reader.optional("queries", "language"), reader.optional("queries", "instruction")
    if reader.language and language is None and reader.names[0] != f"{table.folder.name}-{reader.language}":
        reader.one_of("queries", ("language",))
    for row in table.rows(reader.used("queries", id, text, image, language, instruction)):
        if reader.language and language and row[language] != reader.language:
            reader.missing["query", "in another language"] += 1
            reader.elsewhere.add(str(row[id]))
            continue
        picture = reader.places.image(row[image], table.folder) if image else None
        words = (row[text] if text else "") or ""
        if str(row[id]) in reader.queries:
            raise InvalidInput(
                f"{table.folder}: two queries have the id {row[id]!r}; give each query an id of its own, or choose a "
                "language"
            )
        reader.query(str(row[id]), words, picture, (row[instruction] if instruction else "") or "")


def _read_candidates(reader: Reader) -> None:
    """Read rows of MMEB-V2. The first candidate of a row is the relevant one.

    A candidate's id is a hash, so that equal scores are not sorted by the place in the list.
    """
    table = reader.tables["rows"]
    names = ("qry_inst", "qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
    columns = [reader.optional("rows", name) for name in names]
    for i, row in enumerate(table.rows(reader.used("rows", *columns))):
        query = f"q{i:06d}"
        picture = reader.places.image(row.get("qry_img_path"), table.folder)
        instruction = (row.get("qry_inst") or "").replace(_IMAGE_MARK, "").strip()
        reader.query(query, (row["qry_text"] or "").replace(_IMAGE_MARK, "").strip(), picture, instruction)
        ids = []
        texts, images = row["tgt_text"] or [], row.get("tgt_img_path") or []
        length = len(images) if any(images) else len(texts)
        for place in range(length):
            text = ((texts[place] if place < len(texts) else "") or "").strip()
            image = (images[place] if place < len(images) else "") or ""
            id = hashlib.blake2b(f"{image}\0{text}".encode(), digest_size=10).hexdigest()
            if id not in reader.documents:
                reader.document(id, text, reader.places.image(image, table.folder))
            ids.append(id)
        reader.candidates[query] = list(dict.fromkeys(ids))
        reader.qrels[query] = {ids[0]: 1} if ids else {}


def _read_videos(reader: Reader) -> None:
    """Read rows of a video and its captions. The first caption is the query, and all videos are ranked."""
    table = reader.tables["rows"]
    captions, video = reader.one_of("rows", _CAPTIONS), reader.one_of("rows", _VIDEOS)
    id = reader.optional("rows", *_VIDEO_ID)
    for i, row in enumerate(table.rows(reader.used("rows", captions, video, id))):
        path = str(row[video])
        name = str(row[id]) if id else Path(path).stem
        if name not in reader.documents:
            reader.document(name, video=_video(reader, path, name))
        caption = row[captions]
        if isinstance(caption, list):
            if len(caption) > 1:
                reader.missing["other caption", "of a video"] += len(caption) - 1
            caption = caption[0] if caption else ""
        reader.query(f"q{i:06d}", caption or "")
        reader.qrels[f"q{i:06d}"] = {name: 1}


def _video(reader: Reader, path: str, name: str) -> Video:
    """Return a video: its file, or its frames if only these are there.

    ``path`` may lack the suffix, or name folders of another machine. The frames are in a folder with the ``name`` of
    the video, as MMEB-V2 publishes them.
    """
    folder = reader.tables["rows"].folder
    roots = [place / part for place in (*reader.places.searched, folder) for part in ("", "video-tasks")]
    tasks = [task for task in reader.names if not task.startswith("test")]
    below = ["", "videos", *(f"videos/video_ret/{task}" for task in tasks), *tasks]
    for file in (
        root / part / stem for root in roots for part in below for stem in (path.lstrip("/"), Path(path).name)
    ):
        found = next((other for suffix in _VIDEO_SUFFIXES if (other := Path(f"{file}{suffix}")).is_file()), None)
        if found:
            return found
    below = ["", "frames"]
    for task in tasks:
        inner = f"frames/video_ret/data/ziyan/video_retrieval/{task}/frames"  # as the archive of MMEB-V2 unpacks
        below += [inner, f"frames/video_ret/{task}/frames", f"frames/video_ret/{task}", f"{task}/frames", task]
    for root in roots:
        for part in below:
            if (root / part / name).is_dir() and (frames := _frames(root / part / name)):
                return frames
    raise InvalidInput(
        f"{folder}: neither the video {path!r} nor a folder {name!r} with its frames is below "
        f"{', '.join(map(str, dict.fromkeys(roots)))}; name the folder of the videos with --media"
    )


def _frames(folder: Path) -> tuple[Path, ...]:
    """Return the images in ``folder`` in the order of the numbers in their names. Of more than 64, 64 are returned."""
    images = [path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    images.sort(key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)])
    if len(images) >= _MOST_FRAMES:
        images = [images[i] for i in np.linspace(0, len(images) - 1, _MOST_FRAMES, dtype=int)]
    return tuple(images)


def _read_pages(reader: Reader) -> None:
    """Read rows of a page image and a question. A page and a question may be in several rows (ViDoRe V1)."""
    table = reader.tables["rows"]
    language = reader.optional("rows", "language")
    ids: dict[str, str] = {}
    for row in table.rows(reader.used("rows", "query", "image", "image_filename", language)):
        page = str(row["image_filename"])
        if page not in reader.documents:
            reader.document(page, image=reader.places.image(row["image"], table.folder))
        if not row["query"]:
            reader.missing["row", "without a query"] += 1  # its page is in the corpus
            continue
        if reader.language and row.get("language") != reader.language:
            reader.missing["query", "in another language"] += 1
            continue
        query = ids.setdefault(row["query"], f"q{len(ids):06d}")
        reader.query(query, row["query"])
        reader.qrels.setdefault(query, {})[page] = 1


READERS: dict[str, Callable[[Reader], None]] = {
    "judged": _read_judged,
    "candidates": _read_candidates,
    "videos": _read_videos,
    "pages": _read_pages,
}
# Whether a table has the columns of a layout with one table.
COLUMNS: dict[str, Callable[[set[str]], bool]] = {
    "candidates": lambda columns: {"qry_text", "tgt_text"} <= columns,
    "pages": lambda columns: {"query", "image", "image_filename"} <= columns,
    "videos": lambda columns: bool(columns & set(_CAPTIONS)) and bool(columns & set(_VIDEOS)),
}
