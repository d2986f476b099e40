# Two commands: `make demo` and `make test`. PYTHON, VENV, DOCS_VENV and LOWEST_VENV may be set.
PYTHON ?= python3
VENV ?= .venv
DOCS_VENV ?= .venv-docs
LOWEST_VENV ?= .venv-lowest
BIN := $(VENV)/bin
export OMP_WAIT_POLICY := PASSIVE
export OPENBLAS_NUM_THREADS := 1
# Two processes and more, a file of tests each: what a module's tests share is made once. In the order of their
# names, no long file is left for the end, where a process would wait alone for it.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-slow test-lowest lint settings ranking docs install clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints/cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/cpu.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/unflow demo --out demo

test: install
	$(PYTEST) -m "not slow"

test-slow: install
	$(PYTEST)

# The help, the chain of commands and the readers, with the lowest versions that pyproject.toml declares. Old
# versions warn of what newer ones have changed, so a warning is no error here.
LOWEST_TESTS := tests/commands/test_cli.py tests/commands/test_start.py tests/data/test_readers.py

$(LOWEST_VENV)/.installed: pyproject.toml constraints/cpu.txt constraints/lowest.txt
	$(PYTHON) -m venv $(LOWEST_VENV)
	$(LOWEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints/cpu.txt \
		-c constraints/lowest.txt -e . 'pytest>=8.2'
	touch $@

test-lowest: $(LOWEST_VENV)/.installed
	$(LOWEST_VENV)/bin/python -m pytest -W default -m "not slow" $(LOWEST_TESTS) \
		-k "not within_its_limit and not two_devices and not killed"

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The table from which help texts list the hyper-parameters; the tests compare it with the classes.
settings: install
	$(BIN)/python -m unflow.commands.settings

ranking: install
	$(BIN)/python benchmarks/ranking.py

# The generator reads the source and imports nothing, so its environment needs neither torch nor unflow.
$(DOCS_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(DOCS_VENV)
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
		> $(DOCS_VENV)/requirements.txt
	$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $(DOCS_VENV)/requirements.txt
	touch $@

docs: $(DOCS_VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/python -m mkdocs build --strict

clean:
	rm -rf demo site $(VENV) $(DOCS_VENV) $(LOWEST_VENV)
