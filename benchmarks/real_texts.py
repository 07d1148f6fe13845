"""Real texts with their embeddings, for `hnsw.py`: a folder that is made once.

python benchmarks/real_texts.py FOLDER DATASET_DIR ... [--documents N]

The texts are the documents of the datasets (BEIR folders), their sentences, and the paragraphs of the docstrings of
this Python and of its packages. They are mixed. All except the documents of the datasets are shortened to about 64
tokens. MiniLM embeds them. On two cores, 100,000 texts take about half an hour.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from smart_rag import Document, Representation, SmartEncoder, TokenBatch
from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.tokens import TokenCodes
from smart_rag.evaluation import load_dataset

_QUERIES = 200  # of each dataset
_WORDS = 45  # about 64 tokens
_AT_ONCE = 2_048
_CODEC = "balanced"
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_SEED = 0


@dataclass
class RealTexts:
    """The folder that `main` makes: documents and queries with their vectors, and graded relevance (qrels)."""

    folder: Path

    def __post_init__(self) -> None:
        found = json.loads((self.folder / "texts.json").read_text(encoding="utf-8"))
        self.ids, self.texts = zip(*found["documents"], strict=True)
        self.query_ids = list(found["queries"])
        self.qrels = found["qrels"]
        self._arrays = {path.stem: np.load(path, mmap_mode="r") for path in self.folder.glob("*.npy")}

    def documents(self, start: int, stop: int) -> tuple[list[Document], Representation]:
        documents = [Document(id, text) for id, text in zip(self.ids[start:stop], self.texts[start:stop], strict=True)]
        offsets, codes, ids = self._rows("documents", start, stop)
        tokens = TokenCodes(codes, offsets, self.pooled.shape[1], get_codec(_CODEC), ids)
        return documents, Representation(np.asarray(self.pooled[start:stop]), tokens)

    def mixtures(self, start: int, stop: int) -> tuple[list[Document], Representation]:
        """Return documents made of two real ones, by any numbers: the begin of one and the end of another.

        Their pooled embedding lies between those of the two, in proportion.
        """
        generator, count = np.random.default_rng([3, start]), len(self.ids)
        firsts, seconds = np.arange(start, stop) % count, generator.integers(0, count, stop - start)
        shares = generator.uniform(0.55, 0.9, stop - start).astype(np.float32)
        pooled = shares[:, None] * self.pooled[firsts] + (1 - shares[:, None]) * self.pooled[seconds]
        pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
        bounds = self._arrays["documents_offsets"]
        rows, documents = [], []
        for number, first, second, share in zip(range(start, stop), firsts, seconds, shares.tolist(), strict=True):
            (a, b), (c, d) = bounds[first : first + 2].tolist(), bounds[second : second + 2].tolist()
            rows.append(np.r_[a : a + max(1, int((b - a) * share)), d - max(1, int((d - c) * (1 - share))) : d])
            one, other = self.texts[first], self.texts[second]
            text = f"{one[: int(len(one) * share)]} {other[int(len(other) * share) :]}"
            documents.append(Document(f"mixture/{number:08}", text))
        chosen = np.concatenate(rows)
        offsets = np.append(0, np.cumsum([len(of_one) for of_one in rows]))
        codes, ids = (self._arrays[f"documents_{name}"][chosen] for name in ("tokens", "ids"))
        tokens = TokenCodes(codes, offsets, self.pooled.shape[1], get_codec(_CODEC), ids)
        return documents, Representation(pooled, tokens)

    @property
    def pooled(self) -> np.ndarray:
        return self._arrays["documents_pooled"]

    def queries(self) -> Representation:
        pooled = np.asarray(self._arrays["queries_pooled"])
        offsets, tokens, ids = self._rows("queries", 0, len(pooled))
        return Representation(pooled, TokenBatch(tokens, offsets, ids))

    def _rows(self, of: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        offsets = np.asarray(self._arrays[f"{of}_offsets"][start : stop + 1])
        rows = slice(offsets[0], offsets[-1])
        return offsets - offsets[0], *(np.asarray(self._arrays[f"{of}_{name}"][rows]) for name in ("tokens", "ids"))


def sentences(texts: Sequence[str]) -> Iterator[str]:
    for text in texts:
        yield from _SENTENCE.split(text)


def docstrings() -> Iterator[str]:
    """Yield the paragraphs of the docstrings of this Python and of its packages."""
    paths = {path for name in ("stdlib", "purelib") for path in Path(sysconfig.get_path(name)).rglob("*.py")}
    files = sorted(paths)
    random.Random(_SEED).shuffle(files)
    for file in files:
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError, RecursionError):  # such as a template, or a test of the parser
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from re.split(r"\n\s*\n", ast.get_docstring(node) or "")


def is_prose(text: str) -> bool:
    letters = sum(map(str.isalpha, text))
    return 25 <= len(text) <= 2_000 and letters > 0.6 * len(text.replace(" ", ""))


def collect(
    datasets: Sequence[Path], count: int
) -> tuple[list[tuple[str, str]], dict[str, str], dict[str, dict[str, int]]]:
    """Return the id and text of each document, the queries by id, and the qrels."""
    generator = random.Random(_SEED)
    documents: list[tuple[str, str]] = []
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for path in datasets:
        dataset = load_dataset(path)
        documents += ((f"{path.name}/{one.id}", one.text) for one in dataset.documents)
        chosen = generator.sample(sorted(dataset.queries), min(_QUERIES, len(dataset.queries)))
        queries |= {f"{path.name}/{id}": str(dataset.queries[id]) for id in chosen}
        qrels |= {
            f"{path.name}/{id}": {f"{path.name}/{name}": grade for name, grade in dataset.qrels[id].items()}
            for id in chosen
        }
    seen = {text for _, text in documents}
    rest: list[str] = []
    for source in (sentences([text for _, text in documents]), docstrings()):
        for text in source:
            plain = " ".join(text.split()[:_WORDS])
            if plain not in seen and is_prose(plain):
                seen.add(plain)
                rest.append(plain)
            if len(rest) > 2 * count:
                break
    generator.shuffle(rest)
    documents += ((f"text-{i}", text) for i, text in enumerate(rest[: max(0, count - len(documents))]))
    generator.shuffle(documents)
    return documents[:count], queries, qrels


def save(folder: Path, of: str, parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> None:
    """Save parts of pooled embeddings, rows of tokens, vocabulary ids, and numbers of tokens."""
    pooled, tokens, ids, lengths = map(np.concatenate, zip(*parts, strict=True))
    offsets = np.append(0, np.cumsum(lengths))
    for name, array in {"pooled": pooled, "tokens": tokens, "ids": ids, "offsets": offsets}.items():
        np.save(folder / f"{of}_{name}.npy", array)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("datasets", type=Path, nargs="+")
    parser.add_argument("--documents", type=int, default=100_000)
    arguments = parser.parse_args()

    warnings.simplefilter("ignore", SyntaxWarning)  # of the packages' files
    arguments.folder.mkdir(parents=True, exist_ok=True)
    documents, queries, qrels = collect(arguments.datasets, arguments.documents)
    encoder, codec = SmartEncoder("minilm", device="cpu"), get_codec(_CODEC)
    asked = encoder.encode_query(list(queries.values()))
    tokens = asked.tokens
    save(arguments.folder, "queries", [(asked.pooled, tokens.embeddings, tokens.ids, np.diff(tokens.offsets))])
    parts = []
    for start in tqdm(range(0, len(documents), _AT_ONCE), desc="embedding", unit="batch"):
        part = encoder.encode_document([text for _, text in documents[start : start + _AT_ONCE]])
        tokens = part.tokens
        parts.append((part.pooled, codec.encode(tokens.embeddings), tokens.ids, np.diff(tokens.offsets)))
    save(arguments.folder, "documents", parts)
    found = {"documents": documents, "queries": queries, "qrels": qrels}
    (arguments.folder / "texts.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
