"""`Environment`: one LMDB for threads, other processes, kills and full disks."""

import contextlib
import os
import shutil
import signal
import sys
import threading
import time

import lmdb
import pytest
from helpers.environments import (
    SMALL_MAP,
    assert_holds,
    child,
    delete,
    go_on,
    held,
    key,
    map_size,
    opened,
    put,
    released,
    run,
    value,
)
from helpers.small_disk import small_disk

from smart_rag.errors import CorruptStore, IndexClosed, IndexMismatch, StorageFull


@pytest.fixture
def path(tmp_path):
    return tmp_path / "values"


@pytest.fixture
def environment(path):
    with released(path) as environment:
        yield environment


def in_threads(*actions):
    """Run the actions in threads. Raise the first error that one of them raised."""
    errors = []

    def run(action):
        try:
            action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(action,), daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


# --- opening ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "found"),
    [({key(7): bytes(28)}, "layout 1, this"), ({b"layout": b"3"}, "layout 3, this")],
)
def test_another_layout_is_refused(path, values, found):
    """The store of an older or newer smart_rag is not read and not changed; the error says what to do."""
    path.mkdir()
    with contextlib.closing(lmdb.open(str(path))) as other, other.begin(write=True) as transaction:
        for name, stored in values.items():
            transaction.put(name, stored)
    for _ in range(2):
        with pytest.raises(IndexMismatch, match=f"{found} smart_rag reads and writes layout values 1; index the docum"):
            opened(path)
    with contextlib.closing(lmdb.open(str(path))) as other, other.begin() as transaction:
        assert dict(transaction.cursor()) == values


def test_a_damaged_layout(path):
    """Other bytes than those of any layout are damage, not another version."""
    path.mkdir()
    with contextlib.closing(lmdb.open(str(path))) as other, other.begin(write=True) as transaction:
        transaction.put(b"layout", b"values \xb1")
    with pytest.raises(CorruptStore, match=r"expected the layout 'values 1', found 'values \\xb1'; .* --repair"):
        opened(path)


def test_a_file_that_is_not_lmdbs(path):
    """A file of other bytes is a corrupt store."""
    path.mkdir()
    (path / "data.mdb").write_bytes(b"nonsense" * 4096)
    with pytest.raises(CorruptStore, match="not an LMDB file"):
        opened(path)


def test_a_file_cut_short(path):
    """Half a file is a corrupt store. It does not kill the process that opens it."""
    with released(path) as environment:
        put(environment, range(300), size=10_000)
    os.truncate(path / "data.mdb", os.path.getsize(path / "data.mdb") // 2)
    done = run(path, "")
    assert done.returncode == 1
    assert "CorruptStore" in done.stderr


def test_two_users_of_one_folder(environment, path):
    """Two users share one environment; it closes with the last."""
    other = opened(path)
    assert other is environment
    put(environment, [1])
    other.release()
    put(environment, [2])
    assert held(environment) == {1: value(1), 2: value(2)}


def test_two_paths_to_one_folder(environment, path):
    """A link to a folder leads to the same environment."""
    link = path.with_name("link")
    link.symlink_to(path)
    with released(link) as other:
        assert other is environment


def test_the_last_release_closes_the_files(path):
    """Then the folder can be moved and opened elsewhere."""
    with released(path) as environment:
        put(environment, [1])
    moved = path.rename(path.with_name("moved"))
    with released(moved) as again, released(path) as new:
        assert held(again) == {1: value(1)}
        assert held(new) == {}


def test_a_folder_made_again(environment, path):
    """A folder that was removed while an environment had it open is a new one when it is made again."""
    put(environment, [1])
    shutil.rmtree(path)
    with released(path) as new:
        assert held(new) == {}
        put(new, [2])
        assert (path / "data.mdb").exists()


def test_use_after_the_last_release(path):
    """A closed environment can be neither read nor written."""
    with released(path) as environment:
        pass
    for use in (lambda: put(environment, [1]), lambda: held(environment)):
        with pytest.raises(IndexClosed, match="the store is closed; open it again"):
            use()


def test_release_while_threads_read(path):
    """Threads that read when the environment closes finish, or learn that it is closed."""
    script = """
put(environment, range(100), 100_000)
ends = []
def read():
    try:
        while True:
            assert_holds(environment, range(100), 100_000)
    except BaseException as error:
        ends.append(type(error).__name__)
threads = [threading.Thread(target=read, daemon=True) for _ in range(6)]
for thread in threads:
    thread.start()
time.sleep(0.2)
environment.release()
for thread in threads:
    thread.join(20)
say(*ends)
"""
    done = run(path, script)
    assert (done.returncode, done.stdout.split()) == (0, ["IndexClosed"] * 6), done.stderr


# --- threads ------------------------------------------------------------------------------


@pytest.fixture
def busy_switching():
    """Threads take turns a hundred times as often."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 100)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("busy_switching")
def test_eight_threads_read_the_same(environment):
    """Threads that read at the same time all get what was written."""
    put(environment, range(50))

    def read(first):
        for i in range(40):
            assert_holds(environment, range((first + i) % 50, 50))

    in_threads(*(lambda first=first: read(first) for first in range(8)))


@pytest.mark.parametrize("pause", [0.001, 0], ids=["with pauses", "without a pause"])
def test_the_map_grows_while_threads_read(path, pause):
    """A store outgrows its map many times, and its readers get right answers all the while."""
    with released(path) as environment:
        put(environment, range(10))
        first = map_size(environment)
        done = threading.Event()
        deadline = time.monotonic() + 8
        reads = [0] * 8

        def write():
            try:
                for start in range(10, 310, 30):
                    before = sum(reads)
                    while sum(reads) < before + 8 and time.monotonic() < deadline:
                        time.sleep(0.001)
                    put(environment, range(start, start + 30), size=8000)
            finally:
                done.set()

        def read(reader):
            while not done.is_set() and time.monotonic() < deadline:
                assert_holds(environment, range(10))
                reads[reader] += 1
                if pause:
                    time.sleep(pause)

        in_threads(write, *(lambda reader=reader: read(reader) for reader in range(8)))
        assert first == SMALL_MAP
        assert map_size(environment) >= 1 << 21
        assert_holds(environment, range(10, 310), size=8000)


def test_a_deletion_that_outgrows_the_map_while_threads_read(path):
    """A deletion needs pages, too; readers without a pause do not keep the map from growing for it."""
    with released(path, map_bytes=1 << 17) as environment:
        put(environment, range(1_100), size=320)
        environment._resize(os.path.getsize(path / "data.mdb"))
        first = map_size(environment)
        kept = [i for i in range(1_100) if i % 3]
        done = threading.Event()
        deadline = time.monotonic() + 5

        def read():
            while not done.is_set() and time.monotonic() < deadline:
                assert_holds(environment, kept, size=320)

        def remove():
            time.sleep(0.1)
            try:
                delete(environment, range(0, 1_100, 3))
            finally:
                done.set()

        in_threads(remove, *[read] * 8)
        assert time.monotonic() < deadline
        assert map_size(environment) > first
        assert list(held(environment)) == kept


def test_one_write_larger_than_the_map(environment):
    """One transaction may need several doublings; it happens once."""
    runs = []

    def write(transaction):
        runs.append(1)
        for i in range(40):
            transaction.put(key(i), value(i, 32_000), db=environment.databases["values"])

    environment.write(write)
    assert len(runs) > 2
    assert list(held(environment)) == list(range(40))
    assert_holds(environment, range(40), size=32_000)


def test_a_write_that_fails_changes_nothing(environment):
    """An error in a transaction undoes all of it, and the next one works."""

    def write(transaction):
        transaction.put(key(1), b"half", db=environment.databases["values"])
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        environment.write(write)
    assert held(environment) == {}
    put(environment, [2])
    assert held(environment) == {2: value(2)}


def test_a_reader_that_resizes_waits_for_the_writer(environment):
    """A reader that finds its map too small while a thread writes waits until the write has ended."""
    errors = []

    def resize():
        try:
            environment._resize(0)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=resize, daemon=True)

    def write(transaction):
        thread.start()
        time.sleep(0.2)
        transaction.put(key(1), b"", db=environment.databases["values"])

    environment.write(write)
    thread.join(20)
    assert not thread.is_alive()
    assert errors == []


# --- processes ----------------------------------------------------------------------------


def test_a_new_process_sees_the_data(path):
    """A process sees what was written, whether or not this one still has the store open."""
    script = "say(held(environment) == {1: value(1), 2: value(2)})"
    with released(path) as environment:
        put(environment, [1, 2])
        assert run(path, script).stdout == "True\n"
    assert run(path, script).stdout == "True\n"


MANY = range(1, 300)


def test_another_process_reads_while_this_one_outgrows_its_map(environment, path):
    """A reader whose map is smaller than the file reads on, in every thread."""
    script = f"""
assert_holds(environment, [0])
say(map_size(environment))
wait()
answers = []
def read():
    assert_holds(environment, {MANY}, 4_000)
    answers.append("sound")
threads = [threading.Thread(target=read, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(20)
say(*answers)
"""
    put(environment, [0])
    with child(path, script) as process:
        assert int(process.stdout.readline()) == SMALL_MAP
        put(environment, MANY, size=4_000)
        assert os.path.getsize(path / "data.mdb") > 1 << 19
        go_on(process)
        assert process.stdout.readline().split() == ["sound"] * 4


def test_another_process_writes_after_this_one_outgrew_its_map(environment, path):
    """A writer whose map is smaller than the file writes on, and loses nothing."""
    with child(path, 'say("ready"); wait(); put(environment, [9999]); say("done")') as process:
        assert process.stdout.readline() == "ready\n"
        put(environment, MANY, size=4_000)
        go_on(process)
        assert process.stdout.readline() == "done\n"
    assert_holds(environment, [9999])
    assert_holds(environment, MANY, size=4_000)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_writer_loses_nothing_that_it_had_written(path):
    """After kill -9, every write that had returned is there, and the rest of the store is sound."""
    script = """
for i in range(int(sys.argv[2]), 1 << 30):
    put(environment, [i], 1_000)
    say(i)
"""
    acknowledged = []
    for start, lines in ((0, 1), (100_000, 25), (200_000, 60)):
        with child(path, script, str(start)) as process:
            for _ in range(lines):
                acknowledged.append(int(process.stdout.readline()))
            process.kill()
            rest = process.stdout.read()
            assert process.wait() == -signal.SIGKILL
        # The last line may be half a number.
        acknowledged += [int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        with released(path) as environment:
            found = held(environment)
        assert found == {i: value(i, 1_000) for i in found}
        assert set(acknowledged) <= set(found)
        assert len(found) <= len(acknowledged) + 3
    assert len(acknowledged) >= 86


def test_a_killed_reader_does_not_make_the_file_grow(environment, path):
    """Pages that only a dead process could still read are used again."""
    script = """
with environment.read():
    say("reading")
    wait()
"""
    for _ in range(4):
        put(environment, range(50), size=4_000)
    before = os.path.getsize(path / "data.mdb")
    with child(path, script) as process:
        assert process.stdout.readline() == "reading\n"
        process.kill()
        process.wait()
    for _ in range(20):
        put(environment, range(50), size=4_000)
    assert os.path.getsize(path / "data.mdb") < 2 * before


# --- a full disk --------------------------------------------------------------------------


def fill(environment, size):
    """Put until the disk is full. Return the numbers whose put returned."""
    for i in range(100_000):
        try:
            put(environment, [i], size)
        except StorageFull:
            return list(range(i))
    raise AssertionError("the disk is never full")


# The two larger ones take many pages, of which the disk has only a part.
@pytest.mark.parametrize("size", [1_300, 12_800, 128_000])
def test_full_disk(tmp_path, size):
    """The error says that the disk is full. Acknowledged values stay, and a deletion damages none."""
    with small_disk(tmp_path / "disk", "4m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(1 << 20))
        with released(disk / "values") as environment:
            written = fill(environment, size)
            assert len(written) > 10
            with pytest.raises(StorageFull, match="no space left on the disk"):
                put(environment, range(200_000, 200_050), size)
            assert held(environment) == {i: value(i, size) for i in written}
            half = len(written) // 2
            # A deletion needs pages, too, until the disk has room again.
            with contextlib.suppress(StorageFull):
                delete(environment, written[:half])
            assert len(held(environment)) in (len(written), len(written) - half)
            ballast.unlink()
            delete(environment, written[:half])
            put(environment, [300_000], size)
            expected = {i: value(i, size) for i in [*written[half:], 300_000]}
            assert held(environment) == expected
        with released(disk / "values") as environment:
            assert held(environment) == expected
