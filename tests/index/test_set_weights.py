"""`SmartIndex.set_weights`: searches use the new weights, and the manifest keeps everything else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers.another_process import another_process
from helpers.word_encoder import WordEncoder

from smart_rag import Document, IndexConfig, SmartIndex
from smart_rag.errors import IndexLocked, InvalidInput
from smart_rag.index.manifest import Manifest


@pytest.fixture
def index(tmp_path):
    config = IndexConfig(weights=(2, 1), chunk_tokens=77)
    with SmartIndex.create(tmp_path / "index", WordEncoder(), config=config) as index:
        index.add([Document("cat", "the cat sat"), Document("dog", "dogs bark")])
        yield index


def test_weights_are_saved_and_the_rest_of_the_manifest_stays(index):
    before = Manifest.read(index.path)
    index.set_weights((0, 3), "none")
    config = replace(before.config, weights=(0.0, 3.0), weighting="none")
    assert Manifest.read(index.path) == index.manifest == replace(before, config=config)
    [hit] = index.search("the cat", 1)
    assert hit.score == pytest.approx(3 * hit.late_score)
    index.close()
    with SmartIndex.open(index.path, WordEncoder()) as again:
        assert again.search("the cat", 1) == [hit]
        again.set_weights((1, 1))
        assert again.manifest.config == replace(config, weights=(1.0, 1.0))
        again.set_weights((1, 1), "contrast")
    assert Manifest.read(index.path).config == replace(config, weights=(1.0, 1.0), weighting="contrast")


def test_changes_of_another_index_object_are_kept(index):
    index.close()
    with SmartIndex.open(index.path, WordEncoder()) as stale:
        with SmartIndex.open(index.path, WordEncoder()) as other:
            other.set_weights((2, 1), "none")
        stale.set_weights((1, 4))
        assert Manifest.read(index.path).config.weighting == "none"


@pytest.mark.parametrize(("weights", "weighting"), [((0, 0), None), ((1, -1), None), ((1, 1), "tf")])
def test_invalid_weights_change_nothing(index, weights, weighting):
    with pytest.raises(InvalidInput, match="weight"):
        index.set_weights(weights, weighting)
    assert Manifest.read(index.path) == index.manifest
    assert index.manifest.config.weights == (2, 1)


def test_only_the_writing_process_can_set_weights(index):
    index.close()
    with another_process(index.path) as writer, SmartIndex.open(index.path, WordEncoder()) as other:
        writer.run("index.delete([])")
        with pytest.raises(IndexLocked):
            other.set_weights((1, 1))
