# make demo    set up and run the main job on the bundled sample documents
# make test    the tests            make test-all  the slow ones too
# make test-faults    damage, kills and full disks, many times
# make test-browser   the inspector page in Chromium (the system's, or the program that CHROMIUM names)
# make test-lowest    the integrations, with the lowest versions of LlamaIndex and LangChain
# make test-python PYTHON=python3.13    the tests that need no torch, on another Python: two minutes
# make test PYTHON=python3.13 VENV=.venv-3.13    all of them (torch takes gigabytes there)
# make docs    the documentation site, in build/site    make pictures    the pictures of README and docs
# make lint    static checks        make bench DATA=DIR   speed, against a peer in the same run, on a BEIR folder
# make dist    the wheels and source distributions of the last commit, in dist/
# make dist-check    each wheel and each extra, alone in an empty environment: half an hour and 20 GB of cache
# make repository URL=https://...    the address of the repository, in each file that names it

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export ANONYMIZED_TELEMETRY := False

.PHONY: install demo test test-all test-faults test-browser test-lowest test-python lint dist dist-check repository bench \
	docs pictures

install: $(VENV)/.installed

# torch first and alone: its pin takes a CPU build where one lies at hand. torchvision last, where only the tests of
# images see it: beside a CPU torch it would break every import of transformers (tests/helpers/torchvision_on_cpu.py).
$(VENV)/.installed: pyproject.toml constraints.txt $(wildcard integrations/*/pyproject.toml)
	@echo 'Installing into $(VENV): a few minutes the first time.'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,mteb,train]' \
		--editable integrations/llama_index --editable integrations/langchain --group dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --upgrade \
		--target $(VENV)/torchvision torchvision
	touch $@

demo: install
	$(BIN)/smart-rag demo

# Two files at a time, each with one thread: tiny models and small indexes gain nothing from more. The tests start
# hundreds of processes, which would compile the package each time if they could not keep what they compile.
test: install
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-all: install test-lowest
	$(BIN)/python -m pytest -m ""

test-faults: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 -m faults tests/faults

# axe-core checks rules of accessibility. Without npm or a network, its tests are skipped.
test-browser: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group browser
	-test -d $(VENV)/axe || { mkdir -p $(VENV)/axe.new && cd $(VENV)/axe.new && npm pack --silent axe-core@4.14.1 \
		&& tar xzf axe-core-4.14.1.tgz && cd - && mv $(VENV)/axe.new $(VENV)/axe; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser tests/browser

# Over the newest packages, old frameworks without their dependencies. LangChain's own tests need its newest version.
test-lowest: install
	$(PYTHON) -m venv $(VENV)-lowest
	$(BIN)/python -c 'import os, site; print(*site.getsitepackages(), *map(os.path.abspath, \
		[".", "integrations/llama_index", "integrations/langchain"]), sep="\n")' \
		> $$($(VENV)-lowest/bin/python -c 'import site; print(site.getsitepackages()[0])')/newest.pth
	$(VENV)-lowest/bin/python -m pip install --quiet --no-deps --requirement integrations/lowest.txt
	$(VENV)-lowest/bin/python -m pytest -m "not newest" -o filterwarnings= integrations \
		--ignore-glob '*/test_standard.py'

# Compiled and tried with warnings as errors: what a later Python removes gives a warning first.
WITHOUT_TORCH := $(addprefix tests/,$(addsuffix .py, \
	test_imports test_types test_config test_errors \
	$(addprefix files/test_,content worker_process) \
	$(addprefix files/formats/test_,images pdf readable text video) \
	$(addprefix store/test_,image_store lmdb_environment segments) \
	$(addprefix store/terms/test_,gap_codes term_store) \
	$(addprefix evaluation/test_,differences metrics) training/test_report))
test-python:
	$(PYTHON) --version
	$(PYTHON) -m venv --clear $(VENV)-python
	$(VENV)-python/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(VENV)-python/bin/python -m pip install --quiet --constraint constraints.txt --group python
	$(VENV)-python/bin/python -W error -m compileall -q -f smart_rag integrations tests benchmarks tools
	OMP_NUM_THREADS=1 $(VENV)-python/bin/python -m pytest --numprocesses 2 --dist loadfile $(WITHOUT_TORCH)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --quiet --offline .github/workflows
	! command -v actionlint > /dev/null || actionlint
	$(BIN)/mypy

# Only what is committed: a file that merely lies in the working directory is never published.
DIST := $(VENV)-dist/bin
dist:
	$(PYTHON) -m venv $(VENV)-dist
	$(DIST)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(DIST)/python -m pip install --quiet --constraint constraints.txt --group dist
	rm -rf dist build/source && mkdir -p build/source
	git archive HEAD | tar -x -C build/source
	for folder in . integrations/langchain integrations/llama_index; do \
		$(DIST)/python -m build --outdir dist build/source/$$folder > /dev/null || exit 1; \
	done
	$(DIST)/twine check --strict dist/*
	$(DIST)/check-wheel-contents dist/*.whl

dist-check: dist
	$(DIST)/python tools/check_distributions.py dist

REPOSITORY := $(shell sed -n 's/^Repository = "\(.*\)"$$/\1/p' pyproject.toml)
repository:
	@test -n "$(URL)" || { echo "usage: make repository URL=https://...; now it is $(REPOSITORY)"; exit 2; }
	git grep -lzF "$(REPOSITORY)" | OLD="$(REPOSITORY)" NEW="$(URL)" xargs -0 perl -pi -e 's/\Q$$ENV{OLD}\E/$$ENV{NEW}/g'

bench: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group bench
	$(BIN)/python benchmarks/ingest.py $(DATA)
	$(BIN)/python benchmarks/query.py $(DATA)
	$(BIN)/python benchmarks/swap_llama_index.py $(DATA)
	$(BIN)/python benchmarks/rerank_llama_index.py $(DATA)
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/scale.py --documents 1000,10000

# The site in build/site: no network but for the installation, and no link or anchor that leads nowhere.
docs: $(VENV)-docs/.installed
	$(VENV)-docs/bin/python tools/make_docs.py

$(VENV)-docs/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(VENV)-docs/bin/python -m pip install --quiet --constraint constraints.txt --group docs
	touch $@

pictures: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group browser
	$(BIN)/python tools/make_pictures.py
