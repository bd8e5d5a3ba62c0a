# Every target does its own set-up: a fresh machine needs Python 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
USERS ?= 8
TIME ?= 30
RATE ?= 20
MINUTES ?= 4
RESTARTS ?= 10
REQUESTS ?= 100000
TORCH := torch==2.13.0
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
# Docker: DOCKER_NETWORK=host where the engine has no bridge; PROVIDER=cuda for NVIDIA's GPUs.
DOCKER ?= docker
DOCKER_NETWORK ?= default
IMAGE ?= glassblock
PROVIDER ?= cpu
MAX_ADDED_MB := 250
# Long tests of crowds and of time, which nothing else may run beside.
ALONE := $(addprefix tests/,test_readme.py $(addprefix service/test_,slow_crowds.py clock.py connection_storm.py overloaded.py) \
  $(addprefix load_tests/test_,locust.py mixed.py open_loop.py reliability.py))
# Where it is set, every process would compile all tests anew, which pytest rewrites.
unexport PYTHONDONTWRITEBYTECODE
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1
LENGTH = $(if $(SECONDS),--seconds=$(SECONDS)) $(if $(ROUNDS),--rounds=$(ROUNDS))

.PHONY: install check test test-long test-oracles test-gpu big families test-image fuzz serve load load-open overload mixed chaos soak bench bench-peers bench-probes bench-refusals bench-page screenshots openapi image clean
.DEFAULT_GOAL := test

install: $(STAMP)  ## A virtual environment with all that the other targets need

# On Linux a plain torch is gigabytes of CUDA. The CPU build has a version of its own, which pip may already be
# configured to find; else it comes from PyTorch's own index.
$(STAMP): pyproject.toml hatch_build.py service/codec/float_text.c service/codec/open_inference.proto
	$(PYTHON) -m venv $(VENV)
	@if [ "$$(uname -s)" = Linux ]; then \
	  echo "Installing PyTorch's CPU build"; \
	  $(BIN)/pip install -q "$(TORCH)+cpu" 2>/dev/null || $(BIN)/pip install -q "$(TORCH)" --index-url $(TORCH_CPU_INDEX); \
	fi
	@echo "Installing Glassblock and its tools"
	@$(BIN)/pip install -q -e ".[export,grpc,load,dev]"
	@touch $@

check: install  ## Lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: install  ## The test suite, but for what takes seconds a test: test-long
	$(BIN)/python -m pytest -n 3 $(TESTS)

test-long: install  ## What takes long: deadlines, drains, a hub, the README's commands, load_tests, crowds of slow clients, more random examples
	$(BIN)/python -m pytest -n 3 -m "thorough or hypothesis or long" $(ALONE:%=--ignore=%) --hypothesis-profile thorough --timeout 600
	$(BIN)/python -m pytest -m long $(ALONE) --timeout 600

test-oracles: install  ## Our names and answers beside TransformerLens and bertviz, each with a PyTorch of its own
	$(BIN)/python -m pytest -m oracles --timeout 900

# A virtual environment of its own, $(VENV)-cuda: onnxruntime and onnxruntime-gpu are the same package. Equal bits alone
# and among neighbours are the CPU's promise; tests/gpu has what holds on CUDA.
test-gpu: $(VENV)-cuda/.cuda  ## On a machine with a CUDA device: what is served there beside PyTorch, and faults of the device
	PROVIDER=cuda $(VENV)-cuda/bin/python -m pytest -n 2 -m "not oracles" tests/test_*_over_http.py tests/test_minilm_probes.py -k "not among_neighbours"
	$(VENV)-cuda/bin/python -m pytest -m gpu tests/gpu --timeout 300

$(VENV)-cuda/.cuda: pyproject.toml
	$(MAKE) install VENV=$(VENV)-cuda
	$(VENV)-cuda/bin/pip install -q -e ".[gpu]"
	$(VENV)-cuda/bin/pip uninstall -qy onnxruntime
	$(VENV)-cuda/bin/pip install -q --force-reinstall --no-deps onnxruntime-gpu
	@touch $@

big: install  ## A layer of 1 GiB and a model of 2: exported within 4 times that and 1 GiB, and served; 6 GB of disk, minutes
	$(BIN)/python -m pytest -m big

families: install  ## Every family's graphs against transformers, and the tables of it in README.md and docs/families.md; ONLY picks
	$(BIN)/python -m tests.families $(if $(ONLY),-k "$(ONLY)")

fuzz: install  ## schemathesis over our OpenAPI document and the protocol's, for MINUTES
	$(BIN)/python -m tests.fuzzing $(MINUTES)

test-image: install image  ## The image, built and run by the engine that docker talks to
	DOCKER="$(DOCKER)" IMAGE="$(IMAGE)" $(BIN)/python -m pytest -m docker

serve: install  ## Export the default model once, then serve it on port 8000
	$(BIN)/python -m export --default
	$(BIN)/python -m service

load: install  ## USERS ask for TIME seconds: a server started for it, or the one at HOST, with the key in LOAD_API_KEY
	$(BIN)/python -m load_tests.load --users $(USERS) --time $(TIME) $(HOST)

load-open: install  ## RATE requests a second for TIME seconds, due whether the server keeps up or not; HOST and LOAD_API_KEY as above
	$(BIN)/python -m load_tests.open_loop --rate $(RATE) --time $(TIME) $(HOST)

overload: install  ## Two, five and ten times the peak: goodput, codes, probes, and a picture; SECONDS and ROUNDS shorten it, BODIES=large or block
	$(BIN)/python -m load_tests.overload $(LENGTH) $(if $(BODIES),--bodies=$(BODIES))

mixed: install  ## Short requests beside long ones and giants: they wait for one long run at most; SECONDS and ROUNDS shorten it
	$(BIN)/python -m load_tests.mixed $(LENGTH)

chaos: install  ## Servers stopped and killed while clients ask, RESTARTS of them behind haproxy (apt-get install haproxy): docs/reliability.md
	$(BIN)/python -m load_tests.chaos --restarts $(RESTARTS)

soak: install  ## REQUESTS from many clients, each answer bit for bit as alone, and no memory lost: docs/reliability.md
	$(BIN)/python -m load_tests.soak --requests $(REQUESTS) --provider $(PROVIDER)

bench: install  ## Latency, throughput and cost against raw session.run; SECONDS and ROUNDS shorten it; on CUDA: PROVIDER=cuda VENV=.venv-cuda after make test-gpu
	$(BIN)/python -m load_tests.bench $(LENGTH) --provider=$(PROVIDER)

bench-peers: install  ## The same beside other servers, into docs/benchmarks.md; PEERS="naive litserve" picks
	$(BIN)/python -m load_tests.bench_peers $(LENGTH) $(if $(PEERS),--peers $(PEERS))

bench-probes: install  ## A run that gives attention weights of 512 positions: at most 1.3 times the lean one
	$(BIN)/python -m pytest -m bench -s tests/service/test_probe_cost.py

bench-refusals: install  ## The server's CPU for a refusal at the door: at most 100 µs, the wire's own left out
	$(BIN)/python -m pytest -m bench -s tests/service/test_refusal_cost.py

bench-page: install  ## In Chromium, 12 x 12 heads of 128 tokens: first picture at most 250 ms after the answer, interaction 150 ms
	$(BIN)/python -m pytest -m bench -s tests/page/test_page_time.py

screenshots: install  ## docs/pictures/page-*.png, from Chromium (apt-get install chromium fonts-dejavu-core)
	$(BIN)/python -m tests.page.screenshots

openapi: install  ## docs/openapi.json, from the routes
	$(BIN)/python -m service openapi > docs/openapi.json

image:  ## The container image and its sizes; of the CPU's, at most 250 MB beside base and model
	$(DOCKER) build --network $(DOCKER_NETWORK) --build-arg PROVIDER=$(PROVIDER) --build-arg TORCH=$(TORCH) -t $(IMAGE) .
	@$(DOCKER) history --no-trunc --human=false --format '{{.Size}} {{.CreatedBy}}' $(IMAGE) | awk -v provider=$(PROVIDER) ' \
	  /LABEL.*image.title=Glassblock/ { in_base = 1 } \
	  { part = in_base ? "base" : /COPY.* \/models/ ? "model" : "added"; mb[part] += $$1 / 1e6 } \
	  END { printf "base %.0f MB, model %.0f MB, added %.0f MB, image %.0f MB\n", mb["base"], mb["model"], mb["added"], \
	          mb["base"] + mb["model"] + mb["added"]; \
	        if (provider == "cpu" && mb["added"] > $(MAX_ADDED_MB)) { print "expected at most $(MAX_ADDED_MB) MB added"; exit 1 } }'

clean:  ## Remove what the targets made
	rm -rf $(VENV) $(VENV)-cuda .cache build dist
