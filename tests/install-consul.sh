#!/bin/sh
# Installs a Consul server for the tests of the Consul store, and says what cannot be had.
#
#   tests/install-consul.sh
#
# Prints nothing and installs nothing where a consul is on the path or was installed by this before. Debian has had
# it in bullseye only: its package is taken from the archive that this machine's own apt uses, by a configuration of
# apt that is thrown away afterwards, and only the program is unpacked. Exit code 0: there is a consul.
set -u

say() { printf 'install-consul: %s\n' "$*" >&2; }

user_bin=${HOME:-/root}/.local/share/waypost/bin
for place in /usr/local/bin /usr/sbin /sbin "$user_bin"; do PATH=$PATH:$place; done
command -v consul >/dev/null 2>&1 && exit 0

by_hand="put a consul binary (1.8 or newer) on the PATH, see https://developer.hashicorp.com/consul/install"
for program in apt-get dpkg-deb; do
    if ! command -v "$program" >/dev/null 2>&1; then
        say "this is not Debian or Ubuntu ($program is missing): $by_hand"
        exit 1
    fi
done

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# Prints the archives of Debian that apt knows, one URI each: of one-line files and of deb822 files.
archives() {
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
        sed -n 's/^ *deb *\(\[[^]]*\] *\)\{0,1\}\([a-z+]*:[^ ]*\) .*/\2/p'
    cat /etc/apt/sources.list.d/*.sources 2>/dev/null |
        sed -n 's/^[Uu][Rr][Ii][Ss]: *//p' | tr ' \t' '\n\n'
}

# Asks apt with sources of our own; the machine's stay as they are.
apt_with() {
    sources=$1
    shift
    apt-get -qq \
        -o Dir::Etc::sourcelist="$sources" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" \
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
        -o APT::Sandbox::User=root -o APT::Get::List-Cleanup=false "$@"
}

# Downloads the package from one archive, or, where none is named, from what the machine has.
download() {
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    if [ -z "${1:-}" ]; then
        (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download consul) >"$work/log" 2>&1
        return
    fi
    signed=
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e "$keyring" ] && signed="[signed-by=$keyring] "
    echo "deb $signed$1 bullseye main" >"$work/sources.list"
    # A snapshot of an archive is older than apt likes.
    apt_with "$work/sources.list" -o Acquire::Check-Valid-Until=false update >"$work/log" 2>&1 &&
        (cd "$work" && apt_with "$work/sources.list" download consul) >>"$work/log" 2>&1
}

found=
for archive in $(archives | sort -u) ''; do
    case $archive in *security*) continue ;; esac
    # Archives of others have no bullseye of Debian's.
    case $archive in '' | */debian | */debian/ | */debian/*) ;; *) continue ;; esac
    if download "$archive" && ls "$work"/consul_*.deb >/dev/null 2>&1; then
        found=yes
        break
    fi
done
if [ -z "$found" ]; then
    say "apt has no package of consul, neither this machine's nor bullseye's:"
    tail -n 3 "$work/log" >&2
    say "$by_hand"
    exit 1
fi

if ! dpkg-deb -x "$work"/consul_*.deb "$work/unpacked"; then
    say "the package cannot be unpacked: $by_hand"
    exit 1
fi
program=$work/unpacked/usr/bin/consul
if ! "$program" version >/dev/null 2>&1; then
    say "the consul of bullseye does not run on this machine: $by_hand"
    exit 1
fi
if mkdir -p "$user_bin" 2>/dev/null && cp "$program" "$user_bin/consul"; then
    say "installed $("$program" version | head -n 1) as $user_bin/consul"
else
    say "$user_bin cannot be written: $by_hand"
    exit 1
fi
