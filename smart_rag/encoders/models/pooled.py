"""`PooledModel`: one forward pass of a model that pools token states into one vector."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from smart_rag.encoders.compatibility import (
    layers_of,
    leave_out_deepstack,
    module_settings,
    returning_all_layers,
    set_chat_template,
    to_device,
    transformer_config,
)
from smart_rag.encoders.fingerprint import weights_digest
from smart_rag.encoders.loading.loader import LoadedModel
from smart_rag.encoders.models.image_sizes import size_option
from smart_rag.encoders.models.inputs import NO_TOKENS, ModelInputs, Prepared
from smart_rag.encoders.models.positions import Mask, Positions
from smart_rag.encoders.profiles import ARGUMENT, OWN_FILES, Decision, Profile
from smart_rag.errors import EncoderError
from smart_rag.types import Task

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class States:
    """The result of one forward pass, on the device of the model.

    ``pooled`` is (n, dimension). ``hidden`` holds the states (n, length, width) after each requested layer. If no token
    of an input is kept, the input's row in ``fallback`` (n, width) is its only token embedding. If ``fallback`` is
    None, ``pooled`` is used.
    """

    pooled: torch.Tensor
    hidden: Sequence[torch.Tensor]
    positions: Positions
    fallback: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class UnitStates:
    """Vectors of length 1 from one forward pass: tensors on the device of the model, or arrays.

    ``pooled`` is (n, dimension). ``norms`` (n) are the norms of the vectors as the model returns them. ``tokens``
    (total, layers, width) are the states of the kept tokens. With several layers, only the mean square of a token's
    lengths is 1: the states keep the ratio of their lengths. If no token of an input is kept, the input's row in
    ``fallbacks`` (n, layers, width) is its only token.
    """

    pooled: Any
    norms: Any
    tokens: Any
    fallbacks: Any
    positions: Positions


class PooledModel:
    """A model with its profile. It computes token states, and pools them into one vector.

    Subclasses are in the other modules of this folder. They run the other kinds of models.

    Args:
        loaded: the model.
        profile: settings of the model's family. The model's own files come first.
        prompts: the prompts of queries and of documents.
        max_pixels: the maximum number of pixels of an image. None means the limit of the profile or the model.

    Raises:
        EncoderError: the model gives no token embeddings, or they are not in the space of its pooled embeddings.
    """

    inputs_class: type[ModelInputs] = ModelInputs
    # Whether torch runs the model. In this case, its results are tensors, and a GPU may run out of memory.
    uses_torch = True
    # Whether the model was trained for late interaction. In this case, only the late score counts by default.
    is_late_interaction = False
    # The width of the token embeddings. None if it is the width of the pooled embeddings.
    token_dimension: int | None = None

    def __init__(
        self, loaded: LoadedModel, profile: Profile, prompts: Mapping[Task, str], max_pixels: int | None
    ) -> None:
        if loaded.has_own_files:
            # sentence-transformers runs the model as its files say, with the model's own positions.
            profile = replace(profile, template=None, pooled_before=None, positions="three axes", deepstack=True)
        self.name = loaded.name
        self.model = loaded.model
        self.pooling_source = loaded.pooling_source
        self.profile = profile
        if not profile.deepstack:
            leave_out_deepstack(loaded.model)
        self.inputs = self.inputs_class(loaded, profile, prompts, max_pixels)

    def with_prompts(self, prompts: Mapping[Task, str]) -> Self:
        """Return a copy with other ``prompts``. It shares the weights with this object."""
        other = copy.copy(self)
        other.inputs = inputs = copy.copy(self.inputs)
        inputs.prompts = prompts
        inputs._template_lengths, inputs._prompt_lengths = {}, {}  # they are measured with the prompts
        return other

    @property
    def pooling(self) -> str:
        """The name of the model's own pooling, such as ``"mean"``."""
        return self.inputs.pooling.modes[0]

    # --- forward pass ---

    def forward(self, prepared: Prepared, layers: Sequence[int] = (-1,)) -> States:
        """Return the states of prepared inputs after these ``layers``. -1 is the last layer.

        Raises:
            EncoderError: the model gives no token embeddings, or has no such layer.
        """
        import torch

        features = self._features(prepared, layers)
        hidden = features.get("token_embeddings")
        if hidden is None or hidden.ndim != 3 or len(hidden) != len(prepared.positions.ids):
            raise EncoderError(NO_TOKENS.format(model=self.name))
        pooled = features["sentence_embedding"]
        if self.profile.pooled_before is not None:
            pooled = hidden[torch.from_numpy(prepared.positions.pooled).to(hidden.device)]
        return States(pooled, [self._layer(features, layer) for layer in layers], prepared.positions)

    def unit_states(self, prepared: Prepared, layers: Sequence[int], keep: Callable[[Positions], Mask]) -> UnitStates:
        """Return vectors of length 1 from one forward pass. ``keep`` chooses the tokens.

        Raises:
            EncoderError: the model gives no token embeddings, or has no such layer.
        """
        import torch
        from torch.nn.functional import normalize

        states = self.forward(prepared, layers)
        where = torch.from_numpy(keep(states.positions)).to(states.pooled.device)
        pooled, tokens = self.to_embeddings(states.pooled, [of_layer[where] for of_layer in states.hidden])
        fallback = pooled if states.fallback is None else normalize(states.fallback.float(), dim=1)
        fallbacks = fallback[:, None].expand(-1, len(states.hidden), -1)
        return UnitStates(pooled, self.norms(states.pooled), tokens, fallbacks, states.positions)

    def _features(self, prepared: Prepared, layers: Sequence[int]) -> dict[str, Any]:
        is_last_alone = tuple(layers) == (-1,) or transformer_config(self.model) is None
        asking: AbstractContextManager[dict[str, bool]]
        asking = nullcontext({}) if is_last_alone else returning_all_layers(self.model)
        with asking as options:
            features = {**to_device(prepared.features, self.model.device), **options}
            return dict(self.model(features, task=prepared.task))

    def _layer(self, features: Mapping[str, Any], layer: int) -> torch.Tensor:
        last: torch.Tensor = features["token_embeddings"]
        if layer == -1:
            return last
        every = layers_of(features)
        if not -len(every) <= layer < len(every) or every[layer].shape != last.shape:
            raise EncoderError(
                f"{self.name} gives the states of {len(every)} layers, {last.shape[2]} wide at the last; layer {layer} "
                "is none of them"
            )
        return every[layer]

    def _check_last(self, layers: Sequence[int]) -> None:
        if tuple(layers) != (-1,):
            raise EncoderError(f"{self.name} gives the states of its last layer alone, not of layers {list(layers)}")

    def to_embeddings(self, pooled: torch.Tensor, states: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return pooled and token embeddings in one space, L2-normalised, in float32.

        The states of one token after several layers keep the ratio of their lengths. The mean square of these lengths
        is 1. Gradients are kept. If the model truncates its embeddings, both are truncated to the same width.

        Args:
            pooled: the model's pooled vectors (n, dimension).
            states: the states (tokens, width) after each layer.

        Returns:
            Pooled embeddings (n, dimension) and token embeddings (tokens, layers, dimension).

        Raises:
            EncoderError: tokens and pooled vectors have different widths.
        """
        import torch
        from torch.nn.functional import normalize

        # The lengths of states after several layers are compared. A normalisation at the end would make them all 1.
        keep_lengths = len(states) > 1
        tokens = torch.stack([self._to_pooled_space(of_layer, keep_lengths) for of_layer in states], dim=1)
        if tokens.shape[2] != (self.token_dimension or pooled.shape[1]):
            raise EncoderError(
                f"{self.name} pools {self.pooling} into {pooled.shape[1]} dimensions, but its tokens "
                f"have {tokens.shape[2]}; late interaction needs both in one space; use a model where both are as wide"
            )
        pooled, tokens = pooled[:, : self._width], tokens[:, :, : self._width]
        of_tokens = normalize(tokens.float().flatten(1), dim=1).view_as(tokens) * len(states) ** 0.5
        return normalize(pooled.float(), dim=1), of_tokens

    def norms(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the norms (n) of the model's own pooled vectors. If the model truncates them, truncate first."""
        norms: torch.Tensor = pooled[:, : self._width].float().norm(dim=1)
        return norms

    @property
    def _width(self) -> int | None:
        """The width to which embeddings are truncated. None if they are not truncated."""
        width: int | None = getattr(self.model, "truncate_dim", None)
        return width

    def _to_pooled_space(self, states: torch.Tensor, keep_lengths: bool = False) -> torch.Tensor:
        """Apply the modules that follow the pooling to token states (n, width). Return the result (n, dimension).

        With ``keep_lengths``, a normalisation at the end is left out.
        """
        modules = list(self.inputs.pooling.after)
        while keep_lengths and modules and type(modules[-1]).__name__ == "Normalize":
            modules.pop()
        for module in modules:
            states = module({"sentence_embedding": states})["sentence_embedding"]
        return states

    # --- settings ---

    @property
    def decisions(self) -> list[Decision]:
        """The decisions on how the model is used."""
        profile, inputs = self.profile, self.inputs
        video = f", video: {profile.source}" if profile.middle_frame and "image" in inputs.modalities else ""
        made = [Decision("modalities", sorted(inputs.modalities), OWN_FILES + video), self._decide_pooling()]
        if inputs.has_chat_template:
            made.append(Decision("chat_template", True, OWN_FILES if profile.template is None else profile.source))
        if "image" in inputs.modalities:
            made += [
                Decision("text_with_image", inputs.combines_modalities, OWN_FILES),
                inputs.image_sizes.decision,
            ]
        if profile.positions != "three axes":
            made.append(Decision("positions", profile.positions, profile.source))
        if not profile.deepstack:
            made.append(Decision("deepstack", profile.deepstack, profile.source))
        if profile.paper:
            made.append(Decision("paper", True, ARGUMENT))
        return made

    def _decide_pooling(self) -> Decision:
        before = self.profile.pooled_before and f"the token before {self.profile.pooled_before}"
        source = OWN_FILES if self.inputs.has_own_files else self.pooling_source
        return Decision.first("pooling", (before, self.profile.source), (self.pooling, source))

    def weights_digest(self) -> str:
        """Return a digest of the weights."""
        return weights_digest(self.model)

    def module_settings(self) -> list[Any]:
        """Return the settings of the modules after the transformer, as JSON values."""
        return module_settings(self.model)

    def describe_images(self) -> dict[str, Any]:
        """Return, as JSON values, the settings that change the numbers that the model gets for an image."""
        profile, sizes = self.profile, self.inputs.image_sizes
        described = {
            "pixels": sizes.limits,
            "page_pixels": sizes.max_pixels,
            "fps": profile.fps,
            "frames": profile.frames,
            "frame_pixels": profile.frame_pixels,
            "middle_frame": profile.middle_frame,
            "template": profile.template,
            "pooled_before": profile.pooled_before,
        }
        # These settings are newer than the others. A model that they do not change keeps its fingerprint.
        if sizes.resizing is not None:
            described["resizing"] = sizes.resizing
        if profile.positions != "three axes":
            described["positions"] = profile.positions
        if not profile.deepstack:
            described["deepstack"] = False
        if profile.tiny_image is not None:
            described["tiny_image"] = profile.tiny_image
        if profile.even_frames:
            described["even_frames"] = True
        if profile.frames_as_images:
            described["frames_as_images"] = True
        return described

    def make_portable(self) -> None:
        """Write prompts, chat template and pixel limits into the model, so that they are saved and loaded with it.

        Raises:
            EncoderError: a folder of sentence-transformers cannot hold all settings of this model.
        """
        if self.profile.pooled_before is not None:
            return  # it is saved without files of sentence-transformers, and its family is recognised
        if self.profile.positions != "three axes":
            raise EncoderError(
                f"{self.name} has positions that are counted over words and patches, which a folder of "
                "sentence-transformers cannot state; train an adapter instead"
            )
        inputs = self.inputs
        of_tasks = {"query": inputs.prompts["query"], "document": inputs.prompts["document"]}
        self.model.prompts = {**(self.model.prompts or {}), **of_tasks}
        if inputs.has_chat_template and not inputs.has_own_files:
            options = {"add_generation_prompt": self.profile.generation_prompt}
            set_chat_template(self.model, self.profile.template, options)
        if inputs.image_sizes.limits is not None:
            inputs.image_processor.size = size_option(inputs.image_sizes.limits)
