"""The paper's table on tiny datasets of each published layout, against plain loops over the encoder's outputs."""

from __future__ import annotations

import io

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="published datasets need the extra `eval`")

from helpers.published_datasets import (
    WORDS,
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


class Pictures:
    """Opened pictures by their seed, for the contents of the plain loops."""

    def __getitem__(self, seed):
        return io.BytesIO(picture(seed))


PICTURES = Pictures()


def graded(rows, query_id="query-id", corpus_id="corpus-id"):
    qrels = {}
    for row in rows:
        if row.get("score", 1) > 0:
            qrels.setdefault(row[query_id], {})[row[corpus_id]] = row.get("score", 1)
    return qrels


def contents(rows, id="corpus-id", first=0):
    return {row[id]: Content(image=PICTURES[first + i]) for i, row in enumerate(rows)}


def only(result):
    [dataset] = result["datasets"]
    return dataset


def agrees(dataset, plain):
    for ranking, figures in plain.items():
        assert dataset["runs"][ranking] == pytest.approx(figures, abs=1e-9), ranking
    assert len({tuple(of.values()) for of in plain.values()}) > 1  # the data can tell the rankings apart


def vidore_2(root, name="esg_reports_v2", readme=True):
    """ViDoRe V1 (beir) and V2: three tables, whole numbers as ids, and a table of the documents beside them."""
    folder = root / "vidore" / name
    parquet(folder / "corpus" / "test-00000-of-00002.parquet", pages()[:8])
    parquet(folder / "corpus" / "test-00001-of-00002.parquet", pages()[8:])
    parquet(folder / "queries" / "test-00000-of-00001.parquet", questions())
    parquet(folder / "qrels" / "test-00000-of-00001.parquet", judgements())
    parquet(folder / "docs" / "test-00000-of-00001.parquet", [{"doc-id": "doc1", "title": "a report"}])
    if readme:
        lines = ["---", "configs:"]
        for part in ("corpus", "queries", "qrels", "docs"):
            lines += [f"- config_name: {part}", "  data_files:", "  - split: test", f"    path: {part}/test-*"]
        (folder / "README.md").write_text("\n".join([*lines, "---", "# A card"]))
    return folder


@pytest.mark.parametrize("readme", [True, False])
def test_vidore_2(tmp_path, readme):
    vidore_2(tmp_path, readme=readme)
    result = evaluate_published(tmp_path, PixelEncoder())
    dataset = only(result)
    assert (dataset["name"], dataset["column"]) == ("ViDoRe_esg_reports_v2_multilingual", "VDRv2")
    assert (dataset["documents"], dataset["queries"], dataset["measure"]) == (14, 6, "ndcg@5")
    queries = {row["query-id"]: row["query"] for row in questions()}
    agrees(dataset, plain := plain_figures(contents(pages()), queries, graded(judgements())))
    assert set(dataset["left_out"]) == {
        "6 instructions of queries, because the model takes none",
        "the column doc-id of the corpus",
        "the table docs",
    }
    column = result["columns"]["VDRv2"]
    assert (column["tasks"], column["of"], column["published"]) == (1, 4, {})
    assert column["runs"] == pytest.approx({name: 100 * of["ndcg@5"] for name, of in plain.items()})
    assert result["average"]["runs"] == pytest.approx(column["runs"])


def test_a_language(tmp_path):
    vidore_2(tmp_path)
    dataset = only(evaluate_published(tmp_path, PixelEncoder(), language="french"))
    assert (dataset["queries"], dataset["column"]) == (3, "VDRv2 (french)")
    assert "3 queries in another language" in dataset["left_out"]
    assert "judged" not in str(dataset["left_out"])
    queries = {row["query-id"]: row["query"] for row in questions() if row["language"] == "french"}
    agrees(dataset, plain_figures(contents(pages()), queries, graded(judgements())))
    with pytest.raises(InvalidInput, match=r"no dataset can be ranked: .*0 judged queries"):
        evaluate_published(tmp_path, PixelEncoder(), language="klingon")


def test_vidore_3(tmp_path):
    """Underscores in the names of the columns, and the text of each page beside its image."""
    folder = tmp_path / "vidore_v3_energy"
    rows = [{**page, "markdown": "# A page", "page_number_in_doc": 1} for page in pages(id="corpus_id")]
    parquet(folder / "corpus" / "test-00000-of-00001.parquet", rows)
    parquet(folder / "queries" / "test-00000-of-00001.parquet", questions(id="query_id"))
    qrels = judgements(query_id="query_id", corpus_id="corpus_id")
    parquet(folder / "qrels" / "test-00000-of-00001.parquet", qrels)
    dataset = only(evaluate_published(tmp_path, PixelEncoder()))
    assert (dataset["column"], dataset["measure"]) == ("VDRv3", "ndcg@10")
    queries = {row["query_id"]: row["query"] for row in questions(id="query_id")}
    plain = plain_figures(contents(rows, "corpus_id"), queries, graded(qrels, "query_id", "corpus_id"))
    agrees(dataset, plain)
    assert "the columns doc-id, markdown, page_number_in_doc of the corpus" in dataset["left_out"]


@pytest.mark.parametrize("saved", [False, True])
def test_visrag(tmp_path, saved):
    """File names as ids; as Parquet files of the split train, or saved part by part as the paper's code does it."""
    folder = tmp_path / "openbmb" / "VisRAG-Ret-Test-ChartQA"
    corpus = [{"corpus-id": f"{i}.png", "image": in_table(i)} for i in range(9)]
    queries = [{"query-id": f"{i}-0", "query": words(np.random.default_rng(i)), "answer": "42"} for i in range(5)]
    qrels = [{"query-id": f"{i}-0", "corpus-id": f"{i + 1}.png", "score": 1} for i in range(5)]
    for part, rows in (("corpus", corpus), ("queries", queries), ("qrels", qrels)):
        if saved:
            datasets = pytest.importorskip("datasets")
            table = datasets.Dataset.from_list(rows)
            if part == "corpus":
                table = table.cast_column("image", datasets.Image())
            table.save_to_disk(folder / part, num_shards=2)
        else:
            parquet(folder / part / "train-00000-of-00001-2fc1d3a4b5e6f708.parquet", rows)
    dataset = only(evaluate_published(tmp_path, PixelEncoder()))
    assert (dataset["name"], dataset["column"]) == ("VisRAG_ChartQA", "VisRAG")
    documents = {row["corpus-id"]: Content(image=PICTURES[i]) for i, row in enumerate(corpus)}
    agrees(dataset, plain_figures(documents, {row["query-id"]: row["query"] for row in queries}, graded(qrels)))
    assert "the column answer of the queries" in dataset["left_out"]


def nanobeir(root, name="NanoNQ"):
    generator = np.random.default_rng(5)
    corpus = [{"_id": f"d{i}", "text": words(generator, 6)} for i in range(12)]
    queries = [{"_id": f"q{i}", "text": words(generator, 3)} for i in range(6)]
    qrels = [{"query-id": f"q{i}", "corpus-id": f"d{j}"} for i in range(5) for j in (i, i + 3)]  # q5 is not judged
    for part, rows in (("corpus", corpus), ("queries", queries), ("qrels", qrels)):
        parquet(root / name / part / "train-00000-of-00001.parquet", rows)
    return corpus, queries, qrels


def test_nanobeir(tmp_path):
    """Texts, and judgements without a grade."""
    corpus, queries, qrels = nanobeir(tmp_path)
    dataset = only(evaluate_published(tmp_path / "NanoNQ", TextEncoder()))
    assert (dataset["name"], dataset["column"], dataset["measure"]) == ("NanoNQ", "NanoBEIR", "ndcg@10")
    texts = {row["_id"]: row["text"] for row in corpus}
    asked = {row["_id"]: row["text"] for row in queries[:5]}
    agrees(dataset, plain_figures(texts, asked, graded(qrels)))
    assert dataset["left_out"] == ["1 query without a relevant document"]


def test_pages_and_questions_in_rows(tmp_path):
    """The first form of ViDoRe V1: a page in several rows, rows without a question, a question in several rows."""
    rows = [
        {"query": query, "image": in_table(page), "image_filename": f"{page}.png", "source": "arXiv"}
        for query, page in [
            ("word1 word2", 0),
            ("word3", 1),
            (None, 2),
            ("word1 word2", 1),
            ("word4 word5", 0),
            (None, 3),
        ]
    ]
    parquet(tmp_path / "docvqa_test_subsampled" / "data" / "test-00000-of-00001.parquet", rows)
    dataset = only(evaluate_published(tmp_path, PixelEncoder()))
    assert (dataset["name"], dataset["documents"], dataset["queries"]) == ("ViDoRe_docvqa", 4, 3)
    documents = {f"{page}.png": Content(image=PICTURES[page]) for page in range(4)}
    qrels = {"word1 word2": {"0.png": 1, "1.png": 1}, "word3": {"1.png": 1}, "word4 word5": {"0.png": 1}}
    agrees(dataset, plain_figures(documents, {query: query for query in qrels}, qrels))
    assert {"2 rows without a query", "the column source of the rows"} < set(dataset["left_out"])


def mmeb(root):
    """Three of the twelve image datasets: texts, images and captioned images to be found, by image, text or both."""
    generator = np.random.default_rng(9)
    (root / "media" / "image-tasks" / "some").mkdir(parents=True)
    for i in range(16):
        (root / "media" / "image-tasks" / "some" / f"{i}.png").write_bytes(picture(i))
    texts = sorted({words(generator, 4) for _ in range(8)})
    rows = {"MSCOCO_i2t": [], "WebQA": [], "CIRR": []}
    for i in range(6):
        order = generator.permutation(len(texts))[:5].tolist()
        rows["MSCOCO_i2t"].append(
            {
                "qry_inst": "<|image_1|> Find an image caption describing the given image.\n",
                "qry_text": "",
                "qry_img_path": f"some/{i}.png",
                "tgt_inst": "",
                "tgt_text": [texts[j] for j in order],
                "tgt_img_path": [""] * 5,
            }
        )
        order = generator.permutation(16)[:6].tolist()
        captions = [f"{WORDS[2 * j]} {WORDS[2 * j + 1]}" for j in order]
        captioned = {"tgt_inst": "<|image_1|> Represent it.", "tgt_img_path": [f"some/{j}.png" for j in order]}
        rows["WebQA"].append(
            {
                "qry_inst": "Find it.",
                "qry_text": words(generator),
                "qry_img_path": "",
                **captioned,
                "tgt_text": captions,
            }
        )
        rows["CIRR"].append(
            {
                "qry_inst": "<|image_1|> Find a similar image.",
                "qry_text": "word7 " * (i % 2),
                "qry_img_path": f"some/{i}.png",
                **captioned,
                "tgt_text": [""] * 6,
            }
        )
    rows["GQA"] = rows["WebQA"]  # not in the paper's table
    for name, table in rows.items():
        parquet(root / "data" / "MMEB_Test_Instruct" / name / "test-00000-of-00001.parquet", table)
    return rows


def test_mmeb_ranks_the_candidates_of_each_query(tmp_path):
    rows = mmeb(tmp_path)
    result = evaluate_published(tmp_path / "data", PixelEncoder(), media=tmp_path / "media")
    assert [dataset["name"] for dataset in result["datasets"]] == ["CIRR", "MSCOCO_i2t", "WebQA"]
    assert result["skipped"] == [{"name": "GQA", "reason": "not in the paper's table"}]
    for dataset in result["datasets"]:
        table = rows[dataset["name"]]
        documents, candidates, queries, qrels = {}, {}, {}, {}
        for i, row in enumerate(table):
            image = row["qry_img_path"]
            queries[i] = Content(row["qry_text"].strip(), (tmp_path / "media/image-tasks" / image) if image else None)
            candidates[i] = list(zip(row["tgt_text"], row["tgt_img_path"], strict=True))
            qrels[i] = {candidates[i][0]: 1}
            for text, path in candidates[i]:
                documents[text, path] = Content(text, (tmp_path / "media/image-tasks" / path) if path else None)
        # The loops read a path more than once.
        agrees(dataset, plain_figures(documents, queries, qrels, candidates))
        assert (dataset["column"], dataset["measure"], dataset["queries"]) == ("ImgRET", "hit@1", 6)
        assert dataset["documents"] == len(documents)
        assert 0 < dataset["runs"]["late"]["ndcg@10"] < 1
        assert "the column tgt_inst of the rows" in dataset["left_out"]
    column = result["columns"]["ImgRET"]
    means = [dataset["runs"]["smart"]["hit@1"] for dataset in result["datasets"]]
    assert column["runs"]["smart"] == pytest.approx(100 * sum(means) / 3)
    assert (column["tasks"], column["of"]) == (3, 12)


def test_a_model_without_images_ranks_no_dataset_that_has_some(tmp_path):
    mmeb(tmp_path)
    nanobeir(tmp_path / "data")
    result = evaluate_published(tmp_path / "data", TextEncoder(), media=tmp_path / "media")
    assert only(result)["name"] == "NanoNQ"
    reasons = {skipped["name"]: skipped["reason"] for skipped in result["skipped"]}
    assert reasons.pop("GQA") == "not in the paper's table"
    assert reasons == dict.fromkeys(("CIRR", "MSCOCO_i2t", "WebQA"), "the model reads no image")


def test_a_missing_image_is_named(tmp_path):
    mmeb(tmp_path)
    with pytest.raises(
        InvalidInput, match=r"the file 'some/\d+\.png' is missing; looked in .*name its folder with --media"
    ):
        evaluate_published(tmp_path / "data", PixelEncoder())


@pytest.mark.parametrize("path", ["/etc/passwd", "../../secret.png"])
def test_a_path_out_of_the_folder_is_refused(tmp_path, path):
    row = {"qry_inst": "", "qry_text": "word1", "qry_img_path": path, "tgt_text": ["word2"]}
    parquet(tmp_path / "Some" / "test.parquet", [row])
    with pytest.raises(InvalidInput, match="leads out of the folder"):
        evaluate_published(tmp_path, PixelEncoder())


def videos(folder, names):
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(np.random.default_rng(len(name) + ord(name[0])).bytes(64))


VIDEO_ROWS = {
    "MSR-VTT": ("test_1k", "video_id", "video", "caption", "{}.mp4"),
    "MSVD": (None, "video_id", "video", "caption", "{}.avi"),
    "DiDeMo": (None, None, "video", "caption", "test/{}.mp4"),
    "YouCook2": (None, "id", "video_path", "sentence", "/home/else/raw/{}.mkv"),
    "VATEX": (None, None, "videoID", "enCap", "{}"),
}


@pytest.mark.parametrize("task", VIDEO_ROWS)
def test_videos_in_rows(tmp_path, task):
    config, id, video, caption, path = VIDEO_ROWS[task]
    names = ["a", "bb", "ccc", "dddd"]
    files = {"MSVD": ".avi", "YouCook2": ".mkv"}.get(task, ".mp4")
    media = tmp_path / "media" / "video-tasks" / "videos" / "video_ret" / task
    videos(media, [name + files for name in names])
    generator = np.random.default_rng(2)
    texts = [words(generator, 3) for _ in names]
    several = task in ("MSVD", "VATEX")
    rows = [
        {video: path.format(name), caption: [text, "word0"] if several else text} | ({id: name} if id else {})
        for name, text in zip(names, texts, strict=True)
    ]
    folder = tmp_path / "data" / task
    parquet((folder / config if config else folder / "data") / "test-00000-of-00001.parquet", rows)
    if task == "MSR-VTT":
        parquet(folder / "train_9k" / "train-00000-of-00001.parquet", rows)
    result = evaluate_published(tmp_path / "data", PixelEncoder(), media=tmp_path / "media")
    dataset = only(result)
    assert (dataset["name"], dataset["column"], dataset["measure"]) == (task, "VidRET", "hit@1")
    documents = {name: Content(video=media / (name + files)) for name in names}
    plain = plain_figures(documents, dict(enumerate(texts)), {i: {name: 1} for i, name in enumerate(names)})
    agrees(dataset, plain)
    assert ("4 other captions of a video" in dataset["left_out"]) == several
    others = [{"name": "MSR-VTT/train_9k", "reason": "another part of MSR-VTT"}]
    assert result["skipped"] == (others if task == "MSR-VTT" else [])


def test_tables_of_mteb(tmp_path):
    """Titles, images beside texts, a list of documents for each query, and the name of a language before each table."""
    generator = np.random.default_rng(4)
    root = tmp_path / "SomeRetrieval"
    corpus = [
        {"id": f"d{i}", "title": "word0", "text": words(generator), "image": in_table(i) if i % 2 else None}
        for i in range(8)
    ]
    queries = [{"id": f"q{i}", "text": words(generator) if i else None, "image": in_table(90 + i)} for i in range(4)]
    qrels = [{"query-id": f"q{i}", "corpus-id": f"d{i}", "score": i} for i in range(4)]
    ranked = [{"query-id": f"q{i}", "corpus-ids": ["d0", "d1", "d2", "d3", "gone"]} for i in range(4)]
    for part, rows in (("corpus", corpus), ("queries", queries), ("qrels", qrels), ("top_ranked", ranked)):
        parquet(root / f"english-{part}" / "test-00000-of-00001.parquet", rows)
    dataset = only(evaluate_published(tmp_path, PixelEncoder(), language="english"))
    documents = {
        row["id"]: Content(f"word0 {row['text']}", PICTURES[i] if i % 2 else None) for i, row in enumerate(corpus)
    }
    asked = {row["id"]: Content(row["text"] or "", PICTURES[90 + i]) for i, row in enumerate(queries) if i}
    agrees(dataset, plain_figures(documents, asked, graded(qrels), {id: ["d0", "d1", "d2", "d3"] for id in asked}))
    assert dataset["name"] == "SomeRetrieval-english"
    assert dataset["left_out"] == ["1 query without a relevant document", "3 candidates outside of the corpus"]


def test_the_export_of_the_papers_code(tmp_path):
    """One folder of `DatasetDict.save_to_disk`, with an instruction for each query, and images beside it."""
    datasets = pytest.importorskip("datasets")
    (tmp_path / "set" / "images").mkdir(parents=True)
    for i in range(6):
        (tmp_path / "set" / "images" / f"{i}.png").write_bytes(picture(i))
    corpus = [{"corpus_id": f"{i}", "image_path": f"images/{i}.png"} for i in range(6)]
    queries = [{"query_id": f"q_{i}", "text": WORDS[i], "instruction": "Find it."} for i in range(3)]
    judged = [{"query_id": f"q_{i}", "corpus_ids": [f"{i}", f"{i + 1}"], "scores": [2, 1]} for i in range(3)]
    datasets.DatasetDict(
        {
            "corpus": datasets.Dataset.from_list(corpus),
            "queries": datasets.Dataset.from_list(queries),
            "relevant_docs": datasets.Dataset.from_list(judged),
        }
    ).save_to_disk(tmp_path / "set")
    dataset = only(evaluate_published(tmp_path, PixelEncoder()))
    documents = {f"{i}": Content(image=PICTURES[i]) for i in range(6)}
    qrels = {f"q_{i}": {f"{i}": 2, f"{i + 1}": 1} for i in range(3)}
    agrees(dataset, plain_figures(documents, {f"q_{i}": WORDS[i] for i in range(3)}, qrels))


def test_of_two_folders_of_one_dataset_neither_is_ranked(tmp_path):
    vidore_2(tmp_path / "old")
    vidore_2(tmp_path / "new")
    nanobeir(tmp_path)
    result = evaluate_published(tmp_path, PixelEncoder())
    assert only(result)["name"] == "NanoNQ"
    [failed] = result["failed"]
    folders = [str(tmp_path / age / "vidore" / "esg_reports_v2") for age in ("new", "old")]
    reason = f"{folders[0]}, {folders[1]} all hold it; keep one of them"
    assert failed == {"name": "ViDoRe_esg_reports_v2_multilingual", "reason": reason}


def test_what_is_no_dataset_is_named(tmp_path):
    nanobeir(tmp_path)
    parquet(tmp_path / "Odd" / "test.parquet", [{"premise": "a", "label": 1}])
    parquet(tmp_path / "Half" / "corpus" / "test.parquet", [{"_id": "d", "text": "a"}])
    reasons = {each["name"]: each["reason"] for each in evaluate_published(tmp_path, TextEncoder())["failed"]}
    assert "found the table Odd with the columns premise, label; expected" in reasons["Odd"]
    assert "found the tables corpus, without queries and qrels" in reasons["Half"]


def test_a_folder_without_tables(tmp_path):
    with pytest.raises(InvalidInput, match="found no dataset in 4 levels of folders; expected Parquet files"):
        evaluate_published(tmp_path, PixelEncoder())
    with pytest.raises(InvalidInput, match="is not a folder"):
        evaluate_published(tmp_path / "gone", PixelEncoder())


def test_splits(tmp_path):
    nanobeir(tmp_path)
    with pytest.raises(InvalidInput, match="'corpus' has the splits train; expected one split, or one called 'dev'"):
        evaluate_published(tmp_path, TextEncoder(), split="dev")
    for part in ("corpus", "queries", "qrels"):
        folder = tmp_path / "NanoNQ" / part
        (folder / "dev-00000-of-00001.parquet").write_bytes((folder / "train-00000-of-00001.parquet").read_bytes())
    with pytest.raises(InvalidInput, match="'corpus' has the splits dev, train; expected one split"):
        evaluate_published(tmp_path, TextEncoder())
    assert only(evaluate_published(tmp_path, TextEncoder(), split="dev"))["queries"] == 5
    for file in tmp_path.rglob("dev-*.parquet"):
        file.rename(file.with_name(file.name.replace("dev", "test")))
    with pytest.raises(InvalidInput, match="expected one split, or one called 'dev'; name another"):
        evaluate_published(tmp_path, TextEncoder(), split="dev")


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    nanobeir(tmp_path)
    file = tmp_path / "NanoNQ" / "corpus" / "train-00000-of-00001.parquet"
    file.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InvalidInput, match=r"train-00000-of-00001\.parquet cannot be read .*only a pointer"):
        evaluate_published(tmp_path, TextEncoder())


def test_what_is_left_out_is_counted(tmp_path):
    corpus = [{"_id": f"d{i}", "text": text} for i, text in enumerate(["word1", "word2", " ", "word3"])]
    corpus.append({"_id": "d0", "text": "word9"})
    queries = [{"_id": f"q{i}", "text": text} for i, text in enumerate(["word1", "", "word3", "word2"])]
    pairs = [("q0", "d0"), ("q2", "d3"), ("q2", "d7"), ("q8", "d1"), ("q3", "d1")]
    qrels = [{"query-id": query, "corpus-id": document} for query, document in pairs]
    for part, rows in (("corpus", corpus), ("queries", queries), ("qrels", qrels)):
        parquet(tmp_path / "NanoX" / part / "train.parquet", rows)
    dataset = only(evaluate_published(tmp_path, TextEncoder(), limit_queries=2))
    assert set(dataset["left_out"]) == {
        "1 document without text, image or video",
        "1 document with the id of an earlier one",
        "1 query without text or image",
        "1 judged query outside of the table of queries",
        "1 judged document outside of the corpus",
        "1 query after the limit",
    }
    # A judged document that is not there counts as not found.
    ideal = 1 + 1 / np.log2(3)
    assert dataset["runs"]["smart"]["ndcg@10"] == pytest.approx((1 + 1 / ideal) / 2)


def test_frames_stand_for_a_video_that_is_not_there(tmp_path):
    """MMEB-V2 publishes frames. Their numbers order them, and of more than 64, 64 are read."""
    frames = tmp_path / "media/video-tasks/frames/video_ret/data/ziyan/video_retrieval/DiDeMo/frames"
    for name, count in (("a", 11), ("b", 70)):
        (frames / name).mkdir(parents=True)
        for i in range(count):
            (frames / name / f"frame_{i}.jpg").write_bytes(f"{name}{i} ".encode())
    parquet(tmp_path / "DiDeMo" / "test.parquet", [{"video": f"test/{name}.mp4", "caption": "word1"} for name in "ab"])
    [source] = find_published(tmp_path)
    a, b = source.load(Places(tmp_path, (tmp_path / "media",))).documents
    assert [path.name for path in a.video] == [f"frame_{i}.jpg" for i in range(11)]
    assert [path.name for path in b.video] == [f"frame_{int(i)}.jpg" for i in np.linspace(0, 69, 64)]

    rows = [{"video": f"test/{name}.mp4", "caption": words(np.random.default_rng(ord(name)))} for name in "ab"]
    parquet(tmp_path / "DiDeMo" / "test.parquet", rows)
    dataset = only(evaluate_published(tmp_path / "DiDeMo", PixelEncoder(), media=tmp_path / "media"))
    queries = {name: row["caption"] for name, row in zip("ab", rows, strict=True)}
    plain = plain_figures(
        {"a": Content(video=a.video), "b": Content(video=b.video)}, queries, {"a": {"a": 1}, "b": {"b": 1}}
    )
    for ranking, figures in plain.items():
        assert dataset["runs"][ranking] == pytest.approx(figures)

    with pytest.raises(InvalidInput, match=r"neither the video 'test/a\.mp4' nor a folder 'a' with its frames"):
        source.load(Places(tmp_path))
