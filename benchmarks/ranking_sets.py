"""Sets of documents and queries for `weighting.py`: parts of datasets, and sets made of the packages of this Python.

Each choice is the same in each run: where there is too much, evenly spaced items are taken.
"""

from __future__ import annotations

import ast
import json
import re
import sysconfig
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from email import message_from_string
from pathlib import Path
from typing import TypeVar

from smart_rag import Document
from smart_rag.evaluation import Dataset, load_dataset

_WORDS = 120  # the longest document: about as long as a chunk of an index
_CHARACTERS = 700  # and where words have no spaces between them
_LEAST_WORDS = 40  # the shortest text of which the first half asks for the second
_HEADING = re.compile(r"^(?:#+ +(.+)|(.+)\n[=\-~]{4,})$", re.MULTILINE)

Item = TypeVar("Item")


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """Return ``count`` evenly spaced ``items``, or all if there are fewer."""
    return [items[i * len(items) // count] for i in range(count)] if len(items) > count else list(items)


def shortened(text: str, words: int = _WORDS) -> str:
    """Return the first words of a text."""
    return " ".join(text.split()[:words])[: _CHARACTERS * words // _WORDS]


def part_of(dataset: Dataset, documents: int, queries: int) -> Dataset:
    """Return evenly spaced ``queries``, the relevant documents of them, and evenly spaced others.

    If there are too many relevant documents, evenly spaced ones are taken.
    """
    texts = {one.id: shortened(one.text) for one in dataset.documents}
    with_text = [one for one in dataset.documents if texts[one.id]]
    asked = evenly(list(dataset.queries), queries)
    relevant = {id for query in asked for id, grade in dataset.qrels[query].items() if grade > 0}
    wanted = evenly([one for one in with_text if one.id in relevant], documents)
    wanted += evenly([one for one in with_text if one.id not in relevant], documents - len(wanted))
    ids = {one.id for one in wanted}
    found = {query: {id: grade for id, grade in dataset.qrels[query].items() if id in ids} for query in asked}
    qrels = {query: grades for query, grades in found.items() if max(grades.values(), default=0) > 0}
    kept = [Document(one.id, texts[one.id]) for one in wanted]
    return Dataset(dataset.name, kept, {query: dataset.queries[query] for query in qrels}, qrels)


def of_pairs(name: str, pairs: Sequence[tuple[str, str]]) -> Dataset:
    """Return a set in which each query has one relevant document. Pairs with a text that was there before are left out.

    ``pairs`` are a query and its document.
    """
    seen: set[str] = set()
    kept = []
    for query, text in pairs:
        if query.lower() not in seen and text.lower() not in seen:
            seen |= {query.lower(), text.lower()}
            kept.append((query, text))
    documents = [Document(f"d{i:05}", text) for i, (_, text) in enumerate(kept)]
    queries: dict[str, object] = {f"q{i:05}": query for i, (query, _) in enumerate(kept)}
    return Dataset(name, documents, queries, {f"q{i:05}": {f"d{i:05}": 1} for i in range(len(kept))})  # type: ignore[arg-type]


def halves(name: str, texts: Sequence[str]) -> Dataset:
    """Return a set of long queries: the first half of a text asks for the second."""
    long = [words for words in (text.split()[: 2 * _WORDS] for text in texts) if len(words) >= _LEAST_WORDS]
    split = [(words[: len(words) // 2], words[len(words) // 2 :]) for words in long]
    return of_pairs(f"{name}, halves", [(" ".join(first), " ".join(second)) for first, second in split])


def functions() -> Iterator[tuple[str, str]]:
    """Yield the first sentence of the docstring of each function of the packages, and the function without it."""
    warnings.simplefilter("ignore", SyntaxWarning)
    folder = Path(sysconfig.get_path("purelib"))
    for file in evenly(sorted(folder.rglob("*.py")), 4_000):
        try:
            source = file.read_text(encoding="utf-8")
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError):  # such as a template, or a test of the parser
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef) or len(node.body) < 3:
                continue
            docstring = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            sentence = docstring.split(". ")[0].rstrip(".")
            lines = source.splitlines()
            body = "\n".join(
                [
                    *lines[node.lineno - 1 : node.body[0].lineno - 1],
                    *lines[node.body[0].end_lineno or 0 : node.end_lineno],
                ]
            )
            if 4 <= len(sentence.split()) <= 30 and sentence.isascii() and len(body.split()) >= 20:
                yield sentence, shortened(body)


def question(sentence: str) -> str:
    """Return the first sentence of a docstring as a question."""
    first, _, rest = sentence.partition(" ")
    verb = first.lower().removesuffix("s") if first.lower().endswith(("ns", "ts", "ds", "es")) else first.lower()
    return f"How can I {verb} {rest}?"


def sections() -> Iterator[tuple[str, str]]:
    """Yield the heading and the text of each section of the packages' descriptions."""
    for file in sorted(Path(sysconfig.get_path("purelib")).glob("*.dist-info/METADATA")):
        message = message_from_string(file.read_text(encoding="utf-8"))
        text = str(message.get_payload()) or message.get("Description", "")
        places = list(_HEADING.finditer(text))
        ends = [one.start() for one in places[1:]] + [len(text)]
        for place, end in zip(places, ends, strict=False):
            heading = f"{message['Name']} {' '.join((place[1] or place[2]).split())}"
            body = shortened(text[place.end() : end])
            if len(body.split()) >= 20:
                yield heading, body


def passages(folder: Path) -> Dataset:
    """Return a set of long queries: the first passages of an article ask for its other passages."""
    articles: dict[str, list[str]] = defaultdict(list)
    for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        articles[row["title"]].append(shortened(row["text"]))
    documents, queries, qrels = [], {}, {}
    for number, texts in enumerate(articles.values()):
        asked = len(texts) * 2 // 5
        names = [f"d{number:03}-{i}" for i in range(asked, len(texts))]
        documents += [Document(name, text) for name, text in zip(names, texts[asked:], strict=True)]
        for i in range(asked):
            queries[f"q{number:03}-{i}"] = texts[i]
            qrels[f"q{number:03}-{i}"] = dict.fromkeys(names, 1)
    return Dataset(f"{folder.name}, passages", documents, dict(queries), qrels)


def kept(path: Path, made: Callable[[], Iterable[tuple[str, str]]]) -> list[tuple[str, str]]:
    """Return the pairs that are ``made``. A file keeps them, because this takes minutes and packages change."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(list(made())), encoding="utf-8")
    return [(query, text) for query, text in json.loads(path.read_text(encoding="utf-8"))]


def all_sets(folder: Path, folders: Sequence[Path], documents: int, queries: int) -> Iterator[Dataset]:
    """Yield the part of each dataset, and the sets that are made of texts and code. ``folder`` keeps the code."""
    for folder in folders:
        yield part_of(load_dataset(folder), documents, queries)
    code = evenly(kept(folder / "functions.json", functions), 1_800)
    yield part_of(of_pairs("code, docstrings", code), documents, queries)
    yield part_of(of_pairs("code, questions", [(question(asked), text) for asked, text in code]), documents, queries)
    yield part_of(halves("code", [text for _, text in code]), documents, queries)
    headed = kept(folder / "sections.json", sections)
    yield part_of(of_pairs("descriptions, headings", headed), documents, queries)
    yield part_of(halves("descriptions", [text for _, text in headed]), documents, queries)
    for folder in folders:
        texts = [one.text for one in load_dataset(folder).documents]
        if folder.name.startswith(("squad", "scifact", "nfcorpus")):
            yield part_of(halves(folder.name, texts), documents, queries)
        if folder.name == "xquad_en":  # five passages of each article
            yield part_of(passages(folder), documents, queries)
