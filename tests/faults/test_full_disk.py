"""A full disk at every stage: what was acknowledged is there, what was refused is not, also in a new process.

Each case makes an index on a small disk, leaves a given number of bytes free, does an operation that may fail, and
compares the index with a dictionary of what was acknowledged. The default suite has a few points of the sweep.
"""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import textwrap
from contextlib import suppress

import numpy as np
import pytest
from helpers.small_disk import small_disk
from helpers.word_encoder import TESTS

from smart_rag import Document, Representation, SmartIndex
from smart_rag.errors import StorageFull

DIMENSION = 16
PAGE = 4096


def free_bytes(folder):
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def fill(disk, free):
    """Leave ``free`` bytes on the disk."""
    (disk / "filler").write_bytes(bytes(max(0, free_bytes(disk) - free)))


def document(number, version, words=40):
    word = f"w{(number * 7 + version) % 50} "
    return Document(f"d{number}", f"text {number} {version} " + word * words, {"n": number, f"v{version}": version})


def vectors(documents):
    """Return vectors that only depend on the texts."""
    made = [np.random.default_rng(list(one.text.encode()[:20])).standard_normal((4, DIMENSION)) for one in documents]
    return Representation.from_embeddings(np.stack([matrix[0] for matrix in made]), made)


def add(index, documents):
    return index.add_embeddings(documents, vectors(documents))


def assert_holds(index, acknowledged):
    """Assert that the index has these documents, with their vectors, and nothing else."""
    assert index.count() == len(acknowledged)
    found = {one.id: one for one in index.documents()}
    assert found.keys() == acknowledged.keys()
    assert found == acknowledged
    assert index.verify().sound
    documents = list(acknowledged.values())
    own = vectors(documents)
    for i in range(0, len(documents), max(1, len(documents) // 8)):
        best = index.search(own[i], 1, first_stage="exhaustive")[0]
        assert (best.id, round(best.pooled_score, 3)) == (documents[i].id, 1.0)
        assert index.search(own[i], 1, first_stage="pooled")[0].id == documents[i].id
    rows = index._store.pooled.embeddings(list(acknowledged))
    expected = own.pooled / np.linalg.norm(own.pooled, axis=1, keepdims=True)
    np.testing.assert_allclose(np.stack([rows[one.id] for one in documents]), expected, rtol=0, atol=1e-5)


@pytest.fixture
def no_estimate(monkeypatch):
    """As if a batch needed no room in Chroma. So Chroma fails, in the midst of its work."""
    for name in ("_BATCH_BYTES", "_ROW_BYTES", "_TEXT_COPIES"):
        monkeypatch.setattr(f"smart_rag.store.document_store.{name}", 0)


# What is done on the full disk. Each returns the documents that are there if it succeeds.


def adding(index, held):
    new = [document(i, 0) for i in range(1000, 1200)]
    done = {}
    for start in (0, 100):
        add(index, new[start : start + 100])
        done |= {one.id: one for one in new[start : start + 100]}
        held.update(done)


def replacing(index, held):
    new = [document(i, 1, 60) for i in range(0, 100)]
    add(index, new)
    held.update({one.id: one for one in new})


def mixing(index, held):
    new = [document(i, 2) for i in range(50, 110)] + [document(i, 2) for i in range(2000, 2060)]
    add(index, new)
    held.update({one.id: one for one in new})


def deleting(index, held):
    gone = [f"d{i}" for i in range(0, 120)]
    index.delete(gone)
    for id in gone:
        del held[id]


def vacuuming(index, held):
    with suppress(StorageFull):
        mixing(index, held)
    index.vacuum()


def weighing(index, held):
    index.set_weights((1, 3))


def repairing(index, held):
    index.verify(repair=True)


OPERATIONS = {one.__name__: one for one in (adding, replacing, mixing, deleting, vacuuming, weighing, repairing)}

NEW_PROCESS = """
    import pickle, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from faults.test_full_disk import look
    print("ready", flush=True)
    for line in sys.stdin:
        path, held = line.strip().split("|")
        look(path, pickle.loads(Path(held).read_bytes()))
        print("done", flush=True)
"""


@pytest.fixture(scope="module")
def newcomer():
    """Return a function like `look` that looks from another process."""
    command = [sys.executable, "-c", textwrap.dedent(NEW_PROCESS), TESTS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"

        def look_from_there(path, held):
            file = path.parent.parent / "held"
            file.write_bytes(pickle.dumps(held))
            process.stdin.write(f"{path}|{file}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"

        yield look_from_there
        process.stdin.close()


def one_case(tmp_path, name, free, kind, look):
    """Do the operation with so many bytes free, look in this process, close the index, and ``look``.

    ``kind`` is what happens next: more writes on the full disk, room is made at once, or the process ends.
    """
    with small_disk(tmp_path / "disk", "12m") as disk:
        held = {f"d{i}": document(i, 0) for i in range(150)}
        index = SmartIndex.create(disk / "index", None, dimension=DIMENSION)
        add(index, list(held.values()))
        fill(disk, free)
        failed = attempt(OPERATIONS[name], index, held)
        if kind == "more":
            for more in ("vacuuming", "deleting", "replacing"):
                attempt(OPERATIONS[more], index, held) if more != "deleting" or "d0" in held else None
            with suppress(StorageFull):
                index.search(vectors([document(1, 0)]))
        if kind != "ends":
            (disk / "filler").unlink()
            assert_holds(index, held)
            add(index, [document(5000, 0)])
            held["d5000"] = document(5000, 0)
            assert_holds(index, held)
            assert index._store._terms.doubtful() == []
        index.close()
        (disk / "filler").unlink(missing_ok=True)
        look(disk / "index", held)
        return failed


def attempt(operation, index, held):
    try:
        operation(index, held)
    except StorageFull:
        return True
    return False


def look(path, held):
    """First read, then write, and look at everything."""
    with SmartIndex.open(path) as index:
        index.search(vectors([document(1, 0)]))
        assert index.get(["d149"]) == [held["d149"]]  # no operation touches it
        index.vacuum()
        assert_holds(index, held)


def opening(path, disk):
    with SmartIndex.open(path) as index:
        index.count()


def creating(path, disk):
    if not SmartIndex.exists(disk / "another"):
        SmartIndex.create(disk / "another", None, dimension=DIMENSION).close()


@pytest.mark.parametrize(
    ("name", "free", "kind"),
    [("adding", 25 * PAGE, "ends"), ("mixing", 60 * PAGE, "more"), ("deleting", 8 * PAGE, "room")],
)
def test_a_few_points(tmp_path, no_estimate, name, free, kind):
    assert one_case(tmp_path, name, free, kind, look)


@pytest.mark.parametrize("free", [0, 40 * PAGE])
def test_opening_and_creating(tmp_path, free):
    """The error is ours, and what fails once works as soon as there is room."""
    with small_disk(tmp_path / "disk", "6m") as disk:
        held = {f"d{i}": document(i, 0) for i in range(150)}
        with SmartIndex.create(disk / "index", None, dimension=DIMENSION) as index:
            add(index, list(held.values()))
        fill(disk, free)
        for action in (creating, opening, creating, opening):
            with suppress(StorageFull):
                action(disk / "index", disk)
        (disk / "filler").unlink()
        opening(disk / "index", disk)
        look(disk / "index", held)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_sweep(tmp_path, no_estimate, newcomer, name, seed):
    do_the_sweep(tmp_path, newcomer, name, seed)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_sweep_with_estimates(tmp_path, newcomer, name, seed):
    do_the_sweep(tmp_path, newcomer, name, 100 + seed)


def test_the_estimate(tmp_path):
    """A batch that may not fit is refused before anything is written. A small disk can still be used."""
    batch = [document(i, 0) for i in range(500, 628)]
    with (
        small_disk(tmp_path / "disk", "10m") as disk,
        SmartIndex.create(disk / "index", None, dimension=DIMENSION) as index,
    ):
        held = {f"d{i}": document(i, 0) for i in range(150)}
        add(index, list(held.values()))
        fill(disk, 1 << 19)
        for write in (lambda: add(index, batch), lambda: add(index, [document(1, 2, 20_000)])):
            with pytest.raises(StorageFull, match=r"this write needs about \d\.\d MB, 0\.\d MB are free; make room"):
                write()
            assert not index._store.is_in_doubt
            assert_holds(index, held)
        add(index, [document(1, 2)])
        fill(disk, 2 << 20)
        add(index, batch)
        assert index.count() == 150 + 128


def do_the_sweep(tmp_path, newcomer, name, seed):
    """Free space from 0 to 4 MB in uneven steps, most of them where the operations fail."""
    draw = random.Random(f"{name} {seed}")
    for i, most in enumerate([100, 100, 200, 200, 400, 1000]):
        folder = tmp_path / str(i)
        folder.mkdir()
        one_case(folder, name, draw.randrange(0, most) * PAGE, draw.choice(["more", "room", "ends"]), newcomer)


@pytest.mark.faults
@pytest.mark.parametrize("free", range(0, 150, 5))
def test_the_sweep_of_opening_and_creating(tmp_path, free):
    test_opening_and_creating(tmp_path, free * PAGE)
