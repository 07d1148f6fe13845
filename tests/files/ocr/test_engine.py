"""What the engine is given of very narrow images."""

from __future__ import annotations

import numpy as np
import pytest

from smart_rag.files.ocr.engine import _padded


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1), (40, 2000), (1, 1), (300, 2000), (1000, 1400)])
def test_a_narrow_image_gets_a_margin_to_the_right_or_below(size):
    """The engine would enlarge an image of 1 x 2,000 pixels to 736 x 1,472,000."""
    pixels = np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(*size, 3)
    padded = _padded(pixels)
    height, width = padded.shape[:2]
    assert max(height, width) <= 6 * min(height, width)
    assert max(height, width) == max(size)
    assert (padded[: size[0], : size[1]] == pixels).all()
    if max(size) <= 6 * min(size):
        assert padded is pixels
