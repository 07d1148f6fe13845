"""Checks of an index that somebody else has made: `check_links` of its folder, `check_model` of its model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smart_rag.encoders import known_models
from smart_rag.errors import NotTrusted
from smart_rag.paths import model_location


def check_links(folder: Path) -> None:
    """Raise `NotTrusted` if there is a link in the index's ``folder``. ``folder`` itself may be a link.

    A link can lead to any file of this machine, which would then be read, written or removed.
    """
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                is_link = entry.is_symlink() or getattr(entry, "is_junction", bool)()  # a junction, from Python 3.12 on
                is_folder = entry.is_dir(follow_symlinks=False)
                if is_link or not (is_folder or entry.is_file(follow_symlinks=False)):
                    raise NotTrusted(
                        f"{entry.path} is a link or a special file, and an index must contain only files and folders; "
                        "a link can lead to any file; if you made it, put the files themselves there"
                    )
                if is_folder:
                    waiting.append(Path(entry.path))


def check_model(folder: Path, description: Mapping[str, Any], *, runs_code: bool = False) -> None:
    """Raise `NotTrusted` unless the index in ``folder`` may load the model that ``description`` names.

    Args:
        folder: the folder of the index.
        description: the description of the encoder, as the index holds it.
        runs_code: whether the caller has allowed the model to run its own code.
    """
    model = str(description.get("model"))
    named = {**description, "model": model_location(model)}
    inside = Path(named["model"]).is_absolute() and Path(named["model"]).resolve().is_relative_to(folder.resolve())
    is_known = known_models.is_known(named) and not inside
    brings_code = bool(description.get("trust_remote_code")) and not runs_code
    if is_known and not brings_code:
        return
    code = ", trust_remote_code=True" if description.get("trust_remote_code") else ""
    options = "".join(
        f", {name}={description[name]!r}" for name in ("revision", "adapter", "model_options") if description.get(name)
    )
    found = (
        f"the model {model!r}, which runs code of its own"
        if is_known
        else f"the model {model!r}{' in its own folder' if inside else ''}{options.replace(', ', ' with ', 1)}, which "
        "you have not used on this machine"
    )
    raise NotTrusted(
        f"{folder}: the index was made with {found}; if you trust it, name it yourself, with "
        f"SmartIndex.open(path, SmartEncoder({model!r}{options}{code})) or `--model {model}"
        f"{' --trust-remote-code' if code else ''}`"
    )
