"""Contrastive loss with in-batch negatives, distillation, and late interaction with gradients.

    loss = mean over queries q of -log softmax_d(score(q, d) / temperature)[positive of q]

Here d runs over all documents of the batch that are not excluded for q (van den Oord, Li and Vinyals, 2018,
"Representation learning with contrastive predictive coding"). `smart_rag.scoring.maxsim` computes the same scores
without gradients, and faster.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from smart_rag.errors import EncoderError, InvalidInput
from smart_rag.training.settings import DistillationSettings


def late_scores(
    queries: torch.Tensor,
    query_lengths: torch.Tensor,
    documents: torch.Tensor,
    document_lengths: torch.Tensor,
    token_weights: torch.Tensor | None = None,
    *,
    documents_at_once: int = 32,
) -> torch.Tensor:
    """Return the late interaction scores (n_queries, n_documents), float32, with gradients.

    The token embeddings of all texts follow one another without padding. If you have padded states, pass
    ``states[mask]`` as the embeddings and ``mask.sum(dim=1)`` as the lengths. The gradients do not need every
    similarity: only one number is kept for each pair of a query token and a document.

    Args:
        queries: token embeddings of all queries (query tokens, dimension).
        query_lengths: number of tokens of each query (n_queries).
        documents: token embeddings of all documents (document tokens, dimension).
        document_lengths: number of tokens of each document (n_documents).
        token_weights: positive weights (query tokens) for the mean over a query's tokens. None means equal weights.
        documents_at_once: number of documents to score at a time. It limits the memory. It does not change the result.

    Raises:
        InvalidInput: the lengths do not add up to the number of token embeddings, or a text has no token.
    """
    for tokens, lengths in ((queries, query_lengths), (documents, document_lengths)):
        if len(tokens) != int(lengths.sum()) or not bool((lengths > 0).all()):
            raise InvalidInput(
                f"got {len(tokens)} token embeddings for texts of {lengths.tolist()} tokens; expected their sum, and "
                "at least one token in each text"
            )
    best: torch.Tensor = _MaxSim.apply(queries, documents, document_lengths.tolist(), documents_at_once)  # type: ignore[no-untyped-call]
    owners = torch.arange(len(query_lengths), device=queries.device).repeat_interleave(query_lengths)
    weights = best.new_ones(len(owners)) if token_weights is None else token_weights.to(best.dtype)
    totals = weights.new_zeros(len(query_lengths)).index_add(0, owners, weights)
    shares = (weights / totals[owners])[:, None]
    return best.new_zeros(len(query_lengths), best.shape[1]).index_add(0, owners, shares * best)


def training_loss(
    scores: torch.Tensor,
    positives: torch.Tensor,
    excluded: torch.Tensor | None = None,
    teacher: torch.Tensor | None = None,
    settings: DistillationSettings | None = None,
    *,
    temperature: float,
) -> torch.Tensor:
    """Return the mean loss of the queries, a scalar. Without a teacher, it is the cross-entropy.

        loss of a query = (1 - share) * cross-entropy + share * distillation

    The right class of a query is its positive. A query for which the teacher has not scored enough has the
    cross-entropy alone.

    Args:
        scores: scores of each query and document (n_queries, n_documents).
        positives: column of each query's positive (n_queries).
        excluded: True if a document is not a negative of the query (n_queries, n_documents), for example because it is
            another positive. None excludes nothing.
        teacher: a teacher's scores, NaN where there is none (n_queries, n_documents). It may lack the last columns.
        settings: the kind and the share of the distillation, and the temperature of the teacher.
        temperature: divisor of the scores.

    Raises:
        InvalidInput: a query's positive is excluded.
        EncoderError: the loss is not finite, for example because the model's weights have become NaN.

    >>> training_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), temperature=1.0)
    tensor(0.3133)
    """
    scores = scores.float() / temperature
    if excluded is None:
        losses = functional.cross_entropy(scores, positives, reduction="none")
    else:
        if bool(excluded.gather(1, positives[:, None]).any()):
            raise InvalidInput("a query's positive is excluded; exclude only other documents")
        losses = functional.cross_entropy(scores.masked_fill(excluded, -torch.inf), positives, reduction="none")
    if teacher is not None and settings is not None and settings.distillation != "none":
        teacher = functional.pad(teacher, (0, scores.shape[1] - teacher.shape[1]), value=torch.nan)
        teacher = teacher / settings.teacher_temperature
        if settings.distillation == "kl":
            distilled = kl_divergences(scores, teacher)
        else:
            distilled = margin_errors(scores, teacher, positives)
        mixed = torch.lerp(losses, distilled, settings.distillation_share)
        losses = torch.where(distilled.isnan(), losses, mixed)
    loss = losses.mean()
    if not bool(loss.isfinite()):
        raise EncoderError(
            f"the loss is {loss.item()}, so the training cannot continue; train with a smaller learning rate"
        )
    return loss


def kl_divergences(scores: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the KL divergence of each query (n_queries). It is NaN if fewer than two documents have teacher's scores.

        divergence = sum_d p_d * log(p_d / q_d),    p = softmax_d(teacher),  q = softmax_d(scores)

    Here d runs over the documents that the teacher has scored for the query (Hinton, Vinyals and Dean, 2015,
    "Distilling the knowledge in a neural network", arXiv 1503.02531; for rankings: Ren et al., 2021, "RocketQAv2",
    arXiv 2110.07367, equation 4).

    Args:
        scores: scores of each query and document, divided by their temperature (n_queries, n_documents).
        teacher: the teacher's scores, divided by theirs. NaN where there is none (n_queries, n_documents).

    >>> kl_divergences(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]))
    tensor([0.3278])
    """
    known = ~teacher.isnan()
    is_used = known.sum(dim=1) >= 2
    used = known[is_used]
    aims, logs = (functional.log_softmax(of[is_used].masked_fill(~used, -torch.inf), dim=1) for of in (teacher, scores))
    differences = (aims - logs).masked_fill(~used, 0.0)  # otherwise -inf - -inf
    found = scores.new_full((len(scores),), torch.nan)
    return found.masked_scatter(is_used, (aims.exp() * differences).sum(dim=1))


def margin_errors(scores: torch.Tensor, teacher: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of each query's margins (n_queries). It is NaN if the teacher gives no margin.

        error = mean over d of ((scores[q, p] - scores[q, d]) - (teacher[q, p] - teacher[q, d])) ^ 2

    Here p is the positive of q, and d is another document. The teacher has scored both for q (Hofstätter et al., 2020,
    "Improving efficient neural ranking models with cross-architecture knowledge distillation", arXiv 2010.02666,
    equation 5). ``scores`` and ``teacher`` are those of `kl_divergences`, ``positives`` those of `training_loss`.

    >>> margin_errors(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]]), torch.tensor([0]))
    tensor([4.])
    """
    margins, aims = (of.gather(1, positives[:, None]) - of for of in (scores, teacher))
    used = ~aims.isnan()
    used[torch.arange(len(positives), device=used.device), positives] = False
    errors = (margins - torch.where(used, aims, margins.detach())) ** 2
    counts = used.sum(dim=1)
    return torch.where(counts > 0, errors.sum(dim=1) / counts.clamp(min=1), torch.nan)


class _MaxSim(torch.autograd.Function):
    """Highest similarity of each query token with the tokens of each document: (query tokens, n_documents).

    Each maximum has a gradient for only one document token. So the backward pass is two sparse products.
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
                block_lengths = torch.tensor(lengths[first : first + at_once], device=block.device)
                similarities = (wide @ block.reshape(-1, width).T).view(-1, count, longest)
                padding = torch.arange(longest, device=block.device) >= block_lengths[:, None]
                highest, at = similarities.masked_fill_(padding, -torch.inf).max(dim=-1)
                starts = start + block_lengths.cumsum(0) - block_lengths
                start += int(block_lengths.sum())
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
            query_gradient = torch.sparse.mm(chosen, documents.to(gradient.dtype))
            document_gradient = torch.sparse.mm(chosen.t(), queries.to(gradient.dtype))
        return query_gradient.to(queries.dtype), document_gradient.to(documents.dtype), None, None
