"""Several processes of one training, as `torchrun` or `accelerate launch` starts them."""

from __future__ import annotations

import os

import torch
from torch import distributed


def count() -> int:
    """Return the number of processes of this training. It is 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Return whether this process is the one that writes files and shows progress."""
    return os.environ.get("RANK", "0") == "0"


def any_of(value: bool) -> bool:
    """Return whether ``value`` is true in any process. All processes must call this."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    flag = torch.tensor(int(value), device=device)
    distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
    return bool(flag.item())
