#!/bin/sh
# Installs what building and testing need, and says what cannot be had.
#
#   tests/setup.sh              what a build needs: a C compiler (the allocator is C), protoc and its files (etcd's
#                               client is generated from its contract), OpenSSL's headers (Consul's client links it),
#                               curl (the documents' examples)
#   tests/setup.sh --servers    also what tests start: Redis, etcd, Consul, nginx, nghttp2's clients, h2spec (with
#                               Go), Python's libraries, Chromium (100 MB with what it needs)
#   tests/setup.sh --bench      also the peers of the benchmarks: nginx, HAProxy, Envoy, and the clients wrk and h2load
#
# Prints nothing and installs nothing where all is there. On Debian and Ubuntu, as root or with sudo that does
# not ask, it installs with apt; elsewhere it names what to install. A missing server or peer is no failure: its
# tests are listed as ignored with the reason, and the benchmark says that it left the peer out.
set -u

say() { printf 'setup: %s\n' "$*" >&2; }

# Prints the Debian package for a program.
package_of() {
    case $1 in
        cc) echo "gcc libc6-dev" ;;
        curl) echo "curl ca-certificates" ;;
        nginx) echo "nginx-light" ;;
        redis-cli) echo "redis-tools" ;;
        etcd) echo "etcd-server" ;;
        nghttp|h2load) echo "nghttp2-client" ;;
        etcdctl) echo "etcd-client" ;;
        *) echo "$1" ;;
    esac
}

missing_of() {
    for program in "$@"; do
        # Debian puts servers into sbin, which is not on every user's path.
        PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null 2>&1 || printf '%s ' "$program"
    done
}

install() {
    packages=$*
    if ! command -v apt-get >/dev/null 2>&1; then
        say "this is not Debian or Ubuntu: install these by hand: $packages"
        return 1
    fi
    as_root=
    if [ "$(id -u)" -ne 0 ]; then
        if sudo -n true 2>/dev/null; then
            as_root="sudo -n"
        else
            say "not root, and sudo asks for a password: run: sudo apt-get install $packages"
            return 1
        fi
    fi
    say "installing $packages"
    # An image that has just been started has no package lists.
    export DEBIAN_FRONTEND=noninteractive
    $as_root apt-get -qq install -y --no-install-recommends $packages >/dev/null 2>&1 && return 0
    if ! $as_root apt-get -qq update >/dev/null; then
        say "apt-get update failed (no network, or no package mirror?): install these by hand: $packages"
        return 1
    fi
    if ! $as_root apt-get -qq install -y --no-install-recommends $packages >/dev/null; then
        say "apt-get could not install: $packages"
        return 1
    fi
}

ensure() {
    missing=$(missing_of "$@")
    [ -z "$missing" ] && return 0
    packages=
    for program in $missing; do packages="$packages $(package_of "$program")"; done
    # shellcheck disable=SC2086 # a list of packages
    install $packages
}

# Whether protoc is there with the files that come with it. protox, which may stand for it, has them inside.
has_protoc() {
    protoc=$(command -v protoc) || return 1
    case $(readlink -f "$protoc") in */protox) return 0 ;; esac
    for folder in "$(dirname "$protoc")/../include" /usr/include /usr/local/include; do
        [ -f "$folder/google/protobuf/descriptor.proto" ] && return 0
    done
    return 1
}

has_browser() {
    for name in chromium-headless-shell chromium google-chrome chromium-browser; do
        command -v "$name" >/dev/null 2>&1 && return 0
    done
    return 1
}

# protoc, or where it cannot be had without an administrator, the same in Rust.
ensure_protoc() {
    has_protoc && return 0
    install protobuf-compiler libprotobuf-dev && return 0
    say "building protox, which takes protoc's place"
    bin=${CARGO_HOME:-$HOME/.cargo}/bin
    if cargo install --quiet --locked protox --features bin && ln -sf protox "$bin/protoc" && has_protoc; then
        return 0
    fi
    say "protoc is missing, and protox could not be built: install protobuf-compiler and libprotobuf-dev"
    return 1
}

if ! command -v cargo >/dev/null 2>&1; then
    say "cargo is missing: install Rust from https://rustup.rs, then open a new shell"
    exit 1
fi
ensure cc curl pkg-config || exit 1
ensure_protoc || exit 1
if ! pkg-config --exists openssl && ! install libssl-dev; then
    say "or do without Consul: cargo build --workspace --no-default-features --features redis,etcd"
    exit 1
fi
here=$(dirname "$0")
target=${CARGO_TARGET_DIR:-$here/../target}
# On a full disk a build ends in the middle, with errors that bury the reason.
if [ ! -d "$target/debug/deps" ]; then
    mkdir -p "$target"
    free=$(df -Pk "$target" | awk 'NR == 2 { print int($4 / 1024 / 1024) }')
    [ "${free:-8}" -ge 8 ] ||
        say "$free GiB are free where $target is, which may be too few for a build: make room, or set CARGO_TARGET_DIR"
fi
case ${1:-} in
    --servers)
        # Debian starts servers when it installs them; the tests start their own, on ports of their own.
        ensure redis-server redis-sentinel redis-cli || say "the tests of the Redis store are left out"
        ensure etcd etcdctl || say "the tests of the etcd store are left out"
        "$here/install-consul.sh" || say "the tests of the Consul store are left out"
        "$here/python-env.sh" || say "the tests of the store plugin are left out"
        # Chromium without its user interface: a fifth less to download, and with all of its network code.
        has_browser || install chromium-headless-shell || say "the tests with a browser are left out"
        ensure nginx nghttp h2load || say "the tests with other people's clients leave out those that are missing"
        "$here/install-h2spec.sh" "$target/h2spec" || say "the test with h2spec is left out"
        "$here/python-env.sh" "$target/clients-env" "$here/tests/gateway/clients/requirements.txt" ||
            say "the tests with Python's clients are left out"
        "$here/python-env.sh" "$target/init-env" "$here/tests/init/requirements.txt" ||
            say "the tests of projects made with FastAPI are left out"
        "$here/python-env.sh" "$target/api-clients-env" "$here/tests/api_clients/requirements.txt" ||
            say "the tests with clients of the HTTP API are left out"
        "$here/python-env.sh" "$target/python-sdk-env" "$here/../sdk/python/requirements-dev.txt" ||
            say "the tests of the Python SDK are left out"
        ;;
    --bench)
        ensure nginx haproxy wrk h2load || say "the benchmark leaves out the peers that are missing"
        "$here/python-env.sh" "$target/bench-env" "$here/benches/requirements.txt" ||
            say "the benchmark leaves out Envoy"
        ;;
esac
exit 0
