"""The loss and late interaction with gradients, against nested loops in plain torch."""

import numpy as np
import pytest
import torch

from smart_rag.embeddings.tokens import TokenBatch
from smart_rag.errors import EncoderError, InvalidInput
from smart_rag.scoring.maxsim import late_interaction
from smart_rag.training.losses import late_scores, training_loss

QUERY_LENGTHS, DOCUMENT_LENGTHS = [3, 1, 5], [4, 9, 1, 2, 6]


def tokens(lengths, seed, dtype=torch.float32):
    """Return normalised token embeddings of texts with these ``lengths``."""
    rows = torch.randn(sum(lengths), 8, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return torch.nn.functional.normalize(rows, dim=1).requires_grad_()


def by_loops(queries, documents):
    scores = []
    for query in queries.split(QUERY_LENGTHS):
        row = []
        for document in documents.split(DOCUMENT_LENGTHS):
            best = [torch.stack([token @ other for other in document]).max() for token in query]
            row.append(torch.stack(best).mean())
        scores.append(torch.stack(row))
    return torch.stack(scores)


def loss_by_loops(scores, positives, excluded, temperature):
    losses = []
    for row, positive, left_out in zip(scores, positives.tolist(), excluded.tolist(), strict=True):
        kept = [torch.exp(score / temperature) for score, out in zip(row, left_out, strict=True) if not out]
        losses.append(-torch.log(torch.exp(row[positive] / temperature) / sum(kept)))
    return torch.stack(losses).mean()


def lengths_of(lengths):
    return torch.tensor(lengths)


@pytest.mark.parametrize("at_once", [1, 2, 5, 100])
def test_scores_and_gradients_are_those_of_the_formula(at_once):
    """The number of documents that are scored at a time does not matter."""
    ours, theirs = ([tokens(QUERY_LENGTHS, 0), tokens(DOCUMENT_LENGTHS, 1)] for _ in range(2))
    scores = late_scores(
        ours[0], lengths_of(QUERY_LENGTHS), ours[1], lengths_of(DOCUMENT_LENGTHS), documents_at_once=at_once
    )
    expected = by_loops(*theirs)
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=0)
    towards = torch.randn(scores.shape, generator=torch.Generator().manual_seed(2))
    (scores * towards).sum().backward()
    (expected * towards).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-6, rtol=0)


def test_scores_are_those_that_search_ranks_by():
    queries, documents = tokens(QUERY_LENGTHS, 0).detach(), tokens(DOCUMENT_LENGTHS, 1).detach()
    batches = [
        TokenBatch.from_list([part.numpy() for part in rows.split(lengths)])
        for rows, lengths in ((queries, QUERY_LENGTHS), (documents, DOCUMENT_LENGTHS))
    ]
    ours = late_scores(queries, lengths_of(QUERY_LENGTHS), documents, lengths_of(DOCUMENT_LENGTHS))
    np.testing.assert_allclose(ours.numpy(), late_interaction(*batches), atol=1e-6)


def test_gradients_by_differences():
    queries, documents = tokens(QUERY_LENGTHS, 0, torch.float64), tokens(DOCUMENT_LENGTHS, 1, torch.float64)
    assert torch.autograd.gradcheck(
        lambda q, d: late_scores(q, lengths_of(QUERY_LENGTHS), d, lengths_of(DOCUMENT_LENGTHS), documents_at_once=2),
        (queries, documents),
    )


def test_similarities_are_float32_in_mixed_precision():
    """In bfloat16, different scores would become equal."""
    queries, documents = tokens(QUERY_LENGTHS, 0), tokens(DOCUMENT_LENGTHS, 1)
    lengths = lengths_of(QUERY_LENGTHS), lengths_of(DOCUMENT_LENGTHS)
    plain = late_scores(queries, lengths[0], documents, lengths[1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = late_scores(queries, lengths[0], documents, lengths[1])
    assert torch.equal(scores, plain)
    half = queries.detach().bfloat16().requires_grad_()
    late_scores(half, lengths[0], documents, lengths[1]).sum().backward()
    assert half.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("temperature", [1.0, 0.03])
def test_loss_and_gradients_are_those_of_the_formula(temperature):
    scores = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    positives = torch.tensor([4, 0, 2])
    excluded = torch.zeros(3, 5, dtype=torch.bool)
    excluded[0, 1] = excluded[2, 0] = excluded[2, 4] = True
    ours, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    loss = training_loss(ours, positives, excluded, temperature=temperature)
    expected = loss_by_loops(theirs, positives, excluded, temperature)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=0)
    assert (ours.grad[excluded] == 0).all()


def test_a_positive_cannot_be_excluded():
    with pytest.raises(InvalidInput, match="positive is excluded"):
        training_loss(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([[False, True]]), temperature=1.0)


def test_a_loss_of_nan_is_an_error():
    with pytest.raises(EncoderError, match="the loss is nan, so the training cannot continue; train with a smaller"):
        training_loss(torch.full((1, 2), torch.nan), torch.tensor([1]), temperature=1.0)


@pytest.mark.parametrize("lengths", [[3, 1, 4], [4, 5, 0]])
def test_wrong_lengths_are_an_error(lengths):
    with pytest.raises(InvalidInput, match=r"got 9 token embeddings for texts of .* tokens; expected their sum"):
        late_scores(tokens(QUERY_LENGTHS, 0), torch.tensor(lengths), tokens([2], 1), torch.tensor([2]))
