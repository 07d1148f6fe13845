"""`Places`: the files of images and videos that the tables of a dataset hold, or name by their paths."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from smart_rag.errors import InvalidInput

_MOST_FRAMES = 64  # of a video, as in the paper's code
_VIDEO_SUFFIXES = ("", ".mp4", ".avi", ".mov", ".mkv")

# A file, or the frames of a video.
Video: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Places:
    """Folders for the images and videos of a dataset.

    Attributes:
        written: an empty folder. The images inside tables are written into it, byte for byte.
        searched: the folders in which the paths in tables are looked up.
    """

    written: Path
    searched: tuple[Path, ...] = ()

    def image(self, value: Any, folder: Path) -> Path | None:
        """Return the file of an image in a table: bytes, a path, or a dict of both. None if there is no image.

        A list of one image is this image.

        Raises:
            InvalidInput: the value is none of these, or its file is missing.
        """
        if isinstance(value, list):
            if len(value) > 1:
                raise InvalidInput(f"a list of {len(value)} images; expected one image")
            value = value[0] if value else None
        if not value:
            return None
        path, content = (value.get("path"), value.get("bytes")) if isinstance(value, Mapping) else (value, None)
        if isinstance(path, bytes):
            path, content = None, path
        if content:
            file = self.written / hashlib.blake2b(content, digest_size=16).hexdigest()
            if not file.exists():
                file.write_bytes(content)
            return file
        if path and not isinstance(path, str):
            raise InvalidInput(f"an image of the type {type(path).__name__}; expected bytes, a path, or a dict of both")
        return self.find(path, folder) if path else None

    def find(self, path: str, folder: Path) -> Path:
        """Return the file or folder at ``path``, in ``folder`` or in one of the folders `searched`.

        Raises:
            InvalidInput: there is none, or ``path`` leads out of these folders.
        """
        if Path(path).is_absolute() or ".." in Path(path).parts or "\0" in path:
            raise InvalidInput(f"{folder}: {path!r} leads out of the folder; expected a relative path without '..'")
        places = [place / part for place in (*self.searched, folder) for part in ("", "image-tasks")]
        found = next((place / path for place in places if (place / path).exists()), None)
        if found is None:
            looked = ", ".join(map(str, dict.fromkeys(places)))
            raise InvalidInput(
                f"{folder}: the file {path!r} is missing; looked in {looked}; name its folder with --media"
            )
        return found

    def video(self, path: str, name: str, folder: Path, tasks: Sequence[str]) -> Video:
        """Return a video: its file, or its frames if only these are there.

        ``path`` may lack the suffix, or name folders of another machine. The frames are in a folder with the ``name``
        of the video, as MMEB-V2 publishes them. ``tasks`` are the possible names of the dataset.

        Raises:
            InvalidInput: there is neither.
        """
        if ".." in Path(path).parts or ".." in Path(name).parts or Path(name).is_absolute() or "\0" in path + name:
            raise InvalidInput(f"{folder}: {path!r} leads out of the folder; expected a path without '..'")
        roots = [place / part for place in (*self.searched, folder) for part in ("", "video-tasks")]
        below = ["", "videos", *(f"videos/video_ret/{task}" for task in tasks), *tasks]
        for file in (
            root / part / stem for root in roots for part in below for stem in (path.lstrip("/"), Path(path).name)
        ):
            found = next((other for suffix in _VIDEO_SUFFIXES if (other := Path(f"{file}{suffix}")).is_file()), None)
            if found:
                return found
        below = ["", "frames"]
        for task in tasks:
            inner = f"frames/video_ret/data/ziyan/video_retrieval/{task}/frames"  # as the archive of MMEB-V2 unpacks
            below += [inner, f"frames/video_ret/{task}/frames", f"frames/video_ret/{task}", f"{task}/frames", task]
        for root in roots:
            for part in below:
                if (root / part / name).is_dir() and (frames := _frames(root / part / name)):
                    return frames
        raise InvalidInput(
            f"{folder}: neither the video {path!r} nor a folder {name!r} with its frames is below "
            f"{', '.join(map(str, dict.fromkeys(roots)))}; name the folder of the videos with --media"
        )


def _frames(folder: Path) -> tuple[Path, ...]:
    """Return the images in ``folder`` in the order of the numbers in their names. Of more than 64, 64 are returned."""
    images = [path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    images.sort(key=lambda path: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)])
    if len(images) >= _MOST_FRAMES:
        images = [images[i] for i in np.linspace(0, len(images) - 1, _MOST_FRAMES, dtype=int)]
    return tuple(images)
