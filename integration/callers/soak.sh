#!/bin/bash
# soak.sh RUNTIME [SHIM]: runs many containers and execs under one containerd with ctr: AT_ONCE (100) of each at the same time,
# then EXECS (10000) execs in one container and CONTAINERS (10000) containers, STEP (20) at a time. containerd is killed in the
# middle of both. Each process has its own exit code, which must arrive. Afterwards processes, descriptors, mounts, cgroups,
# sockets and the shim's memory must be as before. RUNTIME and SHIM are as for ctr.sh. CI does not run it, because it takes long.
# KEEP_LOG=FILE keeps the daemon's log.
. "$(dirname "$0")/prepare.sh"
RUNTIME=$(runtime_path "${1:?runtime}") || exit
SHIM=${2:-}
[ -z "$SHIM" ] || SHIM=$(runtime_path "$SHIM") || exit
: "${AT_ONCE:=100}" "${EXECS:=10000}" "${CONTAINERS:=10000}" "${STEP:=20}"
. "$(dirname "$0")/by_ctr.sh"
again() {
    kill -9 "$(cat "$SCRATCH/pid")"
    until_true no_daemon
    served
}

run() { timeout 120 ctr run "${kind[@]}" --env PATH=/bin --rootfs "$@"; }
one_exec() { timeout 120 ctr task exec --exec-id "e$1" keep sh -c "exit $(($1 % 200))"; }
one_container() { run --rm "$SCRATCH/rootfs" "c$1" sh -c "exit $(($1 % 200))"; }

# together FUNCTION FIRST COUNT: calls FUNCTION with each number at the same time; each call must end with its own code
together() {
    local i code pids=() wrong=0
    for ((i = $2; i < $2 + $3; i++)); do
        "$1" $i >>"$SCRATCH/said" 2>&1 &
        pids+=($!)
    done
    for ((i = $2; i < $2 + $3; i++)); do
        code=0
        wait "${pids[$((i - $2))]}" || code=$?
        [ $code = $((i % 200)) ] || { echo "$1 $i ended with $code"; wrong=1; }
    done
    return $wrong
}

# steps FUNCTION FIRST COUNT: makes all calls, STEP at a time, and kills containerd half-way
steps() {
    local i begin=$SECONDS
    for ((i = 0; i < $3; i += STEP)); do
        together "$1" $(($2 + i)) $((i + STEP <= $3 ? STEP : $3 - i)) || { tail -n 3 "$SCRATCH/said"; return 1; }
        : >"$SCRATCH/said"
        [ $((i / STEP)) != $(($3 / STEP / 2)) ] || again
    done
    echo "# $3 times $1 in $((SECONDS - begin)) s; the shim has $(memory) KiB of its own" >&3
}

shim_of_keep() { shims | head -n 1; }
# the shim's private memory, without the program's pages, because these are loaded on demand
memory() { awk '/^Anonymous/ { print $2 }' "/proc/$(shim_of_keep)/smaps_rollup"; }
count() {
    echo "processes $(cat /proc/[0-9]*/comm 2>/dev/null | grep -vE '^(bash|cat|grep|sort|uniq|tr|containerd|ctr)$' | sort | uniq -c | tr -s ' \n' ' ')"
    echo "shims $(shims | wc -l)"
    # the numbers of a Go shim vary with its scheduler
    if [ -n "$SHIM" ]; then
        echo "descriptors of the shim $(ls "/proc/$(shim_of_keep)/fd" | wc -l)"
        echo "threads of the shim $(ls "/proc/$(shim_of_keep)/task" | wc -l)"
    fi
    echo "mounts $(wc -l </proc/self/mountinfo)"
    echo "cgroups $(find /sys/fs/cgroup/"$GROUP" /sys/fs/cgroup/*/"$GROUP" -type d 2>/dev/null | wc -l)"
    echo "sockets $(ls /run/containerd/s | wc -l)"
    echo "states $(find /run/containerd/masu /run/containerd/runc -mindepth 2 -maxdepth 2 2>/dev/null | wc -l)"
    echo "bundles $(find "$SCRATCH/state" -name config.json | wc -l)"
}
as_before() {
    local i now
    settled
    for ((i = 0; i < 10; i++)); do
        count >"$SCRATCH/now"
        ! diff "$SCRATCH/before" "$SCRATCH/now" >"$SCRATCH/difference" || break
        sleep 1
    done
    [ ! -s "$SCRATCH/difference" ] || { cat "$SCRATCH/difference"; return 1; }
    now=$(memory)
    echo "# the shim had $before KiB of its own, and has $now" >&3
    [ -z "$SHIM" ] || [ "$now" -le $((before + 32)) ] || { echo "it grew from $before to $now KiB"; return 1; }
}

# brings the shim to the state after a restart of containerd and some execs: only an exec makes the shim connect to the new
# containerd for its events
settled() { together one_exec 0 5 && sleep 2; }

exec 3>&1
run -d "$SCRATCH/rootfs" keep sleep 1000000 || exit 1
# the allocator keeps the memory of so many concurrent execs; from then on the shim must not grow
together one_exec 0 "$AT_ONCE"
again
settled
before=$(memory)
count >"$SCRATCH/before"
sed 's/^/# /' "$SCRATCH/before"
try "$AT_ONCE execs at once" together one_exec 0 "$AT_ONCE"
try "$AT_ONCE containers at once" together one_container 0 "$AT_ONCE"
try "$EXECS execs" steps one_exec 1000 "$EXECS"
try "$CONTAINERS containers" steps one_container 1000 "$CONTAINERS"
try "all is as before" as_before
[ -z "${KEEP_LOG:-}" ] || cp "$SCRATCH/log" "$KEEP_LOG"
timeout 60 ctr task kill -s KILL keep
kill "$(cat "$SCRATCH/pid")"
summary
