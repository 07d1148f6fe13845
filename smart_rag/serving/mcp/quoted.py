"""Texts of documents for a language model: quoted in a fence, of bounded length, with what was cut."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smart_rag.fences import Fence
from smart_rag.types import Document, Hit
from smart_rag.wording import number

# Assistants refuse or cut answers of more than about 25,000 tokens.
MOST_CHARACTERS = 60_000
_MOST_OF_METADATA = 1_000
_REPEATED = ("source", "page")  # stand before the metadata


@dataclass(frozen=True, slots=True)
class Passage:
    """A text for a language model.

    Attributes:
        head: what is known of it, on one line. It stands in the fence, too, because metadata may be hostile.
        text: the text, which may be hostile.
        rest: what to do to get the rest, or an empty text if this is all.
    """

    head: str
    text: str
    rest: str = ""


def quoted(passages: Sequence[Passage], title: str) -> str:
    """Return ``passages`` as one text. Each stands in a fence, so that no text can pass for another or for an order."""
    fence = Fence.for_texts(part for one in passages for part in (one.head, one.text))
    blocks = [f"[{i}]\n" + fence.around(f"{one.head}\n\n{one.text}") + one.rest for i, one in enumerate(passages, 1)]
    return "\n\n".join([f"{title} {fence.rule}" if blocks else title, *blocks])


def of_hits(hits: Iterable[Hit], get_document: str) -> list[Passage]:
    """Return hits as passages. All of them together are bounded. ``get_document`` is the name of the tool for more."""
    hits = list(hits)
    most = MOST_CHARACTERS // max(1, len(hits))
    return [Passage(_head(hit, hit.score), *_cut(hit.text, 0, most, get_document)) for hit in hits]


def of_document(document: Document, start: int, most: int, get_document: str) -> Passage:
    """Return at most ``most`` characters of a document, from the character ``start`` on."""
    return Passage(_head(document), *_cut(document.text, start, most, get_document))


def on_one_line(value: object) -> str:
    """Return a value of somebody else as JSON. So it stays on its line, whatever is in it."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _head(found: Hit | Document, score: float | None = None) -> str:
    parts = {"id": found.id, "source": found.metadata.get("source"), "page": found.metadata.get("page")}
    shown = [f"{name} {on_one_line(value)}" for name, value in parts.items() if value is not None]
    if score is not None:
        shown.append(f"score {score:.3f}")
    return ", ".join([*shown, *_metadata(found.metadata)])


def _metadata(metadata: Mapping[str, Any]) -> list[str]:
    rest = {name: value for name, value in metadata.items() if name not in _REPEATED}
    text = on_one_line(rest)
    if not rest:
        return []
    if len(text) > _MOST_OF_METADATA:
        return [f"metadata left out because of their length: {on_one_line(sorted(rest))[:_MOST_OF_METADATA]}"]
    return [f"metadata {text}"]


def _cut(text: str, start: int, most: int, get_document: str) -> tuple[str, str]:
    end = start + most
    if len(text) <= end:
        return text[start:], ""
    rest = number(len(text) - end, "more character")
    return text[start:end], f"\n({rest}: {get_document} with this id and start {end})"
