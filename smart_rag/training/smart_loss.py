"""The loss and the collator that sentence-transformers' trainer is given to fine-tune a model by its SMART scores.

The collator prepares texts and images as `SmartEncoder` does, prompts and token policies in; the loss is that of
`smart_rag.training.contrastive`, by pooled cosine, late interaction, or their sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.gradcache import CachedLossMixin, RandContext
from torch import nn

from smart_rag.config import Objective
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.training.batches import batch_of
from smart_rag.training.contrastive import contrastive_loss, late_scores
from smart_rag.training.data import TrainingData
from smart_rag.types import Content, Encodable, Task

# In the labels of a batch, (queries, documents): what a query is to find, what it is not, and what is neither.
_POSITIVE, _NEGATIVE, _EXCLUDED = 1, 0, -1


class SmartCollator:
    """Rows of positions of queries in, what a model reads of them and of their documents out.

    Both are cut into parts of ``part_size``, of like length, so that each part is a forward pass of its own; without
    one they are a single part each. The labels (queries, documents) say what each query is to find. Which of its
    positives and negatives a query gets follows from ``seed``, ``epoch`` and the positions of the batch alone, so
    that a training that was stopped goes on as if it had not been.
    """

    # What the trainer asks of a collator: which columns are no inputs.
    valid_label_columns = ("label",)

    def __init__(
        self,
        data: TrainingData,
        alike: NDArray[np.int64],
        encoder: SmartEncoder,
        hard_negatives: int = 0,
        part_size: int | None = None,
        seed: int = 0,
    ) -> None:
        self.data = data
        self.alike = alike
        self.encoder = encoder
        self.hard_negatives = hard_negatives
        self.part_size = part_size
        self.seed = seed
        self.epoch = 0

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        positions = [int(row["position"]) for row in rows]
        generator = np.random.default_rng([self.seed, self.epoch, *positions])
        batch = batch_of(self.data, self.alike, positions, self.hard_negatives, generator)
        queries: list[Encodable] = [self.data.queries[i].text for i in batch.queries]
        documents = [self.data.documents[i].content(self.encoder.modalities) for i in batch.documents]
        labels = np.where(batch.excluded, _EXCLUDED, _NEGATIVE)
        labels[np.arange(len(queries)), batch.positives] = _POSITIVE
        of_queries, query_order = self._parts(queries, "query")
        of_documents, document_order = self._parts(documents, "document")
        collated: dict[str, Any] = {"label": torch.from_numpy(labels[np.ix_(query_order, document_order)])}
        for i, part in enumerate([*of_queries, *of_documents]):
            collated |= {f"part{i}_{name}": value for name, value in part.items()}
        return collated

    def _parts(self, items: Sequence[Encodable], task: Task) -> tuple[list[dict[str, Any]], list[int]]:
        """Return what the model reads of each part, and the positions of the items in the order of the parts."""
        lengths = [len(item.text) if isinstance(item, Content) else len(str(item)) for item in items]
        order = np.argsort(lengths, kind="stable").tolist() if self.part_size is not None else list(range(len(items)))
        size = self.part_size or len(items)
        parts = [
            self.encoder.trainable.prepare([items[i] for i in order[start : start + size]], task)
            for start in range(0, len(items), size)
        ]
        return parts, order


class SmartLoss(CachedLossMixin, nn.Module):
    """The cross-entropy of each query's positive among the batch's documents, by the score of ``objective``.

    score = pooled cosine, late interaction, or their sum (arXiv 2605.24938, section 3); see `contrastive_loss`.

    Args:
        encoder: what the model is asked by; its model is trained.
        objective: ``"pooled"``, ``"late"`` or ``"hybrid"``.
        temperature: scores are divided by it.
        cached: keep the numbers of one part of a batch at a time for the gradients, and run each part twice
            (Gao et al., 2021, "Scaling deep contrastive learning batch size under memory limited setup"). The
            loss and its gradients are the same.
    """

    def __init__(
        self, encoder: SmartEncoder, objective: Objective, temperature: float, *, cached: bool = False
    ) -> None:
        super().__init__()
        assert isinstance(encoder.model, SentenceTransformer)
        self.model = encoder.model
        self.objective = objective
        self.temperature = temperature
        self.uses_gradient_cache = cached
        # What the mixin cuts batches by: here the collator has done so.
        self.mini_batch_size = 1 << 30
        self._to_embeddings = encoder.trainable.to_embeddings

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch as `SmartCollator` gives it."""
        parts = list(sentence_features)
        told = (labels, torch.cat([self._lengths(part) for part in parts]))
        if self.uses_gradient_cache:
            loss: torch.Tensor = self.forward_cached(parts, told)  # type: ignore[arg-type]  # handed on as it is
            return loss
        return self.calculate_loss([[self._rows(part)] for part in parts], told)

    def calculate_loss(  # type: ignore[override]
        self,
        reps: list[list[torch.Tensor]],
        labels: tuple[torch.Tensor, torch.Tensor],
        *,
        with_backward: bool = False,
    ) -> torch.Tensor:
        """Return the loss of the rows of all parts, and how many each text has beside its pooled one."""
        told, lengths = labels
        queries = len(told)
        rows = torch.cat([row for part in reps for row in part])
        starts = (lengths + 1).cumsum(0) - (lengths + 1)
        is_pooled = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        is_pooled[starts] = True
        pooled, tokens = rows[is_pooled], rows[~is_pooled]
        scores: list[torch.Tensor] = []
        with torch.autocast(rows.device.type, enabled=False):
            if self.objective != "late":
                scores.append(pooled[:queries] @ pooled[queries:].T)
            if self.objective != "pooled":
                of_queries = int(lengths[:queries].sum())
                scores.append(
                    late_scores(tokens[:of_queries], lengths[:queries], tokens[of_queries:], lengths[queries:])
                )
            loss = contrastive_loss(
                torch.stack(scores).sum(dim=0),
                told.argmax(dim=1),
                told == _EXCLUDED,
                temperature=self.temperature,
            )
        if with_backward:
            loss.backward()  # type: ignore[no-untyped-call]
            loss = loss.detach()
        return loss

    def embed_minibatch(
        self,
        sentence_feature: dict[str, Any],
        begin: int,
        end: int,
        with_grad: bool,
        copy_random_state: bool,
        random_state: RandContext | None = None,
    ) -> tuple[torch.Tensor, RandContext | None]:
        """Return the rows of one part, and the random numbers' state before: the mixin's forward pass."""
        with random_state or nullcontext(), torch.set_grad_enabled(with_grad):
            before = RandContext(*sentence_feature.values()) if copy_random_state else None
            return self._rows(sentence_feature), before

    def _lengths(self, part: Mapping[str, Any]) -> torch.Tensor:
        """Return how many tokens each text of ``part`` is compared by."""
        keep: torch.Tensor = part["keep"]
        return (
            keep.sum(dim=1).clamp(min=1)
            if self.objective != "pooled"
            else torch.zeros(len(keep), dtype=torch.int64, device=keep.device)
        )

    def _rows(self, part: Mapping[str, Any]) -> torch.Tensor:
        """Return a matrix of, for each text of ``part``, its pooled embedding and then its token embeddings.

        What has no token left has its pooled embedding as its only token.
        """
        keep = part["keep"]
        task = part["task"]
        # A copy: modules write into what they are given.
        states = self.model({name: value for name, value in part.items() if name not in ("keep", "task")}, task=task)
        kept = states["token_embeddings"][keep]
        pooled, tokens = self._to_embeddings(states["sentence_embedding"], kept)
        if self.objective == "pooled":
            return pooled
        lengths = keep.sum(dim=1)
        both = torch.cat([pooled, tokens])
        starts = len(pooled) + lengths.cumsum(0) - lengths
        pieces = [
            piece
            for i, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True))
            for piece in ((i,), range(start, start + length) if length else (i,))
        ]
        return both[torch.tensor([row for piece in pieces for row in piece], device=both.device)]

    def get_config_dict(self) -> dict[str, Any]:
        """Return what the model card says of the loss."""
        return {
            "objective": self.objective,
            "temperature": self.temperature,
            "cached": self.uses_gradient_cache,
        }

    @property
    def citation(self) -> str:
        """What the model card cites."""
        return (
            "@misc{smart2026,\n    title={Your Embedding Model is SMARTer Than You Think},\n    year={2026},\n"
            "    eprint={2605.24938},\n    archivePrefix={arXiv}\n}"
        )
