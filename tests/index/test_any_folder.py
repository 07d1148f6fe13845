"""Any folder: no name, no content and no permission of a file ends a run, and each file is in the report."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from helpers.other_users import NOBODY, need_root, open_folder, run_as
from helpers.word_encoder import WordEncoder
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag import IndexConfig, SmartIndex
from smart_rag.files.reader import FORMATS

NAMES = [
    b"a",
    b"b c",
    b"caf\xc3\xa9",
    b"caf\xe9",
    b"new\nline",
    b"\x1b[2J",
    b"~$x",
    b"#1",
    b"%s",
    b"a" * 240,
    b".x",
    b"-",
]
SUFFIXES = [*(suffix.encode() for suffix in FORMATS), b".TXT", b"", b".zip", b".png", b".mp4"]
CONTENTS = [
    *(
        b"",
        b" \n",
        b"\0" * 9,
        b"The cat sat.",
        "Schöne Grüße".encode("cp1252"),
        b"\xff\xfe",
        b"PK\x03\x04",
        b"%PDF-1.4\n",
    ),
    *(b"<p>" * 999, b"{" * 99, b"{\\rtf1 words}", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"Subject: x\n\nwords"),
    *("\u200b".encode(), b"a,b\n1,2\n", random.Random(1).randbytes(999)),
]
KINDS = ("file", "link to itself", "link to nowhere", "link out", "pipe", "folder")
entries = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.sampled_from(NAMES),
        st.sampled_from(SUFFIXES),
        st.sampled_from(CONTENTS),
        st.booleans(),
    ),
    max_size=12,
)


def make(folder: Path, tree) -> None:
    (folder / "deep").mkdir(parents=True)
    for kind, name, suffix, content, is_deep in tree:
        path = os.fsencode(folder / "deep" if is_deep else folder) + b"/" + name + suffix
        if os.path.lexists(path):
            continue
        if kind == "file":
            Path(os.fsdecode(path)).write_bytes(content)
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            os.mkdir(path)
        else:
            os.symlink({"link to itself": path, "link to nowhere": b"nowhere", "link out": b"/etc/passwd"}[kind], path)


def named_in(report) -> set[Path]:
    return {one.path for part in (report.read, report.failed, report.skipped) for one in part}


@settings(max_examples=25, deadline=None)
@given(tree=entries)
def test_nothing_in_a_folder_ends_a_run(tmp_path_factory, tree):
    root = tmp_path_factory.mktemp("any").resolve()
    make(root / "docs", tree)
    (root / "docs" / "sound.txt").write_text("A sound file, which is found whatever else there is.")
    with SmartIndex.create(
        root / "index", WordEncoder(), config=IndexConfig(chunk_tokens=20, chunk_overlap=0)
    ) as index:
        report = index.add_files([root / "docs"])
        assert root / "docs" / "sound.txt" in {file.path for file in report.read}
        places = named_in(report)
        for folder, folders, files in os.walk(root / "docs"):
            for name in files + [one for one in folders if os.path.islink(os.path.join(folder, one))]:
                path = Path(folder) / name
                assert any(path.is_relative_to(place) for place in places), path
        assert sum(file.passages for file in report.read) == report.added == index.count()
        assert index.search("sound file", 1)[0].source.endswith("sound.txt")
        # The second run finds everything as it was.
        again = index.add_files([root / "docs"])
        assert (again.unchanged, again.added, again.replaced) == (report.added, 0, 0)
        assert again.failed == report.failed
        assert index.verify().sound


@pytest.mark.parametrize("mode", [0o000, 0o600])
def test_permissions_that_are_taken_away_later_end_no_run(mode):
    """Root may read everything, so another user runs it."""
    need_root()
    root = open_folder((NOBODY, NOBODY))
    (root / "docs" / "closed").mkdir(parents=True)
    for name in ("open.txt", "closed/a.txt", "unreadable.txt"):
        (root / "docs" / name).write_text(f"The words of {name}.")
        (root / "docs" / name).chmod(0o644)
    for folder in ("docs", "docs/closed"):
        (root / folder).chmod(0o755)
    (root / "docs" / "unreadable.txt").chmod(0)
    code = """
        import json
        from pathlib import Path
        index_path = Path(path) / "index"
        if index_path.exists():
            index = SmartIndex.open(index_path, WordEncoder())
        else:
            index = SmartIndex.create(index_path, WordEncoder())
        with index:
            report = index.add_files([Path(path) / "docs"], prune=True)
            gone = [one.exists for one in index.sources()]
        say(json.dumps([report.added, report.unchanged, report.removed, [f.path.name for f in report.failed], gone]))
    """
    first = json.loads(run_as(NOBODY, root, code))
    assert first == [2, 0, 0, ["unreadable.txt"], [True, True]]
    (root / "docs" / "closed").chmod(mode)
    second = json.loads(run_as(NOBODY, root, code))
    assert second[:3] == [0, 1, 0]
    assert set(second[3]) >= {"unreadable.txt"}
    assert len(second[3]) == 2
    assert sorted(map(str, second[4])) == ["None", "True"]
