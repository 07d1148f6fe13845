"""CLIP and SigLIP: one tower for texts, another for images, and one space for both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from smart_rag.encoders.models.pooled import Backbone, Mask, Positions, Prepared, States
from smart_rag.encoders.profiles import OWN_FILES, Decision
from smart_rag.errors import EncoderError
from smart_rag.files import content as media
from smart_rag.types import Content, Task, TokenOrigin

if TYPE_CHECKING:
    import torch


class DualEncoder(Backbone):
    """A model of two towers, neither of which was trained to give token embeddings.

    What its tower does to the pooled state is done to each token's: CLIP's projections, and SigLIP's heads, the one
    for images with a single patch to attend to. An image is seen as the model's processor makes it, CLIP's central
    square alone.
    """

    @property
    def _is_siglip(self) -> bool:
        return str(self._config.model_type) == "siglip"

    @property
    def _config(self) -> Any:
        return getattr(self.model.transformers_model, "config", None)

    @cached_property
    def tokens_per_image(self) -> int:
        vision = self._config.vision_config
        return int(vision.image_size // vision.patch_size) ** 2

    def make_portable(self) -> None:
        raise EncoderError(
            f"{self.name} has a tower for texts and one for images, which are not trained here; train it with "
            "sentence-transformers' own SentenceTransformerTrainer"
        )

    def forward(self, prepared: Prepared, layers: Sequence[int] = (-1,)) -> States:
        self._check_last(layers)
        there = {name: value.to(self.model.device) for name, value in prepared.features.items()}
        pooled, hidden = self._of_images(there) if "pixel_values" in there else self._of_texts(there)
        return States(pooled, [hidden], prepared.positions)

    def _of_texts(self, features: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        model: Any = self.model.transformers_model
        # SigLIP attends to its padding, unless its files say that the mask is one of its inputs.
        names = self.tokenizer.model_input_names if self._is_siglip else ("input_ids", "attention_mask")
        output = model.text_model(**{name: features[name] for name in ("input_ids", "attention_mask") if name in names})
        if self._is_siglip:
            return output.pooler_output, model.text_model.head(output.last_hidden_state)
        return model.text_projection(output.pooler_output), model.text_projection(output.last_hidden_state)

    def _of_images(self, features: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        model: Any = self.model.transformers_model
        tower = model.vision_model
        output = tower(pixel_values=features["pixel_values"].to(model.dtype))
        states = output.last_hidden_state
        if self._is_siglip:
            patches = tower.head(states.reshape(-1, 1, states.shape[2])).reshape(states.shape)
            return output.pooler_output, patches
        patches = tower.post_layernorm(states[:, 1:])  # the model itself does that to the class token alone
        return model.visual_projection(output.pooler_output), model.visual_projection(patches)

    def origins(self, content: Content, task: Task) -> tuple[Positions, list[TokenOrigin]]:
        if content.image is None:
            return super().origins(content, task)
        return self.positions(content, task), list(self._patches_of(content))

    def _patches_of(self, content: Content) -> Iterator[TokenOrigin]:
        """Yield the origins of the patches, in parts of the whole image, also where its margins are cut off."""
        side = int(self.tokens_per_image**0.5)
        left, top, right, bottom = self._seen(content)
        for row, column in np.ndindex(side, side):
            xs = [left + (right - left) * x / side for x in (column, column + 1)]
            ys = [top + (bottom - top) * y / side for y in (row, row + 1)]
            yield TokenOrigin(box=(xs[0], ys[0], xs[1], ys[1]))

    def _seen(self, content: Content) -> tuple[float, float, float, float]:
        assert content.image is not None
        processor, size = self._image_processor, self._image_size
        if "shortest_edge" not in size or not getattr(processor, "do_center_crop", False):
            return 0.0, 0.0, 1.0, 1.0
        width, height = media.open_image(content.image, self.page_pixels).size
        scale = size["shortest_edge"] / min(width, height)
        crop = dict(processor.crop_size)
        x = max(0.0, 1 - crop["width"] / (width * scale)) / 2
        y = max(0.0, 1 - crop["height"] / (height * scale)) / 2
        return x, y, 1 - x, 1 - y

    def _decide_pooling(self) -> Decision:
        return Decision("pooling", f"that of {self._config.model_type}", OWN_FILES)

    def _preprocessed(self, contents: Sequence[Content], task: Task) -> dict[str, Any]:
        if contents[0].image is not None:
            opened = [media.open_image(content.image, self.page_pixels) for content in contents if content.image]
            return {"pixel_values": self._image_processor(images=opened, return_tensors="pt")["pixel_values"]}
        longest = self._config.text_config.max_position_embeddings
        limit = min(self.model.max_seq_length or longest, longest)
        ids = self.tokenizer(
            [self.prompts[task] + content.text for content in contents], truncation=True, max_length=limit
        )["input_ids"]
        # SigLIP pools the last position, wherever the text ends: it was trained with texts of one length.
        padding = "max_length" if self._is_siglip else "longest"
        padded = self.tokenizer.pad(
            {"input_ids": ids}, padding, longest, return_attention_mask=True, return_tensors="pt", verbose=False
        )
        return {name: padded[name] for name in ("input_ids", "attention_mask")}

    def _positions(self, features: dict[str, Any], contents: Sequence[Content], task: Task) -> Positions:
        if "input_ids" in features:
            return super()._positions(features, contents, task)
        everything = np.ones((len(contents), self.tokens_per_image), dtype=np.bool_)
        return Positions(everything.astype(np.int64) - 1, everything, ~everything, everything, ~everything, ~everything)

    def _pooled_position(self, ids: Any, attended: Mask) -> Mask:
        pooled = np.zeros_like(attended)
        if self._is_siglip:
            pooled[:, -1] = attended[:, -1]
        return pooled  # CLIP's is a special token, which takes no part anyway
