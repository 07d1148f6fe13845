"""Tiny datasets in the layouts of published ones, and an encoder that reads texts, images and videos.

The columns are those of https://huggingface.co/datasets/vidore, /openbmb, /zeta-alpha-ai, /VLM2Vec and
/ziyjiang/MMEB_Test_Instruct, as the loaders of VLM2Vec, SMART and mteb read them.
"""

from __future__ import annotations

import io
import math
import zlib
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from smart_rag import Content, Representation

WORDS = [f"word{i}" for i in range(400)]  # so many that two texts rarely share one, and scores are not equal


class PixelEncoder:
    """A deterministic encoder: a token for each word, and four for an image or a video, by its pixels or bytes."""

    dimension = 16
    fingerprint = "pixels"
    modalities = ("text", "image", "video")

    def describe(self):
        return {"model": "pixels"}

    def encode_query(self, items):
        tokens = [np.stack(list(self._tokens(Content.of(item)))) for item in items]
        return Representation.from_embeddings(np.stack([matrix.mean(axis=0) for matrix in tokens]), tokens)

    encode_document = encode_query

    def _tokens(self, content):
        for word in content.text.split():
            yield self._vector(word.encode())
        if content.image is not None:
            image = content.image if isinstance(content.image, Image.Image) else Image.open(content.image)
            pixels = np.asarray(image.convert("RGB"))
            for row in pixels[:4]:
                yield self._vector(row.tobytes())
        if content.video is not None:
            frames = content.video if isinstance(content.video, tuple) else (content.video,)
            data = b"".join(Path(frame).read_bytes() for frame in frames)
            for i in range(4):
                yield self._vector(data[i::4])

    def _vector(self, data):
        return np.random.default_rng(zlib.crc32(data)).standard_normal(self.dimension)


class TextEncoder(PixelEncoder):
    """The same, for texts alone."""

    modalities = ("text",)


def picture(seed):
    """Return a picture of random pixels as PNG bytes."""
    pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def in_table(seed):
    """Return a picture as the hub stores it in a table."""
    return {"bytes": picture(seed), "path": f"{seed}.png"}


def words(generator, count=5):
    return " ".join(generator.choice(WORDS, count).tolist())


def parquet(file: Path, rows) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def pages(count=14, id="corpus-id", first=0):
    return [{id: i, "image": in_table(first + i), "doc-id": f"doc{i % 3}"} for i in range(count)]


def questions(count=6, id="query-id", languages=("english", "french")):
    generator = np.random.default_rng(7)
    return [{id: i, "query": words(generator), "language": languages[i % len(languages)]} for i in range(count)]


def judgements(queries=6, documents=14, query_id="query-id", corpus_id="corpus-id"):
    """Three judged documents for each query, with grades 0 to 2, at least one above 0."""
    generator = np.random.default_rng(8)
    rows = []
    for query in range(queries):
        for grade, document in enumerate(generator.choice(documents, 3, replace=False).tolist()):
            rows.append({query_id: query, corpus_id: document, "score": grade})
    return rows


def plain_figures(documents, queries, qrels, candidates=None, encoder=None):
    """Return the mean of each measure by ranking, by loops. ``documents`` and ``queries`` are contents by id."""
    encoder = encoder or PixelEncoder()
    of_documents = {id: encoder.encode_document([content]) for id, content in documents.items()}
    figures = {name: {"hit@1": [], "ndcg@5": [], "ndcg@10": []} for name in ("pooled", "late", "smart")}
    for id, content in queries.items():
        query = encoder.encode_query([content])
        scores = {name: {} for name in figures}
        for name in of_documents if candidates is None else candidates[id]:
            document = of_documents[name]
            tokens = document.tokens[0].astype(np.float16).astype(float)  # as the codec "exact" stores them
            pooled = float(query.pooled[0].astype(float) @ document.pooled[0].astype(float))
            late = float(
                np.mean([max(float(token.astype(float) @ other) for other in tokens) for token in query.tokens[0]])
            )
            scores["pooled"][name], scores["late"][name], scores["smart"][name] = pooled, late, pooled + late
        for ranking, of_ranking in scores.items():
            ranked = sorted(of_ranking, key=of_ranking.get, reverse=True)
            figures[ranking]["hit@1"].append(float(qrels[id].get(ranked[0], 0) > 0))
            for depth in (5, 10):
                gain = sum(qrels[id].get(name, 0) / math.log2(i + 2) for i, name in enumerate(ranked[:depth]))
                best = sorted(qrels[id].values(), reverse=True)[:depth]
                ideal = sum(grade / math.log2(i + 2) for i, grade in enumerate(best))
                figures[ranking][f"ndcg@{depth}"].append(gain / ideal)
    return {name: {key: sum(of) / len(of) for key, of in values.items()} for name, values in figures.items()}
