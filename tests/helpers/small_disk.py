"""A small file system, to fill a disk."""

from __future__ import annotations

import contextlib
import shutil
import subprocess

import pytest


@contextlib.contextmanager
def small_disk(folder, size):
    """Mount a file system of ``size``, such as "4m", at ``folder``; skip the test where that is not possible."""
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True) if mount else None
    if done is None or done.returncode:
        pytest.skip(f"cannot mount a file system: {done.stderr.strip() if done else 'there is no mount command'}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
