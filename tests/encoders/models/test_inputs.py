"""Inputs of a model: what is cut, what is refused, and which characters its tokens come from."""

import itertools

import pytest
from helpers import tiny_models, tiny_vision
from helpers.text_models import FAST, TASKS, encode, models_in
from helpers.vision_families import PIXELS, TEXT, contents_in

from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import EncoderError
from smart_rag.types import Content

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    return contents_in(tmp_path_factory.mktemp("video"))


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return models_in(tmp_path_factory)


def spans_of(encoder, text, task="document"):
    return [origin.span or (0, 0) for origin in encoder.token_origins(text, task)]


def test_spans_are_the_pieces_of_words(minilm, minilm_on_torch):
    """Each span is that of one wordpiece."""
    text = "Embeddings of unbelievable tokens, don't they? Yes: (3.14) ones!"
    spans = spans_of(minilm, text)
    pieces = minilm_on_torch.model.tokenizer.tokenize(text)
    assert [text[start:stop].lower() for start, stop in spans] == [piece.removeprefix("##") for piece in pieces]
    assert "".join(text[start:stop] for start, stop in spans) == "".join(text.split())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", FAST)
def test_every_token_embedding_has_a_span(models, name, task):
    """Spans lie within the text, in its order, also with prompts, cut texts and pooled positions."""
    model = models(name)
    tokens = encode(model.encoder, model.texts, task).tokens
    for text, matrix in zip(model.texts, tokens, strict=True):
        spans = spans_of(model.encoder, text, task)
        assert len(spans) == len(matrix), text
        assert all(0 <= start <= stop <= len(text) for start, stop in spans)
        assert spans == sorted(spans)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("prompts", ["", "", "the", "cat", "sat"]),
        ("prompts left out", ["the", "cat", "sat"]),
        ("cls without [CLS]", ["cat", "sat"]),
        ("qwen2 with </s>", ["t", "he", " c", "at", " s", "at"]),
        ("qwen2", ["t", "he", " c", "at", " s"]),
    ],
)
def test_spans_of_prompts_and_pooled_positions(models, name, words):
    """The spans of a prompt are empty. A pooled position has no span."""
    text = "the cat sat"
    assert [text[start:stop] for start, stop in spans_of(models(name).encoder, text)] == words


TOKENIZERS = {
    "wordpiece": tiny_models.wordpiece,
    "byte-level BPE": lambda: tiny_models.byte_bpe(bos=True, eos=True),
    "unigram": tiny_models.sentencepiece,
    "unigram, a blank at the start alone": lambda: tiny_models.sentencepiece(scheme="first"),
    "unigram, no blank": lambda: tiny_models.sentencepiece(scheme="never"),
    "sentencepiece BPE": lambda: tiny_models.sentencepiece("bpe"),
    "sentencepiece BPE, no blank": lambda: tiny_models.sentencepiece("bpe", "never"),
}


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("prompt", ["query: ", "query:", "Represent this passage:\n", "A: B\t"])
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_the_first_word_after_a_prompt_is_a_word(tmp_path, tokenizer, prompt, include_prompt):
    """The prompt alone may be one token more than it is in front of a text."""
    folder = tiny_models.bert(
        tmp_path, tokenizer=TOKENIZERS[tokenizer](), prompts={"query": prompt}, include_prompt=include_prompt
    )
    encoder = SmartEncoder(folder, device="cpu", query_tokens="input")
    for text in ("Vienna", "river flows", "8 dogs"):
        found = encoder.encode_query(["a longer query, so that the others are padded", text])[1].tokens
        decode = encoder.model.tokenizer.decode
        assert "".join(decode([id]) for id in found.ids if id >= 0).replace(" ", "").lower() == (
            text.replace(" ", "").lower()
        )
        spans = [text[start:stop] for start, stop in spans_of(encoder, text, "query")]
        assert "".join(spans).replace(" ", "") == text.replace(" ", "")


def test_a_prompt_of_a_tokenizer_in_python(models):
    """It gives no offsets: the prompt is what two unlike texts begin with."""
    encoder = SmartEncoder(models("byt5").path, device="cpu", query_prompt="query: ", query_tokens="input")
    assert len(encoder.encode_query(["Wien"]).tokens[0]) == 4


def test_spans_follow_the_task(models):
    """A query has the prompt of queries."""
    encoder = models("prompts").fresh(query_prompt="the passage says: ")
    assert spans_of(encoder, "the cat", "query") == [(0, 0)] * 4 + [(0, 3), (4, 7)]
    assert spans_of(encoder, "the cat", "document") == [(0, 0)] * 2 + [(0, 3), (4, 7)]


def test_spans_end_where_the_text_is_cut(models):
    """The rest of the text has no token embeddings."""
    encoder = models("minilm").fresh(max_length=8)
    text = "the cat sat on the mat and looked at the rain"
    spans = spans_of(encoder, text)
    assert len(spans) == len(encoder.encode_document(text).tokens[0]) == 6
    assert text[: spans[-1][1]] == "the cat sat on the mat"


@pytest.mark.parametrize("text", ["", "  "])
def test_span_of_a_text_without_tokens_is_all_of_it(minilm, text):
    """Its one token stands for the whole text."""
    assert spans_of(minilm, text) == [(0, len(text))]


def test_spans_need_a_tokenizer_that_knows_them(models):
    """A tokenizer in Python does not know them."""
    with pytest.raises(EncoderError, match="no character offsets"):
        models("byt5").encoder.token_origins("the cat")


def test_spans_belong_to_their_tokens(tmp_path):
    """A chat template puts tokens around the text. They have spans of their own, or there are no spans."""
    template = "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}"
    encoder = SmartEncoder(tiny_models.decoder(tmp_path, chat_template=template), device="cpu")
    tokens = encoder.encode_document("the cat sat").tokens[0]
    try:
        spans = spans_of(encoder, "the cat sat")
    except EncoderError:
        return
    assert len(spans) == len(tokens)


@pytest.mark.parametrize("name", ["text", "text+image", "text+video"])
def test_a_long_text_is_cut_and_nothing_else(tmp_path, contents, name):
    """The template and all patches stay whole. The pooled embedding comes from the end of the template."""
    encoder = SmartEncoder(
        tiny_vision.qwen3_vl(tmp_path), profile="qwen3-vl-embedding", max_pixels=PIXELS, max_length=400
    )
    short, _ = contents[name]
    long = Content(TEXT * 100, short.image, short.video)
    few, _ = encoder._model.inputs.origins(short, "document")
    many, origins = encoder._model.inputs.origins(long, "document")
    assert many.visual.sum() == few.visual.sum()
    assert many.template.sum() == few.template.sum()
    assert many.ids[0, -5:].tolist() == few.ids[0, -5:].tolist()
    spans = [origin.span for origin in origins if origin.span]
    if name != "text+video":  # whose patches alone are more; a text has its quarter
        assert 300 < many.attended.sum() <= 400
    assert len(spans) >= 100
    assert spans[0][0] == 0
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    encoder.encode_document([long, short, long])
