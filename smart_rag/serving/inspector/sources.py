"""The files of an index for the page: what is there, new files, and files to remove."""

from __future__ import annotations

import os
import re
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from smart_rag.index.smart_index import SmartIndex
from smart_rag.json_shapes import counts_json, document_json
from smart_rag.reports import AddReport
from smart_rag.serving.answers import answer
from smart_rag.serving.problems import Refused
from smart_rag.serving.served_index import ServedIndex
from smart_rag.types import chunk_of
from smart_rag.wording import number

_MOST_ON_A_PAGE = 100
_TEXT = 400  # characters of a passage in a list
_LONGEST_NAME = 150  # bytes
# Characters that some system does not allow in a name, or that lead to another folder.
_NOT_IN_NAMES = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')


class PathsBody(BaseModel):
    """Files of the index."""

    model_config = ConfigDict(strict=True, extra="forbid")

    paths: Annotated[list[str], Field(min_length=1)]


def source_routes(served: ServedIndex) -> APIRouter:
    """Return the endpoints for the files of the index ``served``."""
    router = APIRouter()

    @router.get("/sources")
    async def sources() -> Response:
        """Return the files of the index, with the number of passages of each, and how many passages have no file.

        ``largest`` is the largest file that can be added, in bytes.
        """
        files, count = await served.read(lambda: (served.index.sources(), served.index.count()))
        shown = [{"path": str(one.path), "passages": one.passages, "exists": one.exists} for one in files]
        return answer(
            {
                "sources": shown,
                "passages": count,
                "apart": count - sum(one.passages for one in files),
                "largest": served.most_bytes,
            }
        )

    @router.get("/passages")
    async def passages(
        start: Annotated[int, Query(ge=0)] = 0,
        count: Annotated[int, Query(ge=1, le=_MOST_ON_A_PAGE)] = 24,
        source: str | None = None,
        contains: Annotated[str | None, Query(max_length=1000)] = None,
    ) -> Response:
        """Return some passages, those of one file or with one text if asked, and whether there are more."""
        found = await served.read(lambda: _passages(served.index, start, count + 1, source, contains))
        return answer({"passages": found[:count], "more": len(found) > count})

    @router.post("/files")
    async def add(request: Request, name: Annotated[str, Query(min_length=1, max_length=1000)]) -> Response:
        """Add the file in the body. The answer says what was taken of it, what was left out, or why it was not read."""
        if "x-smart-rag" not in request.headers:  # a form of another page cannot send it
            raise Refused(403, "a file needs the header X-Smart-Rag, which the page sends")
        data = await request.body()
        target = uploads_of(served.index) / safe_name(name)
        found = await served.write(lambda writer: _add(writer, target, data))
        # The index that searches was opened before the file was there, so it must be told that it may show its pages.
        served.index.allow([target])
        return answer(found)

    @router.delete("/sources")
    async def remove(body: PathsBody) -> Response:
        """Remove the passages of files. Files that were added by the page are removed from the disk, too."""
        served.check_number(len(body.paths), "file")

        def write(index: SmartIndex) -> int:
            known = {str(one.path) for one in index.sources()}
            unknown = [path for path in body.paths if path not in known]
            if unknown:
                raise Refused(
                    404, f"no file {unknown[0][:200]!r} in the index ({number(len(unknown), 'path')} unknown)"
                )
            removed = 0
            for path in body.paths:
                removed += index.delete_source(path)
                if Path(path).parent == uploads_of(index):
                    Path(path).unlink(missing_ok=True)
            return removed

        return answer({"removed": await served.write(write)})

    return router


def uploads_of(index: SmartIndex) -> Path:
    """Return the folder beside the index in which files lie that were added by the page.

    The index names its files, so it reads none from its own folder. The page shows pages of PDFs from these files.
    """
    path = index.path.resolve()
    return path.with_name(f"{path.name}.uploads")


def safe_name(name: str) -> str:
    """Return ``name`` as the name of a file in one folder. The end, which has the type of the file, is kept.

    >>> safe_name("../../etc/passwd.txt"), safe_name("a/b.pdf"), safe_name(" .hidden.md")
    ('_.._etc_passwd.txt', 'a_b.pdf', 'hidden.md')

    Raises:
        Refused: nothing is left of the name.
    """
    text = _NOT_IN_NAMES.sub("_", name.encode("utf-8", "replace").decode()).strip(" .")
    while len(text.encode()) > _LONGEST_NAME:
        text = text[1:]
    if not text.strip("_"):
        raise Refused(422, f"the name {name[:100]!r} has no letter that the name of a file could have; give it another")
    return text


def _passages(
    index: SmartIndex, start: int, count: int, source: str | None, contains: str | None
) -> list[dict[str, Any]]:
    where = None if source is None else {"source": source}
    found = index.documents(where=where, where_document={"$contains": contains} if contains else None)
    if source is not None:  # in the order of the file
        found = iter(sorted(found, key=lambda one: chunk_of(one.id)))
    ids = [one.id for one in islice(found, start, start + count)]
    return [
        {**document_json(one), "text": one.text[:_TEXT], "characters": len(one.text), "image": one.image is not None}
        for one in index.get(ids)
    ]


def _add(index: SmartIndex, target: Path, data: bytes) -> dict[str, Any]:
    """Write ``data`` to the file ``target`` and add it. If it cannot be read, what was there before stays."""
    target.parent.mkdir(mode=0o700, exist_ok=True)
    if target.is_symlink():
        raise Refused(403, f"{target.name} is a link to another place, so it is not written")
    earlier = target.with_name(f".{target.name}.earlier")
    if target.exists():
        os.replace(target, earlier)
    is_added = False
    try:
        target.write_bytes(data)
        report = index.add_files([target], gitignore=False)
        problem = _problem(report)
        is_added = problem is None
    finally:
        if not is_added:
            target.unlink(missing_ok=True)
            if earlier.exists():
                os.replace(earlier, target)
        earlier.unlink(missing_ok=True)
    read = report.read[0] if report.read else None
    return {
        **counts_json(report),
        "name": target.name,
        "source": str(target),
        "passages": read.passages if read else 0,
        "left_out": list(read.left_out) if read else [],
        "problem": problem,
    }


def _problem(report: AddReport) -> str | None:
    """Return why nothing was taken of the only file, or None."""
    if report.failed:
        return report.failed[0].reason
    if report.skipped:
        return f"{report.skipped[0].reason} {report.skipped[0].detail}".strip()
    return None
