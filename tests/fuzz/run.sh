#!/bin/sh
# Runs every fuzz target under libFuzzer for FUZZ_SECONDS (default 60) each, or says why it does not.
#
# What is found is left in tests/fuzz/artifacts, as TARGET-crash-HASH. It belongs into tests/fuzz/seeds/TARGET, with which
# `cargo test -p waypost-fuzz` begins.
#
# No crate here is unsafe: without the address sanitizer, several times as many inputs are tried, any compiler will do,
# and everything but this workspace's own crates has been built before.
set -eu
cd "$(dirname "$0")"

skip() {
    echo "skipped: fuzzing with libFuzzer ($1); cargo test -p waypost-fuzz fuzzes without"
    exit 0
}

command -v c++ >/dev/null 2>&1 || skip "no C++ compiler, in which libFuzzer is written; apt-get install g++"

# The documents of the cases are where the fuzzer of documents begins.
mkdir -p artifacts corpus/resources corpus/paths corpus/matching corpus/http2 corpus/hpack seeds/resources
awk 'FNR == 1 { file = ""; base = FILENAME; sub(/.*\//, "", base) }
     /^```yaml/ { file = "corpus/resources/" base "-" ++count; next }
     /^```/ { if (file) close(file); file = ""; next }
     file { print > file }' ../../proto/tests/refusals/*.md

# All of the workspace is named so that dependencies have the features that they have in its other tests.
export RUSTC_WORKSPACE_WRAPPER="$PWD/rustc.sh"
fuzz() { cargo test --quiet --workspace --features waypost-fuzz/libfuzzer --test libfuzzer "$@"; }
fuzz --no-run

for target in resources paths matching http2 hpack; do
    FUZZ_TARGET=$target fuzz -- "corpus/$target" "seeds/$target" -artifact_prefix="artifacts/$target-" \
        -max_total_time="${FUZZ_SECONDS:-60}" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 -print_funcs=0 \
        -max_len=4096
    echo "fuzzed: $target with libFuzzer for ${FUZZ_SECONDS:-60} s"
done
