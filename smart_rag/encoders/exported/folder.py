"""`ExportFolder`: where the ONNX file of a model is kept, and what is known about it.

An export belongs to a model, and to the versions of the libraries that make and run it. If one of them changes, the
export is made again. The folder is in the user's own cache, so only this user can have written it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xxhash

from smart_rag.paths import absolute, cache_folder

logger = logging.getLogger(__name__)

# The form of the files. Exports of another form are made again.
_FORMAT = 3
# The libraries that can change the numbers of a model.
_LIBRARIES = ("onnxruntime", "onnxscript", "openvino", "sentence-transformers", "tokenizers", "torch", "transformers")
_SETTINGS = "settings.json"
# No export takes as long.
_SECONDS_OF_AN_EXPORT = 24 * 3600


@dataclass(frozen=True, slots=True)
class ExportFolder:
    """The folder of one model's export. It may not exist yet."""

    path: Path

    @classmethod
    def of(cls, files: Path, given: Mapping[str, Any]) -> ExportFolder:
        """Return the folder for the model with the folder ``files``, loaded with the arguments ``given``.

        The files are known by their sizes and times, because to read them all takes too long.
        """
        state = [
            [str(file.relative_to(files)), (found := file.stat()).st_size, found.st_mtime_ns]
            for file in sorted(files.rglob("*"))
            if file.is_file()
        ]
        key = {
            "format": _FORMAT,
            "folder": str(files),
            "files": state,
            "given": dict(given),
            "versions": {name: _version(name) for name in _LIBRARIES},
        }
        digest = hashlib.blake2b(json.dumps(key, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
        return cls(cache_folder() / "exports" / digest)

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def model(self) -> Path:
        """The ONNX file from ids to the states of the tokens. It does not exist if the model's own file is used."""
        return self.path / "model.onnx"

    def model_file(self, settings: Mapping[str, Any]) -> Path:
        """Return the ONNX file that ``settings`` name: `model`, or a file in the folder of the model."""
        return Path(settings["own_file"]) if settings["own_file"] else self.model

    @property
    def weights(self) -> Path:
        """The weights of `model` and `fused_model`, which share them."""
        return self.path / f"{self.model.name}.data"

    @property
    def fused_model(self) -> Path:
        """The same as `model`, with steps of ONNX Runtime's own. It exists if ``settings["fused"]``."""
        return self.path / "model_fused.onnx"

    @property
    def int8_model(self) -> Path:
        """The ONNX file with weights of 8 bits. It is made when it is asked for."""
        return self.path / "model_int8.onnx"

    def has_int8_model(self) -> bool:
        """Return whether `int8_model` is there, as it was written."""
        try:
            checksum = self._int8_checksum.read_text(encoding="ascii")
            if checksum == _checksum(self.int8_model):
                return True
        except (OSError, ValueError):
            checksum = ""
        if checksum or self.int8_model.exists():
            logger.warning("%s is damaged, so it is made again", self.int8_model)
        return False

    def take_int8_model(self, beside: Path) -> None:
        """Give the file ``beside`` the name of `int8_model`, and write its checksum."""
        checksum = _checksum(beside)
        self._int8_checksum.unlink(missing_ok=True)
        beside.replace(self.int8_model)
        self._int8_checksum.write_text(checksum, encoding="ascii")

    @property
    def _int8_checksum(self) -> Path:
        return self.path / "model_int8.xxh3"

    @property
    def head(self) -> Path:
        """The ONNX file of the modules after the pooling. It does not exist if there are none."""
        return self.path / "head.onnx"

    def settings(self) -> dict[str, Any] | None:
        """Return the settings of the export, or None if there is no complete one, or if a file of it has changed."""
        try:
            found: dict[str, Any] = json.loads((self.path / _SETTINGS).read_text(encoding="utf-8"))
            checksums = self._checksums()
        except (OSError, ValueError):
            return None
        if not isinstance(found, dict) or found.get("checksums") != checksums:
            logger.warning("%s is damaged, so the model is exported again", self.path)
            return None
        return found

    def _checksums(self) -> dict[str, str]:
        """Return the checksums of the files that are there."""
        files = (self.tokenizer, self.model, self.weights, self.fused_model, self.head)
        return {file.name: _checksum(file) for file in files if file.exists()}

    def refuse(self, reason: str) -> None:
        """Remember why the model cannot be exported. If this cannot be written, the next start tries again."""
        try:
            self.finish(self.begin(), {"refused": reason})
        except OSError as error:
            logger.info("%s cannot be written: %s", self.path, error)

    def begin(self) -> ExportFolder:
        """Return a new folder beside this one, to write to. `finish` gives it this folder's name."""
        self._remove_remains()
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True, mode=0o700)
        return ExportFolder(beside)

    def _remove_remains(self) -> None:
        """Remove what processes have left that were killed while they wrote an export, here or for another model."""
        for left in self.path.parent.glob("*.new"):
            if time.time() - left.stat().st_mtime > _SECONDS_OF_AN_EXPORT:
                shutil.rmtree(left, ignore_errors=True)

    def finish(self, beside: ExportFolder, settings: Mapping[str, Any]) -> None:
        """Give the folder ``beside`` this one's name. Its files and ``settings`` are then complete."""
        complete = {**settings, "checksums": beside._checksums()}
        (beside.path / _SETTINGS).write_text(json.dumps(complete), encoding="utf-8")
        shutil.rmtree(self.path, ignore_errors=True)
        try:
            beside.path.rename(self.path)
        except OSError:
            # Another process has just made the same export.
            shutil.rmtree(beside.path, ignore_errors=True)
            if self.settings() is None:
                raise


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()


def local_files(model: str, revision: str | None, cache: str | None) -> Path | None:
    """Return the folder with the files of ``model`` on this machine: the folder itself, or that in the hub's cache.

    Return None if a model of the hub is not in the cache.
    """
    if Path(model).is_dir():
        return absolute(model)
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    hub = cache or os.environ.get("SENTENCE_TRANSFORMERS_HOME") or os.environ.get("HF_HUB_CACHE") or Path(home) / "hub"
    owned = absolute(hub) / f"models--{model.replace('/', '--')}"
    name = revision or "main"
    reference = owned / "refs" / name
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else name
    folder = owned / "snapshots" / commit
    return folder if folder.is_dir() else None


def stored_precision(files: Path) -> str | None:
    """Return the precision of the weights in the folder ``files``, such as ``"float32"``. None if it does not say it.

    transformers loads weights in this precision if it is asked for ``dtype="auto"``.
    """
    modules = _json(files / "modules.json") or []
    folder = files / str(modules[0].get("path", "")) if modules else files
    config = _json(folder / "config.json") or {}
    named = config.get("dtype") or config.get("torch_dtype")
    return str(named) if named else _precision_in(folder / "model.safetensors")


def _precision_in(file: Path) -> str | None:
    if not file.is_file():
        return None
    from safetensors import safe_open

    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    with safe_open(file, framework="numpy") as weights:
        kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118, this is no dict
    floats = kinds & names.keys()
    return names[floats.pop()] if len(floats) == 1 else None


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
