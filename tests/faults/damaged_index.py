"""A process that opens damaged indexes, one for each line that it reads, and says what it sees.

It prints one JSON line for each: the answers, the error of each call, and whether `verify` finds the index sound.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from helpers.word_encoder import VocabularyEncoder

from smart_rag import SmartIndex, errors

QUESTIONS = ["pump keys", "number7 boat"]
IDS = ["d0", "d7", "d33"]


def documents_of(index, ids):
    return [[document.id, document.text, sorted(document.metadata.items())] for document in index.get(ids)]


def search(index, stage):
    return [
        [[hit.id, round(hit.score, 4), hit.text] for hit in index.search(question, 5, first_stage=stage, candidates=50)]
        for question in QUESTIONS
    ]


CALLS = {
    "exhaustive": lambda index: search(index, "exhaustive"),
    "pooled": lambda index: search(index, "pooled"),
    "terms": lambda index: search(index, "terms"),
    "get": lambda index: documents_of(index, IDS),
    "count": lambda index: index.count(),
    "filter": lambda index: sorted(document.id for document in index.documents({"n": {"$lt": 9}})),
    "words": lambda index: sorted(document.id for document in index.documents(None, {"$contains": "number33"})),
}


def look(path, needs_verify):
    """Return the answers of the index at ``path``, its errors, and what `verify` says if ``needs_verify`` of these."""
    found = {"answers": {}, "errors": {}, "sound": None}
    try:
        with SmartIndex.open(path, VocabularyEncoder()) as index:
            for name, call in CALLS.items():
                try:
                    found["answers"][name] = call(index)
                except errors.SmartRagError as error:
                    found["errors"][name] = f"{type(error).__name__}: {error}"
            if needs_verify(found):
                try:
                    report = index.verify()
                    found["sound"] = report.sound
                    found["report"] = str(report)[:300]
                except errors.SmartRagError as error:
                    found["errors"]["verify"] = f"{type(error).__name__}: {error}"
                    found["sound"] = False
    except errors.SmartRagError as error:
        found["errors"]["open"] = f"{type(error).__name__}: {error}"
    return found


def plain(value):
    """Return ``value`` as it is after it was sent as JSON."""
    return json.loads(json.dumps(value))


def main():
    logging.disable(logging.WARNING)
    print("ready", flush=True)
    expected = {}

    def differs(found):
        return any(expected[name] != answer for name, answer in plain(found["answers"]).items())

    for line in sys.stdin:
        path, kind = json.loads(line)
        # If all answers are those of the intact index, or errors, nothing is silently wrong. So `verify` is not asked.
        found = look(Path(path), differs if kind == "other" else lambda found: True)
        if kind == "intact":
            expected.update(plain(found["answers"]))
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
