"""LamRA-Ret as it is published, on Qwen2-VL, over transformers alone.

The source is Code-kunkun/LamRA. Messages: dataset/datasets_mbeir.py and dataset/datasets_msrvtt.py. Sizes:
collators/qwen2_vision_process.py. The forward pass and the pooled position: models/qwen2_vl.py, ``inference``. With
transformers 4.46.3 and the same tiny weights, that code gave the numbers of this class to 2e-6.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from helpers.reference_smart import LamRARet, Task, _Prompt, smart_resize
from PIL.Image import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize


class LamRARetQwen2(LamRARet):
    """A system turn, ``image``, ``video`` and ``sentence`` in the question, and images of at most 300 tokens."""

    def __init__(self, folder: str, *, max_pixels: int = 300 * 28 * 28) -> None:
        super().__init__(folder, min_pixels=4 * 28 * 28, max_pixels=max_pixels)

    def prompt(
        self,
        task: Task,
        text: str | None = None,
        images: Sequence[Image] = (),
        video: Sequence[Image] = (),
        frames_per_second: float | None = None,
    ) -> _Prompt:
        prompt = _Prompt("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n")
        if video:
            self._add_clip(prompt, video, frames_per_second)
        for image in images:
            self.add_image(prompt, image)
        said = " ".join(part for part in (self.instructions[task], text) if part)
        kinds = ["video"] * bool(video) + ["image"] * bool(images) + ["sentence"] * bool(said)
        prompt.text += f"{said}\nSummarize above {' and '.join(kinds)} in one word: <|im_end|>\n"
        prompt.text += "<|im_start|>assistant\n<emb>.<|im_end|>\n<|im_start|>assistant\n"
        return prompt

    def image_features(self, image: Image) -> dict[str, torch.Tensor]:
        return self.processor.image_processor([self._as_image(image)], do_resize=False, return_tensors="pt")

    def _as_image(self, image: Image) -> Image:
        return image.resize(smart_resize(*image.size, 28, self.min_pixels, self.max_pixels))

    def _add_clip(self, prompt: _Prompt, frames: Sequence[Image], frames_per_second: float | None) -> None:
        """Write a list of frames, each with the size of an image, or a file, of which it looks at two frames a second.

        Its code fills up an odd number of frames by the last one. The processor does so, too.
        """
        if frames_per_second is None:
            pixels = np.stack([np.array(self._as_image(frame)) for frame in frames])
            clip = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        else:
            count = min(max(len(frames) / frames_per_second * 2.0, 4), min(768, len(frames)) // 2 * 2)
            count = round(count / 2) * 2
            chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)]
            clip = torch.from_numpy(np.stack([np.array(frame) for frame in chosen])).permute(0, 3, 1, 2)
            most = max(min(768 * 28 * 28, 24576 * 28 * 28 / count * 2), int(1.05 * 128 * 28 * 28))
            width, height = smart_resize(*frames[0].size, 28, 128 * 28 * 28, most)
            clip = resize(clip, [height, width], InterpolationMode.BICUBIC, antialias=True)
        features = self.processor.video_processor(
            [clip], do_resize=False, do_sample_frames=False, cap_pixels_per_frame=False, return_tensors="pt"
        )
        prompt.keep({name: features[name] for name in ("pixel_values_videos", "video_grid_thw")})
        patches = int(features["video_grid_thw"].prod()) // 4
        prompt.text += "<|vision_start|>" + "<|video_pad|>" * patches + "<|vision_end|>"
