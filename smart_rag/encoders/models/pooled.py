"""One forward pass of a `SentenceTransformer`, for texts, images and videos: what each position is and its state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.encoders.loading import Checkpoint, pooling_of
from smart_rag.encoders.profiles import ARGUMENT, GENERAL_RULE, OWN_FILES, Decision, Profile
from smart_rag.errors import DocumentError, EncoderError, InvalidInput
from smart_rag.files import content as media
from smart_rag.files import images, video
from smart_rag.types import Content, ImageSource, PdfPage, Span, Task, TokenOrigin

if TYPE_CHECKING:
    import torch
    from PIL import Image

Mask = NDArray[np.bool_]

NO_TOKENS = "{model} gives no token embeddings, only pooled ones: late interaction needs a transformer model"
# Tokenizers and models without a limit to a text's length say so by numbers such as 1e30.
UNLIMITED = 1_000_000
# Special tokens that some tokenizers of vision-language models do not list as such.
_FRAMES = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
# Where no profile says how large an image may be, it is at most so large: as Qwen3-VL-Embedding takes it.
_PIXELS = 1800 * 32 * 32
# Qwen's processors refuse images whose sides differ more.
_MOST_ASPECT = 200
# An image processor that makes every image equally large gets this many times its pixels, to make them of.
_OVERSAMPLING = 4


@dataclass(frozen=True, slots=True)
class Positions:
    """What stands at each position (n, length) of n inputs.

    ``ids`` are vocabulary ids; ``attended`` is False for padding; ``special`` are tokens without content,
    ``visual`` those of image patches, ``template`` what is the same whatever the content is; ``pooled``
    where the pooled embedding is taken from, if that is one position.
    """

    ids: NDArray[np.int64]
    attended: Mask
    special: Mask
    visual: Mask
    template: Mask
    pooled: Mask


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a forward pass reads of some contents: the model's ``features``, and what stands where in them."""

    features: dict[str, Any]
    positions: Positions
    task: Task


@dataclass(frozen=True, slots=True)
class States:
    """One forward pass, on the device: ``pooled`` (n, dimension), and ``hidden`` states (n, length, width) by layer.

    ``summary`` (n, width) stands for an input that no token is left of; None where ``pooled`` does.
    """

    pooled: torch.Tensor
    hidden: Sequence[torch.Tensor]
    positions: Positions
    summary: torch.Tensor | None = None


class Backbone:
    """A model and the profile that it is asked by.

    This one pools token states into one vector. The other modules of this folder hold the other kinds of model.
    """

    # Whether the token embeddings are what the model was trained to give, and the pooled one is made of them.
    late_only = False
    # The width of the token embeddings, where it is not that of the pooled ones.
    token_dimension: int | None = None

    def __init__(
        self, name: str, checkpoint: Checkpoint, profile: Profile, prompts: dict[Task, str], max_pixels: int | None
    ) -> None:
        self.name = name
        self.model = checkpoint.model
        # A repository that says how its model is used knows better than a profile.
        self.profile = profile if not checkpoint.says_how else replace(profile, template=None, pooled_before=None)
        self._says_how = checkpoint.says_how
        self.prompts = prompts
        self._max_pixels = max_pixels
        pooling = pooling_of(self.model)
        mode = getattr(pooling, "pooling_mode", "unknown")
        if not isinstance(mode, str) and len(mode) > 1:
            raise EncoderError(
                f"{name} pools {' and '.join(mode)} side by side, wider than its tokens; late interaction "
                "needs both in one space"
            )
        self.pooling: str = mode if isinstance(mode, str) else mode[0]
        self.include_prompt = bool(getattr(pooling, "include_prompt", True))
        modules = list(self.model)
        self._after_pooling = modules[modules.index(pooling) + 1 :] if pooling is not None else []
        self.tokenizer = self.model.tokenizer
        if not callable(self.tokenizer):
            raise EncoderError(NO_TOKENS.format(model=name))
        self.has_template = "message" in self.model.modalities
        self.special_ids = _special_ids(self.tokenizer)
        self._visual_ids = self._token_ids("image", "video")
        self._ends: dict[tuple[Task, bool, bool], tuple[int, int]] = {}

    @property
    def max_length(self) -> int | None:
        """The tokens after which a document is cut."""
        return self.model.max_seq_length

    @max_length.setter
    def max_length(self, length: int) -> None:
        self.model.max_seq_length = length

    @property
    def wraps(self) -> bool:
        """Whether the model's processor puts words of its own around a content."""
        return self.has_template

    @property
    def combines(self) -> bool:
        """Whether the model sees several parts of a content together, and contents of several kinds in one pass."""
        return self.has_template

    @cached_property
    def modalities(self) -> frozenset[str]:
        """What the model takes: ``"text"``, ``"image"``, ``"video"``."""
        there = {modality for modality in self.model.modalities if isinstance(modality, str)}
        if self.profile.middle_frame and "image" in there:
            there.add("video")
        if not self.profile.videos:
            there.discard("video")
        return frozenset(there & {"text", "image", "video"})

    @property
    def _takes_messages(self) -> bool:
        # A model of texts alone gets them as texts: sentence-transformers makes messages of them where it has to.
        return self.has_template and self.modalities > {"text"}

    @cached_property
    def pixels(self) -> tuple[int, int] | None:
        """The least and the most pixels of an image that the model is given; None if all are made equally large."""
        size = self._image_size
        if self.profile.pixels is not None:
            least, most = self.profile.pixels
        elif "longest_edge" in size and "shortest_edge" in size and size["longest_edge"] > 10_000:
            # Processors of chat models allow as much as the model can read, 16,000 tokens of a page and more.
            least, most = size["shortest_edge"], min(size["longest_edge"], max(_PIXELS, size["shortest_edge"]))
        else:
            return None
        return (least, most) if self._max_pixels is None else (min(least, self._max_pixels), self._max_pixels)

    @cached_property
    def page_pixels(self) -> int:
        """The pixels that an image is opened with, at most."""
        return int(self._page_pixels.value)

    @cached_property
    def _page_pixels(self) -> Decision:
        size = self._image_size
        fixed = size.get("height", 0) * size.get("width", 0) or size.get("shortest_edge", 0) ** 2
        return Decision.first(
            "image_pixels",
            (self._max_pixels, ARGUMENT),
            (self.profile.pixels and self.profile.pixels[1], self.profile.source),
            (self.pixels and self.pixels[1], OWN_FILES if size.get("longest_edge", 0) <= _PIXELS else GENERAL_RULE),
            (_OVERSAMPLING * fixed or None, OWN_FILES),
            (_PIXELS, GENERAL_RULE),
        )

    @property
    def decisions(self) -> list[Decision]:
        """What was decided on how the model is run, and why."""
        profile = self.profile
        video = f", video: {profile.source}" if profile.middle_frame and "image" in self.modalities else ""
        made = [Decision("modalities", sorted(self.modalities), OWN_FILES + video), self._decide_pooling()]
        if self.has_template:
            its_own = profile.template is None
            made.append(Decision("chat_template", True, OWN_FILES if its_own else profile.source))
        if "image" in self.modalities:
            made += [Decision("text_with_image", self.combines, OWN_FILES), self._page_pixels]
        return made

    @cached_property
    def tokens_per_image(self) -> int:
        """How many tokens the largest image takes."""
        if "image" not in self.modalities:
            return 0
        return int(self._structure_length(Content(image=images.blank(self.page_pixels))))

    def _decide_pooling(self) -> Decision:
        before = self.profile.pooled_before and f"the token before {self.profile.pooled_before}"
        source = OWN_FILES if self._says_how else GENERAL_RULE
        return Decision.first("pooling", (before, self.profile.source), (self.pooling, source))

    def prepare(self, contents: Sequence[Content], task: Task) -> Prepared:
        """Return what the model reads of ``contents``: images opened, texts cut and made tokens, on the CPU."""
        contents = [self._fitting(content, task) for content in contents]
        features = self._preprocessed(contents, task)
        return Prepared(features, self._positions(features, contents, task), task)

    def forward(self, prepared: Prepared, layers: Sequence[int] = (-1,)) -> States:
        """Return the states of what `prepare` gave after these ``layers``, -1 for the last.

        Raises:
            EncoderError: the model gives no token embeddings, or has no such layer.
        """
        import torch
        from sentence_transformers.util import batch_to_device

        positions = prepared.positions
        with self._keeping_layers(layers) as kept:
            features = self.model({**batch_to_device(prepared.features, self.model.device), **kept}, task=prepared.task)
        hidden = features.get("token_embeddings")
        if hidden is None or hidden.ndim != 3 or len(hidden) != len(positions.ids):
            raise EncoderError(NO_TOKENS.format(model=self.name))
        pooled = features["sentence_embedding"]
        if self.profile.pooled_before is not None:
            pooled = hidden[torch.from_numpy(positions.pooled).to(hidden.device)]
        return States(pooled, [self._layer(features, layer) for layer in layers], positions)

    @contextmanager
    def _keeping_layers(self, layers: Sequence[int]) -> Iterator[dict[str, bool]]:
        """Have the transformer hand out the states after every layer, if others than the last are asked for."""
        config = getattr(self.model.transformers_model, "config", None)
        if tuple(layers) == (-1,) or config is None:
            yield {}
            return
        before = getattr(config, "output_hidden_states", False)
        config.output_hidden_states = True  # sentence-transformers looks there, the model itself at its arguments
        try:
            yield {"output_hidden_states": True}
        finally:
            config.output_hidden_states = before

    def _layer(self, features: Mapping[str, Any], layer: int) -> torch.Tensor:
        last: torch.Tensor = features["token_embeddings"]
        if layer == -1:
            return last
        every = features.get("all_layer_embeddings") or ()
        if not -len(every) <= layer < len(every) or every[layer].shape != last.shape:
            raise EncoderError(
                f"{self.name} gives the states of {len(every)} layers, {last.shape[2]} wide at the last; layer {layer} "
                "is none of them"
            )
        found: torch.Tensor = every[layer]
        return found

    def _check_last(self, layers: Sequence[int]) -> None:
        if tuple(layers) != (-1,):
            raise EncoderError(f"{self.name} gives the states of its last layer alone, not of {list(layers)}")

    def comparable(self, pooled: torch.Tensor, states: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``pooled`` (n, dimension) and token states (tokens, layers, dimension) in one space, in float32.

        ``states`` are (tokens, width) of each layer. All are L2-normalised, and as wide as the model's own truncation
        leaves them.

        Raises:
            EncoderError: tokens and pooled vectors are not of one width.
        """
        import torch
        from torch.nn.functional import normalize

        tokens = torch.stack([self._into_pooled_space(of_layer) for of_layer in states], dim=1)
        if tokens.shape[2] != (self.token_dimension or pooled.shape[1]):
            raise EncoderError(
                f"{self.name} pools {self.pooling} into {pooled.shape[1]} dimensions, but its tokens "
                f"have {tokens.shape[2]}; late interaction needs both in one space"
            )
        width = getattr(self.model, "truncate_dim", None)
        if width is not None:
            pooled, tokens = pooled[:, :width], tokens[:, :, :width]
        return normalize(pooled.float(), dim=1), normalize(tokens.float(), dim=2)

    def _into_pooled_space(self, states: torch.Tensor) -> torch.Tensor:
        """Return token states (n, width) after what the model does to a pooled vector, (n, dimension)."""
        for module in self._after_pooling:
            states = module({"sentence_embedding": states})["sentence_embedding"]
        return states

    def make_portable(self) -> None:
        """Give the model itself what a profile adds, prompts, template and pixels: it is saved and loaded with them.

        Raises:
            EncoderError: no folder of sentence-transformers' can say how the model is used.
        """
        before = self.profile.pooled_before
        if before is not None:
            raise EncoderError(
                f"{self.name} is pooled from the token before {before!r}, which no folder of sentence-transformers' "
                "can say; train an adapter instead"
            )
        self.model.prompts = {
            **(self.model.prompts or {}),
            "query": self.prompts["query"],
            "document": self.prompts["document"],
        }
        transformer: Any = self.model[0]
        if self.has_template and not self._says_how:
            options = {"add_generation_prompt": self.profile.generation_prompt}
            transformer.processing_kwargs = {**transformer.processing_kwargs, "chat_template": options}
            if self.profile.template is not None:
                transformer.processor.chat_template = self.profile.template
        if self.pixels is not None:
            self._image_processor.size = size_of(self.pixels)

    def positions(self, content: Content, task: Task) -> Positions:
        """Return what stands where, (1, length), for one content."""
        return self._positions(self._preprocessed([content], task), [content], task)

    def origins(self, content: Content, task: Task) -> tuple[Positions, list[TokenOrigin]]:
        """Return what stands where, (1, length), for one content, and what of it each position stands for.

        Raises:
            EncoderError: the model's tokenizer does not know where its tokens come from.
        """
        if not getattr(self.tokenizer, "is_fast", False):
            raise EncoderError(f"{self.name} gives no character offsets for its tokens")
        content = self._fitting(content, task)
        features = self._preprocessed([content], task)
        positions = self._positions(features, [content], task)
        origins = [TokenOrigin()] * positions.ids.shape[1]
        if self.wraps:
            spans = self._offsets(content.text)
            words = np.flatnonzero((positions.attended & ~positions.template & ~positions.visual)[0]).tolist()
        else:
            prompt = self.prompts[task]
            spans = [
                (max(start - len(prompt), 0), max(stop - len(prompt), 0))
                for start, stop in self._offsets(prompt + content.text, add_special_tokens=True)
            ]
            words = list(range(len(origins)))
        for i, span in zip(words, spans, strict=False):  # what does not fit was cut off
            if not positions.template[0, i]:
                origins[i] = TokenOrigin(span=span)
        for kind in ("image", "video"):
            where = np.flatnonzero(np.isin(positions.ids[0], self._token_ids(kind))).tolist()
            grid = features.get(f"{kind}_grid_thw")
            if grid is None and where:  # all images equally large, and square
                side = math.isqrt(len(where)) * getattr(self._image_processor, "merge_size", 1)
                grid = [[1, side, side]]
            if grid is not None:
                for i, origin in zip(where, self._patches(np.asarray(grid), kind == "video"), strict=True):
                    origins[i] = origin
        return positions, origins

    def _offsets(self, text: str, add_special_tokens: bool = False) -> list[Span]:
        if not text and not add_special_tokens:
            return []
        encoded = self.tokenizer(
            text,
            return_offsets_mapping=True,
            add_special_tokens=add_special_tokens,
            truncation=True,
            max_length=self.model.max_seq_length,
            verbose=False,
        )
        return [(start, stop) for start, stop in encoded["offset_mapping"]]

    def _patches(self, grids: NDArray[np.int64], is_video: bool) -> Iterator[TokenOrigin]:
        merge = getattr(self._image_processor, "merge_size", 1)
        for frames, height, width in (grids // [1, merge, merge]).tolist():
            for frame, row, column in np.ndindex(frames, height, width):
                box = (column / width, row / height, (column + 1) / width, (row + 1) / height)
                yield TokenOrigin(box=box, frame=frame if is_video else None)

    def visual_tokens(self, content: Content) -> int:
        """Return about how many tokens the image and the video of ``content`` take, at most."""
        count = 0
        if content.image is not None:
            size = getattr(content.image, "size", None)  # known of an image in memory
            part = 1.0 if size is None else min(1.0, size[0] * size[1] / self.page_pixels)
            count += int(self.tokens_per_image * part)
        if content.video is not None:
            most = self.profile.frames[1]
            pixels = self.profile.video_pixels(most) or (0, most * self.page_pixels)
            images = 1 if self.profile.middle_frame else pixels[1] / self.page_pixels / 2  # two frames are one patch
            count += int(self.tokens_per_image * images)
        return count

    def describe_images(self) -> dict[str, Any]:
        """Return what changes an image's numbers, as JSON values."""
        profile = self.profile
        return {
            "pixels": self.pixels,
            "page_pixels": self.page_pixels,
            "fps": profile.fps,
            "frames": profile.frames,
            "frame_pixels": profile.frame_pixels,
            "middle_frame": profile.middle_frame,
            "template": profile.template,
            "pooled_before": profile.pooled_before,
        }

    def _preprocessed(self, contents: Sequence[Content], task: Task) -> dict[str, Any]:
        if not self.has_template and contents[0].image is not None:
            opened = [media.open_image(content.image, self.page_pixels) for content in contents if content.image]
            return dict(self.model.preprocess(opened, task=task, processing_kwargs=self._processing(())))
        if not self._takes_messages:
            texts = [content.text for content in contents]
            return dict(self.model.preprocess(texts, prompt=self.prompts[task] or None, task=task))
        messages, metadata = [], []
        for content in contents:
            message, videos = self._messages(content, task)
            messages.append(message)
            metadata += videos
        try:
            return dict(self.model.preprocess(messages, task=task, processing_kwargs=self._processing(metadata)))
        except ValueError as error:
            if "token count" not in str(error):
                raise
            raise EncoderError(
                f"an image or a video does not fit into the {self.model.max_seq_length} tokens of {self.name}; pass "
                "max_pixels= for smaller ones, or a greater max_length="
            ) from error

    def _messages(self, content: Content, task: Task) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return a content as a chat, the prompt first, the text after what is seen; and its videos' metadata."""
        profile = self.profile
        parts: list[dict[str, Any]] = []
        metadata: list[dict[str, Any]] = []
        image = content.image
        if content.video is not None:
            if profile.middle_frame:
                image = image if image is not None else video.middle_frame(content.video, self.page_pixels)
            else:
                least, most = profile.frames
                frames = video.read_frames(content.video, profile.fps, most, self.page_pixels, least)
                parts.append({"type": "video", "video": list(frames.images)})
                metadata.append(_metadata(frames))
        if image is None and profile.blank_image is not None and task == "query":
            side, colour = profile.blank_image
            image = images.blank(side * side, colour=colour)
        if image is not None:
            parts.append({"type": "image", "image": self._opened(image)})
        text = content.text or ("" if parts else profile.null)
        if text or not parts:
            parts.append({"type": "text", "text": text})
        chat = [{"role": "user", "content": parts}]
        prompt = self.prompts[task]
        if prompt and (image is not None or content.video is not None or task == "query" or not profile.asks_of_images):
            chat.insert(0, {"role": "system", "content": [{"type": "text", "text": prompt}]})
        return chat, metadata

    def _opened(self, source: ImageSource) -> Image.Image:
        image = media.open_image(source, self.page_pixels)
        if self.pixels is not None and max(image.size) >= _MOST_ASPECT * min(image.size):
            reason = (
                f"an image of {image.width} x {image.height} is too narrow, one side is {_MOST_ASPECT} times the other"
            )
            path = source.path if isinstance(source, PdfPage) else source
            raise DocumentError(Path(path), reason) if isinstance(path, str | Path) else InvalidInput(reason)
        return image

    def _fitting(self, content: Content, task: Task) -> Content:
        """Return ``content`` with as much of its text as the model takes beside what comes with it.

        Left to the processor, the end of the template would go first, and with it the position that is pooled from;
        of an image that is cut, nothing could be made. Of its tokens, a text has a quarter in any case.
        """
        text, longest = content.text, self.model.max_seq_length
        plain = not self._takes_messages
        if plain or longest is None or len(text.encode()) <= longest // 4:  # not even with a token for each byte
            return content
        most = max(longest - sum(self._template_ends(content, task)) - self.visual_tokens(content), longest // 4)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        if len(encoded["input_ids"]) <= most:
            return content
        return replace(content, text=text[: encoded["offset_mapping"][most - 1][1]])

    def _processing(self, metadata: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return what overrides the processor's own settings."""
        options: dict[str, Any] = {"text": {"truncation": False}}  # see `_fitting`
        if not self._says_how:
            options["chat_template"] = {"add_generation_prompt": self.profile.generation_prompt}
        if self.profile.template is not None:
            options["chat_template"]["chat_template"] = self.profile.template
        if self.pixels is not None:
            options["image"] = {"size": size_of(self.pixels)}
        if metadata:
            options["video"] = {"video_metadata": list(metadata), "do_sample_frames": False}
            pixels = self.profile.video_pixels(len(metadata[0]["frames_indices"]))
            if pixels is not None:
                options["video"] |= {"size": size_of(pixels), "cap_pixels_per_frame": False}  # that is in the size
        return options

    def _positions(self, features: dict[str, Any], contents: Sequence[Content], task: Task) -> Positions:
        ids = features["input_ids"].cpu().numpy()
        attended = features["attention_mask"].bool().cpu().numpy()
        visual = np.isin(ids, self._visual_ids)
        special = np.isin(ids, self.special_ids) & ~visual
        ordinal = np.cumsum(attended, axis=1)  # 1 at the first attended position, also with padding on the left
        template = attended & (ordinal <= int(features.get("prompt_length", 0)))
        if not self.include_prompt:
            attended = attended & ~template
        if self.wraps:
            for i, content in enumerate(contents):
                template[i] = self._template(attended[i] & ~visual[i], content, task)
                if content.image is None and self.profile.blank_image is not None:
                    template[i] |= visual[i]
        return Positions(ids, attended, special, visual, template, self._pooled_position(ids, attended))

    def _pooled_position(self, ids: NDArray[np.int64], attended: Mask) -> Mask:
        ordinal = np.cumsum(attended, axis=1)
        if self.profile.pooled_before is not None:
            marks = attended & (ids == self.tokenizer.convert_tokens_to_ids(self.profile.pooled_before))
            if not marks.any(axis=1).all():
                raise EncoderError(
                    f"{self.name}: no {self.profile.pooled_before!r} in an input; its tokenizer does not have this "
                    f"token, or the text fills all {self.model.max_seq_length} positions"
                )
            first = marks.argmax(axis=1)
            return np.asarray(np.arange(ids.shape[1])[None] == first[:, None] - 1)
        if self.pooling == "cls":
            return np.asarray(attended & (ordinal == 1))
        if self.pooling == "lasttoken":
            return np.asarray(attended & (ordinal == ordinal[:, -1:]))
        return np.zeros(attended.shape, dtype=np.bool_)

    def _template(self, words: Mask, content: Content, task: Task) -> Mask:
        """Return which of the ``words`` (length), the positions of no patch, are not of the content's text."""
        where = np.flatnonzero(words)
        template: Mask = words.copy()
        text = content.text
        if text:
            before, after = self._template_ends(content, task)
            count = len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
            stop = len(where) - after
            template[where[max(before, stop - count) : stop]] = False
        return template

    def _template_ends(self, content: Content, task: Task) -> tuple[int, int]:
        """Return how many tokens the template puts before and after a text that comes with such images and videos."""
        structure = (task, content.image is not None, content.video is not None)
        if structure not in self._ends:
            image = images.blank(1 << 14) if content.image is not None else None
            rows = []
            for text in ("A", "8"):  # not the same; a blank before it is part of the letter's token to some tokenizers
                # A video's own words, its time stamps, are in front: what comes after does not change with it.
                features = self._preprocessed([Content(text, image)], task)
                ids = features["input_ids"].cpu().numpy()[0]
                attended = features["attention_mask"].bool().cpu().numpy()[0]
                rows.append(ids[attended & ~np.isin(ids, self._visual_ids)])
            length = min(map(len, rows))
            before = int(np.argmin(rows[0][:length] == rows[1][:length]))
            after = int(np.argmin(rows[0][::-1][:length] == rows[1][::-1][:length]))
            self._ends[structure] = (0 if content.video is not None else before, after)
        return self._ends[structure]

    def _structure_length(self, content: Content) -> int:
        features = self._preprocessed([content], "document")
        return int(features["attention_mask"].sum())

    def _token_ids(self, *kinds: str) -> NDArray[np.int64]:
        """Return the ids of the placeholders of images or videos."""
        processor = getattr(self.model[0], "processor", None)
        homes = (getattr(self.model.transformers_model, "config", None), processor)
        found: set[int | None] = {getattr(home, f"{kind}_token_id", None) for home in homes for kind in kinds}
        tokens = [getattr(processor, f"{kind}_token", None) for kind in kinds]
        found |= {self.tokenizer.convert_tokens_to_ids(token) for token in tokens if isinstance(token, str)}
        return np.asarray(sorted(id for id in found if id is not None), dtype=np.int64)

    @property
    def _image_processor(self) -> Any:
        return getattr(getattr(self.model[0], "processor", None), "image_processor", None)

    @property
    def _image_size(self) -> dict[str, int]:
        size = getattr(self._image_processor, "size", None) or {}
        return {name: int(value) for name, value in dict(size).items() if value is not None}


def size_of(pixels: tuple[int, int]) -> dict[str, int]:
    """Return what Qwen's processors call the least and the most pixels."""
    return {"shortest_edge": pixels[0], "longest_edge": pixels[1]}


def _metadata(frames: video.Frames) -> dict[str, Any]:
    """Return when the frames are shown, as transformers wants to know it: frames are counted, here in seconds."""
    return {
        "total_num_frames": len(frames.images),
        "fps": 1.0,
        "frames_indices": list(frames.times),
        "duration": frames.duration,
    }


def _special_ids(tokenizer: Any) -> NDArray[np.int64]:
    """Return the ids that carry no content. An unknown word does: its state is the model's guess of it."""
    ids = set(getattr(tokenizer, "all_special_ids", []))
    vocabulary = tokenizer.get_vocab()
    ids.update(vocabulary[token] for token in _FRAMES if token in vocabulary)
    unknown = getattr(tokenizer, "unk_token_id", None)
    others = [getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "cls", "sep", "pad", "mask")]
    if unknown not in others:
        ids.discard(unknown)
    return np.asarray(sorted(ids), dtype=np.int64)
