"""Training of an adapter: its loss from cached states, the weights that change, the folder and the report."""

import json

import numpy as np
import pytest
import torch
from helpers import tiny_models
from helpers.some_pairs import some_data

from smart_rag import SmartEncoder
from smart_rag.encoders.adapter import Adapter
from smart_rag.errors import EncoderError, InvalidInput
from smart_rag.evaluation.metrics import Metrics
from smart_rag.scoring import maxsim, ranking
from smart_rag.training import AdapterSettings, TrainingData, train_adapter
from smart_rag.training.adapter_trainer import batch_loss, batches, fit
from smart_rag.training.split import split
from smart_rag.training.states import cached_states


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return SmartEncoder(tiny_models.bert(tmp_path_factory.mktemp("bert")), device="cpu")


def late_by_loops(queries, documents, weights):
    """Return the late interaction scores (n_queries, n_documents): the paper's formula, as a weighted mean."""
    rows = []
    for query, of_query in zip(queries, weights, strict=True):
        best = torch.stack([torch.stack([(token @ document.T).max() for document in documents]) for token in query])
        rows.append((best * of_query[:, None]).sum(dim=0) / of_query.sum())
    return torch.stack(rows)


def frequencies(encoder, data, texts):
    """Return the inverse document frequency of each token of each query, counted in loops."""
    held = [set(encoder.encode_document([document.text]).tokens.ids.tolist()) for document in data.documents]
    weights = []
    for text in texts:
        counts = [
            len(held) if id < 0 else max(1, sum(id in of for of in held))
            for id in encoder.encode_query([text]).tokens.ids.tolist()
        ]
        weights.append(torch.tensor([np.log1p(len(held) / count) for count in counts], dtype=torch.float32))
    return weights


@pytest.mark.parametrize(
    ("objective", "weighting", "layers", "hard"),
    [("late", "none", (-1,), 0), ("hybrid", "none", (-1,), 1), ("late", "idf", (-1,), 1), ("late", "none", (1, -1), 0)],
)
def test_loss_and_gradients_from_cached_states_are_those_of_plain_loops(
    objective, weighting, layers, hard, encoder, tmp_path
):
    """The loops encode the texts again, adapt them, and score them by the formula."""
    data = some_data(40)
    settings = AdapterSettings(
        objective=objective, weighting=weighting, layers=layers, hard_negatives=hard, batch_size=8
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapter, plain = Adapter(encoder.dimension, 8, layers), Adapter(encoder.dimension, 8, layers)
    plain.load_state_dict(adapter.state_dict())
    with cached_states(data, encoder, layers, tmp_path, codec="float32") as cached:
        step = next(batches(cached, settings, np.random.default_rng(3)))
        loss = batch_loss(cached, adapter, step, settings)
        loss.backward()

    def states(text, task):
        return torch.from_numpy(encoder.token_states([text], task, layers).tokens[0]).unflatten(1, (len(layers), -1))

    texts = [data.queries[i].text for i in step.queries]
    found = [data.documents[i].text for i in step.documents]
    queries, documents = (
        [plain(states(text, task)) for text in of] for of, task in ((texts, "query"), (found, "document"))
    )
    same = [torch.ones(len(query)) for query in queries]
    weights = frequencies(encoder, data, texts) if weighting == "idf" else same
    scores = late_by_loops(queries, documents, weights)
    if objective == "hybrid":
        scores = scores + torch.from_numpy(encoder.encode_query(texts).pooled @ encoder.encode_document(found).pooled.T)
    losses = []
    for row, i in zip(scores, step.queries, strict=True):
        answers = data.queries[i].positives
        own = [at for at, document in enumerate(step.documents) if document in answers]
        chosen = int(step.positives[len(losses)])
        assert chosen in own
        kept = [at for at in range(len(step.documents)) if at == chosen or at not in own]
        losses.append(torch.logsumexp(row[kept] / 0.03, dim=0) - row[chosen] / 0.03)
    expected = torch.stack(losses).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for (name, mine), other in zip(adapter.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.fixture(scope="module")
def trained(encoder, tmp_path_factory):
    """Return a report, the adapter's folder, and the model's weights from before the training."""
    before = {name: weights.clone() for name, weights in encoder.model.state_dict().items()}
    folder = tmp_path_factory.mktemp("trained") / "adapter"
    report = train_adapter(encoder, some_data(), folder, AdapterSettings(batch_size=16, epochs=4), held_out=0.3)
    return report, folder, before


def test_the_model_does_not_change(trained, encoder):
    _, _, before = trained
    for name, weights in encoder.model.state_dict().items():
        assert torch.equal(weights, before[name]), name
    assert all(parameter.grad is None for parameter in encoder.model.parameters())


def test_the_report_shows_what_was_learned(trained):
    report, _, _ = trained
    losses = [epoch.loss for epoch in report.history]
    assert losses[0] is None
    assert losses[-1] < losses[1]
    assert len(report.history) == 5
    best = max(epoch.late for epoch in report.history)
    assert report.history[report.best_epoch].late == best == report.ndcg["trained late"]
    assert report.ndcg["trained late"] > report.ndcg["frozen late"]
    found = report.differences["trained late - frozen late"]
    assert found.mean == pytest.approx(report.ndcg["trained late"] - report.ndcg["frozen late"])
    assert report.ndcg["trained pooled"] == report.ndcg["frozen pooled"]  # an adapter does not change them
    assert set(report.differences) == {
        *("trained late - frozen late", "trained hybrid - frozen hybrid", "trained hybrid - frozen pooled"),
    }
    assert json.loads(json.dumps(report.as_json()))["history"][1]["loss"] == losses[1]


def test_the_folder_holds_only_the_adapter(trained):
    _, folder, _ = trained
    assert sorted(path.name for path in folder.iterdir()) == ["adapter.json", "adapter.safetensors"]


def test_the_saved_adapter_has_the_reported_ndcg(trained, encoder):
    """An encoder with the adapter ranks all documents: the held-out ones and the distractors."""
    report, folder, _ = trained
    adapted = SmartEncoder(encoder.model_name, device="cpu", adapter=folder)
    data = some_data()
    _, held_out = split(data, 0.3)
    asked = {query.text for query in held_out.queries}
    answers = {data.documents[i].id for query in data.queries if query.text in asked for i in query.positives}
    own = {document.id for document in held_out.documents}
    others = [document for document in data.documents if document.id not in own | answers]
    assert len(others) + len(own) < len(data.documents)
    held_out = TrainingData("", [*held_out.documents, *others], held_out.queries)
    assert (report.held_out_queries, report.documents) == (len(held_out.queries), len(held_out.documents))
    queries = adapted.encode_query([query.text for query in held_out.queries])
    documents = adapted.encode_document([document.text for document in held_out.documents])
    weights = torch.cat(frequencies(encoder, held_out, [query.text for query in held_out.queries])).numpy()
    late = maxsim.late_interaction(queries.tokens, documents.tokens, token_weights=weights)
    hybrid = ranking.hybrid(maxsim.pooled_similarity(queries.pooled, documents.pooled), late, (1.0, 2.0))
    ids = [document.id for document in held_out.documents]
    qrels = {query.text: {ids[i]: 1 for i in query.positives} for query in held_out.queries}
    judge = Metrics(qrels, ("ndcg@10",))
    for name, scores in (("trained late", late), ("trained hybrid", hybrid)):
        run = {text: [ids[i] for i in ranking.ranking(row, ids, 10)] for text, row in zip(qrels, scores, strict=True)}
        assert judge.mean(run)["ndcg@10"] == pytest.approx(report.ndcg[name], abs=2e-3)  # states were kept in float16


def test_the_same_seed_trains_the_same(trained, encoder, tmp_path):
    _, folder, _ = trained
    train_adapter(encoder, some_data(), tmp_path / "again", AdapterSettings(batch_size=16, epochs=4), held_out=0.3)
    assert Adapter.load(tmp_path / "again").digest == Adapter.load(folder).digest


@pytest.mark.parametrize(
    "settings",
    [
        {"dimension": 8},
        {"layers": (1, -1), "objective": "hybrid"},
        {"start": "random", "hard_negatives": 1, "codec": "int8"},
    ],
)
def test_other_settings(settings, encoder, tmp_path):
    settings = AdapterSettings(batch_size=16, epochs=1, **settings)
    report = train_adapter(encoder, some_data(), tmp_path / "adapter", settings, held_out=0.3)
    adapter = Adapter.load(tmp_path / "adapter")
    assert (adapter.dimension, adapter.layers) == (settings.dimension or encoder.dimension, settings.layers)
    assert report.history[1].loss > 0
    adapted = SmartEncoder(encoder.model_name, device="cpu", adapter=tmp_path / "adapter")
    assert adapted.encode_document(["the cat sat"]).tokens.dimension == adapter.dimension


def test_held_out_data_can_be_given(encoder, tmp_path):
    training, held_out = split(some_data(), 0.3, seed=5)
    settings = AdapterSettings(batch_size=16, epochs=1)
    report = train_adapter(encoder, training, tmp_path, settings, held_out=held_out)
    assert (report.queries, report.held_out_queries) == (len(training.queries), len(held_out.queries))


@pytest.mark.parametrize("rate", [1e-9, 1e3])
def test_a_training_without_gain_has_a_warning(rate, encoder, tmp_path):
    """The low rate changes nothing, so the adapter stays what it starts with. The high rate ruins it."""
    settings = AdapterSettings(batch_size=16, epochs=1, learning_rate=rate)
    report = train_adapter(encoder, some_data(), tmp_path, settings, held_out=0.3)
    assert report.best_epoch == 1
    assert report.warning
    if rate < 1:
        start = Adapter.load(tmp_path).projection.weight.detach()
        np.testing.assert_allclose(start, np.eye(encoder.dimension), atol=1e-6)
        assert report.history[1].late == pytest.approx(report.ndcg["frozen late"], abs=0.02)


def test_a_loss_of_nan_ends_the_training(encoder, tmp_path):
    """No adapter is saved."""
    settings = AdapterSettings(batch_size=16, epochs=2, learning_rate=1e37, weight_decay=0.0)
    with pytest.raises(
        EncoderError, match=r"the loss is nan, so the training cannot continue; train with a smaller learning rate"
    ):
        train_adapter(encoder, some_data(), tmp_path / "adapter", settings, held_out=0.3)
    assert not (tmp_path / "adapter" / "adapter.json").exists()


def test_the_best_epoch_is_kept(encoder, tmp_path):
    """``measure`` decides which epoch is the best. The adapter has the weights from after that epoch."""
    data = some_data()
    for scores, best in [([0.1, 0.3, 0.2, 0.4], 3), ([0.1, 0.4, 0.2, 0.3], 1)]:
        given, seen = iter(scores), []

        def measure(adapter, given=given, seen=seen):
            seen.append(adapter.projection.weight.detach().clone())
            return {name: np.full(3, score) for score in [next(given)] for name in ("pooled", "late", "hybrid")}

        adapter = Adapter(encoder.dimension)
        with cached_states(data, encoder, (-1,), tmp_path) as cached:
            history, epoch, values = fit(adapter, cached, measure, AdapterSettings(batch_size=16, epochs=3))
        assert epoch == best
        assert values["late"][0] == scores[best]
        assert torch.equal(adapter.projection.weight, seen[best])
        assert [epoch.late for epoch in history] == pytest.approx(scores)


def test_errors_before_the_work(trained, encoder, tmp_path):
    _, folder, _ = trained
    with pytest.raises(InvalidInput, match="holds an adapter; choose another folder"):
        train_adapter(encoder, some_data(), folder)
    with pytest.raises(InvalidInput, match=r"adapter.json is a file, expected a folder; choose another path"):
        train_adapter(encoder, some_data(), folder / "adapter.json")
    adapted = SmartEncoder(encoder.model_name, device="cpu", adapter=folder)
    with pytest.raises(InvalidInput, match="already has an adapter"):
        train_adapter(adapted, some_data(), tmp_path)
    with pytest.raises(InvalidInput, match="fewer than a batch of 64"):
        train_adapter(encoder, some_data(40), tmp_path)
    assert not list(tmp_path.iterdir())
