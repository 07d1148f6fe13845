"""The bundled sample documents and the questions that go with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SampleQuestion:
    """A question whose answer is the passage of ``source`` (and ``page``) that contains ``answer``.

    Those marked ``demo`` are the ones that `smart-rag demo` asks.
    """

    question: str
    source: str
    page: int | None
    answer: str
    demo: bool


def sample_folder() -> Path:
    """Return the folder of the sample documents."""
    return Path(__file__).parent / "samples"


def sample_questions() -> list[SampleQuestion]:
    """Return the questions about the sample documents."""
    rows = json.loads((sample_folder() / "questions.json").read_text(encoding="utf-8"))
    return [
        SampleQuestion(row["question"], row["answer_source"], row["answer_page"], row["answer_contains"], row["demo"])
        for row in rows
    ]
