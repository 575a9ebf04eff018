#!/bin/sh
# Makes a virtual environment: target/python-env, or the first argument, with what the second one names, or else
# deploy/examples/store-plugin/requirements.txt: in that one the tests run the example of a store plugin. Quiet, and
# done at once, if it is there already.
#
# Fails with a message where Python or its packages cannot be had; the plugin's tests are listed as ignored then.
set -u

root=$(cd "$(dirname "$0")/.." && pwd)
requirements=${2:-$root/deploy/examples/store-plugin/requirements.txt}
folder=${1:-${CARGO_TARGET_DIR:-$root/target}/python-env}

say() { printf 'python-env: %s\n' "$*" >&2; }

cmp -s "$requirements" "$folder/requirements.txt" && exit 0
if ! command -v python3 >/dev/null 2>&1; then
    say "python3 is missing: install python3 and python3-venv"
    exit 1
fi
say "making $folder"
rm -rf "$folder"
if ! told=$(python3 -m venv "$folder" 2>&1); then
    say "python3 cannot make virtual environments: install python3-venv ($told)"
    rm -rf "$folder"
    exit 1
fi
if ! told=$("$folder/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements" 2>&1); then
    say "pip could not install what $requirements names (no network, or no package index?): $told"
    exit 1
fi
# Last, so that one that was interrupted is made again.
cp "$requirements" "$folder/requirements.txt"
