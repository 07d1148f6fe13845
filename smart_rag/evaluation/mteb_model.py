"""`MtebModel`: any encoder as a model of mteb (https://github.com/embeddings-benchmark/mteb, 2.26 and later).

mteb asks a model in two ways. For retrieval and reranking, it asks the search protocol: ``index`` and ``search``. For
all other tasks, it asks the encoder protocol: ``encode`` and ``similarity``. There, a text has one vector, so only the
pooled embedding is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from smart_rag.config import IndexConfig, Weighting, check_choice, check_weights
from smart_rag.embeddings.representation import Representation
from smart_rag.encoders.prompts import (
    default_prompt_name,
    named_prompts,
    takes_instructions,
    with_instruction,
    with_prompts,
)
from smart_rag.encoders.protocol import Encoder, default_weights_of, modalities_of
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.evaluation.evaluator import leaders_of_scan
from smart_rag.index.smart_index import SmartIndex
from smart_rag.scoring.ranking import hybrid
from smart_rag.types import Content, Document
from smart_rag.wording import number

if TYPE_CHECKING:
    import torch
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.model_meta import ModelMeta

logger = logging.getLogger(__name__)

Ranking = Literal["pooled", "late", "hybrid"]


class MtebModel:
    """A model for ``mteb.evaluate(model, tasks)``.

    >>> import mteb                                                     # doctest: +SKIP
    >>> tasks = mteb.get_tasks(["NanoNQRetrieval"])                     # doctest: +SKIP
    >>> mteb.evaluate(MtebModel("minilm"), tasks)                       # doctest: +SKIP

    Every document is scored, as in the paper. The documents of a task are in an index in a temporary folder, until the
    search has ended. If the model takes instructions, the prompt of the task is the instruction of its queries. Any
    other model uses the prompts in its files as mteb's own wrapper of sentence-transformers does: that of the task, or
    of its type, or of queries or documents. A query or document without text and image has no score. A warning says how
    many there are.

    mteb keeps results by the model's name and revision. The revision is a hash of the encoder and of the settings, so
    no result of other settings is taken from its cache.

    Args:
        model: a name or folder for `SmartEncoder`, or an encoder.
        revision: the revision of the model in its hub repository.
        device: the device of the model, as in `SmartEncoder`.
        ranking: ``"pooled"`` is the model as it is, with one vector. ``"late"`` is late interaction alone. ``"hybrid"``
            is both.
        weights: the weights (pooled, late) of ``"hybrid"``. By default, those of a new index. (1, 1) is the paper's.
        weighting: the weighting of query tokens: ``"idf"``, ``"contrast"``, or ``"none"`` as in the paper.
        codec: the codec of the token embeddings. ``"exact"`` does not compress them.
        folder: the folder for the indexes. By default, the system's folder for temporary files.
        options: further arguments of `SmartEncoder`.

    Raises:
        InvalidInput: an argument is not valid, or ``options`` are given with an encoder.
        ModelNotFound: the model cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path | Encoder,
        revision: str | None = None,
        *,
        device: str | None = None,
        ranking: Ranking = "hybrid",
        weights: tuple[float, float] | None = None,
        weighting: Weighting = "idf",
        codec: str = "exact",
        folder: str | Path | None = None,
        **options: Any,
    ) -> None:
        check_choice("ranking", ranking, Ranking)
        check_choice("weighting", weighting, Weighting)
        if isinstance(model, str | Path):
            self.encoder: Encoder = SmartEncoder(model, revision=revision, device=device, **options)
        elif revision or device or options:
            raise InvalidInput("the encoder exists already; give revision, device and options to the encoder")
        else:
            self.encoder = model
        own = default_weights_of(self.encoder) if weights is None else check_weights(weights)
        self.weights: tuple[float, float] = {"pooled": (1.0, 0.0), "late": (0.0, 1.0), "hybrid": own}[ranking]
        self.ranking = ranking
        self._config = IndexConfig(codec=codec, weights=self.weights, weighting=weighting)
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._index: SmartIndex | None = None

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """The name and revision by which mteb keeps the results. The name is ``smart-rag/<model>-<ranking>``."""
        from mteb.models.model_meta import ModelMeta

        description = self.encoder.describe()
        settings = {**description, "weights": self.weights, "weighting": self._config.weighting}
        settings |= {"codec": self._config.codec, "fingerprint": self.encoder.fingerprint}
        digest = hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
        name = f"smart-rag/{Path(str(description['model'])).name}-{self.ranking}"
        found = {"name": name, "revision": digest, "embed_dim": self.encoder.dimension}
        read = sorted({*modalities_of(self.encoder)} - {"video"})
        return ModelMeta.create_empty(overwrites={**found, "modalities": read})

    # --- the search protocol ---

    def index(
        self,
        corpus: Any,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        encode_kwargs: Mapping[str, Any],
        num_proc: int | None = None,
        **_: Any,
    ) -> None:
        """Add the documents of ``corpus`` to a new index. ``hf_split`` and ``hf_subset`` are not used."""
        self.close()
        self._temporary = tempfile.TemporaryDirectory(dir=self._folder)
        encoder = self._prompted(task_metadata)
        self._index = SmartIndex.create(Path(self._temporary.name) / "index", encoder, config=self._config)
        empty = 0
        for ids, contents in _rows(corpus, task_metadata, "document", encode_kwargs, num_proc):
            documents = []
            for id, content in zip(ids, contents, strict=True):
                self._check_modality(content, task_metadata.name)
                if content.modality:
                    documents.append(Document(id, content.text, image=content.image))
                else:
                    empty += 1
            self._index.add(documents)
        if empty:
            logger.warning("%s: %s without content left out", task_metadata.name, number(empty, "document"))

    def search(
        self,
        queries: Any,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        encode_kwargs: Mapping[str, Any],
        top_ranked: Mapping[str, list[str]] | None = None,
        num_proc: int | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """Return the scores of the best ``top_k`` documents by their ids, by the ids of the ``queries``.

        With ``top_ranked``, a query ranks only the documents that are named there. The index is deleted afterwards.

        Raises:
            InvalidInput: `index` was not called before.
        """
        index = self._index
        if index is None:
            raise InvalidInput("there is no corpus to search; call index before search")
        found: dict[str, dict[str, float]] = {}
        names: list[str] = []
        parts: list[Representation] = []
        encoder = self._prompted(task_metadata)
        for ids, contents in _rows(queries, task_metadata, "query", encode_kwargs, num_proc):
            found.update({id: {} for id in ids})
            kept = [i for i, content in enumerate(contents) if content.modality]
            for i in kept:
                self._check_modality(contents[i], task_metadata.name)
            if kept:
                parts.append(encoder.encode_query([contents[i].plain for i in kept]))
                names += [ids[i] for i in kept]
        if len(names) < len(found):
            empty = number(len(found) - len(names), "query")
            logger.warning("%s: %s without content left out", task_metadata.name, empty)
        if parts:
            candidates = None if top_ranked is None else [frozenset(top_ranked.get(name, ())) for name in names]
            leaders = leaders_of_scan(
                index,
                Representation.concatenate(parts),
                {"": self.weights},
                top_k,
                self._config.weighting,
                candidates=candidates,
            )[""]
            for name, leader in zip(names, leaders, strict=True):
                scores = hybrid(leader.pooled, leader.late, self.weights)
                found[name] = dict(zip(leader.ids, scores.tolist(), strict=True))
        self.close()
        return found

    def close(self) -> None:
        """Close and delete the index."""
        if self._index is not None:
            self._index.close()
            self._index = None
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    # --- the encoder protocol ---

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **_: Any,
    ) -> NDArray[np.float32]:
        """Return the pooled embeddings (n, dimension) of ``inputs``, batches as mteb makes them.

        Without a ``prompt_type``, they are encoded as documents, with the prompt that the model's files have for the
        task, or with their default prompt.
        """
        task = "query" if prompt_type is not None and str(prompt_type.value) == "query" else "document"
        encoder = self._prompted(task_metadata, symmetric=prompt_type is None)
        parts = []
        for batch in inputs:
            contents = _contents(batch, task_metadata.name)
            for content in contents:
                self._check_modality(content, task_metadata.name)
            items = [content.plain for content in contents]
            parts.append((encoder.encode_query(items) if task == "query" else encoder.encode_document(items)).pooled)
        return np.concatenate(parts) if parts else np.zeros((0, self.encoder.dimension), dtype=np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return the cosines (n, m) of two sets of pooled embeddings."""
        return _tensor(_unit(embeddings1) @ _unit(embeddings2).T)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return the cosines (n) of the pooled embeddings that are at the same place."""
        return _tensor((_unit(embeddings1) * _unit(embeddings2)).sum(axis=1))

    def _prompted(self, task_metadata: TaskMetadata, *, symmetric: bool = False) -> Encoder:
        """Return the encoder with the prompts for a task. In a ``symmetric`` task, there are no queries."""
        instruction = _instruction(task_metadata)
        if takes_instructions(self.encoder):
            encoder: Encoder = with_instruction(self.encoder, instruction) if instruction else self.encoder
            return encoder
        own = named_prompts(self.encoder)
        if own is None:
            return self.encoder
        if symmetric:
            default = default_prompt_name(self.encoder)
            encoder = with_prompts(
                self.encoder, {"document": _prompt(own, task_metadata, None, own.get(str(default), ""))}
            )
            return encoder
        general = self.encoder.describe()
        query = _prompt(own, task_metadata, "query", general["query_prompt"])
        document = _prompt(own, task_metadata, "document", general["document_prompt"])
        encoder = with_prompts(self.encoder, {"query": query, "document": document})
        return encoder

    def _check_modality(self, content: Content, task: str) -> None:
        """Raise `InvalidInput` if the model cannot read a part of ``content``. No part is dropped silently."""
        missing = set(filter(None, content.modality.split("+"))) - set(modalities_of(self.encoder))
        if missing:
            raise InvalidInput(f"{task} has {' and '.join(sorted(missing))}, which the model does not read")


def _instruction(task_metadata: TaskMetadata) -> str:
    """Return the prompt of a task for its queries, or an empty str if mteb has none."""
    prompt = task_metadata.prompt
    return str((prompt.get("query") if isinstance(prompt, Mapping) else prompt) or "")


def _prompt(
    prompts: Mapping[str, str], task_metadata: TaskMetadata, prompt_type: Literal["query", "document"] | None, own: str
) -> str:
    """Return the prompt that mteb's own wrapper chooses by its name, or the prompt ``own`` if none has such a name."""
    from mteb.models.abs_encoder import get_prompt_name
    from mteb.types import PromptType

    name = get_prompt_name(dict(prompts), task_metadata, None if prompt_type is None else PromptType(prompt_type))
    return own if name is None else prompts[name]


def _rows(
    dataset: Any,
    task_metadata: TaskMetadata,
    task: Literal["query", "document"],
    encode_kwargs: Mapping[str, Any],
    num_proc: int | None,
) -> Iterator[tuple[list[str], list[Content]]]:
    """Yield the ids and contents of a corpus or of queries, in batches, as mteb prepares them for its own models."""
    try:
        from mteb import _create_dataloaders as loaders
        from mteb.types import PromptType
    except ImportError as error:
        raise MissingExtra("mteb", "mteb", "an evaluation by mteb") from error
    loader = loaders.create_dataloader(
        dataset,
        task_metadata=task_metadata,
        prompt_type=PromptType(task),
        batch_size=encode_kwargs.get("batch_size", 32),
        num_proc=num_proc,
    )
    ids = [str(id) for id in dataset["id"]]
    start = 0
    for batch in loader:
        contents = _contents(batch, task_metadata.name)
        yield ids[start : start + len(contents)], contents
        start += len(contents)


def _contents(batch: Mapping[str, Any], task: str) -> list[Content]:
    """Return the contents of one batch of mteb, a dict of lists."""
    if "audio" in batch:
        raise InvalidInput(f"{task} has audio, which smart_rag does not read")
    if "video" in batch:
        raise InvalidInput(f"{task} has videos as arrays of frames, which this adapter does not read")
    texts, images = batch.get("text"), batch.get("image")
    if texts is None and images is None:
        raise InvalidInput(f"{task}: expected a batch with text or image, got {', '.join(batch)}")
    if texts is None:
        return [Content(image=image) for image in images or ()]
    return [Content(text or "", image) for text, image in zip(texts, images or [None] * len(texts), strict=True)]


def _unit(embeddings: Any) -> NDArray[np.float32]:
    """Return ``embeddings`` as rows (n, dimension) of length 1. A row of zeros stays."""
    rows = np.atleast_2d(np.asarray(embeddings, dtype=np.float32))
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def _tensor(array: NDArray[np.float32]) -> torch.Tensor:
    """Return ``array`` as mteb expects a similarity."""
    import torch

    return torch.from_numpy(array)
