"""`ImageSizes`: limits on the size of the images that a model reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smart_rag.encoders.compatibility import image_size, max_patches, patch_unit, resized_by_processor
from smart_rag.encoders.profiles import ARGUMENT, GENERAL_RULE, OWN_FILES, Decision, Profile
from smart_rag.encoders.protocol import warn_once
from smart_rag.errors import DocumentError, InvalidInput
from smart_rag.files import content as media
from smart_rag.files.formats import images
from smart_rag.types import ImageSource, PdfPage, VideoSource

if TYPE_CHECKING:
    from PIL import Image

# Maximum number of pixels of an image, unless a profile sets another limit. It is the limit of Qwen3-VL-Embedding.
_MAX_PIXELS = 1800 * 32 * 32
# In "longest_edge", Qwen's processors state a number of pixels, and other processors state the length of a side. A
# number above this one means pixels.
_LONGEST_SIDE = 10_000
# Qwen's processors refuse images if one side is more than this many times as long as the other.
_MAX_ASPECT = 200
# The limits of qwen-vl-utils for an image without limits of its own, in units of merged patches.
_QWEN_UNITS = (4, 16_384)
_FULL_HD = 1920 * 1080
# A caller's limit may not be greater. Pillow refuses to open images of nearly twice this size.
MOST_PIXELS = 100_000_000
# If the processor makes all images equally large, a page of a PDF is drawn with this many times as many pixels.
_OVERSAMPLING = 4
# An image with more pixels is huge. Several of them in memory would need gigabytes, so each is resized at once.
_HUGE = 16_384 * 28 * 28


class ImageSizes:
    """Pixel limits of the images that a model reads.

    Args:
        profile: the profile of the model. Its limits take precedence over the limits of the processor.
        processor: the model's image processor. It is None if the model reads no images.
        video_processor: the model's video processor. It is None if the model reads no videos.
        max_pixels: the caller's limit. It takes precedence over all others.
        name: the name of the model, for warnings.
    """

    def __init__(
        self,
        profile: Profile,
        processor: Any,
        max_pixels: int | None,
        video_processor: Any = None,
        name: str = "the model",
    ) -> None:
        self._profile = profile
        self._processor = processor
        self._size, self._video_size = image_size(processor), image_size(video_processor)
        self._unit = patch_unit(processor)
        self._max_pixels, self._name = max_pixels, name
        if processor is None and max_pixels is not None:
            warn_once(f"max_pixels={max_pixels} has no effect, because {name} reads no images; leave max_pixels out")
        elif max_pixels is not None and self.limits is None:
            warn_once(
                f"max_pixels={max_pixels} does not limit the number of tokens of an image, because the processor of "
                f"{name} decides it; images are only shrunk to this size before; leave max_pixels out"
            )

    @cached_property
    def limits(self) -> tuple[int, int] | None:
        """The minimum and maximum pixels of an image. None if the processor makes all images equally large."""
        if self._profile.pixels is not None:
            least, most = self._profile.pixels
        elif "shortest_edge" in self._size and self._size.get("longest_edge", 0) > _LONGEST_SIDE:
            least = self._size["shortest_edge"]
            # The processors of chat models allow everything that the model can read: 16,000 tokens a page and more.
            most = min(self._size["longest_edge"], max(_MAX_PIXELS, least))
        else:
            return None
        return (least, most) if self._max_pixels is None else (min(least, self._max_pixels), self._max_pixels)

    @property
    def max_pixels(self) -> int:
        """The maximum number of pixels of an image that the model reads, or with which a page of a PDF is drawn."""
        return int(self.decision.value)

    @cached_property
    def decision(self) -> Decision:
        """The decision on `max_pixels`."""
        size = self._size
        fixed = size.get("height", 0) * size.get("width", 0) or size.get("shortest_edge", 0) ** 2
        fixed = fixed or max_patches(self._processor) * self._unit**2
        return Decision.first(
            "image_pixels" if self.limits or self._max_pixels else "page_pixels",
            (self._max_pixels, ARGUMENT),
            (self._profile.pixels and self._profile.pixels[1], self._profile.source),
            (self.limits and self.limits[1], OWN_FILES if size.get("longest_edge", 0) <= _MAX_PIXELS else GENERAL_RULE),
            (_OVERSAMPLING * fixed or None, OWN_FILES),
            (size.get("longest_edge", 0) ** 2 or None, OWN_FILES),  # here, the length of a side
            (_MAX_PIXELS, GENERAL_RULE),
        )

    @property
    def resizing(self) -> str | None:
        """Who resizes an image, as a description says it. None if a caller's limit decides it alone."""
        if self.limits is None and self._max_pixels is not None:
            return None
        # Older versions used another filter for huge images, and for large ones if the model reads one size.
        return "processor, any size" if self._profile.resizing == "processor" else self._profile.resizing

    def open(self, source: ImageSource, *, is_alone: bool = False) -> Image.Image:
        """Return an image for the model's processor.

        The image has the size that the family's own code gives to the processor, in most cases its own. If a caller
        limits the pixels of a model whose processor makes all images equally large, the image is shrunk to this limit.
        A page of a PDF is drawn once, at the size that the processor would give it, or with `max_pixels`.

        Args:
            source: the image.
            is_alone: whether the processor gets this image before the next one is opened.

        Raises:
            DocumentError: the file cannot be read, or its image is too narrow for the model.
            InvalidInput: an image in memory cannot be used, or is too narrow for the model.
        """
        if self.limits is None:
            return self._open_for_one_size(source, is_alone)
        image = media.open_image_as(source, self.read_size if isinstance(source, PdfPage) else self._given_size)
        if image.width * image.height > max(_HUGE, self.limits[1]):
            image = self._resized(image, self.read_size(*image.size))
        if _is_too_narrow(*image.size):
            reason = (
                f"an image of {image.width} x {image.height} is too narrow, one side is {_MAX_ASPECT} times the other"
            )
            path = source.path if isinstance(source, PdfPage) else source
            raise DocumentError(Path(path), reason) if isinstance(path, str | Path) else InvalidInput(reason)
        return image

    @property
    def frame_pixels(self) -> int:
        """The maximum number of pixels with which a frame of a video file is opened.

        A frame in full HD keeps its size, so that only the model's processor resizes it.
        """
        return self.max_pixels if self._max_pixels is not None else max(self.max_pixels, _FULL_HD)

    def open_frame(self, source: ImageSource) -> Image.Image:
        """Return a frame of a video that is a list of frames. The errors are those of `open`.

        qwen-vl-utils 0.0.14 first resizes each frame in units of twice the usual side, and then all of them together.
        Other code gives each frame the size of an image.
        """
        if self.limits is None or self._profile.resizing == "processor" or self._profile.frames_as_images:
            return self.open(source)
        side = 2 * self._unit
        every = (_QWEN_UNITS[0] * side**2, _QWEN_UNITS[1] * side**2)
        return media.open_image_as(source, lambda width, height: whole_units(width, height, side, every))

    def resized_frames(self, source: VideoSource, frames: Sequence[Image.Image]) -> list[Image.Image] | None:
        """Return the ``frames`` of the video ``source``, which have one size, with the size that the model reads.

        qwen-vl-utils 0.0.14 resizes them with torch, in floats. The processors of newer versions of transformers round
        between rows and columns, which changes noisy pixels by up to 8 %. The result is None if the processor resizes
        frames, or if they have the sizes of images.
        """
        pixels = self._profile.video_pixels(len(frames))
        if pixels is not None and self._max_pixels is not None:
            warn_once(
                f"max_pixels={self._max_pixels} does not limit the frames of a video; for {self._name}, they have the "
                "sizes of the family's own code"
            )
        if pixels is None or self._profile.resizing == "processor" or self._are_images(source):
            return None
        count = len(frames) + len(frames) % 2
        size = whole_units(*frames[0].size, self._unit, (pixels[0] / count, pixels[1] / count))
        return [frame if frame.size == size else _resized_by_torch(frame, size) for frame in frames]

    def most_video_pixels(self, source: VideoSource, frames: int) -> int:
        """Return the maximum number of pixels of all ``frames`` of the video ``source`` together."""
        pixels = None if self._are_images(source) else self._profile.video_pixels(frames)
        return frames * self.max_pixels if pixels is None else pixels[1]

    def video_options(self, frames: int) -> dict[str, Any]:
        """Return the settings of the video processor for a video of ``frames`` frames."""
        pixels = self._profile.video_pixels(frames) or self._frame_limits
        if pixels is None:
            return {}
        do_resize = self._profile.resizing == "processor"
        return {"size": size_option(pixels), "cap_pixels_per_frame": False, "do_resize": do_resize}

    @property
    def _frame_limits(self) -> tuple[int, int] | None:
        """The limits of a frame that the video processor resizes: its own, and the maximum of an image."""
        if not (self._profile.frames_as_images and self._video_size):
            return None
        least, most = (self._video_size[f"{edge}_edge"] for edge in ("shortest", "longest"))
        return least, max(least, min(most, self.max_pixels))

    def _are_images(self, source: VideoSource) -> bool:
        return self._profile.frames_as_images and not isinstance(source, str | Path)

    def read_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the (width, height) with which the model reads an image. It needs `limits`."""
        width, height = self._enlarged(width, height)
        if self.limits is None or _is_too_narrow(width, height):
            return width, height
        return whole_units(*self._given_size(width, height), self._unit, self.limits)

    def _given_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the (width, height) of an image that the processor gets."""
        width, height = self._enlarged(width, height)
        if self.limits is None or _is_too_narrow(width, height):
            return width, height
        if self._profile.resizing == "Pillow":
            return whole_units(width, height, self._unit, self.limits)
        if self._profile.resizing == "Pillow, then processor":
            every = (_QWEN_UNITS[0] * self._unit**2, _QWEN_UNITS[1] * self._unit**2)
            return whole_units(width, height, self._unit, every)
        return width, height

    def _open_for_one_size(self, source: ImageSource, is_alone: bool) -> Image.Image:
        """Return an image for a processor that makes all images equally large."""
        if self._max_pixels is not None or isinstance(source, PdfPage):
            return media.open_image(source, self.max_pixels)
        image = media.open_image(source)
        if is_alone or image.width * image.height <= _HUGE:
            return image
        if {"height", "width"} <= self._size.keys():
            return self._resized(image, (self._size["width"], self._size["height"]))
        return self._resized(image, images.fit(*image.size, _HUGE))

    def _resized(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """Return a huge image with another (width, height), with the processor's own filter, if it is known."""
        resized = resized_by_processor(self._processor, np.array(image), size)
        return image.resize(size) if resized is None else images.from_pixels(resized)

    def _enlarged(self, width: int, height: int) -> tuple[int, int]:
        """Return the (width, height) of an image, or of a square if the image is tiny."""
        least, side = self._profile.tiny_image or (0, 0)
        return (side, side) if min(width, height) < least else (width, height)


def whole_units(width: int, height: int, unit: int, limits: tuple[float, float]) -> tuple[int, int]:
    """Return the size of an image in whole units of pixels: (width, height), with a number of pixels within ``limits``.

    It is ``smart_resize`` of qwen-vl-utils 0.0.14 and, for sides of at least half a unit, of Qwen's processors. Each
    side is rounded. If that is too much, both sides shrink by the same factor and are rounded down. If it is too
    little, they grow and are rounded up.
    """
    sides = (width, height)
    least, most = limits
    rounded = [max(unit, round(side / unit) * unit) for side in sides]
    if rounded[0] * rounded[1] > most:
        factor = math.sqrt(width * height / most)
        rounded = [max(unit, math.floor(side / factor / unit) * unit) for side in sides]
    elif rounded[0] * rounded[1] < least:
        factor = math.sqrt(least / (width * height))
        rounded = [math.ceil(side * factor / unit) * unit for side in sides]
    return rounded[0], rounded[1]


def _resized_by_torch(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return ``image`` with another (width, height), by a bicubic filter against aliasing, rounded once at the end."""
    import torch

    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(pixels, size[::-1], mode="bicubic", align_corners=False, antialias=True)
    return images.from_pixels(resized[0].clamp(0, 255).round().byte().permute(1, 2, 0).numpy())


def _is_too_narrow(width: int, height: int) -> bool:
    return max(width, height) >= _MAX_ASPECT * min(width, height)


def size_option(limits: tuple[int, int]) -> dict[str, int]:
    """Return pixel limits under the names that Qwen's processors use."""
    return {"shortest_edge": limits[0], "longest_edge": limits[1]}
