"""Five short texts, each about something else, as the documents of an index."""

from __future__ import annotations

from smart_rag import Document, IndexConfig

TEXTS = {
    "cat": "The cat sat on the mat and purred.",
    "dog": "Dogs bark at strangers in the night.",
    "fish": "The pond is home to forty carp and a pike.",
    "car": "The mechanic changed the oil and both front tyres.",
    "tax": "Taxes are due on the last day of April.",
}


STAGES = ["terms", "pooled", "exhaustive"]


def documents(texts=TEXTS):
    return [Document(name, text, {"length": len(text)}) for name, text in texts.items()]


EXACT = IndexConfig(codec="exact")  # as the references have the tokens
