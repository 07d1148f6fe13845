"""The published figures: their averages, and the names by which datasets and models are found."""

from __future__ import annotations

import pytest

from smart_rag.evaluation.paper.table import COLUMNS, ROWS, TASKS, row_of, task_of

# The averages of tables 1 and 2 of arXiv 2605.24938, which are not typed in but follow from the columns.
AVERAGES = {
    "VLM2Vec-V2.0": {"pooled": 64.50, "smart": 67.04},
    "GME-2B": {"pooled": 69.00, "smart": 70.00},
    "GME-7B": {"pooled": 72.26, "smart": 72.56},
    "Qwen3-VL-Emb-2B": {"pooled": 74.87, "smart": 75.77},
    "Qwen3-VL-Emb-8B": {"pooled": 78.83, "smart": 79.34},
    "Qwen3-VL-Emb-2B with an adapter": {"pooled": 79.27, "smart": 81.25},
    "Qwen3-VL-Emb-8B with an adapter": {"smart": 83.89},
    "ColPali-1.3": {"late": 71.00},
    "jina-v4, multi-vector": {"late": 80.91},
}


def test_the_published_averages_follow_from_the_columns():
    assert [row.model for row in ROWS] == list(AVERAGES)
    for row in ROWS:
        tolerance = 0.05 if row.model == "ColPali-1.3" else 0.011  # published with one decimal
        for ranking, average in AVERAGES[row.model].items():
            columns = [column for column in COLUMNS if column in row.figures[ranking]]
            assert row.average(ranking, columns) == pytest.approx(average, abs=tolerance), (row.model, ranking)


def test_an_average_needs_every_column():
    row = row_of("ColPali-v1.3")
    assert row.average("late", COLUMNS) is None
    assert row.average("smart", ["VDRv1"]) is None
    assert row.average("late", []) is None


def test_the_numbers_of_tasks():
    sizes = {column: sum(task.column == column for task in TASKS) for column in COLUMNS}
    assert sizes == {"ImgRET": 12, "VDRv1": 10, "VDRv2": 4, "VisRAG": 6, "OOD": 4, "VidRET": 5}
    folders = [folder for task in TASKS for folder in task.folders]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize(
    ("model", "adapter", "found"),
    [
        ("Qwen/Qwen3-VL-Embedding-2B", False, "Qwen3-VL-Emb-2B"),
        ("/models/qwen3-vl-embedding-8b", True, "Qwen3-VL-Emb-8B with an adapter"),
        ("Alibaba-NLP/gme-Qwen2-VL-7B-Instruct", False, "GME-7B"),
        ("VLM2Vec/VLM2Vec-V2.0", False, "VLM2Vec-V2.0"),
        ("vidore/colpali-v1.3-hf", False, "ColPali-1.3"),
        ("jinaai/jina-embeddings-v4", False, "jina-v4, multi-vector"),
        ("sentence-transformers/all-MiniLM-L6-v2", False, None),
        ("Alibaba-NLP/gme-Qwen2-VL-2B-Instruct", True, None),
    ],
)
def test_the_row_of_a_model(model, adapter, found):
    row = row_of(model, adapter)
    assert (row.model if row else None) == found


@pytest.mark.parametrize(
    ("names", "layout", "found"),
    [
        (["tatdqa_test_beir"], "judged", ("ViDoRe_tatdqa", "VDRv1", "ndcg@5")),
        (["tatdqa_test"], "pages", ("ViDoRe_tatdqa", "VDRv1", "ndcg@5")),
        (["VisRAG-Ret-Test-MP-DocVQA"], "judged", ("VisRAG_MP-DocVQA", "VisRAG", "ndcg@5")),
        (["ViDoSeek-page-fixed"], "judged", ("ViDoSeek-page", "OOD", "ndcg@5")),
        (["VisDial", "MMEB_Test_Instruct"], "candidates", ("VisDial", "ImgRET", "hit@1")),
        (["vidore_v3_hr"], "judged", ("vidore_v3_hr", "VDRv3", "ndcg@10")),
        (["NanoFEVER"], "judged", ("NanoFEVER", "NanoBEIR", "ndcg@10")),
        (["MyPages"], "judged", ("MyPages", "other", "ndcg@5")),
        (["MyPhotos"], "candidates", ("MyPhotos", "other", "hit@1")),
    ],
)
def test_the_task_of_a_dataset(names, layout, found):
    task = task_of(names, layout)
    assert (task.name, task.column, task.measure) == found
