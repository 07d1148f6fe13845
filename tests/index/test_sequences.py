"""`SmartIndex`: any sequence of writes, of upkeep and of losses leaves what a dict would hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.five_texts import EXACT, STAGES
from helpers.reference_scores import reference
from helpers.word_encoder import LetterEncoder
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from smart_rag import Document, SmartIndex
from smart_rag.errors import CorruptStore

NAMES = st.sampled_from("abcdef")
WORDS = st.lists(st.sampled_from(["red", "green", "blue", "dog", "carp"]), min_size=1, max_size=6).map(" ".join)


class Sequences(RuleBasedStateMachine):
    """After any steps, the index is the one that a dict of the texts describes."""

    tolerance = 1e-5

    @initialize()
    def make(self):
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.index = SmartIndex.create(Path(self.folder.name) / "index", LetterEncoder(), config=EXACT)
        self.texts: dict[str, str] = {}

    @rule(texts=st.dictionaries(NAMES, WORDS, min_size=1))
    def add(self, texts):
        self.index.add([Document(name, text) for name, text in texts.items()])
        self.texts |= texts

    @rule(names=st.lists(NAMES))
    def delete(self, names):
        assert self.index.delete(names) == len(set(names) & set(self.texts))
        for name in names:
            self.texts.pop(name, None)

    @rule()
    def reopen(self):
        self.index.close()
        self.index = SmartIndex.open(self.index.path, LetterEncoder())

    @precondition(lambda self: self.texts)
    @rule(query=WORDS)
    def search(self, query):
        expected = reference(LetterEncoder(), query, self.texts)
        for first_stage in STAGES:
            hits = self.index.search(query, 10, first_stage=first_stage)
            assert {hit.id: hit.text for hit in hits} == self.texts
            for hit in hits:
                assert hit.score == pytest.approx(expected[hit.id][0], abs=self.tolerance)

    @invariant()
    def holds(self):
        assert {document.id: document.text for document in self.index.documents()} == self.texts
        report = self.index.verify()
        assert (report.sound, report.orphans) == (True, 0)
        words = sum(len(text.split()) for text in set(self.texts.values()))
        assert self.index.info().tokens == words

    def teardown(self):
        if hasattr(self, "index"):
            self.index.close()
            self.folder.cleanup()


class UpkeepSequences(Sequences):
    """Steps are also upkeep, and the loss of files."""

    tolerance = 1e-3  # the reference rounds the tokens, and float32 does not

    @rule(codec=st.sampled_from(["exact", "float32"]))
    def convert(self, codec):
        self.index.convert(codec=codec)

    @rule()
    def compact(self):
        self.index.compact()

    @rule()
    def restore(self):
        """Go on with a copy."""
        old = self.index.path
        new = old.with_name(f"{old.name}+")
        self.index.snapshot(new)
        self.index.close()
        shutil.rmtree(old)
        self.index = SmartIndex.open(new, LetterEncoder())

    @precondition(lambda self: self.texts)
    @rule(part=st.sampled_from(["terms", "tokens"]))
    def lose(self, part):
        """Remove a part of the files, and repair the index as the error or `verify` says."""
        self.index.close()
        shutil.rmtree(self.index.path / self.index.manifest.data / part)
        try:
            self.index = SmartIndex.open(self.index.path, LetterEncoder())
        except CorruptStore:
            SmartIndex.rebuild(self.index.path, LetterEncoder())
            self.index = SmartIndex.open(self.index.path, LetterEncoder())
        else:
            assert not self.index.verify().sound
            self.index.verify(repair=True)


TestSequences = Sequences.TestCase
TestSequences.settings = settings(
    max_examples=10, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
TestUpkeepSequences = UpkeepSequences.TestCase
TestUpkeepSequences.settings = settings(TestSequences.settings, max_examples=3, stateful_step_count=10)
