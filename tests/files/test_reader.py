"""Files in, documents out: every format, everything that can be wrong with a file, and chunks."""

from __future__ import annotations

import os
import random
import re
import struct
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path

import docx
import pytest
from fpdf import FPDF
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag import IndexConfig
from smart_rag.encoders.protocol import token_counter
from smart_rag.errors import DocumentError, InvalidInput
from smart_rag.files.reader import FORMATS, Chunker, Page, find, read
from smart_rag.types import PdfPage

JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"
CHINESE = "中华人民共和国的首都是北京。这座城市有三千多年的历史，是全国的政治中心、文化中心。"  # noqa: RUF001
GERMAN = "Die Straße war naß, und die Bäume am Fluß standen schön im Nebel. Über den Dächern flogen Vögel."
FRENCH = "L'été dernier, nous avons visité l'hôtel près de la forêt où les élèves étaient déjà arrivés. Ça va bien."
ITALIAN = "La città è più bella di così; perché non può andare? Però l'università è già aperta, lunedì e martedì."
DANISH = "På øen bor der få mennesker, og færgen sejler kun én gang om dagen. Både køkken og værelse er små."
SENTENCES = [
    "The cat sat.",
    "A dog ran far.",
    "It rained all day.",
    "We went home.",
    "Fish swim.",
    "The bus was late.",
    "Nobody knew why.",
    "Tea is warm.",
]


def png() -> bytes:
    """One grey pixel."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\x7f")) + chunk(b"IEND", b"")
    )


def pdf(*pages: str, password: str | None = None, owner: str | None = None) -> bytes:
    """A PDF with a page for each text; a password makes it one that only opens with it."""
    made = FPDF()
    if password or owner:
        made.set_encryption(owner_password=owner or "owner", user_password=password)
    made.set_font("Helvetica", size=12)
    for text in pages:
        made.add_page()
        if text:
            made.multi_cell(0, 8, text)
    return bytes(made.output())


def word_file(path: Path) -> Path:
    """A .docx with a heading, a table between two paragraphs, and nothing else."""
    made = docx.Document()
    made.add_heading("Spare parts")
    made.add_paragraph("They are kept in the workshop.")
    table = made.add_table(2, 2)
    for i, text in enumerate(["part", "drawer", "bearing", "four"]):
        table.cell(i // 2, i % 2).text = text
    made.add_paragraph("Ask Tobias for the key.")
    made.save(str(path))
    return path


def text_of(path: Path) -> str:
    """The text of a file of one page without a number."""
    (page,) = read(path)
    assert page.number is None
    return page.text


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


# --- formats --------------------------------------------------------------------------------


def test_the_formats_tested_here_are_all_there_are():
    assert set(FORMATS) == {".txt", ".md", ".html", ".htm", ".pdf", ".docx"}


@pytest.mark.parametrize("name", ["a.txt", "a.md", "A.TXT", "a.Md"])
def test_text_is_read_as_it_is(tmp_path, name):
    text = "# Title\n\n- an *item*\n- 5 < 6 & more\n"
    assert text_of(write(tmp_path / name, text)) == text


def test_a_pdf_is_read_page_by_page_and_a_blank_page_keeps_its_number(tmp_path):
    path = write(tmp_path / "a.pdf", pdf("The first page is about cats.", "", "The third, about dogs."))
    pages = list(read(path))
    assert pages == [
        Page("The first page is about cats.", 1, PdfPage(path, 1)),
        Page("The third, about dogs.", 3, PdfPage(path, 3)),
    ]


def test_a_pdf_keeps_lines_apart_and_words_whole(tmp_path):
    made = FPDF()
    made.set_font("Helvetica", size=12)
    made.add_page()
    made.multi_cell(40, 8, "The inter\u00adnational pump\u00adhouse is a well-known place.", align="L")
    (page,) = read(write(tmp_path / "a.pdf", bytes(made.output())))
    assert "\r" not in page.text
    assert "\ufffe" not in page.text
    assert page.text.count("\n") >= 2
    assert "well-known" in page.text


def test_a_pdf_that_only_its_owner_may_change_can_be_read(tmp_path):
    assert [page.text for page in read(write(tmp_path / "a.pdf", pdf("Read me.", owner="secret")))] == ["Read me."]


def test_a_docx_gives_paragraphs_and_tables_in_their_order(tmp_path):
    assert text_of(word_file(tmp_path / "a.docx")).split("\n\n") == [
        "Spare parts",
        "They are kept in the workshop.",
        "part | drawer",
        "bearing | four",
        "Ask Tobias for the key.",
    ]


@pytest.mark.parametrize("name", ["a.html", "a.htm"])
def test_html_gives_what_a_reader_sees(tmp_path, name):
    html = """<!doctype html><html><head><style>p {color: red}</style><script>var secret = 1;</script></head>
        <body><!-- a comment --><h1>Prices</h1><p>Fish &amp; chips, 5&nbsp;pounds, caf&eacute;, <b>bo</b>ld
        <i>word</i>.</p><script>alert("no")</script>
        <table><tr><td>outer</td><td><table><tr><td>inner</td><td>cell</td></tr></table></td></tr>
        <tr><td>last</td></tr></table></body></html>"""
    text = text_of(write(tmp_path / name, html))
    assert " ".join(text.split()) == "Prices Fish & chips, 5 pounds, café, bold word. outer inner cell last"
    assert text.index("Prices") < text.index("\n") < text.index("Fish")


def test_html_of_another_encoding_is_read(tmp_path):
    html = f'<html><head><meta charset="shift_jis"></head><body><p>{JAPANESE}</p></body></html>'
    assert text_of(write(tmp_path / "a.html", html.encode("shift_jis"))).strip() == JAPANESE


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8", "Grüße, 猫 and 😀"),
        ("utf-8-sig", "Grüße, 猫 and 😀"),
        ("utf-16", "Grüße from the pier, 猫"),
        ("latin-1", GERMAN),
        ("cp1252", "The café’s price is £5 — “naïve” résumé writers pay 20 °C more."),  # noqa: RUF001
        ("shift_jis", JAPANESE),
        ("gb18030", CHINESE),
    ],
)
def test_text_of_any_usual_encoding_is_read(tmp_path, encoding, text):
    assert text_of(write(tmp_path / "a.txt", text.encode(encoding))) == text


@pytest.mark.xfail(strict=True, reason="charset-normalizer takes cp1250 or cp1257 for western Europe's languages")
@pytest.mark.parametrize("text", [FRENCH, ITALIAN, DANISH], ids=["French", "Italian", "Danish"])
def test_western_european_text_in_latin_1_is_read(tmp_path, text):
    assert text_of(write(tmp_path / "a.txt", text.encode("latin-1"))) == text


# --- files that cannot be read --------------------------------------------------------------


def refused(path: Path) -> str:
    """The reason why `read` refuses ``path``, having checked that the error names the file."""
    with pytest.raises(DocumentError) as caught:
        list(read(path))
    assert caught.value.path == path
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert "\n" not in caught.value.reason
    return caught.value.reason


NOISE = random.Random(0).randbytes(3000)
SOUND_PDF = pdf("A page.", "Another page.")


@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_an_empty_file_is_refused(tmp_path, suffix):
    assert refused(write(tmp_path / f"a{suffix}", b"")) == "the file is empty"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", " \n\t\u3000\n"),
        ("a.md", "\n\n"),
        ("a.html", "<html><body><script>x</script><p> </p></body></html>"),
        ("a.html", "  \n"),
        ("a.pdf", pdf("", "")),
    ],
)
def test_a_blank_file_is_refused(tmp_path, name, data):
    assert "no text in it" in refused(write(tmp_path / name, data))


@pytest.mark.parametrize("suffix", [".txt", ".md", ".html"])
@pytest.mark.parametrize(
    "data",
    [png(), b"words and\0more words", NOISE, zlib.compress(b"hello " * 999), "no mark".encode("utf-16-le")],
    ids=["png", "nul", "noise", "zlib", "utf-16 without a mark"],
)
def test_a_binary_file_that_calls_itself_text_is_refused(tmp_path, suffix, data):
    assert refused(write(tmp_path / f"a{suffix}", data)) == "binary data, not text"


def test_an_encrypted_pdf_is_refused_as_such(tmp_path):
    path = write(tmp_path / "a.pdf", pdf("Secret.", password="sesame"))
    assert refused(path) == "encrypted, a password is needed"


@pytest.mark.parametrize("length", [10, len(SOUND_PDF) // 3, len(SOUND_PDF) // 2, len(SOUND_PDF) * 9 // 10])
def test_a_truncated_pdf_is_refused(tmp_path, length):
    assert refused(write(tmp_path / "a.pdf", SOUND_PDF[:length])) == "not a sound PDF"


def test_noise_that_calls_itself_a_pdf_is_refused(tmp_path):
    assert "not a sound PDF" in refused(write(tmp_path / "a.pdf", NOISE))


def test_what_is_no_word_file_is_refused(tmp_path):
    reason = "not a sound .docx file"
    assert refused(write(tmp_path / "a.docx", b"not a zip")) == reason
    sound = word_file(tmp_path / "sound.docx").read_bytes()
    assert refused(write(tmp_path / "cut.docx", sound[: len(sound) // 2])) == reason
    with zipfile.ZipFile(tmp_path / "other.docx", "w") as other:
        other.writestr("hello.txt", "a zip of something else")
    assert refused(tmp_path / "other.docx") == reason


@pytest.mark.parametrize("damage", ["deflate", "xml", "no body"])
def test_a_damaged_word_file_is_refused(tmp_path, damage):
    path = word_file(tmp_path / "a.docx")
    data = path.read_bytes()
    if damage == "deflate":  # within the compressed bytes of the first member
        path.write_bytes(data[:100] + b"\xff" * 300 + data[400:])
    else:
        with zipfile.ZipFile(path) as sound:
            members = {name: sound.read(name) for name in sound.namelist()}
        main = members["word/document.xml"]
        members["word/document.xml"] = main[:50] if damage == "xml" else re.sub(rb"(?s)<w:body>.*</w:body>", b"", main)
        with zipfile.ZipFile(path, "w") as damaged:
            for name, member in members.items():
                damaged.writestr(name, member)
    assert "not a sound .docx file" in refused(path)


@pytest.mark.parametrize(("name", "suffix"), [("a.xyz", ".xyz"), ("README", "no suffix"), (".txt", "no suffix")])
def test_a_file_of_an_unknown_format_is_refused(tmp_path, name, suffix):
    reason = refused(write(tmp_path / name, b"words"))
    assert reason.startswith(f"{suffix} is not a known format")
    assert all(known in reason for known in FORMATS)


@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_a_link_to_nowhere_cannot_be_read(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.symlink_to(tmp_path / "gone")
    assert "cannot be read (No such file" in refused(path)


def test_a_folder_that_calls_itself_a_file_cannot_be_read(tmp_path):
    (tmp_path / "a.txt").mkdir()
    assert "cannot be read (Is a directory)" in refused(tmp_path / "a.txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize(
    "suffix",
    [
        ".txt",
        ".html",
        ".pdf",
        pytest.param(".docx", marks=pytest.mark.xfail(strict=True, reason="blamed on the file's contents")),
    ],
)
def test_a_file_without_permission_cannot_be_read(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", SOUND_PDF)
    path.chmod(0)
    assert "Permission denied" in refused(path)


# --- find -----------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """A folder of documents, with what is not to be found among them."""
    root = tmp_path / "tree"
    for name in (
        *("a.txt", "b.md", "c.PDF", "deep/d.html", "deep/er/e.txt", "drafts/f.md", "drafts/old/g.md", "named.txt/h.md"),
        *(".hidden.txt", ".git/i.txt", "deep/.cache/j.txt", "photo.jpg", "README"),
    ):
        write(root / name, b"words")
    return root


def names(root: Path, **patterns) -> list[str]:
    return [path.relative_to(root.resolve()).as_posix() for path in find([root], **patterns)]


def test_a_folder_is_walked_without_what_is_hidden_or_of_other_formats(tree):
    assert names(tree) == [
        "a.txt",
        "b.md",
        "c.PDF",
        "deep/d.html",
        "deep/er/e.txt",
        "drafts/f.md",
        "drafts/old/g.md",
        "named.txt/h.md",
    ]
    assert all(path.is_absolute() for path in find([tree]))


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({"include": ["*.txt"]}, ["a.txt", "deep/er/e.txt"]),
        ({"include": ["a.txt", "d.*"]}, ["a.txt", "deep/d.html"]),
        ({"include": ["drafts/*"]}, ["drafts/f.md", "drafts/old/g.md"]),
        ({"include": ["deep/er/e.txt"]}, ["deep/er/e.txt"]),
        ({"include": ["*.jpg"]}, ["photo.jpg"]),
        ({"exclude": ["*.md", "deep/*", "c.PDF"]}, ["a.txt"]),
        ({"include": ["*.md"], "exclude": ["drafts/old/*", "h.md"]}, ["b.md", "drafts/f.md"]),
    ],
)
def test_patterns_match_names_and_paths_below_the_folder(tree, patterns, expected):
    assert names(tree, **patterns) == expected


def test_a_pattern_brings_nothing_hidden_back(tree):
    with pytest.raises(InvalidInput, match="no documents found"):
        find([tree], include=[".hidden.txt", "i.txt"])


def test_a_file_that_is_named_is_taken_whatever_the_patterns_say(tree):
    named = [tree / "a.txt", tree / ".hidden.txt", tree / "photo.jpg"]
    found = find([*named, tree / "drafts"], include=["f.*"], exclude=["a.txt", ".*", "*.jpg"])
    assert set(found) == {path.resolve() for path in [*named, tree / "drafts" / "f.md"]}


def test_a_folder_in_a_hidden_folder_can_be_named(tree):
    assert names(tree / ".git") == ["i.txt"]


def test_each_file_is_found_once(tree, monkeypatch):
    monkeypatch.chdir(tree)
    found = find(["a.txt", tree, "deep/../a.txt", tree / "deep", "."])
    assert len(found) == len(set(found)) == 8


def test_a_file_with_a_link_to_it_is_found_once(tree):
    (tree / "deep" / "link.txt").symlink_to(tree / "a.txt")
    assert "deep/link.txt" not in names(tree)


def test_files_are_sorted_over_all_paths(tree):
    assert [path.name for path in find([tree / "b.md", tree / "a.txt"])] == ["a.txt", "b.md"]


def test_loops_of_links_do_not_hang(tree):
    (tree / "deep" / "up").symlink_to(tree)
    (tree / "self").symlink_to(tree / "self")
    (tree / "nowhere.txt").symlink_to(tree / "gone")
    assert len(names(tree)) == 8


def test_a_home_folder_is_expanded(tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree))
    assert find(["~/a.txt"]) == [(tree / "a.txt").resolve()]


def test_a_path_that_is_missing_is_named(tree):
    with pytest.raises(InvalidInput, match=r"no/such/place does not exist"):
        find([tree, "no/such/place"])


@pytest.mark.parametrize("patterns", [{}, {"include": ["*.txt"]}])
def test_a_folder_without_documents_is_named(tmp_path, patterns):
    write(tmp_path / "only" / "photo.jpg", b"x")
    with pytest.raises(InvalidInput, match=r"no documents found in .*only; the formats are \.txt, \.md"):
        find([tmp_path / "only"], **patterns)


def test_no_paths_at_all():
    with pytest.raises(InvalidInput, match="no documents found in nothing"):
        find([])


def test_images_and_videos_that_a_model_does_not_take_are_counted(tmp_path, caplog):
    """Only those in folders that would be taken by another model: not what is hidden, excluded or no document."""
    for name in ("a.txt", "b.png", "c.JPG", "d.mp4", ".hidden.png", "e.zip", "drafts/f.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"something")

    def warned(*paths, **options):
        caplog.clear()
        found = [path.name for path in find(paths, **options)]
        return found, [record.getMessage() for record in caplog.records]

    assert warned(tmp_path, exclude=["drafts/*"]) == (
        ["a.txt"],
        ["3 files left out (.jpg, .mp4, .png): this model takes text"],
    )
    assert warned(tmp_path, exclude=["drafts/*", "*.png"], modalities=("text", "image")) == (
        ["a.txt", "c.JPG"],
        ["1 file left out (.mp4): this model takes image, text"],
    )
    assert warned(tmp_path, modalities=("text", "image", "video"))[1] == []
    # Who names a file, or a pattern, hears of it when it is read.
    assert warned(tmp_path / "b.png") == (["b.png"], [])
    assert warned(tmp_path, include=["*.png"])[1] == []
    assert warned(tmp_path, *map(tmp_path.joinpath, ("b.png", "c.JPG", "d.mp4", "drafts/f.png")))[1] == []


# --- chunks ---------------------------------------------------------------------------------


def cut(encoder, *texts: str, tokens: int, overlap: int = 0) -> list[str]:
    chunker = Chunker(token_counter(encoder), IndexConfig(chunk_tokens=tokens, chunk_overlap=overlap))
    return [document.text for document in chunker.cut(map(Page, texts), "a file")]


PIECES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "a word ",
            "Sentence. ",
            "antidisestablishmentarianism",
            "x" * 120,
            "6205-2RS ",
            "\n\n",
            "# Title\n",
            "数据检索。",
            "e\u0301",
            "👨\u200d👩\u200d👧",
            "\u3000",
            "Straße? ",
        ]
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=40).map("".join), st.integers(3, 30), st.integers(0, 2))
def test_no_chunk_is_above_the_limit_or_blank(minilm, text, tokens, overlap):
    chunks = cut(minilm, text, tokens=tokens, overlap=overlap)
    assert all(count <= tokens for count in minilm.count_tokens(chunks))
    assert all(chunk.strip() for chunk in chunks)


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=40).map("".join), st.integers(3, 30))
def test_only_whitespace_is_lost_between_chunks(minilm, text, tokens):
    chunks = cut(minilm, text, tokens=tokens)
    assert "".join("".join(chunks).split()) == "".join(text.split())


def test_a_text_below_the_limit_stays_whole(minilm):
    text = " ".join(SENTENCES)
    tokens = minilm.count_tokens([text])[0]
    assert cut(minilm, text, tokens=tokens) == [text]
    assert len(cut(minilm, text, tokens=tokens - 1)) == 2


@pytest.mark.parametrize("tokens", [6, 11, 17])
def test_chunks_end_where_sentences_end_and_are_filled(minilm, tokens):
    chunks = cut(minilm, " ".join(SENTENCES), tokens=tokens)
    rest = list(SENTENCES)
    for chunk in chunks:
        taken = [rest.pop(0)]
        while rest and minilm.count_tokens([" ".join([*taken, rest[0]])])[0] <= tokens:
            taken.append(rest.pop(0))
        assert chunk == " ".join(taken)
    assert not rest


def test_chunks_end_where_paragraphs_end(minilm):
    first, second = " ".join(SENTENCES[:4]), " ".join(SENTENCES[4:])
    assert cut(minilm, f"{first}\n\n{second}", tokens=max(minilm.count_tokens([first, second])) + 3) == [first, second]


def test_neighbours_overlap(minilm):
    text = " ".join(f"{sentence[:-1]} {i}." for i, sentence in enumerate(SENTENCES * 4))
    chunks = cut(minilm, text, tokens=24, overlap=8)
    assert len(chunks) > 5
    for one, next_one in pairwise(chunks):
        shared = max(length for length in range(len(one) + 1) if next_one.startswith(one[len(one) - length :]))
        assert 0 < minilm.count_tokens([one[len(one) - shared :]])[0] <= 8
        assert text.index(one) < text.index(next_one)
    assert text.startswith(chunks[0])
    assert text.endswith(chunks[-1])


def test_chunks_know_their_file_their_page_and_their_number(minilm):
    chunker = Chunker(token_counter(minilm), IndexConfig(chunk_tokens=12, chunk_overlap=0))
    pages = [Page(" ".join(SENTENCES), 1), Page("One more.", 3), Page(" ".join(SENTENCES), 4)]
    documents = list(chunker.cut(pages, "/docs/a.pdf"))
    assert len({document.id for document in documents}) == len(documents)
    assert [document.metadata["chunk"] for document in documents] == list(range(len(documents)))
    assert {document.metadata["source"] for document in documents} == {"/docs/a.pdf"}
    by_page = {number: [d.text for d in documents if d.metadata["page"] == number] for number in (1, 3, 4)}
    assert " ".join(by_page[1]) == " ".join(by_page[4]) == " ".join(SENTENCES)
    assert by_page[3] == ["One more."]
    assert not {d.id for d in documents} & {d.id for d in chunker.cut(pages, "/docs/b.pdf")}


def test_a_format_without_pages_has_no_page(minilm):
    chunker = Chunker(token_counter(minilm), IndexConfig())
    (document,) = chunker.cut([Page("Some words.")], "a.txt")
    assert document.metadata == {"source": "a.txt", "chunk": 0}


def test_an_encoder_that_counts_no_tokens_has_its_words_counted():
    text = " ".join(SENTENCES)
    chunks = cut(object(), text, tokens=7)
    assert " ".join(chunks) == text
    assert [len(chunk.split()) for chunk in chunks] == [7, 7, 6, 6]
    assert all(chunk.endswith(".") for chunk in chunks)


def test_every_format_is_cut_and_read_together(tmp_path, minilm):
    """From files to documents: what is in a file is in its documents."""
    write(tmp_path / "a.txt", "The lamp is red.")
    write(tmp_path / "b.md", "# Lamps\n\nThe lamp is green.")
    write(tmp_path / "c.html", "<p>The lamp is <b>blue</b>.</p>")
    write(tmp_path / "d.pdf", pdf("", "The lamp is white."))
    word_file(tmp_path / "e.docx")
    chunker = Chunker(token_counter(minilm), IndexConfig())
    found = [document for path in find([tmp_path]) for document in chunker.cut(read(path), path.name)]
    assert [(d.metadata["source"], d.metadata.get("page")) for d in found] == [
        ("a.txt", None),
        ("b.md", None),
        ("c.html", None),
        ("d.pdf", 2),
        ("e.docx", None),
    ]
    for document, words in zip(found, ["is red", "is green", "is blue", "is white", "bearing | four"], strict=True):
        assert words in document.text
