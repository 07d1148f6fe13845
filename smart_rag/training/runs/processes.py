"""Several processes of one training, as `torchrun` or `accelerate launch` starts them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

# While one process encodes or evaluates, the others wait for it. If one ends, the launcher ends all.
_PATIENCE = timedelta(days=7)

Value = TypeVar("Value")


def count() -> int:
    """Return the number of processes of this training. It is 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Return whether this process is the one that writes files and shows progress."""
    return os.environ.get("RANK", "0") == "0"


def local_gpu() -> str | None:
    """If a launcher started several processes, return the GPU of this process. Otherwise, return None."""
    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if rank is not None and torch.cuda.is_available() else None


@contextmanager
def joined(device: str) -> Iterator[None]:
    """While the block runs, the processes can exchange tensors: by nccl if ``device`` is a GPU, otherwise by gloo.

    Without a launcher, or if they are joined already, this does nothing.
    """
    if count() == 1 or distributed.is_initialized():
        yield
        return
    is_gpu = torch.device(device).type == "cuda"
    if is_gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if is_gpu else "gloo", timeout=_PATIENCE)
    yield
    distributed.destroy_process_group()  # not after an error, because then it might wait for a process that has ended


def are_joined() -> bool:
    """Return whether this process can exchange tensors with others."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def rank() -> int:
    """Return the position of this process among those that can exchange tensors. It is 0 if there are no others."""
    return distributed.get_rank() if are_joined() else 0


def joined_count() -> int:
    """Return the number of processes that can exchange tensors."""
    return distributed.get_world_size() if are_joined() else 1


def wait() -> None:
    """Wait until all processes are here."""
    if are_joined():
        distributed.barrier()


@contextmanager
def first_ahead() -> Iterator[None]:
    """Run the block in the first process, and then in the others."""
    if rank() != 0:
        wait()
    yield
    if rank() == 0:
        wait()


def from_first(compute: Callable[[], Value]) -> Value:
    """Return what ``compute`` returns in the first process. In the others, it is not called."""
    if not are_joined():
        return compute()
    values: list[Any] = [compute() if rank() == 0 else None]
    distributed.broadcast_object_list(values)
    found: Value = values[0]
    return found


def copy_from_first(weights: Iterable[torch.Tensor]) -> None:
    """Give ``weights`` the values that they have in the first process."""
    if are_joined():
        for of in weights:
            distributed.broadcast(of.data, 0)


def average(tensors: Iterable[torch.Tensor | None]) -> None:
    """Replace each tensor by its mean over the processes. None is passed over."""
    if are_joined():
        for tensor in tensors:
            if tensor is not None:
                distributed.all_reduce(tensor)
                tensor /= distributed.get_world_size()


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


def gather(rows: torch.Tensor) -> torch.Tensor:
    """Return the ``rows`` (n, ...) of all processes, one after the other. The rest is as in `gather_others`."""
    parts = gather_others(rows)
    parts.insert(rank(), rows)
    return torch.cat(parts)


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
