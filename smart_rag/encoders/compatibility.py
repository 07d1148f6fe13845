"""Undocumented names of other packages. They are used only here and in `loading`.

A release of sentence-transformers, transformers or huggingface_hub may rename these names. In this case,
``tests/encoders/test_compatibility.py`` says which name no longer exists, and only these modules must be repaired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from smart_rag.types import Task

if TYPE_CHECKING:
    import torch
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer

AnyModel: TypeAlias = Union["SentenceTransformer", "MultiVectorEncoder"]

# Settings of modules that are not weights but change the embeddings. Other settings differ between releases.
_SETTINGS = (
    *("pooling_mode", "include_prompt", "activation_function", "use_residual"),
    *("skiplist_words", "skiplist_tasks", "keep_only_token_ids", "pool_factor", "num_protected_tokens"),
)


# --- modules of a model -------------------------------------------------------------------------


def transformer(path: str, **options: Any) -> torch.nn.Module:
    """Return the module that runs the transformers model in ``path``. ``options`` are arguments of ``Transformer``."""
    from sentence_transformers.base.modules import Transformer

    module: torch.nn.Module = Transformer(path, **options)
    return module


def last_token_pooling(transformer: Any) -> list[torch.nn.Module]:
    """Return the modules that turn the state of the last token into a unit vector."""
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import Pooling

    return [Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken"), Normalize()]


def input_embeddings(model: AnyModel) -> torch.Tensor:
    """Return the matrix (tokens, width) that gives each token of the vocabulary its first state."""
    transformer: Any = model.transformers_model
    weight: torch.Tensor = transformer.get_input_embeddings().weight
    return weight


def resize_input_embeddings(model: AnyModel, count: int) -> None:
    """Give the matrix of `input_embeddings` ``count`` rows. New rows are not set."""
    transformer: Any = model.transformers_model
    transformer.resize_token_embeddings(count, mean_resizing=False)


def late_interaction_modules(projection: torch.nn.Linear) -> list[torch.nn.Module]:
    """Return the modules that turn the state of each token into a unit vector: ``projection``, mask and norm."""
    import torch
    from sentence_transformers.base.modules import Dense, Normalize
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    dense = Dense(
        projection.in_features,
        projection.out_features,
        bias=projection.bias is not None,
        activation_function=torch.nn.Identity(),
        module_input_name="token_embeddings",
    )
    dense.linear = projection
    return [dense, MultiVectorMask(), Normalize(module_input_name="token_embeddings")]


@dataclass(frozen=True, slots=True)
class Pooling:
    """The step from token states to one vector.

    ``modes`` are the names of the ways of pooling, such as ``"mean"``. If there are several modes, their vectors stand
    side by side. ``include_prompt`` says whether the prompt's tokens take part. ``after`` are the modules that follow.
    """

    modes: tuple[str, ...] = ("unknown",)
    include_prompt: bool = True
    after: Sequence[torch.nn.Module] = ()


def set_pooling(model: AnyModel, mode: str) -> None:
    """Make ``model`` pool by ``mode``. If it has no module for pooling, it pools by itself, and nothing changes."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    for i, module in enumerate(list(model)):
        if isinstance(module, Pooling):
            model[i] = Pooling(module.embedding_dimension, pooling_mode=mode)


def is_decoder(config: Any) -> bool:
    """Return whether ``config`` is that of a language model that writes texts and is no encoder, such as Qwen3.

    transformers has a class for such models, but none that fills in masked words.
    """
    from transformers.models.auto import modeling_auto

    decoders, encoders = (
        set(getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES")) for kind in ("CAUSAL_LM", "MASKED_LM")
    )
    return config.model_type in decoders - encoders and not getattr(config, "is_encoder_decoder", False)


def reads_both_ways(config: Any) -> bool:
    """Return whether a decoder was made to read in both directions. transformers reads these two settings."""
    return getattr(config, "is_causal", True) is False or bool(getattr(config, "use_bidirectional_attention", False))


def pooling_of(model: AnyModel) -> Pooling:
    """Return how ``model`` pools. If it has no module for pooling, the modes are ``("unknown",)``."""
    known = getattr(model, "pooling", None)  # of a model that was exported
    if isinstance(known, Pooling):
        return known
    modules = list(model)
    for i, module in enumerate(modules):
        if type(module).__name__ == "Pooling":
            mode: Any = getattr(module, "pooling_mode", "unknown")
            modes = (mode,) if isinstance(mode, str) else tuple(mode)
            return Pooling(modes, bool(getattr(module, "include_prompt", True)), modules[i + 1 :])
    return Pooling()


def module_settings(model: AnyModel) -> list[Any]:
    """Return the settings of the modules after the transformer, such as pooling and dense layers, as JSON values."""
    settings = []
    for module in list(model)[1:]:
        found: dict[str, Any] = getattr(module, "get_config_dict", dict)()
        settings.append([type(module).__name__, {name: str(found[name]) for name in _SETTINGS if name in found}])
    return settings


def keep_texts_in_rows(model: AnyModel) -> None:
    """Make ``model`` pad its texts.

    With flash attention, sentence-transformers would join the texts of a batch into one row. Then we would not know
    which text a token belongs to.
    """
    first: Any = model[0]
    if getattr(first, "can_flatten_inputs", False):
        first.unpad_inputs = False


def document_length(model: AnyModel) -> int | None:
    """Return the number of tokens after which a late interaction model cuts a document."""
    length = getattr(model[0], "document_length", None)
    return model.max_seq_length if length is None else int(length)


def set_document_length(model: AnyModel, length: int) -> None:
    """Make a late interaction model cut texts after ``length`` tokens."""
    first: Any = model[0]
    model.max_seq_length = length
    if getattr(first, "document_length", None) is not None:
        first.document_length = length


def counted_tokens(model: AnyModel, features: Mapping[str, Any], task: Task) -> NDArray[np.bool_]:
    """Return the positions (n, length) that a late interaction model scores, as its own mask says."""
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    names = ("input_ids", "attention_mask", "query_expansion_positions")
    masked = {name: features[name] for name in names if name in features}
    for module in model:
        if isinstance(module, MultiVectorMask):
            masked = module(masked, task=task)
    counted: NDArray[np.bool_] = masked["attention_mask"].bool().cpu().numpy()
    return counted


def puts_no_words_around(model: AnyModel) -> bool:
    """Return whether sentence-transformers leaves out the words that a model needs around its queries and images.

    It calls the processor with texts or with images. Those of ColPali and ColQwen2 then add the words. That of
    ColModernVBERT has other methods for this.
    """
    return getattr(transformer_config(model), "model_type", None) == "colmodernvbert"


def merges_tokens(model: AnyModel, task: Task) -> bool:
    """Return whether a late interaction model merges several token embeddings into one."""
    from sentence_transformers.multi_vector_encoder.modules import BaseTokenPooling

    return any(isinstance(module, BaseTokenPooling) and module.applies_to(task) for module in model)


# --- a forward pass -----------------------------------------------------------------------------


def lost_positions(model: AnyModel, features: Mapping[str, Any]) -> torch.Tensor | None:
    """Return the positions (3, n, length) on three axes, if transformers would not give them to the decoder itself.

    `ColQwen2ForRetrieval` hands its inputs to the decoder as states, without ids. Since transformers 5, the decoder
    then counts 0, 1, 2, ... over words and patches. colpali-engine, which trained the weights, lets the decoder compute
    its positions from the ids. Without an image, both give the same positions, and the result is None.
    """
    config, grids = transformer_config(model), features.get("image_grid_thw")
    if not loses_positions(model) or grids is None:
        return None
    retriever: Any = model.transformers_model
    ids = features["input_ids"]
    kinds = (ids == config.vlm_config.image_token_id).int()  # 0 is text, 1 is an image
    found: torch.Tensor = retriever.vlm.get_rope_index(
        ids, mm_token_type_ids=kinds, image_grid_thw=grids, attention_mask=features["attention_mask"]
    )[0]
    return found


def loses_positions(model: AnyModel) -> bool:
    """Return whether ``model`` is one whose positions `lost_positions` must compute."""
    return getattr(transformer_config(model), "model_type", None) == "colqwen2"


def to_device(features: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return ``features`` with their tensors on ``device``."""
    from sentence_transformers.util import batch_to_device

    return batch_to_device(features, device)


@contextmanager
def returning_all_layers(model: AnyModel) -> Iterator[dict[str, bool]]:
    """Make the transformer return the states after every layer. Yield the features that request them."""
    config = transformer_config(model)
    before = getattr(config, "output_hidden_states", False)
    config.output_hidden_states = True  # sentence-transformers reads this configuration. The model reads its arguments
    try:
        yield {"output_hidden_states": True}
    finally:
        config.output_hidden_states = before


def layers_of(features: Mapping[str, Any]) -> Sequence[torch.Tensor]:
    """Return the states (n, length, width) after each layer. The first states are the input embeddings."""
    return features.get("all_layer_embeddings") or ()


def leave_out_deepstack(model: AnyModel) -> None:
    """Make the vision tower of ``model`` give its last features alone.

    Qwen3-VL adds features of inner layers of its vision tower to the first layers of its decoder ("deepstack"). Its
    vision tower has the numbers of these layers. Without numbers, nothing is added. No weight changes.
    """
    for module in model.modules():
        if hasattr(module, "deepstack_visual_indexes"):
            setattr(module, "deepstack_visual_indexes", [])  # noqa: B010, mypy takes it for a tensor


def unpooled_length(features: Mapping[str, Any]) -> int:
    """Return the number of prompt tokens, for models that do not pool them. It is 0 if there is no prompt.

    sentence-transformers splits the prompt alone into tokens. If a text follows the prompt, some tokenizers split the
    same prompt into one token fewer. So this number may include the first word of the text.
    """
    return int(features.get("prompt_length", 0))


def character_spans(features: Mapping[str, Any]) -> NDArray[np.int64] | None:
    """Return the characters (n, length, 2) of each token. Return None if the tokenizer does not know them.

    The characters are counted in the text with its prompt. A special token has no characters.
    """
    encodings = getattr(features, "encodings", None)
    return np.asarray([encoding.offsets for encoding in encodings]) if encodings else None


# --- configuration, tokenizer and processor -----------------------------------------------------


def transformer_config(model: AnyModel) -> Any:
    """Return the configuration of the transformers model. Return None if there is no such model."""
    return getattr(model.transformers_model, "config", None)


def image_processor_of(model: AnyModel) -> Any:
    """Return the image processor of the model. Return None if the model reads no images."""
    return getattr(getattr(model[0], "processor", None), "image_processor", None)


def video_processor_of(model: AnyModel) -> Any:
    """Return the video processor of the model. Return None if the model reads no videos."""
    return getattr(getattr(model[0], "processor", None), "video_processor", None)


def image_size(image_processor: Any) -> dict[str, int]:
    """Return the image size of ``image_processor``, under names such as ``"height"`` and ``"longest_edge"``."""
    size = getattr(image_processor, "size", None) or {}
    return {name: int(value) for name, value in dict(size).items() if value is not None}


def merged_patches(image_processor: Any) -> int:
    """Return the number of patches along each side of the square of patches that becomes one token."""
    return int(getattr(image_processor, "merge_size", 1))


def patch_unit(image_processor: Any) -> int:
    """Return the number of pixels along each side of the square that becomes one token. It is 1 if nothing is known."""
    patch = getattr(image_processor, "patch_size", None)
    return patch * merged_patches(image_processor) if isinstance(patch, int) else 1


def max_patches(image_processor: Any) -> int:
    """Return the number of patches that each image of SigLIP 2 NaFlex is filled up to. It is 0 for other models."""
    return int(getattr(image_processor, "max_num_patches", 0))


def center_crop(image_processor: Any) -> tuple[int, int] | None:
    """Return the (width, height) of an image after its margins are cut off. Return None if nothing is cut off."""
    if "shortest_edge" not in image_size(image_processor) or not getattr(image_processor, "do_center_crop", False):
        return None
    crop = dict(image_processor.crop_size)
    return crop["width"], crop["height"]


def resized_by_processor(
    image_processor: Any, pixels: NDArray[np.uint8], size: tuple[int, int]
) -> NDArray[np.uint8] | None:
    """Return ``pixels`` (height, width, 3) with another (width, height), as ``image_processor`` resizes them.

    The result is None if it is not known how the processor does that.

    The processor finds such an image in the right size, and leaves it as it is.
    """
    import torch
    from transformers.image_processing_backends import TorchvisionBackend
    from transformers.image_utils import SizeDict

    if not isinstance(image_processor, TorchvisionBackend):
        return None
    planes, wanted = torch.from_numpy(pixels).permute(2, 0, 1), SizeDict(height=size[1], width=size[0])
    resample = getattr(image_processor, "resample", None)
    resized = TorchvisionBackend.resize(image_processor, planes, wanted, resample=resample)
    found: NDArray[np.uint8] = resized.permute(1, 2, 0).numpy()
    return found


def placeholder_ids(model: AnyModel, *kinds: str) -> NDArray[np.int64]:
    """Return the ids of the tokens that stand for a patch of an ``"image"`` or a ``"video"``."""
    processor = getattr(model[0], "processor", None)
    homes = (transformer_config(model), processor)
    found: set[int | None] = {getattr(home, f"{kind}_token_id", None) for home in homes for kind in kinds}
    tokens = [getattr(processor, f"{kind}_token", None) for kind in kinds]
    found |= {model.tokenizer.convert_tokens_to_ids(token) for token in tokens if isinstance(token, str)}
    return np.asarray(sorted(id for id in found if id is not None), dtype=np.int64)


def is_placeholder_error(error: ValueError) -> bool:
    """Return whether a processor raised ``error`` because an image or a video has too many tokens for the model."""
    return "token count" in str(error)


def bare_video_template(model: AnyModel, template: str | None) -> str | None:
    """Return the chat ``template`` (None: the model's own) without the markers around a whole video.

    Qwen3-VL's processor puts markers around every two frames. In transformers 4.57, with which these models were
    published, they take the place of the template's own markers. From 5.12 on, both stay. Other processors need the
    markers of the template, so for these processors ``template`` is returned as it is.
    """
    processor: Any = getattr(model[0], "processor", None)
    if not hasattr(processor, "vision_start_token"):
        return template
    start, end = processor.vision_start_token, processor.vision_end_token
    marked = str(template or processor.chat_template)
    return marked.replace(f"{start}{processor.video_token}{end}", processor.video_token)


def set_chat_template(model: AnyModel, template: str | None, options: Mapping[str, Any]) -> None:
    """Make ``model`` use the chat ``template`` (None: its own) with ``options``. Both are saved with the model."""
    first: Any = model[0]
    first.processing_kwargs = {**first.processing_kwargs, "chat_template": dict(options)}
    if template is not None:
        first.processor.chat_template = template
