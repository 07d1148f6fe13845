"""Contents as chat messages, for models that read a chat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from smart_rag.encoders.models.image_sizes import ImageSizes
from smart_rag.encoders.profiles import Profile
from smart_rag.errors import InvalidInput
from smart_rag.files.formats import images, video
from smart_rag.types import Content, ImageSource, Task, VideoSource

Message = dict[str, Any]
VideoMetadata = dict[str, Any]

# A video that is a list of frames has so many of them a second, as in qwen-vl-utils 0.0.14.
FRAMES_PER_SECOND = 2.0


def chat(
    content: Content, task: Task, prompt: str, profile: Profile, sizes: ImageSizes
) -> tuple[list[Message], list[VideoMetadata]]:
    """Return the messages for ``content``, and the metadata of its video.

        The prompt is the system message. The user's message holds the video, then the image, then the text.

    Raises:
        DocumentError: the file of an image or a video cannot be read.
    """
    parts, metadata = _visual_parts(content, task, profile, sizes)
    text = content.text or ("" if parts else profile.empty_text)
    is_visual = bool(parts)
    if text or not parts:
        parts.append({"type": "text", "text": text})
    messages: list[Message] = [{"role": "user", "content": parts}]
    if prompt and (is_visual or task == "query" or not profile.prompts_for_images_only):
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": prompt}]})
    return messages, metadata


def _visual_parts(
    content: Content, task: Task, profile: Profile, sizes: ImageSizes
) -> tuple[list[Message], list[VideoMetadata]]:
    parts: list[Message] = []
    metadata: list[VideoMetadata] = []
    image = content.image
    if content.video is not None and not profile.middle_frame:
        frames = _frames(content.video, profile, sizes)
        resized = sizes.resized_frames(content.video, frames.images)
        parts.append({"type": "video", "video": list(frames.images) if resized is None else resized})
        metadata.append(_metadata(frames))
    elif content.video is not None and image is None:
        image = _middle_frame(content.video)
    if image is None and profile.blank_image is not None and task == "query":
        side, colour = profile.blank_image
        image = images.blank(side * side, colour=colour)
    if image is not None:
        parts.append({"type": "image", "image": sizes.open(image)})
    return parts, metadata


def most_frames(source: VideoSource, profile: Profile) -> int:
    """Return the maximum number of frames that the model reads of a video."""
    most = profile.frames[1]
    return most if isinstance(source, str | Path) else min(most, len(source) + len(source) % 2)


def _frames(source: VideoSource, profile: Profile, sizes: ImageSizes) -> video.Frames:
    """Return the frames of a video that the model reads.

    A list of frames is read as the code of Qwen3-VL-Embedding does it, with qwen-vl-utils 0.0.14. If there are too
    many frames, some are left out. There are two of them a second. If their number is odd, the last one comes twice.
    """
    least, most = profile.frames
    if isinstance(source, str | Path):
        return video.read_frames(source, profile.fps, most, sizes.frame_pixels, least, profile.even_frames)
    if not source:
        raise InvalidInput("a video is a list without frames; expected at least one frame")
    chosen = np.linspace(0, len(source) - 1, min(len(source), most)).astype(int).tolist()
    opened = [sizes.open_frame(source[i]) for i in chosen]
    opened += opened[-1:] * (len(opened) % 2)
    if len({image.size for image in opened}) > 1:
        found = ", ".join(sorted({f"{image.width} x {image.height}" for image in opened}))
        raise InvalidInput(f"the frames of a video must have one size, got {found} after rounding; resize them")
    times = tuple(i / FRAMES_PER_SECOND for i in range(len(opened)))
    return video.Frames(tuple(opened), times, len(opened) / FRAMES_PER_SECOND)


def _middle_frame(source: VideoSource) -> ImageSource:
    return video.middle_frame(source) if isinstance(source, str | Path) else source[len(source) // 2]


def _metadata(frames: video.Frames) -> VideoMetadata:
    """Return the times of ``frames`` for transformers.

    transformers expects frame numbers. At 1 frame per second, a frame number equals the time in seconds.
    """
    return {
        "total_num_frames": len(frames.images),
        "fps": 1.0,
        "frames_indices": list(frames.times),
        "duration": frames.duration,
    }
