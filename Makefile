# Two commands do all the set-up: `make run` and `make test`; the second ends in `make check`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

DIGITS = leaderboards/digits/Linf/oat-wrn-10-1

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

# the shipped model against its published numbers; kept outcomes would hide a change of the code
check: $(VENV)/.installed-test
	rm -rf build/check
	OMP_NUM_THREADS=1 $(VENV)/bin/oat-bench check $(DIGITS).safetensors --baseline $(DIGITS).json \
		--attacks fgsm,mi-fgsm,pgd-7,pgd-20 --out build/check

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
