"""`TrainingFolder`: the output folder of a fine-tuning. It holds checkpoints until the model is complete."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smart_rag.errors import InvalidInput

# File beside the checkpoints with the settings and data of the training. A resumed training must have the same ones.
_RECORD = "training.json"
# Values of the record that are hashes. An error message names them, but does not print them.
_HASHES = ("model", "data", "held_out")


@dataclass(frozen=True, slots=True)
class TrainingFolder:
    """A folder that holds ``checkpoints`` during a training. After the training, it holds only the model."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def last_checkpoint(self) -> Path | None:
        """Return the last complete checkpoint. Return None if there is none."""
        # The trainer writes its state last.
        complete = [path.parent for path in self.checkpoints.glob("checkpoint-*/trainer_state.json")]
        return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)

    def check(self, resume: bool) -> Path | None:
        """Return the checkpoint to resume from. Return None for a new training.

        Raises:
            InvalidInput: the folder holds a model or other files; or it holds checkpoints and ``resume`` is False;
                or it holds no checkpoints and ``resume`` is True.
        """
        check_folder(self.path)
        if (self.path / "modules.json").exists():
            raise InvalidInput(f"{self.path} holds a model; choose another folder, or remove it")
        if not self._is_ours():
            raise InvalidInput(f"{self.path} holds other files, which the training might replace; choose a new folder")
        last = self.last_checkpoint()
        if resume and last is None:
            raise InvalidInput(
                f"{self.path} holds no checkpoint of an interrupted training; start a new training, without resume"
            )
        if last is not None and not resume:
            raise InvalidInput(
                f"{self.path} holds checkpoints of an interrupted training; continue it with resume, or remove the "
                "folder"
            )
        return last

    def _is_ours(self) -> bool:
        """Return whether the folder holds nothing but checkpoints of a training."""
        if not self.path.exists():
            return True
        if {path.name for path in self.path.iterdir()} - {self.checkpoints.name}:
            return False
        # Another process of the same training may already have temporary folders here.
        names = {path.name for path in self.checkpoints.glob("*") if not path.name.startswith(".")}
        return not names or _RECORD in names

    def start(self, record: Mapping[str, Any]) -> None:
        """Create the folder of checkpoints, and write ``record``: the settings and data of the training."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        if os.environ.get("RANK", "0") == "0":  # the first of several processes
            (self.checkpoints / _RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")

    def check_record(self, record: Mapping[str, Any]) -> None:
        """Check that the interrupted training started with ``record``.

        Raises:
            InvalidInput: the training started with another model, other data or other settings.
        """
        before = json.loads((self.checkpoints / _RECORD).read_text(encoding="utf-8"))
        changed = [
            name if name in _HASHES else f"{name} ({before.get(name)!r} before, {value!r} now)"
            for name, value in record.items()
            if before.get(name) != value
        ]
        if changed:
            raise InvalidInput(
                f"{self.path} holds checkpoints of a training with another {', '.join(changed)}; resume with the "
                "arguments that it started with, or remove the folder"
            )


def check_folder(path: Path) -> None:
    """Check that ``path`` is a folder, or that one can be created there.

    Raises:
        InvalidInput: ``path`` or one of its parents is a file.
    """
    existing = next(part for part in (path.absolute(), *path.absolute().parents) if part.exists())
    if not existing.is_dir():
        raise InvalidInput(f"{existing} is a file, expected a folder; choose another path")
