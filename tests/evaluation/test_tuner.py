"""Weights from labelled queries: found where they matter, and chance called chance."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import replace

import numpy as np
import pytest
from helpers.command_line import error_of, good
from helpers.word_encoder import WordEncoder

from smart_rag import Document, IndexConfig, Representation, SmartIndex
from smart_rag.config import DEFAULT_WEIGHTS
from smart_rag.errors import IndexLocked, InvalidInput
from smart_rag.evaluation.tuner import RATIOS, Setting, cross_validated, tune
from smart_rag.index.manifest import Manifest
from smart_rag.index.smart_index import scan_scores

COUNT = 60


class Planted(WordEncoder):
    """Tokens find the one word that query and document share; the pooled embedding says nothing, and that loudly."""

    fingerprint = "planted"

    def encode_query(self, texts):
        tokens = super().encode_query(texts).tokens
        pooled = np.stack([np.random.default_rng(zlib.crc32(t.encode())).choice([-1.0, 1.0], 8) for t in texts])
        return Representation.from_embeddings(np.pad(pooled, ((0, 0), (0, self.dimension - 8))), list(tokens))

    encode_document = encode_query


def planted(folder, encoder, config=None):
    """An index of documents of five words, queries that share one word with theirs, and the judgements."""
    random = np.random.default_rng(7)
    words = [f"word{i}" for i in range(300)]
    texts = [" ".join(random.choice(words, 5, replace=False)) for _ in range(COUNT)]
    index = SmartIndex.create(folder, encoder, config=config)
    index.add([Document(f"d{i}", text) for i, text in enumerate(texts)])
    queries = {f"q{i}": f"{text.split()[0]} {text.split()[3]} any{i}" for i, text in enumerate(texts)}
    return index, queries, {f"q{i}": {f"d{i}": 1} for i in range(COUNT)}


@pytest.fixture
def late_only(tmp_path):
    index, queries, qrels = planted(tmp_path / "index", Planted(), IndexConfig(weights=(2, 1), chunk_tokens=77))
    with index:
        yield index, queries, qrels


def plain_ndcg(index, queries, qrels, weights):
    """nDCG@10 of each query whose one relevant document has grade 1, by loops over the public scores."""
    values = []
    for id, text in queries.items():
        scores = {}
        for block in scan_scores(index, index.encode_queries([text]), weighting="none"):
            for name, pooled, late in zip(block.ids, block.pooled[0], block.late[0], strict=True):
                scores[name] = weights[0] * float(pooled) + weights[1] * float(late)
        ranked = sorted(scores, key=lambda name: (-round(scores[name], 6), name))[:10]
        [relevant] = qrels[id]
        values.append(1 / np.log2(2 + ranked.index(relevant)) if relevant in ranked else 0.0)
    return values


def test_late_alone_is_found_where_the_pooled_embedding_says_nothing(late_only):
    index, queries, qrels = late_only
    found = tune(index, queries, qrels)
    assert (found.current, found.queries) == (Setting((2, 1), "idf"), COUNT)
    assert found.choice.weights[0] / sum(found.choice.weights) <= 0.2
    assert found.held_out.verdict == "better"
    assert found.is_worth_it
    assert 0.1 < found.held_out.low < found.held_out.mean < found.held_out.high
    assert index.manifest.config.weights == (2, 1)  # it only reports


def test_the_score_of_each_setting_is_as_plain_loops_have_it(late_only):
    index, queries, qrels = late_only
    found = tune(index, queries, qrels)
    assert {setting.weights for setting in found.scores} == {*RATIOS}
    for weights in [(0, 1), (1, 1), (2, 1), (1, 0)]:
        plain = sum(plain_ndcg(index, queries, qrels, weights)) / COUNT
        # WordEncoder's tokens have no ids in a vocabulary: idf is as none.
        of_ratio = [score for setting, score in found.scores.items() if setting.weights == weights]
        assert of_ratio == pytest.approx([plain] * len(of_ratio), abs=1e-6), weights
        assert len(of_ratio) == (1 if weights == (1, 0) else 2)


def test_queries_are_held_out_as_plain_loops_hold_them():
    values = np.random.default_rng(3).random((4, 31))
    fold = np.random.default_rng(9).permutation(31) % 5
    expected = []
    for query in range(31):
        means = []
        for setting in range(4):
            others = [values[setting, i] for i in range(31) if fold[i] != fold[query]]
            means.append(sum(others) / len(others))
        expected.append(values[means.index(max(means)), query])
    assert cross_validated(values, 5, 9).tolist() == expected
    assert len({float(value) for value in values.argmax(axis=0)}) > 1


def test_where_nothing_differs_the_setting_stays(tmp_path):
    """One word to a text: the pooled embedding is the token, and every setting makes the same ranking."""
    with SmartIndex.create(tmp_path / "index", WordEncoder(), config=IndexConfig(codec="exact")) as index:
        index.add([Document(f"d{i:02}", f"word{i}") for i in range(40)])
        labels = {f"q{i}": {f"d{(i + i % 3) % 40:02}": 1} for i in range(40)}
        found = tune(index, {f"q{i}": f"word{i}" for i in range(40)}, labels)
    assert len({round(score, 9) for score in found.scores.values()}) == 1
    assert found.choice == found.current == Setting(DEFAULT_WEIGHTS, "idf")
    assert (found.held_out.low, found.held_out.high, found.held_out.verdict) == (0, 0, "noise")
    assert not found.is_worth_it


@pytest.mark.parametrize("seed", range(3))
def test_random_labels_are_noise(late_only, seed):
    index, queries, _ = late_only
    others = np.random.default_rng(seed).permutation(COUNT).tolist()
    found = tune(index, queries, {id: {f"d{i}": 1} for id, i in zip(queries, others, strict=True)}, seed=seed)
    assert found.held_out.verdict != "better"
    assert not found.is_worth_it


def test_few_queries_are_refused(late_only):
    index, queries, qrels = late_only
    some = dict(list(queries.items())[:30])
    assert tune(index, some, qrels).queries == 30
    with pytest.raises(InvalidInput, match="at least 30 queries with a relevant document, got 29"):
        tune(index, some, {**qrels, "q3": {"d3": 0}})


def test_judgements_of_other_documents_are_refused(late_only):
    index, queries, _ = late_only
    with pytest.raises(InvalidInput, match=r"no relevant document of the .* is in the index; judgements name"):
        tune(index, queries, {id: {"elsewhere": 1} for id in queries})


def test_of_equals_the_nearest_to_the_defaults_is_taken(late_only):
    """From the pooled score alone, where all that listen to late interaction find the same."""
    index, queries, qrels = late_only
    found = tune(index, queries, qrels)
    best = max(found.scores.values())
    as_good = [setting for setting, score in found.scores.items() if score == pytest.approx(best, abs=1e-9)]
    assert len(as_good) > 1

    def distance(setting):
        return abs(math.atan2(*setting.weights) - math.atan2(1, 2))

    assert found.choice == found.current or distance(found.choice) == min(map(distance, as_good))
    order = [distance(setting) for setting in list(found.scores)[1:]]
    assert order == sorted(order)


# --- what the index keeps ---------------------------------------------------------------------


def test_weights_are_kept_and_all_else_stays(late_only):
    index, queries, _ = late_only
    before = Manifest.read(index.path)
    index.set_weights((0, 3), "none")
    config = replace(before.config, weights=(0.0, 3.0), weighting="none")
    assert Manifest.read(index.path) == index.manifest == replace(before, config=config)
    [hit] = index.search(queries["q0"], 1)
    assert hit.score == pytest.approx(3 * hit.late_score)
    index.close()
    with SmartIndex.open(index.path, Planted()) as again:
        assert again.search(queries["q0"], 1) == [hit]
        again.set_weights((1, 1))
        assert again.manifest.config == replace(config, weights=(1.0, 1.0))


def test_what_another_index_object_has_set_is_not_undone(late_only):
    index, *_ = late_only
    index.close()
    with SmartIndex.open(index.path, Planted()) as stale:
        with SmartIndex.open(index.path, Planted()) as other:
            other.set_weights((2, 1), "none")
        stale.set_weights((1, 4))
        assert Manifest.read(index.path).config.weighting == "none"


@pytest.mark.parametrize(("weights", "weighting"), [((0, 0), None), ((1, -1), None), ((1, 1), "tf")])
def test_wrong_weights_change_nothing(late_only, weights, weighting):
    index, *_ = late_only
    with pytest.raises(InvalidInput, match="weight"):
        index.set_weights(weights, weighting)
    assert Manifest.read(index.path) == index.manifest
    assert index.manifest.config.weights == (2, 1)


def test_only_the_writer_sets_weights(late_only):
    index, *_ = late_only  # it has written
    with SmartIndex.open(index.path, Planted()) as other, pytest.raises(IndexLocked):
        other.set_weights((1, 1))


# --- smart-rag tune ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def serials(tmp_path_factory):
    """An index by MiniLM that ranks by the pooled embedding alone, and queries for numbers, which that loses."""
    folder = tmp_path_factory.mktemp("serials")
    random = np.random.default_rng(0)
    rows = random.choice(np.arange(10_000, 99_999), (40, 8), replace=False).astype(str).tolist()
    numbers = [row[4] for row in rows]
    with SmartIndex.create(folder / "index", config=IndexConfig(weights=(1, 0))) as index:
        index.add([Document(row[4], f"The pumps of the station have the numbers {', '.join(row)}.") for row in rows])
    queries = [{"_id": number, "text": f"where is number {number}?"} for number in numbers]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (folder / "qrels.tsv").write_text("".join(f"{number}\t{number}\t1\n" for number in numbers))
    # Labels that no setting can follow: of each query, another one's document.
    others = zip(numbers, random.permutation(numbers).tolist(), strict=True)
    (folder / "random.tsv").write_text("".join(f"{number}\t{other}\t1\n" for number, other in others))
    return folder


@pytest.fixture
def folder(serials):
    """The same, with weights that a test may change."""
    yield serials
    with SmartIndex.open(serials / "index") as index:
        index.set_weights((1, 0), "idf")


def arguments(folder, *more, qrels="qrels.tsv"):
    return "tune", "--db", folder / "index", "--queries", folder / "queries.jsonl", "--qrels", folder / qrels, *more


def own(folder):
    config = Manifest.read(folder / "index").config
    return config.weights, config.weighting


def test_noise_is_said_and_the_index_left_unless_forced(folder):
    output = good(*arguments(folder, qrels="random.tsv"))
    assert "the difference is noise." in output
    assert "The index is left as it is. --force takes the best all the same." in output
    assert own(folder) == ((1, 0), "idf")
    figures = json.loads(good(*arguments(folder, "--force", "--json", qrels="random.tsv")))
    assert figures["held_out"]["verdict"] == "noise"
    assert figures["written"]
    assert own(folder) == (tuple(figures["choice"]["weights"]), figures["choice"]["weighting"]) != ((1, 0), "idf")


def test_what_is_better_is_kept_but_not_in_a_dry_run(folder):
    output = good(*arguments(folder, "--dry-run"))
    assert output.endswith(": better.\nThe index is left as it is.\n")
    assert own(folder) == ((1, 0), "idf")
    output = good(*arguments(folder))
    assert output.endswith(": better.\nThe best is now the index's own.\n")
    assert "nDCG@10 of 40 queries" in output
    assert own(folder)[0] != (1, 0)
    chosen = own(folder)
    output = good(*arguments(folder))
    assert output.endswith(" is the best.\nThe index is left as it is.\n")
    assert own(folder) == chosen


def test_the_figures_as_json(folder):
    figures = json.loads(good(*arguments(folder, "--json", "--dry-run", "--limit-queries", 35)))
    assert list(figures) == ["queries", "settings", "current", "choice", "held_out", "written"]
    assert (figures["queries"], figures["written"]) == (35, False)
    assert figures["current"] == {"weights": [1, 0], "weighting": "idf"}
    assert len(figures["settings"]) == 23  # of pooled alone there is one
    best = max(figures["settings"], key=lambda setting: setting["ndcg@10"])
    assert best.pop("ndcg@10") > 0
    assert figures["choice"] == best
    assert list(figures["held_out"]) == ["ndcg@10", "low", "high", "verdict"]


def test_few_labels_are_an_error_of_one_line(folder):
    assert "needs at least 30 queries" in error_of(*arguments(folder, "--limit-queries", 29))
    assert "gone.tsv is missing" in error_of(*arguments(folder, qrels="gone.tsv"))
