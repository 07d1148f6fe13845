"""The scores of an index's search, by plain loops."""

from __future__ import annotations

import numpy as np

from smart_rag.config import DEFAULT_WEIGHTS


def reference(encoder, query, texts, weights=DEFAULT_WEIGHTS):
    """Scores by plain loops in float64: id -> (score, pooled, late), tokens as float16 as they are stored."""
    encoded = encoder.encode_query([query])
    scores = {}
    for name, text in texts.items():
        document = encoder._encode([text])
        pooled = sum(float(a) * float(b) for a, b in zip(encoded.pooled[0], document.pooled[0], strict=True))
        best = []
        for query_token in encoded.tokens[0]:
            cosines = []
            for token in document.tokens[0].astype(np.float16):
                cosines.append(sum(float(a) * float(b) for a, b in zip(query_token, token, strict=True)))
            best.append(max(cosines))
        late = sum(best) / len(best)
        scores[name] = (weights[0] * pooled + weights[1] * late, pooled, late)
    return scores
