"""The families that the paper gives figures for: a tiny model of each, and its reference."""

from __future__ import annotations

import functools

import numpy as np
from helpers import reference_smart, tiny_vision
from PIL import Image

# Small images, so that the reference's loops end: 64 patches after merging, at most.
PIXELS = 64 * 32 * 32
TOLERANCE = 1e-5
FAMILIES = {
    "qwen3-vl-embedding": (tiny_vision.qwen3_vl, reference_smart.Qwen3VLEmbedding, {"min_pixels": 4 * 32 * 32}),
    "gme-qwen2-vl": (
        tiny_vision.qwen2_vl,
        reference_smart.GME,
        {"min_pixels": PIXELS, "query_instruction": "Find a document image that matches the given query."},
    ),
    "lamra-ret": (
        functools.partial(tiny_vision.qwen3_vl, emb=True),
        reference_smart.LamRARet,
        {"min_pixels": 4 * 32 * 32},
    ),
}
TEXT = "Interest rates rose by a quarter of a point in March."


def picture(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def expected(reference, task, given):
    if isinstance(reference, reference_smart.GME):
        given = {name: value for name, value in given.items() if name != "frames_per_second"}
    return reference.encode(task, **given)
