"""RapidOCR: the lines of text in an image.

RapidOCR's wheel has its models: one finds lines, one reads them in Latin letters, Chinese and Japanese. Nothing is
loaded from the network.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smart_rag.errors import MissingExtra, SmartRagError
from smart_rag.types import Box

LONGEST_SIDE = 2000  # the engine shrinks a larger image

# A thread that waits for the others keeps its core busy. So more threads cost much and help little.
_THREADS = max(1, min(4, (os.cpu_count() or 1) // 2))

_MODELS = {"Det": "PP-OCRv6_det_small.onnx", "Rec": "PP-OCRv6_rec_small.onnx"}
# The engine enlarges an image until its shorter side has 736 pixels. So a narrower image would take gigabytes.
_MOST_SLENDER = 6
# A line of which the engine is less certain is not taken. In letters that it does not know, it finds other letters.
_LEAST_SCORE = 0.8
# A line has at least so many characters for each height of it that it is long. In letters that the engine does not
# know, it finds only the commas.
_FEWEST_CHARACTERS = 1 / 3


def check_installed() -> None:
    """Raise `MissingExtra` if the packages of the extra ``ocr`` are not installed."""
    for package in ("rapidocr", "pypdfium2"):
        if find_spec(package) is None:
            raise MissingExtra(package, "ocr", "recognising the text of scans")


@dataclass(frozen=True, slots=True)
class ReadLine:
    """A line: its text, how certain it is, its corners from the top left one on, and the box of each character.

    ``corners`` and the boxes of ``letters`` are in pixels of the image that was read.
    """

    text: str
    score: float
    corners: NDArray[np.float64]
    letters: Sequence[Box]

    @property
    def sides(self) -> tuple[float, float]:
        """The lengths of the upper and of the left side."""
        top, left = self.corners[1] - self.corners[0], self.corners[3] - self.corners[0]
        return math.hypot(*top), math.hypot(*left)

    def is_clear(self) -> bool:
        """Return whether the text is likely to be what is printed there."""
        width, height = self.sides
        count = sum(not letter.isspace() for letter in self.text)
        return self.score >= _LEAST_SCORE and count >= _FEWEST_CHARACTERS * width / max(height, 1)


def read_lines(image: Image.Image) -> list[ReadLine]:
    """Return the lines that are found in an RGB image.

    Raises:
        MissingExtra: the extra ``ocr`` is not installed.
        SmartRagError: its models are missing.
    """
    pixels = _padded(np.asarray(image))
    found = _engine()(np.ascontiguousarray(pixels[:, :, ::-1]))  # the engine takes blue first
    if not found.txts:
        return []
    words = found.word_results if len(found.word_results) == len(found.txts) else [()] * len(found.txts)
    corners = np.asarray(found.boxes, dtype=np.float64)
    return [
        ReadLine(text, float(score), quad, _letters(text, quad, letters))
        for text, score, quad, letters in zip(found.txts, found.scores, corners, words, strict=True)
    ]


def _padded(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image with a margin to the right or below if it is very narrow. No place in it changes."""
    height, width = pixels.shape[:2]
    least = -(-max(height, width) // _MOST_SLENDER)
    margin = (0, max(0, least - height)), (0, max(0, least - width)), (0, 0)
    return np.pad(pixels, margin, "edge") if least > min(height, width) else pixels


def _letters(text: str, corners: NDArray[np.float64], found: Sequence[Any]) -> list[Box]:
    """Return the box of each character of a line in pixels, from what the engine ``found``.

    The engine stretches short lines, so what it found is fitted into the line. A space gets the box of the character
    before it. If the engine found other characters than those of ``text``, all have the same width.
    """
    visible = [i for i, letter in enumerate(text) if not letter.isspace()]
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    if len(found) == len(visible) and found:
        quads = np.asarray([quad for _, _, quad in found], dtype=np.float64)
        low, high = quads.min(axis=1), quads.max(axis=1)
        begin, end = float(low[:, 0].min()), float(high[:, 0].max())
        scale = (right - left) / max(end - begin, 1.0)
        placed = [
            (left + (a[0] - begin) * scale, a[1], left + (b[0] - begin) * scale, b[1])
            for a, b in zip(low.tolist(), high.tolist(), strict=True)
        ]
    else:
        width = (right - left) / max(len(text), 1)
        placed = [(left + i * width, top, left + (i + 1) * width, bottom) for i in visible]
    given = dict(zip(visible, placed, strict=True))
    result: list[Box] = []
    for i in range(len(text)):
        a, b, c, d = given.get(i) or (result[-1] if result else (left, top, left, bottom))
        result.append((float(a), float(b), float(c), float(d)))
    return result


@lru_cache(maxsize=1)
def _engine() -> Any:
    """Return the engine, with the models of its wheel.

    Raises:
        MissingExtra: the extra ``ocr`` is not installed.
        SmartRagError: the installed version has no such models. It would load them from the network.
    """
    check_installed()
    import rapidocr

    folder = Path(rapidocr.__file__).parent / "models"
    paths = {part: folder / name for part, name in _MODELS.items()}
    for path in paths.values():
        if not path.is_file():
            raise SmartRagError(f"{path} is missing; install rapidocr again, in a version that smart-rag[ocr] allows")
    return rapidocr.RapidOCR(
        params={
            **{f"{part}.model_path": str(path) for part, path in paths.items()},
            "Global.log_level": "error",
            "Global.use_cls": False,  # it would say which lines stand on their head, and then give wrong boxes
            "Global.text_score": 0.0,
            "Global.max_side_len": LONGEST_SIDE,
            "Global.return_word_box": True,
            "Global.return_single_char_box": True,
            "EngineConfig.onnxruntime.intra_op_num_threads": _THREADS,
        }
    )
