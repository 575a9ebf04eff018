# Every task of the project. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo dev build test soak fuzz lint fmt bench clean

# The load tests pace themselves; with more threads than cores the long waits overlap.
export RUST_TEST_THREADS ?= 6

help: ## List the tasks
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what building and testing need (Debian; says what is missing elsewhere)
	@tests/setup.sh

demo: setup ## Watch the main job with real requests: register, replace under load, kill, outage
	@cargo build --quiet --workspace --bins
	@target/debug/waypost dev --demo --tour

dev: setup ## Run a control plane and a proxy until Ctrl-C
	@cargo build --quiet --workspace --bins
	@target/debug/waypost dev

build: setup ## Build every program, optimised, into target/release
	@cargo build --release --workspace --bins

test: ## Run every test
	@tests/setup.sh --servers
	@echo "building"
	@# Programs and tests in one go: apart, cargo would build what they share twice, with other features.
	@cargo build --quiet --workspace --bins --tests --examples
	tests/in-memory.sh cargo test --workspace --no-fail-fast

soak: setup ## Run the load tests ten times as long
	@cargo build --quiet --workspace --bins --tests
	WAYPOST_TEST_SOAK=10 cargo test -p waypost-tests --test e2e -- under_load

fuzz: setup ## Fuzz documents, paths, matching and HTTP/2 with libFuzzer, FUZZ_SECONDS (60) each; needs a C++ compiler
	@tests/fuzz/run.sh

lint: setup ## Check formatting, lints, licences and banned crates; warnings are errors
	cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; \
	 else echo "skipped: cargo deny (not installed; cargo install --locked cargo-deny)"; fi

fmt: ## Format the code
	cargo fmt --all

bench: ## Measure against nginx, HAProxy and the stores themselves, and print ratios (see tests/BENCHMARKS.md)
	@tests/setup.sh --bench
	@tests/setup.sh --servers
	@cargo build --release --workspace --bins
	cargo bench -p waypost-tests
	cargo bench -p waypost-proxy

clean: ## Remove everything that was built
	cargo clean
