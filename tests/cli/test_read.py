"""``smart-rag search`` and ``info``; ``ask`` has a file of its own."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command_line import error_of, good, run, usage_error_of
from helpers.text_files import PUMP
from helpers.word_encoder import WordEncoder
from PIL import Image

from smart_rag import Document, SmartEncoder, SmartIndex
from smart_rag.types import Content


def passages(output: str, *, as_json: bool = False) -> list[str]:
    """The passages in what `search` printed, each on one line."""
    if as_json:
        return [hit["text"] for hit in json.loads(output)]
    blocks = re.split(r"^ *\d+  -?\d\.\d{3} = .*$", output, flags=re.MULTILINE)[1:]
    return [" ".join(block.split()) for block in blocks]


# --- search ---------------------------------------------------------------------------------


def test_search_prints_the_parts_of_the_score_the_source_and_the_passage(db, documents, monkeypatch):
    monkeypatch.chdir(documents)
    output = good("search", "Which bearings does the pump need?", "--db", db)
    heads = re.findall(
        r"^ *(\d+)  (-?\d\.\d{3}) = 1 x (-?\d\.\d{3}) pooled \+ 2 x (-?\d\.\d{3}) late  (.*)$", output, re.MULTILINE
    )
    assert [int(rank) for rank, *_ in heads] == [1, 2, 3, 4]
    assert heads[0][4] == "report.pdf, page 2"
    assert {place for *_, place in heads} == {"report.pdf, page 2", "report.pdf, page 1", "cats.txt", "dogs.md"}
    for _, score, pooled, late, _ in heads:
        assert float(score) == pytest.approx(float(pooled) + 2 * float(late), abs=0.0021)
    scores = [float(head[1]) for head in heads]
    assert scores == sorted(scores, reverse=True)
    lines = output.splitlines()
    assert lines[1].strip() == PUMP
    assert lines[1].startswith("    The")


def test_a_source_elsewhere_is_shown_in_full(db, documents):
    assert f"late  {documents.resolve() / 'dogs.md'}\n" in good("search", "dogs", "--db", db)


def test_a_passage_that_the_model_cannot_read_is_marked(tmp_path):
    with SmartIndex.create(tmp_path / "index", "minilm") as index:
        index.add([Document("a", "The pump needs new bearings."), Document("b", "泵需要新的轴承和密封件。")])
    heads = re.findall(r"late  (.*)$", good("search", "pump bearings", "--db", tmp_path / "index"), re.MULTILINE)
    assert heads == ["a", "b  unread by the model"]


class Keyboard(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("kind", [io.StringIO, Keyboard])
def test_one_question_after_the_other(db, monkeypatch, kind):
    """From a terminal, an empty line ends it. In a file, only the end does."""
    end = "\n\nnever asked\n" if kind is Keyboard else ""
    for text in (f"pump bearings\nWhat do cats do?{end}", "pump bearings\nWhat do cats do?\n"):
        monkeypatch.setattr("sys.stdin", kind(text))
        code, output, errors = run("search", "--db", db, "-k", "1")
        assert code == 0
        assert passages(output) == [
            *passages(good("search", "pump bearings", "--db", db, "-k", "1")),
            *passages(good("search", "What do cats do?", "--db", db, "-k", "1")),
        ]
        assert errors.count("query: ") == (3 if kind is Keyboard else 0)
    if kind is not Keyboard:
        monkeypatch.setattr("sys.stdin", kind("\npump bearings\n  \n\nWhat do cats do?\n"))
        assert passages(run("search", "--db", db, "-k", "1")[1]) == passages(output)


def test_a_search_of_a_text_index_loads_no_heavy_library(db, tmp_path):
    """Once its model is exported, neither torch nor Numba and their kind is imported, so that it starts fast."""
    good("search", "pump", "--db", db)
    script = """
import sys
from smart_rag.cli import main
sys.argv = ["smart-rag", "search", "pump", "--db", sys.argv[1]]
try:
    main()
except SystemExit as end:
    assert not end.code
heavy = {"torch", "transformers", "sentence_transformers", "sklearn", "scipy", "numba", "pandas", "matplotlib"}
print(sorted(heavy & set(sys.modules)))
"""
    ran = subprocess.run(
        [sys.executable, "-c", script, str(db)], capture_output=True, text=True, timeout=120, check=True
    )
    assert ran.stdout.splitlines()[-1] == "[]"


def test_search_as_json(db, documents):
    hits = json.loads(good("search", "Which bearings does the pump need?", "--db", db, "--json", "-k", "3"))
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    for hit in hits:
        assert set(hit) == {
            *("rank", "id", "score", "relevance", "pooled_score", "late_score", "unread", "duplicates"),
            *("source", "page", "text", "image", "video", "metadata", "neighbours"),
        }
        assert hit["score"] == pytest.approx(hit["pooled_score"] + 2 * hit["late_score"], abs=1e-5)
    source = str((documents / "report.pdf").resolve())
    assert (hits[0]["source"], hits[0]["page"], hits[0]["id"]) == (source, 2, f"{source}#1")
    assert (hits[0]["image"], hits[0]["video"]) == (source, None)
    assert hits[0]["metadata"] == {"source": source, "page": 2, "chunk": 1}
    assert " ".join(hits[0]["text"].split()) == PUMP


def test_the_options_of_search(db, documents):
    def sources(*options):
        return [Path(hit["source"]).name for hit in json.loads(good("search", "dogs", "--db", db, "--json", *options))]

    everything = ["dogs.md", "cats.txt", "report.pdf", "report.pdf"]
    assert sorted(sources()) == sorted(everything)
    assert sources("-k", "1") == sources("--top-k", "1") == sources("-k", "1", "--candidates", "1") == ["dogs.md"]
    assert sources("--where", '{"page": 2}') == ["report.pdf"]
    assert sources("--where", json.dumps({"source": str((documents / "cats.txt").resolve())})) == ["cats.txt"]
    assert sources("--first-stage", "exhaustive", "--where", '{"page": {"$gte": 1}}') == ["report.pdf", "report.pdf"]
    assert sources("--first-stage", "exhaustive") == sources()
    assert sorted(sources("--weighting", "contrast")) == sorted(everything)
    assert sources("--where-document", '{"$contains": "bearings"}') == ["report.pdf"]
    assert sources("--where-document", '{"$contains": "bearings"}', "--where", '{"page": 1}') == []
    assert sources("--where", '{"page": {"$in": []}}') == []


def test_one_passage_of_each_file(db):
    hits = json.loads(good("search", "dogs", "--db", db, "--json", "--per-source", "1"))
    assert sorted(Path(hit["source"]).name for hit in hits) == ["cats.txt", "dogs.md", "report.pdf"]
    assert "--per-source" in usage_error_of("search", "dogs", "--db", db, "--per-source", "one")
    assert "per_source must be" in error_of("search", "dogs", "--db", db, "--per-source", "0")


def test_the_passages_around_a_hit(db, documents):
    path = (documents / "report.pdf").resolve()
    arguments = ("search", "Which bearings does the pump need?", "--db", db, "-k", "1", "--neighbours", "1")
    (hit,) = json.loads(good(*arguments, "--json"))
    with SmartIndex.open(db) as index:
        (before,) = index.get([f"{path}#0"])
    assert hit["neighbours"] == [{"id": f"{path}#0", "page": 1, "text": before.text}]
    (shown,) = passages(good(*arguments))
    assert shown == " ".join([*before.text.split(), *PUMP.split()])


def test_near_duplicates_are_shown_once_and_named(tmp_path):
    with SmartIndex.create(tmp_path / "index", "minilm") as index:
        text = "The pump needs new bearings before the winter, and the seals are worn out as well. " * 3
        index.add([Document("a\nb", text), Document("c", text.upper()), Document("d", "Cats purr.")])
    arguments = ("search", "pump bearings", "--db", tmp_path / "index", "--fold-duplicates")
    hits = {hit["id"]: hit["duplicates"] for hit in json.loads(good(*arguments, "--json"))}
    assert hits in ({"a\nb": ["c"], "d": []}, {"c": ["a\nb"], "d": []})
    assert re.search("^    nearly the same: (c|a\ufffdb) *$", good(*arguments), re.MULTILINE)


def test_nothing_found(db):
    assert good("search", "dogs", "--db", db, "--where", '{"page": 7}') == "nothing found\n"
    assert json.loads(good("search", "dogs", "--db", db, "--where", '{"page": 7}', "--json")) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([""], "error: the query is empty"),
        ([" \n"], "error: the query is empty"),
        (["dogs", "-k", "0"], "top_k must be a whole number of at least 1, got 0"),
        (["dogs", "-k", "-3"], "top_k must be a whole number of at least 1, got -3"),
        (["dogs", "--candidates", "0"], "candidates must be a whole number of at least 1, got 0"),
        (["dogs", "--where", '{"page": {"$near": 3}}'], "filter on 'page': there is no operator '$near'"),
        (["dogs", "--where-document", '{"$near": "a"}'], "the filter on texts has the operator '$near'"),
        (["dogs", "--where-document", '{"$regex": "["}'], "unclosed character class"),
    ],
)
def test_wrong_arguments_of_a_search(db, arguments, says):
    assert says in error_of("search", *arguments, "--db", db)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("{page: 3}", 'must be JSON, such as {"'),
        ("", 'must be JSON, such as {"'),
        ("[1]", "must be a JSON object"),
        ("3", "must be a JSON object"),
    ],
)
@pytest.mark.parametrize("option", ["--where", "--where-document"])
def test_a_filter_must_be_a_json_object(db, option, where, says):
    assert f"{option} {says}" in usage_error_of("search", "dogs", "--db", db, option, where)


def test_a_long_passage_is_cut_to_where_the_matches_are(tmp_path):
    path = tmp_path / "long.txt"
    filler = "Nothing of note is in this sentence of mine. "
    path.write_text(filler * 12 + "The walrus sleeps. " + filler * 2)
    good("index", path, "--db", tmp_path / "index")
    (passage,) = [line.strip() for line in passages(good("search", "walrus", "--db", tmp_path / "index", "-k", "1"))]
    assert passage.startswith("… ")
    assert "walrus sleeps." in passage
    assert len(passage) < 440
    (whole,) = passages(good("search", "walrus", "--db", tmp_path / "index", "-k", "1", "--json"), as_json=True)
    assert len(" ".join(whole.split())) > 500


def test_a_heading_stands_on_a_line_of_its_own(tmp_path):
    path = tmp_path / "report.txt"
    path.write_text("Seawater pump\n\nThe bearings\nwere changed.\n\n\nSpares")
    good("index", path, "--db", tmp_path / "index")
    lines = good("search", "pump", "--db", tmp_path / "index").splitlines()[1:4]
    assert [line.strip() for line in lines] == ["Seawater pump", "The bearings were changed.", "Spares"]


def test_no_words_are_emphasised_for_a_model_without_character_offsets(documents, tmp_path):
    from helpers.tiny_models import byt5  # which takes seconds to import

    good("index", documents, "--db", tmp_path / "index", "--model", byt5(tmp_path))
    code, output, errors = run("search", "dogs", "--db", tmp_path / "index", "-k", "2")
    assert (code, len(passages(output))) == (0, 2)
    assert errors.startswith("no words are emphasised: ")
    assert "gives no character offsets" in errors


# --- pictures -------------------------------------------------------------------------------


def test_explain_writes_a_file_for_a_browser(db, tmp_path):
    code, _, errors = run(
        "search", "Which bearings does the pump need?", "--db", db, "--explain", tmp_path / "why.html"
    )
    assert (code, errors) == (0, f"what matched in the first passage: {tmp_path / 'why.html'}\n")
    text = (tmp_path / "why.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "default-src &#x27;none&#x27;" in text
    assert "https://" not in text.replace("https://www.w3.org", "")


def test_explain_writes_a_picture_of_the_first_hit(db, tmp_path):
    path = tmp_path / "why.png"
    code, output, errors = run("search", "Which bearings does the pump need?", "--db", db, "--explain", path)
    assert (code, errors) == (0, f"what matched in the first passage: {path}\n")
    assert output == good("search", "Which bearings does the pump need?", "--db", db)
    with SmartIndex.open(db) as index, Image.open(path) as image:
        expected = index.search("Which bearings does the pump need?")[0].explain().picture()
        assert (image.size, image.tobytes()) == (expected.size, expected.tobytes())
    json_path = tmp_path / "other.jpg"
    assert len(json.loads(good("search", "dogs", "--db", db, "--explain", json_path, "--json"))) == 4
    with Image.open(json_path) as image:
        assert image.format == "JPEG"


def test_no_picture_is_drawn_if_nothing_is_found(db, tmp_path):
    options = ["--where", '{"page": 7}', "--explain", tmp_path / "why.png"]
    assert run("search", "dogs", "--db", db, *options) == (0, "nothing found\n", "")
    assert not (tmp_path / "why.png").exists()


def test_a_picture_that_cannot_be_written(db, tmp_path):
    assert "why.txt: expected a name that ends in .html, or that of an image, which ends in .png, " in error_of(
        "search", "dogs", "--db", db, "--explain", "why.txt"
    )
    said = error_of("search", "dogs", "--db", db, "--explain", tmp_path / "gone" / "why.png")
    assert f"why.png: the folder {tmp_path / 'gone'} does not exist" in said
    assert not list(tmp_path.iterdir())


def test_hits_are_printed_even_if_the_picture_fails(db, tmp_path):
    (tmp_path / "taken.png").mkdir()
    command = ["search", "dogs", "--db", db, "--explain", tmp_path / "taken.png"]
    code, output, errors = run(*command)
    assert (code, output) == (1, good("search", "dogs", "--db", db))
    assert errors == f"error: --explain {tmp_path / 'taken.png'}: cannot be written (Is a directory)\n"
    code, output, again = run(*command, "--json")
    assert (code, again, len(json.loads(output))) == (1, errors, 4)


def test_nothing_is_drawn_for_a_model_without_character_offsets(documents, tmp_path):
    from helpers.tiny_models import byt5  # which takes seconds to import

    good("index", documents, "--db", tmp_path / "index", "--model", byt5(tmp_path))
    code, output, errors = run("search", "dogs", "--db", tmp_path / "index", "--explain", tmp_path / "why.png")
    assert (code, len(passages(output))) == (1, 4)
    assert "gives no character offsets" in errors.splitlines()[-1]
    assert errors.splitlines()[-1].startswith("error: ")


def test_hits_are_printed_even_if_their_images_are_gone(tmp_path):
    """An image alone, and one with a text: neither the picture nor the words that matched can be had any more."""
    from helpers import tiny_vision  # which skips the test where torchvision is not to be had

    model = tiny_vision.qwen3_vl(tmp_path, sentence_transformers_files=True)
    red, blue, db, why = (tmp_path / name for name in ("red.png", "blue.png", "index", "why.png"))
    for path in (red, blue):
        Image.new("RGB", (96, 64), path.stem).save(path)
    with SmartIndex.create(db, SmartEncoder(model, max_pixels=64 * 32 * 32)) as index:
        index.add([Document("red", image=red), Document("blue", "Something blue.", image=blue)])
    found = json.loads(good("search", "pump", "--db", db, "--json"))
    assert len(found) == 2
    for path in (red, blue):
        path.unlink()
    code, output, errors = run("search", "pump", "--db", db, "--explain", why)
    assert (code, sorted(passages(output))) == (1, ["Something blue.", "[image]"])
    words, picture = errors.splitlines()
    assert words == f"no words are emphasised: {blue}: cannot be read (No such file or directory)"
    assert picture == f"error: {found[0]['image']}: cannot be read (No such file or directory)"
    code, output, errors = run("search", "pump", "--db", db, "--explain", why, "--json")
    assert (code, [hit["id"] for hit in json.loads(output)]) == (1, [hit["id"] for hit in found])
    assert errors == picture + "\n"
    assert not why.exists()


def test_an_image_as_the_query(tmp_path):
    from helpers import tiny_vision  # which skips the test where torchvision is not to be had

    model = tiny_vision.qwen3_vl(tmp_path, sentence_transformers_files=True)
    red, blue = tmp_path / "red.png", tmp_path / "blue.png"
    for path, size in ((red, (96, 64)), (blue, (64, 96))):
        Image.new("RGB", size, path.stem).save(path)
    db, why = tmp_path / "index", tmp_path / "why.png"
    with SmartIndex.create(db, SmartEncoder(model, max_pixels=64 * 32 * 32)) as index:
        index.add([Document(path.stem, image=path) for path in (red, blue)])
        alone, both = index.search(Content(image=blue)), index.search(Content("something red", red))
    for query, expected in ((["--image", blue], alone), (["something red", "--image", red], both)):
        found = json.loads(good("search", *query, "--db", db, "--json"))
        assert [hit["id"] for hit in found] == [hit.id for hit in expected]
        assert [hit["score"] for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-4)
    code, output, errors = run("search", "something red", "--image", red, "--db", db, "--explain", why)
    assert (code, errors) == (0, f"what matched in the first passage: {why}\n")
    assert re.findall(r"late  (.*)$", output, re.MULTILINE) == [hit.id for hit in both]
    assert len(re.findall(r"^    \[image\] *$", output, re.MULTILINE)) == 2
    assert [hit["image"] for hit in found] == [str(hit.image) for hit in both]
    with Image.open(why) as image:
        assert image.width >= 480
    assert "gone.png" in error_of("search", "--image", tmp_path / "gone.png", "--db", db)


def test_a_text_model_refuses_an_image(db, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "red.png")
    said = error_of("search", "--image", tmp_path / "red.png", "--db", db)
    assert "the query has an image, but the index's model takes text" in said


# --- info -----------------------------------------------------------------------------------


def test_info(db):
    lines = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in good("info", "--db", db).splitlines())
    assert (lines["index"], lines["model"], lines["dimension"]) == (str(db), "minilm", "384")
    assert (lines["documents"], lines["codec"]) == ("4", "2bit")
    assert int(lines["tokens"]) > 40
    assert lines["score"] == "1 x pooled + 2 x late, weighting idf"
    assert (lines["profile"], lines["pooling"], lines["max length"]) == ("general", "mean", "256")
    assert (lines["query prompt"], lines["document prompt"]) == ("none", "none")
    assert set(lines) >= {"token embeddings, terms", "bytes per token", "bytes per document", "format"}
    assert re.fullmatch(r"[\d,]+ \(96 for codes; a small index has more overhead\)", lines["bytes per token"])
    assert lines["total size"].endswith("kB")
    stored, rows, total = (
        float(lines[line].split()[0]) for line in ("token embeddings, terms", "pooled embeddings, texts", "total size")
    )
    assert abs(stored + rows - total) < 0.2


def test_info_says_how_an_index_uses_a_vision_model(tmp_path):
    from helpers import published_folders, tiny_vision  # which skips the test where torchvision is not to be had

    def lines(model, **options):
        path = tmp_path / "indexes" / str(len(options))
        SmartIndex.create(path, SmartEncoder(model, device="cpu", **options)).close()
        return dict(re.findall(r"^(.+?) {2,}(.+?) *$", good("info", "--db", path), re.MULTILINE))

    found = lines(published_folders.lamra_ret(tmp_path / "lamra"), paper=True, max_pixels=50_176)
    assert (found["pooling"], found["paper"], found["max pixels"]) == ("the token before <emb>", "yes", "50,176")
    assert "pooling" not in lines(tiny_vision.siglip2(tmp_path / "siglip2"))


def test_info_as_json(db):
    info = json.loads(good("info", "--db", db, "--json"))
    assert set(info) == {"path", "documents", "tokens", "token_bytes", "pooled_bytes", "manifest"}
    assert (info["path"], info["documents"]) == (str(db), 4)
    assert info["token_bytes"] > 384 / 4 * info["tokens"]
    assert info["manifest"]["encoder"]["model"] == "minilm"


def test_info_of_a_model_gives_decisions_and_their_sources():
    rows = (re.split(r"\s{2,}", line.rstrip()) for line in good("info", "--model", "minilm").splitlines())
    lines = {row[0]: row[1:] for row in rows}
    assert lines["pooling"] == ["mean", "the model's own files"]
    assert lines["max length"][:2] == ["256", "the model's own files"]
    assert lines["document tokens"][:2] == ["content", "general rule"]
    assert lines["query prompt"][:2] == ["none", "general rule"]
    assert lines["tokens per passage"][0] == "200"
    assert lines["bytes per passage, exact"][:2] == ["153.6 kB", "codec float16"]
    assert lines["bytes per passage, balanced"][:2] == ["19.2 kB", "codec 2bit"]  # 96 bytes of 200 tokens
    assert lines["bytes per passage, compact"][:2] == ["9.6 kB", "codec 2bit/2"]


def test_info_of_a_model_as_json():
    found = json.loads(good("info", "--model", "minilm", "--json"))
    decisions = {decision["name"]: (decision["value"], decision["source"]) for decision in found["decisions"]}
    assert decisions["profile"] == ("general", "general rule")
    assert decisions["modalities"] == (["text"], "the model's own files")
    assert decisions["document_prompt"] == ("", "general rule")
    assert decisions["dimension"] == (384, "the model's own files")
    assert found["bytes_per_passage"]["balanced"] == 200 * 384 // 4


def test_info_of_an_unknown_profile():
    said = error_of("info", "--model", "minilm", "--profile", "none")
    assert "there is no profile 'none'; the profiles are qwen3-vl-embedding, gme-qwen2-vl" in said
    said = error_of("info", "--model", "minilm", "--profile", "gme-qwen2-vl")
    assert "profile 'gme-qwen2-vl' is for vision-language decoders, which 'minilm' is not" in said


def test_info_of_an_empty_index(tmp_path):
    SmartIndex.create(tmp_path / "index", WordEncoder()).close()
    assert re.search(r"bytes per token +-", good("info", "--db", tmp_path / "index"))


def test_min_relevance(db):
    output = good("search", "Which spices are in a green curry?", "--db", db, "--min-relevance", "0.5")
    assert output == "nothing relevant found\n"
    (hit, *_) = json.loads(
        good("search", "Which animal barks at night?", "--db", db, "--min-relevance", "0.5", "--json")
    )
    assert 0.5 <= hit["relevance"] <= 1
    assert json.loads(good("search", "Which animal barks?", "--db", db, "--json"))[0]["relevance"] is None
