PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test bench clean

# Everything that a target needs is set up once, and again only when the pins or the project change.
$(READY): constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Counterpoint needs Python 3.11 or newer; name one with: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/python recipes/demo.py --out demo

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=5

# About 8 minutes; nothing else should run. LLAMA_SERVER=folder adds llama-server (benchmarks/llama_server.py).
bench: $(READY)
	$(BIN)/python -m benchmarks.run

clean:
	rm -rf .venv .bench demo
