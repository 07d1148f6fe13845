"""`TokenStore`: any sequence of calls leaves what a dict would hold."""

import os
import shutil
import tempfile

import numpy as np
import pytest
from helpers.token_stores import assert_packed, key, tokens_of
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from smart_rag.embeddings.codec import get_codec
from smart_rag.embeddings.tokens import TokenBatch
from smart_rag.errors import DimensionMismatch, MissingTokens
from smart_rag.store.segments import SEGMENT_BYTES
from smart_rag.store.token_store import TokenStore

FLOAT16 = get_codec("float16")
# The machine runs hundreds of transactions. Each waits for the disk, unless the file system is in memory.
MEMORY = "/dev/shm"
KEYS = st.sampled_from([key(i) for i in range(8)])


class StoreMachine(RuleBasedStateMachine):
    """A store equals a dict, however often it is reopened, with short segments and long ones."""

    @initialize(segment_bytes=st.sampled_from([1, 300, 2_000, SEGMENT_BYTES]))
    def begin(self, segment_bytes):
        self.folder = tempfile.mkdtemp(dir=MEMORY if os.path.isdir(MEMORY) else None)
        self.model = {}
        self.segment_bytes = segment_bytes
        self.store = TokenStore(self.folder, FLOAT16, segment_bytes)

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)

    @rule(
        texts=st.dictionaries(KEYS, st.tuples(st.integers(0, 9), st.integers(1, 300)), max_size=5),
        dimension=st.sampled_from([1, 3]),
    )
    def put(self, texts, dimension):
        made = {key: tokens_of(i, n, dimension) for key, (i, n) in texts.items()}
        self.store.put(list(made), TokenBatch.from_list(list(made.values())))
        self.model.update(made)

    @rule(keys=st.lists(KEYS, max_size=4))
    def delete(self, keys):
        assert self.store.delete(keys) == len(self.model.keys() & set(keys))
        for gone in keys:
            self.model.pop(gone, None)

    @rule(keys=st.sets(KEYS, min_size=5))
    def vacuum(self, keys):
        assert self.store.vacuum(keys) == len(self.model.keys() - keys)
        self.model = {key: value for key, value in self.model.items() if key in keys}

    @rule(keys=st.lists(KEYS, max_size=6))
    def gather(self, keys):
        absent = [i for i, key in enumerate(keys) if key not in self.model]
        assert self.store.missing(keys) == absent
        if absent:
            with pytest.raises(MissingTokens, match=f"for {len(absent)} of {len(keys)} documents") as error:
                self.store.gather(keys)
            assert error.value.ids == tuple(keys[i].hex() for i in absent)
        elif len({self.model[key].shape[1] for key in keys}) > 1:
            with pytest.raises(DimensionMismatch, match="different dimensions"):
                self.store.gather(keys)
        else:
            batch = self.store.gather(keys)
            assert len(batch) == len(keys)
            for found, wanted in zip(batch, keys, strict=True):
                np.testing.assert_array_equal(found, self.model[wanted])

    @rule()
    def gather_all(self):
        for dimension in (1, 3):
            keys = [key for key, tokens in self.model.items() if tokens.shape[1] == dimension]
            for found, wanted in zip(self.store.gather(keys), keys, strict=True):
                np.testing.assert_array_equal(found, self.model[wanted])

    @rule()
    def reopen(self):
        self.store.close()
        self.store = TokenStore(self.folder, FLOAT16, self.segment_bytes)

    @rule()
    def count_and_verify(self):
        stats = self.store.stats()
        assert (stats.entries, stats.tokens) == (len(self.model), sum(map(len, self.model.values())))
        assert self.store.verify() == []

    @invariant()
    def same_keys(self):
        if hasattr(self, "store"):
            assert list(self.store.keys()) == sorted(self.model)
            assert len(self.store) == len(self.model)
            assert all(key in self.store for key in self.model)

    @invariant()
    def packed(self):
        if hasattr(self, "store"):
            assert_packed(self.store)


StoreMachine.TestCase.settings = settings(
    max_examples=35, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestStoreMachine = StoreMachine.TestCase
