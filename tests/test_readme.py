"""The code of the README and of docs/ runs, and prints what the pages say."""

from __future__ import annotations

import json
import re

import pytest
from helpers.snippets import ROOT, pages, runnable, shows

from smart_rag import Encoder, SmartIndex

RUN = [page for page in pages() if runnable(page) and page.parent.parent.name != "integrations"]
SLOW = ("relevance.md", "training.md")  # calibrations take ten seconds, trainings more


def run(snippets, capsys, **names):
    """Run ``snippets`` one after the other, as the cells of a notebook that has ``names``. Return all names."""
    names["shows"] = shows
    for code, output in snippets:
        capsys.readouterr()
        exec(code, names)
        if output is not None:
            assert capsys.readouterr().out == output
    return names


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with the files that pages name."""
    monkeypatch.chdir(tmp_path)
    for name in ("letters", "scans", "reports"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("The keys hang in the hall.", encoding="utf-8")
    pairs = [{"query": f"Where is boat {i}?", "positive": f"Boat {i} is moored at pier {i * 7}."} for i in range(100)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] if page.name in SLOW else []) for page in RUN],
    ids=lambda page: page.stem,
)
def test_the_code_of_a_page_runs_and_shows_what_it_says(page, folder, capsys):
    if page.stem == "scans":
        SmartIndex.create("my.index", "minilm").close()
    run(runnable(page), capsys)


def test_the_code_of_the_langchain_package_runs(folder, capsys):
    from langchain_core.language_models import FakeListChatModel

    llm = FakeListChatModel(responses=["Behind the barometer [1]."])
    names = run(runnable(ROOT / "integrations/langchain/README.md"), capsys, llm=llm)
    assert names["chroma"].get()["ids"] == []


def test_the_code_of_the_llama_index_package_runs(folder, capsys, monkeypatch):
    from llama_index.core import Document, Settings, StorageContext
    from llama_index.core.llms import MockLLM

    monkeypatch.setattr(Settings, "_llm", MockLLM())
    names = run(
        runnable(ROOT / "integrations/llama_index/README.md"),
        capsys,
        llm=MockLLM(),
        documents=[Document(text="The boat keys hang behind the barometer.")],
        storage_context=StorageContext.from_defaults(),
    )
    assert "The boat keys hang behind the barometer." in names["response"].source_nodes[0].text


def test_most_pages_with_code_are_run():
    assert {page.stem for page in RUN} >= {
        *("README", "codecs", "hits", "migration", "operations", "own_encoder", "python", "relevance", "scoring"),
        *("security", "start", "swap", "training"),
    }


def test_the_first_example_runs_twice(folder, capsys):
    """As a cell of a notebook."""
    ((code, output), *_) = runnable(ROOT / "README.md")
    assert len(output.splitlines()) == 2
    run([(code, output), (code, output)], capsys)


def test_a_wrong_value_is_found():
    shows("0.9... True: why", 0.93, True)
    with pytest.raises(AssertionError, match="the page says"):
        shows("0.9...", 0.83)


def test_the_encoder_of_its_page_is_an_encoder(folder, capsys):
    """It has vocabulary ids."""
    encoder = run(runnable(ROOT / "docs/own_encoder.md"), capsys)["MyEncoder"]()
    assert isinstance(encoder, Encoder)
    vectors = encoder.encode_document(["Keys, please!"])
    assert [id == -1 for id in vectors.tokens.ids] == [False, True, False, True]
    assert encoder.count_tokens(["Keys, please!"]) == [4]


def test_every_path_exists():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"\]\((docs/[^)#]+|[A-Z]+\.md)\)", readme):
        assert (ROOT / path).is_file()
