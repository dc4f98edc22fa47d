# Sourced by ctr.sh if it is given a shim: the behaviour that depends only on the shim, not on the runtime.

# an image with two layers, so that containerd mounts overlays
make_image() {
    local dir=$SCRATCH/image arch=amd64 first second
    [ "$(uname -m)" = x86_64 ] || arch=arm64
    mkdir -p "$dir/second/layers"
    echo second >"$dir/second/layers/file"
    tar -C "$SCRATCH/rootfs" -cf "$dir/1.tar" .
    tar -C "$dir/second" -cf "$dir/2.tar" layers
    first=$(sha256sum "$dir/1.tar" | cut -d' ' -f1) second=$(sha256sum "$dir/2.tar" | cut -d' ' -f1)
    echo "{\"architecture\":\"$arch\",\"os\":\"linux\",\"config\":{\"Env\":[\"PATH=/bin\"]},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:$first\",\"sha256:$second\"]}}" >"$dir/config.json"
    echo '[{"Config":"config.json","RepoTags":["example.org/box:latest"],"Layers":["1.tar","2.tar"]}]' >"$dir/manifest.json"
    tar -C "$dir" -cf "$SCRATCH/image.tar" manifest.json config.json 1.tar 2.tar
    c image import --no-unpack "$SCRATCH/image.tar" 2>/dev/null || c image import "$SCRATCH/image.tar"
}

overlays() {
    make_image >/dev/null
    equal "$(c run "${kind[@]}" --rm example.org/box:latest fg sh -c 'cat /layers/file; echo x >/new; cat /new' | tr '\n' ' ')" "second x "
    exits 1 c run "${kind[@]}" --rm --read-only example.org/box:latest fg touch /new
    equal "$(c snapshot ls | grep -c fg || true)" 0
}

# containerd's own events, in their order of arrival
ordered_events() {
    timeout 20 ctr events >"$SCRATCH/events" 2>&1 &
    local events=$!
    sleep 0.5
    exits 3 run --rm -- ev sh -c 'exit 3'
    run -d -- ev2 sleep 1000
    c task exec --exec-id x ev2 true
    c task pause ev2
    c task resume ev2
    c task kill -s KILL ev2
    until_true is ev2 STOPPED
    c task delete ev2 || true
    c container delete ev2
    until_true eval '[ "$(grep -c /tasks/delete "$SCRATCH/events")" -ge 2 ]'
    kill $events
    # only task events, because ctr also causes events of containers and snapshots
    equal "$(grep -o ' /tasks/[a-z-]*' "$SCRATCH/events" | cut -d/ -f3 | tr '\n' ' ')" \
        "create start exit delete create start exec-added exec-started exit paused resumed exit delete "
}

oom_before_exit() {
    timeout 20 ctr events >"$SCRATCH/events" 2>&1 &
    local events=$!
    sleep 0.5
    exits 137 run --rm --memory-limit 16777216 -- oom sh -c 'x=0123456789abcdef; while :; do x=$x$x; done'
    until_true grep -q /tasks/delete "$SCRATCH/events"
    kill $events
    equal "$(grep -o ' /tasks/[a-z-]*' "$SCRATCH/events" | cut -d/ -f3 | uniq | tr '\n' ' ')" "create start oom exit delete "
}

# the last output of a program arrives completely
output() {
    local wanted
    wanted=$(head -c 20000000 /dev/zero | cksum)
    equal "$(run --rm -- out sh -c 'head -c 20000000 /dev/zero; echo err >&2' 2>/dev/null | cksum)" "$wanted"
    run -d -- out sleep 1000
    equal "$(head -c 3000000 /dev/zero | c task exec --exec-id big out cat | cksum)" "$(head -c 3000000 /dev/zero | cksum)"
    # a background child holds the pipe, but the shim does not wait for it
    local begin=$SECONDS
    timeout 20 ctr task exec --exec-id bg out sh -c 'sleep 5 & echo said' >"$SCRATCH/said" || true
    equal "$(cat "$SCRATCH/said")" said
    [ $((SECONDS - begin)) -lt 9 ]
    # one output is not read, but the others continue
    (ctr task exec --exec-id stuck out sh -c 'cat /dev/zero' | sleep 3) &
    sleep 0.3
    equal "$(c task exec --exec-id free out echo free)" free
    wait
    c task delete --force out || true
    c container delete out
}

logs() {
    local log=$SCRATCH/logs
    mkdir -p "$log"
    run -d --log-uri "file://$log/deep/file" -- logged sh -c 'echo to stdout; echo to stderr >&2'
    until_true is logged STOPPED
    c task delete logged
    c container delete logged
    equal "$(sort "$log/deep/file" | tr '\n' ' ')" "to stderr to stdout "
    cat >"$log/logger" <<'LOGGER'
#!/bin/sh
# $1 a, $2 its value; streams at 3 and 4, readiness at 5
exec 5>&-
{ echo "$CONTAINER_ID $CONTAINER_NAMESPACE $1=$2"; cat <&3; cat <&4; } >"$2"
LOGGER
    chmod 755 "$log/logger"
    run -d --log-uri "binary://$log/logger?a=$log/program" -- logged sh -c 'echo out; echo err >&2'
    until_true is logged STOPPED
    until_true grep -q err "$log/program"
    c task delete logged
    c container delete logged
    equal "$(tr '\n' ' ' <"$log/program")" "logged $CONTAINERD_NAMESPACE a=$log/program out err "
    exits 1 run -d --log-uri "binary:///no/such" -- logged true
    c container delete logged 2>/dev/null || true
    exits 1 run -d --log-uri "http://x" -- logged true
    contains "$said" "unknown STDIO scheme"
    c container delete logged 2>/dev/null || true
}

restart() {
    run -d -- keeps sh -c 'i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done'
    run -d -- ends sh -c 'sleep 1; exit 6'
    kill -9 "$(cat "$SCRATCH/pid")"
    until_true no_daemon
    sleep 1.5
    serve
    until_true c version
    equal "$(status_of keeps)" RUNNING
    equal "$(c task exec --exec-id r1 keeps echo again)" again
    # containerd 2 takes a shim without processes for a leaked one, and ends it
    if [ "$(status_of ends)" = STOPPED ]; then
        contains "$(c task delete ends 2>&1)" "exit code 6"
    else
        contains "$(containerd --version)" " 2."
        until_true gone ends
    fi
    c container delete ends
    c task kill -s KILL keeps
    until_true is keeps STOPPED
    contains "$(c task delete keeps 2>&1)" "exit code 137"
    c container delete keeps
}

# the shim replaces containerd's own, and executes the program in BinaryName
another_runtime() {
    local other=$1 kind=(--runc-binary "$1")
    equal "$(run --rm -- other echo hello)" hello
    exits 7 run --rm -- other sh -c 'exit 7'
    exits 1 run --rm -- other /no/such
    contains "$said" "OCI runtime create failed"
    run -d -- other sh -c 'trap "exit 5" TERM; while :; do sleep 0.1; done'
    # the state is the other runtime's
    contains "$("$other" --root "/run/containerd/runc/$CONTAINERD_NAMESPACE" state other)" running
    equal "$(c task exec --exec-id o1 other echo inside)" inside
    exits 9 c task exec --exec-id o2 other sh -c 'exit 9'
    contains "$(on_pty "ctr task exec -t --exec-id o3 other sh -c 'tty; test -t 0 -a -t 1 && echo both'")" both
    c task ps other | grep "^[0-9]" >/dev/null
    contains "$(c task metrics --format json other)" '"cpu"'
    c task pause other
    equal "$(status_of other)" PAUSED
    c task resume other
    c task kill other
    until_true is other STOPPED
    contains "$(c task delete other 2>&1)" "exit code 5"
    c container delete other
}

small() {
    run -d -- small sleep 1000
    local shim threads own modes
    shim=$(shims)
    threads=$(ls "/proc/$shim/task" | wc -l)
    # the private memory in KiB, because further shims share the rest
    own=$(awk '/^Anonymous/ { print $2 }' "/proc/$shim/smaps_rollup")
    modes=$(stat -c %a /run/containerd/s /run/containerd/s/* | tr '\n' ' ')
    c task delete --force small || true
    c container delete small
    equal "$threads" 1
    [ "$own" -le 600 ] || { echo "$own KiB"; return 1; }
    equal "$modes" "700 600 "
    until_true eval '[ -z "$(shims)" ]'
    equal "$(ls /run/containerd/s)" ""
}

many_at_once() {
    local i pids=()
    for i in $(seq 12); do
        run --rm -- "many$i" sh -c "exit $i" & pids+=($!)
    done
    for i in $(seq 12); do
        local code=0
        wait "${pids[$((i - 1))]}" || code=$?
        equal "$code" "$i"
    done
}

checkpoint() {
    run -d -- checked sleep 1000
    exits 1 c task checkpoint checked
    c task delete --force checked || true
    c container delete checked
}

try "overlays of an image" overlays
try "events in order" ordered_events
if [ -e /sys/fs/cgroup/memory ] || grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null; then
    try "killed for memory: told before the exit" oom_before_exit
else
    skip "killed for memory: told before the exit" "no memory controller"
fi
try "output: in full, with a child in the background, without a reader" output
try "logs into files and programs" logs
try "containerd killed and started again" restart
try "one thread, little memory, private sockets; it ends with its last container" small
try "twelve at once" many_at_once
try "checkpoint is refused" checkpoint
# the names of containerd's own shims now refer to this shim
ln -s "$SHIM" "$SCRATCH/bin/containerd-shim-runc-v2"
for other in runc crun; do
    # settle made one of them a symbolic link to the runtime under test
    path=$(PATH=${PATH#"$SCRATCH/bin:"} command -v $other) || path=
    if [ $other = crun ] && [ -e /sys/fs/cgroup/unified/cgroup.procs ]; then
        skip "BinaryName crun" "some versions of crun refuse v1 and v2 side by side"
    elif [ -n "$path" ]; then try "BinaryName $other" another_runtime "$path"; else skip "BinaryName $other" "no $other here"; fi
done
