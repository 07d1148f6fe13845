"""Fine-tuning with the real trainer: the weights that change, the ones that are kept, resuming, and the folder."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny_jina, tiny_models, tiny_vision
from helpers.some_pairs import page_images, some_data
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer

from smart_rag import SmartEncoder
from smart_rag.encoders.trainable import TrainableModel
from smart_rag.errors import EncoderError, InvalidInput
from smart_rag.training import FinetuneSettings, TrainingReport, finetune, load_training_data
from smart_rag.training.finetuner import HeldOutEvaluator, _arguments, load_checkpoint
from smart_rag.training.smart_loss import SmartCollator
from smart_rag.training.split import split

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = FinetuneSettings(batch_size=16, epochs=3, learning_rate=2e-3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    prompts = {"query": "find: ", "document": "passage: "}
    return tiny_models.bert(tmp_path_factory.mktemp("bert"), prompts=prompts)


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "model"
    return finetune(model, some_data(), folder, SETTINGS, held_out=0.3, device="cpu"), folder


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_the_report_shows_what_was_learned(trained):
    report, _ = trained
    losses = [epoch.loss for epoch in report.history]
    assert losses[0] is None
    assert losses[3] < losses[2] < losses[1]
    assert len(report.history) == 4
    assert report.ndcg["trained hybrid"] > report.ndcg["frozen hybrid"]
    best = max(range(1, 4), key=lambda i: report.history[i].hybrid)
    assert report.best_epoch == best
    for name in ("pooled", "late", "hybrid"):
        assert getattr(report.history[0], name) == pytest.approx(report.ndcg[f"frozen {name}"])
        assert getattr(report.history[best], name) == pytest.approx(report.ndcg[f"trained {name}"], abs=1e-6)
    assert {"trained pooled - frozen pooled", "trained hybrid - frozen hybrid"} < set(report.differences)
    json.dumps(report.as_json())


def test_the_folder_is_one_of_sentence_transformers(trained, model):
    """It works with and without smart_rag, with its prompts. It holds no checkpoints."""
    _, folder = trained
    names = {path.name for path in folder.iterdir()}
    assert {"modules.json", "model.safetensors", "README.md", "1_Pooling"} <= names
    assert not [name for name in names if "checkpoint" in name or name.startswith(".")]
    own, ours = SentenceTransformer(str(folder), device="cpu"), SmartEncoder(folder, device="cpu")
    assert own.prompts["query"] == "find: "
    np.testing.assert_allclose(own.encode_query(["cat"]), ours.encode_query(["cat"]).pooled, atol=1e-6)
    np.testing.assert_allclose(own.encode_document(["cat"]), ours.encode_document(["cat"]).pooled, atol=1e-6)
    before = SmartEncoder(model, device="cpu")
    assert before.fingerprint != ours.fingerprint
    card = (folder / "README.md").read_text()
    assert "SmartLoss" in card
    assert '"objective": "hybrid"' in card


def test_the_model_card_is_true(trained):
    """It has the figures of the saved model and of the frozen one, and nothing of the trainer's positions."""
    report, folder = trained
    card = (folder / "README.md").read_text()
    for name in ("pooled", "late", "hybrid"):
        assert round(report.ndcg[f"trained {name}"], 4) == value_in(card, f"held-out nDCG@10, {name}")
        assert round(report.ndcg[f"frozen {name}"], 4) == value_in(card, f"held-out nDCG@10, {name}, before training")
    assert "position" not in card
    assert "| Epoch" in card
    assert str(folder.parent) not in card
    assert len(card) < 15_000


def value_in(card, metric):
    row = next(line for line in card.splitlines() if line.replace("*", "").startswith(f"| {metric} "))
    return float(row.replace("*", "").split("|")[2])


def test_the_original_model_does_not_change(trained, model, tmp_path):
    fresh = tiny_models.bert(tmp_path, prompts={"query": "find: ", "document": "passage: "})
    old, new = (SmartEncoder(path, device="cpu").encode_document(["dogs bark"]).pooled for path in (model, fresh))
    np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("objective", ["pooled", "late"])
def test_each_objective_trains_its_own(objective, model, tmp_path):
    settings = FinetuneSettings(objective=objective, batch_size=16, learning_rate=2e-3, mini_batch_size=5)
    report = finetune(model, some_data(), tmp_path / "model", settings, held_out=0.3, device="cpu", keep_anyway=True)
    assert report.objective == objective
    assert f"trained {objective} - frozen {objective}" in report.differences
    assert report.history[1].loss > 0
    assert SmartEncoder(tmp_path / "model", device="cpu").encode_query("cat").pooled.shape == (1, 32)


class PowerCut(Exception):
    pass


@pytest.fixture
def power_cut(monkeypatch):
    """A function that interrupts a training once, at its batch number ``n``."""
    collate = SmartCollator.__call__

    def arrange(n):
        left = iter(range(n - 1, -1, -1))

        def stop(self, rows):
            if next(left, None) == 0:
                raise PowerCut
            return collate(self, rows)

        monkeypatch.setattr(SmartCollator, "__call__", stop)

    return arrange


def parts(count=96):
    """Return data to train on, and other data to measure with."""
    return some_data(count, seed=1), some_data(24, seed=2)


@pytest.mark.parametrize("lora_rank", [None, 4])
@pytest.mark.slow
def test_a_resumed_training_has_the_weights_of_an_uninterrupted_one(lora_rank, model, power_cut, tmp_path):
    """Bit for bit. A training with other data, another model or other settings is not resumed."""
    training, measured = parts()
    settings = FinetuneSettings(
        batch_size=16, epochs=2, evaluate_every=2, hard_negatives=0, lora_rank=lora_rank, learning_rate=1e-3
    )
    options = {"held_out": measured, "device": "cpu"}
    whole = finetune(model, training, tmp_path / "whole", settings, **options)
    power_cut(9)  # in the second of two epochs of six batches
    with pytest.raises(PowerCut):
        finetune(model, training, tmp_path / "model", settings, **options)
    assert list((tmp_path / "model" / "checkpoints").glob("checkpoint-*"))
    with pytest.raises(InvalidInput, match="holds checkpoints of an interrupted training; continue"):
        finetune(model, training, tmp_path / "model", settings, **options)
    other = replace(settings, objective="late", lora_rank=3, learning_rate=1e-4)
    message = r"another objective \('hybrid' before, 'late' now\), lora_rank \(.*\), learning_rate \(.*\); resume with"
    with pytest.raises(InvalidInput, match=message):
        finetune(model, training, tmp_path / "model", other, **options, resume=True)
    others = {**options, "held_out": some_data(20)}
    with pytest.raises(InvalidInput, match="with another data, held_out; resume with"):
        finetune(model, some_data(100), tmp_path / "model", settings, **others, resume=True)
    another = tiny_models.bert(tmp_path / "bert", pooling="cls")
    with pytest.raises(InvalidInput, match="with another model; resume with"):
        finetune(another, training, tmp_path / "model", settings, **options, resume=True)
    # A checkpoint that was not complete when the training was interrupted.
    (tmp_path / "model" / "checkpoints" / "checkpoint-99").mkdir()
    report = finetune(model, training, tmp_path / "model", settings, **options, resume=True)
    assert report.history == whole.history
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "model")
    assert set(expected) == set(found)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not (tmp_path / "model" / "checkpoints").exists()


def test_checkpoints_are_saved_by_the_clock(model, power_cut, tmp_path):
    """Between evaluations. A resumed training has the weights and the loss of an uninterrupted one."""
    training, measured = parts()
    settings = FinetuneSettings(batch_size=16, epochs=2, learning_rate=1e-3)
    options = {"held_out": measured, "device": "cpu", "keep_anyway": True}
    whole = finetune(model, training, tmp_path / "whole", settings, **options)
    power_cut(10)  # in the second of two epochs of six batches
    often = replace(settings, checkpoint_minutes=1e-9)
    with pytest.raises(PowerCut):
        finetune(model, training, tmp_path / "model", often, **options)
    steps = {path.name for path in (tmp_path / "model" / "checkpoints").glob("checkpoint-*")}
    assert steps == {"checkpoint-6", "checkpoint-8"}  # the evaluated one, and the last one; a batch is made ahead
    report = finetune(model, training, tmp_path / "model", settings, **options, resume=True)
    for mine, other in zip(report.history[1:], whole.history[1:], strict=True):
        assert mine.loss == pytest.approx(other.loss, abs=1e-3)
        assert replace(mine, loss=None) == replace(other, loss=None)
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "model")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_last_steps_are_evaluated_even_if_they_are_few(model, tmp_path):
    training, measured = parts(80)  # five batches of 16
    for every, count in ((3, 2), (99, 1)):
        settings = FinetuneSettings(batch_size=16, evaluate_every=every)
        report = finetune(model, training, tmp_path / str(every), settings, held_out=measured, device="cpu")
        assert len(report.history) - 1 == count
        assert all(epoch.loss > 0 for epoch in report.history[1:])


def test_an_incomplete_checkpoint_is_ignored(model, power_cut, tmp_path):
    training, measured = parts(64)
    settings = FinetuneSettings(batch_size=16, evaluate_every=1)
    options = {"held_out": measured, "device": "cpu"}
    power_cut(4)
    with pytest.raises(PowerCut):
        finetune(model, training, tmp_path / "model", settings, **options)
    (tmp_path / "model" / "checkpoints" / "checkpoint-3").mkdir()
    finetune(model, training, tmp_path / "model", settings, **options, resume=True)
    assert (tmp_path / "model" / "modules.json").exists()


@pytest.mark.parametrize("lora_rank", [None, 4])
def test_gradient_checkpointing_changes_no_weight(lora_rank, model, tmp_path, monkeypatch):
    """Each layer of the forward pass is run again in the backward pass."""
    from transformers.models.bert.modeling_bert import BertIntermediate

    passes = []
    forward = BertIntermediate.forward

    def count(self, *arguments, **more):
        passes.append(self.training)
        return forward(self, *arguments, **more)

    monkeypatch.setattr(BertIntermediate, "forward", count)
    settings = FinetuneSettings(batch_size=16, learning_rate=2e-3, lora_rank=lora_rank, gradient_checkpointing=False)
    options = {"held_out": some_data(24, seed=2), "device": "cpu", "keep_anyway": True}
    finetune(model, some_data(48, seed=1), tmp_path / "whole", settings, **options)
    once = sum(passes)
    passes.clear()
    settings = replace(settings, gradient_checkpointing=True)
    finetune(model, some_data(48, seed=1), tmp_path / "model", settings, **options)
    assert sum(passes) == 2 * once > 0
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "model")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], msg=name)


def test_the_trained_model_keeps_its_length(model, tmp_path):
    settings = FinetuneSettings(batch_size=16, learning_rate=2e-3)
    finetune(model, some_data(), tmp_path / "m", settings, held_out=0.3, device="cpu", max_length=7, keep_anyway=True)
    assert SmartEncoder(tmp_path / "m", device="cpu").max_length == 7
    assert SentenceTransformer(str(tmp_path / "m"), device="cpu").max_seq_length == 7


def test_lora_changes_linear_layers_by_low_rank_matrices(model, tmp_path):
    """The additions are merged into the weights, which keep their names."""
    settings = FinetuneSettings(lora_rank=4, batch_size=16, learning_rate=5e-3)
    finetune(model, some_data(), tmp_path / "model", settings, held_out=0.3, device="cpu")
    before, after = load_file(f"{model}/model.safetensors"), weights(tmp_path / "model")
    assert set(before) == set(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".dense." in name or ".query." in name or ".key." in name or ".value." in name for name in changed)
    assert not any("bias" in name for name in changed)
    for name in changed:
        assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) <= 4
    assert not (tmp_path / "model" / "adapter_config.json").exists()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    return load_training_data(page_images(tmp_path_factory.mktemp("pages") / "data"))


@pytest.mark.parametrize(
    ("family", "profile"),
    [("qwen3_vl", "qwen3-vl-embedding"), pytest.param("qwen2_vl", "general", marks=pytest.mark.slow)],
)
def test_lora_on_page_images(family, profile, pages, power_cut, tmp_path):
    """With an interruption. Vision layers do not change, and the folder holds the trained weights bit for bit."""
    # With most other seeds, the untrained weights rank best, and they would be kept.
    model = getattr(tiny_vision, family)(tmp_path / "base", seed=3)
    settings = FinetuneSettings(lora_rank=4, batch_size=2, mini_batch_size=1, evaluate_every=1, learning_rate=1e-2)
    options = {"held_out": 0.4, "device": "cpu", "profile": profile, "max_pixels": 64 * 64}
    out = tmp_path / "model"
    power_cut(3)
    training, _ = split(pages, 0.4)
    steps = len(training.queries) // 2
    assert steps > 2
    with pytest.raises(PowerCut):
        finetune(model, pages, out, settings, **options)
    assert [path.name for path in (out / "checkpoints").glob("checkpoint-*")] == ["checkpoint-1"]
    saved = {}
    with pytest.MonkeyPatch.context() as patch:
        save = SentenceTransformer.save_pretrained

        def spy(self, path, **more):
            saved[str(path)] = {name: of.clone() for name, of in self.state_dict().items()}
            save(self, path, **more)

        patch.setattr(SentenceTransformer, "save_pretrained", spy)
        report = finetune(model, pages, out, settings, **options, resume=True)
    assert len(report.history) - 1 == steps
    loaded = SentenceTransformer(str(out), device="cpu")
    assert set(loaded.state_dict()) == set(saved[str(out)])
    for name, of in loaded.state_dict().items():
        assert torch.equal(of, saved[str(out)][name]), name
    before = SmartEncoder(model, device="cpu", profile=profile, max_pixels=64 * 64)
    changed = {name for name, of in loaded.state_dict().items() if not torch.equal(of, before.model.state_dict()[name])}
    assert changed
    assert not [name for name in changed if "visual" in name]
    # The folder holds what the profile adds: it encodes the same without the profile.
    again = SmartEncoder(out, device="cpu")
    page = pages.documents[0].content(again.modalities)
    for task in ("query", "document"):
        mine, other = (encoder.trainable.prepare([page, "bar"], task)["input_ids"] for encoder in (again, before))
        assert torch.equal(mine, other)
        text = again.encode_query("bar") if task == "query" else again.encode_document("bar")
        own = (loaded.encode_query if task == "query" else loaded.encode_document)(["bar"])
        np.testing.assert_allclose(own, text.pooled, atol=1e-5)


def test_lamra_is_trained_and_saved_as_it_is_pooled(pages, tmp_path):
    """From the token before <emb>. The folder is one of transformers, and its tokenizer shows the family."""
    model = tiny_vision.qwen3_vl(tmp_path / "base", emb=True, seed=3)
    settings = FinetuneSettings(lora_rank=4, batch_size=2, mini_batch_size=1, learning_rate=1e-2)
    options = {"held_out": 0.4, "device": "cpu", "max_pixels": 64 * 64, "keep_anyway": True}
    measured = []
    with pytest.MonkeyPatch.context() as patch:
        save = TrainableModel.save

        def spy(self, folder):
            save(self, folder)
            inputs = self.prepare(["where is bar number 3?"], "query")
            with torch.inference_mode():
                states = self.model({name: of for name, of in inputs.items() if name not in ("keep", "pooled")})
            measured.append(states["token_embeddings"][inputs["pooled"]][0])

        patch.setattr(TrainableModel, "save", spy)
        report = finetune(model, pages, tmp_path / "model", settings, **options)
    assert report.history[1].loss > 0
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert "modules.json" not in names
    assert "checkpoints" not in names
    trained, before = (SmartEncoder(path, device="cpu", max_pixels=64 * 64) for path in (tmp_path / "model", model))
    assert trained.describe()["profile"] == before.describe()["profile"] == "lamra-ret"
    mine, other = (encoder.encode_query("where is bar number 3?").pooled[0] for encoder in (trained, before))
    [state] = measured
    np.testing.assert_allclose(mine, state / state.norm(), atol=1e-5)
    assert abs(mine - other).max() > 1e-3
    assert not [
        name
        for name, of in trained.model.state_dict().items()
        if "visual" in name and not torch.equal(of, before.model.state_dict()[name])
    ]


def test_errors_before_the_work(trained, model, tmp_path):
    _, folder = trained
    data = some_data(40)
    with pytest.raises(InvalidInput, match="holds a model; choose another folder"):
        finetune(model, data, folder, device="cpu")
    with pytest.raises(InvalidInput, match="holds no checkpoint of an interrupted training"):
        finetune(model, data, tmp_path / "new", device="cpu", resume=True)
    with pytest.raises(InvalidInput, match="fewer than a batch of 64"):
        finetune(model, data, tmp_path / "new", device="cpu")
    with pytest.raises(EncoderError, match="trained for late interaction; train it with sentence-transformers' own"):
        finetune(tiny_models.colbert(tmp_path / "colbert"), data, tmp_path / "new", device="cpu")
    with pytest.raises(
        EncoderError, match="a folder of sentence-transformers cannot hold its adapters and its projector"
    ):
        finetune(tiny_jina.jina_v4(tmp_path / "jina"), data, tmp_path / "new", device="cpu")
    with pytest.raises(EncoderError, match="a tower for texts and one for images"):
        finetune(tiny_vision.clip(tmp_path / "clip"), data, tmp_path / "new", device="cpu")
    gme = tiny_vision.qwen2_vl(tmp_path / "gme")
    with pytest.raises(EncoderError, match="positions that are counted over words and patches"):
        finetune(gme, data, tmp_path / "new", device="cpu", profile="gme-qwen2-vl")
    with pytest.raises(InvalidInput, match="lora_rank must be at most 32"):
        finetune(model, some_data(), tmp_path / "new", FinetuneSettings(lora_rank=33), device="cpu")
    assert not (tmp_path / "new").exists()


def test_files_of_others_are_not_replaced(model, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(InvalidInput, match="holds other files, which the training might replace; choose a new folder"):
        finetune(model, some_data(), tmp_path, SETTINGS, device="cpu")
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_loss_of_nan_ends_the_training(model, tmp_path):
    settings = replace(SETTINGS, learning_rate=1e30)
    with pytest.raises(
        EncoderError, match=r"the loss is nan, so the training cannot continue; train with a smaller learning"
    ):
        finetune(model, some_data(), tmp_path / "model", settings, held_out=0.3, device="cpu")
    assert not (tmp_path / "model" / "modules.json").exists()


def test_a_broken_best_checkpoint_is_an_error(model, tmp_path, monkeypatch):
    """The trainer only logs it and keeps the last weights. Here no model is saved, and the checkpoint is kept."""
    train = SentenceTransformerTrainer.train

    def train_and_break(self, **options):
        train(self, **options)
        (Path(self.state.best_model_checkpoint) / "model.safetensors").write_bytes(b"broken")

    monkeypatch.setattr(SentenceTransformerTrainer, "train", train_and_break)
    with pytest.raises(EncoderError, match=r"best checkpoint, .*checkpoint-\d+, cannot be loaded .*; the other check"):
        finetune(model, some_data(), tmp_path / "model", SETTINGS, held_out=0.3, device="cpu")
    assert list((tmp_path / "model" / "checkpoints").glob("checkpoint-*"))
    assert not (tmp_path / "model" / "modules.json").exists()


def test_a_checkpoint_with_nan_is_an_error(model, tmp_path):
    broken, target = (SentenceTransformer(model, device="cpu") for _ in range(2))
    with torch.no_grad():
        next(broken.parameters())[0, 0] = torch.nan
    broken.save_pretrained(str(tmp_path / "checkpoint-1"))
    with pytest.raises(
        EncoderError, match=r"the weights in .*checkpoint-1 became NaN or infinite; train with a smaller"
    ):
        load_checkpoint(target, tmp_path / "checkpoint-1")


def test_the_best_is_kept_not_the_last(model, tmp_path, monkeypatch):
    """The figures are made up, so that the first evaluation of three is the best."""
    given = iter([0.1, 0.9, 0.2, 0.3])
    measure, seen = HeldOutEvaluator.measure, []

    def pretend(self):
        seen.append({name: of.clone() for name, of in self._encoder.model.state_dict().items()})
        value = next(given, None)
        return measure(self) if value is None else {name: np.full(4, value) for name in ("pooled", "late", "hybrid")}

    monkeypatch.setattr(HeldOutEvaluator, "measure", pretend)
    monkeypatch.setattr(TrainingReport, "of", lambda *arguments, notes: arguments)
    _, history, best, *_ = finetune(model, some_data(), tmp_path / "model", SETTINGS, held_out=0.3, device="cpu")
    assert (best, [epoch.hybrid for epoch in history]) == (1, [0.1, 0.9, 0.2, 0.3])
    kept = SentenceTransformer(str(tmp_path / "model"), device="cpu").state_dict()
    assert all(torch.equal(kept[name], seen[1][name]) for name in kept)
    assert not all(torch.equal(kept[name], seen[3][name]) for name in kept)


@pytest.mark.parametrize("existed", [False, True])
def test_a_training_without_gain_saves_nothing(existed, model, tmp_path, monkeypatch):
    """The figures are made up: the start is as good as the best evaluation."""
    given = iter([0.3, 0.1, 0.3, 0.2])
    monkeypatch.setattr(
        HeldOutEvaluator,
        "measure",
        lambda self: {name: np.full(4, value) for value in [next(given)] for name in ("pooled", "late", "hybrid")},
    )
    if existed:
        (tmp_path / "model").mkdir()
    report = finetune(model, some_data(), tmp_path / "model", SETTINGS, held_out=0.3, device="cpu")
    assert (report.best_epoch, report.saved, report.gained) == (0, False, False)
    assert [epoch.hybrid for epoch in report.history] == [0.3, 0.1, 0.3, 0.2]
    assert report.warning.startswith("nothing was gained")
    assert report.ndcg["trained hybrid"] == report.ndcg["frozen hybrid"] == 0.3
    assert list(tmp_path.rglob("*")) == [tmp_path / "model"] * existed


def test_mixed_precision_is_for_training_alone(model, tmp_path, monkeypatch):
    """The model is measured and saved without autocast, and its weights stay float32."""
    found = []
    measure = HeldOutEvaluator.measure

    def look(self):
        model = self._encoder.model
        with torch.inference_mode():
            ours, plain = (
                forward(model.preprocess(["the cat"]))["sentence_embedding"]
                for forward in (model, lambda features: type(model).forward(model, features))
            )
        found.append(torch.equal(ours, plain))
        return measure(self)

    monkeypatch.setattr(HeldOutEvaluator, "measure", look)
    settings = FinetuneSettings(batch_size=16, epochs=1, bf16=True, learning_rate=2e-3, lora_rank=4)
    finetune(model, some_data(), tmp_path / "model", settings, held_out=0.3, device="cpu")
    assert found == [True, False, True]  # before, during and after the training
    assert {of.dtype for of in weights(tmp_path / "model").values()} == {torch.float32}


def test_a_process_uses_one_gpu(tmp_path):
    """The trainer would split a batch between the GPUs of a machine, and make it as many times as large."""
    arguments = _arguments(torch.device("cpu"), tmp_path, SETTINGS)
    assert arguments.n_gpu == 0
    arguments._n_gpu = 4  # where transformers counts the GPUs of the machine
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == SETTINGS.batch_size
