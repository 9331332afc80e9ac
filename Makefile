# `make run` and `make test` are all that a fresh machine with Python >= 3.11 needs.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

# Small matrices: one thread per process, and as many processes as there are cores.
export OMP_NUM_THREADS ?= 1

.PHONY: run test validate figures report gallery oracle style

run: $(INSTALLED)
	$(BIN)/python -m sandbox run

test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist worksteal --benchmark-disable

validate: $(INSTALLED)
	$(BIN)/python -m sandbox validate

figures: $(INSTALLED)
	$(BIN)/python -m sandbox figures

report: $(INSTALLED)
	$(BIN)/python -m sandbox report

# The committed figures and tables that the README shows, redrawn from stored results where there are any.
gallery: $(INSTALLED)
	$(BIN)/python -m sandbox figures --preset full --out figures/gallery
	$(BIN)/python -m sandbox figures --experiment networks --preset full --out figures/gallery
	$(BIN)/python -m sandbox figures --experiment adversarial --preset full --out figures/gallery
	for experiment in phase start_decides growth_noise matched recipe_cost critic memorisation freedom toy_modes held images convergence noise; do \
		$(BIN)/python -m sandbox figures --experiment $$experiment --out figures/gallery || exit 1; \
	done

# Independent implementations to compare with. 3.x is the last DiffusionLab that has mixtures; its metadata asks for an older Python.
# azula's metadata asks for what only its pretrained models need; torch is there, and is not to be resolved again.
oracle: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt jax
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --ignore-requires-python diffusionlab
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps azula einops torchdiffeq
	$(BIN)/python -m pytest tests/oracle

style: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[style]'
	$(BIN)/ruff check .
	$(BIN)/mypy

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
