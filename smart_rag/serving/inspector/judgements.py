"""Judgements that people make on the page, as queries and qrels that `smart-rag eval` and `tune` read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from smart_rag.errors import InvalidInput
from smart_rag.evaluation.differences import FEWEST_QUERIES
from smart_rag.evaluation.tuner import Setting, Tuning, tune
from smart_rag.index.smart_index import SmartIndex
from smart_rag.serving.answers import answer
from smart_rag.serving.problems import Refused
from smart_rag.serving.served_index import ServedIndex
from smart_rag.values import is_unicode

_MOST_BYTES = 100_000_000  # of the file
_Grade = Annotated[int, Field(ge=0, le=2)]
# Query, document: the last grade and the last note.
_Judged = dict[str, dict[str, tuple[int | None, str]]]


class JudgementBody(BaseModel):
    """How relevant a document is for a query: 2 relevant, 1 partly, 0 not, or null for no judgement."""

    model_config = ConfigDict(strict=True, extra="forbid")

    query: Annotated[str, Field(min_length=1, max_length=10_000)]
    id: Annotated[str, Field(min_length=1, max_length=10_000)]
    grade: _Grade | None
    note: Annotated[str, Field(max_length=2_000)] = ""


class JudgementsBody(BaseModel):
    """Judgements of before, such as those of another index with the same documents."""

    model_config = ConfigDict(strict=True, extra="forbid")

    judgements: list[JudgementBody]


def judgement_routes(served: ServedIndex) -> APIRouter:
    """Return the endpoints for judgements on the index ``served``."""
    router = APIRouter(prefix="/judgements")
    kept = Judgements(served.index)

    @router.get("")
    async def judgements() -> Response:
        """Return the judged queries, and the grade and the note of each of their documents."""
        judged = await served.read(kept.read)
        queries = [
            {
                "query": query,
                "documents": {id: {"grade": grade, "note": note} for id, (grade, note) in of_query.items()},
            }
            for query, of_query in judged.items()
        ]
        return answer({"queries": queries, "needed": FEWEST_QUERIES})

    @router.post("")
    async def judge(body: JudgementBody) -> Response:
        """Keep a judgement. It takes the place of an earlier one of the same query and document."""
        await served.read(lambda: kept.add([body]))
        return answer({"kept": 1})

    @router.post("/import")
    async def take(body: JudgementsBody) -> Response:
        """Keep several judgements."""
        served.check_number(len(body.judgements), "judgement")
        await served.read(lambda: kept.add(body.judgements))
        return answer({"kept": len(body.judgements)})

    @router.get("/queries.jsonl")
    async def queries() -> Response:
        """Return the judged queries as a file for `smart-rag eval` and `tune`."""
        judged = await served.read(kept.read)
        lines = (json.dumps({"_id": id_of(query), "text": query}, ensure_ascii=False) for query in graded(judged))
        return _file("queries.jsonl", "".join(f"{line}\n" for line in lines))

    @router.get("/qrels.tsv")
    async def qrels() -> Response:
        """Return the grades as a file for `smart-rag eval` and `tune`. What has no grade is not in it."""
        judged = await served.read(kept.read)
        rows = [
            f"{id_of(query)}\t{id}\t{grade}\n"
            for query, of_query in graded(judged).items()
            for id, grade in of_query.items()
        ]
        return _file("qrels.tsv", "query-id\tcorpus-id\tscore\n" + "".join(rows))

    @router.post("/tune")
    async def try_weights() -> Response:
        """Return the weights that suit the judgements best, and their gain on other queries. Nothing is changed."""
        judged = graded(await served.read(kept.read))
        texts = {id_of(query): query for query in judged}
        return answer(
            await served.read(
                lambda: _tuned(tune(served.index, texts, {id_of(query): grades for query, grades in judged.items()}))
            )
        )

    return router


class Judgements:
    """The judgements on ``index``, in a file beside it. Several windows, and several workers, may write at a time.

    Each judgement is a line at the end of the file, and the last one of a query and a document counts.
    """

    def __init__(self, index: SmartIndex) -> None:
        folder = index.path.resolve()
        self.path = folder.with_name(f"{folder.name}.judgements.jsonl")
        self._lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), thread_local=False)

    def add(self, judgements: list[JudgementBody]) -> None:
        """Keep ``judgements``, all or none.

        Raises:
            Refused: one of them is not Unicode, has an id that no qrels file can hold, or the file is full.
        """
        for one in judgements:
            if not is_unicode(one.query + one.id + one.note):
                raise Refused(422, "a judgement holds a lone surrogate; expected Unicode")
            if not one.query.strip() or any(sign in one.id for sign in "\t\r\n"):
                raise Refused(422, "a judgement needs a query, and an id without tabs and line ends")
        lines = "".join(f"{json.dumps(one.model_dump(), ensure_ascii=False)}\n" for one in judgements).encode()
        with self._lock:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "r+b") as file:
                size = file.seek(0, os.SEEK_END)
                if size + len(lines) > _MOST_BYTES:
                    raise Refused(507, f"{self.path.name} would have more than 100 MB; move it away to begin anew")
                file.seek(max(0, size - 1))
                # A process that was killed while it wrote may have left half of a line.
                file.write((b"" if size == 0 or file.read(1) == b"\n" else b"\n") + lines)

    def read(self) -> _Judged:
        """Return the judgements in the order of their queries. What has neither a grade nor a note is left out."""
        judged: _Judged = {}
        for one in self._lines():
            of_query = judged.setdefault(one.query, {})
            of_query.pop(one.id, None)
            if one.grade is not None or one.note:
                of_query[one.id] = (one.grade, one.note)
        return {query: of_query for query, of_query in judged.items() if of_query}

    def _lines(self) -> Iterator[JudgementBody]:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return
        lines = content.split(b"\n")
        for i, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield JudgementBody.model_validate_json(line)
            except ValueError as error:
                if i == len(lines):  # it is being written, or was when the power failed
                    return
                raise InvalidInput(
                    f"{self.path.name}, line {i}: no judgement; mend or remove the line, all others are kept"
                ) from error


def graded(judged: _Judged) -> dict[str, dict[str, int]]:
    """Return the grades alone, of queries that have some."""
    grades = {
        query: {id: grade for id, (grade, _) in of_query.items() if grade is not None}
        for query, of_query in judged.items()
    }
    return {query: of_query for query, of_query in grades.items() if of_query}


def id_of(query: str) -> str:
    """Return the id of a query in the files. It is the same whenever the files are made."""
    return hashlib.sha256(query.encode()).hexdigest()[:16]


def _tuned(found: Tuning) -> dict[str, Any]:
    def of(setting: Setting) -> dict[str, Any]:
        return {"weights": list(setting.weights), "weighting": setting.weighting, "ndcg": found.scores[setting]}

    return {
        "queries": found.queries,
        "now": of(found.current),
        "proposed": of(found.choice),
        "gain": found.held_out.as_json("mean"),
        "is_worth_it": found.is_worth_it,
        "notes": list(found.notes),
    }


def _file(name: str, text: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Content-Security-Policy": "sandbox"}
    return Response(text.encode(), 200, headers, "text/plain; charset=utf-8")
