"""Kinds of sentence-transformers models that differ in what an application's embedding class does with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from helpers import tiny_models

PROMPTS = {"query": "query: ", "passage": "passage: "}


@dataclass(frozen=True)
class Kind:
    """How to build a model, and the name that a program gives for it."""

    build: Callable[[Path], str]
    name: str = "model"


KINDS = {
    "normalised": Kind(tiny_models.bert),
    "not normalised": Kind(lambda folder: tiny_models.bert(folder, normalize=False)),
    "cls, not normalised": Kind(lambda folder: tiny_models.bert(folder, pooling="cls", normalize=False)),
    "a default prompt": Kind(
        lambda folder: tiny_models.bert(
            folder, prompts={"sts": "similar to the cat: "}, default_prompt_name="sts", normalize=False
        )
    ),
    "a document prompt": Kind(
        lambda folder: tiny_models.bert(folder, prompts={"query": "query: ", "document": "the passage says: "})
    ),
    "query and passage prompts": Kind(lambda folder: tiny_models.bert(folder, prompts=PROMPTS)),
    "prompts not pooled": Kind(
        lambda folder: tiny_models.bert(
            folder, prompts={"query": "query: "}, default_prompt_name="query", include_prompt=False
        )
    ),
    "a name of BGE": Kind(lambda folder: tiny_models.bert(folder, pooling="cls"), "BAAI/bge-small-en-v1.5"),
    "a Chinese name of BGE": Kind(lambda folder: tiny_models.bert(folder, pooling="cls"), "BAAI/bge-base-zh"),
    "a name of E5": Kind(lambda folder: tiny_models.bert(folder, prompts=PROMPTS), "intfloat/e5-small-v2"),
    "a name of Instructor": Kind(
        lambda folder: tiny_models.bert(folder, normalize=False, include_prompt=False), "hkunlp/instructor-base"
    ),
    "a name of nomic": Kind(lambda folder: tiny_models.bert(folder), "nomic-ai/nomic-embed-text-v1.5"),
    "truncated": Kind(lambda folder: tiny_models.bert(folder, truncate_dim=12)),
    "dense": Kind(lambda folder: tiny_models.bert(folder, dense=24, normalize=False)),
    "SentencePiece": Kind(lambda folder: tiny_models.bert(folder, tokenizer=tiny_models.sentencepiece())),
    "SentencePiece BPE, a default prompt": Kind(
        lambda folder: tiny_models.bert(
            folder, tokenizer=tiny_models.sentencepiece("bpe"), prompts={"q": "query: "}, default_prompt_name="q"
        )
    ),
    "a decoder": Kind(lambda folder: tiny_models.decoder(folder, prompts={"query": "Instruct: find it\nQuery: "})),
}

TEXTS = [
    *tiny_models.SENTENCES,
    "A line break\nis a blank for one framework, and none for another.",
    "Danube\n\nVienna",
    "cats " * 80,
    "MiXeD CaSe, 10 € and ½ Liter — naïve café",
    *(f"Dogs number {i} bark at night number {i * 7 % 10}." for i in range(30)),
]
QUERIES = ["Which river flows through Vienna?", "dogs at\nnight", "interest rates", "a", "10 €"]


def models_in(tmp_path_factory):
    """Return a function that makes a model of a kind once, makes its folder the working directory, and names it."""
    folders = {}

    def named(kind, monkeypatch):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("model")
            wanted = folders[kind] / KINDS[kind].name
            wanted.parent.mkdir(parents=True, exist_ok=True)
            Path(KINDS[kind].build(folders[kind] / "build")).rename(wanted)
        monkeypatch.chdir(folders[kind])
        return KINDS[kind].name

    return named
