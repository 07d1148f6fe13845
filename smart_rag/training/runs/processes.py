"""Several processes of one training, as `torchrun` or `accelerate launch` starts them."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import distributed


def count() -> int:
    """Return the number of processes of this training. It is 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Return whether this process is the one that writes files and shows progress."""
    return os.environ.get("RANK", "0") == "0"


def are_joined() -> bool:
    """Return whether this process can exchange tensors with others."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def any_of(value: bool) -> bool:
    """Return whether ``value`` is true in any process. All processes must call this."""
    if not are_joined():
        return value
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    flag = torch.tensor(int(value), device=device)
    distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
    return bool(flag.item())


def gather_others(rows: torch.Tensor) -> list[torch.Tensor]:
    """Return the ``rows`` (n, ...) of each other process, in the order of the processes. n may differ.

    Gradients flow back to the process that the rows come from. All processes must call this, and all must call it with
    gradients or all without.
    """
    counts = [torch.empty(1, dtype=torch.int64, device=rows.device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    lengths = [int(count) for count in counts]
    padded = torch.cat([rows, rows.new_zeros(max(lengths) - len(rows), *rows.shape[1:])])
    gathered: torch.Tensor = _Gather.apply(padded) if rows.requires_grad else _gathered(padded)  # type: ignore[no-untyped-call]
    own = distributed.get_rank()
    return [of[:length] for i, (of, length) in enumerate(zip(gathered, lengths, strict=True)) if i != own]


def _gathered(rows: torch.Tensor) -> torch.Tensor:
    of_processes = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
    distributed.all_gather(of_processes, rows.contiguous())
    return torch.stack(of_processes)


class _Gather(torch.autograd.Function):
    """The rows of all processes. The gradient of a row is the sum of its gradients in all processes."""

    @staticmethod
    def forward(context: Any, rows: torch.Tensor) -> torch.Tensor:
        return _gathered(rows)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        [gradient] = gradients
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total[distributed.get_rank()]
