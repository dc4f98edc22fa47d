#!/bin/bash
# ctr.sh RUNTIME [SHIM]: checks containerd from this machine's packages, driven with ctr. The shim is containerd's runc shim with
# RUNTIME (a path or a name) as BinaryName, or SHIM (a path to containerd-shim-masu-v2). State, sockets and namespaces are the
# script's own. It makes the root file system; nothing is pulled.
# Prints one line for each check: ok, FAIL or SKIP; then the counts. KEEP_LOG=FILE keeps the daemon's log.
. "$(dirname "$0")/prepare.sh"
RUNTIME=$(runtime_path "${1:?runtime}") || exit
SHIM=${2:-}
[ -z "$SHIM" ] || SHIM=$(runtime_path "$SHIM") || exit
[ -n "${OWN_WORLD:-}" ] || need script bsdutils
. "$(dirname "$0")/by_ctr.sh"
c() { timeout 60 ctr "$@"; }

# run FLAGS... -- ID COMMAND...: runs a container of the root file system with the runtime
run() {
    local flags=()
    while [ "$1" != -- ]; do
        flags+=("$1")
        shift
    done
    shift
    c run "${kind[@]}" --env PATH=/bin --rootfs "${flags[@]}" "$SCRATCH/rootfs" "$@"
}
on_pty() { timeout 60 script -qec "$1" /dev/null <&9 | tr -d '\r'; }
status_of() { c task ls | awk -v id="$1" '$1 == id { print $3 }'; }
is() { [ "$(status_of "$1")" = "$2" ]; }
gone() { [ -z "$(status_of "$1")" ]; }

foreground() {
    equal "$(run --rm -- fg echo hello)" hello
    exits 7 run --rm -- fg sh -c 'exit 7'
    exits 137 run --rm --with-ns "pid:/proc/$$/ns/pid" -- fg sh -c 'kill -9 $$'
}

missing() {
    exits 1 run --rm -- fg /no/such
    contains "$said" "no such file or directory"
    contains "$said" "OCI runtime create failed"
    exits 1 run --rm -- fg nosuchprogram
    contains "$said" "executable file not found in"
}

detached() {
    run -d -- one sh -c 'trap "exit 5" TERM; while :; do sleep 0.1; done'
    equal "$(status_of one)" RUNNING
    # the state root is below the shim's own directory
    c task ps one | grep "^[0-9]" >/dev/null
}

exec_one() {
    equal "$(c task exec --exec-id e1 one echo inside)" inside
    exits 9 c task exec --exec-id e2 one sh -c 'exit 9'
    equal "$(echo typed | c task exec --exec-id e3 one cat)" typed
    exits 1 c task exec --exec-id e4 one /no/such
    contains "$said" "no such file or directory"
    equal "$(c task exec --exec-id e5 --user 1000:1000 --cwd /tmp one sh -c 'id -u; pwd' | tr '\n' ' ')" "1000 /tmp "
}

many_execs() {
    local i pids=()
    for i in 1 2 3 4 5 6 7 8; do
        c task exec --exec-id "m$i" one sh -c "exit $i" & pids+=($!)
    done
    for i in 1 2 3 4 5 6 7 8; do
        local code=0
        wait "${pids[$((i - 1))]}" || code=$?
        equal "$code" "$i"
    done
}

terminal() {
    contains "$(on_pty "ctr run --rm -t ${kind[*]} --env PATH=/bin --rootfs $SCRATCH/rootfs tty sh -c 'tty; test -t 0 -a -t 1 && echo both'")" both
    contains "$(on_pty "ctr task exec -t --exec-id t1 one sh -c 'tty; test -t 0 -a -t 1 && echo both'")" both
    contains "$(on_pty "stty cols 91 rows 37; ctr task exec -t --exec-id t2 one sh -c 'sleep 1; stty size'")" "37 91"
}

pause() {
    c task pause one
    equal "$(status_of one)" PAUSED
    exits 1 c task exec --exec-id p1 one true
    c task resume one
    equal "$(status_of one)" RUNNING
    c task exec --exec-id p2 one true
}

metrics() {
    local seen
    seen=$(c task metrics --format json one)
    # the names differ between v1 and v2
    contains "$seen" '"pids"'
    contains "$seen" '"memory"'
    contains "$seen" '"cpu"'
}

kill_term() {
    c task kill one
    until_true is one STOPPED
    exits 1 c task exec --exec-id k1 one true
    contains "$(c task delete one 2>&1)" "exit code 5"
    c container delete one
    until_true gone one
}

kill_hard() {
    run -d -- two sh -c 'trap "" TERM; sleep 1000 & sleep 1000'
    c task kill -s SIGTERM two
    equal "$(status_of two)" RUNNING
    c task kill -s SIGKILL two
    until_true is two STOPPED
    # killing a stopped container fails at once
    local begin=$SECONDS
    exits 1 c task kill two
    [ $((SECONDS - begin)) -lt 5 ]
    contains "$(c task delete two 2>&1)" "exit code 137"
    c container delete two
}

delete_by_force() {
    run -d -- three sleep 1000
    c task delete --force three || true
    until_true gone three
    c container delete three
}

limits() {
    run -d --memory-limit 67108864 -- limited sleep 1000
    equal "$(cat /sys/fs/cgroup/"$GROUP"/limited/memory.max /sys/fs/cgroup/memory/"$GROUP"/limited/memory.limit_in_bytes 2>/dev/null || true)" 67108864
    c task delete --force limited || true
    c container delete limited
    exits 137 run --rm --memory-limit 16777216 -- limited sh -c 'x=0123456789abcdef; while :; do x=$x$x; done'
}

privileges() {
    # older versions have no such flag
    ! c run --help | grep -e --user >/dev/null || equal "$(run --rm --user 1000:1000 -- user id -u)" 1000
    contains "$(run --rm --privileged -- priv grep CapBnd /proc/self/status)" ffff
    exits 1 run --rm --read-only -- ro touch /new
    contains "$said" "Read-only file system"
    contains "$(run --rm --seccomp -- filter grep Seccomp: /proc/self/status)" 2
    contains "$(run --rm --mount "type=bind,src=$SCRATCH/rootfs/www,dst=/mnt,options=rbind:ro" -- bound cat /mnt/index.html)" "a page"
}

shim_dies() {
    run -d -- orphan sleep 1000
    local shim
    shim=$(c task ls | awk '$1 == "orphan" { print $2 }')
    shim=$(awk '/^PPid:/ { print $2 }' "/proc/$shim/status")
    contains "$(tr '\0' ' ' <"/proc/$shim/cmdline")" containerd-shim
    kill -9 "$shim"
    # containerd cleans up with the shim's delete, which runs the runtime's delete --force
    until_true gone orphan
    until_true no_cgroups
    c container delete orphan
}

cgroups() { find /sys/fs/cgroup/"$GROUP" /sys/fs/cgroup/*/"$GROUP" -mindepth 1 -type d 2>/dev/null | tr '\n' ' ' || true; }
no_cgroups() { [ -z "$(cgroups)" ]; }

nothing_left() {
    equal "$(c task ls -q)" ""
    equal "$(cgroups)" ""
    # the state root that the shim uses
    equal "$(find /run/containerd/runc /run/containerd/masu -mindepth 2 ! -name .empty-directory 2>/dev/null | tr '\n' ' ' || true)" ""
}

try "run, its code and its output" foreground
try "a missing program" missing
try "run -d, ps" detached
try exec exec_one
try "eight execs at once" many_execs
try "terminals" terminal
try "pause and resume" pause
try metrics metrics
try "kill: who traps SIGTERM ends with its own code; delete" kill_term
try "kill: SIGKILL for who ignores SIGTERM, 137" kill_hard
try "delete by force" delete_by_force
if [ -e /sys/fs/cgroup/memory ] || grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null; then
    try "a memory limit" limits
else
    skip "a memory limit" "no memory controller"
fi
try "users, privileges, filters, mounts" privileges
try "the shim killed: containerd cleans up" shim_dies
[ -z "$SHIM" ] || . "$(dirname "$0")/own-shim.sh"
try "nothing is left" nothing_left
finish
summary
