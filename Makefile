# Each does all its own set-up: `make run`, `make test`, `make gpu`, `make check`, `make site`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: run test explore gpu check site docs numbers chromium clean

run: $(VENV)/.installed
	$(VENV)/bin/oat-bench run

# one thread a worker: two workers fill two cores
test: $(VENV)/.installed-test chromium
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n 2 -m "not exhaustive and not gpu" --durations 20
	$(MAKE) docs check

# what no CPU test reaches; fails where torch finds no CUDA GPU
gpu: $(VENV)/.installed-test
	$(VENV)/bin/pytest -m gpu --durations 20

# properties on examples that no run has drawn before, a thousand each, and tests that are exhaustive
explore: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n 2 -m "(exhaustive or not slow) and not gpu" \
		--hypothesis-profile explore $$(grep -rlE 'hypothesis|fuzzing|exhaustive' tests --include='test_*.py')

# the code of today against the outcomes that were published; kept ones would hide a change
PUBLISHED = leaderboards/fashion-12x12/Linf/oat-wrn-10-1
check: $(VENV)/.installed-test
	rm -rf build/check
	$(VENV)/bin/oat-bench check $(PUBLISHED).safetensors \
		--baseline $(PUBLISHED).json --attacks fgsm,mi-fgsm,pgd-7,pgd-20 --out build/check
	$(VENV)/bin/oat-bench check $(PUBLISHED).safetensors \
		--baseline $(PUBLISHED).json --attacks autoattack --lambda 1 --out build/check

# the leaderboards as pages to read: site/index.html
site: $(VENV)/.installed-site
	$(VENV)/bin/oat-bench leaderboard build --out site

# the documentation: build/docs/index.html; strict, so that a broken link or anchor fails
docs: $(VENV)-docs/.installed
	PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --quiet

# the numbers of README and docs/, from the entries under leaderboards/; a test fails where they differ
numbers: $(VENV)/.installed
	$(VENV)/bin/python docs/published_numbers.py

# the browser that the site is tested in; without one its tests say so, and fail where CI is set
chromium:
	@command -v chromium || command -v chromium-browser || command -v google-chrome \
		|| { apt-get -q update && apt-get -qy install --no-install-recommends chromium; } \
		|| echo 'no Chromium could be installed: the site will not be tested in a browser' >&2

clean:
	rm -rf $(VENV) $(VENV)-docs site build dist .mypy_cache .pytest_cache .ruff_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e .
	touch $@

$(VENV)/.installed-site: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e ".[site]"
	touch $@

$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e ".[test]"
	touch $@

# an environment of its own: see docs/requirements.txt
$(VENV)-docs/.installed: docs/requirements.txt
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip --disable-pip-version-check install --quiet -r $<
	touch $@
