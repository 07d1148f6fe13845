"""Loss and collator that train a model by its SMART scores, with the trainer of sentence-transformers.

The collator prepares texts and images as `SmartEncoder` does, with the same prompts and token policies. The loss is
`training_loss` of the pooled cosine, of late interaction, or of their sum. In a training with several processes, the
documents of the other processes are negatives, too.
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
from torch.nn.utils.rnn import pad_sequence

from smart_rag.config import Objective
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.training.batches import make_batch
from smart_rag.training.data import TrainingData
from smart_rag.training.losses import late_scores, training_loss
from smart_rag.training.runs import processes
from smart_rag.training.settings import DistillationSettings
from smart_rag.types import Content, Encodable, Task

# Labels of pairs (query, document) in a batch.
_POSITIVE, _NEGATIVE, _EXCLUDED = 1, 0, -1
# Entries of a part that are not for the model. The last three are there only if there are several processes.
_OWN = frozenset({"keep", "task", "pooled", "teacher", "answers", "groups", "positions"})


class SmartCollator:
    """Collator: makes a batch of model inputs from rows that hold the positions of queries.

    Queries are sorted by length and divided into parts of ``part_size`` queries. Documents are divided in the same
    way. Each part is one forward pass. Without ``part_size``, all queries are one part, and all documents are one
    part. The batch has labels (queries, documents): 1 for the positive of a query, 0 for a negative, -1 for neither.
    Parts of queries also have ``teacher`` (n, documents), the scores of a teacher, or NaN. The choice of positives and
    negatives depends only on ``seed``, ``epoch`` and the positions. So a resumed training gets the same batches as a
    training without interruption.

    If there are several processes, a part also has what the other processes need: ``answers`` (n, most), the group
    numbers of each query's positives, filled up with -1, or ``groups`` (n) and ``positions`` (n) of the documents.
    """

    # The trainer needs this: the names of the columns that are not inputs.
    valid_label_columns = ("label",)

    def __init__(
        self,
        data: TrainingData,
        groups: NDArray[np.int64],
        encoder: SmartEncoder,
        hard_negatives: int = 0,
        part_size: int | None = None,
        seed: int = 0,
    ) -> None:
        self.data = data
        self.groups = groups
        self.encoder = encoder
        self.hard_negatives = hard_negatives
        self.part_size = part_size
        self.seed = seed
        self.epoch = 0

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        positions = [int(row["position"]) for row in rows]
        generator = np.random.default_rng([self.seed, self.epoch, *positions])
        batch = make_batch(self.data, self.groups, positions, self.hard_negatives, generator)
        queries: list[Encodable] = [self.data.queries[i].text for i in batch.queries]
        documents = [self.data.documents[i].content(self.encoder.modalities) for i in batch.documents]
        labels = np.where(batch.excluded, _EXCLUDED, _NEGATIVE)
        labels[np.arange(len(queries)), batch.positives] = _POSITIVE
        query_parts, query_order = self._parts(queries, "query")
        document_parts, document_order = self._parts(documents, "document")
        collated: dict[str, Any] = {"label": torch.from_numpy(labels[np.ix_(query_order, document_order)])}
        scores = torch.from_numpy(batch.teacher[np.ix_(query_order, document_order)])
        for part, of_part in zip(query_parts, torch.split(scores, _lengths_of(query_parts)), strict=True):
            part["teacher"] = of_part
        if processes.are_joined():
            self._add_answers(query_parts, [batch.queries[i] for i in query_order])
            self._add_positions(document_parts, [batch.documents[i] for i in document_order])
        for i, part in enumerate([*query_parts, *document_parts]):
            collated |= {f"part{i}_{name}": value for name, value in part.items()}
        return collated

    def _add_answers(self, parts: Sequence[dict[str, Any]], queries: Sequence[int]) -> None:
        positives = [torch.from_numpy(self.groups[list(self.data.queries[i].positives)]) for i in queries]
        answers = pad_sequence(positives, batch_first=True, padding_value=-1)
        for part, of_part in zip(parts, torch.split(answers, _lengths_of(parts)), strict=True):
            part["answers"] = of_part

    def _add_positions(self, parts: Sequence[dict[str, Any]], documents: Sequence[int]) -> None:
        positions = torch.tensor(documents)
        for part, of_part in zip(parts, torch.split(positions, _lengths_of(parts)), strict=True):
            part["positions"] = of_part
            part["groups"] = torch.from_numpy(self.groups[of_part.numpy()])

    def _parts(self, items: Sequence[Encodable], task: Task) -> tuple[list[dict[str, Any]], list[int]]:
        """Return the model inputs of each part, and the positions of the items in the order of the parts."""
        lengths = [len(item.text) if isinstance(item, Content) else len(str(item)) for item in items]
        order = np.argsort(lengths, kind="stable").tolist() if self.part_size is not None else list(range(len(items)))
        size = self.part_size or len(items)
        parts = [
            self.encoder.trainable.prepare([items[i] for i in order[start : start + size]], task)
            for start in range(0, len(items), size)
        ]
        return parts, order


class SmartLoss(CachedLossMixin, nn.Module):
    """`training_loss` of a batch, by the pooled cosine, late interaction or their sum (arXiv 2605.24938, section 3).

    Args:
        encoder: the encoder whose model is trained.
        objective: score to train, ``"pooled"``, ``"late"`` or ``"hybrid"``.
        temperature: divisor of the scores.
        distillation: how the scores of a teacher are learned. By default, they are not.
        cached: whether to keep only the activations of one part at a time, and to run each part twice (gradient
            caching: Gao et al., 2021, "Scaling deep contrastive learning batch size under memory limited setup"). The
            loss and its gradients do not change.

    Attributes:
        last: the last loss.
    """

    def __init__(
        self,
        encoder: SmartEncoder,
        objective: Objective,
        temperature: float,
        distillation: DistillationSettings | None = None,
        *,
        cached: bool = False,
    ) -> None:
        super().__init__()
        assert isinstance(encoder.model, SentenceTransformer)
        self.model = encoder.model
        self.objective = objective
        self.temperature = temperature
        self.distillation = distillation or DistillationSettings()
        self.uses_gradient_cache = cached
        # The mixin cuts batches into pieces of this size. It must cut nothing, because the collator has already done
        # so.
        self.mini_batch_size = 1 << 30
        self.last = float("nan")
        self._to_embeddings = encoder.trainable.to_embeddings

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: torch.Tensor) -> torch.Tensor:
        """Return the loss, a scalar, of a batch that `SmartCollator` made."""
        parts = list(sentence_features)
        joined = [
            torch.cat([part[name] for part in parts if name in part])
            for name in ("answers", "groups", "positions")
            if processes.are_joined()
        ]
        teacher = torch.cat([part["teacher"] for part in parts if "teacher" in part])
        targets = (labels, torch.cat([self._lengths(part) for part in parts]), teacher, *joined)
        if self.uses_gradient_cache:
            loss: torch.Tensor = self.forward_cached(parts, targets)  # type: ignore[arg-type]  # passed on unchanged
            return loss
        return self.calculate_loss([[self._rows(part)] for part in parts], targets)

    def calculate_loss(  # type: ignore[override]
        self,
        reps: list[list[torch.Tensor]],
        labels: tuple[torch.Tensor, ...],
        *,
        with_backward: bool = False,
    ) -> torch.Tensor:
        """Return the loss of the embeddings of all parts, a scalar.

        ``labels`` holds three tensors: the labels of the batch, the number of token embeddings of each text, and the
        teacher's scores. The texts of the queries come first, and then the documents. If there are several processes,
        ``labels`` also holds the answers of the queries, and the groups and the positions of the documents. Then the
        loss of this process is that of its queries among the documents of all processes.
        """
        relevance, lengths, teacher, *joined = labels
        queries = len(relevance)
        rows = torch.cat([row for part in reps for row in part])
        if joined:
            own = rows[int((lengths[:queries] + 1).sum()) :]
            rows = torch.cat([rows, *processes.gather_others(own)])
            lengths = torch.cat([lengths, *processes.gather_others(lengths[queries:])])
            relevance = torch.cat([relevance, _relevance_of_others(*joined)], dim=1)
        starts = (lengths + 1).cumsum(0) - (lengths + 1)
        is_pooled = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        is_pooled[starts] = True
        pooled, tokens = rows[is_pooled], rows[~is_pooled]
        scores: list[torch.Tensor] = []
        with torch.autocast(rows.device.type, enabled=False):
            if self.objective != "late":
                scores.append(pooled[:queries] @ pooled[queries:].T)
            if self.objective != "pooled":
                end = int(lengths[:queries].sum())
                scores.append(late_scores(tokens[:end], lengths[:queries], tokens[end:], lengths[queries:]))
            total, positives = torch.stack(scores).sum(dim=0), relevance.argmax(dim=1)
            excluded = relevance == _EXCLUDED
            loss = training_loss(total, positives, excluded, teacher, self.distillation, temperature=self.temperature)
        self.last = float(loss.detach())
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
        """Return the embeddings of one part, and the random state before its forward pass. The mixin calls this."""
        with random_state or nullcontext(), torch.set_grad_enabled(with_grad):
            before = RandContext(*sentence_feature.values()) if copy_random_state else None
            return self._rows(sentence_feature), before

    def _lengths(self, part: Mapping[str, Any]) -> torch.Tensor:
        """Return the number of token embeddings of each text in ``part`` (n). It is 0 if tokens are not trained."""
        keep: torch.Tensor = part["keep"]
        if self.objective == "pooled":
            return torch.zeros(len(keep), dtype=torch.int64, device=keep.device)
        return keep.sum(dim=1).clamp(min=1)

    def _rows(self, part: Mapping[str, Any]) -> torch.Tensor:
        """Return the embeddings of ``part`` (rows, dimension). For each text, the pooled one comes first.

        A text without tokens has its pooled embedding as its only token embedding.
        """
        keep = part["keep"]
        task = part["task"]
        # The modules write into this dict, so it must be a new one.
        states = self.model({name: value for name, value in part.items() if name not in _OWN}, task=task)
        hidden = states["token_embeddings"]
        own = hidden[part["pooled"]] if "pooled" in part else states["sentence_embedding"]
        pooled, tokens = self._to_embeddings(own, hidden[keep])
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
        """Return the settings of the loss, for the model card."""
        return {
            "objective": self.objective,
            "temperature": self.temperature,
            "cached": self.uses_gradient_cache,
            "distillation": self.distillation.distillation,
        }

    @property
    def citation(self) -> str:
        """The paper of the loss as BibTeX, for the model card."""
        return (
            "@misc{smart2026,\n    title={Your Embedding Model is SMARTer Than You Think},\n    year={2026},\n"
            "    eprint={2605.24938},\n    archivePrefix={arXiv}\n}"
        )


def _lengths_of(parts: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the number of texts of each part."""
    return [len(part["keep"]) for part in parts]


def _relevance_of_others(answers: torch.Tensor, groups: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the labels (queries, documents of the other processes).

    A document is no negative if it has the content of a query's positive, or if it was there before: in this process or
    in one before the other. So the loss is that of one process with the queries of all.
    """
    of_others = torch.cat(processes.gather_others(groups))
    excluded = (of_others[None, :, None] == answers[:, None, :]).any(dim=2)
    repeated, seen = [], positions
    for other in processes.gather_others(positions):
        repeated.append(torch.isin(other, seen))
        seen = torch.cat([seen, other])
    excluded |= torch.cat(repeated)[None]
    return torch.where(excluded, _EXCLUDED, _NEGATIVE)
