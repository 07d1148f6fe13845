"""`TrainingFolder`: the output folder of a training. It holds checkpoints until the training is complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import InvalidInput
from smart_rag.training.data import TrainingData, digest
from smart_rag.training.runs import processes
from smart_rag.training.runs.checkpoints import PATTERN
from smart_rag.training.settings import TrainingSettings

# File beside the checkpoints with the settings and data of the training. A resumed training must have the same ones.
_RECORD = "training.json"
# Values of the record that are hashes. An error message names them, but does not print them.
_HASHES = ("model", "data", "held_out")
# Empty file beside the checkpoints. It says that the training has made the folder.
_MADE = ".made"
# File of each result of a training.
_RESULTS = {"a model": "modules.json", "an adapter": "adapter.json"}


@dataclass(frozen=True, slots=True)
class TrainingFolder:
    """A folder that holds ``checkpoints`` during a training. After the training, it holds the result.

    A model needs a folder of its own. An adapter may lie beside other files.
    """

    path: Path
    result: Literal["a model", "an adapter"] = "a model"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def last_checkpoint(self) -> Path | None:
        """Return the last complete checkpoint. Return None if there is none."""
        # The trainer writes its state last.
        complete = [path.parent for path in self.checkpoints.glob("checkpoint-*/trainer_state.json")]
        complete += self.checkpoints.glob(PATTERN)
        return max(complete, key=lambda path: int(path.stem.rpartition("-")[2]), default=None)

    @property
    def is_interrupted(self) -> bool:
        """Whether the folder holds a training that can be continued. An adapter's can be, from its first text on."""
        if self.result == "an adapter":
            return (self.checkpoints / _RECORD).exists()
        return self.last_checkpoint() is not None

    def check(self, resume: bool) -> Path | None:
        """Return the checkpoint to resume from. Return None if there is none.

        Raises:
            InvalidInput: the folder holds a result or other files; or it holds checkpoints and ``resume`` is False;
                or it holds no checkpoints and ``resume`` is True.
        """
        check_folder(self.path)
        if (self.path / _RESULTS[self.result]).exists():
            raise InvalidInput(f"{self.path} holds {self.result}; choose another folder, or remove it")
        if not self._is_ours():
            raise InvalidInput(f"{self.path} holds other files, which the training might replace; choose a new folder")
        if resume and not self.is_interrupted:
            raise InvalidInput(
                f"{self.path} holds no checkpoint of an interrupted training; start a new training, without resume"
            )
        if self.is_interrupted and not resume:
            raise InvalidInput(
                f"{self.path} holds checkpoints of an interrupted training; continue it with resume, or remove the "
                "folder"
            )
        return self.last_checkpoint()

    def _is_ours(self) -> bool:
        """Return whether the folder holds nothing but checkpoints of a training."""
        if not self.path.exists():
            return True
        if self.result == "a model" and {path.name for path in self.path.iterdir()} - {self.checkpoints.name}:
            return False
        # Another process of the same training may already have temporary folders here.
        names = {path.name for path in self.checkpoints.glob("*") if not path.name.startswith(".")}
        return not names or _RECORD in names

    def start(self, record: Mapping[str, Any]) -> None:
        """Create the folder of checkpoints, and write ``record``: the settings and data of the training.

        Raises:
            InvalidInput: the folder cannot be made or written.
        """
        try:
            is_new = not self.path.exists()
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            if processes.is_first():
                (self.checkpoints / _RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")
                if is_new:
                    (self.checkpoints / _MADE).touch()
        except OSError as error:
            raise InvalidInput(f"{self.path} cannot be written ({error.strerror}); choose another folder") from error

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints. If the training has made the folder, and nothing else is in it, remove the folder."""
        was_made = (self.checkpoints / _MADE).exists()
        shutil.rmtree(self.checkpoints)
        if was_made and not any(self.path.iterdir()):
            self.path.rmdir()

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


def record_of(
    settings: TrainingSettings, encoder: SmartEncoder, training: TrainingData, measured: TrainingData
) -> dict[str, Any]:
    """Return, as JSON values, everything that must stay the same when a training is resumed."""
    # As JSON has them: a tuple is a list.
    values: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    del values["checkpoint_minutes"]  # it changes no result
    return {
        **values,
        "model": encoder.fingerprint,
        "profile": encoder.describe()["profile"],
        "data": digest(training),
        "held_out": digest(measured),
        "processes": processes.count(),
    }


def check_folder(path: Path) -> None:
    """Check that ``path`` is a folder, or that one can be created there.

    Raises:
        InvalidInput: ``path`` or one of its parents is a file.
    """
    existing = next(part for part in (path.absolute(), *path.absolute().parents) if part.exists())
    if not existing.is_dir():
        raise InvalidInput(f"{existing} is a file, expected a folder; choose another path")
