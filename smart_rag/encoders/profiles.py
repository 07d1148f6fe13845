"""Profiles: settings that differ between families of embedding models, such as prompts, templates and image sizes.

A model's own sentence-transformers files come first. A profile adds the settings that these files do not have. If the
name of a model matches no profile, its profile is `GENERAL`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from smart_rag.errors import InvalidInput
from smart_rag.types import Task

TokenPolicy = Literal["content", "text", "input", "patches"]
# How the decoder counts positions: on the three axes of Qwen's own code, or 0, 1, 2, ... over words and patches.
PositionRule = Literal["three axes", "counted"]
# Who resizes an image: the model's processor alone, Pillow by the processor's rule, or Pillow and then the processor.
Resizing = Literal["processor", "Pillow", "Pillow, then processor"]

# Sources of a decision. A further source is a profile, by its name. A profile that the model's files have shown has the
# sign as its source.
ARGUMENT = "argument"
OWN_FILES = "the model's own files"
BY_NAME = "the model's name"
GENERAL_RULE = "general rule"


@dataclass(frozen=True, slots=True)
class Decision:
    """One setting of a model and its source: `ARGUMENT`, `OWN_FILES`, ``"profile NAME"`` or `GENERAL_RULE`."""

    name: str
    value: Any
    source: str

    @classmethod
    def first(cls, name: str, *options: tuple[Any, str]) -> Decision:
        """Return the decision for the first of ``options`` (value, source) whose value is not None."""
        return cls(name, *next((option for option in options if option[0] is not None), options[-1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Settings of one family of models.

    Args:
        models: patterns of hub names, in lower case.
        model_types: the values that ``model_type`` in the model's ``config.json`` can have. Two families with the same
            name are told apart by it.
        template: a chat template in Jinja, whose system message is the prompt. None for the model's own template.
        generation_prompt: whether the chat ends with the words that ask the model to answer.
        prompts: the prompts of queries and of documents.
        prompts_for_images_only: whether only images and videos get the prompt of documents, and texts get none.
        pooled_before: a token. The position before the token is pooled. With None, the last position is pooled.
        empty_text: the text that replaces an empty text.
        blank_image: side and colour of a square image that is added to a query without an image.
        max_length: number of tokens after which a text is cut.
        pixels: the minimum and the maximum number of pixels of an image.
        resizing: who resizes an image, as the family's own code does it. Filters differ, and so do sizes.
        tiny_image: two lengths in pixels. An image with a side below the first length first becomes a square with
            sides of the second length.
        positions: how the decoder counts positions. Some families hand their inputs to the decoder without positions,
            so it counts them, in training and in use.
        deepstack: whether features of inner layers of the vision tower are added to the first layers of the decoder.
        paper: whether the pooled token takes part in late interaction, as in the code of arXiv 2605.24938. A special
            token never takes part.
        fps: number of frames that are read from each second of a video.
        frames: the minimum and the maximum number of frames of a video.
        even_frames: whether the number of frames of a video file is rounded to an even number.
        frame_pixels: the minimum and the maximum number of pixels of one frame, and the maximum of all frames together.
            Two frames share a patch.
        frames_as_images: whether a frame of a video that is a list of frames gets the size of an image. If the
            processor resizes, it does so in all videos.
        middle_frame: whether only the middle frame of a video is read, as an image.
        has_video: whether the family reads videos.
        query_tokens, document_tokens: the policies that choose the tokens for late interaction.
    """

    name: str
    models: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    template: str | None = None
    generation_prompt: bool = True
    prompts: Mapping[Task, str]
    prompts_for_images_only: bool = False
    pooled_before: str | None = None
    empty_text: str = ""
    blank_image: tuple[int, str] | None = None
    max_length: int | None = None
    pixels: tuple[int, int] | None = None
    resizing: Resizing = "processor"
    tiny_image: tuple[int, int] | None = None
    positions: PositionRule = "three axes"
    deepstack: bool = True
    paper: bool = False
    fps: float = 1.0
    frames: tuple[int, int] = (4, 64)
    even_frames: bool = False
    frame_pixels: tuple[int, int, int] | None = None
    frames_as_images: bool = False
    middle_frame: bool = False
    has_video: bool = True
    query_tokens: TokenPolicy = "content"
    document_tokens: TokenPolicy = "content"

    @property
    def source(self) -> str:
        """The name of this profile as the source of a decision."""
        return f"profile {self.name}" if self.models else GENERAL_RULE

    @property
    def takes_instructions(self) -> bool:
        """Whether the family was trained with the prompt of queries as an instruction, such as that of the paper."""
        return self.prompts["query"].rstrip(".:") == _FIND_PAGE.rstrip(".")

    def video_pixels(self, frames: int) -> tuple[int, int] | None:
        """Return the minimum and maximum pixels of all ``frames`` together. None if the model's processor decides."""
        if self.frame_pixels is None:
            return None
        least, most, total = self.frame_pixels
        frames += frames % 2
        return frames * least, max(min(frames * most, 2 * total), frames * int(1.05 * least))


# The paper's prompt for visual documents (arXiv 2605.24938).
_FIND_PAGE = "Find a document image that matches the given query."

# The start of every template. It collects the parts of the message in `it`, and the system message in `it.prompt`.
# Jinja removes a line break after a block and at the end of a template, so the templates have no line breaks there.
_IT = (
    "{% set it = namespace(text='', prompt='', image=false, video=false) %}"
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{% set it.image = true %}"
    "{% elif part['type'] == 'video' %}{% set it.video = true %}"
    "{% elif message['role'] == 'system' %}{% set it.prompt = part['text'] %}"
    "{% else %}{% set it.text = part['text'] %}"
    "{% endif %}{% endfor %}{% endfor %}"
)
_VIDEO = "{% if it.video %}<|vision_start|><|video_pad|><|vision_end|>{% endif %}"
_IMAGE = "{% if it.image %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"

_GME = (
    _IT
    + "<|im_start|>system\n{{ it.prompt }}<|im_end|>\n<|im_start|>user\n"
    + _IMAGE
    + "{{ it.text }}<|im_end|>\n<|im_start|>assistant\n<|endoftext|>"
)
_LAMRA = (
    _IT
    + "<|im_start|>user\n"
    + _VIDEO
    + _IMAGE
    + "{% if it.prompt and it.text %} {{ it.prompt }}{{ '\n' }}{% endif %}{{ it.text }}{{ '\n' }}"
    + "Summarize above {% if it.text %}sentence{% else %}image{% endif %} in one word: "
    + "<|im_end|>\n<|im_start|>assistant\n<emb>.<|im_end|>\n<|im_start|>assistant{{ '\n' }}"
)
# Rendered by the chat template of Qwen2-VL, with its system turn, as in LamRA's own code (demo.py, dataset/). The
# prompt is a part of the text, so a query by an image has a sentence, too.
_LAMRA_QWEN2 = (
    _IT
    + "{% if it.prompt %}{% set it.text = (it.prompt + ' ' + it.text) | trim %}{% endif %}"
    + "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    + _VIDEO
    + _IMAGE
    + "{{ it.text }}{{ '\n' }}Summarize above {% if it.video %}video{% elif it.image %}image{% endif %}"
    + "{% if it.text and (it.video or it.image) %} and {% endif %}"
    + "{% if it.text or not (it.video or it.image) %}sentence{% endif %} in one word: "
    + "<|im_end|>\n<|im_start|>assistant\n<emb>.<|im_end|>\n<|im_start|>assistant{{ '\n' }}"
)
_DSE = (
    _IT
    + "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    + _IMAGE
    + "{% if it.prompt %}{{ it.prompt }}{% endif %}{{ it.text }}<|im_end|>\n<|endoftext|>"
)
_VLM2VEC = (
    _IT
    + "{% if it.video %}<|video_pad|> {% endif %}{% if it.image %}<|image_pad|> {% endif %}"
    + "{{ it.prompt }}{% if it.prompt and it.text %} {% endif %}{{ it.text }}"
)

# Ten end tokens follow a text, which the model was trained with (process_queries in colpali-engine 0.3.18).
_NOMIC = (
    _IT
    + "{% if it.image %}<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Describe the image.<|im_end|>"
    + "<|endoftext|>{% endif %}"
    + "{% if it.text or not it.image %}{{ it.prompt }}{{ it.text }}{{ '<|endoftext|>' * 10 }}{% endif %}"
)

GENERAL = Profile(name="general", prompts={"query": "", "document": ""})
# What is decided if nothing shows the family of a model.
UNKNOWN = Decision("profile", GENERAL, GENERAL_RULE)
PROFILES: tuple[Profile, ...] = (
    Profile(
        name="qwen3-vl-embedding",
        models=("qwen/qwen3-vl-embedding-*",),
        model_types=("qwen3_vl",),
        prompts={"query": _FIND_PAGE, "document": "Represent the user's input."},
        empty_text="NULL",
        max_length=8192,
        pixels=(4 * 32 * 32, 1800 * 32 * 32),
        resizing="Pillow",
        frame_pixels=(128 * 32 * 32, 768 * 32 * 32, 10 * 768 * 32 * 32),
    ),
    Profile(
        name="gme-qwen2-vl",
        models=("alibaba-nlp/gme-qwen2-vl-*",),
        model_types=("qwen2_vl",),
        template=_GME,
        prompts={"query": _FIND_PAGE, "document": "You are a helpful assistant."},
        max_length=8192,
        pixels=(256 * 28 * 28, 1280 * 28 * 28),
        resizing="Pillow, then processor",
        positions="counted",
        middle_frame=True,
        query_tokens="text",
    ),
    # As it is published. Sizes are those of its own code (collators/qwen2_vision_process.py): Pillow resizes an image
    # to at most 300 tokens. Its tables on M-BEIR were made with this limit.
    Profile(
        name="lamra-ret-qwen2",
        models=("code-kunkun/lamra-ret*",),
        model_types=("qwen2_vl", "qwen2_5_vl"),
        template=_LAMRA_QWEN2,
        prompts={"query": _FIND_PAGE, "document": ""},
        pooled_before="<emb>",
        max_length=1024,
        pixels=(4 * 28 * 28, 300 * 28 * 28),
        resizing="Pillow",
        positions="counted",
        fps=2.0,
        frames=(4, 768),
        even_frames=True,
        frame_pixels=(128 * 28 * 28, 768 * 28 * 28, 24576 * 28 * 28),
        frames_as_images=True,
    ),
    # As the paper trained it again, on Qwen3-VL.
    Profile(
        name="lamra-ret",
        models=("code-kunkun/lamra-ret*",),
        model_types=("qwen3_vl",),
        template=_LAMRA,
        prompts={"query": _FIND_PAGE, "document": ""},
        pooled_before="<emb>",
        max_length=1024,
        pixels=(4 * 32 * 32, 1024 * 28 * 28),
        resizing="Pillow",
        positions="counted",
        deepstack=False,
        frame_pixels=(128 * 32 * 32, 768 * 32 * 32, 10 * 768 * 32 * 32),
    ),
    Profile(
        name="vlm2vec-v2",
        models=("vlm2vec/vlm2vec-v2*",),
        model_types=("qwen2_vl",),
        template=_VLM2VEC,
        prompts={"query": _FIND_PAGE, "document": ""},
        prompts_for_images_only=True,
        pixels=(4 * 28 * 28, 1280 * 28 * 28),
        tiny_image=(28, 56),
        positions="counted",
        frames=(8, 8),
        frames_as_images=True,
    ),
    Profile(
        name="dse-qwen2",
        models=("mrlight/dse-qwen2-*",),
        model_types=("qwen2_vl",),
        template=_DSE,
        prompts={"query": "Query: ", "document": "What is shown in this image?"},
        prompts_for_images_only=True,
        blank_image=(56, "black"),
        pixels=(28 * 28, 2560 * 28 * 28),
        has_video=False,
        query_tokens="text",
    ),
    Profile(
        name="nomic-embed-multimodal",
        models=("nomic-ai/nomic-embed-multimodal-*",),
        model_types=("qwen2_5_vl",),
        template=_NOMIC,
        prompts={"query": "", "document": ""},
        has_video=False,
    ),
)


def profile_of(model: str, name: str | None = None, model_type: str | None = None) -> Decision:
    """Choose a profile: the one called ``name``, or the one for the hub name ``model``, or `GENERAL`.

    For a folder, its own name decides. For a folder in the hub's cache, the name of its model decides. ``model_type``
    is the kind of model in its ``config.json``, if it is known. `smart_rag.encoders.loading.recognition` also looks
    at the model's other files.

    Raises:
        InvalidInput: there is no profile called ``name``.
    """
    if name is None:
        fitting = next((profile for profile in PROFILES if has_name_of(model, profile, model_type)), None)
        return Decision.first("profile", (fitting, BY_NAME), (GENERAL, GENERAL_RULE))
    for profile in (*PROFILES, GENERAL):
        if profile.name == name:
            return Decision("profile", profile, ARGUMENT)
    names = ", ".join(profile.name for profile in (*PROFILES, GENERAL))
    raise InvalidInput(f"there is no profile {name!r}; the profiles are {names}")


def has_name_of(model: str, profile: Profile, model_type: str | None = None) -> bool:
    """Return whether the hub name or the folder ``model`` matches ``profile``, and its kind, if it is known, too."""
    if model_type is not None and model_type not in profile.model_types:
        return False
    if not Path(model).exists():
        return is_hub_name_of(model, profile)
    # A link has a name, and the folder that it leads to has another one.
    folders = (Path(os.path.abspath(model)), Path(model).resolve())
    return any(_is_folder_of(folder.parts, profile) for folder in folders)


def is_hub_name_of(name: str, profile: Profile) -> bool:
    """Return whether the hub name ``name`` matches ``profile``. The file system is not asked."""
    return any(fnmatch(name.lower(), pattern) for pattern in profile.models)


def _is_folder_of(parts: Sequence[str], profile: Profile) -> bool:
    name, patterns = parts[-1], tuple(pattern.partition("/")[2] for pattern in profile.models)
    # In the hub's cache, a folder (models--owner--name/snapshots/revision) has the owner in its name. Others do not.
    cached = next((part for part in parts if part.startswith("models--")), None)
    if cached is not None:
        name, patterns = cached.removeprefix("models--").replace("--", "/"), profile.models
    return any(fnmatch(name.lower(), pattern) for pattern in patterns)
