"""`JinaV4Model`: jina-embeddings-v4. One forward pass gives one vector and token embeddings of a text or an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from smart_rag.encoders.loading.loader import LoadedModel
from smart_rag.encoders.models.image_sizes import size_option
from smart_rag.encoders.models.inputs import ModelInputs, Prepared
from smart_rag.encoders.models.pooled import PooledModel, States
from smart_rag.encoders.models.positions import Positions, ids_and_attended
from smart_rag.encoders.profiles import OWN_FILES, Decision, Profile
from smart_rag.errors import EncoderError
from smart_rag.types import Content, Task

_IMAGE = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Describe the image.<|im_end|>\n"


class JinaV4Inputs(ModelInputs):
    """Inputs as in the training of the model: with the same prefixes, and with the same words around an image."""

    def _preprocess(self, contents: Sequence[Content], task: Task) -> dict[str, Any]:
        if contents[0].image is None:
            texts = [self.prompts[task] + content.text for content in contents]
            length = self.model.max_seq_length
            return dict(
                self.tokenizer(texts, padding="longest", truncation=True, max_length=length, return_tensors="pt")
            )
        transformer: Any = self.model[0]
        opened = [[image] for image in self._open_images(contents)]
        limits = self.image_sizes.limits
        options = {} if limits is None else {"size": size_option(limits)}
        texts = [_IMAGE] * len(opened)
        return dict(
            transformer.processor(
                text=texts, images=opened, padding="longest", return_tensors="pt", images_kwargs=options
            )
        )

    def _positions(self, features: Mapping[str, Any], contents: Sequence[Content], task: Task) -> Positions:
        ids, attended = ids_and_attended(features)
        visual = np.isin(ids, self.visual_ids)
        template = attended & ~visual
        for i, content in enumerate(contents):
            if content.image is None:
                template[i, attended[i]] = self._in_prompt(content.text, task)
        template |= np.isin(ids, self.special_ids) & attended & ~visual
        nothing = np.zeros_like(attended)
        return Positions(ids, attended, nothing, visual, template, nothing)

    def _in_prompt(self, text: str, task: Task) -> list[bool]:
        """Return whether each token ends within the prompt. The blank after the prompt is part of the first word."""
        prompt = self.prompts[task]
        return [stop <= len(prompt) for _, stop in self._offsets(prompt + text, add_special_tokens=True)]


class JinaV4Model(PooledModel):
    """jina-embeddings-v4: Qwen2.5-VL with the `Head` of `jina_v4_weights`.

    Every token takes part in late interaction, even the tokens of the prefix and the chat template. The pooled
    embedding is the model's own single vector, which is wider than its token embeddings. The model was trained to rank
    by each of the two alone.
    """

    inputs_class = JinaV4Inputs
    is_late_interaction = True

    def __init__(
        self, loaded: LoadedModel, profile: Profile, prompts: Mapping[Task, str], max_pixels: int | None
    ) -> None:
        super().__init__(loaded, profile, prompts, max_pixels)
        head: Any = self.model[1]
        self.token_dimension = int(head.projector.out_features)

    def forward(self, prepared: Prepared, layers: Sequence[int] = (-1,)) -> States:
        self._check_last(layers)
        states = super().forward(prepared)
        return replace(states, fallback=states.hidden[0].sum(dim=1))

    def make_portable(self) -> None:
        raise EncoderError(
            f"{self.name} cannot be trained here: a folder of sentence-transformers cannot hold its adapters and its "
            "projector; train it with the code that comes with it"
        )

    def _decide_pooling(self) -> Decision:
        return Decision("pooling", "its own single vector", OWN_FILES)
