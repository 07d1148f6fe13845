"""What each token of a query counts for."""

from __future__ import annotations

from smart_rag.scoring.maxsim import shares


def query_shares(index, query):
    """Return each token's part (n) in the mean over the tokens of one query, by the weighting of ``index``."""
    return shares(query.tokens.offsets, index._search(1, None, None).token_weights(query))
