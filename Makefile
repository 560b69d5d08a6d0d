# One word per job; each sets up what it needs first, and that is instant when nothing changed.
REPEAT ?= 1
ARGS ?=
PYTHON_FILES = ci_flame tests tools bench examples

.PHONY: help setup setup-run demo test lint format bpf bench power clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: ## system packages and .venv with everything that lint and tests need
	@tools/setup.sh test

setup-run:
	@tools/setup.sh run

demo: setup-run ## a real library, a small real slowdown: PASS, then FAIL (REPEAT=10 for ten of each)
	@.venv/bin/python tools/demo.py --repeat $(REPEAT) $(ARGS)

test: setup ## all tests; ARGS="-k name" narrows
	@.venv/bin/pytest $(ARGS)

lint: setup ## ruff, mypy, and the checks of action.yml and the workflows
	.venv/bin/ruff check $(PYTHON_FILES)
	.venv/bin/ruff format --check $(PYTHON_FILES)
	.venv/bin/mypy
	.venv/bin/mypy --strict tools
	.venv/bin/shellcheck tools/*.sh actions/*/*.sh .ci/run
	.venv/bin/python tools/lint_github.py

format: setup ## let ruff write the files
	.venv/bin/ruff format $(PYTHON_FILES)
	.venv/bin/ruff check --fix $(PYTHON_FILES)

bpf: setup ## rebuild the BPF objects from their C sources
	tools/build_bpf.sh

bench: setup ## speed and overhead tables
	@for script in bench/*.py; do echo "== $$script"; .venv/bin/python "$$script" || exit 1; done

power: setup ## how often the gate cries wolf and what it finds: hours, resumable; QUICK=1 5 minutes
	@.venv/bin/python -m bench.power $(if $(QUICK),--quick) $(ARGS)

clean: ## remove what the other targets made
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .ci-flame *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
