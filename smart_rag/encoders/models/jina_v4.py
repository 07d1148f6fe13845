"""jina-embeddings-v4: one vector and token embeddings of a text or an image, in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from smart_rag.encoders.loading import Checkpoint
from smart_rag.encoders.models.pooled import Backbone, Positions, Prepared, States, size_of
from smart_rag.encoders.profiles import OWN_FILES, Decision, Profile
from smart_rag.errors import EncoderError
from smart_rag.types import Content, Task

_IMAGE = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Describe the image.<|im_end|>\n"


class JinaV4(Backbone):
    """jina-embeddings-v4: Qwen2.5-VL with the `Head` of `jina_v4_weights`, prompted as the model was trained.

    Every token counts, prefix and chat template too. The pooled embedding is the model's own single vector, wider
    than its token embeddings; the two were trained side by side, each to be ranked by itself.
    """

    late_only = True

    def __init__(
        self, name: str, checkpoint: Checkpoint, profile: Profile, prompts: dict[Task, str], max_pixels: int | None
    ) -> None:
        super().__init__(name, checkpoint, profile, prompts, max_pixels)
        head: Any = self.model[1]
        self.token_dimension = int(head.projector.out_features)

    def make_portable(self) -> None:
        raise EncoderError(
            f"{self.name} is not trained here: its files hold adapters and a projector, which no folder of "
            "sentence-transformers' has room for; train it with the code that comes with it"
        )

    def forward(self, prepared: Prepared, layers: Sequence[int] = (-1,)) -> States:
        self._check_last(layers)
        states = super().forward(prepared)
        return replace(states, summary=states.hidden[0].sum(dim=1))

    def _decide_pooling(self) -> Decision:
        return Decision("pooling", "its own single vector", OWN_FILES)

    def _preprocessed(self, contents: Sequence[Content], task: Task) -> dict[str, Any]:
        if contents[0].image is None:
            texts = [self.prompts[task] + content.text for content in contents]
            length = self.model.max_seq_length
            return dict(
                self.tokenizer(texts, padding="longest", truncation=True, max_length=length, return_tensors="pt")
            )
        transformer: Any = self.model[0]
        opened = [[self._opened(content.image)] for content in contents if content.image is not None]
        options = {} if self.pixels is None else {"size": size_of(self.pixels)}
        texts = [_IMAGE] * len(opened)
        return dict(
            transformer.processor(
                text=texts, images=opened, padding="longest", return_tensors="pt", images_kwargs=options
            )
        )

    def _positions(self, features: dict[str, Any], contents: Sequence[Content], task: Task) -> Positions:
        ids = features["input_ids"].cpu().numpy()
        attended = features["attention_mask"].bool().cpu().numpy()
        visual = np.isin(ids, self._visual_ids)
        template = attended & ~visual
        for i, content in enumerate(contents):
            if content.image is None:
                template[i, attended[i]] = self._in_prompt(content.text, task)
        template |= np.isin(ids, self.special_ids) & attended & ~visual
        nothing = np.zeros_like(attended)
        return Positions(ids, attended, nothing, visual, template, nothing)

    def _in_prompt(self, text: str, task: Task) -> list[bool]:
        """Return of each token whether it ends within the prompt; the blank after it is part of the first word."""
        prompt = self.prompts[task]
        return [stop <= len(prompt) for _, stop in self._offsets(prompt + text, add_special_tokens=True)]
