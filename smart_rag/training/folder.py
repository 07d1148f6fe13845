"""`TrainingFolder`: where a model goes that is trained, and its checkpoints until then."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smart_rag.errors import InvalidInput

# Among the checkpoints: what a training was started with, so that it goes on with the same.
_RECORD = "training.json"
# Of a record, these say what something is, and nothing that could be read.
_DIGESTS = ("model", "data", "held_out")


@dataclass(frozen=True, slots=True)
class TrainingFolder:
    """A folder that holds ``checkpoints`` while a model is trained, and the model alone when it is done."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def last_checkpoint(self) -> Path | None:
        """Return the last whole checkpoint of a training that was stopped, if there is one."""
        # The trainer's state is what it writes last.
        found = [path.parent for path in self.checkpoints.glob("checkpoint-*/trainer_state.json")]
        return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)

    def check(self, resume: bool) -> Path | None:
        """Return the checkpoint to go on from, if that is asked for.

        Raises:
            InvalidInput: there is a model, a file of others, a stopped training and ``resume`` is False, or none and it
                is True.
        """
        check_folder(self.path)
        if (self.path / "modules.json").exists():
            raise InvalidInput(f"{self.path} holds a model; choose another folder, or remove it")
        # Another process of this training may be ahead, and have temporary folders there.
        names = {path.name for path in self.checkpoints.glob("*") if not path.name.startswith(".")}
        is_ours = not names or _RECORD in names
        if self.path.exists() and (
            not is_ours or {path.name for path in self.path.iterdir()} - {self.checkpoints.name}
        ):
            raise InvalidInput(f"{self.path} holds other files, which a model might replace; choose a new folder")
        last = self.last_checkpoint()
        if resume and last is None:
            raise InvalidInput(f"{self.path} holds no checkpoint of a training that was stopped; train without resume")
        if last is not None and not resume:
            raise InvalidInput(
                f"{self.path} holds checkpoints of a training that was stopped; go on from them with resume, or remove "
                "the folder"
            )
        return last

    def start(self, record: Mapping[str, Any]) -> None:
        """Keep what a training is started with, JSON values."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        if os.environ.get("RANK", "0") == "0":  # of several processes, the first
            (self.checkpoints / _RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")

    def check_record(self, record: Mapping[str, Any]) -> None:
        """Raise `InvalidInput` unless the training that was stopped was started with ``record``."""
        before = json.loads((self.checkpoints / _RECORD).read_text(encoding="utf-8"))
        other = [
            name if name in _DIGESTS else f"{name} ({before.get(name)!r} before, {value!r} now)"
            for name, value in record.items()
            if before.get(name) != value
        ]
        if other:
            raise InvalidInput(
                f"{self.path} holds checkpoints of a training with another {', '.join(other)}; go on with the "
                "arguments that it was started with, or remove the folder"
            )


def check_folder(path: Path) -> None:
    """Raise `InvalidInput` if no folder can be at ``path``, as there is a file, or one on the way to it."""
    there = next(part for part in (path.absolute(), *path.absolute().parents) if part.exists())
    if not there.is_dir():
        raise InvalidInput(f"{there} is a file, where a folder is to be; choose another place")
