"""Draw docs/pictures/heat_map.png: why smart_rag finds a passage of the bundled samples. ``make pictures`` runs it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from smart_rag import SmartIndex
from smart_rag.demo import sample_folder

QUESTION = "What should I do with a swollen lithium battery?"


def main() -> None:
    path = Path(__file__).parent.parent / "docs/pictures/heat_map.png"
    with tempfile.TemporaryDirectory() as folder, SmartIndex.create(Path(folder) / "index", "minilm") as index:
        index.add_files([sample_folder()])
        hit = index.search(QUESTION, top_k=1)[0]
        print(hit.source, hit.text, sep="\n")
        hit.explain().picture().save(path, optimize=True)
    print(f"wrote {path}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
