"""Try the smart_rag that is installed where this runs: check_distributions.py runs it in each environment.

python tools/try_installed.py [EXTRA]
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from importlib import import_module
from importlib.metadata import packages_distributions, requires, version
from importlib.util import find_spec

import numpy as np
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import smart_rag
from smart_rag import Document, Representation, SmartIndex
from smart_rag.demo import sample_folder, sample_questions

extra = sys.argv[1] if len(sys.argv) > 1 else ""
assert "site-packages" in smart_rag.__file__, smart_rag.__file__
assert smart_rag.__version__ == version("smart-rag")

# What the library and the extra require can be imported.
packages = defaultdict(set)
for package, distributions in packages_distributions().items():
    for distribution in distributions:
        if not package.startswith("_") and find_spec(package):
            packages[canonicalize_name(distribution)].add(package)
for requirement in map(Requirement, requires("smart-rag")):
    if not requirement.marker or (extra and requirement.marker.evaluate({"extra": extra})):
        assert packages[canonicalize_name(requirement.name)], requirement.name
        for package in packages[canonicalize_name(requirement.name)]:
            import_module(package)

# The files that are no code, and a search that needs no model.
assert len(list(sample_folder().iterdir())) > 5
assert sample_questions()
random = np.random.default_rng(0)
tokens = [random.standard_normal((7, 64)), random.standard_normal((5, 64))]
vectors = Representation.from_embeddings([rows.mean(axis=0) for rows in tokens], tokens)
documents = [Document("a", "One text."), Document("b", "Another.")]
with (
    tempfile.TemporaryDirectory() as folder,
    SmartIndex.from_embeddings(f"{folder}/own", documents, vectors) as index,
):
    assert index.search(vectors[1])[0].id == "b"
