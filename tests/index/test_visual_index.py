"""An index of pages, images and videos, by tiny random models: what is in it, and what is said of what is not."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fpdf import FPDF
from helpers import odd_files, tiny_vision
from helpers.command_line import good, run
from helpers.word_encoder import TESTS
from PIL import Image

from smart_rag import Document, SmartEncoder, SmartIndex
from smart_rag.errors import DocumentError, IndexMismatch, InvalidInput
from smart_rag.files import limits
from smart_rag.reports import AddReport
from smart_rag.types import Content, PdfPage

# A page of 48 patches.
PIXELS = 48 * 32 * 32


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tiny_vision.qwen3_vl(tmp_path_factory.mktemp("model"))
    return SmartEncoder(folder, profile="qwen3-vl-embedding", max_pixels=PIXELS)


@pytest.fixture
def index(tmp_path, encoder):
    with SmartIndex.create(tmp_path / "index", encoder) as made:
        yield made


def picture(width=120, height=80, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def pdf(path, *texts):
    document = FPDF()
    document.set_font("Helvetica", size=40)
    for text in texts:
        document.add_page()
        if text:
            document.multi_cell(0, 20, text)
    document.output(str(path))
    return path


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "files"
    made.mkdir()
    pdf(made / "report.pdf", "Rates rose.", "", "Rain fell.")
    picture().save(made / "photo.png")
    odd_files.video(made / "clip.mp4", frames=10)
    (made / "notes.txt").write_text("The cat sat on the mat. " * 5)
    return made


def ids(index, name):
    return sorted(
        document.id for document in index.documents() if Path(document.metadata.get("source", "")).name == name
    )


def test_each_kind_of_file_is_what_it_is(index, folder):
    """A page has its image and its text, also one without text; an image and a video are one document each."""
    assert index.add_files([folder]) == AddReport(added=6)
    found = {document.id.removeprefix(f"{folder.resolve()}/"): document for document in index.documents()}
    assert sorted(found) == ["clip.mp4#0", "notes.txt#0", "photo.png#0", "report.pdf#0", "report.pdf#1", "report.pdf#2"]
    for number, text in enumerate(["Rates rose.", "", "Rain fell."]):
        page = found[f"report.pdf#{number}"]
        assert page.text.strip() == text
        assert page.image == PdfPage(folder.resolve() / "report.pdf", number + 1)
        assert page.metadata["page"] == number + 1
    assert found["photo.png#0"].image == folder.resolve() / "photo.png"
    assert found["clip.mp4#0"].video == folder.resolve() / "clip.mp4"
    assert found["notes.txt#0"].image is None
    rows = index._store.pooled.get([document.id for document in found.values()])
    modalities = {name: rows[document.id].modality for name, document in found.items()}
    assert modalities == dict.fromkeys(found, "image") | {"clip.mp4#0": "video", "notes.txt#0": "text"}
    assert index.add_files([folder]) == AddReport(unchanged=6)


def test_vectors_are_those_of_the_image(index, encoder, folder):
    """Of a page the image is encoded and not its text; of a picture with a caption, both."""
    index.add_files([folder / "report.pdf"])
    index.add([Document("captioned", "A caption of it.", image=folder / "photo.png")])
    page = index.get(ids(index, "report.pdf")[:1])[0]
    expected = encoder.encode_document([Content(image=page.image), Content("A caption of it.", folder / "photo.png")])
    stored = index._store.pooled.embeddings([page.id, "captioned"])
    assert np.allclose(stored[page.id], expected.pooled[0], atol=1e-5)
    assert np.allclose(stored["captioned"], expected.pooled[1], atol=1e-5)
    assert len(index.tokens(["captioned"])[0]) == len(expected.tokens[1])


def test_queries_of_every_kind(index, encoder, folder):
    """An image finds itself; a text and both together are queries as well; hits say where the image is."""
    index.add_files([folder])
    exact = Content(image=folder / "photo.png")
    hits = index.search(encoder.encode_document([exact]), top_k=6)
    assert hits[0].image == folder.resolve() / "photo.png"
    assert hits[0].pooled_score == pytest.approx(1, abs=1e-3)
    by_image = index.search(exact, top_k=6)
    assert {hit.id for hit in by_image} == {hit.id for hit in hits}
    assert by_image[0].late_score != index.search("Who sat there?")[0].late_score
    both = index.search(Content("Who sat there?", image=picture(seed=3)), top_k=2)
    assert len(both) == 2
    assert [hit.score for hit in index.rerank(exact, by_image)] == pytest.approx(
        [hit.score for hit in by_image], abs=1e-5
    )


def test_an_index_of_images_lasts(tmp_path, encoder, folder):
    """After moving and opening it again, images that came from memory are where they were: in the index."""
    with SmartIndex.create(tmp_path / "one", encoder) as index:
        index.add([Document("memory", image=picture(seed=5)), Document("file", image=str(folder / "photo.png"))])
        before = index.search("rain")
        assert index.add([Document("memory", image=picture(seed=5))]) == AddReport(unchanged=1)
    (tmp_path / "one").rename(tmp_path / "other")
    with SmartIndex.open(tmp_path / "other", encoder) as index:
        assert [(hit.id, hit.score) for hit in index.search("rain")] == [(hit.id, hit.score) for hit in before]
        (kept,) = [hit.image for hit in index.search("rain") if hit.id == "memory"]
        assert kept.is_relative_to(tmp_path / "other")
        assert np.array_equal(np.asarray(Image.open(kept)), np.asarray(picture(seed=5)))
        index.delete(["memory"])
        assert kept.exists()
        index.vacuum()
        assert not kept.exists()
        assert (folder / "photo.png").exists()


def test_tokens_of_images_are_repaired_from_the_file(index, folder):
    index.add_files([folder])
    row = next(row for row in index._store.pooled.select() if row.modality == "video")
    before = index.tokens([row.document.id])
    index._store.tokens.delete([row.key])
    assert index.verify().missing == (row.document.id,)
    index.verify(repair=True)
    assert index.verify().sound
    assert np.array_equal(index.tokens([row.document.id]).embeddings, before.embeddings)
    index._store.tokens.delete([row.key])
    (folder / "clip.mp4").unlink()
    with pytest.raises(DocumentError, match=r"clip\.mp4: cannot be read"):
        index.verify(repair=True)


def test_what_a_text_model_says_of_images(tmp_path, minilm, folder):
    """It takes a page's text; files that it can make nothing of are left alone, or named with the reason."""
    with SmartIndex.create(tmp_path / "index", minilm) as index:
        assert index.add_files([folder]).failed == ()
        assert sorted({Path(document.metadata["source"]).name for document in index.documents()}) == [
            "notes.txt",
            "report.pdf",
        ]
        pages = {document.metadata.get("page"): document.image for document in index.documents()}
        report = folder.resolve() / "report.pdf"
        assert pages == {None: None, 1: PdfPage(report, 1), 3: PdfPage(report, 3)}
        report = index.add_files([folder / "photo.png", folder / "clip.mp4"])
        assert [failed.reason for failed in report.failed] == [
            "needs a model that takes videos; this one takes text",
            "needs a model that takes images; this one takes text, or add its text with --ocr (in Python: ocr=True)",
        ]
        with pytest.raises(InvalidInput, match="document 'a' has no text; its image needs a model that takes it"):
            index.add([Document("a", image=picture())])
        assert index.add([Document("a", "a caption", image=picture())]) == AddReport(added=1)
        with pytest.raises(InvalidInput, match="the query has an image, but the index's model takes text"):
            index.search(Content(image=picture()))


def test_an_index_of_an_earlier_version_is_refused_until_it_is_converted(tmp_path, encoder):
    """Its manifest does not say who resized the images."""
    path = tmp_path / "index"
    with SmartIndex.create(path, encoder) as index:
        index.add([Document("a", image=picture())])
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["encoder"]["images"].pop("resizing") == "Pillow"
    manifest["fingerprint"] = "0" * 32
    (path / "manifest.json").write_text(json.dumps(manifest))
    with (
        SmartIndex.open(path) as index,
        pytest.raises(IndexMismatch, match=r"other images and positions than this one \(resizing\); encode the"),
    ):
        index.search("rates")
    with SmartIndex.open(path) as index:
        index.convert(encoder)
        assert index.search("rates")[0].id == "a"
    with SmartIndex.open(path, encoder) as index:
        assert index.search("rates")[0].id == "a"


def test_a_broken_page_leaves_the_others(index, folder, monkeypatch):
    """A page that cannot be drawn is reported with its number; the next run tries it again, and it alone."""
    from smart_rag.files.formats import pdf as reader

    draw = reader.Pdf.render_as

    def broken(self, number, size):
        if number == 2:
            raise DocumentError(self.path, "page 2 cannot be read")
        return draw(self, number, size)

    monkeypatch.setattr(reader.Pdf, "render_as", broken)
    with limits(file_seconds=None, file_memory=None):  # drawn in this process, whose method is broken
        report = index.add_files([folder / "report.pdf"])
    assert (report.added, [failed.reason for failed in report.failed]) == (2, ["page 2 cannot be read"])
    monkeypatch.undo()
    assert index.add_files([folder / "report.pdf"]) == AddReport(added=1, unchanged=2)
    assert index.add_files([folder / "report.pdf"]) == AddReport(unchanged=3)


def test_a_changed_image_replaces_the_old_one(index, folder):
    index.add_files([folder / "photo.png"])
    before = index.tokens(ids(index, "photo.png")).embeddings
    picture(seed=9).save(folder / "photo.png")
    assert index.add_files([folder / "photo.png"]) == AddReport(replaced=1)
    assert not np.array_equal(index.tokens(ids(index, "photo.png")).embeddings, before)
    (folder / "photo.png").write_bytes(b"no image")
    report = index.add_files([folder / "photo.png"])
    assert [failed.path.name for failed in report.failed] == ["photo.png"]
    assert len(ids(index, "photo.png")) == 1  # what was indexed stays


def test_progress_counts_pages(index, folder, capsys):
    index.add_files([folder], show_progress_bar=True)
    shown = capsys.readouterr().err
    assert "indexing on cpu: 100%" in shown
    assert "6/6" in shown
    assert "page" in shown


@pytest.mark.slow
def test_odd_files_are_indexed_or_reported(index, tmp_path):
    """300 of them: none stops the rest, each that fails has its reason."""
    odd = [*odd_files.odd_images(), *odd_files.odd_pdfs()]
    paths = []
    for i, one in enumerate(odd):
        folder = tmp_path / str(i)  # names may come twice
        folder.mkdir()
        if one.data is not None:
            paths.append(one.write(folder))
    assert len(paths) >= 300
    report = index.add_files(paths)
    indexed = {document.metadata["source"] for document in index.documents()}
    failed = {str(one.path) for one in report.failed}
    assert {str(path.resolve()) for path in paths} == indexed | failed
    assert len(indexed) > 100
    assert len(failed) > 100
    assert all(one.reason and "\n" not in one.reason for one in report.failed)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_bounded_while_a_thousand_pages_are_indexed(tmp_path, encoder):
    """Below 500 MB above the model, in a process of its own."""
    document = FPDF()
    document.set_font("Helvetica", size=20)
    for number in range(1000):
        document.add_page()
        document.multi_cell(0, 12, f"Page {number}. " * 60)
    document.output(str(tmp_path / "long.pdf"))
    code = f"""
import sys
sys.path.insert(0, {TESTS!r})
from helpers import torchvision_on_cpu
from smart_rag import SmartEncoder, SmartIndex
from smart_rag.types import Content
from PIL import Image
{odd_files.PEAK}
encoder = SmartEncoder({encoder.model_name!r}, profile="qwen3-vl-embedding", max_pixels={PIXELS})
encoder.encode_document([Content(image=Image.new("RGB", (200, 200)))] * 4)
before = peak()
with SmartIndex.create({str(tmp_path / "index")!r}, encoder) as index:
    report = index.add_files([{str(tmp_path / "long.pdf")!r}])
print(report.added, peak() - before)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added, grown = map(int, result.stdout.split()[-2:])
    assert added == 1000
    assert grown < 500_000, json.dumps(grown)  # kB


def test_a_video_is_shown_by_a_frame(index, folder):
    """As large as it is, in the aspect that it has."""
    index.add_files([folder / "clip.mp4"])
    (hit,) = index.search("rain", top_k=1)
    drawn = hit.explain().picture(legend=False)
    assert drawn.width / drawn.height == pytest.approx(64 / 48, abs=0.02)
    assert drawn.width >= 64
    assert len(repr(hit.explain())) < 2_000


def test_an_index_does_not_index_itself(index, folder):
    """Its drawings of pages, where it lies in the folder that is indexed."""
    index.add_files([folder.parent])
    page = next(hit for hit in index.search("rates", top_k=10) if isinstance(hit.image, PdfPage))
    assert index.image_file(page).is_relative_to(folder.parent)
    assert index.add_files([folder.parent]) == AddReport(unchanged=6)


def test_a_model_that_takes_no_videos_says_so(tmp_path, folder):
    encoder = SmartEncoder(tiny_vision.qwen2_vl(tmp_path / "model"), profile="dse-qwen2", max_pixels=PIXELS)
    assert encoder.modalities == {"text", "image"}
    with SmartIndex.create(tmp_path / "index", encoder) as index:
        assert index.add_files([folder]).added == 5
        (failed,) = index.add_files([folder / "clip.mp4"]).failed
        assert failed.reason == "needs a model that takes videos; this one takes image, text"


def test_the_command_line_takes_a_profile_and_pictures_alone(tmp_path, encoder, folder):
    """A folder of nothing but images; the settings are the index's from then on."""
    (folder / "notes.txt").unlink()
    (folder / "report.pdf").unlink()
    db = tmp_path / "db"
    options = ["--profile", "qwen3-vl-embedding", "--max-pixels", str(PIXELS)]
    assert "2 added" in good("index", folder, "--db", db, "--model", encoder.model_name, *options)
    with SmartIndex.open(db) as index:
        assert index.manifest.encoder["profile"] == "qwen3-vl-embedding"
        assert index.encoder.fingerprint == encoder.fingerprint
    code, _, errors = run("index", folder, "--db", db, "--max-pixels", "5000")
    assert code == 1
    assert "other fingerprint" not in errors
    assert "images" in errors


def test_a_query_from_another_working_directory(index, folder, monkeypatch):
    """A hit is explained later than it is found; the file of the query is then opened again."""
    index.add_files([folder / "photo.png"])
    monkeypatch.chdir(folder)
    (hit,) = index.search(Content(image="photo.png"))
    (again,) = index.rerank(Content(image=PdfPage(Path("report.pdf"), 1)), [hit])
    monkeypatch.chdir(folder.parent)
    assert hit.explain().query.image == folder / "photo.png"
    assert again.explain().query.image == PdfPage(folder / "report.pdf", 1)
