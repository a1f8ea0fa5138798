# Everything starts here: `make` lists what there is. Settings are given as in `make serve PORT=9000`.

PYTHON      ?= $(shell command -v python3.11 || command -v python3)
# torch comes from your package index, where on Linux it brings gigabytes of CUDA. To get its CPU build alone, name the
# index of CPU builds that torch's installation page gives: make serve TORCH_INDEX=<url>
TORCH_INDEX ?=
# What to serve: demo, a .gguf file, a directory, or an id of the Hugging Face hub.
MODEL       ?= demo
WORKERS     ?= 1
PORT        ?= 8000
# Test files that run at once.
JOBS        ?= 2
# Ways in which everything is broken by `make simulate`.
SEEDS       ?= 10000
# Any other flags of `pagestream serve`.
ARGS        ?=
COMPOSE     ?= docker compose

# Tests and stacks start services hundreds of times: Python keeps what it has compiled, whatever the environment says.
export PYTHONDONTWRITEBYTECODE :=

BIN := .venv/bin
ENVIRONMENT := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help serve lint type format lock clean \
	chaos soak fuzz simulate \
	test test-fast test-scheduler test-exact test-grammar test-openapi test-clients compose-test test-kernels \
	kernels-aot gpu-check roofline \
	bench-floor bench-start bench-prefix bench-services bench-scheduler bench-gateway bench-perplexity bench-step bench-parameters

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(ENVIRONMENT) ## serve a model on this machine: MODEL=demo WORKERS=1 PORT=8000 ARGS=
	@$(BIN)/pagestream serve $(MODEL) --workers $(WORKERS) --port $(PORT) $(ARGS)

test: $(ENVIRONMENT) ## run all tests, on a real Redis and the demo model
	$(BIN)/pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

test-fast: $(ENVIRONMENT) ## run the tests that need no model and no whole stack
	$(BIN)/pytest -m "not model" --ignore tests/system

compose-test: $(ENVIRONMENT) ## build the images, bring the Compose stack up, break it, take it down: COMPOSE="docker compose"
	$(BIN)/python compose/verify.py $(COMPOSE)

bench-floor: $(ENVIRONMENT) ## output tokens/s of the whole stack beside transformers' static batch, in one run
	@$(BIN)/python -m loadtest.floor

bench-start: $(ENVIRONMENT) ## seconds from the command to the first token
	@$(BIN)/python -m loadtest.start

bench-prefix: $(ENVIRONMENT) ## time to the first token with a new and with a cached prefix of 1,024 tokens
	@$(BIN)/python -m loadtest.prefix_reuse

bench-services: $(ENVIRONMENT) ## what the services add to the time between two tokens
	@$(BIN)/python -m loadtest.service_price

bench-scheduler: $(ENVIRONMENT) ## CPU per plan of the scheduler at 256 running sequences
	@$(BIN)/python -m loadtest.scheduler_cpu

bench-gateway: $(ENVIRONMENT) ## CPU per streamed token and spread of a step's tokens, beside FastAPI's and the writes alone
	@$(BIN)/python -m loadtest.gateway_price

bench-perplexity: $(ENVIRONMENT) ## what rounding costs in quality: every mode's perplexity on a text
	@$(BIN)/python -m loadtest.perplexity tests/data/american-documents.txt

bench-step: $(ENVIRONMENT) ## where the milliseconds of one step go, part by part
	@$(BIN)/python -m loadtest.step_profile

bench-parameters: $(ENVIRONMENT) ## what sampling parameters add to a step of 32 sequences
	@$(BIN)/python -m loadtest.parameters_price

simulate: $(ENVIRONMENT) ## simulate the whole stack with every fault: SEEDS=200000 different ways
	@$(BIN)/pagestream simulate --seeds 0:$(SEEDS)

test-scheduler: $(ENVIRONMENT) ## the scheduler's properties, 20,000 interleavings instead of 300
	SCHEDULER_EXAMPLES=20000 $(BIN)/pytest tests/scheduler_svc/test_scheduler_properties.py

test-exact: $(ENVIRONMENT) ## tokens against transformers' in every way of cutting the work
	TOKEN_EXACT_WAYS=all $(BIN)/pytest tests/system/test_token_exact.py

test-grammar: $(ENVIRONMENT) ## outputs of random schemas, 5,000 instead of 60
	GRAMMAR_EXAMPLES=5000 $(BIN)/pytest tests/gateway/grammars/test_structured_output.py -k any_schema

test-openapi: $(ENVIRONMENT) ## make up thousands of requests from /openapi.json: nothing breaks, nothing is left
	OPENAPI_EXAMPLES=200 $(BIN)/pytest -s tests/system/test_openapi.py

test-clients: $(ENVIRONMENT) ## try other people's clients, each in an environment of its own: CLIENTS="litellm lm-eval"
	@$(BIN)/python -m tests.clients.run $(CLIENTS)

chaos: $(ENVIRONMENT) ## break every service under load, 244 times, and count every token
	@$(BIN)/pagestream chaos --scenario all --scenario rolling --scenario gateways --scenario model

soak: $(ENVIRONMENT) ## half an hour of load in which connections are cut: nobody grows
	@$(BIN)/pagestream chaos --scenario soak

fuzz: $(ENVIRONMENT) ## a million damaged messages on the wire, ten thousand damaged requests over HTTP
	FUZZ_EXAMPLES=200000 FUZZ_HTTP_EXAMPLES=5000 $(BIN)/pytest -s --numprocesses 2 tests/fuzz

lint: $(ENVIRONMENT) ## check style and layers
	$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/lint-imports

type: $(ENVIRONMENT) ## check types
	$(BIN)/mypy

format: $(ENVIRONMENT) ## put the code into shape
	$(BIN)/ruff check --fix --show-fixes && $(BIN)/ruff format

test-kernels: $(ENVIRONMENT) ## every kernel in Triton's interpreter beside its plain reference; every variant for CPUs
	KERNEL_TESTS=all $(BIN)/pytest tests/kernels/triton tests/gpu_worker/test_prebuild.py
	KERNEL_TESTS=all $(BIN)/pytest tests/gpu_worker/test_decoder.py -k triton

roofline: $(ENVIRONMENT) ## what GPUs can do at best, kernel by kernel, by arithmetic: the tables of docs/roofline.md
	@$(BIN)/python -m loadtest.roofline_tables

kernels-aot: $(ENVIRONMENT) ## compile every Triton kernel for four GPUs, check registers, spills and shared memory
	@TRITON_INTERPRET=0 $(BIN)/python -m kernels.triton.aot $(ARGS)

gpu-check: $(ENVIRONMENT) ## the whole truth on this machine's GPU: numerics, kernel times, throughput; tables to paste
	@TRITON_INTERPRET=0 $(BIN)/python -m loadtest.gpu_check $(ARGS)

lock: $(ENVIRONMENT) ## pin what the environment holds now
	@requirements/lock.sh

clean: ## remove caches and build outputs, but not the environment (.venv)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

$(ENVIRONMENT): pyproject.toml requirements/constraints.txt
	@PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" requirements/install.sh && touch $@
