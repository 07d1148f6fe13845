"""All defaults. Also the settings of an index, which its manifest stores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, get_args

import numpy as np

from smart_rag.errors import InvalidInput
from smart_rag.values import plain_value

DEFAULT_MODEL = "minilm"
DEFAULT_TOP_K = 10
DEFAULT_CANDIDATES = 100
# Weights of the pooled and of the late score. They are for query tokens that are weighted by inverse document
# frequency. The paper's setting is (1, 1), with equal weights of tokens (arXiv 2605.24938, section 3). On the mean of
# five datasets, our setting is 2.7 % better. It is not worse on any of the five.
DEFAULT_WEIGHTS = (1.0, 2.0)
# An index with at most this many documents is searched without a first stage, because scoring all takes no longer.
EXHAUSTIVE_DOCUMENTS = 500

# Least and largest value of each setting of the graph in which Chroma searches. Chroma itself takes other values, and
# then ends the process or fails.
HNSW_BOUNDS = {"max_neighbors": (2, 10_000), "ef_construction": (1, 1_000_000), "ef_search": (1, 1_000_000)}

Weighting = Literal["idf", "none", "contrast"]
# An adapter is trained on single pairs of a query and a document, so there are no candidates that contrast.
AdapterWeighting = Literal["idf", "none"]
Backend = Literal["auto", "torch", "onnx", "openvino"]
Objective = Literal["pooled", "late", "hybrid"]
# An adapter does not change pooled embeddings, so it has no objective "pooled".
AdapterObjective = Literal["late", "hybrid"]
FirstStageName = Literal["auto", "terms", "pooled", "exhaustive"]

# Numbers that a caller may give. numpy's numbers are converted to Python's.
Count = int | np.integer[Any]
Number = float | np.floating[Any] | np.integer[Any]
Weights = tuple[Number, Number]  # of the pooled and of the late score

# Defaults of `ask`. Small language models can read a prompt of this size. On a CPU, a large model may need minutes
# before it begins to answer.
DEFAULT_PASSAGES = 8
DEFAULT_CONTEXT_TOKENS = 3000
DEFAULT_TIMEOUT = 300.0  # seconds
# Pixels of an image for a language model. An A4 page then has 125 dpi, so small print is legible. Most models shrink
# larger images.
DEFAULT_IMAGE_PIXELS = 1_500_000
# What reading a file or drawing a page may take: seconds, and gigabytes of memory. In this time, pdfium reads the text
# of 50,000 ordinary pages.
DEFAULT_FILE_SECONDS = 120.0
DEFAULT_FILE_MEMORY = 2.0
# Arguments of `SentenceTransformer` that `SmartEncoder` takes in ``model_options``.
MODEL_OPTIONS = (
    *(
        "prompts",
        "default_prompt_name",
        "cache_folder",
        "local_files_only",
        "token",
        "model_kwargs",
        "processor_kwargs",
    ),
    *("tokenizer_kwargs", "config_kwargs", "similarity_fn_name", "truncate_dim"),
)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a question that suggests the most similar name in ``known``. If no name is similar, list all names.

    >>> nearest("top_kk", ["top_k", "where"]), nearest("limit", ["top_k", "where"])
    ("did you mean 'top_k'?", 'expected one of top_k, where')
    """
    names = sorted(known)
    close = get_close_matches(name, names, 1)
    return f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(names)}"


def check_count(name: str, value: Count, most: int | None = None) -> int:
    """Return ``value`` as an int. A whole number of numpy is accepted, too.

    Raises:
        InvalidInput: ``value`` is not a whole number of at least 1, or it is greater than ``most``.
    """
    count = plain_value(value, name) if isinstance(value, np.integer) else value
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InvalidInput(f"{name} must be a whole number of at least 1, got {value!r:.80}")
    if most is not None and count > most:
        raise InvalidInput(f"{name} must be at most {most:,}, got {count if count < 1e20 else 'a larger number'}")
    return count


def check_fraction(name: str, value: Number) -> float:
    """Return ``value`` as a float. A number of numpy is accepted, too.

    Raises:
        InvalidInput: ``value`` is not a number from 0 to 1.
    """
    number = plain_value(value, name) if isinstance(value, np.number) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1:
        raise InvalidInput(f"{name} must be between 0 and 1, got {value!r}")
    return float(number)


def check_choice(name: str, value: str, choices: object) -> None:
    """Raise `InvalidInput` unless ``value`` is one of the strings in ``choices``, which is a Literal."""
    if value not in get_args(choices):
        raise InvalidInput(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}")


def check_model_options(options: Mapping[str, Any], name: str = "model_options") -> None:
    """Raise `InvalidInput` if one of ``options`` is not in `MODEL_OPTIONS`. ``name`` is the argument's name."""
    for option in options:
        if option in ("backend", "device", "revision", "trust_remote_code"):
            raise InvalidInput(f"{name} has {option!r}, which is an argument of its own; pass {option}=")
        if option not in MODEL_OPTIONS:
            raise InvalidInput(f"{name} has {option!r}; {nearest(option, MODEL_OPTIONS)}")


# A score with larger weights would lose the differences between documents, and then overflow.
_MAX_WEIGHT = 1e6


def check_weights(weights: Weights) -> tuple[float, float]:
    """Return ``weights`` (pooled, late) as floats.

    Raises:
        InvalidInput: ``weights`` are not two numbers, one of them is negative or too large, or both are 0.
    """
    try:
        values = tuple(float(weight) for weight in weights)
    except (TypeError, ValueError, OverflowError):
        values = ()
    if len(values) != 2 or not all(0 <= value <= _MAX_WEIGHT for value in values) or max(values) == 0:
        raise InvalidInput(
            f"weights must be two numbers (pooled, late) from 0 to {_MAX_WEIGHT:,.0f}, not both 0; got {weights!r:.80}"
        )
    return values[0], values[1]


# Number of tokens. A longer chunk is no chunk.
_LONGEST_CHUNK = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """Settings of an index. Pass them to `SmartIndex.create`, `open_or_create` or `from_embeddings`.

    >>> config = IndexConfig(codec="compact", chunk_tokens=150)
    >>> index = SmartIndex.create("small.index", "minilm", config=config)       # doctest: +SKIP

    Only ``weights`` and ``weighting`` can be changed later, with `SmartIndex.set_weights`.

    Attributes:
        codec: codec of the token embeddings. Usually one of three presets: ``"exact"`` (float16), ``"balanced"`` (2
            bits for each dimension), or ``"compact"`` (2 bits for each dimension, and every two tokens are merged). Any
            other name that `smart_rag.embeddings.codec.get_codec` knows works, too.
        weights: weights of the pooled and of the late score. With None, the encoder chooses them. Most encoders choose
            `DEFAULT_WEIGHTS`. With a model that was trained for late interaction, only the late score counts.
        weighting: how query tokens are weighted. With ``"idf"``, the weight is the inverse document frequency of the
            token in this index. With ``"none"``, all weights are equal. With ``"contrast"``, rare tokens count more,
            and so do tokens whose best match among the candidates is much better than their mean match. The score of a
            document then depends on the other candidates, and so on the filters.
        chunk_tokens: maximum number of tokens of a chunk.
        chunk_overlap: maximum number of tokens that neighbouring chunks share.
        hnsw_max_neighbors, hnsw_ef_construction, hnsw_ef_search: settings of the graph (HNSW) in which Chroma searches.
            Chroma reads them only when a collection is created. They were measured on 100,000 texts; see
            ``docs/first_stage.md``. An index that an older version made keeps its own settings.
    """

    codec: str = "balanced"
    weights: tuple[float, float] | None = None
    weighting: Weighting = "idf"
    chunk_tokens: int = 200
    chunk_overlap: int = 40
    hnsw_max_neighbors: int = 16
    hnsw_ef_construction: int = 100
    hnsw_ef_search: int = 400

    def __post_init__(self) -> None:
        if not isinstance(self.codec, str):
            raise InvalidInput(f"codec must be the name of a codec, got {self.codec!r:.80}")
        if self.weights is not None:
            object.__setattr__(self, "weights", check_weights(self.weights))  # a manifest has a list
        check_choice("weighting", self.weighting, Weighting)
        object.__setattr__(self, "chunk_tokens", check_count("chunk_tokens", self.chunk_tokens, _LONGEST_CHUNK))
        for setting, (least, most) in HNSW_BOUNDS.items():
            name = f"hnsw_{setting}"
            object.__setattr__(self, name, check_count(name, getattr(self, name), most))
            if getattr(self, name) < least:
                raise InvalidInput(f"{name} must be from {least:,} to {most:,}, got {getattr(self, name):,}")
        overlap = plain_value(self.chunk_overlap, "chunk_overlap")
        object.__setattr__(self, "chunk_overlap", overlap)
        if isinstance(overlap, bool) or not isinstance(overlap, int) or not 0 <= overlap < self.chunk_tokens:
            raise InvalidInput(
                f"chunk_overlap must be a whole number, at least 0 and below chunk_tokens ({self.chunk_tokens}), "
                f"got {self.chunk_overlap}"
            )
