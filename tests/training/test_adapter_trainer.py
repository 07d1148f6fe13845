"""Training of an adapter: its loss from cached states, what it changes and what it leaves, and what it reports."""

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
from smart_rag.scoring import maxsim as scoring
from smart_rag.training.adapter_trainer import AdapterSettings, batch_loss, batches, fit, train_adapter
from smart_rag.training.data import TrainingData, TrainingQuery
from smart_rag.training.split import split
from smart_rag.training.states import cached_states
from smart_rag.types import Document


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return SmartEncoder(tiny_models.bert(tmp_path_factory.mktemp("bert")), device="cpu")


def late_by_loops(queries, documents, weights):
    """The formula of the paper, a weighted mean where ``weights`` are not all the same."""
    rows = []
    for query, of_query in zip(queries, weights, strict=True):
        best = torch.stack([torch.stack([(token @ document.T).max() for document in documents]) for token in query])
        rows.append((best * of_query[:, None]).sum(dim=0) / of_query.sum())
    return torch.stack(rows)


def frequencies(encoder, data, texts):
    """The inverse document frequency of each token of each query, counted in plain loops."""
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
def test_the_loss_of_a_batch_from_the_cache_is_the_plain_one(objective, weighting, layers, hard, encoder, tmp_path):
    """Loss and gradients against the texts encoded again, adapted and scored by the formula."""
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


def test_what_answers_a_query_is_no_negative_of_it(encoder, tmp_path):
    """Its other positives, a copy of one under another id, and the same document as another query's positive."""
    documents = [
        Document("a", "the cat sat"),
        Document("copy", "the cat sat"),
        Document("b", "dogs bark"),
        Document("c", "rain"),
    ]
    queries = [
        TrainingQuery("cat", (0, 2)),
        TrainingQuery("sat", (1,)),
        TrainingQuery("dogs", (2,)),
        TrainingQuery("rain", (3,)),
    ]
    settings = AdapterSettings(batch_size=4)
    with cached_states(TrainingData("x", documents, queries), encoder, (-1,), tmp_path) as cached:
        steps = [next(batches(cached, settings, np.random.default_rng(seed))) for seed in range(8)]
    assert {step.documents[step.positives[step.queries.index(0)]] for step in steps} == {0, 2}  # now one, now the other
    for step in steps:
        assert len(set(step.documents)) == len(step.documents)
        for row, query in enumerate(step.queries):
            answers = {0: {0, 1, 2}, 1: {0, 1}, 2: {2}, 3: {3}}[query]
            chosen = step.documents[step.positives[row]]
            assert chosen in queries[query].positives
            left_out = {step.documents[i] for i in np.flatnonzero(step.excluded[row])}
            assert left_out == (answers & set(step.documents)) - {chosen}


@pytest.fixture(scope="module")
def trained(encoder, tmp_path_factory):
    """A training, the folder it went to, and what the model's weights were before."""
    before = {name: weights.clone() for name, weights in encoder.model.state_dict().items()}
    folder = tmp_path_factory.mktemp("trained") / "adapter"
    report = train_adapter(encoder, some_data(), folder, AdapterSettings(batch_size=16, epochs=4), held_out=0.3)
    return report, folder, before


def test_the_model_stays_as_it_is(trained, encoder):
    _, _, before = trained
    for name, weights in encoder.model.state_dict().items():
        assert torch.equal(weights, before[name]), name
    assert all(parameter.grad is None for parameter in encoder.model.parameters())


def test_it_learns_and_says_so(trained):
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
    assert report.ndcg["trained pooled"] == report.ndcg["frozen pooled"]  # left as they are, so no difference
    assert set(report.differences) == {
        *("trained late - frozen late", "trained hybrid - frozen hybrid", "trained hybrid - frozen pooled"),
    }
    assert json.loads(json.dumps(report.as_json()))["history"][1]["loss"] == losses[1]


def test_only_the_adapter_is_left_in_the_folder(trained):
    _, folder, _ = trained
    assert sorted(path.name for path in folder.iterdir()) == ["adapter.json", "adapter.safetensors"]


def test_what_was_saved_is_what_was_measured(trained, encoder):
    """An encoder with the adapter ranks as the report says, by plain exhaustive scoring.

    Beside the held-out documents, those that were trained on and answer no held-out query.
    """
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
    late = scoring.late_interaction(queries.tokens, documents.tokens, token_weights=weights)
    hybrid = scoring.hybrid(scoring.pooled_similarity(queries.pooled, documents.pooled), late, (1.0, 2.0))
    ids = [document.id for document in held_out.documents]
    qrels = {query.text: {ids[i]: 1 for i in query.positives} for query in held_out.queries}
    judge = Metrics(qrels, ("ndcg@10",))
    for name, scores in (("trained late", late), ("trained hybrid", hybrid)):
        run = {text: [ids[i] for i in scoring.ranking(row, ids, 10)] for text, row in zip(qrels, scores, strict=True)}
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


def test_a_held_out_part_of_ones_own(encoder, tmp_path):
    training, held_out = split(some_data(), 0.3, seed=5)
    settings = AdapterSettings(batch_size=16, epochs=1)
    report = train_adapter(encoder, training, tmp_path, settings, held_out=held_out)
    assert (report.queries, report.held_out_queries) == (len(training.queries), len(held_out.queries))


@pytest.mark.parametrize("rate", [1e-9, 1e3])
def test_a_training_that_does_no_good_is_warned_of(rate, encoder, tmp_path):
    """By a rate that changes nothing, it is what it was before: the frozen model, less a mean. And by chaos."""
    settings = AdapterSettings(batch_size=16, epochs=1, learning_rate=rate)
    report = train_adapter(encoder, some_data(), tmp_path, settings, held_out=0.3)
    assert report.best_epoch == 1
    assert report.warning
    if rate < 1:
        start = Adapter.load(tmp_path).projection.weight.detach()
        np.testing.assert_allclose(start, np.eye(encoder.dimension), atol=1e-6)
        assert report.history[1].late == pytest.approx(report.ndcg["frozen late"], abs=0.02)


def test_a_loss_that_is_no_number_ends_the_training(encoder, tmp_path):
    """And no adapter is saved."""
    settings = AdapterSettings(batch_size=16, epochs=2, learning_rate=1e37, weight_decay=0.0)
    with pytest.raises(EncoderError, match=r"the loss is nan, .* smaller learning rate"):
        train_adapter(encoder, some_data(), tmp_path / "adapter", settings, held_out=0.3)
    assert not (tmp_path / "adapter" / "adapter.json").exists()


def test_the_best_epoch_is_kept(encoder, tmp_path):
    """Whichever epoch is measured as the best, the adapter is what it was after that one."""
    data = some_data()
    for scores, best in [([0.1, 0.3, 0.2, 0.4], 3), ([0.1, 0.4, 0.2, 0.3], 1)]:
        told, seen = iter(scores), []

        def measure(adapter, told=told, seen=seen):
            seen.append(adapter.projection.weight.detach().clone())
            return {name: np.full(3, score) for score in [next(told)] for name in ("pooled", "late", "hybrid")}

        adapter = Adapter(encoder.dimension)
        with cached_states(data, encoder, (-1,), tmp_path) as cached:
            history, epoch, values = fit(adapter, cached, measure, AdapterSettings(batch_size=16, epochs=3))
        assert epoch == best
        assert values["late"][0] == scores[best]
        assert torch.equal(adapter.projection.weight, seen[best])
        assert [epoch.late for epoch in history] == pytest.approx(scores)


def test_what_cannot_be_trained(trained, encoder, tmp_path):
    _, folder, _ = trained
    with pytest.raises(InvalidInput, match="holds an adapter; choose another folder"):
        train_adapter(encoder, some_data(), folder)
    with pytest.raises(InvalidInput, match=r"adapter.json is a file, where a folder is to be; choose another place"):
        train_adapter(encoder, some_data(), folder / "adapter.json")
    adapted = SmartEncoder(encoder.model_name, device="cpu", adapter=folder)
    with pytest.raises(InvalidInput, match="has an adapter already"):
        train_adapter(adapted, some_data(), tmp_path)
    with pytest.raises(InvalidInput, match="fewer than a batch of 64"):
        train_adapter(encoder, some_data(40), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "pooled"}, "objective must be one of late, hybrid"),
        ({"start": "cold"}, "start must be one of"),
        ({"epochs": 0}, "epochs must be"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"hard_negatives": -1}, "hard_negatives must be at least 0"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
    ],
)
def test_settings_that_are_none(settings, message):
    with pytest.raises(InvalidInput, match=message):
        AdapterSettings(**settings)
