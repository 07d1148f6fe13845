"""Checkpoints of an adapter's training. Each is one file, which is complete or not there at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from smart_rag.errors import EncoderError

PATTERN = "checkpoint-*.pt"


def write_checkpoint(folder: Path, step: int, state: Mapping[str, Any]) -> None:
    """Write ``state`` as the checkpoint of ``step`` into ``folder``, and remove the older ones.

    ``state`` holds tensors, numbers, texts, None, and lists and dicts of them.
    """
    path = folder / f"checkpoint-{step}.pt"
    temporary = folder / f".{path.name}"
    torch.save(dict(state), temporary)
    os.replace(temporary, path)
    for other in folder.glob(PATTERN):
        if other != path:
            other.unlink()


def read_checkpoint(path: Path, device: str) -> dict[str, Any]:
    """Return the state in the checkpoint ``path``, with its tensors on ``device``. No code of the file is run.

    Raises:
        EncoderError: the file cannot be read.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a broken file may raise any error. It becomes the cause
        raise EncoderError(
            f"the checkpoint {path} cannot be read ({error}); remove it to start the training again"
        ) from error
    return state
