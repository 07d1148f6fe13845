"""jina-embeddings-v4: what smart_rag gives is what the code that comes with the model gives."""

import json
import re

import numpy as np
import pytest
import tiny_jina
import tiny_models
from command_line import error_of, good
from test_vision import picture
from transformers import AutoModel

from smart_rag import CachedEncoder, Document, IndexConfig, SmartEncoder, SmartIndex
from smart_rag.adapter_training import train_adapter
from smart_rag.errors import EncoderError, InvalidInput, ModelNotFound
from smart_rag.training_data import TrainingData
from smart_rag.types import Content

TEXTS = [*tiny_models.SENTENCES[:4], "a", "!", "8 cats", "Dogs bark. " * 40]
# Within the 64 patches that the model's files allow.
IMAGES = [picture(100, 90), picture(60, 110, 1), picture(200, 180, 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_jina.jina_v4(tmp_path_factory.mktemp("jina"))


@pytest.fixture(scope="module")
def encoder(folder):
    return SmartEncoder(folder, trust_remote_code=True)


@pytest.fixture(scope="module")
def reference(folder):
    return AutoModel.from_pretrained(folder, trust_remote_code=True).eval()


def assert_same(ours, singles, multis):
    assert [len(matrix) for matrix in ours.tokens] == [len(matrix) for matrix in multis]
    for pooled, tokens, single, multi in zip(ours.pooled, ours.tokens, singles, multis, strict=True):
        np.testing.assert_allclose(pooled, single, rtol=0, atol=1e-5)
        np.testing.assert_allclose(tokens, multi, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("task", "prompt_name"), [("query", "query"), ("document", "passage")])
def test_texts(encoder, reference, task, prompt_name):
    """Every token counts, the prefix's too; texts are cut where the model cuts them."""
    singles, multis = (
        reference.encode_text(TEXTS, task="retrieval", prompt_name=prompt_name, return_multivector=multi)
        for multi in (False, True)
    )
    assert_same(getattr(encoder, f"encode_{task}")(TEXTS), singles, multis)
    assert len(multis[-1]) == encoder.max_length == 96
    assert (encoder.dimension, encoder.token_dimension) == (64, 16)


def test_images(encoder, reference):
    singles, multis = (
        reference.encode_image(IMAGES, task="retrieval", return_multivector=multi) for multi in (False, True)
    )
    for encode in (encoder.encode_document, encoder.encode_query):
        assert_same(encode(IMAGES), singles, multis)


def test_one_by_one_and_together(folder, encoder):
    """Texts and images in one call are taken apart and put in order again, on two devices, too."""
    items = [TEXTS[0], IMAGES[0], TEXTS[7], IMAGES[2], TEXTS[4], IMAGES[1]]
    alone = [encoder.encode_document([item]) for item in items]
    two = SmartEncoder(folder, trust_remote_code=True, device=["cpu", "cpu"], batch_size=2)
    for together in (encoder.encode_document(items), two.encode_document(items)):
        assert_same(together, [one.pooled[0] for one in alone], [one.tokens[0] for one in alone])
    assert encoder.encode_document([]).tokens.dimension == 16


def test_a_text_and_an_image_together_are_refused(encoder):
    with pytest.raises(InvalidInput, match="item 0 has text and image together"):
        encoder.encode_document([Content("a caption", image=IMAGES[0])])


@pytest.mark.parametrize("text", ["cat sat on the mat", "The cat, 8 dogs.", "8", " a", ""])
@pytest.mark.parametrize("task", ["query", "document"])
def test_which_characters_the_tokens_stand_for(encoder, text, task):
    """A blank before the first word may be part of the word's token, or one of its own: then it is the prefix's."""
    tokens = getattr(encoder, f"encode_{task}")([text]).tokens
    places = encoder.token_places(text, task)
    assert len(places) == len(tokens[0])
    spans = [place.span for place in places if place.span]
    assert "".join(text[slice(*span)] for span in spans) == text
    # Neither a prefix nor a blank or punctuation by itself is a word.
    words = [place.span is not None and text[slice(*place.span)].strip() not in ("", ",", ".") for place in places]
    assert (tokens.ids >= 0).tolist() == words


def test_which_patches_the_tokens_stand_for(encoder):
    boxes = [place.box for place in encoder.token_places(IMAGES[0])]
    assert len(boxes) == len(encoder.encode_document([IMAGES[0]]).tokens[0])
    boxes = [box for box in boxes if box]
    assert (len(boxes), boxes[0][:2], boxes[-1][2:]) == (4 * 3, (0, 0), (1, 1))
    assert (encoder.encode_document([IMAGES[0]]).tokens.ids == -1).all()


def test_policies_take_away(folder, encoder):
    only = SmartEncoder(folder, trust_remote_code=True, document_tokens="patches", query_tokens="input")
    assert len(only.encode_document([IMAGES[0]]).tokens[0]) == 12
    assert len(only.encode_query(["The cat"]).tokens[0]) == encoder.count_tokens("The cat")[0]
    # Of a text no token is left; the mean of its own stands for it, as wide as they are.
    mean = encoder.encode_document(["The cat"]).tokens[0].mean(axis=0)
    np.testing.assert_allclose(
        only.encode_document(["The cat"]).tokens[0], [mean / np.linalg.norm(mean)], rtol=0, atol=1e-5
    )


def test_the_pixels_of_an_image(folder, encoder):
    large = picture(600, 600, 3)

    def patches(**options):
        places = SmartEncoder(folder, trust_remote_code=True, **options).token_places(large)
        return sum(place.box is not None for place in places)

    assert (patches(max_pixels=16 * 28 * 28), patches(), patches(max_pixels=100 * 28 * 28)) == (16, 64, 100)
    assert encoder.tokens_per_page == len(encoder.encode_document([picture(210 * 2, 297 * 2)]).tokens[0])


def test_prompts_and_length_of_the_callers(folder, encoder):
    own = SmartEncoder(folder, trust_remote_code=True, query_prompt="Passage: ", max_length=20)
    document = encoder.encode_document(["The cat"])
    np.testing.assert_allclose(own.encode_query(["The cat"]).tokens[0], document.tokens[0], rtol=0, atol=1e-5)
    assert len(own.encode_document(["cat " * 40]).tokens[0]) == own.max_length == 20
    assert own.fingerprint != encoder.fingerprint


def test_an_index(encoder, tmp_path):
    contents = [*TEXTS[:4], Content(image=IMAGES[0])]
    documents = [Document(str(i), text) for i, text in enumerate(TEXTS[:4])] + [Document("4", image=IMAGES[0])]
    config = IndexConfig(codec="float32", weighting="none")
    with SmartIndex.create(tmp_path / "index", CachedEncoder(encoder), config=config) as index:
        index.add(documents)
        assert index.manifest.config.weights == (0, 1)
        assert (index.manifest.dimension, index.manifest.token_dimension) == (64, 16)
    query, represented = encoder.encode_query([TEXTS[1]]), encoder.encode_document(contents)
    with SmartIndex.open(tmp_path / "index") as index:  # the manifest says that the model's code may run
        late = [(query.tokens[0] @ tokens.T).max(axis=1).mean() for tokens in represented.tokens]
        hits = index.search(TEXTS[1], top_k=5, first_stage="exhaustive")
        assert {int(hit.id): hit.score for hit in hits} == pytest.approx(dict(enumerate(late)), abs=1e-5)
        # The first stage ranks by the model's own single vector.
        nearest = str(np.argmax(represented.pooled @ query.pooled[0]))
        assert index.search(TEXTS[1], top_k=1, candidates=1, first_stage="pooled")[0].id == nearest
        for hit in hits:
            explanation = hit.explain()
            words = "".join(word for word, _ in explanation.words if word != "[prompt]")
            assert words == TEXTS[1].replace(" ", "")
            assert sum(share for _, share in explanation.words) == pytest.approx(hit.score, abs=1e-5)
            assert len([place for place in explanation.places if place.box]) == (12 if hit.id == "4" else 0)
            assert explanation.picture() is not None
        assert index.search(Content(image=IMAGES[0]), top_k=1)[0].id == "4"


def test_a_description_reopens(encoder):
    again = SmartEncoder.from_description(encoder.describe())
    assert again.fingerprint == encoder.fingerprint
    assert encoder.describe()["trust_remote_code"] is True


def test_what_was_decided(folder):
    said = good("info", "--model", folder, "--trust-remote-code")
    lines = {row[0]: row[1:] for row in (re.split(r"\s{2,}", line.rstrip()) for line in said.splitlines())}
    assert lines["pooling"] == ["its own single vector", "the model's own files"]
    assert lines["query prompt"] == ["Query:", "the model's own files"]
    assert lines["document prompt"][0] == "Passage:"
    assert lines["query tokens"] == lines["document tokens"] == ["content", "the model's own files"]
    assert (lines["dimension"][0], lines["token dimension"][0], lines["max length"][0]) == ("64", "16", "96")
    assert lines["image pixels"][0] == "50,176"
    found = json.loads(good("info", "--model", folder, "--trust-remote-code", "--json"))
    assert found["bytes_per_page"]["exact"] == found["tokens_per_page"] * 16 * 2


def test_an_index_of_the_command_line(folder, tmp_path):
    (tmp_path / "a.txt").write_text("The cat sat on the mat.")
    assert "1 passage in" in good(
        "index", tmp_path / "a.txt", "--db", tmp_path / "db", "--model", folder, "--trust-remote-code"
    )
    assert "cat" in good("search", "cat", "--db", tmp_path / "db")


def test_its_code_runs_only_where_it_may(tmp_path):
    mark = tmp_path / "ran"
    folder = tiny_jina.jina_v4(tmp_path, code=f"open({str(mark)!r}, 'w').close()\n{tiny_jina.MODELING}")
    with pytest.raises(ModelNotFound, match=r"^'\S+' is run by Python code that comes with it.*trust_remote_code=True"):
        SmartEncoder(folder)
    assert "--trust-remote-code" in error_of("info", "--model", folder)
    assert not mark.exists()
    SmartEncoder(folder, trust_remote_code=True)
    assert mark.exists()


@pytest.mark.parametrize(
    ("first_line", "reason"),
    [
        ("import no_such_package\n", r"ImportError: .*no_such_package.*pip install no_such_package"),
        ("{}['default']\n", r"KeyError: 'default'"),
    ],
)
def test_its_code_that_does_not_run_here(tmp_path, first_line, reason):
    folder = tiny_jina.jina_v4(tmp_path, code=first_line + tiny_jina.MODELING)
    with pytest.raises(
        ModelNotFound,
        match=rf"(?s)^the code that comes with '\S+' cannot load it: {reason}.*peft.*transformers 5, here \d",
    ):
        SmartEncoder(folder, trust_remote_code=True)


@pytest.mark.parametrize(
    ("mine", "theirs", "reason"),
    [
        ("multi_vec_emb=multi)", "multi_vec_emb=multi[:, 1:])", r"of shape \(1, 11, 16\), expected \(1, 12, 16\)"),
        (
            "if prefix else text",
            "if prefix else f'- {text}'",
            r"processor makes \d+ tokens of a text, its tokenizer \d+",
        ),
    ],
)
def test_its_code_that_does_something_else(tmp_path, mine, theirs, reason):
    folder = tiny_jina.jina_v4(tmp_path, code=tiny_jina.MODELING.replace(mine, theirs))
    with pytest.raises(EncoderError, match=reason):
        SmartEncoder(folder, trust_remote_code=True)


def test_no_adapter_is_trained_on_it(encoder, tmp_path):
    data = TrainingData("none", [], [])
    with pytest.raises(InvalidInput, match="16 dimensions beside 64 of its pooled ones"):
        train_adapter(encoder, data, tmp_path / "adapter")
