"""The families that the paper gives figures for: a tiny model of each, and its reference."""

from __future__ import annotations

import functools

import av
import numpy as np
from helpers import reference_smart, tiny_vision
from PIL import Image

from smart_rag.types import Content

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


def _video(path):
    """Write two seconds at five frames a second, without loss, and return the frames."""
    generator = np.random.default_rng(1)
    frames = [Image.fromarray(generator.integers(0, 255, (64, 96, 3), dtype=np.uint8)) for _ in range(10)]
    write_video(path, frames, 5)
    return frames


def write_video(path, frames, rate):
    """Write ``frames`` of one size, without loss, ``rate`` of them a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        (stream.width, stream.height), stream.pix_fmt = frames[0].size, "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def contents_in(folder):
    """Return contents by name, each with the arguments that the reference gets for it."""
    path = folder / "clip.mkv"
    frames = _video(path)
    wide, high = picture(200, 90), picture(70, 180, 1)
    return {
        "text": (Content(TEXT), {"text": TEXT}),
        "image": (Content(image=wide), {"images": [wide]}),
        "text+image": (Content("A caption of it.", image=high), {"text": "A caption of it.", "images": [high]}),
        "video": (Content(video=path), {"video": frames, "frames_per_second": 5.0}),
        "text+video": (
            Content("What happens?", video=path),
            {"text": "What happens?", "video": frames, "frames_per_second": 5.0},
        ),
    }
