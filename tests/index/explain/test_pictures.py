"""What of an image matched: maps equal plain loops, and the heat is where the matching patches are."""

from __future__ import annotations

import functools

import av
import numpy as np
import pytest
from helpers import tiny_vision
from PIL import Image

from smart_rag import Document, IndexConfig, Representation, SmartEncoder, SmartIndex, TokenBatch
from smart_rag.errors import DocumentError, InvalidInput
from smart_rag.index.explain.explanation import emphasis
from smart_rag.types import Content, PdfPage, TokenOrigin

PIXELS = 80 * 32 * 32
EXACT = IndexConfig(codec="exact")
FAMILIES = {"qwen3-vl-embedding": tiny_vision.qwen3_vl, "gme-qwen2-vl": tiny_vision.qwen2_vl}
QUERY = "where the walrus sleeps"


@pytest.fixture(scope="module")
def encoder_of(tmp_path_factory):
    @functools.cache
    def make(family, **options):
        folder = FAMILIES[family](tmp_path_factory.mktemp(family))
        return SmartEncoder(folder, profile=family, max_pixels=PIXELS, **options)

    return make


@pytest.fixture
def encoder(encoder_of):
    return encoder_of("qwen3-vl-embedding")


class Marked:
    """An encoder to which the patches of some region of every image and frame look like the words of the query."""

    def __init__(self, encoder, region, frame=None):
        self._encoder, self._region, self._frame = encoder, region, frame
        tokens, places = encoder.encode_query(QUERY).tokens[0], encoder.token_origins(QUERY, "query")
        words = np.sum([token for token, place in zip(tokens, places, strict=True) if place.span is not None], axis=0)
        self._vector = words / np.linalg.norm(words)

    def __getattr__(self, name):
        return getattr(self._encoder, name)

    dimension = property(lambda self: self._encoder.dimension)
    fingerprint = property(lambda self: self._encoder.fingerprint)

    def within(self, place):
        if place.box is None or place.frame != self._frame:
            return False
        x, y = (place.box[0] + place.box[2]) / 2, (place.box[1] + place.box[3]) / 2
        return self._region[0] < x < self._region[2] and self._region[1] < y < self._region[3]

    def encode_document(self, documents):
        encoded = self._encoder.encode_document(documents)
        matrices = []
        for document, tokens in zip(documents, encoded.tokens, strict=True):
            inside = [self.within(place) for place in self._encoder.token_origins(document)]
            assert 0 < sum(inside) < len(inside)
            matrices.append(np.where(np.asarray(inside)[:, None], self._vector, tokens))
        return Representation(encoded.pooled, TokenBatch.from_list(matrices))


def page(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def hottest(image):
    """Where the heat is greatest, as parts of the image: what is below it is grey, and heat is red."""
    pixels = np.asarray(image).astype(int)
    y, x = np.unravel_index(np.argmax(pixels[..., 0] - pixels[..., 2]), pixels.shape[:2])
    return (x + 0.5) / image.width, (y + 0.5) / image.height


def peak(values):
    row, column = np.unravel_index(np.argmax(values), values.shape)
    return (column + 0.5) / values.shape[1], (row + 0.5) / values.shape[0]


REGIONS = {"bottom right": (0.7, 0.6, 1.0, 0.9), "top": (0.4, 0.0, 0.7, 0.3), "left": (0.0, 0.5, 0.25, 0.9)}
SIZES = [(320, 320), (640, 200), (200, 640), (900, 120), (130, 800), (595, 842)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_heat_is_in_the_region_that_matches(encoder_of, tmp_path, family, region, size):
    marked = Marked(encoder_of(family), region)
    with SmartIndex.create(tmp_path / "index", marked) as index:
        index.add([Document("page", image=page(*size))])
        explanation = index.search(QUERY)[0].explain()
    image = explanation.picture(legend=False)
    assert image.width / image.height == pytest.approx(size[0] / size[1], rel=0.02)
    for x, y in (peak(explanation.similarity_map()), hottest(image)):
        assert region[0] < x < region[2]
        assert region[1] < y < region[3]


@pytest.mark.parametrize(
    "query",
    [QUERY, Content(QUERY, page(120, 90, 5)), Content(image=page(120, 90, 5))],
    ids=["text", "text and image", "image"],
)
def test_the_map_equals_the_loop(encoder, tmp_path, query):
    size = (420, 160)
    with SmartIndex.create(tmp_path / "index", encoder, config=EXACT) as index:
        index.add([Document("page", image=page(*size)), Document("text", "A text about a walrus.")])
        hit = next(hit for hit in index.search(query) if hit.id == "page")
        explanation = hit.explain()
        stored = index.tokens(["page"])[0].astype(float)
    asked = encoder.encode_query([query]).tokens[0].astype(float)
    query_origins = encoder.token_origins(query, "query")
    places = encoder.token_origins(Content(image=page(*size)))
    weights = [match.weight for match in explanation.matches]
    lefts = sorted({place.box[0] for place in places if place.box})
    tops = sorted({place.box[1] for place in places if place.box})
    assert len(lefts) > len(tops) > 1
    expected = np.zeros((len(tops), len(lefts)))
    alone = np.zeros((len(tops), len(lefts)))
    for place, token in zip(places, stored, strict=True):
        if place.box is None:
            continue
        row, column = tops.index(place.box[1]), lefts.index(place.box[0])
        total = 0.0
        for query_place, query_token, weight in zip(query_origins, asked, weights, strict=True):
            if query_place.span is not None or query_place.box is not None:
                cosine = sum(a * b for a, b in zip(query_token.tolist(), token.tolist(), strict=True))
                expected[row, column] += weight * max(cosine, 0.0)
                total += weight
        expected[row, column] /= total
        alone[row, column] = float(asked[7] @ token)
    assert explanation.similarity_map() == pytest.approx(expected, abs=1e-4)
    assert explanation.similarity_map(7) == pytest.approx(alone, abs=1e-4)
    assert explanation.similarity_map(7).min() < 0
    assert sum(weight * match.similarity for weight, match in zip(weights, explanation.matches, strict=True)) == (
        pytest.approx(hit.late_score, abs=1e-3)
    )


def test_matches_name_patches_and_the_words_of_a_query_that_has_an_image(encoder, tmp_path):
    with SmartIndex.create(tmp_path / "index", encoder, config=EXACT) as index:
        index.add([Document("page", image=page(200, 120))])
        same = index.search(Content("a walrus", page(200, 120)))[0].explain()
    patches = [match for match in same.matches if match.query.box is not None]
    assert len(patches) == same.similarity_map().size
    assert {match.document.frame for match in same.matches} == {None}
    assert any(match.document.box is not None for match in same.matches)
    assert [word for word, _ in same.words] == ["[prompt]", "[image]", "a", "walrus"]
    assert sum(share for _, share in same.words) == pytest.approx(same.shares[1], abs=1e-3)


def test_a_document_of_text_and_image_has_both_marked(encoder, tmp_path):
    text = "A caption about the walrus."
    with SmartIndex.create(tmp_path / "index", encoder, config=EXACT) as index:
        index.add([Document("both", text, image=page(200, 120)), Document("words", text)])
        hits = {hit.id: hit for hit in index.search(text)}
        explanation = hits["both"].explain()
        assert explanation.similarity_map().shape == (4, 6)
        assert {place.box is None for place in explanation.origins} == {True, False}
        assert emphasis(text, explanation.matches)
        assert hits["words"].explain().picture(legend=False).width == 900


def test_a_page_of_a_pdf_is_drawn(encoder, tmp_path):
    from fpdf import FPDF

    pdf = FPDF(format=(100, 200))
    pdf.set_font("Helvetica", size=12)
    pdf.add_page()
    pdf.multi_cell(0, 8, "The walrus sleeps.")
    pdf.output(str(tmp_path / "page.pdf"))
    region = (0.5, 0.5, 1.0, 1.0)
    with SmartIndex.create(tmp_path / "index", Marked(encoder, region)) as index:
        index.add_files([tmp_path / "page.pdf"])
        hit = index.search(QUERY)[0]
        assert isinstance(hit.image, PdfPage)
        image = hit.explain().picture()
        bare = hit.explain().picture(legend=False)
    assert bare.height == pytest.approx(2 * bare.width, abs=3)
    assert image.height > bare.height
    np.testing.assert_array_equal(np.asarray(image)[: bare.height, : bare.width], np.asarray(bare))
    x, y = hottest(bare)
    assert x > 0.5
    assert y > 0.5


def test_pooled_tokens_are_explained_by_the_images_own(encoder, tmp_path):
    with SmartIndex.create(tmp_path / "index", encoder, config=IndexConfig(codec="compact")) as index:
        index.add([Document("page", image=page(320, 100))])
        explanation = index.search(QUERY)[0].explain()
    own = encoder.encode_document([Content(image=page(320, 100))]).tokens[0]
    asked = encoder.encode_query([QUERY]).tokens[0]
    assert explanation.similarities == pytest.approx(asked @ own.T, abs=1e-4)


def test_an_image_that_is_another_one_by_now(encoder, tmp_path):
    path = tmp_path / "page.png"
    page(320, 100).save(path)
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        index.add([Document("page", image=path)])
        hit = index.search(QUERY)[0]
        explanation = hit.explain()
        page(100, 100).save(path)
        with pytest.raises(InvalidInput, match=r"the hit 'page' has .* token embeddings, but its image gives"):
            hit.explain()
        path.unlink()
        with pytest.raises(DocumentError, match=r"page\.png"):
            hit.explain()
        with pytest.raises(DocumentError, match=r"page\.png"):
            explanation.picture()


def test_where_no_patch_takes_part_there_is_nothing_to_draw(encoder_of, tmp_path):
    blind = encoder_of("qwen3-vl-embedding", document_tokens="text")
    with SmartIndex.create(tmp_path / "index", blind) as index:
        index.add([Document("page", image=page(320, 100))])
        explanation = index.search(QUERY)[0].explain()
    with pytest.raises(InvalidInput, match="has no patches of an image among its tokens"):
        explanation.similarity_map()
    with pytest.raises(InvalidInput, match="has neither words nor patches among its tokens; there is nothing to draw"):
        explanation.picture()


# --- videos ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Eight seconds at two frames a second, each of its own grey: the path."""
    path = tmp_path_factory.mktemp("video") / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=2)
        stream.width, stream.height, stream.pix_fmt = 192, 96, "bgr0"
        for i in range(16):
            frame = Image.new("RGB", (192, 96), (10 * i,) * 3)
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return path


def test_of_a_video_the_best_frame_is_drawn(encoder, tmp_path, video):
    region = (0.6, 0.5, 1.0, 1.0)
    with SmartIndex.create(tmp_path / "index", Marked(encoder, region, frame=2)) as index:
        index.add([Document("clip", video=video)])
        explanation = index.search(QUERY)[0].explain()
    frames = sorted({place.frame for place in explanation.origins if place.box})
    assert frames == [0, 1, 2, 3]  # eight frames, two to a patch
    best = explanation.similarity_map()
    np.testing.assert_array_equal(best, explanation.similarity_map(frame=2))
    assert best.max() > explanation.similarity_map(frame=1).max()
    image = explanation.picture(legend=False)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(explanation.picture(frame=2, legend=False)))
    x, y = hottest(image)
    assert x > 0.6
    assert y > 0.5
    greys = [np.median(np.asarray(explanation.picture(frame=i, legend=False))) for i in frames]
    assert greys == sorted(set(greys))  # later frames are lighter
    with pytest.raises(InvalidInput, match="the hit 'clip' has no frame 4; it has frames 0 to 3"):
        explanation.picture(frame=4)


def test_a_video_of_which_the_model_sees_one_frame(encoder_of, tmp_path, video):
    marked = Marked(encoder_of("gme-qwen2-vl"), (0.0, 0.0, 0.4, 0.5))
    with SmartIndex.create(tmp_path / "index", marked) as index:
        index.add([Document("clip", video=video)])
        explanation = index.search(QUERY)[0].explain()
    image = explanation.picture(legend=False)
    assert image.width / image.height == pytest.approx(2, rel=0.02)
    x, y = hottest(image)
    assert x < 0.4
    assert y < 0.5
    with pytest.raises(InvalidInput, match="has no frame 0; it has an image"):
        explanation.similarity_map(frame=0)


def test_a_patch_that_took_no_part_is_zero(encoder, tmp_path):
    """Also a whole row of them: the map keeps its shape."""
    from dataclasses import replace

    with SmartIndex.create(tmp_path / "index", encoder) as index:
        index.add([Document("page", image=page(320, 160))])
        whole = index.search(QUERY)[0].explain()
    kept = [i for i, place in enumerate(whole.origins) if place.box is None or place.box[1] > 0]
    part = replace(whole, origins=tuple(whole.origins[i] for i in kept), similarities=whole.similarities[:, kept])
    expected = whole.similarity_map().copy()
    expected[0] = 0
    assert part.similarity_map() == pytest.approx(expected)
    assert TokenOrigin() in whole.query_origins
