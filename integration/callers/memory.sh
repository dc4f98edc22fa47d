#!/bin/bash
# memory.sh RUNTIME [SHIM]: measures the memory of running containers: SHIMS (30) of them, started with ctr, each under its own
# shim. Prints for each container the shim's private and resident memory, its threads and descriptors, and the size of the
# runtime's state and of the bundle's files. RUNTIME and SHIM are as for ctr.sh. With SHIM the limits are checked, else the
# numbers are only printed, for comparison.
. "$(dirname "$0")/prepare.sh"
RUNTIME=$(runtime_path "${1:?runtime}") || exit
SHIM=${2:-}
[ -z "$SHIM" ] || SHIM=$(runtime_path "$SHIM") || exit
: "${SHIMS:=30}"
. "$(dirname "$0")/by_ctr.sh"

# the files at PATH... in KiB, divided by the number of containers; other file systems, such as the containers', are skipped
share() { { find "$@" -xdev -type f -printf '%b\n' 2>/dev/null || true; } | awk -v n="$SHIMS" '{ s += $1 / 2 } END { printf "%.1f\n", s / n }'; }
is_less() { awk "BEGIN { exit !($1 <= $2) }" || { echo "$1 is more than $2"; return 1; }; }

start_all() {
    local i
    for ((i = 0; i < SHIMS; i++)); do
        ctr run -d "${kind[@]}" --env PATH=/bin --rootfs "$SCRATCH/rootfs" "m$i" sleep 1000000
    done
    equal "$(shims | wc -l)" "$SHIMS"
    sleep 2
}
# average FIELD...: the average sum of these fields of smaps_rollup, in KiB
average() {
    local fields=$1
    for p in $(shims); do cat "/proc/$p/smaps_rollup"; done |
        awk -v n="$SHIMS" -v fields="^($fields):" '$1 ~ fields { s += $2 } END { printf "%.0f\n", s / n }'
}
of_each() { for p in $(shims); do ls "/proc/$p/$1"; done | wc -l | awk -v n="$SHIMS" '{ printf "%.1f\n", $1 / n }'; }

measured() {
    own=$(average "Private_Clean|Private_Dirty") state=$(share /run/containerd/runc /run/containerd/masu)
    echo "# of each of $SHIMS: own $own KiB (anonymous $(average Anonymous)), resident $(average Rss), proportional $(average Pss) KiB;" \
        "threads $(of_each task), descriptors $(of_each fd); state $state KiB, bundle $(share "$SCRATCH/state") KiB" >&3
    [ -n "$SHIM" ] || return 0
    is_less "$own" 614
    is_less "$(average Rss)" 3072
    # shim and state together: at most 0.7 MiB
    is_less "$(echo "$own $state" | awk '{ print $1 + $2 }')" 716
}

# during many execs the shim has only one thread, so no task shares its memory
busy() {
    local shim i most=0 now pids=()
    shim=$(shims | head -n 1)
    for i in $(seq 30); do timeout 60 ctr task exec --exec-id "b$i" m0 true & pids+=($!); done
    while kill -0 "${pids[-1]}" 2>/dev/null; do
        now=$(ls "/proc/$shim/task" | wc -l)
        [ "$now" -le "$most" ] || most=$now
    done
    wait "${pids[@]}"
    echo "# at most $most threads during 30 execs at once" >&3
    [ -z "$SHIM" ] || equal "$most" 1
}

all_ended() {
    local i
    for ((i = 0; i < SHIMS; i++)); do
        ctr task delete --force "m$i" >/dev/null 2>&1 || true
        ctr container delete "m$i"
    done
    until_true eval '[ -z "$(shims)" ]'
    equal "$(share /run/containerd/runc /run/containerd/masu)" 0.0
}

exec 3>&1
try "$SHIMS containers, each with its shim" start_all
try "memory of each" measured
try "threads while busy" busy
try "all are ended" all_ended
finish
summary
