"""A cross-encoder as teacher: its scores, what it refuses, and a student that comes to rank like it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import tiny_models
from helpers.some_pairs import page_images, some_data
from helpers.students import agreement, scores_by
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from smart_rag import SmartEncoder
from smart_rag.errors import EncoderError, InvalidInput, ModelNotFound
from smart_rag.training import AdapterSettings, FinetuneSettings, finetune, load_training_data, train_adapter
from smart_rag.training.hard_negatives import mine_negatives
from smart_rag.training.runs.prepared import prepare_once
from smart_rag.training.teacher import with_teacher_scores


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return tiny_models.cross_encoder(tmp_path_factory.mktemp("teacher") / "model", seed=3)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return SmartEncoder(tiny_models.bert(tmp_path_factory.mktemp("bert")), device="cpu")


def test_each_pair_has_the_logit_of_the_model(teacher):
    """The pairs are more than the teacher reads at once, and all are shown in the progress."""
    data = some_data(40)
    data = replace(data, queries=[replace(query, scores={0: 99.0}) for query in data.queries])
    found = with_teacher_scores(data, teacher, "cpu")
    tokenizer, model = (
        AutoTokenizer.from_pretrained(teacher),
        AutoModelForSequenceClassification.from_pretrained(teacher),
    )
    for query in found.queries:
        assert set(query.scores) == {*query.positives, *query.negatives}
        for at, score in query.scores.items():
            inputs = tokenizer(query.text, data.documents[at].text, return_tensors="pt")
            with torch.inference_mode():
                assert score == pytest.approx(model(**inputs).logits.item(), abs=1e-4)
    assert found.notes == (f"{sum(len(query.scores) for query in found.queries)} pairs scored by {teacher}",)


def test_the_teacher_scores_mined_negatives_once(teacher, encoder, tmp_path, caplog):
    settings = AdapterSettings(hard_negatives=3, distillation="kl", teacher=teacher)
    caplog.set_level("INFO")
    first = prepare_once(some_data(30), encoder, settings, tmp_path)
    assert all(len(query.scores) >= 4 for query in first.queries)
    assert [query.negatives for query in first.queries] == [
        query.negatives for query in mine_negatives(some_data(30), encoder, settings).queries
    ]
    again = prepare_once(some_data(30), encoder, replace(settings, teacher="gone"), tmp_path)
    assert (again.queries, again.notes) == (first.queries, first.notes)


def answers_of(teacher, data):
    """Return ``data`` with other answers: of seven documents, the one that the teacher prefers."""
    generator, queries = np.random.default_rng(0), []
    for query in data.queries:
        found = tuple(generator.permutation(len(data.documents))[:7].tolist())
        queries.append(replace(query, positives=found[:1], negatives=found[1:]))
    scored = with_teacher_scores(replace(data, queries=queries), teacher, "cpu")
    queries = []
    for query in scored.queries:
        best, *others = sorted(query.scores, key=query.scores.__getitem__, reverse=True)
        queries.append(replace(query, positives=(best,), negatives=tuple(others), scores={}))
    return replace(data, queries=queries)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_a_student_learns_to_rank_like_the_teacher(kind, teacher, encoder, tmp_path):
    options = {
        "distillation": "kl",
        "distillation_share": 1.0,
        "teacher": teacher,
        "teacher_temperature": 0.05,
        "hard_negatives": 6,
        "batch_size": 8,
    }
    data = answers_of(teacher, some_data(64))
    if kind == "adapter":
        settings = AdapterSettings(**options, epochs=4, learning_rate=2e-2)
        report = train_adapter(encoder, data, tmp_path / "out", settings, held_out=data, keep_anyway=True)
        student = SmartEncoder(encoder.model_name, device="cpu", adapter=tmp_path / "out")
    else:
        settings = FinetuneSettings(**options, objective="pooled", epochs=4, learning_rate=5e-3, mini_batch_size=64)
        report = finetune(
            encoder.model_name, data, tmp_path / "out", settings, held_out=data, device="cpu", keep_anyway=True
        )
        student = SmartEncoder(tmp_path / "out", device="cpu")
    assert any(f"scored by {teacher}" in note for note in report.notes)
    taught = with_teacher_scores(data, teacher, "cpu")
    at = 1 if kind == "adapter" else 0
    before, after = (agreement(scores_by(model, taught)[at], taught) for model in (encoder, student))
    assert after > before + 0.03, (before, after)


def test_scores_in_the_data_are_replaced_and_this_is_said(teacher, encoder, tmp_path):
    data = some_data(40)
    data = replace(data, queries=[replace(query, scores={0: 1.0}) for query in data.queries])
    settings = AdapterSettings(epochs=1, batch_size=8, hard_negatives=1, distillation="margin-mse", teacher=teacher)
    report = train_adapter(encoder, data, tmp_path / "x", settings, held_out=some_data(20, seed=5), keep_anyway=True)
    assert f"the scores of 40 queries in the data not used, because {teacher} is the teacher" in report.notes


def test_what_is_no_teacher_is_refused(encoder, tmp_path):
    with pytest.raises(
        ModelNotFound, match=r"is no cross-encoder .* no weights for classifier.bias, classifier.weight"
    ):
        with_teacher_scores(some_data(8), encoder.model_name, "cpu")
    with pytest.raises(ModelNotFound, match=r"cannot load the teacher '.*nothing'"):
        with_teacher_scores(some_data(8), str(tmp_path / "nothing"), "cpu")
    classes = tiny_models.cross_encoder(tmp_path / "classes", labels=3)
    with pytest.raises(ModelNotFound, match="it has 3 labels"):
        with_teacher_scores(some_data(8), classes, "cpu")


def test_a_score_that_is_no_number_ends_the_training(tmp_path):
    folder = tiny_models.cross_encoder(tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.classifier.bias.data.fill_(np.nan)
    model.save_pretrained(folder)
    with pytest.raises(EncoderError, match="gives the score nan to the query"):
        with_teacher_scores(some_data(8), folder, "cpu")


def test_images_have_no_such_teacher(teacher, tmp_path):
    data = load_training_data(page_images(tmp_path / "pages", 4))
    with pytest.raises(InvalidInput, match="a cross-encoder as teacher reads texts alone"):
        with_teacher_scores(data, teacher, "cpu")


def test_a_teacher_without_distillation_is_refused():
    with pytest.raises(InvalidInput, match="the teacher 'x' is not used, because distillation is 'none'"):
        AdapterSettings(hard_negatives=1, teacher="x")
