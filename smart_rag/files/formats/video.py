"""Frames of a video, spread over its whole length. Each frame has its time."""

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
from smart_rag.files.formats.images import MAX_SOURCE_PIXELS, fit
from smart_rag.files.formats.readable import check_readable
from smart_rag.paths import absolute
from smart_rag.wording import one_line

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream
    from PIL.Image import Image

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")

# FFmpeg reads other formats, too. But a file of some formats lists other files or web addresses, and FFmpeg loads them.
_OPTIONS = {"format_whitelist": "mov,matroska,avi", "protocol_whitelist": "file"}


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of a video as RGB images, the seconds at which each one is shown, and the video's duration in seconds."""

    images: tuple[Image, ...]
    times: tuple[float, ...]
    duration: float


def read_frames(
    path: str | Path,
    fps: float,
    max_frames: int,
    max_pixels: int | None = None,
    min_frames: int = 1,
    even: bool = False,
) -> Frames:
    """Return frames of a video, spread evenly from the first to the last. Qwen's own reader chooses the same frames.

    The file is read twice. The first pass finds the times of all frames, because not every format states them. The
    second pass decodes the file up to the last frame that is needed. Only the returned frames stay in memory.

    Args:
        path: the video.
        max_frames: the maximum number of frames to return.
        max_pixels: frames are shrunk to this number of pixels. By default, only frames with more than
            `MAX_SOURCE_PIXELS` are shrunk.
        min_frames: the minimum number of frames to return, if the video has enough frames.
        even: whether the number of frames is even. Then it is rounded to the nearest even number, and not down. A
            video of one frame has one frame.

    Raises:
        DocumentError: the file cannot be read, is truncated or broken, or contains no video.
        InvalidInput: an argument is out of its range.
        MissingExtra: PyAV is not installed.
    """
    if not (isinstance(fps, int | float) and 0 < fps < math.inf):
        raise InvalidInput(f"fps must be a number above 0, got {fps!r}")
    check_count("min_frames", min_frames)
    check_count("max_frames", max_frames)
    if max_pixels is not None:
        check_count("max_pixels", max_pixels)
    path = absolute(path)
    with _opened(path) as (container, stream):
        stamps, tick, duration = _timetable(path, container, stream)
    wanted_count = 2 * round(round(duration * fps, 6) / 2) if even else int(duration * fps + 1e-6)
    count = min(max(wanted_count, min_frames), max_frames, len(stamps))
    count -= count % 2 if even and count > 1 else 0
    wanted = stamps[np.linspace(0, len(stamps) - 1, count).round().astype(np.intp)]
    with _opened(path) as (container, stream):
        images, found = _decode(container, stream, wanted, max_pixels or MAX_SOURCE_PIXELS)
    if not images:
        raise DocumentError(path, "no frame can be decoded")
    return Frames(tuple(images), tuple(float((stamp - int(stamps[0])) * tick) for stamp in found), duration)


def middle_frame(path: str | Path, max_pixels: int | None = None) -> Image:
    """Return the frame in the middle of a video. The arguments and errors are those of `read_frames`."""
    path = absolute(path)
    with _opened(path) as (container, stream):
        stamps = _timetable(path, container, stream)[0]
    with _opened(path) as (container, stream):
        images, _ = _decode(container, stream, stamps[len(stamps) // 2 :][:1], max_pixels or MAX_SOURCE_PIXELS)
    if not images:
        raise DocumentError(path, "no frame can be decoded")
    return images[0]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video and its first video stream. The cover image of a song does not count as a video stream."""
    try:
        import av
        import av.stream
    except ImportError as error:
        raise MissingExtra("av", "video", f"reading {path.name}") from error
    check_readable(path)
    try:
        # In a relative path with a colon, FFmpeg would read the part before the colon as a protocol.
        with av.open(str(path.absolute()), options=_OPTIONS, metadata_errors="replace") as container:
            for stream in container.streams.video:
                if not stream.disposition & av.stream.Disposition.attached_pic:
                    stream.thread_type = "AUTO"
                    yield container, stream
                    return
            raise DocumentError(path, "no video in it")
    except av.FFmpegError as error:
        raise DocumentError(path, f"damaged, or not a video ({error.strerror or one_line(error)})") from error


def _timetable(path: Path, container: InputContainer, stream: VideoStream) -> tuple[NDArray[np.int64], Fraction, float]:
    """Return the sorted time stamps of all frames, the unit of the stamps in seconds, and the duration in seconds."""
    stamps, end, packets = [], 0, 0
    for packet in container.demux(stream):
        stamp = packet.dts if packet.pts is None else packet.pts  # an AVI may state only decoding times
        if stamp is None:  # an empty packet marks the end of the video
            continue
        packets += 1
        if not packet.is_discard:
            stamps.append(stamp)
            end = max(end, stamp + (packet.duration or 0))
    if not stamps:
        raise DocumentError(path, "no frames in it")
    # An MP4 lists its frames. If the file ends before the last listed frame, FFmpeg reports no error.
    listed = len(stream.index_entries) if "mp4" in container.format.name else 0
    if packets < listed:
        raise DocumentError(path, f"truncated: it has {packets} of its {listed} frames")
    stamps.sort()
    tick = stream.time_base or Fraction(1)
    seconds = (end - stamps[0]) * tick
    if end <= stamps[-1] and stream.average_rate:  # the last frame states no duration
        seconds = (stamps[-1] - stamps[0]) * tick + 1 / stream.average_rate
    return np.array(stamps, dtype=np.int64), tick, float(seconds)


def _decode(
    container: InputContainer, stream: VideoStream, wanted: NDArray[np.int64], max_pixels: int
) -> tuple[list[Image], list[int]]:
    """For each wanted time stamp, return the first frame at or after this time, and the frame's own time stamp.

    Some packets have a time stamp but give no frame, so the frames may end before the last wanted time stamp. Then
    the last frame is added, unless the result already has it.
    """
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()  # shared by all frames, because it takes megabytes
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
    """Return a decoded frame as an upright RGB image."""
    width, height = fit(frame.width, frame.height, max_pixels)
    image: Image = reformatter.reformat(frame, width, height, "rgb24", interpolation="AREA").to_image()
    # Counter-clockwise, as in Pillow. Cameras turn only by right angles.
    turn = round(frame.rotation / 90) % 4 * 90
    return image.rotate(turn, expand=True) if turn else image
