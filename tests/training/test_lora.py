"""LoRA: which layers get additions, and the weights after the merge."""

import copy
import sys

import pytest
import torch
from helpers import tiny_models, tiny_vision
from sentence_transformers import SentenceTransformer

from smart_rag.errors import InvalidInput, MissingExtra
from smart_rag.training import lora


@pytest.fixture
def model(tmp_path):
    return SentenceTransformer(tiny_models.bert(tmp_path), device="cpu")


def test_merged_weights_give_the_embeddings_of_the_additions(model):
    """And the model has the parameters that it had before."""
    names = [name for name, _ in model.named_parameters()]
    before = copy.deepcopy(model.state_dict())
    model.add_adapter(lora.config(model, 2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:  # zero at the start: then the additions change nothing
                weights.copy_(torch.randn(weights.shape, generator=generator))
    model.eval()
    expected = model.encode(["the cat sat"], convert_to_tensor=True)
    lora.merge(model)
    torch.testing.assert_close(model.encode(["the cat sat"], convert_to_tensor=True), expected, atol=1e-5, rtol=1e-5)
    assert [name for name, _ in model.named_parameters()] == names
    changed = {name for name, weights in model.state_dict().items() if not torch.equal(weights, before[name])}
    assert changed
    for name in changed:
        change = model.state_dict()[name] - before[name]
        assert torch.linalg.matrix_rank(change, rtol=1e-3) <= 2


def test_the_scale_is_twice_the_rank_by_default(model):
    assert lora.config(model, 3).lora_alpha == 6
    assert lora.config(model, 3, 5).lora_alpha == 5


def test_vision_layers_get_no_additions(tmp_path):
    model = SentenceTransformer(tiny_vision.qwen3_vl(tmp_path, sentence_transformers_files=True), device="cpu")
    model.add_adapter(lora.config(model, 2))
    added = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert added
    assert not [name for name in added if "visual" in name]


def test_the_rank_is_at_most_that_of_the_weights(model):
    lora.config(model, 32)
    with pytest.raises(InvalidInput, match="lora_rank must be at most 32, the highest rank of the model's weight"):
        lora.config(model, 33)


def test_without_peft(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"smart-rag\[train\]"):
        lora.config(model, 2)
