# Every target makes .venv itself; nothing needs root. setup.sh describes PYTHON=... and TORCH=cpu.
BIN := .venv/bin

.PHONY: setup demo test test-fast campaign bench bench-gpu bench-tools bench-clients docs lecture check format
.PHONY: clean release-check

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt setup.sh
	PYTHON='$(PYTHON)' TORCH='$(TORCH)' sh setup.sh
	touch $@

demo: setup
	$(BIN)/alexnet demo --out demo

# The slowest files first, in the order of tests/conftest.py.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
test: setup
	$(PYTEST)

# Without the tests that train, start a server or run the demo (CONTRIBUTING.md).
test-fast: setup
	$(PYTEST) -m "not slow"

# Faults at random moments, many times over: killed servers, interrupted clients, mutated images, killed bulk
# runs (ten minutes).
campaign: setup
	$(BIN)/python -m pytest tests/serving/campaign.py tests/pipeline/bulk_campaign.py

# Everything that `alexnet bench` measures, on the demo's export: docs/performance.md and a page with plots.
bench: setup
	$(BIN)/python benchmarks/report.py

# The same on an NVIDIA GPU, in six minutes on 16 cores. `make bench-gpu FULL=1` takes half an hour.
bench-gpu: setup
	$(BIN)/python benchmarks/gpu.py $(if $(FULL),--full)

# Checks of the load generator and the server against their targets, in ten minutes. All checks run even if one
# misses its target. A check that fails leaves no result, and no older result either.
TOOLS := benchmarks/results/tools
bench-tools: setup
	rm -rf $(TOOLS).new && mkdir -p $(TOOLS).new
	failed=0; \
	taskset -c 0 $(BIN)/python benchmarks/open_loop.py --output $(TOOLS).new/open_loop.json || failed=1; \
	$(BIN)/python benchmarks/perf_analyzer.py demo/model_repository --output $(TOOLS).new/perf_analyzer.json || failed=1; \
	$(BIN)/python benchmarks/served.py demo/model_repository --output $(TOOLS).new/served.json || failed=1; \
	rm -rf $(TOOLS) && mv $(TOOLS).new $(TOOLS) && $(BIN)/python benchmarks/report.py --no-run && exit $$failed

# The clients' figures, on the demo's export; a few minutes on a quiet machine.
bench-clients: setup
	$(BIN)/python benchmarks/clients.py demo/model_repository

# The documentation site: build/site/index.html. It needs no network, and every warning is an error.
docs: setup
	$(BIN)/sphinx-build --fail-on-warning --keep-going -q -c docs -d build/site.cache . build/site
	@echo "build/site/index.html"

# The lecture's claims as experiments: docs/lecture.md with its plots; half an hour on two quiet cores at most.
lecture: setup
	$(BIN)/python lecture/run.py

check: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

# Build the sdist and the wheel into dist/, install each into a new environment, and try its commands there.
release-check: setup
	rm -rf dist
	$(BIN)/python -m hatchling build -t sdist -t wheel
	$(BIN)/python -m pytest tests/release_check.py

clean:
	rm -rf .venv demo
