"""`ModelInputs`: turns texts, images and videos into inputs of a model, and finds the meaning of each position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.config import check_count
from smart_rag.encoders.compatibility import (
    bare_video_template,
    character_spans,
    image_processor_of,
    is_placeholder_error,
    merged_patches,
    placeholder_ids,
    pooling_of,
    transformer_config,
    unpooled_length,
    video_processor_of,
)
from smart_rag.encoders.loading.loader import LoadedModel
from smart_rag.encoders.models.image_sizes import ImageSizes, size_option
from smart_rag.encoders.models.messages import VideoMetadata, chat, most_frames
from smart_rag.encoders.models.positions import (
    Mask,
    Positions,
    common_prefix,
    counted_positions,
    ids_and_attended,
    patch_origins,
    pooled_position,
    position_before,
    special_ids,
    square_origins,
)
from smart_rag.encoders.profiles import Profile
from smart_rag.errors import EncoderError, InvalidInput, SmartRagError
from smart_rag.files.formats import images
from smart_rag.types import Content, Encodable, Span, Task, TokenOrigin
from smart_rag.values import is_unicode
from smart_rag.wording import first_line

NO_TOKENS = "{model} gives no token embeddings, only pooled ones: late interaction needs a transformer model"
# A tokenizer or model without a limit on the length of a text states a number such as 1e30. We take numbers above this
# one for no limit.
UNLIMITED = 1_000_000
# Two texts without a common token. They are a letter and a digit, because some tokenizers join a blank to a letter
# only.
_UNLIKE = ("A", "8")


@dataclass(frozen=True, slots=True)
class Prepared:
    """The inputs of one forward pass: the model's ``features``, on the CPU, and the ``positions`` in them."""

    features: dict[str, Any]
    positions: Positions
    task: Task


class ModelInputs:
    """Prepares texts, images and videos for a model.

    Args:
        loaded: the model. Its tokenizer and its processor are used.
        profile: settings of the model's family.
        prompts: the prompts of queries and of documents.
        max_pixels: the maximum number of pixels of an image. None means the limit of the profile or the model.

    Raises:
        EncoderError: the model has no tokenizer, or pools in several ways at once.
    """

    def __init__(
        self, loaded: LoadedModel, profile: Profile, prompts: Mapping[Task, str], max_pixels: int | None
    ) -> None:
        self.name = name = loaded.name
        self.model = model = loaded.model
        self.profile = profile
        self.prompts = prompts
        # Whether the model's files say how it renders a chat.
        self.has_own_files = loaded.has_own_files
        self.tokenizer = model.tokenizer
        if not callable(self.tokenizer):
            raise EncoderError(NO_TOKENS.format(model=name))
        self.has_chat_template = "message" in model.modalities
        self.pooling = pooling_of(model)
        if len(self.pooling.modes) > 1:
            raise EncoderError(
                f"{name} pools {' and '.join(self.pooling.modes)} side by side, which is wider than its tokens; late "
                "interaction needs both in one space; use a model with one kind of pooling"
            )
        self.image_processor = image_processor_of(model)
        self.image_sizes = ImageSizes(profile, self.image_processor, max_pixels, video_processor_of(model), name)
        self.special_ids = special_ids(self.tokenizer)
        self.visual_ids = placeholder_ids(model, "image", "video")
        self._template_lengths: dict[tuple[Task, bool, bool], tuple[int, int]] = {}
        self._prompt_lengths: dict[Task, int] = {}

    @property
    def max_length(self) -> int | None:
        """The number of tokens after which a document is cut."""
        return self.model.max_seq_length

    def limit_length(self, max_length: int) -> None:
        """Cut texts after ``max_length`` tokens, including special tokens.

        Raises:
            InvalidInput: the model cannot read texts of this length.
        """
        check_count("max_length", max_length)
        most = getattr(transformer_config(self.model), "max_position_embeddings", None) or UNLIMITED
        least = 1 + len(self.tokenizer("", verbose=False)["input_ids"])
        if not least <= max_length <= most:
            raise InvalidInput(f"max_length must be {least} to {most:,} for {self.name}, got {max_length}")
        self._set_max_length(max_length)

    def _set_max_length(self, max_length: int) -> None:
        self.model.max_seq_length = max_length

    @property
    def wraps_content(self) -> bool:
        """Whether the model's processor puts words of its own around a content."""
        return self.has_chat_template

    @property
    def combines_modalities(self) -> bool:
        """Whether the model reads a text and an image together, and texts and images in the same batch."""
        return self.has_chat_template

    @cached_property
    def modalities(self) -> frozenset[str]:
        """The kinds of content that the model reads: some of ``"text"``, ``"image"`` and ``"video"``."""
        found = {modality for modality in self.model.modalities if isinstance(modality, str)}
        if self.profile.middle_frame and "image" in found:
            found.add("video")
        if not self.profile.has_video:
            found.discard("video")
        return frozenset(found & {"text", "image", "video"})

    @property
    def _reads_messages(self) -> bool:
        # A model that reads only texts gets texts. If it needs messages, sentence-transformers makes them.
        return self.has_chat_template and self.modalities > {"text"}

    @cached_property
    def tokens_per_image(self) -> int:
        """The number of tokens of the largest image, including the tokens around it."""
        if "image" not in self.modalities:
            return 0
        features = self._read([Content(image=images.blank(self.image_sizes.max_pixels))], "document")
        return int(features["attention_mask"].sum())

    # --- contents ---

    def contents_of(self, items: Sequence[Encodable], task: Task) -> list[Content]:
        """Return ``items`` as contents that the model can read.

        Raises:
            InvalidInput: an item is of another type, is not Unicode, or has a modality that the model does not read.
        """
        kind = "query" if task == "query" else "item"
        contents = []
        for i, item in enumerate(items):
            try:
                contents.append(Content.of(item))
            except InvalidInput as error:
                raise InvalidInput(f"{kind} {i}: {error}") from None
            self._check(contents[-1], f"{kind} {i}")
        return contents

    def _check(self, content: Content, named: str) -> None:
        if not is_unicode(content.text):
            raise InvalidInput(f"{named} holds a lone surrogate; expected Unicode")
        found = content.modality.split("+") if content.modality else []
        for modality in found:
            if modality not in self.modalities:
                raise InvalidInput(
                    f"{named} has {'an image' if modality == 'image' else f'a {modality}'}, but {self.name} takes "
                    f"{', '.join(sorted(self.modalities))}; use a model that takes {modality}s"
                )
        if len(found) > 1 and not self.combines_modalities:
            raise InvalidInput(
                f"{named} has {' and '.join(found)} together, but {self.name} represents each by itself; pass one of "
                "them"
            )

    def lengths(self, contents: Sequence[Content], task: Task) -> NDArray[np.int64]:
        """Return the approximate number of tokens of each of ``contents`` in a forward pass.

        Raises:
            InvalidInput: a text has no token, so the model has nothing to pool.
        """
        texts = [self.prompts[task] + content.text for content in contents]
        encoded = self.tokenizer(texts, truncation=False, verbose=False)
        most = min(self.max_length or UNLIMITED, UNLIMITED)
        lengths = np.minimum([len(ids) for ids in encoded["input_ids"]], most)
        is_empty = (lengths == 0) & [content.image is None for content in contents]
        if is_empty.any() and not self.has_chat_template:
            first = int(np.argmax(is_empty))
            raise InvalidInput(
                f"text {first} ({contents[first].text!r}) gives {self.name} no token at all; leave such texts out"
            )
        return lengths + [self._visual_tokens(content) for content in contents]

    def _visual_tokens(self, content: Content) -> int:
        """Return the approximate maximum number of tokens of the image and the video of ``content``."""
        count = 0
        most_pixels = self.image_sizes.max_pixels
        if content.image is not None:
            size = getattr(content.image, "size", None)  # only an image in memory has a known size
            part = 1.0 if size is None else min(1.0, size[0] * size[1] / most_pixels)
            count += int(self.tokens_per_image * part)
        if content.video is not None:
            pixels = self.image_sizes.most_video_pixels(content.video, most_frames(content.video, self.profile))
            # Two frames share a patch.
            as_images = 1 if self.profile.middle_frame else pixels / most_pixels / 2
            count += int(self.tokens_per_image * as_images)
        return count

    def prepare(self, contents: Sequence[Content], task: Task) -> Prepared:
        """Return the inputs of one forward pass: open images, cut texts, and split the texts into tokens.

        Raises:
            DocumentError: the file of an image or a video cannot be read.
            EncoderError: an image or a video has more tokens than the model can read.
        """
        contents = [self._shortened(content, task) for content in contents]
        features = self._read(contents, task)
        positions = self._positions(features, contents, task)
        if self.profile.positions == "counted":
            features = {**features, "position_ids": counted_positions(features["attention_mask"])}
        return Prepared(dict(features), positions, task)

    def _read(self, contents: Sequence[Content], task: Task) -> Mapping[str, Any]:
        """Return the inputs of a forward pass by the model's own processor, whose files may not fit together."""
        try:
            return self._preprocess(contents, task)
        except (SmartRagError, MemoryError):
            raise
        except Exception as error:  # templates and processors raise errors of many classes
            raise EncoderError(
                f"the processor of {self.name} fails: {first_line(error)}; its files may not fit together, so take all "
                "files of the model again"
            ) from error

    def _shortened(self, content: Content, task: Task) -> Content:
        """Return ``content`` with its text cut, so that the text fits beside the image, the video and the template.

        Otherwise, the processor would first cut off the end of the template, which holds the position that is pooled.
        An image cannot be cut. The text always keeps room for a quarter of the tokens that the model can read.
        """
        text, longest = content.text, self.model.max_seq_length
        # A text has at most one token for each byte.
        if not self._reads_messages or longest is None or len(text.encode()) <= longest // 4:
            return content
        most = max(longest - sum(self._template_ends(content, task)) - self._visual_tokens(content), longest // 4)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        if len(encoded["input_ids"]) <= most:
            return content
        return replace(content, text=text[: encoded["offset_mapping"][most - 1][1]])

    # --- features ---

    def _preprocess(self, contents: Sequence[Content], task: Task) -> Mapping[str, Any]:
        if not self.has_chat_template and contents[0].image is not None:
            opened = self._open_images(contents)
            return self.model.preprocess(opened, task=task, processing_kwargs=self._processing(()))
        if not self._reads_messages:
            texts = [content.text for content in contents]
            return self.model.preprocess(texts, prompt=self.prompts[task] or None, task=task)
        return self._preprocess_messages(contents, task)

    def _open_images(self, contents: Sequence[Content]) -> list[Any]:
        return [self.image_sizes.open(content.image) for content in contents if content.image is not None]

    def _preprocess_messages(self, contents: Sequence[Content], task: Task) -> Mapping[str, Any]:
        messages, metadata = [], []
        for content in contents:
            message, of_video = chat(content, task, self.prompts[task], self.profile, self.image_sizes)
            messages.append(message)
            metadata += of_video
        try:
            return self.model.preprocess(messages, task=task, processing_kwargs=self._processing(metadata))
        except ValueError as error:
            if not is_placeholder_error(error):
                raise
            raise EncoderError(
                f"an image or a video does not fit into the {self.model.max_seq_length} tokens of {self.name}; pass "
                "max_pixels= for smaller ones, or a greater max_length="
            ) from error

    def _processing(self, metadata: Sequence[VideoMetadata]) -> dict[str, Any]:
        """Return the settings that replace the processor's own settings."""
        options: dict[str, Any] = {"text": {"truncation": False, "verbose": False}}  # `_shortened` cuts texts
        if not self.has_own_files:
            options["chat_template"] = {"add_generation_prompt": self.profile.generation_prompt}
        template = bare_video_template(self.model, self.profile.template) if metadata else self.profile.template
        if template is not None:
            options.setdefault("chat_template", {})["chat_template"] = template
        if self.image_sizes.limits is not None:
            options["image"] = {"size": size_option(self.image_sizes.limits)}
        if metadata:
            options["video"] = {"video_metadata": list(metadata), "do_sample_frames": False}
            options["video"] |= self.image_sizes.video_options(len(metadata[0]["frames_indices"]))
        return options

    # --- positions ---

    def positions(self, content: Content, task: Task) -> Positions:
        """Return the positions (1, length) of one content."""
        return self._positions(self._read([content], task), [content], task)

    def _positions(self, features: Mapping[str, Any], contents: Sequence[Content], task: Task) -> Positions:
        ids, attended = ids_and_attended(features)
        visual = np.isin(ids, self.visual_ids)
        special = np.isin(ids, self.special_ids) & ~visual
        ordinal = np.cumsum(attended, axis=1, dtype=np.int64)  # 1 at the first attended position
        template = self._of_prompt(features, ordinal, task) & attended
        if self.pooling.include_prompt:
            pooled = self._pooled_position(ids, attended)
        else:
            pooled = self._pooled_position(ids, attended & (ordinal > unpooled_length(features)))
            attended = attended & ~template
        if self.wraps_content:
            for i, content in enumerate(contents):
                template[i] = self._template(attended[i] & ~visual[i], content, task)
                if content.image is None and self.profile.blank_image is not None:
                    template[i] |= visual[i]
        return Positions(ids, attended, special, visual, template, pooled, self.profile.paper)

    def _of_prompt(self, features: Mapping[str, Any], ordinal: NDArray[np.int64], task: Task) -> Mask:
        """Return the positions (n, length) of the tokens of a prompt before a text."""
        if not unpooled_length(features):
            return np.zeros(ordinal.shape, dtype=np.bool_)
        spans = character_spans(features)
        if spans is None:
            return np.asarray(ordinal <= self._prompt_length(task))
        start, stop = spans[..., 0], spans[..., 1]
        # The blank at the end of the prompt and the first word may be one token. This token belongs to the text.
        return np.asarray((start < stop) & (stop <= len(self.prompts[task])))

    def _prompt_length(self, task: Task) -> int:
        """Return the number of tokens of the prompt before a text, including special tokens before the prompt."""
        if task not in self._prompt_lengths:
            rows = [self.tokenizer(self.prompts[task] + text, verbose=False)["input_ids"] for text in _UNLIKE]
            self._prompt_lengths[task] = common_prefix(*map(np.asarray, rows))
        return self._prompt_lengths[task]

    def _pooled_position(self, ids: NDArray[np.int64], attended: Mask) -> Mask:
        mark = self.profile.pooled_before
        if mark is None:
            return pooled_position(attended, self.pooling.modes[0])
        try:
            return position_before(ids, attended, self.tokenizer.convert_tokens_to_ids(mark))
        except ValueError:
            raise EncoderError(
                f"{self.name}: no {mark!r} in an input; its tokenizer does not have this token, or the text fills all "
                f"{self.model.max_seq_length} positions; use the tokenizer of the model, or pass shorter texts"
            ) from None

    def _template(self, words: Mask, content: Content, task: Task) -> Mask:
        """Return the positions among ``words`` (length) that are not the content's text. ``words`` has no patches."""
        where = np.flatnonzero(words)
        template: Mask = words.copy()
        if content.text:
            before, after = self._template_ends(content, task)
            count = len(self.tokenizer(content.text, add_special_tokens=False, verbose=False)["input_ids"])
            stop = len(where) - after
            template[where[max(before, stop - count) : stop]] = False
        return template

    def _template_ends(self, content: Content, task: Task) -> tuple[int, int]:
        """Return the number of tokens that the template puts before and after the text of ``content``."""
        structure = (task, content.image is not None, content.video is not None)
        if structure not in self._template_lengths:
            image = images.blank(1 << 14) if content.image is not None else None
            rows = []
            for text in _UNLIKE:
                # A video is left out. Its times are words, too, but they come first. Nothing after the text changes.
                features = self._read([Content(text, image)], task)
                ids, attended = ids_and_attended(features)
                rows.append(ids[0][attended[0] & ~np.isin(ids[0], self.visual_ids)])
            if np.array_equal(*rows):
                raise EncoderError(f"{self.name}: its chat template leaves out the text; take its files again")
            before, after = common_prefix(*rows), common_prefix(*(row[::-1] for row in rows))
            self._template_lengths[structure] = (0 if content.video is not None else before, after)
        return self._template_lengths[structure]

    # --- origins ---

    def origins(self, content: Content, task: Task) -> tuple[Positions, list[TokenOrigin]]:
        """Return the positions (1, length) of one content, and the origin of each.

        Raises:
            EncoderError: the model's tokenizer does not know where its tokens come from.
        """
        if not getattr(self.tokenizer, "is_fast", False):
            raise EncoderError(f"the tokenizer of {self.name} gives no character offsets; use a model with a fast one")
        content = self._shortened(content, task)
        features = self._read([content], task)
        positions = self._positions(features, [content], task)
        origins = [TokenOrigin()] * positions.ids.shape[1]
        for i, span in self._spans(content.text, positions, task):
            origins[i] = TokenOrigin(span=span)
        for i, origin in self._patches(features, positions):
            origins[i] = origin
        return positions, origins

    def _spans(self, text: str, positions: Positions, task: Task) -> Iterator[tuple[int, Span]]:
        """Yield the positions of the text's tokens, and the characters of each token."""
        where: Sequence[int]
        if self.wraps_content:
            spans = self._offsets(text)
            where = np.flatnonzero((positions.attended & ~positions.template & ~positions.visual)[0]).tolist()
        else:
            prompt = self.prompts[task]
            spans = [
                (max(start - len(prompt), 0), max(stop - len(prompt), 0))
                for start, stop in self._offsets(prompt + text, add_special_tokens=True)
            ]
            where = range(positions.ids.shape[1])
        for i, span in zip(where, spans, strict=False):  # a text that is too long was cut
            if not positions.template[0, i]:
                yield i, span

    def _offsets(self, text: str, add_special_tokens: bool = False) -> list[Span]:
        if not text and not add_special_tokens:
            return []
        options = {"add_special_tokens": add_special_tokens, "max_length": self.model.max_seq_length, "verbose": False}
        encoded = self.tokenizer(text, return_offsets_mapping=True, truncation=True, **options)
        return [(start, stop) for start, stop in encoded["offset_mapping"]]

    def _patches(self, features: Mapping[str, Any], positions: Positions) -> Iterator[tuple[int, TokenOrigin]]:
        """Yield the positions of patches, and the part of the image or the frame that each patch shows."""
        merged = merged_patches(self.image_processor)
        for kind in ("image", "video"):
            where = np.flatnonzero(np.isin(positions.ids[0], placeholder_ids(self.model, kind))).tolist()
            grid = features.get(f"{kind}_grid_thw")
            if grid is None and where:  # all images are squares of the same size
                tokens = self.tokenizer.convert_ids_to_tokens(positions.ids[0].tolist())
                yield from zip(where, square_origins(tokens, where), strict=True)
            if grid is not None:
                merged_grid = np.asarray(grid) // [1, merged, merged]
                yield from zip(where, patch_origins(merged_grid, is_video=kind == "video"), strict=True)
