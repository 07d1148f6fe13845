"""What models are trained by: late interaction with gradients, and softmax cross-entropy over a batch.

    loss = mean over queries q of -log softmax_d(score(q, d) / temperature)[positive of q]

over all documents of the batch but those excluded for q (van den Oord, Li and Vinyals, 2018, "Representation
learning with contrastive predictive coding"). `smart_rag.scoring.maxsim` has the same scores without gradients, faster.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from smart_rag.errors import EncoderError, InvalidInput

# As the paper's (arXiv 2605.24938): scores of late interaction lie close together.
DEFAULT_TEMPERATURE = 0.03


def late_scores(
    queries: torch.Tensor,
    query_lengths: torch.Tensor,
    documents: torch.Tensor,
    document_lengths: torch.Tensor,
    token_weights: torch.Tensor | None = None,
    *,
    documents_at_once: int = 32,
) -> torch.Tensor:
    """Return ``late(q, d)``, (n_queries, n_documents) float32, with gradients for queries and documents.

    Token embeddings lie one text after the other, without padding: ``queries`` (query tokens, dimension) with the
    number of each query's tokens in ``query_lengths`` (n_queries); documents likewise. Of padded states, that is
    ``states[mask]`` and ``mask.sum(dim=1)``. ``token_weights`` (query tokens), positive, make the mean over a query's
    tokens a weighted one. Whatever ``documents_at_once``, the result is the same; what is kept for
    the gradients is a number for each query token and document, no similarities.
    """
    for tokens, lengths in ((queries, query_lengths), (documents, document_lengths)):
        if len(tokens) != int(lengths.sum()) or not bool((lengths > 0).all()):
            raise InvalidInput(
                f"{len(tokens)} token embeddings for texts of {lengths.tolist()} tokens: each text needs one at least"
            )
    best: torch.Tensor = _MaxSim.apply(queries, documents, document_lengths.tolist(), documents_at_once)  # type: ignore[no-untyped-call]
    owners = torch.arange(len(query_lengths), device=queries.device).repeat_interleave(query_lengths)
    weights = best.new_ones(len(owners)) if token_weights is None else token_weights.to(best.dtype)
    totals = weights.new_zeros(len(query_lengths)).index_add(0, owners, weights)
    shares = (weights / totals[owners])[:, None]
    return best.new_zeros(len(query_lengths), best.shape[1]).index_add(0, owners, shares * best)


def contrastive_loss(
    scores: torch.Tensor,
    positives: torch.Tensor,
    excluded: torch.Tensor | None = None,
    *,
    temperature: float = DEFAULT_TEMPERATURE,
) -> torch.Tensor:
    """Return the mean over queries of the cross-entropy of their ``positives`` (n_queries) among the documents.

    ``scores`` is (n_queries, n_documents). Documents that are True in ``excluded``, of the same shape, are no
    negatives of that query: others that answer it, or its own positive another time.

    Raises:
        InvalidInput: a query's positive is excluded.
        EncoderError: the loss is not finite, as where a model's weights have become NaN.

    >>> contrastive_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), temperature=1.0)
    tensor(0.3133)
    """
    if excluded is not None:
        if bool(excluded.gather(1, positives[:, None]).any()):
            raise InvalidInput("a query's positive is excluded for it; only other documents can be")
        scores = scores.masked_fill(excluded, -torch.inf)
    loss = functional.cross_entropy(scores.float() / temperature, positives)
    if not bool(loss.isfinite()):
        raise EncoderError(
            f"the loss is {loss.item()}, and nothing is learnt from there; train with a smaller learning rate"
        )
    return loss


class _MaxSim(torch.autograd.Function):
    """The highest similarity (query tokens, n_documents) of each query token with a token of each document.

    Its gradient touches one document token for each, so the backward pass is two sparse products.
    """

    @staticmethod
    def forward(
        context: Any, queries: torch.Tensor, documents: torch.Tensor, lengths: list[int], at_once: int
    ) -> torch.Tensor:
        with torch.autocast(queries.device.type, enabled=False):
            wide = queries if queries.dtype == torch.float64 else queries.float()
            texts = torch.split(documents.to(wide.dtype), lengths)
            best, where, start = [], [], 0
            for first in range(0, len(texts), at_once):
                block = pad_sequence(list(texts[first : first + at_once]), batch_first=True)
                count, longest, width = block.shape
                of_block = torch.tensor(lengths[first : first + at_once], device=block.device)
                similarities = (wide @ block.reshape(-1, width).T).view(-1, count, longest)
                padding = torch.arange(longest, device=block.device) >= of_block[:, None]
                highest, at = similarities.masked_fill_(padding, -torch.inf).max(dim=-1)
                starts = start + of_block.cumsum(0) - of_block
                start += int(of_block.sum())
                best.append(highest)
                where.append(at + starts)
        found = torch.cat(where, dim=1)
        context.save_for_backward(queries, documents, found)
        return torch.cat(best, dim=1)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        queries, documents, where = context.saved_tensors
        [gradient] = gradients
        with torch.autocast(queries.device.type, enabled=False):
            rows = torch.arange(len(queries), device=queries.device).repeat_interleave(where.shape[1])
            shape = (len(queries), len(documents))
            chosen = torch.sparse_coo_tensor(
                torch.stack([rows, where.reshape(-1)]), gradient.reshape(-1), shape, check_invariants=False
            )
            of_queries = torch.sparse.mm(chosen, documents.to(gradient.dtype))
            of_documents = torch.sparse.mm(chosen.t(), queries.to(gradient.dtype))
        return of_queries.to(queries.dtype), of_documents.to(documents.dtype), None, None
