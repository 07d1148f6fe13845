"""The teacher of a distillation: a cross-encoder, which reads a query and a document together."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from smart_rag.encoders.loading.weights_report import no_loading_bar, reports_of_weights
from smart_rag.errors import EncoderError, InvalidInput, ModelNotFound
from smart_rag.progress import Progress
from smart_rag.training.data import TrainingData
from smart_rag.training.formats.pages import Pages
from smart_rag.wording import first_line, number

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

# Number of pairs after which the progress is shown.
_AT_ONCE = 1024


def with_teacher_scores(
    data: TrainingData, teacher: str, device: str, *, show_progress_bar: bool = False
) -> TrainingData:
    """Return ``data`` with the scores that ``teacher`` gives to the positives and negatives of each query.

    The scores are logits: numbers of any size, higher is better.

    Args:
        data: training data. Its own scores are replaced.
        teacher: name or folder of a cross-encoder of sentence-transformers.
        device: torch device.
        show_progress_bar: whether to show a progress bar.

    Raises:
        ModelNotFound: ``teacher`` cannot be loaded, or it is no cross-encoder.
        InvalidInput: a document is an image or a video.
        EncoderError: a score is not finite.
    """
    _check_texts(data)
    model = _load(teacher, device)
    places = [(i, at) for i, query in enumerate(data.queries) for at in (*query.positives, *query.negatives)]
    scores: list[dict[int, float]] = [{} for _ in data.queries]
    title = f"scoring by the teacher on {device}"
    with Progress(len(places), title, "pair", show_progress_bar) as progress:
        for start in range(0, len(places), _AT_ONCE):
            part = places[start : start + _AT_ONCE]
            pairs = [(data.queries[i].text, data.documents[at].text) for i, at in part]
            found = model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)
            for (i, at), score in zip(part, np.asarray(found, dtype=np.float32), strict=True):
                if not np.isfinite(score):
                    raise EncoderError(
                        f"the teacher {teacher!r} gives the score {score} to the query {data.queries[i].text!r:.80} "
                        f"and the document {data.documents[at].id!r}; take another teacher"
                    )
                scores[i][at] = float(score)
            progress.update(len(part))
    queries = [replace(query, scores=of) for query, of in zip(data.queries, scores, strict=True)]
    return replace(data, queries=queries, notes=(*data.notes, f"{number(len(places), 'pair')} scored by {teacher}"))


def _check_texts(data: TrainingData) -> None:
    pages = isinstance(data.documents, Pages)
    other = "pages" if pages else next((each.id for each in data.documents if each.image or each.video), None)
    if other is not None:
        raise InvalidInput(
            f"{data.name}: a cross-encoder as teacher reads texts alone, and the data has images or videos ({other}); "
            "put the scores of another model into the data, as the column scores"
        )


def _load(teacher: str, device: str) -> CrossEncoder:
    from sentence_transformers import CrossEncoder

    try:
        with no_loading_bar(), reports_of_weights() as reports:
            model: CrossEncoder = CrossEncoder(teacher, device=device)
    except Exception as error:  # the files of a model may raise any error. It becomes the cause
        raise ModelNotFound(
            f"cannot load the teacher {teacher!r}: {first_line(error).rstrip('.')}. Pass the name or the folder of a "
            "cross-encoder of sentence-transformers"
        ) from error
    missing = sorted(name for report in reports for name in (*report.missing, *report.mismatched))
    if missing or model.num_labels != 1:
        found = (
            f"its files have no weights for {', '.join(missing)}" if missing else f"it has {model.num_labels} labels"
        )
        raise ModelNotFound(
            f"the teacher {teacher!r} is no cross-encoder that gives one score to a query and a document: {found}; "
            "take one that was trained for reranking"
        )
    return model
