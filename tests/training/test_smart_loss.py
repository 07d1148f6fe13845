"""Loss of fine-tuning, with gradients, against plain loops over the models' outputs; batches of the collator."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from helpers import tiny_models, tiny_vision
from helpers.some_pairs import some_data
from torch.nn.functional import normalize

from smart_rag import SmartEncoder
from smart_rag.training import TrainingData
from smart_rag.training.batches import content_groups, make_batch
from smart_rag.training.data import TrainingQuery
from smart_rag.training.settings import DistillationSettings
from smart_rag.training.smart_loss import SmartCollator, SmartLoss
from smart_rag.types import Document

ROWS = [{"position": i} for i in (3, 17, 5, 9, 30, 21)]


@pytest.fixture(scope="module", params=["mean", "cls and dense", "last token", "before a token"])
def encoder(request, tmp_path_factory):
    """An encoder for each kind of pooling. One has prompts, one has a dense layer after the pooling."""
    folder = tmp_path_factory.mktemp("model")
    prompts = {"query": "Represent this passage: ", "document": "dogs "}
    made = {
        "mean": lambda: tiny_models.bert(folder, prompts=prompts),
        "cls and dense": lambda: tiny_models.bert(folder, pooling="cls", dense=24),
        "last token": lambda: tiny_models.decoder(folder, eos=True),
        "before a token": lambda: tiny_vision.qwen3_vl(folder, emb=True),  # LamRA
    }
    return SmartEncoder(made[request.param](), device="cpu")


def collated(encoder, data, part_size=None, hard=1):
    collator = SmartCollator(data, content_groups(data, {"text"}), encoder, hard, part_size)
    return collator, collator(ROWS)


def features(batch):
    """Return the parts of a batch, as the trainer of sentence-transformers passes them to a loss."""
    count = len({name.partition("_")[0] for name in batch if name.startswith("part")})
    return [
        {name.partition("_")[2]: value for name, value in batch.items() if name.startswith(f"part{i}_")}
        for i in range(count)
    ]


def plain(encoder, text, task):
    """Return the pooled embedding and the token embeddings of one text, without special tokens, with gradients."""
    model = encoder.model
    if "<emb>" in model.tokenizer.get_vocab():
        return plain_lamra(encoder, text, task)
    inputs = model.preprocess([text], prompt=model.prompts.get(task), task=task)
    ids = inputs["input_ids"][0].tolist()
    states = model(inputs, task=task)
    special = {"[CLS]", "[SEP]", "<s>", "</s>", "<pad>"}
    kept = [i for i, id in enumerate(ids) if model.tokenizer.convert_ids_to_tokens(id) not in special]
    tokens = states["token_embeddings"][0][kept]
    for module in model:
        if type(module).__name__ == "Dense":
            tokens = module({"sentence_embedding": tokens})["sentence_embedding"]
    return normalize(states["sentence_embedding"][0], dim=0), normalize(tokens, dim=1)


def plain_lamra(encoder, text, task):
    """Return both for LamRA, whose pooled embedding is the state before <emb>."""
    inputs = encoder.trainable.prepare([text], task)
    names = encoder.model.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    features = {name: of for name, of in inputs.items() if name not in ("keep", "pooled", "task")}
    hidden = encoder.model.transformers_model(**features).last_hidden_state[0]
    kept = inputs["keep"][0].nonzero()[:, 0]
    return normalize(hidden[names.index("<emb>") - 1], dim=0), normalize(hidden[kept], dim=1)


def expected_loss(encoder, data, collator, objective, temperature):
    """Return the loss by loops over the queries and documents of a batch and over the tokens of each pair."""
    generator = np.random.default_rng([collator.seed, collator.epoch, *(row["position"] for row in ROWS)])
    queries = [data.queries[row["position"]] for row in ROWS]
    chosen = [query.positives[generator.integers(len(query.positives))] for query in queries]
    hard = [query.negatives[0] for query in queries if query.negatives]
    documents = list(dict.fromkeys([*chosen, *hard]))
    of_documents = [plain(encoder, data.documents[i].text, "document") for i in documents]
    losses = []
    for query, positive in zip(queries, chosen, strict=True):
        pooled, tokens = plain(encoder, query.text, "query")
        scores, at = [], None
        for i, (other, others) in zip(documents, of_documents, strict=True):
            if i in query.positives and i != positive:
                continue
            late = torch.stack([torch.stack([token @ one for one in others]).max() for token in tokens]).mean()
            score = {"pooled": pooled @ other, "late": late, "hybrid": pooled @ other + late}[objective]
            at = len(scores) if i == positive else at
            scores.append(score / temperature)
        losses.append(torch.logsumexp(torch.stack(scores), dim=0) - scores[at])
    return torch.stack(losses).mean()


def gradients(encoder, loss):
    encoder.model.zero_grad()
    loss.backward()
    return {name: of.grad.clone() for name, of in encoder.model.named_parameters() if of.grad is not None}


@pytest.mark.parametrize(
    ("objective", "part_size"),
    [
        pytest.param(*both, marks=[pytest.mark.slow] * (both not in (("pooled", 1), ("late", None), ("hybrid", 4))))
        for both in product(("pooled", "late", "hybrid"), (None, 1, 4))
    ],
)
def test_loss_and_gradients_are_those_of_plain_loops(encoder, objective, part_size):
    """Also for a batch that is cut into parts, with gradient caching."""
    data = some_data(40)
    collator, batch = collated(encoder, data, part_size)
    loss = SmartLoss(encoder, objective, 0.05, cached=part_size is not None)
    expected = expected_loss(encoder, data, collator, objective, 0.05)
    wanted = gradients(encoder, expected)
    found = loss(features(batch), batch["label"])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    mine = gradients(encoder, found)
    assert set(mine) == set(wanted)
    for name, of in wanted.items():
        torch.testing.assert_close(mine[name], of, atol=1e-5, rtol=1e-4, msg=name)


def test_gradient_caching_repeats_the_dropout(encoder):
    """Both passes drop the same numbers, so the gradients belong to the loss."""
    data = some_data(40)
    _, batch = collated(encoder, data, part_size=2)
    encoder.model.train()
    for module in encoder.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    found = []
    for cached in (False, True):
        torch.manual_seed(0)
        loss = SmartLoss(encoder, "hybrid", 0.05, cached=cached)(features(batch), batch["label"])
        found.append((float(loss.detach()), gradients(encoder, loss)))
    encoder.model.eval()
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    for name, of in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], of, atol=1e-5, rtol=1e-4, msg=name)


def test_a_text_without_tokens_has_its_pooled_embedding_as_token(tmp_path):
    encoder = SmartEncoder(tiny_models.bert(tmp_path), device="cpu")
    documents = [Document("a", "dogs bark"), Document("b", "")]
    data = TrainingData("x", documents, [TrainingQuery("", (0,)), TrainingQuery("rain", (1,))])
    collator = SmartCollator(data, np.arange(2), encoder)
    batch = collator([{"position": 0}, {"position": 1}])
    loss = SmartLoss(encoder, "late", 0.05)(features(batch), batch["label"])
    queries, texts = encoder.encode_query(["", "rain"]), encoder.encode_document(["dogs bark", ""])
    late = np.asarray([[(q @ d.T).max(axis=1).mean() for d in texts.tokens] for q in queries.tokens]) / 0.05
    expected = np.mean([np.log(np.exp(row).sum()) - row[i] for i, row in enumerate(late)])
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)
    assert np.array_equal(queries.tokens[0][0], queries.pooled[0])


def test_a_batch_depends_on_the_epoch_and_the_seed_alone(tmp_path):
    """So a resumed training gets the same batches."""
    encoder = SmartEncoder(tiny_models.bert(tmp_path), device="cpu")
    documents = [Document(str(i), text) for i, text in enumerate(tiny_models.SENTENCES)]
    data = TrainingData("x", documents, [TrainingQuery("cat", (0, 1, 2, 3)), TrainingQuery("dog", (4, 5), (6, 7))])
    rows = [{"position": 0}, {"position": 1}]

    def ids(seed, epoch):
        collator = SmartCollator(data, np.arange(8), encoder, hard_negatives=1, seed=seed)
        collator.epoch = epoch
        return collator(rows)["part1_input_ids"].tolist()

    assert ids(0, 0) == ids(0, 0)
    assert len({str(ids(seed, 0)) for seed in range(8)}) > 2
    assert len({str(ids(0, epoch)) for epoch in range(8)}) > 2


def test_labels_exclude_other_positives(tmp_path):
    encoder = SmartEncoder(tiny_models.bert(tmp_path), device="cpu")
    documents = [Document("a", "the cat sat"), Document("copy", "the cat sat"), Document("b", "dogs bark")]
    data = TrainingData(
        "x", documents, [TrainingQuery("cat", (0,)), TrainingQuery("sat", (1,)), TrainingQuery("d", (2,))]
    )
    batch = SmartCollator(data, content_groups(data, {"text"}), encoder)([{"position": i} for i in range(3)])
    assert batch["label"].tolist() == [[1, -1, 0], [-1, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("part_size", [None, 2])
def test_distillation_acts_on_the_score_of_the_objective(tmp_path, part_size):
    """The KL divergence of each query's documents by plain loops, in a batch that is cut into parts, too."""
    encoder = SmartEncoder(tiny_models.bert(tmp_path), device="cpu")
    data = some_data(40)
    queries = [
        replace(query, scores={at: (at * 7 % 5) / 2 for at in query.positives + query.negatives})
        for query in data.queries
    ]
    data = replace(data, queries=queries)
    collator, batch = collated(encoder, data, part_size)
    settings = DistillationSettings(distillation="kl", distillation_share=1.0, teacher_temperature=2.0)
    loss = SmartLoss(encoder, "hybrid", 0.05, settings, cached=part_size is not None)(features(batch), batch["label"])
    mine = gradients(encoder, loss)
    generator = np.random.default_rng([collator.seed, collator.epoch, *(row["position"] for row in ROWS)])
    step = make_batch(data, collator.groups, [row["position"] for row in ROWS], 1, generator)
    losses, without = [], 0
    for i, positive, excluded in zip(step.queries, step.positives, step.excluded, strict=True):
        pooled, tokens = plain(encoder, data.queries[i].text, "query")
        scores = []
        for at in step.documents:
            other, others = plain(encoder, data.documents[at].text, "document")
            late = torch.stack([torch.stack([token @ one for one in others]).max() for token in tokens]).mean()
            scores.append((pooled @ other + late) / 0.05)
        scored = [at for at in step.documents if at in data.queries[i].scores]
        if len(scored) > 1:
            aim = torch.tensor([data.queries[i].scores[at] / 2.0 for at in scored]).softmax(dim=0)
            mine_of = torch.stack([scores[step.documents.index(at)] for at in scored])
            losses.append((aim * (aim.log() - mine_of.log_softmax(dim=0))).sum())
        else:  # nothing to learn from the teacher
            kept = [score for score, is_out in zip(scores, excluded, strict=True) if not is_out]
            losses.append(torch.stack(kept).logsumexp(dim=0) - scores[positive])
            without += 1
    assert without == 2
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for name, of in gradients(encoder, expected).items():
        torch.testing.assert_close(mine[name], of, atol=1e-5, rtol=1e-4, msg=name)
