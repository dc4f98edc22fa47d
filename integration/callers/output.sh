#!/bin/bash
# output.sh RUNTIME SHIM [OTHER]: compares the output speed of the shim SHIM with that of containerd's runc shim with OTHER
# (runc). Each shim has one container. ROUNDS (9) times in turn, an exec writes MIB (1024) of zeros, which ctr discards. Prints
# the medians of MB/s and of the shim's CPU time. SHIM must not be slower, and must not use more CPU time.
# Other load on the machine makes the results useless, so CI does not run it. PRIO="chrt -r 1" keeps the load out, where it is
# allowed.
. "$(dirname "$0")/prepare.sh"
RUNTIME=$(runtime_path "${3:-runc}") || exit
: "${1:?runtime}"
SHIM=$(runtime_path "${2:?shim}") || exit
: "${ROUNDS:=9}" "${MIB:=1024}" "${PRIO:=env}"
. "$(dirname "$0")/by_ctr.sh"

# the CPU time of process $1, in microseconds
spent() { echo $(($(cut -d' ' -f1 "/proc/$1/schedstat") / 1000)); }
# the CPU time of all its threads
cpu() { for t in /proc/"$1"/task/*; do spent "${t#/proc/}"; done | awk '{ s += $1 } END { print s }'; }
median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

common=(--env PATH=/bin --rootfs)
# ctr sets CPU shares, which need the controller
[ -e /sys/fs/cgroup/cpu ] || grep -qw cpu /sys/fs/cgroup/cgroup.controllers 2>/dev/null || common=(--cpu-shares 0 "${common[@]}")
begin_all() {
    $PRIO ctr run -d --runtime io.containerd.masu.v2 "${common[@]}" "$SCRATCH/rootfs" own sleep 1000000
    $PRIO ctr run -d --runc-binary "$RUNTIME" "${common[@]}" "$SCRATCH/rootfs" stock sleep 1000000
}
# once NAME NUMBER: runs one exec; records its MB/s and the shim's CPU time in microseconds
once() {
    local shim begin took before
    shim=$(shims "$1" | head -n 1)
    before=$(cpu "$shim")
    begin=${EPOCHREALTIME/./}
    $PRIO timeout 120 ctr task exec --exec-id "o$2" "$1" dd if=/dev/zero bs=65536 count=$((MIB * 16)) 2>/dev/null >/dev/null
    took=$((${EPOCHREALTIME/./} - begin))
    echo $((MIB * 1048576 / took)) >>"$SCRATCH/rate-$1"
    echo $(($(cpu "$shim") - before)) >>"$SCRATCH/cpu-$1"
}
rounds() {
    local i name
    for ((i = 0; i < ROUNDS; i++)); do
        for name in own stock; do once $name "$i"; done
    done
    for name in own stock; do
        echo "# $name: $(median "$SCRATCH/rate-$name") MB/s ($(sort -n "$SCRATCH/rate-$name" | sed -n '1p;$p' | paste -sd-)), shim $(($(median "$SCRATCH/cpu-$name") / 1000)) ms on the processor for $MIB MiB" >&3
    done
}
rate() { [ "$(median "$SCRATCH/rate-own")" -ge "$(median "$SCRATCH/rate-stock")" ] || { echo "it is not"; return 1; }; }
time_on_processor() { [ "$(median "$SCRATCH/cpu-own")" -le "$(median "$SCRATCH/cpu-stock")" ] || { echo "it is not"; return 1; }; }

exec 3>&1
try "a container under each" begin_all
try "$ROUNDS rounds" rounds
try "as many MB/s as with containerd's shim" rate
try "no more time on the processor" time_on_processor
for name in own stock; do ctr task delete --force $name >/dev/null 2>&1; done
finish
summary
