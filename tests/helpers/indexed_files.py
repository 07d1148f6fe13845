"""Files in an index: an encoder, and what the index holds of them."""

from __future__ import annotations

from helpers.word_encoder import CountingEncoder

from smart_rag import IndexConfig
from smart_rag.encoders.protocol import token_counter
from smart_rag.files.finder import find
from smart_rag.files.reader import Reader

CONFIG = IndexConfig(chunk_tokens=6, chunk_overlap=0)


class FoldingEncoder(CountingEncoder):
    """Takes a word as the same in upper and lower case, and with a full stop."""

    def _word(self, word):
        return super()._word(word.lower().strip(".,#"))


def assert_whole(index):
    """Every document has its tokens, and no tokens are left of documents that are gone."""
    report = index.verify()
    assert report.sound
    assert report.orphans == 0


def texts(index, path=None):
    """The texts of the index, or of one file of it, in the file's order."""
    where = None if path is None else {"source": str(path.resolve())}
    return [d.text for d in sorted(index.documents(where), key=lambda d: (d.metadata["source"], d.metadata["chunk"]))]


def expected(*paths):
    """The documents that these files are to be, by id."""
    reader = Reader({"text"}, token_counter(FoldingEncoder()), CONFIG)
    return {d.id: d for path in find(paths).files for d in reader.read(path).documents}


def content(index):
    """All that a search can see: documents, tokens and pooled scores."""
    documents = {d.id: d for d in index.documents()}
    ids = sorted(documents)
    tokens = {id: matrix.tobytes() for id, matrix in zip(ids, index.tokens(ids), strict=True)}
    pooled = {hit.id: hit.pooled_score for hit in index.search("cat", top_k=max(len(ids), 1), first_stage="exhaustive")}
    return documents, tokens, pooled


def found(index, query):
    return index.search(query, top_k=1, first_stage="exhaustive")[0]
