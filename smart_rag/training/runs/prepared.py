"""What a training computes from its data before the first step: hard negatives, and the scores of a teacher."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.training.data import TrainingData
from smart_rag.training.hard_negatives import mine_negatives
from smart_rag.training.runs import processes
from smart_rag.training.settings import TrainingSettings
from smart_rag.training.teacher import with_teacher_scores


def prepare_once(
    data: TrainingData,
    encoder: SmartEncoder,
    settings: TrainingSettings,
    folder: Path,
    *,
    show_progress_bar: bool = False,
) -> TrainingData:
    """Return ``data`` with hard negatives and the teacher's scores, and write them into ``folder``.

    If they are there already, read them: a training that is resumed does not compute them again. The arguments must be
    those of the first call.

    Raises:
        InvalidInput: ``encoder`` or the teacher cannot read a document.
        ModelNotFound: the teacher cannot be loaded.
        EncoderError: a teacher's score is not finite.
    """
    if not settings.hard_negatives:
        return data
    path = folder / "prepared.json"
    if path.exists():
        return _with(data, json.loads(path.read_text(encoding="utf-8")))
    data = mine_negatives(data, encoder, settings, show_progress_bar=show_progress_bar)
    if settings.teacher is not None:
        data = with_teacher_scores(data, settings.teacher, encoder.device, show_progress_bar=show_progress_bar)
    if processes.is_first():
        temporary = path.with_suffix(".writing")
        temporary.write_text(json.dumps(_record_of(data)), encoding="utf-8")
        os.replace(temporary, path)
    return data


def _record_of(data: TrainingData) -> dict[str, Any]:
    return {
        "queries": [{"negatives": query.negatives, "scores": list(query.scores.items())} for query in data.queries],
        "notes": data.notes,
    }


def _with(data: TrainingData, record: dict[str, Any]) -> TrainingData:
    queries = [
        replace(query, negatives=tuple(found["negatives"]), scores=dict(found["scores"]))
        for query, found in zip(data.queries, record["queries"], strict=True)
    ]
    return replace(data, queries=queries, notes=tuple(record["notes"]))
