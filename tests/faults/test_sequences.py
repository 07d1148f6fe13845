"""Any sequence of writes, of upkeep, of losses and of kills leaves what a dict would hold."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time

import pytest
from helpers.word_encoder import TESTS, LetterEncoder
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule
from index.test_sequences import NAMES, WORDS, UpkeepSequences

from smart_rag import SmartIndex

# The child writes until it is killed.
CHILD = """
import sys
sys.path.insert(0, sys.argv[2])
from helpers.word_encoder import LetterEncoder
from smart_rag import Document, SmartIndex

with SmartIndex.open(sys.argv[1], LetterEncoder()) as index:
    print("ready", flush=True)
    while True:
        index.add([Document(sys.argv[3], sys.argv[4])])
        index.compact()
        index.delete([sys.argv[3]])
"""


class KilledSequences(UpkeepSequences):
    """A step is also a process that is killed while it writes."""

    @rule(name=NAMES, text=WORDS, seconds=st.floats(0, 0.5))
    def kill(self, name, text, seconds):
        self.index.close()
        command = [sys.executable, "-c", textwrap.dedent(CHILD), str(self.index.path), TESTS, name, text]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(seconds)
            process.kill()
        self.index = SmartIndex.open(self.index.path, LetterEncoder())
        self.index.delete([])  # a write undoes an unfinished batch
        found = {document.id: document.text for document in self.index.documents()}
        assert found.get(name) in (None, text, self.texts.get(name))
        self.texts.pop(name, None)
        self.texts |= {name: found[name]} if name in found else {}
        self.index.vacuum()


@pytest.mark.faults
@pytest.mark.timeout(1800)
class TestKilledSequences(KilledSequences.TestCase):
    settings = settings(max_examples=20, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck))
