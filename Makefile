# Everything that people and CI run. `make` alone tells what there is.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo serve test quick compiled compiled-tests compiler bench bench-recording bench-system soak simulate check lint types floors coverage system

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

install: $(STAMP) ## .venv with everything in it

demo: $(STAMP) ## two headless participants call each other through a server
	@$(BIN)/sfu demo $(if $(SECONDS_TO_TALK),--seconds $(SECONDS_TO_TALK)) $(if $(JSON),--json)

serve: $(STAMP) ## the page at http://127.0.0.1:8080, with tokens for everybody on this machine
	$(BIN)/sfu serve --dev

system: # what the browser tests need of Debian; as root only, and only if it is missing
	@{ command -v chromium && command -v tc && command -v gcc && test -e /usr/include/srtp2/srtp.h && command -v redis-server && ls /usr/lib/postgresql/*/bin/initdb; } >/dev/null || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium iproute2 gcc libc6-dev libsrtp2-dev postgresql redis-server; }

test: $(STAMP) system compiler ## the whole suite, browsers included
	@$(BIN)/python -m tests.suite

coverage: $(STAMP) system compiler ## the same, and what of the sources it ran
	@$(BIN)/coverage erase
	@$(BIN)/python -m tests.suite --coverage
	@$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=85

quick: $(STAMP) ## the tests without browsers
	$(BIN)/pytest tests/unit tests/integration

compiled: $(STAMP) compiler ## the tree in build/compiled, its packet path compiled as in a wheel (1.5 minutes)
	@rm -rf build/compiled && mkdir -p build/compiled
	@git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- | tar --extract --directory=build/compiled
	$(BIN)/python hatch_build.py build/compiled

compiled-tests: compiled system ## the tests of media, servers and a call in Chromium, on compiled code (5 minutes)
	cd build/compiled && PYTHONPATH=. $(abspath $(BIN))/python -m pytest -p no:cacheprovider tests/unit/media tests/integration/test_media_with_aiortc.py \
	  tests/integration/test_hostile_datagrams.py tests/integration/test_processes.py tests/integration/test_recording_faults.py tests/e2e/test_call.py tests/e2e/test_links.py

compiler: # a C compiler and Python's headers; as root only, and only if they are missing
	@{ command -v gcc && test -e "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"; } >/dev/null || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev python3-dev; }

bench: compiled bench-system ## speed of the compiled server against Pion and Janus, into docs/performance.md (14 minutes)
	$(BIN)/pip install --quiet --disable-pip-version-check matplotlib
	SFU_BENCH_TREE=build/compiled $(BIN)/python -m bench.report

soak: compiled bench-system ## a conference of ten for an hour: nothing grows, nothing stalls
	SFU_BENCH_TREE=build/compiled $(BIN)/python -m bench.soak --minutes $(or $(MINUTES),60)

simulate: $(STAMP) ## a hundred thousand calls on virtual time: cuts, crashes, races (10 minutes)
	$(BIN)/python -m tests.simulate_calls --calls $(or $(CALLS),100000) --seed $(or $(SEED),1)

bench-recording: $(STAMP) ## what it costs to record a hundred calls at once (1 minute)
	$(BIN)/python -m bench.recording

bench-system: # what the load engine and the other servers need of Debian
	@test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || \
	  { test -e /usr/include/srtp2/srtp.h && command -v gcc tc janus go && test -d /usr/share/gocode/src/github.com/pion/webrtc; } >/dev/null || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev \
	    libsrtp2-dev iproute2 janus golang-go golang-github-pion-webrtc.v3-dev golang-github-gorilla-websocket-dev; }

check: lint types floors ## format, lint, types, floors: what CI runs beside the tests

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

floors: $(STAMP)
	$(BIN)/lint-imports
