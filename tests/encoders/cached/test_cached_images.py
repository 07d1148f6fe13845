"""Images in `CachedEncoder`: identified by their bytes."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.word_encoder import SeeingEncoder
from PIL import Image

from smart_rag import CachedEncoder, Document, rerank
from smart_rag.types import Content


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (30, 20), "red").save(path)
    return path


def test_an_image_is_cached_by_what_is_in_it(tmp_path, picture):
    encoder = SeeingEncoder()
    cached = CachedEncoder(encoder, tmp_path / "tokens")
    assert cached.modalities == {"text", "image"}
    contents = [Content(image=picture), "a text", Content("caption", picture), Content("a text")]
    first = cached.encode_document(contents)
    assert sorted(encoder.documents) == [" image", "a text", "caption image"]
    moved = picture.rename(tmp_path / "moved.png")
    again = cached.encode_document([Content(image=moved), "a text", Content("caption", moved), "a text"])
    np.testing.assert_array_equal(first.pooled, again.pooled)
    assert len(encoder.documents) == 3
    Image.new("RGB", (3, 3)).save(moved)  # another picture under the same path
    cached.encode_document([Content(image=moved)])
    assert len(encoder.documents) == 4
    assert cached.vacuum(["a text"]) == 3


def test_a_query_with_an_image_is_cached_by_what_is_in_it(picture):
    encoder = SeeingEncoder()
    cached = CachedEncoder(encoder)
    for _ in range(2):
        cached.encode_query([Content("like", picture)])
        cached.encode_query([Content(image=Image.new("RGB", (3, 3)))])
    assert encoder.queries == ["like image", " image"]
    Image.new("RGB", (3, 3)).save(picture)
    cached.encode_query([Content("like", picture)])
    assert len(encoder.queries) == 3


def test_rerank_sees_images_through_a_cache(tmp_path, picture):
    documents = [Document("words", "only words"), Document("image", image=picture)]
    hits = rerank("image", documents, CachedEncoder(SeeingEncoder(), tmp_path / "tokens", codec="exact"))
    expected = rerank("image", documents, SeeingEncoder())
    assert [hit.id for hit in hits] == [hit.id for hit in expected] == ["image", "words"]
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=5e-3)
