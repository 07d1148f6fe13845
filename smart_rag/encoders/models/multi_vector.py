"""Models that were trained for late interaction, such as ColBERT and ColPali, as sentence-transformers loads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from smart_rag.encoders.models.pooled import Backbone, Positions, Prepared, States
from smart_rag.encoders.profiles import GENERAL_RULE, Decision
from smart_rag.errors import EncoderError
from smart_rag.types import Content, Task, TokenOrigin


class MultiVector(Backbone):
    """A `MultiVectorEncoder`: its token embeddings, and which of them count, are its own.

    The pooled embedding is the mean of those that count. It serves the first stage: the model was not trained to
    be ranked by it.
    """

    late_only = True

    @property
    def max_length(self) -> int | None:
        length = getattr(self.model[0], "document_length", None)
        return self.model.max_seq_length if length is None else int(length)

    @max_length.setter
    def max_length(self, length: int) -> None:
        transformer: Any = self.model[0]
        self.model.max_seq_length = length
        if getattr(transformer, "document_length", None) is not None:
            transformer.document_length = length

    @property
    def wraps(self) -> bool:
        return self.has_template or "image" in self.modalities

    def make_portable(self) -> None:
        raise EncoderError(
            f"{self.name} was trained for late interaction; train it with sentence-transformers' own "
            "MultiVectorEncoderTrainer"
        )

    def forward(self, prepared: Prepared, layers: Sequence[int] = (-1,)) -> States:
        import torch
        from sentence_transformers.util import batch_to_device

        self._check_last(layers)
        features, positions, task = prepared.features, prepared.positions, prepared.task
        features = batch_to_device(features, self.model.device)
        there = features["attention_mask"].bool()
        features = self.model(features, task=task)
        hidden, counts = features["token_embeddings"], features["attention_mask"].bool()
        if self._merges_tokens(task):
            positions = _unknown(counts.cpu().numpy())
        else:  # where nothing counts, such as words where only patches do, all that is there stands for the content
            counts = torch.where(counts.any(dim=1, keepdim=True), counts, there)
        # Not a product: the state of a padded position may be NaN.
        pooled = torch.where(counts.unsqueeze(2), hidden, 0).sum(dim=1)
        return States(pooled, [hidden], positions)

    def origins(self, content: Content, task: Task) -> tuple[Positions, list[TokenOrigin]]:
        if self._merges_tokens(task):
            raise EncoderError(f"{self.name} makes one token embedding of several, which stand for no one origin")
        return super().origins(content, task)

    def _decide_pooling(self) -> Decision:
        return Decision("pooling", "mean of the token embeddings", GENERAL_RULE)

    def _positions(self, features: dict[str, Any], contents: Sequence[Content], task: Task) -> Positions:
        from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

        positions = super()._positions(features, contents, task)
        names = ("input_ids", "attention_mask", "query_expansion_positions")
        masked = {name: features[name] for name in names if name in features}
        for module in self.model:
            if isinstance(module, MultiVectorMask):
                masked = module(masked, task=task)
        counts = masked["attention_mask"].bool().cpu().numpy()
        # Special tokens count here, but are words of no content; a query's mask tokens among them.
        template = counts & (positions.template | positions.special)
        nothing = np.zeros_like(counts)
        return replace(positions, attended=counts, special=nothing, template=template, pooled=nothing)

    def _merges_tokens(self, task: Task) -> bool:
        from sentence_transformers.multi_vector_encoder.modules import BaseTokenPooling

        return any(isinstance(module, BaseTokenPooling) and module.applies_to(task) for module in self.model)


def _unknown(counts: np.ndarray[Any, np.dtype[np.bool_]]) -> Positions:
    """Return positions of which only that they count is known."""
    nothing = np.zeros_like(counts)
    return Positions(nothing.astype(np.int64), counts, nothing, nothing, counts, nothing)
