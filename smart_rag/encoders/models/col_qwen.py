"""`ColQwenModel`: ColQwen2, ColQwen2.5, ColQwen3 and ColNomic, as colpali-engine runs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from smart_rag.encoders.models.image_sizes import size_option
from smart_rag.encoders.models.multi_vector import MultiVectorInputs, MultiVectorModel
from smart_rag.types import Content, Task

# The words around an image and after a query in the training (colpali-engine 0.3.18, ColQwen2_5_Processor).
_IMAGE = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Describe the image.<|im_end|><|endoftext|>"
_AFTER_QUERY = "<|endoftext|>" * 10


class ColQwenInputs(MultiVectorInputs):
    """Inputs as in the training of the model: ten tokens after a query, none after a text that is a document."""

    def _preprocess(self, contents: Sequence[Content], task: Task) -> dict[str, Any]:
        transformer: Any = self.model[0]
        if contents[0].image is None:
            texts = [self._words(content, task) for content in contents]
            return dict(self.tokenizer(texts, padding="longest", return_tensors="pt", verbose=False))
        limits = self.image_sizes.limits
        return dict(
            transformer.processor(
                text=[_IMAGE] * len(contents),
                images=[[image] for image in self._open_images(contents)],
                padding="longest",
                return_tensors="pt",
                text_kwargs={"verbose": False},
                images_kwargs={} if limits is None else {"size": size_option(limits)},
            )
        )

    def _words(self, content: Content, task: Task) -> str:
        return self.prompts[task] + content.text + (_AFTER_QUERY if task == "query" else "")

    def _shortened(self, content: Content, task: Task) -> Content:
        """Return ``content`` with its text cut, so that the tokens around it fit into the maximum length."""
        text, longest = content.text, self.max_length
        if content.image is not None or longest is None or len(text.encode()) <= longest // 4:
            return content
        around = len(self.tokenizer(self._words(replace(content, text=""), task), verbose=False)["input_ids"])
        most = max(longest - around, 1)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        if len(encoded["input_ids"]) <= most:
            return content
        return replace(content, text=text[: encoded["offset_mapping"][most - 1][1]])


class ColQwenModel(MultiVectorModel):
    """The decoder of a Qwen-VL, and a projection of its last states to token embeddings.

    All tokens count: those of the text or of the image, and the words around them.
    """

    inputs_class = ColQwenInputs
