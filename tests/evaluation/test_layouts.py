"""Rows and tables that cannot be used: each is counted and named, and nothing of it ends the table."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="published datasets need the extra `eval`")

from helpers import tiny_vision
from helpers.command_line import run
from helpers.published_datasets import (
    PixelEncoder,
    TextEncoder,
    in_table,
    judgements,
    pages,
    parquet,
    picture,
    plain_figures,
    questions,
    words,
)

from smart_rag import Content
from smart_rag.errors import InvalidInput
from smart_rag.evaluation.paper.evaluation import evaluate_published
from smart_rag.evaluation.paper.media import Places
from smart_rag.evaluation.paper.published import find_published
from smart_rag.files.formats.images import open_image

TABLES = ("corpus", "queries", "qrels")
BROKEN = picture(3)[:200]  # the head of a picture


class OpeningEncoder(PixelEncoder):
    """Opens the files of images as models do."""

    def _tokens(self, content):
        if content.image is not None:
            content = Content(content.text, open_image(content.image))
        return super()._tokens(content)


class WithPrompt(TextEncoder):
    def describe(self):
        return {"model": "words", "query_prompt": "query: "}


def write(folder, corpus, queries, qrels):
    for name, rows in zip(TABLES, (corpus, queries, qrels), strict=True):
        parquet(folder / name / "test.parquet", rows)
    return folder


def texts(folder, corpus=None, queries=None, qrels=None):
    """Write a dataset of texts: the document d0 and the query q0 share their word, and so on."""
    return write(
        folder,
        corpus or [{"_id": f"d{i}", "text": f"word{i}"} for i in range(4)],
        queries or [{"_id": f"q{i}", "text": f"word{i}"} for i in range(3)],
        qrels or [{"query-id": f"q{i}", "corpus-id": f"d{i}"} for i in range(3)],
    )


def only(result):
    [dataset] = result["datasets"]
    return dataset


def test_an_image_that_cannot_be_decoded_is_left_out_by_its_id(tmp_path):
    """Inside the table and as a file, of pages and of a query. The plain loops have two pages and a query less."""
    folder = tmp_path / "esg_reports_v2"
    (folder / "corpus").mkdir(parents=True)
    (folder / "corpus" / "broken.png").write_bytes(BROKEN)
    corpus = pages()
    corpus[4]["image"] = {"bytes": BROKEN, "path": "4.png"}
    corpus[9]["image"] = {"bytes": None, "path": "corpus/broken.png"}
    queries = [{**row, "image": in_table(50 + i)} for i, row in enumerate(questions())]
    queries[2]["image"] = {"bytes": b"no image", "path": None}
    write(folder, corpus, queries, judgements())
    texts(tmp_path / "NanoNQ")
    result = evaluate_published(tmp_path, OpeningEncoder())
    assert [dataset["name"] for dataset in result["datasets"]] == ["NanoNQ", "ViDoRe_esg_reports_v2_multilingual"]
    dataset = result["datasets"][1]
    assert (dataset["documents"], dataset["queries"]) == (12, 5)
    documents, query = {each["id"]: each for each in dataset["unreadable"]}, dataset["unreadable"][-1]
    assert documents["4"]["reason"].startswith("the image in the table: a broken or truncated image")
    assert documents["9"]["reason"].startswith(f"{folder / 'corpus' / 'broken.png'}: a broken or truncated image")
    assert (query["kind"], query["id"]) == ("query", "2")
    assert query["reason"].startswith("the image in the table: not an image")
    assert dataset["left_out"][0].startswith("2 documents that cannot be read: the first is ")
    assert dataset["left_out"][1].startswith("1 query that cannot be read: 2 (the image in the table: ")
    assert result["columns"]["VDRv2"]["unreadable"] == 3

    import io

    contents = {i: Content(image=io.BytesIO(picture(i))) for i in range(14) if i not in (4, 9)}
    asked = {
        row["query-id"]: Content(row["query"], io.BytesIO(picture(50 + i)))
        for i, row in enumerate(queries)
        if row["query-id"] != 2
    }
    qrels = {}
    for row in judgements():
        if row["score"]:
            qrels.setdefault(row["query-id"], {})[row["corpus-id"]] = row["score"]
    for ranking, figures in plain_figures(contents, asked, qrels).items():
        assert dataset["runs"][ranking] == pytest.approx(figures), ranking


def test_the_command_goes_on_and_its_exit_status_tells(tmp_path):
    """One image is broken, and one dataset is only a pointer of git lfs."""
    model = tiny_vision.qwen3_vl(tmp_path / "model")
    corpus = [{"corpus-id": f"p{i}", "image": in_table(i)} for i in range(4)]
    corpus[1]["image"] = {"bytes": BROKEN, "path": "p1.png"}
    queries = [{"query-id": f"q{i}", "query": f"query {i}"} for i in range(2)]
    write(tmp_path / "data" / "ours", corpus, queries, [{"query-id": f"q{i}", "corpus-id": f"p{i}"} for i in range(2)])
    options = ("eval", tmp_path / "data", "--paper", "--model", model, "--device", "cpu")
    code, output, _ = run(*options)
    assert code == 0
    assert "1, not in the paper, without 1 row" in output
    note = "ours: left out: 1 document that cannot be read: p1 (the image in the table: a broken or truncated image"
    assert note in " ".join(output.split())
    texts(tmp_path / "data" / "NanoNQ")
    (tmp_path / "data" / "NanoNQ" / "corpus" / "test.parquet").write_text("version https://git-lfs.github.com/spec/v1")
    code, output, _ = run(*options)
    assert code == 1
    assert "NanoNQ: not ranked: " in output
    assert "1, not in the paper, without 1 row" in output


def test_frames_of_a_video_that_cannot_be_decoded(tmp_path):
    class Frames(PixelEncoder):
        def _tokens(self, content):
            for frame in content.video or ():
                open_image(frame)
            return super()._tokens(content)

    rows = [{"video": f"{name}.mp4", "caption": words(np.random.default_rng(i), 3)} for i, name in enumerate("abcd")]
    parquet(tmp_path / "DiDeMo" / "test.parquet", rows)
    for i, name in enumerate("abc"):  # the video d is missing
        for frame in range(2):
            file = tmp_path / "frames" / name / f"{frame}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(BROKEN if (name, frame) == ("b", 1) else picture(10 * i + frame))
    dataset = only(evaluate_published(tmp_path / "DiDeMo", Frames(), media=tmp_path))
    assert (dataset["documents"], dataset["queries"]) == (2, 4)
    assert [each["id"] for each in dataset["unreadable"]] == ["d", "b"]
    assert "neither the video 'd.mp4'" in dataset["unreadable"][0]["reason"]
    assert str(tmp_path / "frames" / "b" / "1.png") in dataset["unreadable"][1]["reason"]


GRADES = [1, 1.0, "1", "2.0", True]


@pytest.mark.parametrize("grade", GRADES)
def test_grades(tmp_path, grade):
    texts(tmp_path / "NanoX", qrels=[{"query-id": "q0", "corpus-id": "d0", "score": grade}])
    [source] = find_published(tmp_path)
    dataset = source.load(Places(tmp_path))
    assert dataset.qrels == {"q0": {"d0": int(float(grade))}}
    assert type(dataset.qrels["q0"]["d0"]) is int
    assert dataset.left_out == ("2 queries without a relevant document",)


@pytest.mark.parametrize("grade", [0.5, "0.5", "relevant", None, float("nan"), float("inf")])
def test_grades_that_are_no_whole_numbers(tmp_path, grade):
    qrels = [{"query-id": f"q{i}", "corpus-id": f"d{i}", "score": each} for i, each in enumerate((grade, grade))]
    good = [{"query-id": "q2", "corpus-id": "d2", "score": "1" if isinstance(grade, str) else 1.0}]
    texts(tmp_path / "NanoX", qrels=[*qrels, *good])
    dataset = only(evaluate_published(tmp_path, TextEncoder()))
    assert dataset["queries"] == 1
    assert "2 judgements without a grade that is a whole number" in dataset["left_out"]


def test_nulls_and_repeated_rows_are_counted(tmp_path):
    corpus = [
        {"_id": "d0", "text": "word0"},
        {"_id": None, "text": "word1"},
        {"_id": "d2", "text": None},
        {"_id": "d0", "text": "word9"},
        {"_id": "d1", "text": "word1"},
    ]
    queries = [
        {"_id": "q0", "text": "word0"},
        {"_id": "q0", "text": "word0"},
        {"_id": None, "text": "word1"},
        {"_id": "q2", "text": None},
        {"_id": "q1", "text": "word1"},
    ]
    pairs = [("q0", "d0"), (None, "d0"), ("q1", None), ("q1", "d1"), ("q2", "d1"), ("q7", "d1"), ("q1", "d8")]
    pairs.append(("q1", "d1"))
    texts(tmp_path / "NanoX", corpus, queries, [{"query-id": q, "corpus-id": d} for q, d in pairs])
    dataset = only(evaluate_published(tmp_path, TextEncoder()))
    assert (dataset["documents"], dataset["queries"]) == (2, 2)
    assert set(dataset["left_out"]) == {
        "1 document without an id",
        "1 document without text, image or video",
        "1 document with the id of an earlier one",
        "1 query without an id",
        "1 query without text or image",
        "1 query with the id of an earlier one",
        "2 judgements without an id",
        "1 judged query outside of the table of queries",
        "1 judged document outside of the corpus",
        "1 judgement of the same query and document as an earlier one",
    }


def test_two_queries_with_one_id_are_an_error_of_their_dataset(tmp_path):
    texts(tmp_path / "NanoX", queries=[{"_id": "q0", "text": "word0"}, {"_id": "q0", "text": "word1"}])
    texts(tmp_path / "NanoY")
    result = evaluate_published(tmp_path, TextEncoder())
    assert only(result)["name"] == "NanoY"
    assert "two queries have the id q0" in result["failed"][0]["reason"]


@pytest.mark.parametrize(
    ("query", "document"), [("query_id", "corpus_id"), ("qid", "docid"), ("id", "id"), ("qid", "doc_id")]
)
def test_other_names_of_columns_and_numbers_as_ids(tmp_path, query, document):
    """A column of whole numbers with a gap has floats, so 1.0 in the qrels is the document 1."""
    corpus = [{document: i, "text": f"word{i}"} for i in range(4)]
    queries = [{query: f"q{i}", "query": f"word{i}"} for i in range(3)]
    judged = {"query-id": "qid", "corpus-id": "docid"}.values() if query == "qid" else ("query-id", "corpus-id")
    qrels = [dict(zip(judged, (f"q{i}", float(i)), strict=True)) for i in range(3)]
    texts(tmp_path / "NanoX", corpus, queries, qrels)
    dataset = only(evaluate_published(tmp_path, TextEncoder()))
    assert (dataset["documents"], dataset["queries"], dataset["left_out"]) == (4, 3, [])
    assert dataset["runs"]["smart"]["ndcg@10"] == 1


def test_a_column_that_is_missing_is_named(tmp_path):
    texts(tmp_path / "NanoX", corpus=[{"_id": "d0", "body": "word0"}])
    texts(tmp_path / "NanoY", qrels=[{"query": "q0", "document": "d0"}])
    texts(tmp_path / "NanoZ")
    result = evaluate_published(tmp_path, TextEncoder())
    reasons = {each["name"]: each["reason"] for each in result["failed"]}
    assert only(result)["name"] == "NanoZ"
    assert "the table 'corpus' has the columns _id, body; expected one of text, image" in reasons["NanoX"]
    assert "the table 'qrels' has the columns query, document; expected one of query-id" in reasons["NanoY"]


def test_values_of_other_types(tmp_path):
    corpus = [
        {"corpus-id": "d0", "image": [in_table(0)]},
        {"corpus-id": "d1", "image": [in_table(1), in_table(2)]},
        {"corpus-id": "d2", "image": []},
        {"corpus-id": "d3", "image": [in_table(3)]},
    ]
    queries = [{"query-id": i, "query": 7 + i} for i in range(2)]
    qrels = [{"query-id": i, "corpus-id": f"d{i}"} for i in range(2)]
    write(tmp_path / "ours", corpus, queries, qrels)
    dataset = only(evaluate_published(tmp_path, OpeningEncoder()))
    assert (dataset["documents"], dataset["queries"]) == (2, 2)
    assert set(dataset["left_out"]) == {
        "1 document that cannot be read: d1 (a list of 2 images; expected one image)",
        "1 document without text, image or video",
    }
    texts(tmp_path / "more", corpus=[{"_id": "d0", "text": ["a", "b"]}])
    [failed] = evaluate_published(tmp_path, OpeningEncoder())["failed"]
    assert "d0 (a text of the type list; expected a str)" in failed["reason"]


def test_an_image_may_be_bytes_and_have_an_alpha_channel(tmp_path):
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.open(io.BytesIO(picture(0))).convert("RGBA").save(file, "PNG")
    corpus = [{"corpus-id": "d0", "image": file.getvalue()}, {"corpus-id": "d1", "image": picture(1)}]
    queries = [{"query-id": "q0", "query": "word0"}]
    write(tmp_path / "ours", corpus, queries, [{"query-id": "q0", "corpus-id": "d0"}])
    dataset = only(evaluate_published(tmp_path, OpeningEncoder()))
    assert (dataset["documents"], dataset["left_out"]) == (2, [])


def test_a_language_of_a_table_without_languages(tmp_path):
    """The reason is the missing column, and not a language that no row has."""
    texts(tmp_path / "NanoX")
    parquet(
        tmp_path / "docvqa_test_subsampled" / "test.parquet",
        [{"query": "a", "image": in_table(0), "image_filename": "a"}],
    )
    parquet(tmp_path / "more" / "Some" / "test.parquet", [{"qry_text": "a", "tgt_text": ["a", "b"]}])
    parquet(tmp_path / "DiDeMo" / "test.parquet", [{"video": "a.mp4", "caption": "a"}])
    folder = write(tmp_path / "esg_reports_v2", pages(), questions(), judgements())
    result = evaluate_published(tmp_path, PixelEncoder(), language="french")
    assert only(result)["queries"] == 3
    assert len(result["failed"]) == 4
    for failed in result["failed"]:
        assert (
            "has no column 'language', so the queries in 'french' cannot be told; leave out --language"
            in failed["reason"]
        )
    with pytest.raises(InvalidInput, match=r"6 queries in another language; .*; the languages are english, french"):
        evaluate_published(folder, PixelEncoder(), language="fr")


def test_a_model_with_a_prompt_keeps_it(tmp_path):
    queries = [{"_id": f"q{i}", "text": f"word{i}", "instruction": "Find it."} for i in range(3)]
    texts(tmp_path / "NanoX", queries=queries)
    for encoder, reason in ((WithPrompt(), "has a prompt of its own"), (TextEncoder(), "takes none")):
        dataset = only(evaluate_published(tmp_path, encoder))
        assert dataset["left_out"] == [f"3 instructions of queries, because the model {reason}"]


def test_judgements_in_lists_of_different_lengths(tmp_path):
    qrels = [
        {"query_id": "q0", "corpus_ids": ["d0", "d1"], "scores": [2, 1]},
        {"query_id": "q1", "corpus_ids": ["d1", "d2"], "scores": [1]},
    ]
    texts(tmp_path / "NanoX", qrels=qrels)
    [source] = find_published(tmp_path)
    dataset = source.load(Places(tmp_path))
    assert dataset.qrels == {"q0": {"d0": 2, "d1": 1}}
    assert "1 judgement with fewer or more grades than documents" in dataset.left_out


def test_an_image_is_one_candidate_with_the_text_of_its_first_row(tmp_path):
    """As `generate_cand_dataset` of MMEB-V2 and of the paper, which knows a candidate by the path of its image."""
    (tmp_path / "a.png").write_bytes(picture(0))
    (tmp_path / "b.png").write_bytes(picture(1))
    row = {"qry_inst": "", "qry_text": "word0", "qry_img_path": "", "tgt_img_path": ["a.png", "b.png"]}
    rows = [{**row, "tgt_text": ["one", "two"]}, {**row, "tgt_text": ["three", "two"]}]
    parquet(tmp_path / "EDIS" / "test.parquet", rows)
    [source] = find_published(tmp_path)
    dataset = source.load(Places(tmp_path, (tmp_path,)))
    assert [document.text for document in dataset.documents] == ["one", "two"]
    assert dataset.candidates["q000000"] == dataset.candidates["q000001"]
    assert dataset.left_out == ("1 text of an image that has another one in an earlier row",)


def jsonl(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("readme", [True, False])
def test_json_lines(tmp_path, readme):
    """As mteb publishes its datasets. The first row lacks a title, and there are qrels of another split."""
    folder = tmp_path / "scifact"
    jsonl(
        folder / "corpus.jsonl",
        [{"_id": f"d{i}", "text": f"word{i}"} | ({"title": "word9"} if i else {}) for i in range(4)],
    )
    jsonl(folder / "queries.jsonl", [{"_id": f"q{i}", "text": f"word{i}"} for i in range(3)])
    jsonl(folder / "qrels" / "train.jsonl", [{"query-id": "q2", "corpus-id": "d2", "score": 1}])
    jsonl(
        folder / "qrels" / "test.jsonl", [{"query-id": f"q{i}", "corpus-id": f"d{i}", "score": 1.0} for i in range(2)]
    )
    if readme:
        (folder / "README.md").write_text(
            "---\nconfigs:\n"
            "- config_name: default\n  data_files:\n  - split: train\n    path: qrels/train.jsonl\n"
            "  - split: test\n    path: qrels/test.jsonl\n"
            "- config_name: corpus\n  data_files:\n  - split: corpus\n    path: corpus.jsonl\n"
            "- config_name: queries\n  data_files:\n  - split: queries\n    path: queries.jsonl\n---\n"
        )
    [source] = find_published(tmp_path)
    dataset = source.load(Places(tmp_path))
    assert [document.text for document in dataset.documents] == ["word0", "word9 word1", "word9 word2", "word9 word3"]
    assert dataset.qrels == {"q0": {"d0": 1}, "q1": {"d1": 1}}
    assert dataset.left_out == ("1 query without a relevant document",)


def test_qrels_as_beir_has_them(tmp_path):
    """Ids may look like numbers. A broken row is counted, and without the qrels, what lacks is named."""
    folder = tmp_path / "scifact"
    jsonl(folder / "corpus.jsonl", [{"_id": str(i), "text": f"word{i}"} for i in range(4)])
    jsonl(folder / "queries.jsonl", [{"_id": f"0{i}", "text": f"word{i}"} for i in range(3)])
    with pytest.raises(InvalidInput, match="the tables corpus, queries, without qrels"):
        evaluate_published(tmp_path, TextEncoder())
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text(
        'query-id\tcorpus-id\tscore\r\n00\t0\t1\r\n01\t1\t2\r\n01\t2\t0\n02\t"2\t1\n02\n'
    )
    with pytest.raises(InvalidInput, match="has the splits test; expected one split, or one called 'dev'"):
        evaluate_published(tmp_path, TextEncoder(), split="dev")
    (folder / "qrels" / "test.tsv").write_text("\ufeff" + (folder / "qrels" / "test.tsv").read_text())
    [source] = find_published(tmp_path)
    dataset = source.load(Places(tmp_path))
    assert dataset.qrels == {"00": {"0": 1}, "01": {"1": 2}, "02": {'"2': 1}}
    assert dataset.left_out == (
        "1 judgement without an id",
        "1 judgement without a grade that is a whole number",
        "1 judged document outside of the corpus",
    )


def test_a_file_of_a_table_without_a_column(tmp_path):
    texts(tmp_path / "NanoX")
    parquet(tmp_path / "NanoX" / "corpus" / "test-00001-of-00002.parquet", [{"_id": "d9", "title": "word9"}])
    (tmp_path / "NanoX" / "corpus" / "test.parquet").rename(
        tmp_path / "NanoX" / "corpus" / "test-00000-of-00002.parquet"
    )
    dataset = only(evaluate_published(tmp_path, TextEncoder()))
    assert dataset["documents"] == 4
    assert "1 document without text, image or video" in dataset["left_out"]


CARDS = {
    "no YAML": "---\nconfigs: [\n---\n",
    "no name": "---\nconfigs:\n- data_files: corpus/test.parquet\n---\n",
    "no list": "---\nconfigs: 7\n---\n",
    "no path": "---\nconfigs:\n- config_name: corpus\n  data_files:\n  - split: test\n---\n",
    "absolute": "---\nconfigs:\n- config_name: corpus\n  data_files: /etc/*\n---\n",
    "outside": "---\nconfigs:\n- config_name: corpus\n  data_files: ../NanoY/corpus/*\n---\n",
}


@pytest.mark.parametrize("card", CARDS)
def test_a_card_that_cannot_be_read_ends_its_dataset_alone(tmp_path, card):
    (texts(tmp_path / "NanoX") / "README.md").write_text(CARDS[card])
    texts(tmp_path / "NanoY")
    result = evaluate_published(tmp_path, TextEncoder())
    assert only(result)["name"] == "NanoY"
    [failed] = result["failed"]
    assert failed["name"] == "NanoX"
    assert "README.md: the front matter cannot be read" in failed["reason"]


def test_splits_that_cannot_be_told_end_their_dataset_alone(tmp_path):
    texts(tmp_path / "NanoX")
    (tmp_path / "NanoX" / "corpus" / "test.parquet").rename(tmp_path / "NanoX" / "corpus" / "dev.parquet")
    parquet(tmp_path / "NanoX" / "corpus" / "train.parquet", [{"_id": "d9", "text": "word9"}])
    texts(tmp_path / "NanoY")
    result = evaluate_published(tmp_path, TextEncoder())
    assert only(result)["name"] == "NanoY"
    assert "the table 'corpus' has the splits dev, train" in result["failed"][0]["reason"]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"splits": 3}', '{"splits": ["../NanoY"]}'])
def test_a_damaged_folder_of_save_to_disk(tmp_path, content):
    texts(tmp_path / "NanoY")
    (tmp_path / "Saved").mkdir()
    (tmp_path / "Saved" / "dataset_dict.json").write_text(content)
    result = evaluate_published(tmp_path, TextEncoder())
    assert only(result)["name"] == "NanoY"
    assert "dataset_dict.json does not name the files" in result["failed"][0]["reason"]


def test_splits_of_one_table_that_cannot_be_told_end_it_alone(tmp_path):
    """Tables beside each other are datasets of their own."""
    rows = [{"query": "word0", "image": in_table(0), "image_filename": "a"}]
    parquet(tmp_path / "docvqa_test_subsampled" / "test.parquet", rows)
    for split in ("train", "dev"):
        parquet(tmp_path / "infovqa_test_subsampled" / f"{split}.parquet", rows)
    result = evaluate_published(tmp_path, PixelEncoder())
    assert only(result)["name"] == "ViDoRe_docvqa"
    [failed] = result["failed"]
    assert failed["name"] == "infovqa_test_subsampled"
    assert "the table 'infovqa_test_subsampled' has the splits dev, train" in failed["reason"]


def test_an_empty_split(tmp_path):
    datasets = pytest.importorskip("datasets")
    texts(tmp_path / "NanoY")
    datasets.DatasetDict(
        {
            "corpus": datasets.Dataset.from_list([]),
            "queries": datasets.Dataset.from_list([{"_id": "q0", "text": "word0"}]),
            "qrels": datasets.Dataset.from_list([{"query-id": "q0", "corpus-id": "d0"}]),
        }
    ).save_to_disk(tmp_path / "NanoX")
    result = evaluate_published(tmp_path, TextEncoder())
    assert only(result)["name"] == "NanoY"
    assert "the table 'corpus' has the columns (none)" in result["failed"][0]["reason"]


@pytest.mark.slow
def test_options_of_the_model_reach_it(tmp_path):
    """The limit of pixels, and the prompts, are in the description of the encoder."""
    folder = texts(tmp_path / "NanoNQ")
    given = ("--max-pixels", "5000", "--query-prompt", "", "--document-prompt", "text: ", "--trust-remote-code")
    code, output, errors = run("eval", folder, "--paper", "--model", "minilm", "--json", "-", *given)
    assert code == 0, errors
    encoder = json.loads(output)["settings"]["encoder"]
    assert (encoder["max_pixels"], encoder["query_prompt"], encoder["document_prompt"]) == (5000, "", "text: ")
    assert encoder["trust_remote_code"]
