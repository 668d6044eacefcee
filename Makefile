# What one types here; `make help` lists it. Needs Python 3.11 or newer and make: the rest is installed into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
JOBS ?= 2
SUITES ?= torchvision timm transformers custom
TORCH ?= 2.14.1
TORCHVISION ?= 0.29.1
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
RECIPE := pyproject.toml constraints.txt
OTHER := $(VENV)-torch-$(TORCH)
CORE := config numerics attach graph layers speedup pruning quantization files runtimes zoo test_tutorial.py \
	test_tutorial_quantization.py

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types tests docs bench pruners quantizers distillation speed zoo torch format clean

help: ## list these words
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.examples ## train, prune, shrink, prove, export and measure a ResNet-20 on real digits (about 4 minutes)
	$(BIN)/python examples/digits_resnet20.py

test: lint types tests docs ## lint, types, tests, the site: everything that must hold before a commit

check: lint types ## lint and types alone: quick

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/pyright

tests: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) --durations 10

docs: $(VENV)/.dev ## the documentation site into runs/site, with warnings as errors and without the network
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(VENV)/.bench ## time, memory and latency of what is shrunk, beside Torch-Pruning and native models
	$(BIN)/python -m benchmarks.shrink
	$(BIN)/python -m benchmarks.latency

pruners: $(VENV)/.bench ## what every pruner and search reaches and costs; writes docs/pruners.md (about 40 minutes)
	$(BIN)/python -m benchmarks.pruner_cost
	$(BIN)/python -m benchmarks.pruners --jobs $(JOBS)
	$(BIN)/python -m benchmarks.search_frontier --jobs $(JOBS)

quantizers: $(VENV)/.bench ## what every quantizer reaches and costs; writes docs/quantizers.md (about an hour)
	$(BIN)/python -m benchmarks.qat --compiled
	$(BIN)/python -m benchmarks.quantizers --jobs $(JOBS)

distillation: $(VENV)/.bench ## what a teacher adds to fine-tuning; writes docs/distillation.md (about half an hour)
	$(BIN)/python -m benchmarks.distillation --jobs $(JOBS)

speed: $(VENV)/.zoo ## dense, pruned, int8 and both in runtimes; writes docs/speed.md (about half an hour)
	$(BIN)/python -m benchmarks.deploy --page
	$(BIN)/python -m benchmarks.weight_only --page
	$(BIN)/python -m benchmarks.mixed_precision

zoo: $(VENV)/.zoo ## every model family: pruned, shrunk, compared, used; writes docs/zoo.md and docs/zoo/ (hours)
	@mkdir -p docs/zoo
	@for suite in $(SUITES); do \
		$(BIN)/torchpare zoo --suite $$suite --jobs $(JOBS) --json docs/zoo/$$suite.json; \
		[ $$? -le 1 ] || exit 2; \
	done
	$(BIN)/torchpare zoo --render docs/zoo.md docs/zoo/*.json

torch: ## the quick tests of the core with another release: make torch TORCH=2.7.1 TORCHVISION=0.22.1 (gigabytes)
	$(PYTHON) -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install torch==$(TORCH) torchvision==$(TORCHVISION)
	grep -Ev '^(torch|torchvision|torchao|executorch)==' constraints.txt > $(OTHER)/constraints.txt
	$(OTHER)/bin/python -m pip install --constraint $(OTHER)/constraints.txt --editable \
		'.[accelerate,examples,openvino,recipe,search,transformers]' hypothesis pillow psutil pytest pytest-xdist
	$(OTHER)/bin/python -m pytest -n $(JOBS) -m 'not slow' $(addprefix tests/,$(CORE))

format: $(VENV)/.dev ## let ruff lay out the files and mend what it safely can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean: ## remove the environment and everything that tools and runs left behind
	rm -rf $(VENV) $(VENV)-torch-* runs build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp file says what is installed, so that the second `make` takes no time; it ages with the lists of versions.

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "torchpare needs Python 3.11 or newer, \
	and $(PYTHON) is older: say make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.examples: $(BIN)/python $(RECIPE)
	$(PIP) install --constraint constraints.txt --editable '.[examples]'
	@touch $@

# torchvision, executorch and its torchao are told apart from their dependencies: their own wishes for a torch build must
# not move ours.
$(VENV)/.dev: $(BIN)/python $(RECIPE)
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	$(PIP) install --constraint constraints.txt --no-deps torchvision executorch torchao
	$(PIP) install --constraint constraints.txt flatbuffers ruamel.yaml tabulate
	@touch $@ $(VENV)/.examples

# timm asks for torchvision, and that for a torch; what else it imports comes with transformers.
$(VENV)/.zoo: $(VENV)/.dev
	$(PIP) install --constraint constraints.txt transformers
	$(PIP) install --constraint constraints.txt --no-deps timm
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) install --constraint constraints.txt --no-deps torch-pruning brevitas dependencies nncf pydot natsort ninja
	@touch $@
