"""The index that `tests/index/golden` has in each format, and its encoder. Neither may change.

To keep the index of a new format: ``make(folder)`` with ``tests`` on the path, remove the empty files ``*.lock`` and
``lock.mdb``, and zip what is in the folder as ``format<n>.zip``. The one with centroids was made with 1 as
`EXHAUSTIVE_DOCUMENTS` of `smart_rag.store.terms.centroid_terms`.
"""

from __future__ import annotations

from helpers.word_encoder import VocabularyEncoder
from PIL import Image

from smart_rag import Document, SmartIndex

METADATA = {"tags": ["x", 1, 2.5], "n": 2, "large": 2**63, "none": None, "half": 0.5, "yes": True}
TEXTS = {
    "a": "pump and oil",
    "b": "the oil of the boat",
    "c": "keys are in the boat",
    "old": "boat after",
    "picture": "red",
}


class GoldenEncoder(VocabularyEncoder):
    modalities = ("text", "image")
    fingerprint = "golden"

    def describe(self):
        return {"model": "golden"}

    def encode_query(self, items):
        return super().encode_query([item if isinstance(item, str) else f"{item.text or ''} image" for item in items])

    encode_document = encode_query


def make(folder):
    with SmartIndex.create(folder, GoldenEncoder()) as index:
        index.add(
            [
                Document("a", TEXTS["a"], METADATA),
                Document("b", TEXTS["b"], {"tags": ["y"], "name": "Größe"}),
                Document("c", TEXTS["c"]),
                Document("gone", "keys"),
                Document("old", "before"),
                Document("picture", TEXTS["picture"], {}, Image.new("RGB", (4, 4), "red")),
            ]
        )
        index.delete(["gone"])
        index.add([Document("old", TEXTS["old"])])
        index.set_weights((1, 3))
