"""Split of training data: the parts share nothing, the split is stable, and distractors join the held-out part."""

import numpy as np
import pytest
from helpers.some_pairs import page_images, texts

from smart_rag.errors import InvalidInput
from smart_rag.training import TrainingData, load_training_data
from smart_rag.training.data import TrainingQuery
from smart_rag.training.split import find_distractors, hold_out, split, with_distractors
from smart_rag.types import Document


def random_data(count=400, seed=0):
    """Return ``count`` queries with one to three positives and some negatives, and half as many documents."""
    generator = np.random.default_rng(seed)
    documents = [Document(f"d{i}", f"text {i}") for i in range(count // 2)]
    queries = []
    for i in range(count):
        drawn = generator.permutation(len(documents))[:5].tolist()
        first = int(generator.integers(1, 4))
        queries.append(TrainingQuery(f"query {i}", tuple(drawn[:first]), tuple(drawn[first:])))
    return TrainingData("random", documents, queries)


def test_no_document_and_no_query_is_in_both_parts():
    data = random_data()
    training, held_out = split(data, 0.25)
    ids = [{document.id for document in part.documents} for part in (training, held_out)]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == {document.id for document in data.documents}
    names = [[query.text for query in part.queries] for part in (training, held_out)]
    assert sorted(names[0] + names[1]) == sorted(query.text for query in data.queries)
    assert 0.15 < len(names[1]) / len(data.queries) < 0.35
    before = texts(data)
    for part in (training, held_out):
        mine = {document.text for document in part.documents}
        for text, (positives, negatives) in texts(part).items():
            assert positives == [one for one in before[text][0] if one in mine]
            assert negatives == [one for one in before[text][1] if one in mine]
            assert positives[0] == before[text][0][0]


def test_the_split_is_the_same_each_time_and_when_data_is_added():
    data = random_data()
    more = TrainingData("more", [Document("new", "new"), *data.documents], [TrainingQuery("new", (0,))])
    _, held_out = split(data, 0.25)
    again = {document.id for document in held_out.documents}
    assert {document.id for document in split(data, 0.25)[1].documents} == again
    assert {document.id for document in split(data, 0.25, seed=1)[1].documents} != again
    for part in (0, 1):
        try:
            kept = {document.id for document in split(more, 0.25)[part].documents}
        except InvalidInput:  # the one query is in the other part
            continue
        assert kept - {"new"} in (again, {document.id for document in data.documents} - again)


@pytest.mark.parametrize("held_out", [0, 1, -0.1, 1.5])
def test_a_share_is_between_0_and_1(held_out):
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        split(random_data(), held_out)


def test_a_part_without_queries_is_an_error():
    data = TrainingData("one", [Document("a", "a")], [TrainingQuery("q", (0,))])
    with pytest.raises(InvalidInput, match="of 1 query none is left"):
        split(data)


def test_pages_keep_their_images(tmp_path):
    """In both parts, and as distractors."""
    data = load_training_data(page_images(tmp_path / "pages"))
    training, held_out = split(data, 0.4)
    distractors = find_distractors(data, training, held_out)
    both = with_distractors(training, held_out, distractors)
    assert len(training.documents) + len(held_out.documents) == len(both.documents) == 20
    for part in (training, held_out, both):
        for document in part.documents:
            i = int(document.id.removeprefix("page").removesuffix(".png"))
            assert document.image.getpixel((2 * i + 1, 10)) == (12 * i, 250 - 12 * i, 100)


def test_distractors_answer_no_held_out_query():
    data = random_data()
    training, held_out, distractors = hold_out(data, 0.25)
    positives = {query.text: {data.documents[i].id for i in query.positives} for query in data.queries}
    answers = set().union(*(positives[query.text] for query in held_out.queries))
    expected = [i for i, document in enumerate(training.documents) if document.id not in answers]
    assert distractors == expected
    assert 0 < len(distractors) < len(training.documents)


def test_held_out_data_is_used_as_it_is():
    data, other = random_data(), random_data(40, seed=1)
    assert hold_out(data, other) == (data, other, [])
    assert with_distractors(data, other, []) is other
