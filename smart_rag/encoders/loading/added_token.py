"""A token that a family needs, and that its published tokenizer lacks: LamRA-Ret's ``<emb>``."""

from __future__ import annotations

from smart_rag.encoders.compatibility import AnyModel, input_embeddings, resize_input_embeddings


def add_token(model: AnyModel, token: str) -> None:
    """Add ``token`` to the tokenizer of ``model``, unless the tokenizer has it.

    LamRA's code adds its token after loading (demo.py, ``add_embed_token``). The matrix of a published model has rows
    that no token uses, and the first of them becomes the row of the new token. If a matrix has no such row, the new row
    is the mean of all rows, so that every load gives the same numbers. The pooled position is before the token. So this
    row does not change a pooled embedding.
    """
    import torch

    tokenizer = model.tokenizer
    if token in tokenizer.get_vocab():
        return
    tokenizer.add_tokens([token])
    rows, count = input_embeddings(model), len(tokenizer)
    before = len(rows)  # the resizing may change `rows` itself
    if before >= count:
        return
    mean = rows.detach().float().mean(dim=0)
    resize_input_embeddings(model, count)
    with torch.no_grad():
        input_embeddings(model)[before:] = mean
