"""`MtebModel` in `mteb.evaluate`, on mteb's own mock tasks and on a random task, against plain loops and mteb's models.

To run these tests: pip install 'smart-rag[mteb]', then pytest -m slow tests/evaluation/test_mteb_model.py
"""

from __future__ import annotations

import io
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mteb", reason="the tests of mteb need it: pip install 'smart-rag[mteb]'")

import mteb
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from helpers.published_datasets import PixelEncoder, TextEncoder, picture, words
from helpers.tiny_models import bert
from mteb import mocks
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
from mteb.types import PromptType
from PIL import Image
from sentence_transformers import SentenceTransformer
from torch.utils.data import DataLoader

from smart_rag import Content, SmartEncoder
from smart_rag.errors import InvalidInput
from smart_rag.evaluation import MtebModel

pytestmark = [
    pytest.mark.slow,  # the import of mteb takes long
    pytest.mark.filterwarnings("ignore"),  # of mteb and its dependencies
]

QUERIES, DOCUMENTS = 12, 40


def random_split(ranked=False, pictures=False):
    generator = np.random.default_rng(11)
    corpus = [{"id": f"d{i:02}", "title": "", "text": words(generator, 6)} for i in range(DOCUMENTS)]
    queries = [{"id": f"q{i}", "text": words(generator, 4)} for i in range(QUERIES)]
    if pictures:
        corpus = [{"id": f"d{i:02}", "image": {"bytes": picture(i), "path": None}} for i in range(DOCUMENTS)]
    qrels = {f"q{i}": {f"d{j:02}": int(generator.integers(0, 3)) for j in range(DOCUMENTS)} for i in range(QUERIES)}
    lists = {f"q{i}": [f"d{j:02}" for j in generator.permutation(DOCUMENTS)[:15].tolist()] for i in range(QUERIES)}
    features = Features({"id": Value("string"), "image": ImageFeature()}) if pictures else None
    return {
        "queries": Dataset.from_list(queries),
        "corpus": Dataset.from_list(corpus, features=features),
        "relevant_docs": qrels,
        "top_ranked": lists if ranked else None,
    }


def metadata(type="Retrieval", **changes):
    base = mocks.MockRerankingTask.metadata if type == "Reranking" else mocks.MockRetrievalTask.metadata
    changed = {"name": f"Random{type}", "type": type, "eval_splits": ["test"], **changes}
    return TaskMetadata(**{**base.model_dump(), **changed})


class RandomRetrieval(AbsTaskRetrieval):
    metadata = metadata(main_score="ndcg_at_10")

    def load_data(self, num_proc=None, **_):
        self.dataset, self.data_loaded = {"default": {"test": random_split()}}, True


class RandomReranking(AbsTaskRetrieval):
    metadata = metadata("Reranking", main_score="ndcg_at_10")

    def load_data(self, num_proc=None, **_):
        self.dataset, self.data_loaded = {"default": {"test": random_split(ranked=True)}}, True


class RandomPages(AbsTaskRetrieval):
    metadata = metadata("Any2AnyRetrieval", main_score="ndcg_at_10", category="t2i", modalities=["text", "image"])

    def load_data(self, num_proc=None, **_):
        self.dataset, self.data_loaded = {"default": {"test": random_split(pictures=True)}}, True


def plain_ndcg(split, encoder, weights):
    """Return the mean nDCG@10 by loops, with tokens in float16 as the codec "exact" stores them."""

    def content(row):
        return row["text"] if "text" in row else Content(image=io.BytesIO(picture(int(row["id"][1:]))))

    documents = {
        row["id"]: encoder.encode_document([content(row)])
        for row in split["corpus"].select_columns(
            [name for name in ("id", "text") if name in split["corpus"].column_names]
        )
    }
    values = []
    for row in split["queries"]:
        query, grades = encoder.encode_query([row["text"]]), split["relevant_docs"][row["id"]]
        scores = {}
        for id in documents if split["top_ranked"] is None else split["top_ranked"][row["id"]]:
            tokens = documents[id].tokens[0].astype(np.float16).astype(float)
            late = np.mean([max(float(token.astype(float) @ other) for other in tokens) for token in query.tokens[0]])
            pooled = float(query.pooled[0].astype(float) @ documents[id].pooled[0].astype(float))
            scores[id] = weights[0] * pooled + weights[1] * late
        ranked = sorted(scores, key=scores.get, reverse=True)
        assert all(scores[a] - scores[b] > 1e-6 for a, b in pairwise(ranked))
        gain = sum(grades[id] / math.log2(i + 2) for i, id in enumerate(ranked[:10]))
        ideal = sorted(grades.values(), reverse=True)[:10]
        values.append(gain / sum(grade / math.log2(i + 2) for i, grade in enumerate(ideal)))
    return sum(values) / len(values)


def score(model, task):
    result = mteb.evaluate(model, task, cache=None, show_progress_bar=False)
    return result[0].get_score()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bert(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({"ranking": "pooled"}, (1, 0)),
        ({"ranking": "late"}, (0, 1)),
        ({"ranking": "hybrid"}, (1, 2)),
        ({"ranking": "hybrid", "weights": (1, 1)}, (1, 1)),
    ],
    ids=["pooled", "late", "hybrid", "paper"],
)
@pytest.mark.parametrize("task", [RandomRetrieval, RandomReranking, RandomPages])
def test_retrieval_agrees_with_plain_loops(task, options, weights):
    encoder = PixelEncoder()
    made = task()
    found = score(MtebModel(encoder, weighting="none", **options), made)
    split = {RandomRetrieval: {}, RandomReranking: {"ranked": True}, RandomPages: {"pictures": True}}[task]
    assert found == pytest.approx(plain_ndcg(random_split(**split), encoder, weights), abs=1e-5)  # mteb rounds


def test_pooled_gives_the_scores_of_mtebs_own_wrapper_on_every_mock_task(folder):
    """mteb's wrapper encodes with sentence-transformers and searches with its own code."""
    theirs, ours = SentenceTransformer(folder, device="cpu"), MtebModel(folder, device="cpu", ranking="pooled")
    checked = []
    for task in mocks.MOCK_TASK_TEST_GRID:
        found, expected = score(ours, task), score(theirs, type(task)())
        assert found == pytest.approx(expected, abs=1e-4, nan_ok=True), task.metadata.name
        checked.append(task.metadata.type)
    assert len(set(checked)) >= 10


PROMPTS = {
    "none": {},
    "of queries and documents": {"query": "question: ", "document": "text: "},
    "of tasks": {
        "query": "question: ",
        "document": "text: ",
        "STS": "alike: ",
        "Classification": "kind: ",
        "Clustering": "group: ",
        "Retrieval-query": "find: ",
        "Retrieval-document": "found: ",
        "Reranking": "sort: ",
    },
}


@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("default", [None, "query"])
def test_prompts_are_those_of_mtebs_own_wrapper(tmp_path, prompts, default):
    """For each kind of task, as a query, as a document and as neither, the pooled embeddings are equal to 1e-6."""
    made = bert(tmp_path, prompts=PROMPTS[prompts], default_prompt_name=default if PROMPTS[prompts] else None)
    theirs = SentenceTransformerEncoderWrapper(SentenceTransformer(made, device="cpu"))
    ours = MtebModel(made, device="cpu", ranking="pooled")
    texts = Dataset.from_list([{"text": "a red boat"}, {"text": "where are the keys of the old house"}])
    differ = set()
    for task in {type(task): task for task in mocks.MOCK_TASK_TEST_GRID}.values():
        for role in (None, PromptType.query, PromptType.document):
            options = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default", "prompt_type": role}
            inputs = DataLoader(texts, batch_size=2)
            expected = np.asarray(theirs.encode(inputs, show_progress_bar=False, **options))
            assert ours.encode(inputs, **options) == pytest.approx(expected, abs=1e-6), (task.metadata.type, role)
            differ.add(expected.tobytes())
    assert len(differ) >= 1 + len(set(PROMPTS[prompts].values())) - (default == "query") * (prompts != "none")


def test_the_prompts_of_a_search_are_those_of_its_task(tmp_path):
    """A prompt for retrieval replaces the general one, for the queries and for the documents."""
    made = bert(tmp_path, prompts=PROMPTS["of tasks"])
    model = MtebModel(made, device="cpu", weighting="none", weights=(1, 1))
    texts = ["a red boat", "where are the keys of the old house", "the cat sat on the mat"]
    corpus = Dataset.from_list([{"id": str(i), "title": "", "text": text} for i, text in enumerate(texts)])
    options = {"task_metadata": RandomRetrieval.metadata, "hf_split": "test", "hf_subset": "default"}
    model.index(corpus, encode_kwargs={}, **options)
    found = model.search(Dataset.from_list([{"id": "q", "text": "the keys"}]), top_k=3, encode_kwargs={}, **options)[
        "q"
    ]
    asked = SmartEncoder(made, device="cpu", query_prompt="find: ", document_prompt="found: ")
    query, documents = asked.encode_query(["the keys"]), asked.encode_document(texts)
    for i in range(len(texts)):
        late = np.mean([max(float(token @ other) for other in documents.tokens[i]) for token in query.tokens[0]])
        pooled = float(query.pooled[0] @ documents.pooled[i])
        assert found[str(i)] == pytest.approx(pooled + late, abs=1e-3), i  # tokens are stored as float16


def test_a_prompt_that_the_caller_gives_is_kept(tmp_path):
    made = bert(tmp_path, prompts=PROMPTS["of tasks"])
    model = MtebModel(made, device="cpu", ranking="pooled", query_prompt="my: ")
    options = {"task_metadata": RandomRetrieval.metadata, "hf_split": "test", "hf_subset": "default"}
    found = model.encode([{"text": ["a red boat"]}], prompt_type=PromptType.query, **options)
    asked = SmartEncoder(made, device="cpu", query_prompt="my: ").encode_query(["a red boat"])
    assert found == pytest.approx(asked.pooled, abs=1e-6)


@pytest.mark.parametrize("ranking", ["late", "hybrid"])
def test_late_and_hybrid_run_on_every_mock_task(folder, ranking):
    model = MtebModel(folder, device="cpu", ranking=ranking)
    for task in mocks.MOCK_TASK_TEST_GRID:
        found = score(model, type(task)())
        assert -1 <= found <= 1 or math.isnan(found), task.metadata.name


def test_images_of_the_mock_tasks():
    for task in (mocks.MockAny2AnyRetrievalT2ITask(), mocks.MockAny2AnyRetrievalI2TTask()):
        assert 0 <= score(MtebModel(PixelEncoder()), task) <= 1


def test_what_a_model_does_not_read_is_an_error():
    with pytest.raises(ValueError, match="none overlap with task"):  # mteb's own error: the model says what it reads
        score(MtebModel(TextEncoder()), mocks.MockAny2AnyRetrievalT2ITask())
    for encoder, batch, message in (
        (
            TextEncoder(),
            {"text": ["a"], "image": [Image.new("RGB", (8, 8))]},
            "has image, which the model does not read",
        ),
        (PixelEncoder(), {"text": ["a"], "audio": [None]}, "has audio, which smart_rag does not read"),
        (PixelEncoder(), {"video": [None]}, "has videos as arrays"),
        (PixelEncoder(), {"id": ["a"]}, "expected a batch with text or image, got id"),
    ):
        with pytest.raises(InvalidInput, match=message):
            MtebModel(encoder).encode(
                [batch], task_metadata=RandomRetrieval.metadata, hf_split="test", hf_subset="default"
            )


def test_a_tasks_prompt_is_the_instruction_of_a_model_that_takes_one(tmp_path):
    """Of a vision-language model; the model of texts keeps its own prompt."""
    tiny_vision = pytest.importorskip("helpers.tiny_vision")
    made = Path(tiny_vision.qwen3_vl(tmp_path))
    model = str(made.rename(made.parent / "Qwen3-VL-Embedding-2B"))

    class Prompted(RandomRetrieval):
        metadata = metadata(name="Prompted", main_score="ndcg_at_10", prompt={"query": "Find the same words"})

    found = score(MtebModel(model, device="cpu", weighting="none", weights=(1, 1)), Prompted())
    asked = SmartEncoder(model, device="cpu", query_prompt="Find the same words.")
    assert found == pytest.approx(plain_ndcg(random_split(), asked, (1, 1)), abs=1e-5)


def test_results_of_other_settings_are_not_taken_from_the_cache(folder):
    encoder = SmartEncoder(folder, device="cpu")
    models = [
        MtebModel(encoder, ranking="pooled"),
        MtebModel(encoder, ranking="late"),
        MtebModel(encoder),
        MtebModel(encoder, weights=(1, 1)),
        MtebModel(encoder, weighting="none"),
        MtebModel(encoder, codec="4bit"),
        MtebModel(folder, device="cpu", query_tokens="input"),
    ]
    keys = {(model.mteb_model_meta.name, model.mteb_model_meta.revision) for model in models}
    assert len(keys) == len(models)
    again = MtebModel(encoder).mteb_model_meta
    assert (again.name, again.revision) in keys
    assert again.name.startswith("smart-rag/")
    assert again.name.endswith("-hybrid")


def test_content_that_is_empty_has_no_score(caplog):
    task = RandomRetrieval()
    task.load_data()
    split = task.dataset["default"]["test"]
    split["corpus"] = Dataset.from_list([*split["corpus"].to_list()[:4], {"id": "e", "title": "", "text": " "}])
    split["queries"] = Dataset.from_list([*split["queries"].to_list(), {"id": "empty", "text": ""}])
    split["relevant_docs"]["empty"] = {"d00": 1}
    model = MtebModel(TextEncoder())
    score(model, task)
    assert "RandomRetrieval: 1 document without content left out" in caplog.messages
    assert "RandomRetrieval: 1 query without content left out" in caplog.messages


def test_arguments(folder):
    with pytest.raises(InvalidInput, match="the encoder exists already"):
        MtebModel(TextEncoder(), device="cpu")
    with pytest.raises(InvalidInput, match="ranking"):
        MtebModel(TextEncoder(), ranking="best")
    with pytest.raises(InvalidInput, match="call index before search"):
        MtebModel(TextEncoder()).search(
            [], task_metadata=RandomRetrieval.metadata, hf_split="", hf_subset="", top_k=1, encode_kwargs={}
        )


@pytest.mark.parametrize("ranking", ["pooled", "late", "hybrid"])
def test_the_best_are_the_best_by_the_same_score(ranking):
    split, found = random_split(), []
    model = MtebModel(PixelEncoder(), ranking=ranking)
    options = {"task_metadata": RandomRetrieval.metadata, "hf_split": "test", "hf_subset": "default"}
    for top_k in (3, DOCUMENTS):
        model.index(split["corpus"], encode_kwargs={}, num_proc=None, **options)
        found.append(model.search(split["queries"], top_k=top_k, encode_kwargs={}, num_proc=None, **options))
    few, everything = found
    for query, scores in everything.items():
        best = sorted(scores, key=scores.get, reverse=True)[:3]
        assert few[query] == {id: scores[id] for id in best}
