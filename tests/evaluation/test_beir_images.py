"""Evaluation of a BEIR folder whose documents and queries are images."""

from __future__ import annotations

import io
import json

import pytest

pytest.importorskip("pyarrow", reason="the helper writes Parquet, too, which needs the extra `eval`")

from helpers.published_datasets import PixelEncoder, picture, plain_figures

from smart_rag import Content, IndexConfig, SmartIndex
from smart_rag.evaluation import evaluate, load_dataset


def test_eval_of_a_beir_folder_with_images(tmp_path):
    """The images of documents and of queries are read."""
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
    lines = {
        "corpus": [{"_id": f"d{i}", "image": f"{i}.png"} for i in range(4)],
        "queries": [{"_id": "q0", "text": "word1", "image": "4.png"}, {"_id": "q1", "text": "word2"}],
    }
    for name, rows in lines.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "qrels.tsv").write_text("q0\td1\t1\nq1\td2\t1\n")
    dataset = load_dataset(tmp_path)
    with SmartIndex.create(tmp_path / "index", PixelEncoder(), config=IndexConfig(codec="exact")) as index:
        found = evaluate(dataset, index, weights=(1, 1), weighting="none")
    documents = {f"d{i}": Content(image=io.BytesIO(picture(i))) for i in range(4)}
    plain = plain_figures(documents, {"q0": Content("word1", io.BytesIO(picture(4))), "q1": "word2"}, dataset.qrels)
    for run, ranking in (("pooled", "pooled"), ("late", "late"), ("paper", "smart")):
        assert found["runs"][run]["ndcg@10"] == pytest.approx(plain[ranking]["ndcg@10"])
    assert found["runs"]["search_exhaustive"]["ndcg@10"] == pytest.approx(plain["smart"]["ndcg@10"])
