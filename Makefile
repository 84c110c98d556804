# Two commands do all the set-up: `make run` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: run test check clean

run: $(VENV)/.installed
	$(VENV)/bin/oat-bench run

# one thread a worker: two workers fill two cores
test: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n 2 -m "slow or not slow"
	$(MAKE) check

# the code of today against the outcomes that were published: the shipped model must be as robust
PUBLISHED = leaderboards/digits/Linf/oat-wrn-10-1
check: $(VENV)/.installed-test
	$(VENV)/bin/oat-bench check $(PUBLISHED).safetensors --baseline $(PUBLISHED).json \
		--attacks fgsm,pgd-7,pgd-20 --out runs/check-published

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e ".[test]"
	touch $@
