"""`ClipModel`: CLIP, SigLIP and SigLIP 2. One tower reads texts, one reads images, and both share one space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.encoders.compatibility import AnyModel, center_crop, image_size, max_patches, transformer_config
from smart_rag.encoders.models.inputs import ModelInputs, Prepared
from smart_rag.encoders.models.pooled import PooledModel, States
from smart_rag.encoders.models.positions import Mask, Positions
from smart_rag.encoders.profiles import OWN_FILES, Decision
from smart_rag.errors import EncoderError
from smart_rag.types import Box, Content, ImageSource, Span, Task, TokenOrigin

if TYPE_CHECKING:
    import torch


def _is_siglip(model: AnyModel) -> bool:
    return str(transformer_config(model).model_type) in ("siglip", "siglip2")


def _keeps_ratio(model: AnyModel) -> bool:
    """Return whether ``model`` reads images in their own shape: SigLIP 2 NaFlex. The others make all images square."""
    return str(transformer_config(model).model_type) == "siglip2"


class ClipInputs(ModelInputs):
    """Inputs of one of the two towers. The processor may cut off an image's margins. CLIP reads the central square."""

    @cached_property
    def tokens_per_image(self) -> int:
        if _keeps_ratio(self.model):
            return max_patches(self.image_processor)
        vision = transformer_config(self.model).vision_config
        return int(vision.image_size // vision.patch_size) ** 2

    def origins(self, content: Content, task: Task) -> tuple[Positions, list[TokenOrigin]]:
        if content.image is None:
            return super().origins(content, task)
        features = self._read([content], task)
        rows, columns = [int(self.tokens_per_image**0.5)] * 2
        if _keeps_ratio(self.model):
            rows, columns = features["spatial_shapes"][0].tolist()
        positions = self._positions(features, [content], task)
        origins = list(self._patches_of(content.image, rows, columns))
        return positions, origins + [TokenOrigin()] * (positions.ids.shape[1] - len(origins))

    def _spans(self, text: str, positions: Positions, task: Task) -> Iterator[tuple[int, Span]]:
        first = int(np.argmax(positions.attended[0]))  # SigLIP 2 has its padding on the left
        of_text = replace(positions, ids=positions.ids[:, first:], template=positions.template[:, first:])
        for i, span in super()._spans(text, of_text, task):
            yield first + i, span

    def _patches_of(self, image: ImageSource, rows: int, columns: int) -> Iterator[TokenOrigin]:
        """Yield the origins of the patches, as fractions of the whole image, even if its margins are cut off."""
        left, top, right, bottom = self._seen(image)
        for row, column in np.ndindex(rows, columns):
            xs = [left + (right - left) * x / columns for x in (column, column + 1)]
            ys = [top + (bottom - top) * y / rows for y in (row, row + 1)]
            yield TokenOrigin(box=(xs[0], ys[0], xs[1], ys[1]))

    def _seen(self, image: ImageSource) -> Box:
        """Return the part of ``image`` that is left after its margins are cut off."""
        crop = center_crop(self.image_processor)
        if crop is None:
            return 0.0, 0.0, 1.0, 1.0
        width, height = self.image_sizes.open(image).size
        scale = image_size(self.image_processor)["shortest_edge"] / min(width, height)
        x = max(0.0, 1 - crop[0] / (width * scale)) / 2
        y = max(0.0, 1 - crop[1] / (height * scale)) / 2
        return x, y, 1 - x, 1 - y

    def _preprocess(self, contents: Sequence[Content], task: Task) -> dict[str, Any]:
        if contents[0].image is not None:
            import torch

            # One by one, so that only one image in its own size is in memory.
            made = [
                self.image_processor(images=[self.image_sizes.open(content.image, is_alone=True)], return_tensors="pt")
                for content in contents
                if content.image is not None
            ]
            # With NaFlex, images have several shapes, and rows of patches are filled up to one length.
            names = ["pixel_values", *(["pixel_attention_mask", "spatial_shapes"] if _keeps_ratio(self.model) else [])]
            return {name: torch.cat([features[name] for features in made]) for name in names}
        longest = transformer_config(self.model).text_config.max_position_embeddings
        limit = min(self.model.max_seq_length or longest, longest)
        ids = self.tokenizer(
            [self.prompts[task] + content.text for content in contents], truncation=True, max_length=limit
        )["input_ids"]
        # SigLIP pools the last position, wherever the text ends, because it was trained with texts of one length.
        padding = "max_length" if _is_siglip(self.model) else "longest"
        padded = self.tokenizer.pad(
            {"input_ids": ids}, padding, longest, return_attention_mask=True, return_tensors="pt", verbose=False
        )
        return {name: padded[name] for name in ("input_ids", "attention_mask")}

    def _positions(self, features: Mapping[str, Any], contents: Sequence[Content], task: Task) -> Positions:
        if "input_ids" in features:
            return super()._positions(features, contents, task)
        patches = np.ones((len(contents), self.tokens_per_image), dtype=np.bool_)
        if _keeps_ratio(self.model):
            patches = features["pixel_attention_mask"].bool().numpy()
        nothing = np.zeros_like(patches)
        return Positions(nothing.astype(np.int64), patches, nothing, patches, nothing, nothing)

    def _pooled_position(self, ids: NDArray[np.int64], attended: Mask) -> Mask:
        pooled = np.zeros_like(attended)
        if _is_siglip(self.model):
            pooled[:, -1] = attended[:, -1]
        return pooled  # CLIP pools a special token, which never takes part in late interaction


class ClipModel(PooledModel):
    """CLIP, SigLIP or SigLIP 2. They were not trained to give token embeddings.

    A tower applies a last step to its pooled state: CLIP's layer norm and projection, or SigLIP's head. This class
    applies the same step to the state of each token. SigLIP's head for images attends to patches. Here, it gets one
    patch at a time.
    """

    inputs_class = ClipInputs

    def forward(self, prepared: Prepared, layers: Sequence[int] = (-1,)) -> States:
        self._check_last(layers)
        features = {name: value.to(self.model.device) for name, value in prepared.features.items()}
        pooled, hidden = self._of_images(features) if "pixel_values" in features else self._of_texts(features)
        return States(pooled, [hidden], prepared.positions)

    def _of_texts(self, features: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        model: Any = self.model.transformers_model
        if not _is_siglip(self.model):
            output = model.text_model(**features)
            return model.text_projection(output.pooler_output), model.text_projection(output.last_hidden_state)
        # SigLIP attends to its padding, unless its files list the mask as an input.
        names = self.inputs.tokenizer.model_input_names
        output = model.text_model(**{name: value for name, value in features.items() if name in names})
        return output.pooler_output, model.text_model.head(output.last_hidden_state)

    def _of_images(self, features: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        model: Any = self.model.transformers_model
        tower = model.vision_model
        output = tower(**{**features, "pixel_values": features["pixel_values"].to(model.dtype)})
        states = output.last_hidden_state
        if _is_siglip(self.model):
            patches = tower.head(states.reshape(-1, 1, states.shape[2])).reshape(states.shape)
            return output.pooler_output, patches
        patches = tower.post_layernorm(states[:, 1:])  # the model itself applies this only to the class token
        return model.visual_projection(output.pooler_output), model.visual_projection(patches)

    def make_portable(self) -> None:
        raise EncoderError(
            f"{self.name} has a tower for texts and one for images, which cannot be trained here; train it with "
            "sentence-transformers' own SentenceTransformerTrainer"
        )

    def _decide_pooling(self) -> Decision:
        return Decision("pooling", f"that of {transformer_config(self.model).model_type}", OWN_FILES)
