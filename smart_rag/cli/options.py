"""Options that several commands of the command line have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smart_rag.config import DEFAULT_MODEL, IndexConfig
from smart_rag.embeddings.codec import PRESETS

Db = Annotated[Path, typer.Option("--db", metavar="DIR", help="The folder of the index.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="M",
        help=f"Name or folder of a sentence-transformers model; by default that of the index, or {DEFAULT_MODEL}.",
    ),
]
MovedModel = Annotated[str | None, typer.Option("--model", metavar="M", help="The index's model, where it has moved.")]
Codec = Annotated[
    str | None,
    typer.Option(
        "--codec",
        metavar="NAME",
        help=f"How a new index keeps token embeddings: {', '.join(PRESETS)} (the smallest), or a codec such as 4bit; "
        f"by default {IndexConfig().codec}.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option("--device", metavar="D", help="Such as cpu or cuda:0; by default a GPU where there is one."),
]
Picture = Annotated[
    Path | None, typer.Option("--image", metavar="FILE", help="Search by an image as well, if the model takes images.")
]
Adapter = Annotated[
    Path | None,
    typer.Option(
        "--adapter", metavar="DIR", help="An adapter that `train adapter` made; by default the index's, if any."
    ),
]
ProfileName = Annotated[
    str | None, typer.Option("--profile", metavar="NAME", help="The model's family, if its name does not say it.")
]
MaxPixels = Annotated[
    int | None, typer.Option("--max-pixels", min=1, metavar="N", help="Of a page or an image, at most.")
]
ReportFile = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write all figures as JSON; - for standard output.")
]
Trusted = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the Python code that comes with the model; read it before.")
]
Where = Annotated[str | None, typer.Option(metavar="JSON", help='Metadata filter, such as {"page": 3}.')]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
