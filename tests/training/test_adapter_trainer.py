"""Training of an adapter: its loss from cached states, the weights that change, the folder and the report."""

import json
import logging
import re
import signal
from dataclasses import replace

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
from smart_rag.training import AdapterSettings, TrainingData, adapter_trainer, train_adapter
from smart_rag.training.adapter_trainer import Fitting, batch_loss, batches
from smart_rag.training.report import RANKINGS
from smart_rag.training.runs.checkpoints import read_checkpoint
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
        *("trained late - frozen late", "trained hybrid - frozen hybrid", "frozen hybrid - frozen pooled"),
    }
    assert report.gained
    assert report.saved
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
    report = train_adapter(encoder, some_data(), tmp_path / "adapter", settings, held_out=0.3, keep_anyway=True)
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
def test_a_training_without_gain_saves_nothing_unless_told_to(rate, encoder, tmp_path):
    """The low rate changes nothing, so the adapter stays what it starts with. The high rate ruins it."""
    settings = AdapterSettings(batch_size=16, epochs=2, learning_rate=rate)
    out = tmp_path / "adapter"
    report = train_adapter(encoder, some_data(), out, settings, held_out=0.3)
    assert (report.best_epoch, report.saved, report.gained) == (0, False, False)
    assert list(tmp_path.iterdir()) == []
    assert "nothing was gained: on" in report.warning
    assert "no evaluation after the first step is better than the start: late nDCG@10" in report.warning
    assert "nothing was saved; keep_anyway (--keep-anyway) saves the best of them" in report.warning
    assert {name: report.ndcg[f"trained {name}"] - report.ndcg[f"frozen {name}"] for name in RANKINGS} == dict.fromkeys(
        RANKINGS, 0.0
    )
    assert report.differences["trained late - frozen late"].verdict == "noise"

    kept = train_adapter(encoder, some_data(), out, settings, held_out=0.3, keep_anyway=True)
    assert (kept.saved, kept.gained) == (True, False)
    assert kept.best_epoch > 0
    assert "the best of them was saved all the same" in kept.warning
    assert kept.history == report.history
    if rate < 1:
        start = Adapter.load(out).projection.weight.detach()
        np.testing.assert_allclose(start, np.eye(encoder.dimension), atol=1e-6)
        assert report.history[1].late == pytest.approx(report.ndcg["frozen late"], abs=0.02)


def test_the_frozen_model_must_be_beaten_by_an_adapter_as_wide(encoder, tmp_path):
    """A random start is easy to beat. The adapter is still no gain over the model."""
    settings = AdapterSettings(batch_size=16, epochs=1, start="random", learning_rate=3e-3)
    report = train_adapter(encoder, some_data(), tmp_path / "wide", settings, held_out=0.3)
    assert report.history[0].late < report.history[1].late < report.to_beat == report.ndcg["frozen late"]
    assert not report.saved
    narrow = train_adapter(encoder, some_data(), tmp_path / "a", replace(settings, dimension=8), held_out=0.3)
    assert narrow.to_beat == narrow.history[0].late < narrow.ndcg["frozen late"]
    assert narrow.saved == (narrow.history[1].late > narrow.history[0].late)


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
            fitting = Fitting(adapter, cached, AdapterSettings(batch_size=16, epochs=3), tmp_path)
            history, epoch, values = fitting.run(measure)
        assert epoch == best
        assert values["late"][0] == scores[best]
        assert torch.equal(adapter.projection.weight, seen[best])
        assert [epoch.late for epoch in history] == pytest.approx(scores)


@pytest.fixture
def ctrl_c(monkeypatch):
    """A function that presses Ctrl-C once, when a batch's loss has been computed for the ``n``-th time."""
    compute = adapter_trainer.batch_loss

    def arrange(n):
        left = iter(range(n - 1, -1, -1))

        def press(*arguments):
            loss = compute(*arguments)
            if next(left, None) == 0:
                signal.raise_signal(signal.SIGINT)
            return loss

        monkeypatch.setattr(adapter_trainer, "batch_loss", press)

    return arrange


@pytest.mark.parametrize("step", [1, 4, 9])
def test_a_resumed_training_is_that_of_one_without_interruption(step, encoder, ctrl_c, tmp_path, monkeypatch):
    """Bit for bit. Nothing is encoded or mined again, and no step is made again."""
    settings = AdapterSettings(batch_size=16, epochs=2, hard_negatives=1, layers=(1, -1))  # six steps in each epoch
    training, measured = some_data(96, seed=1), some_data(24, seed=2)
    options = {"held_out": measured, "keep_anyway": True}
    whole = train_adapter(encoder, training, tmp_path / "whole", settings, **options)
    ctrl_c(step)
    out = tmp_path / "adapter"
    with pytest.raises(KeyboardInterrupt):
        train_adapter(encoder, training, out, settings, **options)
    [checkpoint] = (out / "checkpoints").glob("*.pt")
    assert checkpoint.name == f"checkpoint-{step - 1}.pt"
    with pytest.raises(InvalidInput, match="holds checkpoints of an interrupted training; continue it with resume"):
        train_adapter(encoder, training, out, settings, **options)
    other = replace(settings, learning_rate=0.1, layers=(-1,))
    with pytest.raises(InvalidInput, match=r"with another layers \(\[1, -1\] before, \[-1\] now\), learning_rate"):
        train_adapter(encoder, training, out, other, **options, resume=True)

    def refuse(*arguments, **more):
        raise AssertionError("encoded again")

    made = []
    compute = adapter_trainer.batch_loss
    monkeypatch.setattr(adapter_trainer, "batch_loss", lambda *of: made.append(1) or compute(*of))
    monkeypatch.setattr(SmartEncoder, "token_states", refuse)
    monkeypatch.setattr(SmartEncoder, "encode_document", refuse)
    again = replace(settings, checkpoint_minutes=3.0)  # changes no result
    report = train_adapter(encoder, training, out, again, **options, resume=True)
    assert len(made) == 12 - (step - 1)
    assert report == whole
    assert Adapter.load(out).digest == Adapter.load(tmp_path / "whole").digest
    assert not (out / "checkpoints").exists()


def test_ctrl_c_within_a_step_waits_for_its_end(encoder, tmp_path, monkeypatch):
    """The weights and the state of the optimizer belong together."""
    adamw = torch.optim.AdamW.step

    def press(self, *arguments):
        signal.raise_signal(signal.SIGINT)
        return adamw(self, *arguments)

    settings = AdapterSettings(batch_size=16, epochs=2)
    monkeypatch.setattr(torch.optim.AdamW, "step", press)
    with pytest.raises(KeyboardInterrupt):
        train_adapter(encoder, some_data(), tmp_path / "a", settings, held_out=0.3)
    state = read_checkpoint(tmp_path / "a" / "checkpoints" / "checkpoint-1.pt", "cpu")
    assert state["optimizer"]["state"][0]["step"] == 1
    assert state["schedule"]["last_epoch"] == len(state["losses"]) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupted_encoding_goes_on(encoder, tmp_path, monkeypatch):
    encode, given = SmartEncoder.token_states, []

    def press(self, items, task, layers):
        given.append(len(items))
        if len(given) == 3:
            raise KeyboardInterrupt
        return encode(self, items, task, layers)

    monkeypatch.setattr(SmartEncoder, "token_states", press)
    data, held_out = some_data(150), some_data(20, seed=3)
    settings = AdapterSettings(batch_size=16, epochs=1)
    options = {"held_out": held_out, "keep_anyway": True}
    with pytest.raises(KeyboardInterrupt):
        train_adapter(encoder, data, tmp_path / "a", settings, **options)
    assert given == [128, 22, 128]
    train_adapter(encoder, data, tmp_path / "a", settings, **options, resume=True)
    assert given[3:] == [128, 22, 20, 20]
    train_adapter(encoder, data, tmp_path / "b", settings, **options)
    assert Adapter.load(tmp_path / "a").digest == Adapter.load(tmp_path / "b").digest


def test_checkpoints_are_written_by_the_clock(encoder, tmp_path, monkeypatch):
    """One file, which is replaced. A process that is killed loses only what came after it."""
    seen = []
    compute = adapter_trainer.batch_loss

    def look(*arguments):
        seen.append([path.name for path in (tmp_path / "a" / "checkpoints").glob("*.pt")])
        return compute(*arguments)

    monkeypatch.setattr(adapter_trainer, "batch_loss", look)
    settings = AdapterSettings(batch_size=16, epochs=1, checkpoint_minutes=1e-9)
    train_adapter(encoder, some_data(64), tmp_path / "a", settings, held_out=some_data(20, seed=2))
    assert seen == [[], *([f"checkpoint-{step}.pt"] for step in (1, 2, 3))]


def test_a_broken_checkpoint_is_an_error_that_names_it(encoder, ctrl_c, tmp_path):
    settings = AdapterSettings(batch_size=16, epochs=1)
    ctrl_c(2)
    with pytest.raises(KeyboardInterrupt):
        train_adapter(encoder, some_data(), tmp_path / "a", settings, held_out=0.3)
    checkpoint = tmp_path / "a" / "checkpoints" / "checkpoint-1.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(EncoderError, match=r"the checkpoint .*checkpoint-1.pt cannot be read .*; remove it to start"):
        train_adapter(encoder, some_data(), tmp_path / "a", settings, held_out=0.3, resume=True)
    checkpoint.unlink()
    train_adapter(encoder, some_data(), tmp_path / "a", settings, held_out=0.3, resume=True)


def test_without_a_bar_the_log_has_epoch_step_and_loss(encoder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("smart_rag.training.adapter_trainer.LOG_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "smart_rag.progress"):
        report = train_adapter(encoder, some_data(64), tmp_path, AdapterSettings(batch_size=16, epochs=2), held_out=0.3)
    lines = [line for line in caplog.messages if "epoch" in line]
    steps = report.queries // 16 * 2
    assert len(lines) == steps
    assert re.fullmatch(
        rf"{steps} of {steps} steps done, epoch 2 of 2, loss \d\.\d{{4}}, late 0\.\d{{4}}, [\d.]+ a second, 0 s left",
        lines[-1],
    )


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
