#!/bin/sh
# Runs a command with its temporary files in memory:
#
#   tests/in-memory.sh COMMAND [ARGUMENT...]
#
# The stores' servers write down what they acknowledge, and wait for the disk until it is. A disk that has just taken
# a whole build can be busy for seconds, and leases of a test's length lapse meanwhile. Nothing that tests ask is lost
# by it: they kill processes, and what a process has written outlives it in memory, too.
#
# Where there is no memory file system with room for them (Linux has /dev/shm), they stay on the disk.
set -u

# KiB: what tests write, of which the most are databases and a browser's profile, several times over.
room=$((4 << 20))

# Prints the folder to use, if there is one.
folder() {
    free=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')
    available=$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo 2>/dev/null)
    [ "${free:-0}" -ge "$room" ] && [ "${available:-0}" -ge "$room" ] || return 1
    new=$(mktemp -d /dev/shm/waypost-tests.XXXXXX 2>/dev/null) || return 1
    # Servers that change their user read there, and tests put programs there.
    chmod 755 "$new"
    printf '#!/bin/sh\n' >"$new/probe" && chmod +x "$new/probe"
    if ! "$new/probe" 2>/dev/null; then
        rm -rf "$new"
        return 1
    fi
    rm "$new/probe"
    echo "$new"
}

if ! directory=$(folder); then
    echo "in-memory: no room for temporary files in memory: they stay on the disk, which may slow servers down" >&2
    exec "$@"
fi
trap 'rm -rf "$directory"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
TMPDIR=$directory "$@"
