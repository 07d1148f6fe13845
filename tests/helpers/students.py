"""How near a student's rankings are to those of its teacher."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import torch

from smart_rag.scoring import maxsim


def scores_by(encoder, data, adapter=None):
    """Return the pooled and the late scores (n_queries, n_documents). ``adapter`` makes the token embeddings."""
    texts = ([query.text for query in data.queries], [document.text for document in data.documents])
    queries, documents = encoder.encode_query(texts[0]), encoder.encode_document(texts[1])
    tokens = [queries.tokens, documents.tokens]
    if adapter is not None:
        with torch.inference_mode():
            states = [
                encoder.token_states(of, task, (-1,)).tokens
                for of, task in zip(texts, ("query", "document"), strict=True)
            ]
            tokens = [
                replace(of, embeddings=adapter(torch.from_numpy(of.embeddings)[:, None].float()).numpy())
                for of in states
            ]
    return queries.pooled @ documents.pooled.T, maxsim.late_interaction(*tokens, "cpu")


def agreement(scores, data):
    """Return the share of pairs of a query's documents that are in the teacher's order."""
    same = [
        (scores[i, a] > scores[i, b]) == (query.scores[a] > query.scores[b])
        for i, query in enumerate(data.queries)
        for a, b in combinations(query.scores, 2)
    ]
    return float(np.mean(same))
