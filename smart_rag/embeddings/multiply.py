"""`multiply`: the product of two matrices on a CPU, by torch if the program uses torch anyway."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def multiply(left: NDArray[np.floating[Any]], right: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return ``left @ right`` in float32.

    If torch is loaded, it computes the product. After a forward pass, torch's threads stay on their cores for a while,
    and NumPy's threads would wait for these cores. Without torch, NumPy computes the product, and torch is not loaded.
    """
    if "torch" not in sys.modules:
        return np.asarray(left, dtype=np.float32) @ np.asarray(right, dtype=np.float32)
    product: NDArray[np.float32] = (tensor(left).float() @ tensor(right).float()).numpy()
    return product


def tensor(array: NDArray[Any]) -> torch.Tensor:
    """Return ``array`` as a tensor on the CPU. It shares memory with the array if torch can do this."""
    import torch

    if array.ndim == 2 and array.flags.f_contiguous and not array.flags.c_contiguous:
        return tensor(array.T).T
    if not (array.flags.c_contiguous and array.flags.writeable):  # torch accepts only such arrays
        array = array.copy()
    return torch.from_numpy(array)
