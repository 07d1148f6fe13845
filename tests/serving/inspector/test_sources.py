"""The files of an index, by HTTP as the page asks: lists, new files, files that cannot be read, removal."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from helpers.odd_files import fpdf_pages
from helpers.served import problem_of, server
from helpers.word_encoder import WordEncoder

from smart_rag import SmartIndex

AT = "/indexes/words/inspector"
OURS = {"X-Smart-Rag": "inspector"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "birds.txt").write_text("Birds sing in the morning.")
    (tmp_path / "fish.txt").write_text("\n\n".join(f"Fish number {i} swims. " * 40 for i in range(30)))
    with SmartIndex.create(tmp_path / "words.index", WordEncoder()) as index:
        index.add_files([tmp_path / "birds.txt", tmp_path / "fish.txt"])
        index.add_texts(["A text of no file."], ["own"], [{"page": 3}])
    return tmp_path


@pytest.fixture
def client(folder):
    with server({"words": SmartIndex.open(folder / "words.index", WordEncoder())}) as client:
        yield client


def add(client, name, data):
    return client.post(f"{AT}/files", params={"name": name}, content=data, headers=OURS)


def test_files_and_passages_are_listed(client, folder):
    listed = client.get(f"{AT}/sources").json()
    assert [(one["path"], one["exists"]) for one in listed["sources"]] == [
        (str(folder / name), True) for name in ("birds.txt", "fish.txt")
    ]
    fish = listed["sources"][1]["passages"]
    assert listed["passages"] == fish + 2 > 10
    assert listed["apart"] == 1
    (folder / "birds.txt").unlink()
    assert client.get(f"{AT}/sources").json()["sources"][0]["exists"] is False
    found, start = [], 0
    while True:
        page = client.get(f"{AT}/passages", params={"start": start, "count": 7}).json()
        found += page["passages"]
        start += 7
        if not page["more"]:
            break
    assert len({one["id"] for one in found}) == len(found) == listed["passages"]
    assert all(len(one["text"]) <= 400 and one["characters"] >= len(one["text"]) for one in found)
    only = client.get(f"{AT}/passages", params={"source": str(folder / "fish.txt"), "count": 100}).json()
    assert len(only["passages"]) == fish
    (one,) = client.get(f"{AT}/passages", params={"contains": "no file"}).json()["passages"]
    assert (one["id"], one["metadata"], one["image"]) == ("own", {"page": 3}, False)


def test_a_file_is_added_replaced_and_removed(client, folder):
    uploads = folder / "words.index.uploads"
    first = add(client, "new.txt", b"The heron waits.").json()
    assert (first["added"], first["passages"], first["problem"]) == (1, 1, None)
    assert first["source"] == str(uploads / "new.txt")
    assert client.post("/search", json={"query": "heron", "top_k": 1}).json()["hits"][0]["source"] == first["source"]
    again = add(client, "new.txt", b"The stork waits.").json()
    assert (again["added"], again["replaced"]) == (0, 1)
    assert client.get(f"{AT}/passages", params={"contains": "heron"}).json()["passages"] == []
    assert add(client, "new.txt", b"The stork waits.").json()["unchanged"] == 1
    removed = client.request("DELETE", f"{AT}/sources", json={"paths": [first["source"]]})
    assert removed.json() == {"removed": 1}
    assert list(uploads.iterdir()) == []
    own = client.request("DELETE", f"{AT}/sources", json={"paths": [str(folder / "birds.txt")]})
    assert own.json() == {"removed": 1}
    assert (folder / "birds.txt").exists()  # only what the page has added is removed from the disk


def test_pages_of_an_added_pdf_are_shown(client):
    added = add(client, "a.pdf", fpdf_pages("The first page.", "The second page.")).json()
    assert added["passages"] == 2
    found = client.get(f"{AT}/passages", params={"source": added["source"]}).json()["passages"]
    assert [(one["metadata"]["page"], one["image"]) for one in found] == [(1, True), (2, True)]
    picture = client.get(f"/images/{found[1]['id'].replace('#', '%23')}")
    assert picture.headers["content-type"] == "image/jpeg"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("broken.pdf", b"%PDF-1.7 broken", "pdf"),
        ("empty.txt", b"", "the file is empty"),
        ("odd.xyz", b"\x00\x01\x02" * 50, "not a known format"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_leaves_nothing(client, folder, name, data, said):
    before = client.get(f"{AT}/sources").json()
    answer = add(client, name, data)
    assert answer.status_code == 200
    assert said in answer.json()["problem"].lower()
    assert client.get(f"{AT}/sources").json() == before
    assert list((folder / "words.index.uploads").iterdir()) == []


def test_a_broken_file_does_not_take_the_place_of_a_good_one(client, folder):
    good = add(client, "a.pdf", fpdf_pages("The good page.")).json()
    assert add(client, "a.pdf", b"%PDF-1.7 broken").json()["problem"]
    assert (folder / "words.index.uploads" / "a.pdf").read_bytes().startswith(b"%PDF")
    assert client.get(f"{AT}/passages", params={"source": good["source"]}).json()["passages"]
    assert add(client, "a.pdf", (folder / "words.index.uploads" / "a.pdf").read_bytes()).json()["unchanged"] == 1


def test_names_lead_nowhere_else(client, folder):
    for name, kept in (
        ("../../evil.txt", "_.._evil.txt"),
        ("/etc/evil.txt", "_etc_evil.txt"),
        ("a\0b\n.txt", "a_b_.txt"),
        (".hidden.txt", "hidden.txt"),
        ("ü" * 200 + ".txt", "ü" * 73 + ".txt"),
    ):
        added = add(client, name, f"A file called {name!r}.".encode()).json()
        assert added["name"] == kept
        assert (folder / "words.index.uploads" / kept).exists()
    assert "no letter" in problem_of(add(client, "../..", b"x"))["detail"]
    outside = folder / "outside.txt"
    outside.write_text("Outside.")
    (folder / "words.index.uploads" / "link.txt").symlink_to(outside)
    assert add(client, "link.txt", b"Overwritten.").status_code == 403
    assert outside.read_text() == "Outside."


def test_what_is_refused_changes_nothing(client, folder):
    form = client.post(f"{AT}/files", params={"name": "a.txt"}, content=b"x")
    assert form.status_code == 403
    foreign = client.post(
        f"{AT}/files", params={"name": "a.txt"}, content=b"x", headers={**OURS, "Origin": "http://evil.example"}
    )
    assert foreign.status_code == 403
    assert not (folder / "words.index.uploads").exists()
    known = str(folder / "birds.txt")
    for path in (str(folder), "/etc/passwd", ""):
        answer = client.request("DELETE", f"{AT}/sources", json={"paths": [known, path]})
        assert answer.status_code == 404
    assert len(client.get(f"{AT}/sources").json()["sources"]) == 2
