"""Endpoints of one index in our own shapes: search, rerank, documents, images, and what is known of the index."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from smart_rag.config import DEFAULT_IMAGE_PIXELS
from smart_rag.files import jpeg
from smart_rag.index.smart_index import SmartIndex
from smart_rag.index.stopwatch import Stopwatch
from smart_rag.index.writing.documents import documents_of_texts
from smart_rag.json_shapes import counts_json, document_json, hit_json
from smart_rag.reports import AddReport
from smart_rag.serving.answers import answer, answer_of, found_json, info_json
from smart_rag.serving.bodies import (
    DocumentBody,
    DocumentsBody,
    IdsBody,
    RerankBody,
    SearchBody,
    SearchManyBody,
    SearchOptions,
)
from smart_rag.serving.problems import Refused
from smart_rag.serving.served_index import Found, ServedIndex
from smart_rag.types import Document, Hit

# A page of A4 has 200 dpi.
_MOST_PIXELS = 4_000_000


def routes(served: ServedIndex) -> APIRouter:
    """Return the endpoints of the index ``served``."""
    router = APIRouter()

    async def find(queries: list[str], body: SearchOptions, stopwatch: Stopwatch) -> list[Found]:
        served.check_hits("top_k", body.top_k)
        served.check_hits("candidates", body.candidates)
        return await served.search(queries, body.top_k, body.neighbours, stopwatch, **body.of_search())

    @router.post("/search")
    async def search(body: SearchBody) -> Response:
        """Return the best passages for a query. A hit has the shape of `smart-rag search --json`."""
        stopwatch = Stopwatch()
        (found,) = await find([body.query], body, stopwatch)
        times = {stage: round(sum(values), 3) for stage, values in stopwatch.milliseconds.items()}
        return await answer_of(lambda: {**found_json(found), "milliseconds": times})

    @router.post("/search_many")
    async def search_many(body: SearchManyBody) -> Response:
        """Return the best passages for each of several queries."""
        results = await find(body.queries, body, Stopwatch())
        return await answer_of(lambda: {"results": list(map(found_json, results))})

    @router.post("/rerank")
    async def rerank(body: RerankBody) -> Response:
        """Rank texts, or documents of the index, by a query. The id of a text is its position."""
        documents = await _to_rank(served, body)
        hits = await served.rerank(body.query, documents, body.top_k, weights=body.weights, weighting=body.weighting)
        return await answer_of(lambda: {"hits": list(map(hit_json, hits))})

    @router.post("/documents")
    async def add(body: DocumentsBody) -> Response:
        """Write documents. A document with the id of another replaces it. The answer has the ids in their order."""
        served.check_number(len(body.documents), "document")
        documents = list(map(_document, body.documents))

        def write(index: SmartIndex) -> AddReport:
            return index.add(documents)

        report = await served.write(write)
        return answer({**counts_json(report), "ids": [document.id for document in documents]})

    @router.delete("/documents")
    async def delete(body: IdsBody) -> Response:
        """Remove documents by their ids. The answer has the number of documents that existed."""
        served.check_number(len(body.ids), "id")
        return answer({"removed": await served.write(lambda index: index.delete(body.ids))})

    # An id may have slashes, such as that of a file's passage.
    @router.get("/documents/{id:path}")
    async def document(id: str) -> Response:
        """Return a document of the index."""
        return answer(document_json(await _document_of(served, id)))

    @router.get("/images/{id:path}", responses={200: {"content": {"image/jpeg": {}}}})
    async def image(
        id: str, max_pixels: Annotated[int, Query(ge=1, le=_MOST_PIXELS)] = DEFAULT_IMAGE_PIXELS
    ) -> Response:
        """Return the image of a document, such as its page, as a JPEG that the server has drawn anew."""
        source = (await _document_of(served, id)).image
        if source is None:
            raise Refused(404, f"the document {id!r} has no image")
        return Response(await served.read(lambda: jpeg(source, max_pixels)), media_type="image/jpeg")

    @router.get("/info")
    async def info() -> Response:
        """Return the contents, the size and the settings of the index."""
        return answer(info_json(served.name, await served.read(served.index.info)))

    return router


def _document(body: DocumentBody) -> Document:
    (document,) = documents_of_texts([body.text], None if body.id is None else [body.id], [body.metadata])
    return document


async def _document_of(served: ServedIndex, id: str) -> Document:
    found = await served.read(lambda: served.index.get([id]))
    if not found:
        raise Refused(404, f"no document {id!r} in the index")
    return found[0]


async def _to_rank(served: ServedIndex, body: RerankBody) -> list[Hit] | list[str]:
    """Return what ``body`` wants to be ranked."""
    if (body.documents is None) == (body.ids is None):
        raise Refused(422, "give either documents, which are texts, or ids of documents of the index")
    if body.ids is None:
        return body.documents or []
    ids = list(dict.fromkeys(body.ids))
    served.check_number(len(ids), "id")
    found = await served.read(lambda: served.index.get(ids))
    if len(found) < len(ids):
        absent = sorted(set(ids).difference(document.id for document in found))
        raise Refused(404, f"no document {absent[0]!r} in the index ({len(absent)} of the ids are not)")
    return [Hit(one.id, one.text, one.metadata, 0.0, 0.0, 0.0, 1, one.image, one.video) for one in found]
