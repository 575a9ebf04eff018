#!/bin/sh
# Installs h2spec, which asks a server for what HTTP/2's RFCs ask of it, and says what cannot be had.
#
#   tests/install-h2spec.sh FOLDER
#
# Prints nothing and installs nothing where an h2spec is on the path or in FOLDER. No distribution has it: it is built from its
# source with Go, where that is installed. Exit code 0: there is an h2spec.
set -u

# The newest that Go takes: later ones have a go.mod that does not name their major version.
version=v2.2.1+incompatible

say() { printf 'install-h2spec: %s\n' "$*" >&2; }

folder=$1
command -v h2spec >/dev/null 2>&1 && exit 0
[ -x "$folder/h2spec" ] && exit 0
for place in /usr/local/go/bin /usr/lib/go/bin; do PATH=$PATH:$place; done
if ! command -v go >/dev/null 2>&1; then
    say "go is missing, with which h2spec is built: apt-get install golang-go, or https://go.dev/dl"
    exit 1
fi
mkdir -p "$folder" && folder=$(cd "$folder" && pwd) || exit 1
if ! log=$(GOBIN=$folder GOFLAGS= timeout 300 go install "github.com/summerwind/h2spec/cmd/h2spec@$version" 2>&1); then
    say "go could not build h2spec $version:"
    printf '%s\n' "$log" | tail -n 3 >&2
    exit 1
fi
say "installed h2spec $version as $folder/h2spec"
