"""LamRA-Ret's token <emb>, which is added after loading, and the numbers of LamRA-Ret as it is published."""

import numpy as np
import pytest
import torch
from helpers import published_folders, tiny_vision
from helpers.vision_families import PIXELS, TEXT, picture
from transformers import AutoModel, AutoTokenizer

from smart_rag import SmartEncoder
from smart_rag.types import Content

pytestmark = pytest.mark.usefixtures("one_thread")

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]


@pytest.mark.parametrize("spare_rows", [0, 8])
def test_lamra_ret_as_published(tmp_path, spare_rows):
    """The state before <emb>, by transformers alone, as in LamRA's demo.py.

    A published model has rows that no token uses, and the first of them is the row of <emb>. Without such a row, the
    states after <emb> depend on how the row is made. The states before it do not.
    """
    folder = published_folders.lamra_ret(tmp_path, spare_rows=spare_rows)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.add_tokens(["<emb>"]) == 1
    model = AutoModel.from_pretrained(folder).eval()
    if not spare_rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    prompt = (
        f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{TEXT}\n"
        "Summarize above sentence in one word: <|im_end|>\n"
        "<|im_start|>assistant\n<emb>.<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        states = torch.nn.functional.normalize(model(input_ids=ids).last_hidden_state[0], dim=-1)
    emb = ids[0].tolist().index(tokenizer.convert_tokens_to_ids("<emb>"))
    left_out = {*tokenizer.convert_tokens_to_ids(SPECIAL)}
    kept = [i for i, id in enumerate(ids[0].tolist()) if id not in left_out and i != emb - 1]
    got = SmartEncoder(folder, max_pixels=PIXELS).encode_document([TEXT])
    np.testing.assert_allclose(got.pooled[0], states[emb - 1], rtol=0, atol=1e-5)
    assert len(got.tokens[0]) == len(kept)
    same = kept if spare_rows else [i for i in kept if i < emb]
    np.testing.assert_allclose(got.tokens[0][: len(same)], states[same], rtol=0, atol=1e-5)


def test_the_new_row_is_the_same_at_every_load(tmp_path):
    """It is the mean of all rows. So the fingerprint stays."""
    folder = tiny_vision.qwen2_vl(tmp_path)
    torch.manual_seed(1)
    one = SmartEncoder(folder, profile="lamra-ret-qwen2")
    torch.manual_seed(2)
    other = SmartEncoder(folder, profile="lamra-ret-qwen2")
    assert one.fingerprint == other.fingerprint
    rows = one.model.transformers_model.get_input_embeddings().weight.detach()
    assert len(rows) == len(one.model.tokenizer)
    torch.testing.assert_close(rows[-1], rows[:-1].mean(dim=0))


def test_a_tokenizer_that_has_the_token_stays(tmp_path):
    encoder = SmartEncoder(tiny_vision.qwen3_vl(tmp_path, emb=True))
    assert encoder.decisions[0].value == "lamra-ret"
    assert len(encoder.model.tokenizer) == len(AutoTokenizer.from_pretrained(encoder.model_name))


def test_the_papers_lamra_ret_needs_no_token_in_its_files(tmp_path):
    """The paper's code takes the processor of Qwen3-VL, which does not know <emb>."""
    encoder = SmartEncoder(published_folders.lamra_ret_of_paper(tmp_path), max_pixels=PIXELS)
    vectors = encoder.encode_document([Content(TEXT), Content(image=picture(80, 60))])
    assert vectors.pooled.shape == (2, 64)
    assert encoder.model.tokenizer.convert_tokens_to_ids("<emb>") == len(encoder.model.tokenizer) - 1
