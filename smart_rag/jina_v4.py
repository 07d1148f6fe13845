"""jina-embeddings-v4, run by the code that comes with it: one vector and token embeddings in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from smart_rag.backbone import Backbone, Positions, Prepared, States
from smart_rag.checkpoint import Checkpoint
from smart_rag.errors import EncoderError
from smart_rag.profiles import OWN_FILES, Decision, Profile, Task
from smart_rag.types import Content

_OTHER = "its code is of another revision than smart_rag was written for; name an older one by revision="


class JinaV4(Backbone):
    """What its ``encode_text`` and ``encode_image`` give with ``task="retrieval"``, and where each token stands.

    Every token counts, prefix and chat template too. The pooled embedding is the model's own single vector, wider
    than its token embeddings; the two were trained side by side, each to be ranked by itself.
    """

    late_only = True

    def __init__(
        self, name: str, checkpoint: Checkpoint, profile: Profile, prompts: dict[Task, str], max_pixels: int | None
    ) -> None:
        super().__init__(name, checkpoint, profile, prompts, max_pixels)
        self.token_dimension = int(self._remote.config.multi_vector_projector_dim)
        if self.pixels is not None:  # `process_images` takes no argument for it
            least, most = self.pixels
            self._image_processor.size = {"shortest_edge": least, "longest_edge": most}

    @property
    def _remote(self) -> Any:
        return self.model[0]

    def make_portable(self) -> None:
        raise EncoderError(f"{self.name} is run by code of its own and is not trained here; train it with that")

    def forward(self, prepared: Prepared, layers: Sequence[int] = (-1,)) -> States:
        self._check_last(layers)
        there = {name: value.to(self.model.device) for name, value in prepared.features.items()}
        output = self._remote(task_label="retrieval", **there)
        tokens = output.multi_vec_emb
        expected = (*prepared.positions.ids.shape, self.token_dimension)
        if tokens.shape != expected:
            raise EncoderError(
                f"{self.name} gives token embeddings of shape {tuple(tokens.shape)}, expected {expected}: {_OTHER}"
            )
        return States(output.single_vec_emb, [tokens], prepared.positions, summary=tokens.sum(dim=1))

    def _decide_pooling(self) -> Decision:
        return Decision("pooling", "its own single vector", OWN_FILES)

    def _preprocessed(self, contents: Sequence[Content], task: Task) -> dict[str, Any]:
        processor = self._remote.processor
        if contents[0].image is not None:
            return dict(
                processor.process_images([self._opened(content.image) for content in contents if content.image])
            )
        texts = [self.prompts[task] + content.text for content in contents]
        return dict(processor.process_texts(texts, max_length=self.model.max_seq_length))

    def _positions(self, features: dict[str, Any], contents: Sequence[Content], task: Task) -> Positions:
        ids = features["input_ids"].cpu().numpy()
        attended = features["attention_mask"].bool().cpu().numpy()
        visual = np.isin(ids, self._visual_ids)
        template = attended & ~visual
        for i, content in enumerate(contents):
            if content.image is None:
                template[i, attended[i]] = self._in_prompt(content.text, task, int(attended[i].sum()))
        template |= np.isin(ids, self.special_ids) & attended & ~visual
        nothing = np.zeros_like(attended)
        return Positions(ids, attended, nothing, visual, template, nothing)

    def _in_prompt(self, text: str, task: Task, tokens: int) -> list[bool]:
        """Return which of so many tokens end within the prompt; the blank after it is part of the first word."""
        prompt = self.prompts[task]
        spans = self._offsets(prompt + text, add_special_tokens=True)
        if len(spans) != tokens:
            raise EncoderError(
                f"{self.name}: its processor makes {tokens} tokens of a text, its tokenizer {len(spans)}, so that no "
                f"token can be told from another: {_OTHER}"
            )
        return [stop <= len(prompt) for _, stop in spans]
