"""Frames of a video, chosen over its whole length, each with its time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.config import check_count
from smart_rag.errors import DocumentError, InvalidInput, MissingExtra
from smart_rag.files.access import check_readable, one_line
from smart_rag.files.images import MAX_SOURCE_PIXELS, fit

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream
    from PIL.Image import Image

FORMATS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")

# FFmpeg knows many more, some of which are lists of other files, or of addresses to load from.
_OPTIONS = {"format_whitelist": "mov,matroska,avi", "protocol_whitelist": "file"}


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of a video: RGB images, the second at which each is shown, and how long the video is."""

    images: tuple[Image, ...]
    times: tuple[float, ...]
    duration: float


def read_frames(
    path: str | Path, fps: float, max_frames: int, max_pixels: int | None = None, min_frames: int = 1
) -> Frames:
    """Return frames of a video, spread evenly from its first to its last one, as Qwen's own reader does.

    They are ``fps`` of each second, but at least ``min_frames``, as far as there are so many, and at most
    ``max_frames``. Images are turned as the file says, and shrunk to ``max_pixels``. The file is read twice: to
    know when its frames are, which not every format states, and to decode it once up to the last wanted frame.
    Only what is returned is kept.

    Raises:
        DocumentError: the file cannot be read, is truncated or broken, or has no video in it.
        InvalidInput: an argument out of its range.
        MissingExtra: PyAV is not installed.
    """
    if not (isinstance(fps, int | float) and 0 < fps < math.inf):
        raise InvalidInput(f"fps must be a number above 0, got {fps!r}")
    check_count("min_frames", min_frames)
    check_count("max_frames", max_frames)
    if max_pixels is not None:
        check_count("max_pixels", max_pixels)
    path = Path(path)
    with _opened(path) as (container, stream):
        stamps, tick, duration = _timetable(path, container, stream)
    count = min(max(int(duration * fps + 1e-6), min_frames), max_frames, len(stamps))
    wanted = stamps[np.linspace(0, len(stamps) - 1, count).round().astype(np.intp)]
    with _opened(path) as (container, stream):
        images, found = _decode(container, stream, wanted, max_pixels or MAX_SOURCE_PIXELS)
    if not images:
        raise DocumentError(path, "no frame of it can be decoded")
    return Frames(tuple(images), tuple(float((stamp - int(stamps[0])) * tick) for stamp in found), duration)


def middle_frame(path: str | Path, max_pixels: int | None = None) -> Image:
    """Return the frame in the middle of a video; see `read_frames`."""
    path = Path(path)
    with _opened(path) as (container, stream):
        stamps = _timetable(path, container, stream)[0]
    with _opened(path) as (container, stream):
        images, _ = _decode(container, stream, stamps[len(stamps) // 2 :][:1], max_pixels or MAX_SOURCE_PIXELS)
    if not images:
        raise DocumentError(path, "no frame of it can be decoded")
    return images[0]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video and its first stream of pictures that are not a cover."""
    try:
        import av
        import av.stream
    except ImportError as error:
        raise MissingExtra("av", "video", f"reading {path.name}") from error
    check_readable(path)
    try:
        # An absolute path, for FFmpeg takes what comes before a colon for a protocol.
        with av.open(str(path.absolute()), options=_OPTIONS, metadata_errors="replace") as container:
            for stream in container.streams.video:
                if not stream.disposition & av.stream.Disposition.attached_pic:
                    stream.thread_type = "AUTO"
                    yield container, stream
                    return
            raise DocumentError(path, "no video in it")
    except av.FFmpegError as error:
        raise DocumentError(path, f"not a sound video ({error.strerror or one_line(error)})") from error


def _timetable(path: Path, container: InputContainer, stream: VideoStream) -> tuple[NDArray[np.int64], Fraction, float]:
    """Return the time stamps of all frames, sorted, their unit, and the seconds until the last one's end."""
    stamps, end, packets = [], 0, 0
    for packet in container.demux(stream):
        stamp = packet.dts if packet.pts is None else packet.pts  # an AVI may state only when to decode
        if stamp is None:  # the last one, which only says that it was the last
            continue
        packets += 1
        if not packet.is_discard:
            stamps.append(stamp)
            end = max(end, stamp + (packet.duration or 0))
    if not stamps:
        raise DocumentError(path, "no frames in it")
    # An MP4 lists its frames, and ends without an error where the listed ones are cut off.
    listed = len(stream.index_entries) if "mp4" in container.format.name else 0
    if packets < listed:
        raise DocumentError(path, f"truncated: {packets} of its {listed} frames are there")
    stamps.sort()
    tick = stream.time_base or Fraction(1)
    seconds = (end - stamps[0]) * tick
    if end <= stamps[-1] and stream.average_rate:  # the last one states no duration
        seconds = (stamps[-1] - stamps[0]) * tick + 1 / stream.average_rate
    return np.array(stamps, dtype=np.int64), tick, float(seconds)


def _decode(
    container: InputContainer, stream: VideoStream, wanted: NDArray[np.int64], max_pixels: int
) -> tuple[list[Image], list[int]]:
    """Return, for each wanted time stamp, the first frame that is not before it, and its own stamp.

    Codecs have packets that are never shown: where the frames end early, the last one stands for the rest.
    """
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()  # one for all: each new one takes megabytes
    images: list[Image] = []
    found: list[int] = []
    last: Any = None
    for frame in container.decode(stream):
        stamp = frame.dts if frame.pts is None else frame.pts
        if stamp is None:
            continue
        last = frame, stamp
        if stamp >= wanted[len(images)]:
            images.append(_image(reformatter, frame, max_pixels))
            found.append(stamp)
            if len(images) == len(wanted):
                return images, found
    if last is not None and last[1] not in found:
        images.append(_image(reformatter, last[0], max_pixels))
        found.append(last[1])
    return images, found


def _image(reformatter: Any, frame: Any, max_pixels: int) -> Image:
    """Return a decoded frame as an image, upright."""
    width, height = fit(frame.width, frame.height, max_pixels)
    image: Image = reformatter.reformat(frame, width, height, "rgb24", interpolation="AREA").to_image()
    # Counter-clockwise, as Pillow turns; right angles, for a camera knows no others.
    turn = round(frame.rotation / 90) % 4 * 90
    return image.rotate(turn, expand=True) if turn else image
