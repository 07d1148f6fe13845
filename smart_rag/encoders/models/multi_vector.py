"""`MultiVectorModel`: models that were trained for late interaction, such as ColBERT and ColPali."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from smart_rag.encoders.compatibility import (
    counted_tokens,
    document_length,
    loses_positions,
    lost_positions,
    merges_tokens,
    puts_no_words_around,
    set_document_length,
    to_device,
)
from smart_rag.encoders.models.inputs import ModelInputs, Prepared
from smart_rag.encoders.models.pooled import PooledModel, States
from smart_rag.encoders.models.positions import Mask, Positions
from smart_rag.encoders.profiles import GENERAL_RULE, Decision
from smart_rag.errors import EncoderError
from smart_rag.types import Content, Task, TokenOrigin

# The positions that colpali-engine gave ColQwen2 in its training, and that transformers does not give it.
_TRAINED = "three axes"


class MultiVectorInputs(ModelInputs):
    """Inputs of a `MultiVectorEncoder`. Its own mask decides which tokens count."""

    # The processor of a ColModernVBERT cuts no text, so the caller's limit is kept here.
    _length: int | None = None

    @property
    def max_length(self) -> int | None:
        return self._length if puts_no_words_around(self.model) else document_length(self.model)

    def _set_max_length(self, max_length: int) -> None:
        self._length = max_length
        set_document_length(self.model, max_length)

    @property
    def wraps_content(self) -> bool:
        return self.has_chat_template or "image" in self.modalities

    def prepare(self, contents: Sequence[Content], task: Task) -> Prepared:
        prepared = super().prepare(contents, task)
        found = lost_positions(self.model, prepared.features)
        return prepared if found is None else replace(prepared, features={**prepared.features, "position_ids": found})

    def origins(self, content: Content, task: Task) -> tuple[Positions, list[TokenOrigin]]:
        if merges_tokens(self.model, task):
            raise EncoderError(
                f"{self.name} makes one token embedding of several, so its token embeddings have no origin each; use "
                "a model that merges no tokens"
            )
        return super().origins(content, task)

    def _preprocess(self, contents: Sequence[Content], task: Task) -> Mapping[str, Any]:
        if not puts_no_words_around(self.model):
            return super()._preprocess(contents, task)
        transformer: Any = self.model[0]
        if contents[0].image is not None:
            return dict(transformer.processor.process_images(self._open_images(contents)))
        texts = [self._cut(self.prompts[task] + content.text) for content in contents]
        # Its own words follow a query, and nothing follows a document (colpali-engine, ColModernVBertProcessor).
        if task == "query":
            return dict(transformer.processor.process_queries(texts))
        return dict(transformer.processor(text=texts, padding="longest", return_tensors="pt"))

    def _cut(self, text: str) -> str:
        """Return ``text`` with as many tokens as the caller's limit allows, beside the special tokens."""
        if self._length is None:
            return text
        spans = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ]
        most = max(1, self._length - len(self.tokenizer("", verbose=False)["input_ids"]))
        return text if len(spans) <= most else text[: spans[most - 1][1]]

    def _positions(self, features: Mapping[str, Any], contents: Sequence[Content], task: Task) -> Positions:
        positions = super()._positions(features, contents, task)
        counted = counted_tokens(self.model, features, task)
        # Special tokens count here, even the mask tokens of a query. They are not words of the content.
        template = counted & (positions.template | positions.special)
        nothing = np.zeros_like(counted)
        return replace(positions, attended=counted, special=nothing, template=template, pooled=nothing)


class MultiVectorModel(PooledModel):
    """A `MultiVectorEncoder`, with its own token embeddings.

    The pooled embedding is the mean of the token embeddings that count. Only the first stage of a search needs it. The
    model was not trained to rank by it.
    """

    inputs_class = MultiVectorInputs
    is_late_interaction = True

    def forward(self, prepared: Prepared, layers: Sequence[int] = (-1,)) -> States:
        import torch

        self._check_last(layers)
        positions, task = prepared.positions, prepared.task
        features = to_device(prepared.features, self.model.device)
        attended = features["attention_mask"].bool()
        features = self.model(features, task=task)
        hidden, counted = features["token_embeddings"], features["attention_mask"].bool()
        if merges_tokens(self.model, task):
            positions = _merged_positions(counted.cpu().numpy())
        else:  # no token counts, for example in a text if the model counts only patches; then all tokens are pooled
            counted = torch.where(counted.any(dim=1, keepdim=True), counted, attended)
        # Not a product, because the state of a padded position may be NaN.
        pooled = torch.where(counted.unsqueeze(2), hidden, 0).sum(dim=1)
        return States(pooled, [hidden], positions)

    @property
    def decisions(self) -> list[Decision]:
        made = super().decisions
        return [*made, Decision("positions", _TRAINED, "the model's training")] if self._gives_positions else made

    def describe_images(self) -> dict[str, Any]:
        described = super().describe_images()
        return {**described, "positions": _TRAINED} if self._gives_positions else described

    @property
    def _gives_positions(self) -> bool:
        return loses_positions(self.model)

    def make_portable(self) -> None:
        raise EncoderError(
            f"{self.name} was trained for late interaction; train it with sentence-transformers' own "
            "MultiVectorEncoderTrainer"
        )

    def _decide_pooling(self) -> Decision:
        return Decision("pooling", "mean of the token embeddings", GENERAL_RULE)


def _merged_positions(counted: Mask) -> Positions:
    """Return the positions of merged tokens. We know only which of them are ``counted``."""
    nothing = np.zeros_like(counted)
    return Positions(nothing.astype(np.int64), counted, nothing, nothing, counted, nothing)
