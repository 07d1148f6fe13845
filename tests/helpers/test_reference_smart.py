"""The reference for vision-language models: what it can be checked against without the library."""

import re

import numpy as np
import pytest
import torch
from helpers import tiny_vision
from helpers.reference_smart import GME, Encoded, LamRARet, Qwen3VLEmbedding, hybrid, sampled, sentence
from PIL import Image

SMALL = {"min_pixels": 4 * 32 * 32, "max_pixels": 12 * 32 * 32}
NAMES = ["qwen3", "gme", "lamra"]


def picture(width=96, height=64, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    qwen3 = Qwen3VLEmbedding(tiny_vision.qwen3_vl(folder / "qwen3"), total_pixels=24 * 32 * 32, **SMALL)
    lamra = LamRARet(tiny_vision.qwen3_vl(folder / "lamra", emb=True), total_pixels=24 * 32 * 32, **SMALL)
    for model in (qwen3, lamra):
        model.min_frame_pixels = 4 * 32 * 32
    return {"qwen3": qwen3, "gme": GME(tiny_vision.qwen2_vl(folder / "gme"), **SMALL), "lamra": lamra}


def tokens(model, ids):
    return model.tokenizer.convert_ids_to_tokens(ids)


ITEMS = {
    "text": {"text": "the cat sat"},
    "image": {"images": [picture()]},
    "text and image": {"text": "the cat sat", "images": [picture()]},
    "video": {"video": [picture(64, 64, seed) for seed in range(5)]},
}


@pytest.mark.parametrize("item", ITEMS)
@pytest.mark.parametrize("task", ["query", "document"])
@pytest.mark.parametrize("name", NAMES)
def test_one_embedding_for_each_token_of_content(models, name, task, item):
    model = models[name]
    encoded = model.encode(task, **ITEMS[item])
    assert encoded.pooled.shape == (tiny_vision.WIDTH,)
    assert encoded.tokens.shape == (len(encoded.positions), tiny_vision.WIDTH)
    assert encoded.tokens.dtype == encoded.pooled.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm([encoded.pooled, *encoded.tokens], axis=1), 1, atol=1e-5)
    assert [encoded.prompt_ids[i] for i in encoded.positions] == encoded.ids
    assert encoded.pooled_position not in encoded.positions
    visual = {"<|image_pad|>", "<|video_pad|>"}
    kept, all_of_them = tokens(model, encoded.ids), tokens(model, encoded.prompt_ids)
    assert not set(kept) & (set(tiny_vision.SPECIAL_TOKENS) - visual)
    count = sum(token in visual for token in all_of_them)
    assert (count > 0) == (item != "text")
    assert sum(token in visual for token in kept) == (0 if (name, task) == ("gme", "query") else count)
    # All else is content, the words of the template too.
    left_out = set(all_of_them) - set(kept)
    assert left_out <= {*tiny_vision.SPECIAL_TOKENS, tokens(model, [encoded.prompt_ids[encoded.pooled_position]])[0]}


@pytest.mark.parametrize(("name", "last"), [("qwen3", "Ċ"), ("gme", "<|endoftext|>")])
def test_pooled_is_the_last_position(models, name, last):
    encoded = models[name].encode("document", "the cat sat")
    assert encoded.pooled_position == len(encoded.prompt_ids) - 1
    assert tokens(models[name], encoded.prompt_ids)[-1] == last


def test_lamra_is_pooled_before_its_answer(models):
    """The answer itself is content."""
    encoded = models["lamra"].encode("document", "the cat sat")
    assert tokens(models["lamra"], encoded.prompt_ids[encoded.pooled_position :])[:3] == ["Ċ", "<emb>", "."]
    assert {encoded.pooled_position + 1, encoded.pooled_position + 2} <= set(encoded.positions)


def test_lamra_adds_its_token_where_the_checkpoint_has_none(tmp_path):
    folder = tiny_vision.qwen3_vl(tmp_path)
    first, second = (LamRARet(folder).encode("document", "the cat") for _ in range(2))
    np.testing.assert_array_equal(first.tokens, second.tokens)
    assert "<emb>" not in LamRARet(folder).tokenizer.all_special_tokens


def test_end_of_text_that_the_tokenizer_adds_is_pooled(tmp_path):
    model = Qwen3VLEmbedding(tiny_vision.qwen3_vl(tmp_path, eos=True))
    encoded = model.encode("document", "the cat sat")
    assert tokens(model, encoded.prompt_ids)[-2:] == ["Ċ", "<|endoftext|>"]
    assert encoded.pooled_position == len(encoded.prompt_ids) - 1
    assert len(encoded.prompt_ids) - 2 in encoded.positions


def test_nothing_is_the_text_null(models):
    empty, null = models["qwen3"].encode("document"), models["qwen3"].encode("document", "NULL")
    np.testing.assert_array_equal(empty.tokens, null.tokens)
    image = models["qwen3"].encode("document", images=[picture()])
    assert "NULL" not in models["qwen3"].tokenizer.decode(image.prompt_ids)


@pytest.mark.parametrize("name", NAMES)
def test_one_patch_shows_in_the_tokens_from_the_image_on(models, name):
    """And in those before it does not: attention is causal."""
    model, image = models[name], picture(128, 64)
    changed = image.copy()
    changed.paste((255, 0, 0), (96, 32, 128, 64))
    one, other = (model.encode("document", "the cat sat", [each]) for each in (image, changed))
    assert one.prompt_ids == other.prompt_ids
    first = tokens(model, one.ids).index("<|image_pad|>")
    difference = np.abs(one.tokens - other.tokens).max(axis=1)
    np.testing.assert_allclose(difference[:first], 0, atol=1e-6)
    assert difference[first:].min() > 1e-4
    assert np.abs(one.pooled - other.pooled).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_neighbours_show_in_a_token(models, name):
    one, other = (models[name].encode("document", text).tokens for text in ("a cat sat", "o cat sat"))
    assert np.abs(one[-3] - other[-3]).max() > 1e-2


def messages(text, images, video, system):
    parts = [{"type": "video", "video": video}] if video else []
    parts += [{"type": "image", "image": image} for image in images]
    parts += [{"type": "text", "text": text}] if text else []
    return [
        {"role": "system", "content": [{"type": "text", "text": system}]},
        {"role": "user", "content": parts},
    ]


@pytest.mark.parametrize("item", ITEMS)
def test_prompt_is_the_chat_templates(models, item):
    """As Qwen3-VL's processor expands it, with the pixels that it hands over, and what the model makes of them."""
    model = models["qwen3"]
    text, images, video = (
        ITEMS[item].get(name, empty) for name, empty in (("text", ""), ("images", []), ("video", []))
    )
    video = video[:4]  # of an odd number of frames, newer versions of transformers make another size
    marked = "<|vision_start|><|video_pad|><|vision_end|>"
    template = model.processor.chat_template
    assert marked in template
    theirs = model.processor.apply_chat_template(
        [messages(text, images, video, "Represent the user's input.")],
        chat_template=template.replace(marked, "<|video_pad|>"),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        processor_kwargs={
            "images_kwargs": {"size": {"shortest_edge": 4 * 32 * 32, "longest_edge": 12 * 32 * 32}},
            "videos_kwargs": {
                "size": model.video_size(4),
                "do_sample_frames": False,
                "video_metadata": [{"total_num_frames": 4, "fps": 1.0, "frames_indices": [0, 1, 2, 3]}],
            }
            if video
            else {},
            "return_tensors": "pt",
        },
    )
    ours = model.prompt("document", text, images, video)
    assert model.tokenizer(ours.text)["input_ids"] == theirs["input_ids"][0].tolist()
    assert ours.vision.keys() == theirs.keys() - {"input_ids", "attention_mask", "mm_token_type_ids"}
    for name, (values,) in ours.vision.items():
        np.testing.assert_array_equal(values, theirs[name])
    with torch.inference_mode():
        states = torch.nn.functional.normalize(model.model(**theirs).last_hidden_state[0], dim=1)
    encoded = model.encode("document", text, images, video)
    np.testing.assert_allclose(encoded.tokens, states[encoded.positions], rtol=0, atol=1e-6)
    np.testing.assert_allclose(encoded.pooled, states[-1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["gme", "lamra"])
def test_prompt_is_what_the_chat_template_would_give(models, name):
    """GME's is Qwen2-VL's with a token more; LamRA's has the answer in it."""
    model = models[name]
    if name == "gme":
        turns, end = messages("the cat sat", [picture()], [], "You are a helpful assistant."), "<|endoftext|>"
    else:
        asked = " Find it.\nthe cat sat\nSummarize above sentence in one word: "
        turns, end = [*messages(asked, [picture()], [], "")[1:], {"role": "assistant", "content": "<emb>."}], ""
        model.instructions["query"] = "Find it"
    theirs = model.processor.apply_chat_template(turns, add_generation_prompt=True) + end
    ours = model.prompt("query", "the cat sat", [picture()]).text
    assert ours.replace("<|image_pad|>" * ours.count("<|image_pad|>"), "<|image_pad|>") == theirs


@pytest.mark.parametrize(("size", "placeholders"), [((16, 16), 4), ((96, 64), 6), ((640, 480), 12)])
def test_pixels_are_kept_to_their_budget(models, size, placeholders):
    """Of 4 to 12 placeholders, each of 32 x 32 pixels."""
    assert models["qwen3"].prompt("document", images=[picture(*size)]).text.count("<|image_pad|>") == placeholders


def test_video_has_a_block_with_a_time_for_every_two_frames(models):
    """Of three frames a second, one is looked at; the last one stands for two where they are odd."""
    frames = [picture(64, 64, seed) for seed in range(16)]
    text = models["qwen3"].prompt("document", video=frames, frames_per_second=3.0).text
    assert sampled(16, 3.0) == [0, 4, 8, 11, 15]
    assert re.findall(r"<([\d.]+) seconds><\|vision_start\|>", text) == ["0.7", "3.2", "5.0"]


@pytest.mark.parametrize(
    ("frames", "of_each", "of_all"),
    [(4, 768, 1536), (16, 768, 6144), (20, 768, 7680), (63, 240, 7680), (64, 240, 7680)],
)
def test_video_is_kept_to_its_budget(models, monkeypatch, frames, of_each, of_all):
    """768 placeholders for a frame, 7680 for a video, where each stands for two frames."""
    monkeypatch.setattr(models["qwen3"], "total_pixels", 7680 * 32 * 32)
    longest = models["qwen3"].video_size(frames)["longest_edge"] // (32 * 32)
    assert longest // (frames + frames % 2) == of_each
    assert longest // 2 == of_all


def test_gme_looks_at_the_middle_frame(models):
    frames = [picture(64, 64, seed) for seed in range(5)]
    of_video, of_image = (
        models["gme"].encode("document", video=frames),
        models["gme"].encode("document", None, [frames[2]]),
    )
    np.testing.assert_array_equal(of_video.tokens, of_image.tokens)


@pytest.mark.parametrize(
    ("given", "stands"),
    [("Find it", "Find it."), (" Find it? ", "Find it?"), ("「找」", "「找」"), ("2 + 2", "2 + 2.")],
)
def test_instruction_ends_as_a_sentence(given, stands):
    assert sentence(given) == stands


def test_hybrid_is_a_weighted_sum(models):
    query = models["qwen3"].encode("query", "the cat")
    document = models["qwen3"].encode("document", "the cat sat", [picture()])
    late = (query.tokens.astype(np.float64) @ document.tokens.T.astype(np.float64)).max(axis=1).mean()
    cosine = float(query.pooled.astype(np.float64) @ document.pooled.astype(np.float64))
    assert hybrid(query, document) == pytest.approx(cosine + late, abs=1e-12)
    assert hybrid(query, document, (0.25, 2.0)) == pytest.approx(cosine / 4 + 2 * late, abs=1e-12)
    assert hybrid(query, query) == pytest.approx(2, abs=1e-5)


def test_hybrid_by_hand():
    """Best matches of a half and of one; the pooled embeddings have nothing in common."""
    unit = np.eye(3, dtype=np.float32)
    query = Encoded(unit[0], unit[:2], [0, 1], [5, 6], 2, [5, 6, 7])
    document = Encoded(unit[1], np.stack([unit[1], (unit[0] - unit[2]) / 2]), [0, 1], [5, 6], 2, [5, 6, 7])
    assert hybrid(query, document) == (0.5 + 1.0) / 2
