# `make help` lists the targets. Everything installs into .venv; nothing else is touched.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
# Who only runs the pipeline needs no tools of development.
EXTRAS ?= $(if $(filter test% check site pictures bench,$(MAKECMDGOALS)),dev)
# cpu: PyTorch without CUDA, a tenth of the download. auto chooses by the GPU driver.
TORCH ?=
BIN := .venv/bin
comma := ,
# One worker a core with one thread each; a file's tests share a worker, and so their fixtures. Files
# keep their order, as the last ones are short: with the longest one last, a worker would be idle.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(or $(WORKERS),auto) --dist loadfile \
	--no-loadscope-reorder
INSTALLED := .venv/.installed-$(subst $(comma),-,$(EXTRAS))

export DAGSTER_HOME ?= $(CURDIR)/.dagster
export DAGSTER_DISABLE_TELEMETRY = 1
# Progress must appear when it happens, also through a pipe.
export PYTHONUNBUFFERED = 1

.PHONY: help home install demo run ui test test-all check site pictures bench ablation clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Environment: MMCTR_DATA_DIR, MMCTR_STORAGE_DIR, MMCTR_PRESET, MMCTR_EXECUTOR, MMCTR_DEVICE, MMCTR_PUBLISH_URL,"
	@echo "  MMCTR_NIGHTLY, MMCTR_CRON, MMCTR_TIMEZONE, MMCTR_NOTIFY_URL, MMCTR_PLUGINS"
	@echo "(docs/configuration.md says what each does). EXTRAS=dev,bench also installs the peers of the benchmarks."

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into .venv (once; again when pyproject.toml or constraints.txt change) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@# uv names the large downloads as they begin and end; its list of all packages is left out.
	@set -o pipefail; $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python -c constraints.txt \
		$(if $(TORCH),--torch-backend $(TORCH)) -e '.$(if $(EXTRAS),[$(EXTRAS)])' 2>&1 | sed -u '/^ [-+~] /d'
	@touch $@

# Not a file's target, as make splits a path at spaces. The link is put in place in one step, so that
# runs may start at the same time.
home:
	@{ mkdir -p "$$DAGSTER_HOME" && { test -e "$$DAGSTER_HOME/dagster.yaml" || { \
		ln -s "$$PWD/dagster.yaml" "$$DAGSTER_HOME/.link-$$$$" && \
		mv -f "$$DAGSTER_HOME/.link-$$$$" "$$DAGSTER_HOME/dagster.yaml"; }; }; } || { \
		echo "error: DAGSTER_HOME is '$$DAGSTER_HOME'. Fix: set it to a folder that can be written to"; exit 2; }

install: $(INSTALLED) home  ## install everything into .venv (TORCH=cpu: PyTorch without CUDA)

demo: install  ## run the whole pipeline on the generated sample dataset
	@env -u MMCTR_DATA_DIR MMCTR_PRESET=sample $(BIN)/python -m mmctr_pipeline.defs.run

run: install  ## run the whole pipeline on MMCTR_DATA_DIR with MMCTR_PRESET (DAY=YYYY-MM-DD, WAIT=1)
	@$(BIN)/python -m mmctr_pipeline.defs.run $(if $(DAY),--day "$(DAY)") $(if $(WAIT),--wait)

ui: install  ## start webserver and daemon on http://localhost:3000 (PORT=...)
	@# Dagster recommends `dg dev`, which starts the same.
	@PYTHONWARNINGS='ignore:Function `dev_command` is superseded' $(BIN)/python -m dagster dev -w workspace.yaml -p $(or $(PORT),3000)

test: install  ## run the tests, except those marked slow
	@$(PYTEST) -m "not slow" $(ARGS)

test-all: install  ## run all tests
	@$(PYTEST) $(ARGS)

check: install  ## check lint, format, types and import contracts
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy
	@$(BIN)/lint-imports

site: install  ## build the documents as a site in site/ (open site/index.html)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

pictures: install  ## take the pictures of the documents again (needs chromium)
	@$(BIN)/python -m tools.pictures

bench:  ## run the benchmarks; each ends in one line of JSON
	@$(MAKE) --no-print-directory install EXTRAS=dev,bench
	@set -e; for file in $(filter-out %/__init__.py %/harness.py %/model_speed.py %/plain_models.py %/plain_recipe.py %/samples.py %/soak_place.py %/train_bounds.py,$(wildcard benchmarks/*.py)); do \
		$(BIN)/python -m benchmarks.$$(basename $$file .py); done

ablation: install  ## compare valid AUC with titles and covers, either, and neither
	@$(BIN)/python -m mmctr_pipeline.cli.main ablation

clean:  ## remove artefacts and run history (.venv stays)
	rm -rf storage .dagster
