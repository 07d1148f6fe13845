"""The paper's table by the command line, with a tiny vision-language model: its instructions, and what is printed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="published datasets need the extra `eval`")

from helpers import tiny_vision
from helpers.command_line import good, run
from helpers.published_datasets import (
    PixelEncoder,
    in_table,
    parquet,
    picture,
    plain_figures,
)

from smart_rag import Content, SmartEncoder
from smart_rag.encoders.prompts import takes_instructions, with_instruction
from smart_rag.evaluation.paper.evaluation import paper_encoder

FIND_PAGE = "Find a document image that matches the given query."


class Instructed(PixelEncoder):
    """Encodes each query with the instruction that the layout gives it, by a model with that prompt."""

    def __init__(self, documents, queries):
        self.documents, self.queries = documents, queries
        self.known = {}

    def encode_document(self, items):
        [item] = items
        if item not in self.known:
            self.known[item] = self.documents.encode_document([item])
        return self.known[item]

    def encode_query(self, items):
        return self.queries.encode_query(items)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    made = Path(tiny_vision.qwen3_vl(tmp_path_factory.mktemp("models")))
    return str(made.rename(made.parent / "Qwen3-VL-Embedding-2B"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    rows = []
    for i in range(4):
        paths = [f"{(i + j) % 5}.png" for j in range(4)]
        (root / paths[0]).write_bytes(picture((i) % 5))
        rows.append(
            {
                "qry_inst": "Find the image of the text" if i % 2 else "<|image_1|> Find it!",
                "qry_text": f"text {i}",
                "qry_img_path": "" if i % 2 else paths[1],
                "tgt_text": ["", "a caption", "", ""],
                "tgt_img_path": paths,
            }
        )
    (root / "4.png").write_bytes(picture(4))
    parquet(root / "MMEB_Test_Instruct" / "EDIS" / "test.parquet", rows)
    folder = root / "vidore" / "esg_reports_v2"
    parquet(folder / "corpus" / "test.parquet", [{"corpus-id": i, "image": in_table(20 + i)} for i in range(5)])
    parquet(folder / "queries" / "test.parquet", [{"query-id": i, "query": f"query {i}"} for i in range(3)])
    parquet(folder / "qrels" / "test.parquet", [{"query-id": i, "corpus-id": i, "score": 1} for i in range(3)])
    return root


def test_the_table_of_a_model(model, root, tmp_path):
    output = good("eval", root, "--paper", "--model", model, "--device", "cpu", "--json", tmp_path / "figures.json")
    result = json.loads((tmp_path / "figures.json").read_text())
    assert result["published_model"] == "Qwen3-VL-Emb-2B"
    edis, pages = result["datasets"]
    assert [edis["name"], pages["name"]] == ["EDIS", "ViDoRe_esg_reports_v2_multilingual"]
    assert pages["left_out"] == []
    assert edis["left_out"] == ["5 texts of an image that has another one in an earlier row"]

    # The loops, with a model for each instruction. Qwen's code ends an instruction with a full stop.
    documents = paper_encoder(model, device="cpu")
    queries = {i: f"query {i}" for i in range(3)}
    of_pages = {i: Content(image=root / "page.png") for i in range(5)}
    for i in of_pages:
        (root / f"page{i}.png").write_bytes(picture(20 + i))
        of_pages[i] = Content(image=root / f"page{i}.png")
    asking = Instructed(documents, paper_encoder(model, device="cpu", query_prompt=FIND_PAGE))
    plain = plain_figures(of_pages, queries, {i: {i: 1} for i in range(3)}, encoder=asking)
    for ranking, figures in plain.items():
        assert pages["runs"][ranking] == pytest.approx(figures)

    # An image has the text of the first row that has it: the second image of the first row has the caption.
    names = {f"{i}.png": Content("a caption" if i == 1 else "", root / f"{i}.png") for i in range(5)}
    figures = []
    prompts = ("Find it!", "Find the image of the text.")
    asking = [Instructed(documents, paper_encoder(model, device="cpu", query_prompt=prompt)) for prompt in prompts]
    for i in range(4):
        candidates = [f"{(i + j) % 5}.png" for j in range(4)]
        query = Content(f"text {i}", None if i % 2 else root / candidates[1])
        of_row = {name: names[name] for name in candidates}
        figures.append(plain_figures(of_row, {i: query}, {i: {candidates[0]: 1}}, encoder=asking[i % 2]))
    for ranking in ("pooled", "late", "smart"):
        mean = sum(each[ranking]["ndcg@10"] for each in figures) / 4
        assert edis["runs"][ranking]["ndcg@10"] == pytest.approx(mean)

    column = result["columns"]["ImgRET"]
    assert column["published"] == {"pooled": 74.91, "smart": 75.33}
    ours = f"{column['runs']['pooled']:.2f} (74.91)"
    assert re.search(rf"│ ImgRET +│ hit@1 +│ +1 of 12 │ +{re.escape(ours)} │ ", output)
    assert re.search(r"│ average +│ +│ +2 of 41 │ +\d+\.\d\d │", output)  # two of 41 have no published average
    assert "in brackets: Qwen3-VL-Emb-2B" in output
    assert re.search(r"│ EDIS +│ +5 │ +4 │", output)


def test_an_instruction_shares_the_model_and_changes_the_queries_alone(model):
    encoder = SmartEncoder(model, device="cpu")
    other = with_instruction(encoder, "Find a cat")
    assert other.model is encoder.model
    assert other.describe()["query_prompt"] == "Find a cat."
    assert other.fingerprint == encoder.fingerprint
    alone = SmartEncoder(model, device="cpu", query_prompt="Find a cat.").encode_query(["a cat"])
    found, own = other.encode_query(["a cat"]), encoder.encode_query(["a cat"])
    assert found.tokens[0] == pytest.approx(alone.tokens[0], abs=1e-6)
    assert found.pooled == pytest.approx(alone.pooled, abs=1e-6)
    assert abs(found.pooled - own.pooled).max() > 1e-3
    assert other.encode_document(["a cat"]).pooled == pytest.approx(encoder.encode_document(["a cat"]).pooled)


def test_who_takes_instructions(model):
    assert takes_instructions(SmartEncoder(model, device="cpu"))
    assert not takes_instructions(SmartEncoder(model, device="cpu", profile="general"))
    assert not takes_instructions(SmartEncoder(model, device="cpu", query_prompt="Find a cat."))
    assert not takes_instructions(PixelEncoder())


def test_options_that_do_not_go_together(root, tmp_path):
    for options in (["--db", tmp_path / "db"], ["--top-k", 3], ["--candidates", 3]):
        code, _, errors = run("eval", root, "--paper", *options)
        assert code == 2
        assert "leave out --db, --top-k, --candidates, --weighting," in " ".join(errors.replace("│", "").split())
    code, _, errors = run("eval", root, "--language", "english")
    assert code == 2
    assert "need --paper" in errors
