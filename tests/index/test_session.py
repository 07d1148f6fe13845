"""`Session`: who may settle what a failed write has left."""

from __future__ import annotations

import threading

from helpers.five_texts import documents
from helpers.word_encoder import LetterEncoder

from smart_rag import Document, SmartIndex


def may_write(index):
    with index._session.unless_writing() as may_write:
        return may_write


def test_only_a_writer_that_is_not_writing(index):
    """Neither a reader, nor a thread beside a writing one, nor the writing thread itself. Nobody waits."""
    assert may_write(index)
    with SmartIndex.open(index.path, LetterEncoder()) as other:
        assert may_write(other)  # one process is one writer
    found = []
    with index._session.writing():
        with index._session.writing():
            found.append(may_write(index))
        found.append(may_write(index))
        thread = threading.Thread(target=lambda: found.append(may_write(index)))
        thread.start()
        thread.join(10)
    assert found == [False] * 3
    assert may_write(index)
    path = index.path
    index.close()
    with SmartIndex.open(path, LetterEncoder()) as reader:
        assert not may_write(reader)


def test_a_reader_in_the_midst_of_a_write(index):
    """A program may look at the index while it adds to it. The batch that is being written is not undone."""

    class Looking(LetterEncoder):
        def encode_document(self, texts):
            assert looker.count() >= 5
            return super().encode_document(texts)

    with SmartIndex.open(index.path, Looking()) as looker:
        new = [Document(f"n{i}", f"number {i} of many") for i in range(600)]
        assert looker.add(new, on_commit=lambda _: looker.search("cat")).added == 600
        assert looker.count() == 605
        assert looker.add(documents()).unchanged == 5
