"""Vision-language models: what smart_rag gives equals the specification, which `reference_smart` is by itself."""

import functools
import itertools
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from helpers import reference_smart, tiny_models, tiny_vision
from helpers.vision_families import FAMILIES, PIXELS, TEXT, TOLERANCE, expected, picture
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Transformer

from smart_rag import SmartEncoder
from smart_rag.errors import ModelNotFound
from smart_rag.scoring.maxsim import late_interaction, pooled_similarity
from smart_rag.scoring.ranking import hybrid
from smart_rag.types import Content


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Two seconds at five frames a second, without loss: the path and the frames."""
    path = tmp_path_factory.mktemp("video") / "clip.mkv"
    generator = np.random.default_rng(1)
    frames = [Image.fromarray(generator.integers(0, 255, (64, 96, 3), dtype=np.uint8)) for _ in range(10)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return path, frames


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The encoder and the reference of a family, over the same weights."""

    @functools.cache
    def make(family):
        build, reference, options = FAMILIES[family]
        folder = build(tmp_path_factory.mktemp(family))
        return SmartEncoder(folder, profile=family, max_pixels=PIXELS), reference(folder, max_pixels=PIXELS, **options)

    return make


def items(video):
    """Contents by name, with what the reference is given for each."""
    path, frames = video
    wide, high = picture(200, 90), picture(70, 180, 1)
    return {
        "text": (Content(TEXT), {"text": TEXT}),
        "image": (Content(image=wide), {"images": [wide]}),
        "text+image": (Content("A caption of it.", image=high), {"text": "A caption of it.", "images": [high]}),
        "video": (Content(video=path), {"video": frames, "frames_per_second": 5.0}),
        "text+video": (
            Content("What happens?", video=path),
            {"text": "What happens?", "video": frames, "frames_per_second": 5.0},
        ),
    }


NAMES = ["text", "image", "text+image", "video", "text+video"]


@pytest.mark.parametrize("task", ["query", "document"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_representations_are_those_of_the_specification(pair, video, family, name, task):
    """Pooled embedding, which tokens are kept, and token embeddings."""
    encoder, reference = pair(family)
    content, given = items(video)[name]
    want = expected(reference, task, given)
    got = getattr(encoder, f"encode_{task}")([content])
    positions, _ = encoder._backbone.origins(content, task)
    assert np.flatnonzero(encoder._passes.kept(positions, task)[0]).tolist() == want.positions
    assert np.abs(got.pooled[0] - want.pooled).max() < TOLERANCE
    assert np.abs(got.tokens[0] - want.tokens).max() < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_hybrid_scores_are_those_of_the_specification(pair, video, family):
    encoder, reference = pair(family)
    contents = items(video)
    queries = encoder.encode_query([content for content, _ in contents.values()])
    documents = encoder.encode_document([content for content, _ in contents.values()])
    scores = hybrid(
        pooled_similarity(queries.pooled, documents.pooled), late_interaction(queries.tokens, documents.tokens), (1, 1)
    )
    made = {
        task: [expected(reference, task, given) for _, given in contents.values()] for task in ("query", "document")
    }
    for (i, query), (j, document) in itertools.product(enumerate(made["query"]), enumerate(made["document"])):
        assert scores[i, j] == pytest.approx(reference_smart.hybrid(query, document), abs=TOLERANCE)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_company_and_padding_change_nothing(pair, video, family, side):
    """Text, images and a video in one call, padded on either side, are what they are alone."""
    encoder, _ = pair(family)
    contents = [content for content, _ in items(video).values()] + [Content("a"), Content(image=picture(40, 40, 3))]
    tokenizer = encoder._model.tokenizer
    before = tokenizer.padding_side
    tokenizer.padding_side = side
    try:
        together = encoder.encode_document(contents)
    finally:
        tokenizer.padding_side = before
    for i, content in enumerate(contents):
        alone = encoder.encode_document([content])
        assert np.abs(together.pooled[i] - alone.pooled[0]).max() < TOLERANCE
        assert np.abs(together.tokens[i] - alone.tokens[0]).max() < TOLERANCE


@pytest.mark.parametrize("name", ["text", "text+image", "text+video"])
def test_a_long_text_is_cut_and_nothing_else(tmp_path, video, name):
    """The template stays whole, to its end, from which the pooled embedding comes; so do all patches."""
    encoder = SmartEncoder(
        tiny_vision.qwen3_vl(tmp_path), profile="qwen3-vl-embedding", max_pixels=PIXELS, max_length=400
    )
    short, _ = items(video)[name]
    long = Content(TEXT * 100, short.image, short.video)
    few, _ = encoder._backbone.origins(short, "document")
    many, places = encoder._backbone.origins(long, "document")
    assert many.visual.sum() == few.visual.sum()
    assert many.template.sum() == few.template.sum()
    assert many.ids[0, -5:].tolist() == few.ids[0, -5:].tolist()
    spans = [place.span for place in places if place.span]
    if name != "text+video":  # whose patches alone are more; a text has its quarter
        assert 300 < many.attended.sum() <= 400
    assert len(spans) >= 100
    assert spans[0][0] == 0
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    encoder.encode_document([long, short, long])


@pytest.mark.parametrize("build", [tiny_vision.qwen3_vl, tiny_vision.qwen2_vl])
def test_attention_is_the_one_that_is_asked_for(build, tmp_path):
    """And another one gives the same representation."""
    folder = build(tmp_path)
    eager, sdpa = (SmartEncoder(folder, attention=name, max_pixels=PIXELS) for name in ("eager", None))
    assert [encoder.model.transformers_model.config._attn_implementation for encoder in (eager, sdpa)] == [
        *("eager", "sdpa"),
    ]
    contents = [Content(TEXT), Content("", picture(100, 90)), Content("a chart", picture(60, 110))]
    mine, other = (encoder.encode_document(contents) for encoder in (eager, sdpa))
    np.testing.assert_allclose(mine.pooled, other.pooled, atol=TOLERANCE)
    for a, b in zip(mine.tokens, other.tokens, strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCE)
    with pytest.raises(ModelNotFound, match=r"[Ff]lash"):
        SmartEncoder(folder, attention="flash_attention_2")  # which is not installed here


def test_texts_keep_their_rows_with_flash_attention(tmp_path, monkeypatch):
    """sentence-transformers would put them into one row, of which no token embedding could be told from another."""
    monkeypatch.setattr(Transformer, "_can_flatten_inputs", lambda self: True)
    encoder = SmartEncoder(tiny_models.decoder(tmp_path), device="cpu")
    assert encoder.model[0].can_flatten_inputs is False
    assert [len(tokens) for tokens in encoder.encode_document(["a cat", "dogs bark at night"]).tokens] == [
        *(len(encoder.encode_document([text]).tokens[0]) for text in ("a cat", "dogs bark at night")),
    ]


def test_without_torchvision_the_extra_is_named(tmp_path):
    """In a process of its own, which does not look where the tests have it."""
    code = "import sys; from smart_rag import SmartEncoder; SmartEncoder(sys.argv[1])"
    if subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode == 0:
        pytest.skip("torchvision is installed beside torch here")
    folder = tiny_vision.qwen3_vl(tmp_path)
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert re.search(r"the model '\S+', which takes images, needs the package 'torchvision'.*smart-rag\[vision\]", last)


def test_loading_warns_of_weights_that_are_missing_and_of_no_head(tmp_path, caplog):
    """Every such model was saved with a head over words, which no embedding needs."""
    folder = Path(tiny_vision.qwen3_vl(tmp_path))
    weights = load_file(folder / "model.safetensors")
    assert "lm_head.weight" in weights
    SmartEncoder(folder)
    assert not caplog.records
    del weights["model.language_model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    SmartEncoder(folder)
    assert re.search(r"language_model.norm.weight +\| \S*MISSING", caplog.text)
