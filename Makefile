# Thin over scripts/dev.py, which needs nothing but Python; on Windows: py scripts/dev.py demo
PYTHON ?= python3

.PHONY: demo test check bench soak proto faults setup
demo test check bench soak proto faults setup:
	@$(PYTHON) scripts/dev.py $@
