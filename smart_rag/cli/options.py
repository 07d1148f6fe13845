"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from smart_rag.config import DEFAULT_MODEL, IndexConfig, Weighting
from smart_rag.embeddings.codec import PRESETS
from smart_rag.paths import absolute

Db = Annotated[Path, typer.Option("--db", metavar="DIR", parser=absolute, help="Folder of the index.")]
DbOrNone = Annotated[
    Path | None,
    typer.Option("--db", metavar="DIR", parser=absolute, help="Folder of the index. Only --dry-run needs none."),
]
KeptDb = Annotated[
    Path | None,
    typer.Option(
        "--db", metavar="DIR", parser=absolute, help="Keep the index in this folder; by default it is deleted."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="M",
        help=f"Name or folder of a sentence-transformers model; by default that of the index, or {DEFAULT_MODEL}.",
    ),
]
MovedModel = Annotated[
    str | None, typer.Option("--model", metavar="M", help="The folder of the index's model, if it has moved.")
]
Codec = Annotated[
    str | None,
    typer.Option(
        "--codec",
        metavar="NAME",
        help=f"Codec of the token embeddings of a new index: {', '.join(PRESETS)} (the smallest), or a name such as "
        f"4bit; by default {IndexConfig().codec}.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option("--device", metavar="D", help="Device of the model, such as cpu or cuda:0; by default a GPU, if any."),
]
QueryImage = Annotated[
    Path | None,
    typer.Option(
        "--image", metavar="FILE", parser=absolute, help="Search by this image too, if the model takes images."
    ),
]
Adapter = Annotated[
    Path | None,
    typer.Option(
        "--adapter",
        metavar="DIR",
        parser=absolute,
        help="Folder of an adapter from `train adapter`; by default the index's.",
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        "--backend", metavar="NAME", help="What runs a text model on a CPU: onnx, openvino or torch; by default onnx."
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", metavar="NAME", help="Precision of the model, such as bfloat16 or int8."),
]
BaseModel = Annotated[
    str | None,
    typer.Option(
        "--base-model",
        metavar="M",
        help="Name or folder of the base model, if the model is a LoRA alone; by default the one that its file names.",
    ),
]
ProfileName = Annotated[
    str | None,
    typer.Option("--profile", metavar="NAME", help="Family of the model, if its files and its name do not show it."),
]
QueryPrompt = Annotated[
    str | None,
    typer.Option("--query-prompt", metavar="TEXT", help="Text before each question; by default the model's own."),
]
DocumentPrompt = Annotated[
    str | None,
    typer.Option("--document-prompt", metavar="TEXT", help="Text before each passage; by default the model's own."),
]
MaxPixels = Annotated[
    int | None, typer.Option("--max-pixels", min=1, metavar="N", help="Shrink pages and images to N pixels.")
]
ReportFile = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write all figures as JSON; - for standard output.")
]
Trusted = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run the Python code that comes with the model. Read that code before."),
]
SourcePaths = Annotated[
    list[Path] | None,
    typer.Option(
        "--sources",
        metavar="PATH",
        parser=absolute,
        help="A file or folder whose images an index from somebody else may read. May be given several times.",
    ),
]
Where = Annotated[str | None, typer.Option(metavar="JSON", help='Filter on metadata, such as {"page": 3}.')]
MinRelevance = Annotated[
    float | None,
    typer.Option(
        metavar="R", help="Leave out passages of a lower relevance, from 0 to 1; .5 is a good value to begin with."
    ),
]
PerSource = Annotated[int | None, typer.Option(metavar="N", help="Number of passages that a file may have, such as 1.")]
FoldDuplicates = Annotated[
    bool, typer.Option("--fold-duplicates", help="Show passages that say nearly the same only once.")
]
QueryWeighting = Annotated[
    Weighting | None,
    typer.Option(
        "--weighting",
        help="Which words of a query count more: rare ones (idf), or those that tell the candidates apart (contrast); "
        "by default that of the index.",
    ),
]
WhereDocument = Annotated[
    str | None,
    typer.Option(metavar="JSON", help='Filter on texts, such as {"$contains": "pump"} or {"$regex": "pumps?"}.'),
]
LimitQueries = Annotated[int | None, typer.Option(min=1, metavar="N", help="Use only the first N queries.")]
Measures = Annotated[
    list[str] | None,
    typer.Option(
        "--measures",
        metavar="NAMES",
        help='Measures in the words of ir-measures, such as "nDCG@10 P@5 AP RR R@100". The first one decides about '
        "differences.",
    ),
]
PlotFile = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE.png", parser=absolute, help="Draw the figures with their intervals."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def names_in(values: Sequence[str] | None) -> list[str] | None:
    """Return the names in an option that may be given several times, each time with names between blanks or commas."""
    return [name for value in values for name in value.replace(",", " ").split()] if values else None
