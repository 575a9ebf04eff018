#!/bin/sh
# The compiler of this workspace's crates (RUSTC_WORKSPACE_WRAPPER), with what libFuzzer needs to see how far an input gets.
#
# Other people's crates are left as they are: the target directory has them already, and what is asked here is how far
# our own code is reached. The flags are cargo-fuzz's, and no nightly compiler is needed for them.
rustc=$1
shift
case " $* " in
    # A program of its own, without libFuzzer.
    *" --crate-name build_script_"*) exec "$rustc" "$@" ;;
esac
exec "$rustc" "$@" -C passes=sancov-module \
    -C llvm-args=-sanitizer-coverage-level=4 -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
    -C llvm-args=-sanitizer-coverage-pc-table -C llvm-args=-sanitizer-coverage-trace-compares \
    -C llvm-args=-simplifycfg-branch-fold-threshold=0 -C codegen-units=1
