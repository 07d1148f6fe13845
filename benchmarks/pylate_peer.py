"""Peer of ``maxsim.py``: PyLate's reranking. It runs in another environment, as PyLate pins an older version.

``maxsim.py --pylate PYTHON`` starts it with an .npz file of query (q, dimension), embeddings (total, dimension) and
offsets (n + 1). For each line of input it ranks the documents once, and prints the milliseconds.
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
