"""Devices that a model can be on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from smart_rag.errors import InvalidInput
from smart_rag.wording import first_line

if TYPE_CHECKING:
    import torch

# Where Linux shows the cards of NVIDIA, also in Windows' subsystem, and those of AMD.
_TRACES = ("/proc/driver/nvidia", "/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
_DEVICES = "'cpu', 'cuda', 'cuda:1' or 'mps'"


def device_names(device: str | torch.device | Sequence[str] | None) -> list[str | None]:
    """Return the names of one or several devices. None in the list stands for the best device of this machine.

    Raises:
        InvalidInput: the list is empty, or a device does not exist on this machine.
    """
    if device is None:
        return [None]
    devices = list(device) if isinstance(device, Sequence) and not isinstance(device, str) else [str(device)]
    if not devices:
        raise InvalidInput("device names no device; expected one, several, or None for the best there is")
    for name in devices:
        check_device(name)
    return [*devices]


def check_device(device: str) -> None:
    """Raise `InvalidInput` unless torch can use ``device`` on this machine."""
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InvalidInput(f"unknown device {device!r}; use for example {_DEVICES}") from error
    if kind == "meta":
        raise InvalidInput(f"device {device!r} computes nothing; use for example {_DEVICES}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InvalidInput(
            f"device {device!r}: torch {torch.__version__} finds no CUDA on this machine; use for example 'cpu'"
        )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # the class depends on the kind of device
        raise InvalidInput(
            f"device {device!r} cannot be used on this machine: {first_line(error)}; use for example 'cpu'"
        ) from error


def has_accelerator() -> bool:
    """Return whether this machine has a device that is better than its CPU.

    torch knows it, but to import torch takes a second. Without a trace of a device, torch is not asked.
    """
    if "torch" not in sys.modules and not _may_have_accelerator():
        return False
    return best_device() != "cpu"


def _may_have_accelerator() -> bool:
    """Return whether the system shows a graphics card, or is one on which it would not show."""
    if sys.platform != "linux":
        return True
    return any(Path(place).exists() for place in _TRACES)


def best_device() -> str:
    """Return the name of the best device of this machine."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
