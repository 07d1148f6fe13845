"""``smart-rag index --watch``: a process that takes up changes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from filelock import FileLock

from smart_rag import SmartIndex

SECONDS = 60


class Watching:
    """A running ``smart-rag index --watch``, and the lines that it prints."""

    def __init__(self, *arguments):
        command = [sys.executable, "-m", "smart_rag", "index", *map(str, arguments), "--watch"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    def wait_for(self, text, times=1):
        end = time.monotonic() + SECONDS
        while sum(text in line for line in self.lines) < times:
            assert self.process.poll() is None, self.lines
            assert time.monotonic() < end, self.lines
            time.sleep(0.05)


def wait_until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def watching(folder, tmp_path):
    one = Watching(folder, "--db", tmp_path / "index", "--exclude", "*.log")
    yield one
    one.process.kill()
    one.process.wait()
    one.process.stdout.close()


@pytest.mark.timeout(900)
def test_changes_are_taken_up_as_they_come(watching, folder, tmp_path):
    watching.wait_for("watching ")  # after the model was loaded
    (folder / "birds.txt").write_text("Birds sing in the morning.")
    (folder / "noise.log").write_text("Nothing.")
    watching.wait_for(" 1 added")
    temporary = folder.parent / "new.txt"
    temporary.write_text("Birds fly south in the autumn.")
    temporary.replace(folder / "birds.txt")  # as editors do
    watching.wait_for(" 1 replaced")
    (folder / "copy.txt").write_text("Birds fly south in the autumn.")
    (folder / "birds.txt").unlink()  # its copy takes its place
    watching.wait_for(" 1 moved")
    (folder / "copy.txt").rename(folder / "swallows.txt")
    watching.wait_for(" 1 moved", times=2)
    (folder / "twin.txt").write_text("Birds fly south in the autumn.")
    wait_until((tmp_path / "index" / "duplicates.json").exists)  # an equal file is no news
    (folder / "swallows.txt").write_text("Swallows fly, too.")  # its copy takes the passages over
    watching.wait_for(" 1 replaced, 1 moved")
    (folder / "twin.txt").unlink()
    watching.wait_for(" 1 removed")
    (folder / "deep").mkdir()
    (folder / "deep" / "fish.md").write_text("Fish swim.")
    watching.wait_for(" 1 added", times=2)
    with FileLock(tmp_path / "index" / "write.lock", timeout=SECONDS):  # another process writes
        shutil.rmtree(folder / "deep")
        watching.wait_for("will be tried again")
    watching.wait_for(" 1 removed", times=2)
    (folder / "secret.txt").write_text("Nobody shall read this.")
    watching.wait_for(" 1 added", times=3)
    (folder / ".gitignore").write_text("secret.txt\n")
    watching.wait_for("unchanged, 1 removed", times=3)
    folder.rename(folder.with_name("elsewhere"))  # and another folder takes its place
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "swallows.txt").write_text("Swallows come back.")
    watching.wait_for(" removed", times=4)
    (tmp_path / "docs" / "late.txt").write_text("Late birds come, too.")
    watching.wait_for(" 1 added", times=4)
    shutil.rmtree(tmp_path / "docs")
    watching.wait_for(" 2 removed")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "back.txt").write_text("Here is a folder again.")
    watching.wait_for(" 1 added", times=5)
    watching.process.send_signal(signal.SIGINT)
    assert watching.process.wait(SECONDS) == 130
    with SmartIndex.open(tmp_path / "index") as index:
        names = {os.path.basename(one.path) for one in index.sources()}
        assert names == {"back.txt"}
        assert index.verify().sound
