"""Contents as chat messages, for models that read a chat."""

from __future__ import annotations

from typing import Any

from smart_rag.encoders.models.image_sizes import ImageSizes
from smart_rag.encoders.profiles import Profile
from smart_rag.files import images, video
from smart_rag.types import Content, Task

Message = dict[str, Any]
VideoMetadata = dict[str, Any]


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
        least, most = profile.frames
        frames = video.read_frames(content.video, profile.fps, most, sizes.max_pixels, least)
        parts.append({"type": "video", "video": list(frames.images)})
        metadata.append(_metadata(frames))
    elif content.video is not None and image is None:
        image = video.middle_frame(content.video, sizes.max_pixels)
    if image is None and profile.blank_image is not None and task == "query":
        side, colour = profile.blank_image
        image = images.blank(side * side, colour=colour)
    if image is not None:
        parts.append({"type": "image", "image": sizes.open(image)})
    return parts, metadata


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
