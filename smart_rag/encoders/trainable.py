"""`TrainableModel`: the parts of a `SmartEncoder` that a training needs to compute its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smart_rag.encoders.compatibility import AnyModel
from smart_rag.encoders.models.pooled import PooledModel
from smart_rag.encoders.profiles import TokenPolicy
from smart_rag.types import Encodable, Task

if TYPE_CHECKING:
    import torch


class TrainableModel:
    """A model with its inputs and its embeddings as tensors, so that gradients reach the weights.

    Get it from `SmartEncoder.trainable`. `SmartEncoder.encode_query` and `SmartEncoder.encode_document` do the same
    steps, without gradients and in batches.
    """

    def __init__(self, pooled_model: PooledModel, policies: Mapping[Task, TokenPolicy]) -> None:
        self._pooled_model = pooled_model
        self._policies = policies

    @property
    def model(self) -> AnyModel:
        """The model of sentence-transformers whose weights are trained."""
        return self._pooled_model.model

    def prepare(self, items: Sequence[Encodable], task: Task) -> dict[str, Any]:
        """Return the inputs of one forward pass over ``items`` (n), as tensors on the CPU.

        Some entries are not for the model: ``task``; ``keep`` (n, length), which is True for tokens that take part in
        late interaction; and ``pooled`` (n, length), which is True for the token whose state is the pooled embedding.
        The last one is there only if the model does not pool its states itself.

        Raises:
            InvalidInput: the model does not read such an item.
            DocumentError: the file of an image or a video cannot be read.
        """
        import torch

        inputs = self._pooled_model.inputs
        prepared = inputs.prepare(inputs.contents_of(items, task), task)
        keep = torch.from_numpy(prepared.positions.kept(self._policies[task]))
        own = {"keep": keep, "task": task}
        if self._pooled_model.profile.pooled_before is not None:
            own["pooled"] = torch.from_numpy(prepared.positions.pooled)
        return {**prepared.features, **own}

    def to_embeddings(self, pooled: torch.Tensor, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return pooled vectors (n, dimension) and token states (tokens, width) as embeddings in the same space.

        Both are L2-normalised, in float32.

        Raises:
            EncoderError: tokens and pooled vectors have different widths.
        """
        pooled, tokens = self._pooled_model.to_embeddings(pooled, [states])
        return pooled, tokens[:, 0]

    def save(self, folder: Path) -> None:
        """Save the model with its tokenizer and processor in ``folder``, so that `SmartEncoder` loads it.

        It is a folder of sentence-transformers, if that can hold how the model is pooled. Otherwise, it is a folder of
        transformers. Then the tokenizer says which family the model belongs to.
        """
        if self._pooled_model.profile.pooled_before is None:
            self.model.save_pretrained(str(folder))
            return
        transformer: Any = self.model[0]
        transformer.auto_model.save_pretrained(str(folder))
        transformer.processor.save_pretrained(str(folder))

    def make_portable(self) -> None:
        """Write prompts, chat template and pixel limits into the model, so that they are saved and loaded with it.

        Raises:
            EncoderError: the model is of a kind that cannot be trained here, or a folder of sentence-transformers
                cannot hold all settings of the model.
        """
        self._pooled_model.make_portable()
