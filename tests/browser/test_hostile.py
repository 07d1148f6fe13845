"""Hostile texts, a server that fails, and who is refused: all of it is shown as text, and nothing of it runs."""

from __future__ import annotations

import pytest
from helpers.served import server
from helpers.word_encoder import WordEncoder

from smart_rag import Document, SmartIndex
from smart_rag.errors import InvalidInput

TOKEN = "a token of tests that nobody guesses"
SCRIPT = "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'>"
TEXTS = {
    "script": f"boat {SCRIPT} keys",
    "title": "boat </title></textarea></style><svg onload=window.ran=3> keys",
    "bidi": "boat \u202etxt.exe\u2066 keys \u2028\u2029\x00\x1b[2J",
    "word": "boat " + "x" * 200_000,
    "template": "boat ${window.ran = 4} {{7*7}} lit$ ?lit$ <!--?lit$-->",
    "emoji": "boat 🚤🚤 keys 🗝️ and more words, each of them after signs that JavaScript counts twice: boat",
}
HOSTILE = f"{SCRIPT}{'y' * 300}"


@pytest.fixture
def hostile(tmp_path):
    index = SmartIndex.create(tmp_path / "hostile.index", WordEncoder())
    index.add(
        Document(f"{SCRIPT}/{name}", text, {"source": f"/{HOSTILE}/{name}.md", SCRIPT: SCRIPT, "page": 3})
        for name, text in TEXTS.items()
    )
    with server({"hostile": index}) as client:
        yield client


def test_texts_names_and_metadata_are_text(hostile, window):
    watched = window(hostile)
    page = watched.open()
    page.wait_for_selector("#question")
    watched.search(f"boat keys {SCRIPT}")
    assert page.locator('[data-column="hybrid"] .hit').count() == len(TEXTS)
    for i in range(len(TEXTS)):
        page.locator('[data-column="hybrid"] .hit').nth(i).click()
        id = page.locator('[data-column="hybrid"] .hit').nth(i).get_attribute("data-id")
        page.wait_for_selector(".why-body:not(.old) .metadata")
        name = id.rpartition("/")[2]
        watched.wait("name => document.querySelector('.why .passage').textContent.includes(name)", arg=TEXTS[name][:10])
        if not page.locator(".metadata[open]").count():
            page.locator(".metadata summary").click()
        assert SCRIPT in page.inner_text(".metadata")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("window.ran") is None
    assert page.locator("main img:not(.thumb), main script, main svg svg").count() == 0


@pytest.fixture
def wide(tmp_path, minilm):
    index = SmartIndex.create(tmp_path / "wide.index", minilm)
    index.add([Document("wide", f"{TEXTS['emoji']} and a bearing")])
    with server({"wide": index}) as client:
        yield client


def test_marks_are_at_their_words_after_wide_characters(wide, window):
    watched = window(wide)
    page = watched.open()
    page.wait_for_selector("#question")
    watched.search("bearing")
    page.wait_for_selector(".why mark")
    assert [mark.inner_text() for mark in page.locator(".why mark").all()] == ["bearing"]


@pytest.mark.parametrize(
    "fragment",
    [f"#/search?q={SCRIPT}&hit={SCRIPT}&f={SCRIPT}:1", f"#/{SCRIPT}", f"#/search?{SCRIPT}={SCRIPT}&k={SCRIPT}"],
)
def test_an_address_is_text(hostile, window, fragment):
    page = window(hostile, expected=["status of 422"]).open(fragment)
    page.wait_for_selector("#question")
    page.wait_for_timeout(500)
    assert page.evaluate("window.ran") is None
    assert page.locator("main script, .notice script, .problem script").count() == 0


class Breaking(WordEncoder):
    def encode_query(self, texts):
        if "zzbad" in texts[0]:
            raise InvalidInput(f"the query says {SCRIPT}")
        return super().encode_query(texts)


@pytest.fixture
def words(tmp_path):
    index = SmartIndex.create(tmp_path / "words.index", Breaking())
    index.add([Document("a", "The keys are in the boat."), Document("b", "Dogs bark.")])
    with server({"words": index}, token=TOKEN, max_query_length=200) as client:
        yield client


def test_sign_in(words, window):
    watched = window(words, expected=["status of 401"])
    page = watched.open("#token=wrong")
    page.wait_for_selector("text=This is not the token of this server")
    assert "token" not in page.url
    page.fill("input[name=token]", TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_selector("#question")
    other = window(words)
    there = other.open(f"#token={TOKEN.replace(' ', '%20')}&#/search?q=keys")
    there.wait_for_selector(".hits .hit")
    assert there.input_value("#question") == "keys"
    assert "token" not in there.url
    assert there.evaluate("document.cookie + JSON.stringify(localStorage)").find("guesses") < 0
    assert not [url for url in other.requests if "guesses" in url.partition("#")[0]]
    there.reload()
    there.wait_for_selector(".hits .hit")


def test_errors_are_sentences(words, window):
    watched = window(words, expected=["status of 422"])
    page = watched.open(f"#token={TOKEN.replace(' ', '%20')}")
    page.wait_for_selector("#question")
    watched.search("keys")
    page.fill("#question", "zzbad")
    page.keyboard.press("Enter")
    page.wait_for_selector(".problem")
    text = page.inner_text(".problem")
    assert "The query says <script>" in text
    assert "Request " in text
    assert page.locator(".hits .hit").count() > 0  # those of the question before
    assert "question before" in page.inner_text(".stale-note")
    page.fill("#question", "w" * 300)
    page.keyboard.press("Enter")
    page.wait_for_selector("text=at most 200 characters are allowed")
    assert page.evaluate("window.ran") is None


def test_a_server_that_is_gone_and_back(words, window):
    watched = window(words, expected=["ERR_", "Failed to load"])
    page = watched.open(f"#token={TOKEN.replace(' ', '%20')}")
    page.wait_for_selector("#question")
    watched.search("keys")
    page.context.set_offline(True)
    page.fill("#question", "dogs")
    page.keyboard.press("Enter")
    page.wait_for_selector(".banner")
    assert "does not answer" in page.inner_text(".banner")
    page.context.set_offline(False)
    page.wait_for_selector(".banner", state="detached")
    watched.wait("document.querySelector('.hit .text')?.textContent.includes('Dogs')")


def test_the_last_question_wins(words, window):
    """Answers may come out of order."""
    watched = window(words, expected=["ERR_ABORTED"])
    page = watched.open(f"#token={TOKEN.replace(' ', '%20')}")
    page.wait_for_selector("#question")

    def later(route):
        if "slowly" in route.request.post_data:
            page.wait_for_timeout(600)
        route.continue_()

    page.route("**/inspector/search", later)
    page.fill("#question", "keys slowly")
    page.keyboard.press("Enter")
    page.fill("#question", "dogs")
    page.keyboard.press("Enter")
    page.wait_for_selector(".hits .hit")
    page.wait_for_timeout(900)
    assert "Dogs" in page.inner_text('[data-column="hybrid"] .hit >> nth=0')


def test_an_empty_index(tmp_path, window):
    with server({"empty": SmartIndex.create(tmp_path / "empty.index", WordEncoder())}) as client:
        page = window(client).open()
        page.wait_for_selector("text=This index is empty")


def test_several_indexes(tmp_path, window):
    indexes = {}
    for name, text in {"one": "The keys are in the boat.", "two": "The keys are in the car."}.items():
        indexes[name] = SmartIndex.create(tmp_path / f"{name}.index", WordEncoder())
        indexes[name].add([Document("a", text)])
    with server(indexes) as client:
        watched = window(client)
        page = watched.open("#/search?q=keys&db=three")
        page.wait_for_selector(".hits .hit")
        assert "There is no index “three” here, so “one” was opened." in page.inner_text(".notice")
        page.select_option(".chooser select", "two")
        page.wait_for_selector(".examples")
        watched.search("keys")
        assert "car" in page.inner_text(".hit .text")
        assert "db=two" in page.url
        page.go_back()
        page.go_back()
        watched.wait("document.querySelector('.hit .text')?.textContent.includes('boat')")
        assert page.input_value(".chooser select") == "one"
        page.goto("about:blank")
