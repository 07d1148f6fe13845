"""`ImageSizes`: limits on the size of the images that a model reads."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smart_rag.encoders.compatibility import image_size
from smart_rag.encoders.profiles import ARGUMENT, GENERAL_RULE, OWN_FILES, Decision, Profile
from smart_rag.errors import DocumentError, InvalidInput
from smart_rag.files import content as media
from smart_rag.types import ImageSource, PdfPage

if TYPE_CHECKING:
    from PIL import Image

# Maximum number of pixels of an image, unless a profile sets another limit. It is the limit of Qwen3-VL-Embedding.
_MAX_PIXELS = 1800 * 32 * 32
# In "longest_edge", Qwen's processors state a number of pixels, and other processors state the length of a side. A
# number above this one means pixels.
_LONGEST_SIDE = 10_000
# Qwen's processors refuse images if one side is more than this many times as long as the other.
_MAX_ASPECT = 200
# If the processor makes all images equally large, an image is opened with this many times as many pixels.
_OVERSAMPLING = 4


class ImageSizes:
    """Pixel limits of the images that a model reads.

    Args:
        profile: the profile of the model. Its limits take precedence over the limits of the processor.
        processor: the model's image processor. It is None if the model reads no images.
        max_pixels: the caller's limit. It takes precedence over all others.
    """

    def __init__(self, profile: Profile, processor: Any, max_pixels: int | None) -> None:
        self._profile = profile
        self._size = image_size(processor)
        self._max_pixels = max_pixels

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
        """The maximum number of pixels with which an image is opened."""
        return int(self.decision.value)

    @cached_property
    def decision(self) -> Decision:
        """The decision on `max_pixels`."""
        size = self._size
        fixed = size.get("height", 0) * size.get("width", 0) or size.get("shortest_edge", 0) ** 2
        return Decision.first(
            "image_pixels",
            (self._max_pixels, ARGUMENT),
            (self._profile.pixels and self._profile.pixels[1], self._profile.source),
            (self.limits and self.limits[1], OWN_FILES if size.get("longest_edge", 0) <= _MAX_PIXELS else GENERAL_RULE),
            (_OVERSAMPLING * fixed or None, OWN_FILES),
            (_MAX_PIXELS, GENERAL_RULE),
        )

    def open(self, source: ImageSource) -> Image.Image:
        """Return an image of at most `max_pixels`.

        Raises:
            DocumentError: the file cannot be read, or its image is too narrow for the model.
            InvalidInput: an image in memory cannot be used, or is too narrow for the model.
        """
        image = media.open_image(source, self.max_pixels)
        if self.limits is not None and max(image.size) >= _MAX_ASPECT * min(image.size):
            reason = (
                f"an image of {image.width} x {image.height} is too narrow, one side is {_MAX_ASPECT} times the other"
            )
            path = source.path if isinstance(source, PdfPage) else source
            raise DocumentError(Path(path), reason) if isinstance(path, str | Path) else InvalidInput(reason)
        return image


def size_option(limits: tuple[int, int]) -> dict[str, int]:
    """Return pixel limits under the names that Qwen's processors use."""
    return {"shortest_edge": limits[0], "longest_edge": limits[1]}
