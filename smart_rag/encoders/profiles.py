"""What differs between families of embedding models: prompts, templates, sizes of images, which tokens take part.

A model's own sentence-transformers files come first; a profile fills in what they do not say. A model
that nobody described has the profile `GENERAL`.
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


# Where a decision comes from, beside a profile, which is named: what the caller passes, the model's own files for
# sentence-transformers or transformers, and what holds where neither says anything.
ARGUMENT = "argument"
OWN_FILES = "the model's own files"
GENERAL_RULE = "general rule"


@dataclass(frozen=True, slots=True)
class Decision:
    """One setting of a model and where it comes from: `ARGUMENT`, `OWN_FILES`, ``"profile NAME"`` or `GENERAL_RULE`."""

    name: str
    value: Any
    source: str

    @classmethod
    def first(cls, name: str, *options: tuple[Any, str]) -> Decision:
        """Return the decision for the first of ``options``, values and their sources, that is not None."""
        return cls(name, *next((option for option in options if option[0] is not None), options[-1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How one family of models is asked.

    ``models`` are patterns of hub names, in lower case. ``template`` is a chat template in Jinja, None for the
    model's own; its system message is the prompt. ``prompts`` are those of queries and documents.

    ``asks_of_images``: that of documents is for images and videos alone.

    ``pooled_before`` names the token before which the pooled embedding is taken, in place of the last one.
    ``null`` is what an empty text reads as, ``blank_image`` the side and the colour of the square that a query without
    an image gets.
    ``pixels`` are the least and the most of an image that the model is given. Of a video, ``fps`` frames a second are
    taken, at least and at most ``frames``; ``frame_pixels`` are the least and the most of one, and the most of
    all, of which two go into one patch. ``middle_frame``: a video is one image; ``videos``: whether it can be anything.
    """

    name: str
    models: tuple[str, ...] = ()
    template: str | None = None
    generation_prompt: bool = True
    prompts: Mapping[Task, str]
    asks_of_images: bool = False
    pooled_before: str | None = None
    null: str = ""
    blank_image: tuple[int, str] | None = None
    max_length: int | None = None
    pixels: tuple[int, int] | None = None
    fps: float = 1.0
    frames: tuple[int, int] = (4, 64)
    frame_pixels: tuple[int, int, int] | None = None
    middle_frame: bool = False
    videos: bool = True
    query_tokens: TokenPolicy = "content"
    document_tokens: TokenPolicy = "content"

    @property
    def source(self) -> str:
        """What a decision that the profile takes comes from."""
        return f"profile {self.name}" if self.models else GENERAL_RULE

    def video_pixels(self, frames: int) -> tuple[int, int] | None:
        """Return the least and the most pixels of so many frames together, None if the model's processor knows."""
        if self.frame_pixels is None:
            return None
        least, most, total = self.frame_pixels
        frames += frames % 2
        return frames * least, frames * max(min(most, 2 * total // frames), int(1.05 * least))


# What every set of visual documents is asked with in the paper (arXiv 2605.24938).
_FIND_PAGE = "Find a document image that matches the given query."
_ABOUT_PAGE = "Understand the content of the provided document image."

# What all templates begin with: `it` is what the one message holds, and the system message as `it.prompt`.
# No block stands before a line's end, and no line's end is the last: Jinja takes these for its own.
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

GENERAL = Profile(name="general", prompts={"query": "", "document": ""})
PROFILES: tuple[Profile, ...] = (
    Profile(
        name="qwen3-vl-embedding",
        models=("qwen/qwen3-vl-embedding-*",),
        prompts={"query": _FIND_PAGE, "document": "Represent the user's input."},
        null="NULL",
        max_length=8192,
        pixels=(4 * 32 * 32, 1800 * 32 * 32),
        frame_pixels=(128 * 32 * 32, 768 * 32 * 32, 10 * 768 * 32 * 32),
    ),
    Profile(
        name="gme-qwen2-vl",
        models=("alibaba-nlp/gme-qwen2-vl-*",),
        template=_GME,
        prompts={"query": _FIND_PAGE, "document": "You are a helpful assistant."},
        max_length=8192,
        pixels=(256 * 28 * 28, 1280 * 28 * 28),
        middle_frame=True,
        query_tokens="text",
    ),
    Profile(
        name="lamra-ret",
        models=("code-kunkun/lamra-ret*",),
        template=_LAMRA,
        prompts={"query": _FIND_PAGE, "document": ""},
        pooled_before="<emb>",
        max_length=1024,
        pixels=(4 * 32 * 32, 1024 * 28 * 28),
        frame_pixels=(128 * 32 * 32, 768 * 32 * 32, 10 * 768 * 32 * 32),
    ),
    Profile(
        name="vlm2vec-v2",
        models=("vlm2vec/vlm2vec-v2*",),
        template=_VLM2VEC,
        prompts={"query": _FIND_PAGE[:-1] + ":", "document": _ABOUT_PAGE},
        asks_of_images=True,
        pixels=(4 * 28 * 28, 1280 * 28 * 28),
        frames=(8, 8),
    ),
    Profile(
        name="dse-qwen2",
        models=("mrlight/dse-qwen2-*",),
        template=_DSE,
        prompts={"query": "Query: ", "document": "What is shown in this image?"},
        asks_of_images=True,
        blank_image=(56, "black"),
        pixels=(28 * 28, 2560 * 28 * 28),
        videos=False,
        query_tokens="text",
    ),
)


def profile_of(model: str, name: str | None = None) -> Decision:
    """Decide on the profile: that of this ``name``, or else the one for a model of this hub name, or else `GENERAL`.

    A folder counts as what it is called, and one in the hub's cache as the model that it is the copy of.

    Raises:
        InvalidInput: there is no profile of that name.
    """
    if name is None:
        fitting = next((profile for profile in PROFILES if _is_named(model, profile)), None)
        return Decision.first("profile", (fitting, "the model's name"), (GENERAL, GENERAL_RULE))
    for profile in (*PROFILES, GENERAL):
        if profile.name == name:
            return Decision("profile", profile, ARGUMENT)
    names = ", ".join(profile.name for profile in (*PROFILES, GENERAL))
    raise InvalidInput(f"there is no profile {name!r}; the profiles are {names}")


def _is_named(model: str, profile: Profile) -> bool:
    """Return whether a hub name or a folder is called as the models of ``profile`` are."""
    if not Path(model).exists():
        return any(fnmatch(model.lower(), pattern) for pattern in profile.models)
    # A link has a name, and what it leads to has one.
    return any(_is_called(place.parts, profile) for place in (Path(os.path.abspath(model)), Path(model).resolve()))


def _is_called(parts: Sequence[str], profile: Profile) -> bool:
    name, patterns = parts[-1], tuple(pattern.partition("/")[2] for pattern in profile.models)
    # In the hub's cache, models--owner--name/snapshots/revision, the owner is known; elsewhere it is not.
    cached = next((part for part in parts if part.startswith("models--")), None)
    if cached is not None:
        name, patterns = cached.removeprefix("models--").replace("--", "/"), profile.models
    return any(fnmatch(name.lower(), pattern) for pattern in patterns)
