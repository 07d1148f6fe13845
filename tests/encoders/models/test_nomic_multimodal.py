"""nomic-embed-multimodal: what the model reads, and its embeddings, against transformers' own classes.

The words around a text and an image are those of ``BiQwen2_5_Processor`` in colpali-engine 0.3.18. The pooling is that
of ``BiQwen2_5`` there: the last position, after padding on the left.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny_vision
from helpers.published_folders import edit
from helpers.vision_families import PIXELS, TEXT, picture
from transformers import AutoModel, AutoProcessor

from smart_rag import SmartEncoder
from smart_rag.errors import ModelNotFound
from smart_rag.types import Content

END = "<|endoftext|>"
AROUND_IMAGE = f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Describe the image.<|im_end|>{END}"
IMAGE = picture(140, 84)  # whole patches, so nothing is resized


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_vision.qwen2_5_vl(tmp_path_factory.mktemp("qwen2_5"))


def test_a_folder_with_the_processor_of_colpali_engine(folder, tmp_path):
    """colpali-engine writes its own names (``BiQwen2_5_Processor.save_pretrained``), which transformers lacks."""
    copy = Path(shutil.copytree(folder, tmp_path / "my model"))
    edit(copy, "processor_config.json", processor_class="BiQwen2_5_Processor")
    edit(copy, "tokenizer_config.json", processor_class="BiQwen2_5_Processor")
    assert not hasattr(AutoProcessor.from_pretrained(copy), "image_processor")
    encoder = SmartEncoder(copy, max_pixels=PIXELS, device="cpu")
    family = encoder.decisions[0]
    assert (family.value, family.source) == (
        "nomic-embed-multimodal",
        "processor_config.json: processor_class BiQwen2_5_Processor",
    )
    expected = SmartEncoder(folder, profile="nomic-embed-multimodal", max_pixels=PIXELS, device="cpu")
    items = [Content(TEXT), Content(image=IMAGE)]
    np.testing.assert_array_equal(encoder.encode_document(items).pooled, expected.encode_document(items).pooled)
    assert encoder.fingerprint == expected.fingerprint
    assert encoder.modalities == {"text", "image"}
    (copy / "processor_config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"my model' is a vision-language decoder, but .* 'BiQwen2_5_Processor'"):
        SmartEncoder(copy, device="cpu")


def states(folder, **given):
    processor, network = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    inputs = processor(
        return_tensors="pt", images_kwargs={"size": {"shortest_edge": 28, "longest_edge": PIXELS}}, **given
    )
    with torch.inference_mode():
        rows = network(**inputs).last_hidden_state[0].numpy()
    return inputs["input_ids"][0].numpy(), rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("content", "task", "given"),
    [
        (TEXT, "query", {"text": [TEXT + 10 * END]}),
        (TEXT, "document", {"text": [TEXT + 10 * END]}),
        (Content(image=IMAGE), "document", {"text": [AROUND_IMAGE], "images": [IMAGE]}),
        (Content(image=IMAGE), "query", {"text": [AROUND_IMAGE], "images": [IMAGE]}),
    ],
    ids=["query", "text", "image", "image as query"],
)
def test_embeddings_equal_those_of_transformers(folder, content, task, given):
    """The pooled embedding is the last state, and all tokens count except special ones."""
    encoder = SmartEncoder(folder, profile="nomic-embed-multimodal", max_pixels=PIXELS, device="cpu")
    others = [content, "a longer text, so that the other is padded " * 3]
    ids, rows = states(folder, **given)
    got = getattr(encoder, f"encode_{task}")(others)
    np.testing.assert_allclose(got.pooled[0], rows[-1], rtol=0, atol=1e-5)
    tokenizer = encoder.model.tokenizer
    image_pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    words = [i for i, id in enumerate(ids.tolist()) if id == image_pad or id not in tokenizer.all_special_ids]
    assert len(got.tokens[0]) == len(words)
    np.testing.assert_allclose(got.tokens[0], rows[words], rtol=0, atol=1e-5)
