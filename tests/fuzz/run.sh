#!/bin/sh
# Runs every fuzz target for FUZZ_SECONDS (default 60) each, or says why it does not.
#
# What is found is left in tests/fuzz/artifacts, with the command that runs it again.
set -eu
cd "$(dirname "$0")"

skip() {
    echo "skipped: fuzzing ($1)"
    exit 0
}

cargo +nightly --version >/dev/null 2>&1 || skip "no nightly compiler; rustup toolchain install nightly"
cargo +nightly fuzz --version >/dev/null 2>&1 || skip "no cargo-fuzz; cargo install --locked cargo-fuzz"

# The documents of the cases are where the fuzzer of documents begins.
mkdir -p corpus/resources
awk 'FNR == 1 { file = ""; base = FILENAME; sub(/.*\//, "", base) }
     /^```yaml/ { file = "corpus/resources/" base "-" ++count; next }
     /^```/ { if (file) close(file); file = ""; next }
     file { print > file }' ../../proto/tests/refusals/*.md

for target in resources paths matching; do
    # No crate here is unsafe; without the address sanitizer, several times as many inputs are tried.
    cargo +nightly fuzz run --fuzz-dir . --sanitizer none "$target" -- \
        -max_total_time="${FUZZ_SECONDS:-60}" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -verbosity=0 -max_len=4096
    echo "fuzzed: $target for ${FUZZ_SECONDS:-60} s"
done
