"""Checks of an index that somebody else has made: `check_links` of its folder, `check_model` of its model."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smart_rag.encoders.loading import known_models
from smart_rag.errors import CorruptStore, NotTrusted
from smart_rag.paths import model_location

# Names in an index, as in ``docs/format.md``.
_FILES = ("chroma.sqlite3", "data.mdb", "lock.mdb")
_MADE_AGAIN = ("write.lock", "smart_rag.lock", "smart_rag.turn", "smart_rag.checksums", "smart_rag.writes")
_FOLDERS = ("chroma", "images", "terms", "tokens")
# At its end, a journal of SQLite may name a second journal, and has these bytes behind the name. When the first journal
# has been applied, SQLite removes the file with this name.
_END_OF_NAME = bytes.fromhex("d9d505f920a163d7")


def check_links(folder: Path) -> None:
    """Raise `NotTrusted` if there is a link in the index's ``folder``. ``folder`` itself may be a link.

    A link can lead to any file of this machine, which would then be read, written or removed.

    A journal of SQLite that names another file is refused, too.

    Raises:
        NotTrusted: there is such a link or such a journal.
        CorruptStore: there is a folder with the name of one of the index's files, or a file with that of a folder.
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
                _check_kind(entry, is_folder)
                if is_folder:
                    waiting.append(Path(entry.path))
                else:
                    _check_file(entry)


def _check_kind(entry: os.DirEntry[str], is_folder: bool) -> None:
    if is_folder and entry.name in (*_FILES, *_MADE_AGAIN):
        advice = "remove it, the file is made again" if entry.name in _MADE_AGAIN else "restore the index from a backup"
        raise CorruptStore(f"{entry.path} is a folder, expected a file; {advice}")
    if not is_folder and entry.name in _FOLDERS:
        raise CorruptStore(f"{entry.path} is a file, expected a folder; restore the index from a backup")


def _check_file(entry: os.DirEntry[str]) -> None:
    if entry.stat(follow_symlinks=False).st_nlink > 1:
        raise NotTrusted(
            f"{entry.path} is a hard link, so another file would change with it; copy the folder without hard links"
        )
    if entry.name.endswith("-journal"):
        with open(entry.path, "rb") as file:
            file.seek(max(0, entry.stat().st_size - len(_END_OF_NAME)))
            if file.read() == _END_OF_NAME:
                raise NotTrusted(
                    f"{entry.path} names another file, which SQLite would remove; Chroma writes no such journal"
                )


def check_model(folder: Path, description: Mapping[str, Any], *, runs_code: bool = False) -> None:
    """Raise `NotTrusted` unless the index in ``folder`` may load the model that ``description`` names.

    Args:
        folder: the folder of the index.
        description: the description of the encoder, as the index holds it.
        runs_code: whether the caller has allowed the model to run its own code.
    """
    model, options = str(description.get("model")), description.get("model_options")
    if "model" not in description or not isinstance(options, Mapping | None):
        raise NotTrusted(f"{folder}: the description of the model in the manifest is damaged; name the model yourself")
    named = {**description, "model": model_location(model)}
    inside = any(_is_inside(folder, str(named[name])) for name in ("model", "base_model") if named.get(name))
    is_known = known_models.is_known(named) and not inside
    brings_code = bool(description.get("trust_remote_code")) and not runs_code
    if is_known and not brings_code:
        return
    code = ", trust_remote_code=True" if description.get("trust_remote_code") else ""
    further = ("revision", "adapter", "base_model", "model_options")
    chosen = "".join(f", {name}={description[name]!r}" for name in further if description.get(name))
    name = shlex.quote(" ".join(model.split()))
    found = (
        f"the model {model!r}, which runs code of its own"
        if is_known
        else f"the model {model!r}{' in its own folder' if inside else ''}{chosen.replace(', ', ' with ', 1)}, which "
        "you have not used on this machine"
    )
    adapter = f" --adapter {shlex.quote(str(description['adapter']))}" if description.get("adapter") else ""
    base = f" --base-model {shlex.quote(str(description['base_model']))}" if description.get("base_model") else ""
    option = f" or `--model {name}{base}{adapter}{' --trust-remote-code' if code else ''}`"
    if description.get("revision") or options:  # the command line has no options for them
        option = ""
    raise NotTrusted(
        f"{folder}: the index was made with {found}; if you trust it, name it yourself, with "
        f"SmartIndex.open(path, SmartEncoder({model!r}{chosen}{code})){option}"
    )


def _is_inside(folder: Path, model: str) -> bool:
    """Return whether ``model`` is the full path of something in ``folder``."""
    return Path(model).is_absolute() and Path(model).resolve().is_relative_to(folder.resolve())
