"""The paper's table (arXiv 2605.24938): its columns, the datasets of each, and the published figures.

The names of the datasets, their instructions and their columns are those of the paper's code,
https://github.com/HanSolo9682/SMART (``gather_results.py``, ``constant.py`` and the folder ``data/datasets``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_PAGE = "Find a document image that matches the given query."


@dataclass(frozen=True, slots=True)
class Task:
    """One dataset of a column.

    Attributes:
        name: its name in the paper's code.
        column: the column of the table. Tasks of a column outside of the table do not count in the average.
        measure: the measure of the column: ``"hit@1"``, ``"ndcg@5"`` or ``"ndcg@10"``.
        folders: names of the folders, in lower case, that it is published in. The last part of a hub name.
        instruction: the instruction of its queries. Empty if the rows have their own, or if there is none.
    """

    name: str
    column: str
    measure: str
    folders: tuple[str, ...]
    instruction: str = ""


def _tasks(column: str, measure: str, instruction: str, folders: Mapping[str, str]) -> list[Task]:
    return [
        Task(name, column, measure, tuple(dict.fromkeys((name.lower(), folder.lower()))), instruction)
        for name, folder in folders.items()
    ]


IMAGES, PAGES_1, PAGES_2, VISRAG, OTHER_PAGES, VIDEOS = "ImgRET", "VDRv1", "VDRv2", "VisRAG", "OOD", "VidRET"
COLUMNS = (IMAGES, PAGES_1, PAGES_2, VISRAG, OTHER_PAGES, VIDEOS)
# Columns of datasets that the paper does not have.
VIDORE_3, NANOBEIR, OTHERS = "VDRv3", "NanoBEIR", "other"

TASKS: tuple[Task, ...] = (
    *_tasks(
        IMAGES,
        "hit@1",
        "",
        {
            name: name
            for name in (
                "MSCOCO_i2t",
                "VisualNews_i2t",
                "VisDial",
                "MSCOCO_t2i",
                "VisualNews_t2i",
                "WebQA",
                "EDIS",
                "Wiki-SS-NQ",
                "CIRR",
                "NIGHTS",
                "OVEN",
                "FashionIQ",
            )
        },
    ),
    *_tasks(
        PAGES_1,
        "ndcg@5",
        _PAGE,
        {
            "ViDoRe_arxivqa": "arxivqa_test_subsampled_beir",
            "ViDoRe_docvqa": "docvqa_test_subsampled_beir",
            "ViDoRe_infovqa": "infovqa_test_subsampled_beir",
            "ViDoRe_tabfquad": "tabfquad_test_subsampled_beir",
            "ViDoRe_tatdqa": "tatdqa_test_beir",
            "ViDoRe_shiftproject": "shiftproject_test_beir",
            "ViDoRe_syntheticDocQA_artificial_intelligence": "syntheticDocQA_artificial_intelligence_test_beir",
            "ViDoRe_syntheticDocQA_energy": "syntheticDocQA_energy_test_beir",
            "ViDoRe_syntheticDocQA_government_reports": "syntheticDocQA_government_reports_test_beir",
            "ViDoRe_syntheticDocQA_healthcare_industry": "syntheticDocQA_healthcare_industry_test_beir",
        },
    ),
    *_tasks(
        PAGES_2,
        "ndcg@5",
        _PAGE,
        {
            "ViDoRe_esg_reports_human_labeled_v2": "esg_reports_human_labeled_v2",
            "ViDoRe_biomedical_lectures_v2_multilingual": "biomedical_lectures_v2",
            "ViDoRe_economics_reports_v2_multilingual": "economics_reports_v2",
            "ViDoRe_esg_reports_v2_multilingual": "esg_reports_v2",
        },
    ),
    *_tasks(
        VISRAG,
        "ndcg@5",
        _PAGE,
        {
            f"VisRAG_{name}": f"VisRAG-Ret-Test-{name}"
            for name in ("ArxivQA", "ChartQA", "MP-DocVQA", "SlideVQA", "InfoVQA", "PlotQA")
        },
    ),
    *_tasks(
        OTHER_PAGES,
        "ndcg@5",
        _PAGE,
        {
            "ViDoSeek-page": "ViDoSeek-page-fixed",
            "ViDoSeek-doc": "ViDoSeek",
            "MMLongBench-page": "MMLongBench-page-fixed",
            "MMLongBench-doc": "MMLongBench-doc",
        },
    ),
    Task(
        "MSR-VTT",
        VIDEOS,
        "hit@1",
        ("msr-vtt", "test_1k"),
        "Find a video that contains the following visual content.",
    ),
    Task("MSVD", VIDEOS, "hit@1", ("msvd",), "Find the video snippet that corresponds to the given summary."),
    Task("DiDeMo", VIDEOS, "hit@1", ("didemo",), "Find a video that includes the following described scenes."),
    Task(
        "YouCook2",
        VIDEOS,
        "hit@1",
        ("youcook2",),
        "Find a video that demonstrates the following action while making a recipe.",
    ),
    Task("VATEX", VIDEOS, "hit@1", ("vatex",), "Select a video that fits the description provided."),
)


def task_of(names: Sequence[str], layout: str) -> Task:
    """Return the task of a dataset with these possible ``names``. A dataset that the paper does not have gets its own.

    ViDoRe V1 without ``_beir`` at the end of its names has pages in rows. It is the same data.
    """
    for name in (name.lower() for name in names):
        for task in TASKS:
            if name in task.folders or f"{name}_beir" in task.folders:
                return task
    name = names[0]
    if any(name.lower().startswith("vidore_v3") for name in names):
        return Task(name, VIDORE_3, "ndcg@10", ())  # the measure of its authors
    if any(name.lower().startswith("nano") for name in names):
        return Task(name, NANOBEIR, "ndcg@10", ())
    return Task(name, OTHERS, "ndcg@5" if layout in ("judged", "pages") else "hit@1", ())


@dataclass(frozen=True, slots=True)
class Row:
    """The published figures of one model, in percent, by ranking and column. ``pattern`` finds the model's name."""

    model: str
    pattern: str
    figures: Mapping[str, Mapping[str, float]]
    adapter: bool = False

    def average(self, ranking: str, columns: Sequence[str]) -> float | None:
        """Return the average over ``columns``, weighted by their numbers of tasks. None if a column has no figure."""
        figures = self.figures.get(ranking, {})
        if not columns or any(column not in figures for column in columns):
            return None
        sizes = {column: sum(task.column == column for task in TASKS) for column in columns}
        return sum(size * figures[column] for column, size in sizes.items()) / sum(sizes.values())


def _columns(*figures: float, columns: Sequence[str] = COLUMNS) -> dict[str, float]:
    return dict(zip(columns, figures, strict=True))


_PAGES = (PAGES_1, PAGES_2, VISRAG, OTHER_PAGES)
# Table 1 (no training) and table 2 (visual documents, with an adapter, and models made for late interaction).
ROWS: tuple[Row, ...] = (
    Row(
        "VLM2Vec-V2.0",
        r"vlm2vec-v2",
        {
            "pooled": _columns(69.50, 75.34, 47.28, 79.43, 62.04, 28.66),
            "smart": _columns(69.95, 80.23, 51.08, 82.76, 64.00, 30.03),
        },
    ),
    Row(
        "GME-2B",
        r"gme-qwen2-?vl-2b",
        {
            "pooled": _columns(70.13, 87.61, 53.76, 82.49, 66.93, 26.73),
            "smart": _columns(71.05, 87.97, 57.23, 84.18, 67.82, 26.50),
        },
    ),
    Row(
        "GME-7B",
        r"gme-qwen2-?vl-7b",
        {
            "pooled": _columns(73.09, 90.01, 60.43, 86.20, 69.22, 29.92),
            "smart": _columns(73.57, 90.12, 61.04, 87.05, 69.43, 29.38),
        },
    ),
    Row(
        "Qwen3-VL-Emb-2B",
        r"qwen3-vl-embedding-2b",
        {
            "pooled": _columns(74.91, 84.46, 65.38, 86.19, 69.37, 54.04),
            "smart": _columns(75.33, 85.52, 66.61, 86.87, 69.90, 56.05),
        },
    ),
    Row(
        "Qwen3-VL-Emb-8B",
        r"qwen3-vl-embedding-8b",
        {
            "pooled": _columns(80.09, 87.29, 69.35, 88.78, 73.27, 59.01),
            "smart": _columns(80.15, 87.92, 70.57, 89.12, 73.21, 60.43),
        },
    ),
    Row(
        "Qwen3-VL-Emb-2B with an adapter",
        r"qwen3-vl-embedding-2b",
        {
            "pooled": _columns(84.60, 65.33, 86.34, 69.27, columns=_PAGES),
            "smart": _columns(87.09, 67.08, 87.99, 70.73, columns=_PAGES),
        },
        adapter=True,
    ),
    Row(
        "Qwen3-VL-Emb-8B with an adapter",
        r"qwen3-vl-embedding-8b",
        {"smart": _columns(89.42, 71.25, 89.67, 73.99, columns=_PAGES)},
        adapter=True,
    ),
    Row("ColPali-1.3", r"colpali-v1\.3", {"late": _columns(83.60, 52.00, 81.10, 43.10, columns=_PAGES)}),
    Row(
        "jina-v4, multi-vector",
        r"jina-embeddings-v4",
        {"late": _columns(89.94, 57.36, 88.74, 70.18, columns=_PAGES)},
    ),
)


def row_of(model: str, adapter: bool = False) -> Row | None:
    """Return the published figures of the model with this hub name or folder, or None.

    >>> row_of("Alibaba-NLP/gme-Qwen2-VL-2B-Instruct").model
    'GME-2B'
    """
    return next(
        (row for row in ROWS if row.adapter == adapter and re.search(row.pattern, model.lower())),
        None,
    )
