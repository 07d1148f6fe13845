"""Sample documents that come with smart_rag, and questions about them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SampleQuestion:
    """A question about the sample documents.

    Attributes:
        question: the question.
        source: the name of the file that answers the question.
        page: the 1-based page of the answer, if the file has pages.
        answer: the part of the text that answers the question.
        demo: whether ``smart-rag demo`` asks this question.
    """

    question: str
    source: str
    page: int | None
    answer: str
    demo: bool


def sample_folder() -> Path:
    """Return the path of the folder with the sample documents."""
    return Path(__file__).parent / "samples"


def sample_questions() -> list[SampleQuestion]:
    """Return the questions about the sample documents."""
    rows = json.loads((Path(__file__).parent / "sample_questions.json").read_text(encoding="utf-8"))
    return [
        SampleQuestion(row["question"], row["answer_source"], row["answer_page"], row["answer_contains"], row["demo"])
        for row in rows
    ]
