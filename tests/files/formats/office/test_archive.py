"""Archives: bombs, entities, encryption and broken members are refused or named."""

from __future__ import annotations

import zipfile

import pytest
from helpers.office_files import archive, docx, p, part
from helpers.text_files import refused, write

from smart_rag.files.formats.office.archive import Archive
from smart_rag.files.formats.office.docx import read_docx


def test_an_encrypted_document_is_named_as_such(tmp_path):
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 1024 + "EncryptedPackage".encode("utf-16-le") + b"\0" * 512
    assert refused(write(tmp_path / "a.docx", ole)) == "encrypted; save it without a password"
    path = docx(tmp_path / "b.docx", p("text"))
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02", 0)
    while start >= 0:  # the flag of each member in the directory
        data[start + 8] |= 1
        start = data.find(b"PK\x01\x02", start + 1)
    assert refused(write(path, bytes(data))) == "encrypted; save it without a password"


@pytest.mark.parametrize("states_its_size", [True, False])
def test_a_zip_bomb_is_refused(tmp_path, monkeypatch, states_its_size):
    """In little memory. A bomb may state a small size."""
    monkeypatch.setattr("smart_rag.files.formats.office.archive.MOST_BYTES", 1_000_000)
    path = archive(tmp_path / "a.docx", {"word/document.xml": b" " * 3_000_000})
    if not states_its_size:
        path.write_bytes(path.read_bytes().replace((3_000_000).to_bytes(4, "little"), (900_000).to_bytes(4, "little")))
    reason = refused(path)
    assert "zip bomb" in reason if states_its_size else "damaged" in reason


@pytest.mark.parametrize("external", [True, False])
def test_entities_are_neither_replaced_nor_fetched(tmp_path, external):
    secret = write(tmp_path / "secret.txt", "SECRET")
    other = f'SYSTEM "{secret.as_uri()}"' if external else '"SECRET"'
    body = f"<w:body><w:p><w:r><w:t>before &e; after</w:t></w:r></w:p>{p('Next.')}</w:body>"
    main = part("w:document", body).replace("?>", f"?><!DOCTYPE w:document [<!ENTITY e {other}>]>")
    (page,) = read_docx(archive(tmp_path / "a.docx", {"word/document.xml": main}))
    assert page.text == "before  after\n\nNext."
    assert page.left_out == ("the part 'word/document.xml' has XML entities, which are not read",)


def test_an_xml_bomb_is_not_unpacked(tmp_path):
    """Ten entities, each ten times the one before: 10 ** 9 laughs."""
    laughs = "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(9))
    main = part("w:document", f"<w:body>{p('before')}{p('&l9;')}{p('after')}</w:body>")
    main = main.replace("?>", f'?><!DOCTYPE w:document [<!ENTITY l0 "ha">{laughs}]>')
    (page,) = read_docx(archive(tmp_path / "a.docx", {"word/document.xml": main}))
    assert page.text.startswith("before")
    assert len(page.text) < 100
    assert page.left_out


def test_references_to_other_files_are_not_followed(tmp_path):
    (tmp_path / "secret.xml").write_text("<a/>")
    rels = (
        '<Relationships><Relationship Id="a" Type="x/header" Target="../../../secret.xml"/>'
        '<Relationship Id="b" Type="x/header" Target="http://example.com/a.xml" TargetMode="External"/></Relationships>'
    )
    with Archive(docx(tmp_path / "a.docx", p("text"), rels)) as opened:
        assert opened.related("word/document.xml") == {"a": ("header", "../../secret.xml")}
        assert opened.part("../../secret.xml") is None
        assert "has no part" in opened.left_out[0]


def test_a_member_that_cannot_be_unpacked_is_named(tmp_path):
    path = archive(tmp_path / "a.docx", {"word/document.xml": part("w:document", p("a" * 1000))})
    data = path.read_bytes()
    with zipfile.ZipFile(path) as sound:
        start = sound.infolist()[0].header_offset + 30 + len("word/document.xml")
    write(path, data[:start] + b"\xff" * 8 + data[start + 8 :])
    assert refused(path) == "damaged, or not a .docx file (its part 'word/document.xml' cannot be unpacked)"


def test_of_a_damaged_member_the_sound_beginning_is_read(tmp_path):
    words = " ".join(f"word{i * 7919 % 10_007}" for i in range(20_000))
    path = archive(tmp_path / "a.docx", {"word/document.xml": part("w:document", p("First.") + p(words))})
    data = path.read_bytes()
    write(path, data[: len(data) // 2] + b"\xff" * 8 + data[len(data) // 2 + 8 :])
    (page,) = read_docx(path)
    assert page.text.startswith("First.\n\nword0 word7919")
    assert page.left_out == ("the part 'word/document.xml' is damaged, and what follows the damage may be missing",)
