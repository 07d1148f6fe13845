"""all-mpnet-base-v2 with its real weights: the embeddings and the rankings of a small index."""

import numpy as np
import pytest
from helpers.five_texts import EXACT, documents
from helpers.mpnet import CannotBeHad, model_folder
from sentence_transformers import SentenceTransformer

from smart_rag import SmartEncoder, SmartIndex

pytestmark = pytest.mark.slow

TEXTS = [document.text for document in documents()]
QUESTIONS = {
    "Which animal makes noise after dark?": "dog",
    "Where was the kitten resting?": "cat",
    "How many fish are there?": "fish",
    "Who repaired the vehicle?": "car",
    "When do I have to pay the government?": "tax",
}


@pytest.fixture(scope="module")
def folder():
    try:
        return model_folder()
    except CannotBeHad as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def encoder(folder):
    return SmartEncoder(folder, device="cpu")


@pytest.fixture(scope="module")
def reference(folder):
    return SentenceTransformer(folder, device="cpu")


def states(reference, text):
    """The pooled vector and the states of the words of a text, as sentence-transformers gives them."""
    out = reference.encode(text, output_value=None)
    special = set(reference.tokenizer.all_special_ids)
    words = [i for i, id in enumerate(out["input_ids"].tolist()) if id not in special]
    rows = out["token_embeddings"].numpy()[words]
    pooled = out["sentence_embedding"].numpy()
    return pooled / np.linalg.norm(pooled), rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_pooled_embeddings_are_those_of_sentence_transformers(encoder, reference):
    """They agree to 1e-6, also for a text of more than the 384 tokens that the model reads."""
    texts = [*TEXTS, *QUESTIONS, "The pike hunts carp. " * 120]
    assert encoder.max_length == 384
    for task in ("query", "document"):
        ours = getattr(encoder, f"encode_{task}")(texts).pooled
        np.testing.assert_allclose(ours, reference.encode(texts), rtol=0, atol=1e-6)


def test_a_small_index_ranks_as_its_parts_say(encoder, reference, tmp_path):
    """The scores are those of plain loops over the states, and each question finds its text."""
    parts = {document.id: states(reference, document.text) for document in documents()}
    with SmartIndex.create(tmp_path / "index", encoder, config=EXACT) as index:
        index.add(documents())
        for question, answer in QUESTIONS.items():
            pooled, words = states(reference, question)
            want = {}
            for id, (of_text, rows) in parts.items():
                late = sum(max(float(word @ row) for row in rows) for word in words) / len(words)
                want[id] = float(pooled @ of_text) + 2 * late
            hits = index.search(question, first_stage="exhaustive", weighting="none")
            assert [hit.id for hit in hits] == sorted(want, key=want.__getitem__, reverse=True)
            assert hits[0].id == answer
            for hit in hits:
                assert hit.score == pytest.approx(want[hit.id], abs=2e-3)
