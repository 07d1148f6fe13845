"""Judgements by HTTP as the page makes them: the last one counts, none is lost, and `eval` and `tune` read them."""

from __future__ import annotations

import json
import threading

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from helpers.served import problem_of, server
from helpers.word_encoder import WordEncoder

from smart_rag import SmartIndex
from smart_rag.evaluation import tune
from smart_rag.evaluation.datasets import load_labels
from smart_rag.serving.inspector.judgements import id_of

AT = "/indexes/words/inspector/judgements"
WORDS = [f"word{i}" for i in range(40)]


@pytest.fixture
def folder(tmp_path):
    with SmartIndex.create(tmp_path / "words.index", WordEncoder()) as index:
        index.add_texts([f"{word} {word} boat pump" for word in WORDS], WORDS)
    return tmp_path


@pytest.fixture
def client(folder):
    with server({"words": SmartIndex.open(folder / "words.index", WordEncoder())}) as client:
        yield client


def judge(client, query, id, grade, note=""):
    assert client.post(AT, json={"query": query, "id": id, "grade": grade, "note": note}).json() == {"kept": 1}


def documents(client, query):
    found = {one["query"]: one["documents"] for one in client.get(AT).json()["queries"]}
    return {id: (one["grade"], one["note"]) for id, one in found.get(query, {}).items()}


def test_the_last_judgement_counts(client):
    judge(client, "a boat", "word1", 2)
    judge(client, "a boat", "word2", 0, "no boat")
    judge(client, "a boat", "word1", 1)
    judge(client, "a boat", "word3", None, "cannot tell")
    assert documents(client, "a boat") == {"word1": (1, ""), "word2": (0, "no boat"), "word3": (None, "cannot tell")}
    judge(client, "a boat", "word2", None)
    assert set(documents(client, "a boat")) == {"word1", "word3"}
    for id in ("word1", "word3"):
        judge(client, "a boat", id, None)
    assert client.get(AT).json()["queries"] == []


def test_two_windows_lose_nothing(client):
    def window(number):
        for i in range(25):
            judge(client, f"question {number}", f"word{i}", i % 3)

    threads = [threading.Thread(target=window, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert documents(client, f"question {number}") == {f"word{i}": (i % 3, "") for i in range(25)}


def test_eval_and_tune_read_the_files(client, folder, tmp_path):
    for word in WORDS[:30]:
        judge(client, f"where is {word}", word, 2)
        judge(client, f"where is {word}", "word39", 0, 'a "quoted" note')
    judge(client, "nothing is known", "word5", None, "can't tell")
    for name in ("queries.jsonl", "qrels.tsv"):
        answer = client.get(f"{AT}/{name}")
        assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
        (tmp_path / name).write_bytes(answer.content)
    labels = load_labels(tmp_path / "queries.jsonl", tmp_path / "qrels.tsv")
    assert len(labels.queries) == 30
    assert labels.qrels[id_of("where is word3")] == {"word3": 2, "word39": 0}
    with SmartIndex.open(folder / "words.index", WordEncoder()) as index:
        expected = tune(index, labels.queries, labels.qrels)
    found = client.post(f"{AT}/tune", json={}).json()
    assert found["queries"] == 30
    assert found["now"]["ndcg"] == pytest.approx(expected.scores[expected.current])
    assert found["proposed"]["weights"] == list(expected.choice.weights)
    assert (found["gain"]["mean"], found["gain"]["low"]) == (expected.held_out.mean, expected.held_out.low)
    assert client.get("/info").json()["manifest"]["config"]["weights"] == list(expected.current.weights)


def test_few_questions_decide_nothing(client):
    judge(client, "a boat", "word1", 2)
    assert "at least 30 queries" in problem_of(client.post(f"{AT}/tune", json={}))["detail"]


def test_a_half_line_and_a_damaged_one(client, folder):
    judge(client, "a boat", "word1", 2)
    path = folder / "words.index.judgements.jsonl"
    with path.open("ab") as file:
        file.write(b'{"query": "a bo')
    assert documents(client, "a boat") == {"word1": (2, "")}
    judge(client, "a boat", "word2", 1)  # begins on a line of its own
    assert "line 2: no judgement" in problem_of(client.get(AT))["detail"]
    path.write_bytes(path.read_bytes().replace(b'{"query": "a bo\n', b""))
    assert documents(client, "a boat") == {"word1": (2, ""), "word2": (1, "")}


@pytest.mark.parametrize(
    "changed",
    [{"grade": 3}, {"grade": "2"}, {"grade": True}, {"id": "a\tb"}, {"query": " "}, {"query": "\ud800"}, {"other": 1}],
)
def test_what_no_file_can_hold_is_refused(client, folder, changed):
    body = {"query": "a boat", "id": "word1", "grade": 2, **changed}
    answer = client.post(AT, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert not (folder / "words.index.judgements.jsonl").exists()


def test_many_at_once_are_kept_whole_or_not_at_all(client):
    good = {"query": "a boat", "id": "word1", "grade": 2}
    assert client.post(f"{AT}/import", json={"judgements": [good, {**good, "id": "a\nb"}]}).status_code == 422
    assert client.get(AT).json()["queries"] == []
    assert client.post(f"{AT}/import", json={"judgements": [good, {**good, "id": "word2"}]}).json() == {"kept": 2}
    assert set(documents(client, "a boat")) == {"word1", "word2"}
