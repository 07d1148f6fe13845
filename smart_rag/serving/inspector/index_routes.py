"""What the page asks about an index as a whole: questions to try, and new weights."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from smart_rag.demo import sample_questions
from smart_rag.index.search import automatic_first_stage
from smart_rag.index.smart_index import SmartIndex
from smart_rag.serving.answers import answer
from smart_rag.serving.inspector.judgements import Judgements
from smart_rag.serving.problems import Refused
from smart_rag.serving.served_index import ServedIndex
from smart_rag.types import Document

_EXAMPLES = 4
_CHECKED = 50  # questions of a check of the first stage
# Passages among which the examples are chosen.
_READ = 200
_SENTENCE = re.compile(r"[^\s.!?#*|>-][^.!?\n|]{20,110}(?=[.!?\n])")


class WeightsBody(BaseModel):
    """The weights of the pooled and of the late score."""

    model_config = ConfigDict(strict=True, extra="forbid")

    weights: Annotated[list[float], Field(min_length=2, max_length=2)]


def index_routes(served: ServedIndex) -> APIRouter:
    """Return the endpoints of the index ``served`` as a whole."""
    router = APIRouter()

    @router.get("/examples")
    async def examples() -> Response:
        """Return a few questions that the index can answer, for a page that has none yet."""
        return answer({"examples": await served.read(lambda: _examples(served.index))})

    @router.put("/weights")
    async def weights(body: WeightsBody) -> Response:
        """Give the index new weights. Other programs, and other workers, use them when they open the index again."""
        await served.set_weights((body.weights[0], body.weights[1]))
        return answer({"weights": list(served.index.manifest.weights)})

    @router.post("/check")
    async def check() -> Response:
        """Return which share of the true first 10 hits a search finds, over some questions."""
        judged = await served.read(Judgements(served.index).read)
        return answer(await served.read(lambda: _check(served.index, list(judged)[:_CHECKED])))

    return router


def _check(index: SmartIndex, judged: list[str]) -> dict[str, Any]:
    """Compare a search with one that scores all documents. Without ``judged`` queries, sentences of documents ask."""
    count = index.count()
    documents = islice(index.documents(), 0, None, max(1, count // _CHECKED))
    queries = judged or list(dict.fromkeys(filter(None, map(_sentence, islice(documents, _CHECKED)))))
    if not queries:
        raise Refused(422, "the index has no text to ask about")
    encoded = index.encode_queries(queries)
    ways = (index.search_many(queries, 10, encoded=encoded, first_stage=one) for one in ("auto", "exhaustive"))
    found, true = ([{hit.id for hit in hits} for hits in way] for way in ways)
    shares = [len(some & all_) / len(all_) for some, all_ in zip(found, true, strict=True) if all_]
    return {
        "questions": len(queries),
        "judged": bool(judged),
        "found": sum(shares) / max(1, len(shares)),
        "scores_all": automatic_first_stage(count) == "exhaustive",
    }


def _examples(index: SmartIndex) -> list[str]:
    """Return questions about the samples, if they are in the index, or else sentences of some documents."""
    documents = list(islice(index.documents(), _READ))
    names = {PurePath(str(document.metadata.get("source", ""))).name for document in documents}
    known = [question.question for question in sample_questions() if question.demo and question.source in names]
    if known:
        return known[:_EXAMPLES]
    step = max(1, len(documents) // _EXAMPLES)
    sentences = (_sentence(document) for document in documents[::step])
    return list(dict.fromkeys(sentence for sentence in sentences if sentence))[:_EXAMPLES]


def _sentence(document: Document) -> str:
    found = _SENTENCE.search(document.text[:2000])
    return " ".join(found[0].split()) if found else " ".join(document.text[:60].split())
