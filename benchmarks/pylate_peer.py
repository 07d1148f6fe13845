"""The peer: PyLate's reranking, in a process of its own: it pins an older sentence-transformers.

Run by ``maxsim.py --pylate PYTHON`` with the .npz file of query (q, dimension), embeddings (total, dimension) and
offsets (n + 1): for each line that comes in, it ranks the documents once and answers with the milliseconds.
"""

from __future__ import annotations

import sys
import time
from itertools import pairwise

import numpy as np
import torch
from pylate import rank


def main() -> None:
    vectors = np.load(sys.argv[1])
    query, embeddings = torch.from_numpy(vectors["query"]), torch.from_numpy(vectors["embeddings"])
    documents = [embeddings[start:stop] for start, stop in pairwise(vectors["offsets"].tolist())]
    ids = list(range(len(documents)))
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        rank.rerank([ids], [query], [documents])
        print(1e3 * (time.perf_counter() - started), flush=True)


if __name__ == "__main__":
    main()
