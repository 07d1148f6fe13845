"""Two processes on a CPU, joined by gloo, train the adapter that one process trains with a batch twice as large."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from helpers import tiny_models
from helpers.another_process import with_tests
from helpers.some_pairs import some_data

from smart_rag import SmartEncoder
from smart_rag.encoders.adapter import Adapter
from smart_rag.training import AdapterSettings, train_adapter
from smart_rag.training.runs import processes

pytestmark = pytest.mark.slow

OPTIONS = {
    "epochs": 2,
    "hard_negatives": 1,
    "layers": (1, -1),
    "objective": "hybrid",
    "weighting": "idf",
    "distillation": "kl",
    "teacher_temperature": 0.5,
}
# More queries and documents than one process encodes at once, so that each process encodes some.
DATA = {"count": 288, "seed": 1}


def training_data():
    """Return data in which a teacher has scored the positive and a negative of every third query."""
    data = some_data(**DATA)
    queries = list(data.queries)
    for i in range(0, len(queries), 3):
        positive = queries[i].positives[0]
        negative = (positive + 7) % len(data.documents)
        queries[i] = replace(queries[i], negatives=(negative,), scores={positive: 1.0, negative: i % 5 / 2})
    return replace(data, queries=queries)


def train(folder, out, batch_size, *, resume=False):
    encoder = SmartEncoder(folder, device="cpu")
    settings = AdapterSettings(batch_size=batch_size, **OPTIONS)
    held_out = some_data(24, seed=2)
    return train_adapter(encoder, training_data(), out, settings, held_out=held_out, keep_anyway=True, resume=resume)


def process(folder, out, interrupted_at):
    """Run one of the two processes: once whole, once with Ctrl-C in the second process, and then resumed."""
    from smart_rag.training import adapter_trainer

    torch.set_num_threads(1)
    rank, encoded, compute, encode = int(os.environ["RANK"]), [], adapter_trainer.batch_loss, SmartEncoder.token_states

    def count(self, items, task, layers):
        encoded.append(len(items))
        return encode(self, items, task, layers)

    SmartEncoder.token_states = count
    report = train(folder, f"{out}/whole", 16)
    found = {"report": asdict(report)["history"], "encoded": list(encoded)}
    left = iter(range(interrupted_at - 1, -1, -1))

    def press(*arguments):
        loss = compute(*arguments)
        if next(left, None) == 0 and rank == 1:
            signal.raise_signal(signal.SIGINT)
        return loss

    adapter_trainer.batch_loss = press
    try:
        train(folder, f"{out}/resumed", 16)
    except KeyboardInterrupt:
        found["interrupted"] = True
    torch.distributed.barrier()  # the checkpoint is written
    found["checkpoints"] = sorted(path.name for path in Path(f"{out}/resumed/checkpoints").glob("*.pt"))
    torch.distributed.barrier()
    encoded.clear()
    found["resumed"] = asdict(train(folder, f"{out}/resumed", 16, resume=True))["history"]
    found["encoded again"] = encoded
    Path(f"{out}/{rank}.json").write_text(json.dumps(found))


def joined(*arguments):
    with processes.joined("cpu"):
        process(*arguments)


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """Return the folder of the model, that of the results, and what each process found."""
    out = tmp_path_factory.mktemp("processes")
    folder = tiny_models.bert(out / "model")
    code = f"import test_adapter_processes as t; t.joined({str(folder)!r}, {str(out)!r}, 12)"
    launcher = Path(sys.executable).with_name("torchrun")
    done = subprocess.run(
        [launcher, "--standalone", "--nproc-per-node", "2", "--no-python", sys.executable, "-c", code],
        env=with_tests(__file__),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder, out, [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_train_what_one_trains_with_twice_the_batch(of_two, tmp_path):
    folder, out, found = of_two
    report = train(folder, tmp_path / "one", 32)
    assert found[0]["report"] == found[1]["report"]
    for mine, other in zip(report.history, found[0]["report"], strict=True):
        assert asdict(mine) == pytest.approx(other, abs=1e-4)
    one, two = Adapter.load(tmp_path / "one").state_dict(), Adapter.load(out / "whole").state_dict()
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, atol=2e-5, rtol=1e-3, msg=name)
    assert sorted(path.name for path in (out / "whole").iterdir()) == ["adapter.json", "adapter.safetensors"]


def test_each_text_is_encoded_in_one_process(of_two):
    """The training queries, the training documents, and the two kinds of the held-out data."""
    encoded = [of_process["encoded"] for of_process in of_two[2]]
    assert sum(map(sum, encoded)) == 2 * 288 + 2 * 24
    assert all(encoded)


def test_ctrl_c_in_one_process_ends_all_after_the_same_step(of_two):
    """The resumed training is that of one without interruption, bit for bit."""
    _, out, found = of_two
    for of_process in found:
        assert of_process["interrupted"]
        assert of_process["checkpoints"] == ["checkpoint-12.pt"]
        assert of_process["resumed"] == of_process["report"]
        assert of_process["encoded again"] == []
    assert Adapter.load(out / "whole").digest == Adapter.load(out / "resumed").digest
