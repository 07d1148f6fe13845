"""Two processes on a CPU, joined by gloo: the loss and its gradients are those of one process with all queries."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny_models
from helpers.another_process import with_tests
from helpers.some_pairs import WORDS

from smart_rag import SmartEncoder
from smart_rag.encoders.adapter import Adapter
from smart_rag.training import AdapterSettings, TrainingData
from smart_rag.training.adapter_trainer import batch_loss, batches
from smart_rag.training.batches import content_groups
from smart_rag.training.data import TrainingQuery
from smart_rag.training.runs import processes
from smart_rag.training.smart_loss import SmartCollator, SmartLoss
from smart_rag.training.states import cached_states
from smart_rag.types import Document

# The queries of the two processes.
ROWS = ([0, 1, 2], [3, 4, 5])


def shared_data():
    """Return queries with one positive and one negative, so that nothing is drawn.

    Document 2 is a negative in both processes. Document 7 is the positive of a query in the second process and a
    negative in the first. Document 9 has the text of document 1, a positive in the first process. Document 10 answers
    query 0, too.
    """
    texts = [" ".join(WORDS[3 * i : 3 * i + 2 + i % 3]) for i in range(9)]
    documents = [Document(f"d{i}", text) for i, text in enumerate([*texts, texts[1], texts[4]])]
    positives, negatives = [0, 1, 4, 5, 6, 7], [2, 7, 3, 2, 9, 10]
    queries = [
        TrainingQuery(f"{documents[right].text.split()[0]} {WORDS[40 + i]}", (right,), (wrong,))
        for i, (right, wrong) in enumerate(zip(positives, negatives, strict=True))
    ]
    return TrainingData("x", documents, queries)


def loss_and_gradients(folder, positions, objective, part_size):
    """Return the loss of the queries at ``positions`` and the gradients of all weights."""
    encoder, data = SmartEncoder(folder, device="cpu"), shared_data()
    collator = SmartCollator(data, content_groups(data, {"text"}), encoder, 1, part_size)
    batch = collator([{"position": i} for i in positions])
    count = len({name.partition("_")[0] for name in batch if name.startswith("part")})
    features = [
        {name.partition("_")[2]: value for name, value in batch.items() if name.startswith(f"part{i}_")}
        for i in range(count)
    ]
    loss = SmartLoss(encoder, objective, 0.05, cached=part_size is not None)(features, batch["label"])
    loss.backward()
    gradients = {name: of.grad for name, of in encoder.model.named_parameters() if of.grad is not None}
    return loss.detach(), gradients


def of_adapter(folder, batch_size, out):
    """Return the loss of the first batch of an adapter, and its gradients, both as means over the processes."""
    encoder, data = SmartEncoder(folder, device="cpu"), shared_data()
    torch.manual_seed(0)
    adapter = Adapter(encoder.dimension, 8)
    settings = AdapterSettings(batch_size=batch_size, hard_negatives=1, objective="hybrid", weighting="idf")
    with cached_states(data, encoder, (-1,), Path(out), "float32") as cached:
        loss = batch_loss(cached, adapter, next(batches(cached, settings, np.random.default_rng(0))), settings)
    loss.backward()
    processes.average([loss.detach(), *(of.grad for of in adapter.parameters())])
    return loss.detach(), {name: of.grad for name, of in adapter.named_parameters()}


def process(folder, out, cases):
    """Run one of the two processes."""
    from torch import distributed

    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    distributed.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=2)
    found = [loss_and_gradients(folder, ROWS[rank], *case) for case in cases]
    found.append(of_adapter(folder, 3, out))
    torch.save(found, f"{out}/{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


CASES = [("hybrid", None), ("late", 2), ("pooled", None), ("hybrid", 1)]


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """Return the folder of the model, and what each of the two processes found in each case and for an adapter."""
    out = tmp_path_factory.mktemp("processes")
    folder = tiny_models.bert(out / "model")
    code = f"import test_several_processes as t; t.process({str(folder)!r}, {str(out)!r}, {CASES!r})"
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=with_tests(__file__, RANK=str(rank), WORLD_SIZE="2"))
        for rank in range(2)
    ]
    assert [one.wait(timeout=300) for one in started] == [0, 0]
    return folder, [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_an_adapter_has_the_gradients_of_one_process_with_twice_the_batch(of_two, tmp_path):
    folder, both = of_two
    expected, gradients = of_adapter(folder, 6, tmp_path)
    for loss, found in (of_process[-1] for of_process in both):
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
        for name, wanted in gradients.items():
            torch.testing.assert_close(found[name], wanted, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_negatives_of_all_processes_count(case, of_two):
    """The mean of both losses, and of both gradients, is that of one process with all queries."""
    folder, found = of_two
    expected, gradients = loss_and_gradients(folder, ROWS[0] + ROWS[1], *CASES[case])
    losses = [of_process[case][0] for of_process in found]
    assert float(sum(losses) / 2) == pytest.approx(float(expected), abs=1e-5)
    assert losses[0] != losses[1]
    alone, _ = loss_and_gradients(folder, ROWS[0], *CASES[case])
    assert float(losses[0]) > float(alone) + 1e-3  # the documents of the other process are more negatives
    for name, wanted in gradients.items():
        mean = sum(of_process[case][1][name] for of_process in found) / 2
        np.testing.assert_allclose(mean, wanted, atol=1e-5, rtol=1e-3, err_msg=name)
