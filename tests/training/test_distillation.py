"""Distillation: the scores of a teacher in the data, the losses by loops, and students that come to rank like it."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import tiny_models
from helpers.some_pairs import some_data
from helpers.students import agreement, scores_by

from smart_rag import SmartEncoder
from smart_rag.encoders.adapter import Adapter
from smart_rag.errors import InvalidInput
from smart_rag.training import AdapterSettings, FinetuneSettings, finetune, load_training_data, train_adapter
from smart_rag.training.batches import content_groups, make_batch
from smart_rag.training.hard_negatives import mine_negatives
from smart_rag.training.losses import training_loss
from smart_rag.training.settings import DistillationSettings
from smart_rag.training.split import split

NAN = math.nan
POSITIVES = [0, 2, 1, 0]
# The third query has one score alone, and the last one none of its positive.
TEACHER = [[3.0, -1.0, NAN, 0.5], [0.2, NAN, 0.1, 9.0], [NAN, 4.0, NAN, NAN], [NAN, 1.0, 2.0, 4.0]]


def kl_by_loops(scores, teacher):
    """Return the loss of each query by the formula with plain numbers. None if there is nothing to learn."""
    losses = []
    for own, aims in zip(scores, teacher, strict=True):
        known = [d for d, t in enumerate(aims) if not math.isnan(t)]
        p = [math.exp(aims[d]) / sum(math.exp(aims[e]) for e in known) for d in known]
        q = [math.exp(own[d]) / sum(math.exp(own[e]) for e in known) for d in known]
        loss = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        losses.append(loss if len(known) > 1 else None)
    return losses


def margin_mse_by_loops(scores, teacher):
    losses = []
    for own, aims, positive in zip(scores, teacher, POSITIVES, strict=True):
        errors = [
            (own[positive] - own[d] - (aims[positive] - aims[d])) ** 2
            for d in range(len(own))
            if d != positive and not math.isnan(aims[positive] - aims[d])
        ]
        losses.append(sum(errors) / len(errors) if errors else None)
    return losses


def loss_by_loops(scores, settings, temperature):
    by_loops = kl_by_loops if settings.distillation == "kl" else margin_mse_by_loops
    scaled = [[score / temperature for score in row] for row in scores]
    teacher = [[score / settings.teacher_temperature for score in row] for row in TEACHER]
    total = 0.0
    known = [row[: len(TEACHER[0])] for row in scaled]  # of the documents of other processes, no score is known
    for row, positive, distilled in zip(scaled, POSITIVES, by_loops(known, teacher), strict=True):
        cross_entropy = math.log(sum(map(math.exp, row))) - row[positive]
        share = 0.0 if distilled is None else settings.distillation_share
        total += (1 - share) * cross_entropy + share * (distilled or 0.0)
    return total / len(scores)


@pytest.mark.parametrize("kind", ["kl", "margin-mse"])
@pytest.mark.parametrize("share", [0.25, 1.0])
@pytest.mark.parametrize("documents", [4, 5])
def test_loss_and_gradients_are_those_of_the_formulas(kind, share, documents):
    """A fifth document comes from another process, and the teacher has not scored it."""
    settings = DistillationSettings(distillation=kind, distillation_share=share, teacher_temperature=2.0)
    scores = torch.randn(4, documents, dtype=torch.float64, generator=torch.Generator().manual_seed(documents))
    scores.requires_grad_()
    loss = training_loss(scores, torch.tensor(POSITIVES), None, torch.tensor(TEACHER), settings, temperature=0.5)
    expected = loss_by_loops(scores.tolist(), settings, 0.5)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    step = 1e-4
    for i in range(4):
        for d in range(documents):
            moved = scores.tolist()
            moved[i][d] += step
            above = loss_by_loops(moved, settings, 0.5)
            moved[i][d] -= 2 * step
            below = loss_by_loops(moved, settings, 0.5)
            assert float(scores.grad[i, d]) == pytest.approx((above - below) / (2 * step), abs=1e-4, rel=1e-3)


@pytest.mark.parametrize("kind", ["kl", "margin-mse"])
def test_a_student_that_scores_like_the_teacher_has_no_loss(kind):
    settings = DistillationSettings(distillation=kind, distillation_share=1.0)
    teacher = torch.tensor(TEACHER[:2])
    student = teacher.nan_to_num(5.0) + 7  # distances count, not the scores themselves
    loss = training_loss(student, torch.tensor(POSITIVES[:2]), None, teacher, settings, temperature=1.0)
    assert float(loss) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["kl", "margin-mse"])
def test_queries_without_scores_have_the_whole_cross_entropy(kind):
    scores = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    own = training_loss(scores, torch.tensor(POSITIVES), temperature=1)
    nothing, settings = torch.full((4, 4), NAN), DistillationSettings(distillation=kind)
    loss = training_loss(scores, torch.tensor(POSITIVES), None, nothing, settings, temperature=1)
    assert loss == own
    loss.backward()
    assert bool(scores.grad.isfinite().all())


# --- scores in the data ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"query": "q", "pos": ["p", "o"], "neg": ["n"], "pos_scores": [3, 2.5], "neg_scores": [-1]},
        {"query": "q", "pos": ["p", "o"], "neg": ["n"], "scores": [3, 2.5, -1]},
        {"query": "q", "docs": ["p", "n", "o"], "labels": [1, 0, 1], "scores": [3, -1, 2.5]},
        {"query": "q", "docs": ["p", "n", "o"], "labels": [1, 0, 1], "teacher_scores": ["3", "-1", "2.5"]},
    ],
)
def test_scores_of_a_teacher_are_read(tmp_path, row):
    [query] = loaded(tmp_path, row).queries
    assert len(query.positives) == 2
    assert [query.scores[i] for i in query.positives + query.negatives] == [3, 2.5, -1]


def loaded(folder, *rows, columns=None):
    path = folder / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return load_training_data(path, columns=columns)


def test_layouts_of_sentence_transformers_with_scores(tmp_path):
    """In its column label or score, there is a number for each text after the query."""
    row = {"anchor": "q", "positive": "p", "negative_1": "n", "negative_2": "m", "label": [1.5, 0.5, -2]}
    [query] = loaded(tmp_path, row, columns={"label": "scores"}).queries
    assert [query.scores[i] for i in query.positives + query.negatives] == [1.5, 0.5, -2]
    with pytest.raises(InvalidInput, match=r"if it has a teacher's scores, name it scores .--columns label=scores"):
        loaded(tmp_path, row)
    [query] = loaded(tmp_path, {"query": "q", "positive": "p", "score": 0.7}, columns={"score": "pos_scores"}).queries
    assert query.scores == {query.positives[0]: 0.7}


@pytest.mark.parametrize(
    ("scores", "error"),
    [
        ({"score": 0.9}, "it does not say which text answers: make it a label of 1 or 0, or leave it out"),
        ({"scores": [1.0]}, "expected 2 scores, one for each document, found 1"),
        ({"pos_scores": [1.0]}, "expected pos_scores and neg_scores, found only one of them"),
        ({"pos_scores": [1], "neg_scores": [1], "scores": [1, 2]}, "scores does not go with pos_scores and neg_scores"),
        ({"scores": [1, "high"]}, "are not all numbers"),
        ({"scores": [1, math.inf]}, "are not all numbers"),
        ({"scores": [1, None]}, "are not all numbers"),
        ({"scores": [1, True]}, "are not all numbers"),
        ({"scores": [1, 2], "teacher_scores": [1, 2]}, "the columns scores and teacher_scores have the same meaning"),
    ],
)
def test_scores_that_cannot_be_understood_are_refused(tmp_path, scores, error):
    with pytest.raises(InvalidInput, match=error):
        loaded(tmp_path, {"query": "q", "positive": "p", "negative": "n", **scores})


def test_rows_without_scores_and_pairs_with_two_scores(tmp_path):
    data = loaded(
        tmp_path,
        {"query": "q", "positive": "p", "negative": "n", "scores": [2, 1]},
        {"query": "q", "positive": "p", "negative": "m", "scores": [3, 0]},
        {"query": "r", "positive": "p", "negative": "m", "scores": None},
    )
    assert [sorted(query.scores.values()) for query in data.queries] == [[0, 1, 2], []]
    assert "1 score left out, because the same pair has another score before" in data.notes


def test_batches_and_both_parts_of_a_split_keep_the_scores():
    data = scored(some_data(60))
    for part in split(data, 0.3):
        batch = make_batch(part, content_groups(part, {"text"}), [1, 0, 3], 2, np.random.default_rng(0))
        for row, i in zip(batch.teacher, batch.queries, strict=True):
            for score, document in zip(row, batch.documents, strict=True):
                expected = part.queries[i].scores.get(document, NAN)
                assert score == np.float32(expected) or (math.isnan(score) and math.isnan(expected))
        assert np.isfinite(batch.teacher).sum() > 3


def scored(data):
    """Return ``data`` with random negatives, and a random score of each positive and negative."""
    generator = np.random.default_rng(0)
    queries = []
    for query in data.queries:
        others = [int(i) for i in generator.permutation(len(data.documents)) if i not in query.positives][:6]
        scores = {i: float(generator.normal()) for i in (*query.positives, *others)}
        queries.append(replace(query, negatives=tuple(others), scores=scores))
    return replace(data, queries=queries)


def test_no_negative_is_mined_where_the_data_has_enough():
    data = scored(some_data(20))
    assert mine_negatives(data, None, AdapterSettings(hard_negatives=3)) is data


# --- training ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return SmartEncoder(tiny_models.bert(tmp_path_factory.mktemp("bert")), device="cpu")


@pytest.fixture(scope="module")
def taught(encoder):
    """Return data with a teacher's scores. The teacher is an adapter with few dimensions and weights that nobody knows.

    The positive of a query is the document that the teacher ranks first.
    """
    with torch.random.fork_rng():
        torch.manual_seed(3)
        teacher = Adapter(encoder.dimension, 2, (-1,))
    data = some_data(80)
    _, late = scores_by(encoder, data, teacher)
    queries = []
    generator = np.random.default_rng(0)
    for query, row in zip(data.queries, late, strict=True):
        best, *others = np.argsort(-row)
        negatives = generator.permutation(others)[:6].tolist()
        scores = {at: float(row[at]) for at in (int(best), *negatives)}
        queries.append(replace(query, positives=(int(best),), negatives=tuple(negatives), scores=scores))
    return replace(data, queries=queries)


@pytest.mark.parametrize("kind", ["kl", "margin-mse"])
def test_an_adapter_learns_the_ranking_of_its_teacher(kind, encoder, taught, tmp_path):
    settings = AdapterSettings(
        distillation=kind,
        distillation_share=1.0,
        teacher_temperature=0.05,
        hard_negatives=6,
        batch_size=8,
        epochs=6,
        learning_rate=2e-2,
    )
    report = train_adapter(encoder, taught, tmp_path / "adapter", settings, held_out=taught, keep_anyway=True)
    assert report.history[-1].loss < report.history[1].loss / 2
    student = SmartEncoder(encoder.model_name, device="cpu", adapter=tmp_path / "adapter")
    before, after = (agreement(scores_by(model, taught)[1], taught) for model in (encoder, student))
    assert after > before + 0.1, (before, after)


@pytest.mark.usefixtures("one_thread")
def test_a_fine_tuned_model_learns_the_ranking_of_its_teacher(encoder, taught, tmp_path):
    settings = FinetuneSettings(
        objective="pooled",
        distillation="kl",
        distillation_share=1.0,
        teacher_temperature=0.03,
        hard_negatives=3,
        batch_size=8,
        mini_batch_size=32,
        epochs=3,
        learning_rate=5e-3,
    )
    finetune(encoder.model_name, taught, tmp_path / "m", settings, held_out=taught, device="cpu", keep_anyway=True)
    student = SmartEncoder(tmp_path / "m", device="cpu")
    before, after = (agreement(scores_by(model, taught)[0], taught) for model in (encoder, student))
    assert after > before + 0.03, (before, after)
    assert '"distillation": "kl"' in (tmp_path / "m" / "README.md").read_text()


def test_scores_that_are_missing_or_not_used_are_reported(encoder, taught, tmp_path):
    queries = [replace(query, scores={}) if i % 4 == 0 else query for i, query in enumerate(taught.queries)]
    settings = AdapterSettings(batch_size=16, epochs=1, hard_negatives=1)
    unused = "the scores of 60 queries in the data not used, because distillation is none"
    for kind, note in {"none": unused, "kl": "20 queries without scores to distil"}.items():
        report = train_adapter(
            encoder,
            replace(taught, queries=queries),
            tmp_path / kind,
            replace(settings, distillation=kind),
            held_out=some_data(20, seed=5),
            keep_anyway=True,
        )
        assert report.notes == (note,)


def test_distillation_without_scores_is_refused(encoder, tmp_path):
    settings = AdapterSettings(batch_size=16, hard_negatives=1, distillation="kl")
    with pytest.raises(InvalidInput, match=r"needs a teacher's scores .* found 0 queries with scores"):
        train_adapter(encoder, some_data(60), tmp_path / "x", settings)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"distillation": "kl"},
            "distillation 'kl' compares a query's positive and hard negatives; set hard_negatives",
        ),
        ({"distillation": "mse"}, "mse"),
        (
            {"distillation": "kl", "hard_negatives": 1, "distillation_share": 0},
            "distillation_share must be above 0 and at most 1, got 0",
        ),
        (
            {"distillation": "kl", "hard_negatives": 1, "teacher_temperature": -1},
            "teacher_temperature must be above 0, got -1",
        ),
        ({"distillation_share": 0.9}, "distillation_share is for distillation; set distillation, too"),
        ({"teacher_temperature": 2}, "teacher_temperature is for distillation; set distillation, too"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, problem):
    with pytest.raises(InvalidInput, match=re.escape(problem)):
        FinetuneSettings(**settings)
