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
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smart_rag.errors import InvalidInput
from smart_rag.evaluation.datasets import Dataset, Unreadable, unreadable_notes
from smart_rag.evaluation.paper.media import Places, Video
from smart_rag.evaluation.paper.tables import Table
from smart_rag.evaluation.qrels import Qrels
from smart_rag.types import Content, Document
from smart_rag.wording import number

_DOCUMENT_ID = ("corpus-id", "corpus_id", "_id", "id", "docid", "doc_id")
_QUERY_ID = ("query-id", "query_id", "_id", "id", "qid")
_VIDEO_ID = ("video_id", "id", "videoID")
_CAPTIONS = ("caption", "sentence", "enCap")
_VIDEOS = ("video", "video_path", "videoID")
_ANOTHER_LANGUAGE = ("query", "in another language")
# The texts of MMEB hold this mark where the image belongs. The template of the model puts the image there.
_IMAGE_MARK = "<|image_1|>"


@dataclass(slots=True)
class Reader:
    """Collects the parts of a dataset, and counts what is left out.

    ``elsewhere`` holds the queries that are in the table, but not in ``queries``. ``unreadable`` has the reason of each
    document or query that cannot be read, by its kind and id.
    """

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
    languages: set[str] = field(default_factory=set)
    unreadable: dict[tuple[str, str], str] = field(default_factory=dict)
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
        """Add a query.

        Raises:
            InvalidInput: an earlier query with this id has another content.
        """
        content = Content(text, image)
        if not content.modality:
            self.missing["query", "without text or image"] += 1
            self.elsewhere.add(id)
        elif self.queries.get(id, content.plain) != content.plain:
            raise InvalidInput(
                f"{self.folder}: two queries have the id {id}; give each query an id of its own, or choose a language"
            )
        else:
            self.missing.update({("query", "with the id of an earlier one"): 1} if id in self.queries else {})
            self.queries[id] = content.plain
            if instruction:
                self.instructions[id] = instruction

    @contextmanager
    def reading(self, kind: str, id: str) -> Iterator[None]:
        """A context for the values of one document or query. If one of them cannot be read, the row is left out."""
        try:
            yield
        except InvalidInput as error:
            self.unreadable[kind, id] = str(error)
            self.elsewhere.update([id] if kind == "query" else [])

    def id(self, value: Any, kind: str) -> str:
        """Return an id as a str. It is empty if the row has none, and the row is counted as left out."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # a column of whole numbers with a gap has floats
        id = str(value) if isinstance(value, str | int) else ""
        self.missing.update({} if id else {(kind, "without an id"): 1})
        return id

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
            f"{self.folder}: the table {self.tables[table].name!r} has the columns {', '.join(columns) or '(none)'}; "
            f"expected one of {', '.join(names)}"
        )

    def optional(self, table: str, *names: str) -> str | None:
        columns = self.tables[table].columns
        return next((name for name in names if name in columns), None)

    def language_column(self, table: str) -> str | None:
        """Return the column with the language of a query, if there is one.

        Raises:
            InvalidInput: there is none, and `language` is to be chosen.
        """
        column = self.optional(table, "language")
        if self.language and column is None and self.names[0] != f"{self.folder.name}-{self.language}":
            raise InvalidInput(
                f"{self.folder}: the table {self.tables[table].name!r} has no column 'language', so the queries in "
                f"{self.language!r} cannot be told; leave out --language"
            )
        return column

    def is_wanted(self, language: Any) -> bool:
        """Return whether queries in this language are kept. Count one that is not."""
        if not self.language or language == self.language:
            return True
        self.missing[_ANOTHER_LANGUAGE] += 1
        self.languages.add(str(language))
        return False

    def dataset(self, name: str, instruction: str) -> Dataset:
        judged = [id for id in self.queries if self.qrels.get(id)]
        unjudged = len(self.queries) - len(judged)
        if unjudged:
            self.missing["query", "without a relevant document"] += unjudged
        unreadable = tuple(Unreadable(kind, id, reason) for (kind, id), reason in self.unreadable.items())
        if not judged or not self.documents:
            left_out = "; ".join((*unreadable_notes(unreadable), *self.notes())) or "nothing"
            others = f"; the languages are {', '.join(sorted(self.languages))}" if self.languages else ""
            raise InvalidInput(
                f"{self.folder}: {number(len(self.documents), 'document')} and "
                f"{number(len(judged), 'judged query')} are left; left out: {left_out}{others}"
            )
        strange = sum(id not in self.queries and id not in self.elsewhere for id in self.qrels)
        if strange:
            self.missing["judged query", "outside of the table of queries"] += strange
        if self.limit is not None and self.limit < len(judged):
            self.missing["query", "after the limit"] += len(judged) - self.limit
            judged = judged[: self.limit]
        known = {*self.documents, *(id for kind, id in self.unreadable if kind == "document")}
        unknown = {id for query in judged for id in self.qrels[query]} - known
        if unknown:  # they stay in the qrels, and count as not found
            self.missing["judged document", "outside of the corpus"] += len(unknown)
        candidates = {}
        for id in judged:
            if id in self.candidates:
                candidates[id] = [document for document in self.candidates[id] if document in self.documents]
                lost = sum(document not in known for document in self.candidates[id])
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
            unreadable,
        )

    def notes(self) -> tuple[str, ...]:
        counted = tuple(f"{number(count, noun)} {kind}" for (noun, kind), count in self.missing.items())
        return (*counted, *self.columns)


def _words(value: Any) -> str:
    """Return a text in a table. A number is a text, too.

    Raises:
        InvalidInput: the value is a list, or of another type.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str | int | float):
        raise InvalidInput(f"a text of the type {type(value).__name__}; expected a str")
    return str(value)


def _grade(value: Any) -> int | None:
    """Return a grade, or None if ``value`` is no whole number."""
    try:
        grade = float(value)
    except (TypeError, ValueError):
        return None
    return int(grade) if grade.is_integer() else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _read_judged(reader: Reader) -> None:
    """Read the tables corpus, queries and qrels, and, if they exist, top_ranked and instruction."""
    _read_corpus(reader)
    _read_queries(reader)
    _read_qrels(reader)
    if "top_ranked" in reader.tables:
        query, ids = reader.one_of("top_ranked", _QUERY_ID), reader.one_of("top_ranked", ("corpus-ids", "corpus_ids"))
        for row in reader.tables["top_ranked"].rows(reader.used("top_ranked", query, ids)):
            if id := reader.id(row[query], "list of candidates"):
                found = (reader.id(each, "candidate") for each in _list(row[ids]))
                reader.candidates[id] = [each for each in found if each]
    if "instruction" in reader.tables:
        query = reader.one_of("instruction", _QUERY_ID)
        text = reader.one_of("instruction", ("instruction",))
        for row in reader.tables["instruction"].rows(reader.used("instruction", query, text)):
            if id := reader.id(row[query], "instruction"):
                with reader.reading("instruction", id):
                    reader.instructions[id] = _words(row[text])


def _read_qrels(reader: Reader) -> None:
    query, document = reader.one_of("qrels", _QUERY_ID), reader.one_of("qrels", ("corpus_ids", *_DOCUMENT_ID))
    score = reader.optional("qrels", "score", "scores")
    for row in reader.tables["qrels"].rows(reader.used("qrels", query, document, score)):
        many = isinstance(row[document], list)
        documents = row[document] if many else [row[document]]
        scores = [1] * len(documents) if score is None else _list(row[score]) if many else [row[score]]
        if len(scores) != len(documents):
            reader.missing["judgement", "with fewer or more grades than documents"] += 1
            continue
        asked = reader.id(row[query], "judgement")
        for value, grade in zip(documents, map(_grade, scores), strict=True):
            id = reader.id(value, "judgement") if asked else ""
            if grade is None:
                reader.missing["judgement", "without a grade that is a whole number"] += 1
            elif id and grade > 0:
                grades = reader.qrels.setdefault(asked, {})
                if id in grades:
                    reader.missing["judgement", "of the same query and document as an earlier one"] += 1
                grades[id] = max(grade, grades.get(id, 0))


def _read_corpus(reader: Reader) -> None:
    table = reader.tables["corpus"]
    key = reader.one_of("corpus", _DOCUMENT_ID)
    title, text = reader.optional("corpus", "title"), reader.optional("corpus", "text")
    image = reader.optional("corpus", "image", "image_path")
    video = reader.optional("corpus", "video", "video_paths")
    if text is None and image is None and video is None:
        reader.one_of("corpus", ("text", "image", "image_path", "video", "video_paths"))
    for row in table.rows(reader.used("corpus", key, title, text, image, video)):
        if id := reader.id(row[key], "document"):
            with reader.reading("document", id):
                words = " ".join(_words(row[column]) for column in (title, text) if column).strip()
                picture = reader.places.image(row[image], table.folder) if image else None
                clip: Video = None
                if video and isinstance(row[video], list):
                    clip = tuple(reader.places.find(_words(frame), table.folder) for frame in row[video]) or None
                elif video and row[video]:
                    clip = reader.places.find(_words(row[video]), table.folder)
                reader.document(id, words, picture, clip)


def _read_queries(reader: Reader) -> None:
    table = reader.tables["queries"]
    key, image = reader.one_of("queries", _QUERY_ID), reader.optional("queries", "image", "image_path")
    text = reader.optional("queries", "query", "text")
    if text is None and image is None:
        reader.one_of("queries", ("query", "text", "image", "image_path"))
    language, instruction = reader.language_column("queries"), reader.optional("queries", "instruction")
    for row in table.rows(reader.used("queries", key, text, image, language, instruction)):
        id = reader.id(row[key], "query")
        if not id:
            continue
        if language and not reader.is_wanted(row[language]):
            reader.elsewhere.add(id)
            continue
        words, picture, own = "", None, ""
        with reader.reading("query", id):
            words = _words(row[text]) if text else ""
            own = _words(row[instruction]) if instruction else ""
            picture = reader.places.image(row[image], table.folder) if image else None
        if ("query", id) not in reader.unreadable:
            reader.query(id, words, picture, own)


def _read_candidates(reader: Reader) -> None:
    """Read rows of MMEB-V2. The first candidate of a row is the relevant one.

    As in the code of MMEB-V2 and of the paper, an image is one candidate, with the text of the first row that has it.
    A candidate's id is a hash, so that equal scores are not sorted by the place in the list.
    """
    table = reader.tables["rows"]
    reader.language_column("rows")
    names = ("qry_inst", "qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
    columns = [reader.optional("rows", name) for name in names]
    for i, row in enumerate(table.rows(reader.used("rows", *columns))):
        query = f"q{i:06d}"
        with reader.reading("query", query):
            picture = reader.places.image(row.get("qry_img_path"), table.folder)
            words, instruction = (
                _words(row.get(name)).replace(_IMAGE_MARK, "").strip() for name in ("qry_text", "qry_inst")
            )
            reader.query(query, words, picture, instruction)
        if query not in reader.queries:
            continue
        texts, images = _list(row["tgt_text"]), _list(row.get("tgt_img_path"))
        ids = []
        for place in range(len(images) if any(images) else len(texts)):
            image = (images[place] if place < len(images) else "") or ""
            text = texts[place] if place < len(texts) else ""
            id = hashlib.blake2b(f"{image}\0{'' if image else text}".encode(), digest_size=10).hexdigest()
            ids.append(id)
            if ("document", id) in reader.unreadable:
                continue
            with reader.reading("document", id):
                words = _words(text).strip()
                if id not in reader.documents:
                    reader.document(id, words, reader.places.image(image, table.folder))
                elif reader.documents[id].text != words:
                    reader.missing["text", "of an image that has another one in an earlier row"] += 1
        reader.candidates[query] = list(dict.fromkeys(ids))
        reader.qrels[query] = {ids[0]: 1} if ids else {}


def _read_videos(reader: Reader) -> None:
    """Read rows of a video and its captions. The first caption is the query, and all videos are ranked."""
    table = reader.tables["rows"]
    reader.language_column("rows")
    captions, video = reader.one_of("rows", _CAPTIONS), reader.one_of("rows", _VIDEOS)
    key = reader.optional("rows", *_VIDEO_ID)
    tasks = [task for task in reader.names if not task.startswith("test")]
    for i, row in enumerate(table.rows(reader.used("rows", captions, video, key))):
        value = row[video]
        path = _words(value.get("path") if isinstance(value, Mapping) else value)
        name = reader.id(row[key] if key else Path(path).stem, "row")
        if not name:
            continue
        if name not in reader.documents:
            with reader.reading("document", name):
                reader.document(name, video=reader.places.video(path, name, table.folder, tasks))
        own = _list(row[captions])
        if len(own) > 1:
            reader.missing["other caption", "of a video"] += len(own) - 1
        query = f"q{i:06d}"
        with reader.reading("query", query):
            reader.query(query, _words(own[0]) if own else "")
            reader.qrels[query] = {name: 1}


def _read_pages(reader: Reader) -> None:
    """Read rows of a page image and a question. A page and a question may be in several rows (ViDoRe V1)."""
    table = reader.tables["rows"]
    language = reader.language_column("rows")
    ids: dict[str, str] = {}
    for row in table.rows(reader.used("rows", "query", "image", "image_filename", language)):
        page = reader.id(row["image_filename"], "row")
        if not page:
            continue
        if page not in reader.documents and ("document", page) not in reader.unreadable:
            with reader.reading("document", page):
                reader.document(page, image=reader.places.image(row["image"], table.folder))
        text = ""
        with reader.reading("query", page):
            text = _words(row["query"])
        if not text:
            reader.missing["row", "without a query"] += 1  # its page is in the corpus
        elif not language or reader.is_wanted(row[language]):
            query = ids.setdefault(text, f"q{len(ids):06d}")
            if query not in reader.queries:
                reader.query(query, text)
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
