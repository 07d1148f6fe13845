"""SMART by its specification, over transformers alone: one item at a time, in float32, prompts written out.

What smart_rag gives for vision-language models is compared with this, which shares no code with it. It is the
evaluation code of arXiv 2605.24938, except that the position of the pooled embedding never is a token, and that a
prompt longer than the model allows is not cut.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize
from transformers import AutoModel, AutoProcessor

Task = Literal["query", "document"]
# Beside the tokenizer's own special tokens; some checkpoints do not list these.
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
VISUAL_TOKENS = ("<|image_pad|>", "<|video_pad|>")


@dataclass(frozen=True)
class Encoded:
    """One item: the pooled embedding, the token embeddings, and where in the prompt each of them stands."""

    pooled: NDArray[np.float32]  # (d)
    tokens: NDArray[np.float32]  # (n, d)
    positions: list[int]  # (n), of the tokens in the prompt
    ids: list[int]  # (n), of the tokens in the vocabulary
    pooled_position: int
    prompt_ids: list[int]


def hybrid(query: Encoded, document: Encoded, weights: tuple[float, float] = (1.0, 1.0)) -> float:
    """Return the weighted sum of the cosine of the pooled embeddings and of the mean of the tokens' best matches."""
    best_matches = []
    for q in query.tokens:
        best = -np.inf
        for d in document.tokens:
            best = max(best, _dot(q, d))
        best_matches.append(best)
    late = sum(best_matches) / len(best_matches)
    return weights[0] * _dot(query.pooled, document.pooled) + weights[1] * late


def _dot(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    total = 0.0
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        total += x * y
    return total


def sampled(frames: int, frames_per_second: float, fps: float = 1.0, least: int = 4, most: int = 64) -> list[int]:
    """Return the numbers of the frames that are looked at: ``fps`` for each second, evenly spread over all of them."""
    count = min(max(int(frames / frames_per_second * fps), least), most, frames)
    return np.linspace(0, frames - 1, count).round().astype(int).tolist()


def smart_resize(width: int, height: int, unit: int, least: float, most: float) -> tuple[int, int]:
    """Return a size of whole units, of ``least`` to ``most`` pixels (qwen-vl-utils 0.0.14, by the same name)."""
    w, h = max(unit, round(width / unit) * unit), max(unit, round(height / unit) * unit)
    if w * h > most:
        shrink = math.sqrt(width * height / most)
        return math.floor(width / shrink / unit) * unit, math.floor(height / shrink / unit) * unit
    if w * h < least:
        grow = math.sqrt(least / (width * height))
        return math.ceil(width * grow / unit) * unit, math.ceil(height * grow / unit) * unit
    return w, h


def sentence(instruction: str) -> str:
    """Return ``instruction`` with a full stop, unless it ends in punctuation."""
    instruction = instruction.strip()
    return instruction if unicodedata.category(instruction[-1]).startswith("P") else instruction + "."


@dataclass
class _Prompt:
    """A prompt under construction, and what the vision tower reads for it."""

    text: str = ""
    vision: dict[str, list[torch.Tensor]] = field(default_factory=dict)

    def keep(self, features: dict[str, torch.Tensor]) -> None:
        for name, values in features.items():
            self.vision.setdefault(name, []).append(values)


class _Model:
    """A model with its tokenizer and its processors of pixels, each of which is called by itself."""

    min_frame_pixels = 128 * 32 * 32
    max_frame_pixels = 768 * 32 * 32
    # Whether the decoder gets the positions of the three axes. If not, it gets none, and counts.
    has_axes = True

    def __init__(self, folder: str, min_pixels: int, max_pixels: int, total_pixels: int) -> None:
        self.processor = AutoProcessor.from_pretrained(folder)
        self.tokenizer = self.processor.tokenizer
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        self.min_pixels, self.max_pixels, self.total_pixels = min_pixels, max_pixels, total_pixels

    def add_image(self, prompt: _Prompt, image: Image) -> None:
        """Write an image: a placeholder for every four patches."""
        features = self.image_features(image.convert("RGB"))
        prompt.keep({name: features[name] for name in ("pixel_values", "image_grid_thw")})
        _, height, width = features["image_grid_thw"][0].tolist()
        prompt.text += "<|vision_start|>" + "<|image_pad|>" * (height // 2 * (width // 2)) + "<|vision_end|>"

    def image_features(self, image: Image) -> dict[str, torch.Tensor]:
        """Pillow resizes, as `fetch_image` of qwen-vl-utils does it, and the processor does not."""
        image = image.resize(smart_resize(*image.size, 32, self.min_pixels, self.max_pixels))
        return self.processor.image_processor([image], do_resize=False, return_tensors="pt")

    def add_frames(self, prompt: _Prompt, frames: Sequence[Image], most: int = 64) -> None:
        """Write a video that is a list of frames, two a second, as `fetch_video` of qwen-vl-utils 0.0.14 reads it.

        It resizes each of them in units of 64 pixels, because it passes on the unit of 32 as the size of half a unit.
        """
        chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, min(len(frames), most), dtype=int)]
        resized = [image.resize(smart_resize(*image.size, 64, 4 * 64**2, 16384 * 64**2)) for image in chosen]
        resized += resized[-1:] * (len(resized) % 2)
        self._add_video(prompt, resized, [i / 2.0 for i in range(len(resized))])

    def add_video(self, prompt: _Prompt, frames: Sequence[Image], frames_per_second: float) -> None:
        """Write a video of a file, of which it looks at one frame a second."""
        indices = sampled(len(frames), frames_per_second)
        self._add_video(prompt, [frames[i] for i in indices], [i / frames_per_second for i in [*indices, indices[-1]]])

    def _add_video(self, prompt: _Prompt, frames: Sequence[Image], times: Sequence[float]) -> None:
        """Write a video as Qwen3-VL reads it: for every two frames their mean time, and a block of their own.

        The chat template has markers around all of them. transformers 4.57, with which figures were published, takes
        them away; from 5.12 on they stay.
        """
        count = len(frames) + len(frames) % 2
        limits = [pixels / count for pixels in self.video_size(len(frames)).values()]
        width, height = smart_resize(*frames[0].size, 32, *limits)
        pixels = torch.stack([torch.from_numpy(np.array(frame.convert("RGB"))).permute(2, 0, 1) for frame in frames])
        features = self.processor.video_processor(
            [resize(pixels, [height, width], InterpolationMode.BICUBIC, antialias=True)],
            do_resize=False,
            do_sample_frames=False,
            return_tensors="pt",
        )
        prompt.keep({name: features[name] for name in ("pixel_values_videos", "video_grid_thw")})
        pairs, height, width = features["video_grid_thw"][0].tolist()
        for pair in range(pairs):
            seconds = (times[2 * pair] + times[2 * pair + 1]) / 2
            prompt.text += f"<{seconds:.1f} seconds><|vision_start|>"
            prompt.text += "<|video_pad|>" * (height // 2 * (width // 2)) + "<|vision_end|>"

    def video_size(self, frames: int) -> dict[str, int]:
        """Return the pixels that ``frames`` frames together have at least and at most."""
        frames += frames % 2
        # A placeholder stands for two frames: each pixel of the budget pays for two.
        at_most = min(self.max_frame_pixels, 2 * self.total_pixels // frames)
        return {
            "shortest_edge": frames * self.min_frame_pixels,
            "longest_edge": frames * max(at_most, int(1.05 * self.min_frame_pixels)),
        }

    @torch.inference_mode()
    def forward(self, prompt: _Prompt) -> tuple[list[int], torch.Tensor]:
        """Return the ids of a prompt and the last hidden states (length, d)."""
        ids = self.tokenizer(prompt.text, return_tensors="pt")["input_ids"]
        image, video = (self.tokenizer.convert_tokens_to_ids(token) for token in VISUAL_TOKENS)
        if not self.has_axes:
            return ids[0].tolist(), self._without_positions(ids, prompt.vision)
        output = self.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == image).long() + 2 * (ids == video).long(),
            **{name: torch.cat(parts) for name, parts in prompt.vision.items()},
        )
        return ids[0].tolist(), output.last_hidden_state[0]

    def _without_positions(self, ids: torch.Tensor, vision: dict[str, list[torch.Tensor]]) -> torch.Tensor:
        """Return the last hidden states of a decoder that gets embeddings alone, with the patches in their places."""
        embeddings = self.model.get_input_embeddings()(ids)
        read = (self.model.get_image_features, self.model.get_video_features)
        names = (("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw"))
        for token, features, pixels_and_grid in zip(VISUAL_TOKENS, read, names, strict=True):
            if pixels_and_grid[0] in vision:
                patches = features(*(torch.cat(vision[name]) for name in pixels_and_grid)).pooler_output
                embeddings[ids == self.tokenizer.convert_tokens_to_ids(token)] = torch.cat(list(patches))
        return self.model.language_model(
            inputs_embeds=embeddings, attention_mask=torch.ones_like(ids)
        ).last_hidden_state[0]

    def encoded(self, ids: list[int], states: torch.Tensor, pooled_position: int, text_only: bool = False) -> Encoded:
        """Return the pooled embedding and the token embeddings, all of unit length."""
        names = CONTROL_TOKENS + VISUAL_TOKENS
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.convert_tokens_to_ids(names)}
        if not text_only:
            special -= set(self.tokenizer.convert_tokens_to_ids(VISUAL_TOKENS))
        positions = [i for i, id in enumerate(ids) if id not in special and i != pooled_position]
        unit = torch.nn.functional.normalize(states.float(), dim=-1).numpy()
        return Encoded(
            unit[pooled_position], unit[positions], positions, [ids[i] for i in positions], pooled_position, ids
        )


class Qwen3VLEmbedding(_Model):
    """Qwen3-VL-Embedding: the instruction is the system turn; pooled is the last token."""

    def __init__(
        self,
        folder: str,
        *,
        query_instruction: str = "Find a document image that matches the given query.",
        document_instruction: str = "Represent the user's input.",
        min_pixels: int = 4 * 32 * 32,
        max_pixels: int = 1800 * 32 * 32,
        total_pixels: int = 10 * 768 * 32 * 32,
    ) -> None:
        super().__init__(folder, min_pixels, max_pixels, total_pixels)
        self.instructions = {"query": query_instruction, "document": document_instruction}

    def prompt(
        self,
        task: Task,
        text: str | None = None,
        images: Sequence[Image] = (),
        video: Sequence[Image] = (),
        frames_per_second: float | None = 1.0,
    ) -> _Prompt:
        instruction = sentence(self.instructions[task])
        prompt = _Prompt(f"<|im_start|>system\n{instruction}<|im_end|>\n<|im_start|>user\n")
        if video and frames_per_second is None:
            self.add_frames(prompt, video)
        elif video:
            self.add_video(prompt, video, frames_per_second)
        for image in images:
            self.add_image(prompt, image)
        prompt.text += text or ("" if video or images else "NULL")
        prompt.text += "<|im_end|>\n<|im_start|>assistant\n"
        return prompt

    def encode(
        self,
        task: Task,
        text: str | None = None,
        images: Sequence[Image] = (),
        video: Sequence[Image] = (),
        frames_per_second: float | None = 1.0,
    ) -> Encoded:
        ids, states = self.forward(self.prompt(task, text, images, video, frames_per_second))
        return self.encoded(ids, states, len(ids) - 1)


class GME(_Model):
    """GME-Qwen2-VL: pooled is an <|endoftext|> at the end; a query's tokens are those of text; one image per item."""

    has_axes = False

    def __init__(
        self,
        folder: str,
        *,
        query_instruction: str = "You are a helpful assistant.",
        document_instruction: str = "You are a helpful assistant.",
        min_pixels: int = 256 * 28 * 28,
        max_pixels: int = 1280 * 28 * 28,
    ) -> None:
        super().__init__(folder, min_pixels, max_pixels, 0)
        self.instructions = {"query": query_instruction, "document": document_instruction}

    def image_features(self, image: Image) -> dict[str, torch.Tensor]:
        """Pillow resizes to whole units, and the processor to its limits."""
        image = image.resize(smart_resize(*image.size, 28, 4 * 28**2, 16384 * 28**2))
        size = {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels}
        return self.processor.image_processor([image], size=size, return_tensors="pt")

    def prompt(
        self, task: Task, text: str | None = None, images: Sequence[Image] = (), video: Sequence[Image] = ()
    ) -> _Prompt:
        prompt = _Prompt(f"<|im_start|>system\n{self.instructions[task]}<|im_end|>\n<|im_start|>user\n")
        if video:
            images = [video[len(video) // 2]]
        if images:
            self.add_image(prompt, images[0])
        prompt.text += f"{text or ''}<|im_end|>\n<|im_start|>assistant\n<|endoftext|>"
        return prompt

    def encode(
        self, task: Task, text: str | None = None, images: Sequence[Image] = (), video: Sequence[Image] = ()
    ) -> Encoded:
        ids, states = self.forward(self.prompt(task, text, images, video))
        return self.encoded(ids, states, len(ids) - 1, text_only=task == "query")


class LamRARet(_Model):
    """LamRA-Ret over Qwen3-VL: asks for a summary in one word; pooled is what comes before the answer, <emb>."""

    has_axes = False

    def __init__(
        self,
        folder: str,
        *,
        query_instruction: str = "Find a document image that matches the given query.",
        document_instruction: str = "",
        min_pixels: int = 4 * 32 * 32,
        max_pixels: int = 1024 * 28 * 28,
        total_pixels: int = 10 * 768 * 32 * 32,
    ) -> None:
        super().__init__(folder, min_pixels, max_pixels, total_pixels)
        self.instructions = {"query": query_instruction, "document": document_instruction}
        if self.tokenizer.add_tokens(["<emb>"]):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.model.resize_token_embeddings(len(self.tokenizer))

    def prompt(
        self,
        task: Task,
        text: str | None = None,
        images: Sequence[Image] = (),
        video: Sequence[Image] = (),
        frames_per_second: float | None = 1.0,
    ) -> _Prompt:
        prompt = _Prompt("<|im_start|>user\n")
        if video and frames_per_second is None:
            self.add_frames(prompt, video)
        elif video:
            self.add_video(prompt, video, frames_per_second)
        for image in images:
            self.add_image(prompt, image)
        if text is None:
            prompt.text += "\nSummarize above image in one word: "
        else:
            instruction = self.instructions[task]
            prompt.text += f" {sentence(instruction)}\n" if instruction else ""
            prompt.text += f"{text}\nSummarize above sentence in one word: "
        # The last turn, which says nothing, is there because it was there when it was measured.
        prompt.text += "<|im_end|>\n<|im_start|>assistant\n<emb>.<|im_end|>\n<|im_start|>assistant\n"
        return prompt

    def encode(
        self,
        task: Task,
        text: str | None = None,
        images: Sequence[Image] = (),
        video: Sequence[Image] = (),
        frames_per_second: float | None = 1.0,
    ) -> Encoded:
        ids, states = self.forward(self.prompt(task, text, images, video, frames_per_second))
        return self.encoded(ids, states, ids.index(self.tokenizer.convert_tokens_to_ids("<emb>")) - 1)


class VLM2Vec(_Model):
    """VLM2Vec-V2 over Qwen2-VL: an instruction and a text behind a bare placeholder; pooled is the last token.

    An image with a side below 28 pixels becomes a square (``Qwen2_VL_process_fn`` in TIGER-AI-Lab/VLM2Vec,
    src/model/processor.py). A frame has no more pixels than an image, because there the image processor resizes it.
    """

    has_axes = False

    def __init__(
        self, folder: str, *, instructions: dict[Task, str], min_pixels: int, max_pixels: int, frames: int = 8
    ) -> None:
        super().__init__(folder, min_pixels, max_pixels, 0)
        self.instructions, self.frames = instructions, frames

    def encode(
        self, task: Task, text: str | None = None, images: Sequence[Image] = (), video: Sequence[Image] = ()
    ) -> Encoded:
        prompt = _Prompt()
        if video:
            chosen = [video[i].convert("RGB") for i in sampled(len(video), 1.0, 1.0, self.frames, self.frames)]
            size = dict(self.processor.video_processor.size)
            size["longest_edge"] = max(size["shortest_edge"], min(size["longest_edge"], self.max_pixels))
            features = self.processor.video_processor(
                [chosen], size=size, cap_pixels_per_frame=False, do_sample_frames=False, return_tensors="pt"
            )
            prompt.keep({name: features[name] for name in ("pixel_values_videos", "video_grid_thw")})
            prompt.text += "<|video_pad|>" * (int(features["video_grid_thw"].prod()) // 4) + " "
        for image in images:
            size = {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels}
            image = image.convert("RGB")
            image = image if min(image.size) >= 28 else image.resize((56, 56))
            features = self.processor.image_processor([image], size=size, return_tensors="pt")
            prompt.keep({name: features[name] for name in ("pixel_values", "image_grid_thw")})
            prompt.text += "<|image_pad|>" * (int(features["image_grid_thw"].prod()) // 4) + " "
        prompt.text += " ".join(part for part in (self.instructions[task], text) if part)
        ids, states = self.forward(prompt)
        return self.encoded(ids, states, len(ids) - 1)
