"""Speed of encoding pages, step by step, with a vision-language model that is made from its configuration.

python benchmarks/gpu_encode.py [--size 2b] [--pages N] [--batch-tokens N] [--device cuda] [--json FILE]

Its weights are random, which does not change the speed. It needs torch, torchvision, transformers and
sentence-transformers, but neither Chroma nor LMDB. Pages are images with as many pixels as Qwen3-VL-Embedding gets. The
limit is the machine's rate of one matrix product in the model's precision, measured in the same run.

The time of the forward pass is measured with a synchronisation of the device before and after it. The rest of the
time is for reading the images, cutting them into patches, selecting tokens, and copying these to the CPU: coded on
the device by the default codec of an index, and as float32.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image, ImageDraw
from sentence_transformers.util import batch_to_device
from tokenizers import pre_tokenizers
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLModel,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from smart_rag.config import IndexConfig
from smart_rag.embeddings.tokens import TokenCodes
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.types import Content

# Layers, width, heads, key heads and width of the feed-forward layers; then those of the vision tower.
SIZES = {
    "tiny": ((2, 64, 2, 1, 128), (2, 32, 2, 64)),
    "2b": ((28, 2048, 16, 8, 6144), (24, 1024, 16, 4096)),
    "8b": ((36, 4096, 32, 8, 12288), (27, 1152, 16, 4304)),
}
_MARKS = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
_TEMPLATE = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}{%- for part in message.content %}"
    "{%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif part.type == 'text' %}{{ part.text }}{%- endif %}{%- endfor %}{{ '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)


def build(folder: Path, size: str, device: str, dtype: torch.dtype) -> str:
    """Make a model with random weights on the device, save it, and return its folder."""
    (layers, width, heads, key_heads, inner), (depth, vision, vision_heads, vision_inner) = SIZES[size]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    marks = [f"<|{mark}|>" for mark in _MARKS]
    vocabulary = {token: i for i, token in enumerate([*letters, *marks])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], eos_token="<|im_end|>", extra_special_tokens=marks[1:])
    ids = {mark: vocabulary[f"<|{mark}|>"] for mark in _MARKS}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": 151_936 if size != "tiny" else len(vocabulary),
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": key_heads,
            "head_dim": 128 if size != "tiny" else 32,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5_000_000.0,
                "mrope_section": [24, 20, 20] if size != "tiny" else [6, 5, 5],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": depth,
            "hidden_size": vision,
            "num_heads": vision_heads,
            "intermediate_size": vision_inner,
            "out_hidden_size": width,
            "deepstack_visual_indexes": [0, 1] if size == "tiny" else [5, 11, 17],
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )
    with torch.device(device):
        model = Qwen3VLModel._from_config(config, dtype=dtype)
    model.save_pretrained(folder)
    normal = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            patch_size=16, size={"shortest_edge": 4096, "longest_edge": 1_843_200}, **normal
        ),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(cap_pixels_per_frame=False),
        chat_template=_TEMPLATE,
    ).save_pretrained(folder)
    return str(folder)


def page(seed: int) -> Image.Image:
    """Return an A4 page of black lines at 200 dpi."""
    image = Image.new("RGB", (1654, 2339), "white")
    draw = ImageDraw.Draw(image)
    for row, length in enumerate(np.random.default_rng(seed).integers(400, 1400, 60)):
        draw.rectangle((120, 120 + 35 * row, 120 + int(length), 135 + 35 * row), fill="black")
    return image


def gemm_rate(device: str, dtype: torch.dtype) -> float:
    """Return the FLOP/s of one product of large square matrices."""
    side = 8192 if device.startswith("cuda") else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(8):
        _wait(device)
        started = time.perf_counter()
        a @ b
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def measure(encoder: SmartEncoder, contents: list[Content], codec: str | None) -> dict[str, float]:
    """Return the figures of one encoding of ``contents``, after another one to warm up."""
    device = encoder.device
    forward = {"seconds": 0.0, "started": 0.0}

    def before(*_: Any) -> None:
        _wait(device)
        forward["started"] = time.perf_counter()

    def after(*_: Any) -> None:
        _wait(device)
        forward["seconds"] += time.perf_counter() - forward["started"]

    encoder.encode_document(contents, codec=codec)
    transformer = encoder.model[0]
    # Not in `encode_document`: its forward passes run in other threads, where the counter does not count.
    features = batch_to_device(encoder.trainable.prepare(contents[:1], "document"), torch.device(device))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        transformer({name: value for name, value in features.items() if name not in ("keep", "task")})
    hooks = [transformer.register_forward_pre_hook(before), transformer.register_forward_hook(after)]
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    tokens = encoder.encode_document(contents, codec=codec).tokens
    seconds = time.perf_counter() - started
    for hook in hooks:
        hook.remove()
    flops = counter.get_total_flops() * len(contents)
    return {
        "pages/s": len(contents) / seconds,
        "tokens a page": tokens.offsets[-1] / len(contents),
        "copied of tokens, MB a page": (tokens.codes if isinstance(tokens, TokenCodes) else tokens.embeddings).nbytes
        / len(contents)
        / 1e6,
        "TFLOP/s in the forward pass": flops / forward["seconds"] / 1e12,
        "outside the forward pass, %": 100 * (1 - forward["seconds"] / seconds),
        "peak memory, GB": torch.cuda.max_memory_allocated() / 1e9 if device.startswith("cuda") else float("nan"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="2b")
    parser.add_argument("--pages", type=int, default=32)
    parser.add_argument("--batch-tokens", default="4096,16384,65536", help="tokens in one forward pass, in turn")
    parser.add_argument(
        "--max-pixels", type=int, help="pixels of a page, at most (default: that of Qwen3-VL-Embedding)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    device = arguments.device
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    rate = gemm_rate(device, dtype)
    folder = Path(tempfile.mkdtemp())
    try:
        model = build(folder / "model", arguments.size, device, dtype)
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
        encoder = SmartEncoder(model, device=device, profile="qwen3-vl-embedding", max_pixels=arguments.max_pixels)
        contents = [Content(image=page(seed)) for seed in range(arguments.pages)]
        rows = {}
        for tokens in map(int, arguments.batch_tokens.split(",")):
            encoder.batch_tokens = tokens
            for codec in (IndexConfig().codec, None):
                figures = measure(encoder, contents, codec)
                figures["of the rate of one product, %"] = 100 * figures["TFLOP/s in the forward pass"] * 1e12 / rate
                rows[f"{tokens:,} tokens a batch, {codec or 'float32'}"] = figures
    finally:
        shutil.rmtree(folder)
    title = f"{arguments.size} on {name}, {str(dtype).removeprefix('torch.')}; one product: {rate / 1e12:.1f} TFLOP/s"
    print(title)  # without Rich, which is not on every machine
    for batch, figures in rows.items():
        print(f"  {batch}: " + ", ".join(f"{what} {figure:.3g}" for what, figure in figures.items()))
    if arguments.json:
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        arguments.json.write_text(json.dumps({"title": title, "rows": rows, "versions": versions}, indent=2) + "\n")


if __name__ == "__main__":
    main()
