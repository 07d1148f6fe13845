"""`Adapter`: makes trained token embeddings for late interaction from the token states of a frozen model.

An adapter is a folder of two files. ``adapter.safetensors`` holds its weights in float32. ``adapter.json`` names the
model and the layers that the adapter was trained for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from smart_rag.config import check_count
from smart_rag.errors import EncoderError, InvalidInput
from smart_rag.paths import absolute

# Adapters of several layers had format 1 when they were trained on states of length 1. Format 2 is written only for
# several layers, so that an older smart_rag refuses what it would compute wrong.
FORMAT_VERSION = 2
_WEIGHTS = "adapter.safetensors"
_CONFIG = "adapter.json"
_CONFIG_KEYS = ("format_version", "width", "dimension", "layers", "model", "model_weights")
# Epsilon of all normalisations. It is far below the mean square of a unit vector's coordinates. So the length of a
# state does not change the result.
_EPSILON = 1e-12


class Adapter(nn.Module):
    """A projection of token states. It is trained while the weights of the model stay frozen.

        token embedding = L2(projection LayerNorm(state))

    With several layers, their states are first added up, with learned weights that differ for each token:

        state = sum over layers l of softmax_l(rms(h_l) . rms(layer_vector) / sqrt(width)) h_l

    where rms divides by the root of the mean square (arXiv 2605.24938, section 3). The states h_l have the lengths that
    the model gives them, or any common multiple of these lengths.

    Args:
        width: the width of the states.
        dimension: the dimension of the token embeddings, at most ``width``. A smaller dimension makes the store
            smaller.
        layers: the layers of the model whose states are used. -1 is the last layer.
        model, model_weights: the name of the model that the adapter is for, and the digest of the model's weights.
        unit_layers: whether each h_l is scaled to length 1 first, as adapters of format 1 were trained.

    Raises:
        InvalidInput: ``dimension`` is greater than ``width``, or a layer is named twice.
    """

    def __init__(
        self,
        width: int,
        dimension: int | None = None,
        layers: Sequence[int] = (-1,),
        *,
        model: str = "",
        model_weights: str = "",
        unit_layers: bool = False,
    ) -> None:
        super().__init__()
        dimension = width if dimension is None else dimension
        check_count("dimension", dimension)
        if dimension > width:
            raise InvalidInput(f"an adapter's dimension is at most the model's, {width}, got {dimension}")
        if not layers or len(set(layers)) < len(layers):
            raise InvalidInput(f"layers must name one or more layers, each once, got {list(layers)}")
        self.width = width
        self.dimension = dimension
        self.layers = tuple(layers)
        self.model = model
        self.model_weights = model_weights
        self._unit_layers = unit_layers and len(self.layers) > 1
        self.norm = nn.LayerNorm(width, eps=_EPSILON)
        self.projection = nn.Linear(width, dimension, bias=False)
        nn.init.xavier_uniform_(self.projection.weight)
        self.layer_vector = nn.Parameter(0.02 * torch.randn(width)) if len(self.layers) > 1 else None

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the token embeddings (n, dimension) of ``states`` (n, layers, width): L2-normalised, in float32."""
        with torch.autocast(states.device.type, enabled=False):
            projected: torch.Tensor = self.projection(self.norm(self._mixed(states.float())))
            return functional.normalize(projected, dim=-1)

    def _mixed(self, states: torch.Tensor) -> torch.Tensor:
        if self.layer_vector is None:
            return states[:, 0]
        if self._unit_layers:
            states = functional.normalize(states, dim=2)
        scores = _rms_normalised(states) @ _rms_normalised(self.layer_vector) * self.width**-0.5
        mixed: torch.Tensor = (scores.softmax(dim=1)[:, :, None] * states).sum(dim=1)
        return mixed

    @torch.no_grad()
    def start_at_frozen(self, states: torch.Tensor) -> None:
        """Set the projection so that the training starts with the geometry of frozen ``states`` (n, layers, width).

        If the token embeddings are as wide as the states, the projection becomes the identity. Otherwise, it becomes
        the principal components of the states. If the projection were random, the training would first have to learn
        the geometry again, although the model already has it.
        """
        if self.dimension == self.width:
            self.projection.weight.copy_(torch.eye(self.width))
            return
        # Not centred, because late interaction compares directions from the origin.
        normed = self.norm(self._mixed(states.float())).double()
        _, vectors = torch.linalg.eigh(normed.T @ normed)
        self.projection.weight.copy_(vectors[:, -self.dimension :].T.flip(0))

    @property
    def _format_version(self) -> int:
        return 1 if len(self.layers) == 1 or self._unit_layers else 2

    @property
    def digest(self) -> str:
        """A digest of everything that changes a token embedding: weights, widths and layers."""
        about = [self.width, self.dimension, self.layers, *([2] if self._format_version == 2 else [])]
        digest = hashlib.blake2b(json.dumps(about).encode(), digest_size=16)
        for _, weights in sorted(self.state_dict().items()):
            digest.update(weights.detach().float().cpu().contiguous().numpy().astype("<f4").tobytes())
        return digest.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write the adapter into ``folder``. The folder is created if it does not exist."""
        folder = absolute(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: of.detach().float().cpu().contiguous() for name, of in self.state_dict().items()}
        save_file(weights, folder / _WEIGHTS)
        config = {name: getattr(self, name) for name in _CONFIG_KEYS[1:]}
        text = json.dumps({"format_version": self._format_version, **config}, indent=2, ensure_ascii=False)
        (folder / _CONFIG).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Adapter:
        """Return the adapter in ``folder``, on the CPU.

        Raises:
            EncoderError: the folder holds no adapter, or its adapter cannot be read.
        """
        folder = absolute(folder)
        config = _read_config(folder)
        try:
            options = {name: config[name] for name in _CONFIG_KEYS[1:]}
            adapter = cls(**options, unit_layers=config["format_version"] == 1)
            adapter.load_state_dict(load_file(folder / _WEIGHTS))
        except (InvalidInput, OSError, SafetensorError, RuntimeError, TypeError) as error:
            raise EncoderError(
                f"{folder}: the adapter's weights do not fit its {_CONFIG}: {error}; train it again, or copy the "
                "whole folder"
            ) from error
        return adapter.eval()

    def check_model(self, name: str, width: int, weights: str) -> None:
        """Raise `EncoderError` unless the adapter is for the model with this ``width`` and this digest ``weights``."""
        if width != self.width or (self.model_weights and weights != self.model_weights):
            raise EncoderError(
                f"the adapter was trained on the token states of {self.model!r} ({self.width} dimensions), not on "
                f"those of {name!r} ({width} dimensions) as it is here; use it with that model, or train one for this"
            )


def _read_config(folder: Path) -> Mapping[str, Any]:
    path = folder / _CONFIG
    if not path.is_file():
        raise EncoderError(
            f"no adapter at {folder}: it holds no {_CONFIG}; train one with `smart-rag train adapter --out {folder}`"
        )
    try:
        config: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, absent = config["format_version"], [name for name in _CONFIG_KEYS if name not in config]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EncoderError(f"{path} is not the configuration of an adapter: {error}") from error
    if version not in (1, FORMAT_VERSION):
        raise EncoderError(
            f"{path}: the adapter has format {version}, this smart_rag reads the formats 1 and {FORMAT_VERSION}; "
            "upgrade with: pip install -U smart-rag"
        )
    if absent:
        raise EncoderError(f"{path} is not the configuration of an adapter: it lacks {', '.join(absent)}")
    return config


def _rms_normalised(rows: torch.Tensor) -> torch.Tensor:
    return rows / (rows.square().mean(dim=-1, keepdim=True) + _EPSILON).sqrt()
