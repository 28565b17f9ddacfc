# make demo, make test: need only Python 3.11+, venv and make.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo demo-web test test-slow test-all test-llama test-real bench-real lint proto calibration bench bench-full bench-micro bench-link loadtest soak results results-real docs-check results-gelato results-wireless compose-test web-test screenshots test-ray test-vllm certs clean

help:
	@echo "make demo [PROMPT=\"...\"] [SLM=... LLM=...]  cloud and edge on this machine: a chat, or one answer"
	@echo "make demo-web             the same, as a page at http://127.0.0.1:8080"
	@echo "make test                 the tests: five minutes"
	@echo "make test-all             the tests, those with processes, of the research and of statistics"
	@echo "make test-llama           .gguf models in llama.cpp (builds it: minutes the first time)"
	@echo "make test-real            a real pair: HEDGE_REAL_PAIR names its folder"
	@echo "make lint                 ruff, mypy, which package may import which, freshness of the stubs"
	@echo "make compose-test         the containers, on a Docker engine"
	@echo "make web-test             the page in headless Chromium"
	@echo "make screenshots          pictures of the pages, in docs/screenshots"
	@echo "make test-ray             two replicas behind Ray Serve, one killed (installs Ray)"
	@echo "make test-vllm            the cloud on vLLM (installs it: gigabytes)"
	@echo "make certs [HOST=...]      a private authority in certs/, with a certificate for the cloud and one for a device"
	@echo "make bench                every system side by side on emulated links and devices (about an hour)"
	@echo "make bench-micro          speed, as ratios within one run"
	@echo "make bench-link           hedge, cu-hlm and plain streaming through the link emulator"
	@echo "make loadtest          many devices on one cloud, beside the bare forward pass"
	@echo "make soak                 ten minutes of that with an eye on memory, and 100,000 hostile messages"
	@echo "make results              tables and plots of the bundled pair in docs/results/paper.md (under an hour)"
	@echo "make results-real PAIR=FOLDER TASKS=FOLDER [STAGE=...] [QUESTIONS=N]  every system on a real pair, in stages that go on where they ended (hours)"
	@echo "make docs-check           links, commands and figures of the documents"
	@echo "make results-gelato       GELATO against static speculative decoding (minutes)"
	@echo "make results-wireless [EMBEDDING=FOLDER]  joint token masking and detection (two hours; goes on where it ended)"
	@echo "make proto calibration    regenerate the stubs; recalibrate the bundled pair"

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: make PYTHON=..."; exit 1; }
	@echo "creating the virtual environment .venv"
	@$(PYTHON) -m venv .venv || { echo "python venv is missing (Debian: apt install python3-venv)"; exit 1; }

.venv/.run: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing Hedge into .venv (torch is large: minutes the first time)"
	@$(PIP) -e ".[torch]"
	@touch $@

.venv/.test: .venv/.run
	@echo "installing what the tests need"
	@$(PIP) -e ".[test]" -e ./research
	@touch $@

.venv/.lint: .venv/.test
	@echo "installing the linters"
	@$(PIP) -e ".[lint]"
	@touch $@

# As it was typed: neither make nor the shell expands it.
demo: export HEDGE_PROMPT = $(value PROMPT)
demo: $(if $(filter %.gguf,$(SLM) $(LLM)),.venv/.llama,.venv/.run)
	@$(BIN)/python -m tools.demo --slm "$(SLM)" --llm "$(LLM)" -- "$$HEDGE_PROMPT"

demo-web: .venv/.run
	@$(BIN)/python -m tools.demo_web

# What needs no process of its own, 500 runs a chi-square case: five minutes.
test: .venv/.test
	@echo "running the tests"
	@$(BIN)/python -m pytest -m "not process and not research" --durations=25

# What is left: processes, the package research, and the statistics with 5,000 runs a case.
test-slow: .venv/.test
	@echo "running the slow tests"
	@HEDGE_RUNS=5000 $(BIN)/python -m pytest -m "process or research or statistics" --durations=25

test-all: test test-slow

# A wheel of llama.cpp that runs on any x86-64 with AVX2, kept outside the checkout.
CACHE := $(or $(HEDGE_CACHE),$(HOME)/.cache/hedge)
LLAMA_ARGS ?= -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF

.venv/.llama: .venv/.run
	@echo "installing llama.cpp"
	@CMAKE_ARGS="$(LLAMA_ARGS)" sh tools/llama_wheel.sh $(BIN)/pip "$(CACHE)"
	@$(PIP) --find-links "$$(CMAKE_ARGS="$(LLAMA_ARGS)" sh tools/llama_wheel.sh $(BIN)/pip "$(CACHE)")" -e ".[llama]"
	@touch $@

test-llama: .venv/.test .venv/.llama
	@PIP_FIND_LINKS="$$(CMAKE_ARGS="$(LLAMA_ARGS)" sh tools/llama_wheel.sh $(BIN)/pip "$(CACHE)")" $(BIN)/python -m pytest -n 2 -m "not real" tests/llama

test-real: .venv/.test .venv/.llama
	@test -n "$(HEDGE_REAL_PAIR)" || { echo "HEDGE_REAL_PAIR=FOLDER with q05.gguf and q15.gguf, two GGUF models of one tokenizer, and q05 and q15,"; \
	  echo "the same as folders of safetensors: such as Qwen2.5-Coder-0.5B and 1.5B-Instruct in Q4_K_M (hedge pull; docs/models.md)"; exit 1; }
	@$(BIN)/python -m pytest -n 1 -m real tests/llama

bench-real: .venv/.test .venv/.llama
	$(BIN)/python -m research.benches.real "$(HEDGE_REAL_PAIR)" "$(TASKS)"

lint: .venv/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tools.protos --check

proto: .venv/.lint
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tools.protos

calibration: .venv/.run
	$(BIN)/python -m tools.calibrate_pair

bench-micro: .venv/.test
	$(BIN)/python -m research.benches.micro
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 --timeout 900 --benchmark-columns=median,iqr,rounds --benchmark-sort=name tests/bench

bench-link: .venv/.test
	$(BIN)/python -m research.benches.link

loadtest: .venv/.test
	$(BIN)/python -m research.benches.cloud

# Ten minutes under load, then 100,000 hostile messages.
soak: .venv/.test
	$(BIN)/python -m research.benches.cloud --soak 600
	HEDGE_HOSTILE=100000 $(BIN)/python -m pytest -n 0 --timeout 1800 tests/integration/test_fuzz.py
	HEDGE_KILLS=5 $(BIN)/python -m pytest -n 0 --timeout 600 tests/integration/test_commands.py -k killed_in_mid_answer

bench: .venv/.test
	$(BIN)/python -m research.benches.grid

bench-full: .venv/.test
	$(BIN)/python -m research.benches.grid --full

results: .venv/.test
	$(BIN)/python -m research.results.paper
	$(BIN)/python -m research.results.bundled

results-real: .venv/.test .venv/.llama
	@test -n "$(PAIR)" || { echo "PAIR=FOLDER with q05.gguf and q15.gguf, TASKS=FOLDER with gsm8k-dev.jsonl and humaneval-dev.jsonl"; exit 1; }
	$(BIN)/python -m research.results.real "$(PAIR)" "$(TASKS)" $(STAGE) $(if $(QUESTIONS),--questions $(QUESTIONS))
	$(BIN)/python -m research.results.replays
	$(BIN)/python -m research.results.generated
	$(BIN)/python -m research.results.pictures

docs-check: .venv/.test
	@$(BIN)/python -m tools.docs_check

results-wireless: .venv/.test
	$(BIN)/python -m research.results.wireless --embedding "$(EMBEDDING)"

results-gelato: .venv/.test
	$(BIN)/python -m research.results.gelato

.venv/.ray: .venv/.test
	@echo "installing Ray"
	@$(PIP) -e ".[ray]"
	@touch $@

test-ray: .venv/.ray
	@$(BIN)/python -m pytest -n 0 tests/ray

.venv-vllm/.made: tools/vllm_env.sh tools/vllm-requirements.txt pyproject.toml
	@echo "preparing vLLM"
	@sh tools/vllm_env.sh $(PYTHON) "$(CACHE)" .venv-vllm
	@touch $@

test-vllm: .venv-vllm/.made
	@.venv-vllm/bin/python -m pytest -n 0 tests/vllm

web-test: .venv/.web
	@$(BIN)/python -m pytest -n 0 tests/web

screenshots: .venv/.web
	HEDGE_SCREENSHOTS=docs/screenshots $(BIN)/python -m pytest -n 0 tests/web

.venv/.web: .venv/.test
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { echo "Chromium is missing (Debian: apt install chromium)"; exit 1; }
	@$(PIP) -e ".[web]"
	@touch $@

certs:
	@sh tools/certs.sh certs $(HOST)

compose-test:
	@$(PYTHON) -m tools.compose_test

clean:
	rm -rf .venv .venv-vllm build *.egg-info
