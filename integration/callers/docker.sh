#!/bin/bash
# docker.sh RUNTIME [SHIM]: checks a Docker daemon from this machine's packages through the docker client. RUNTIME (a path or a
# name) is its default runtime, or the shim SHIM (a path to containerd-shim-masu-v2). Data, sockets and namespaces are the
# script's own. It makes the images; nothing is pulled. With CGROUP_DRIVER=systemd, systemd makes the cgroups.
# Prints one line for each check: ok, FAIL or SKIP; then the counts. KEEP_LOG=FILE keeps the daemon's log.
. "$(dirname "$0")/prepare.sh"
RUNTIME=$(runtime_path "${1:?runtime}") || exit
SHIM=${2:-}
[ -z "$SHIM" ] || SHIM=$(runtime_path "$SHIM") || exit
if [ -z "${OWN_WORLD:-}" ]; then
    need dockerd docker.io
    command -v docker >/dev/null || need docker docker-cli
    need busybox busybox-static
    need script bsdutils
    need ip iproute2
    need iptables iptables
fi
own_world "$0" "$@"
settle

# the environment of the docker client, so that it calls this daemon
export PATH=$SCRATCH/bin:/usr/sbin:/usr/bin:$PATH DOCKER_HOST=unix://$SCRATCH/docker.sock DOCKER_CONFIG=$SCRATCH/client
mkdir -p "$DOCKER_CONFIG" "$SCRATCH/volume"
kind=tested on=()
if [ -n "$SHIM" ]; then
    ln -s "$SHIM" "$SCRATCH/bin/containerd-shim-masu-v2"
    # daemons before 23 have no option for a shim, so it replaces the runc shim
    ln -s "$SHIM" "$SCRATCH/bin/containerd-shim-runc-v2"
fi
parent=/$GROUP
if [ "$CGROUP_DRIVER" = systemd ]; then GROUP=${GROUP//[!a-zA-Z0-9]/}.slice && parent=$GROUP; fi
cat >"$SCRATCH/daemon.json" <<JSON
{
  "data-root": "$SCRATCH/data", "exec-root": "$SCRATCH/exec", "pidfile": "$SCRATCH/docker.pid", "hosts": ["$DOCKER_HOST"],
  "runtimes": {"tested": {"path": "$RUNTIME"}}, "default-runtime": "tested", "cgroup-parent": "$parent",
  "exec-opts": ["native.cgroupdriver=$CGROUP_DRIVER"], "debug": true
}
JSON
# without the machine's own configuration
dockerd --config-file "$SCRATCH/daemon.json" >"$SCRATCH/log" 2>&1 &
daemon=$!
finish() {
    kill "$daemon" 2>/dev/null
    wait "$daemon"
    [ "$CGROUP_DRIVER" = cgroupfs ] || systemctl stop "$GROUP"
    [ -z "${KEEP_LOG:-}" ] || cp "$SCRATCH/log" "$KEEP_LOG"
}
d() {
    local verb=$1
    shift
    case $verb in run | create) set -- "${on[@]}" "$@" ;; esac
    timeout 60 docker "$verb" "$@"
}
if ! until_true d version; then
    grep -E 'level=(fatal|error)|failed' "$SCRATCH/log" | tail -n 5
    finish
    exit 1
fi
echo "# docker $(d version --format '{{.Server.Version}}'), ${SHIM:+shim $SHIM, }runtime $RUNTIME: $("$RUNTIME" --version | head -n 1)"

major=$(d version --format '{{.Server.Version}}' | cut -d. -f1)
if [ -n "$SHIM" ] && [ "$major" -ge 23 ]; then
    kind=io.containerd.masu.v2 on=(--runtime io.containerd.masu.v2)
fi

make_rootfs "$SCRATCH/rootfs"
tar -C "$SCRATCH/rootfs" -c . | d import - box >/dev/null || { echo "no image"; finish; exit 1; }

pid_of() { d inspect --format '{{.State.Pid}}' "$1"; }
status_of() { d inspect --format '{{.State.Status}}' "$1"; }
code_of() { d inspect --format '{{.State.ExitCode}}' "$1"; }
is() { [ "$(status_of "$1")" = "$2" ]; }
says() { d logs "$1" 2>&1 | grep "$2" >/dev/null; }

hello() { equal "$(d run --rm box echo hello)" hello; }

runtime_is_used() { equal "$(d run --rm -d --name used box sleep 1000 >/dev/null; d inspect --format '{{.HostConfig.Runtime}}' used; d rm -f used >/dev/null)" "$kind"; }

background() {
    d run -d --name bg box sh -c 'i=0; while :; do echo line $i; i=$((i+1)); sleep 0.1; done' >/dev/null
    contains "$(d ps --format '{{.Names}} {{.Status}}')" "bg Up"
    timeout 3 docker logs -f bg >"$SCRATCH/followed" 2>&1 || true
    contains "$(cat "$SCRATCH/followed")" "line 15"
}

exec_plain() {
    exits 9 d exec bg sh -c 'echo inside; exit 9'
    equal "$said" inside
    equal "$(echo typed | d exec -i bg cat)" typed
    # older daemons have one exit code for every failure of exec
    [ "$major" -lt 23 ] || exits 127 d exec bg /no/such
    exits 126 d exec bg /etc/passwd
    equal "$(d exec -u 1000:1000 -w /tmp -e A=b bg sh -c 'id -u; pwd; echo $A' | tr '\n' ' ')" "1000 /tmp b "
}

# on_pty COMMAND: runs the command on its own terminal
on_pty() { timeout 60 script -qec "$1" /dev/null <&9 | tr -d '\r'; }

exec_terminal() {
    local seen
    seen=$(on_pty "stty cols 91 rows 37; docker exec -it bg sh -c 'tty; stty size'")
    contains "$seen" /dev/pts/
    # the size is set after the start
    seen=$(on_pty "stty cols 91 rows 37; docker exec -it bg sh -c 'sleep 1; stty size'")
    contains "$seen" "37 91"
}

run_terminal() {
    contains "$(on_pty "docker run ${on[*]} --rm -it box sh -c 'tty; test -t 0 -a -t 1 && echo both'")" both
    exits 5 on_pty "docker run ${on[*]} --rm -it box sh -c 'exit 5'"
}

inspect() {
    local pid
    pid=$(pid_of bg)
    [ "$pid" -gt 0 ]
    grep -q sh "/proc/$pid/comm"
    equal "$(status_of bg)" running
}

stop_trapped() {
    d run -d --name trap box sh -c 'trap "exit 7" TERM; echo ready; while :; do sleep 0.1; done' >/dev/null
    until_true says trap ready
    local begin=$SECONDS
    d stop -t 20 trap >/dev/null
    [ $((SECONDS - begin)) -lt 15 ] || { echo "took $((SECONDS - begin)) seconds"; return 1; }
    equal "$(code_of trap)" 7
}

stop_deaf() {
    d run -d --name deaf box sh -c 'trap "" TERM; echo ready; while :; do sleep 0.1; done' >/dev/null
    until_true says deaf ready
    local begin=$SECONDS
    d stop -t 2 deaf >/dev/null
    [ $((SECONDS - begin)) -ge 2 ] || { echo "took $((SECONDS - begin)) seconds"; return 1; }
    equal "$(code_of deaf)" 137
}

kill_signals() {
    d run -d --name sig box sh -c 'trap "echo got USR1" USR1; trap "exit 3" HUP; echo ready; while :; do sleep 0.1; done' >/dev/null
    until_true says sig ready
    d kill -s USR1 sig >/dev/null
    until_true says sig "got USR1"
    d kill -s HUP sig >/dev/null
    until_true is sig exited
    equal "$(code_of sig)" 3
    d start sig >/dev/null
    d kill sig >/dev/null
    until_true is sig exited
    equal "$(code_of sig)" 137
    # killing a stopped container fails at once
    local begin=$SECONDS
    exits 1 d kill sig
    [ $((SECONDS - begin)) -lt 5 ]
}

remove() {
    exits 1 d rm bg
    d rm -f bg >/dev/null
    exits 1 d inspect bg
    d rm trap deaf sig >/dev/null
}

volume() {
    echo outside >"$SCRATCH/volume/a"
    equal "$(d run --rm -v "$SCRATCH/volume:/v" box sh -c 'cat /v/a; echo inside >/v/b')" outside
    equal "$(cat "$SCRATCH/volume/b")" inside
    exits 1 d run --rm -v "$SCRATCH/volume:/v:ro" box sh -c 'echo x >/v/c'
}

port() {
    d run -d --name web -p 127.0.0.1:18080:80 box httpd -f -p 80 -h /www >/dev/null
    until_true busybox wget -q -O /dev/null http://127.0.0.1:18080/
    equal "$(busybox wget -q -O - http://127.0.0.1:18080/)" "a page"
    d rm -f web >/dev/null
}

# two services in their own network find each other by name
services() {
    d network create pair >/dev/null
    d run -d --name left --network pair --network-alias one box httpd -f -p 80 -h /www >/dev/null
    d run -d --name right --network pair --network-alias two box httpd -f -p 80 -h /www >/dev/null
    until_true d exec left wget -q -O /dev/null http://two/
    equal "$(d exec left wget -q -O - http://two/)" "a page"
    equal "$(d exec right wget -q -O - http://one/)" "a page"
    # no process outside the network can reach them
    local address
    address=$(d inspect --format '{{.NetworkSettings.Networks.pair.IPAddress}}' left)
    equal "$(d exec right wget -q -O - "http://$address/")" "a page"
    equal "$(d run --rm box sh -c "timeout 3 wget -q -O - http://$address/; echo ended" 2>/dev/null)" ended
    d rm -f left right >/dev/null
    d network rm pair >/dev/null
}

# the same as a project: one service starts when the other is healthy, and has its own exit code
compose() {
    local project=$SCRATCH/project
    mkdir -p "$project"
    cat >"$project/compose.yaml" <<YAML
name: pair
services:
  web:
    image: box
    runtime: $kind
    command: ["httpd", "-f", "-p", "80", "-h", "/www"]
    healthcheck: { test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1/"], interval: 1s }
  client:
    image: box
    runtime: $kind
    depends_on: { web: { condition: service_healthy } }
    command: ["sh", "-c", "wget -q -O - http://web/ && httpd -p 81 -h /www && sleep 1000"]
YAML
    composed() { timeout 90 docker compose --ansi never -f "$project/compose.yaml" "$@"; }
    composed up -d
    until_true eval 'composed logs --no-log-prefix client | grep "a page"'
    until_true composed exec -T web wget -q -O /dev/null http://client:81/
    equal "$(composed exec -T web wget -q -O - http://client:81/)" "a page"
    equal "$(d inspect --format '{{.HostConfig.Runtime}}' "$(composed ps -q client)")" "$kind"
    exits 9 composed exec -T client sh -c 'exit 9'
    composed down -t 1
    equal "$(d ps -aq --filter label=com.docker.compose.project=pair)" ""
}

memory_limit() {
    exits 137 d run --name oom -m 16m --memory-swap 16m box sh -c 'x=0123456789abcdef; while :; do x=$x$x; done'
    equal "$(d inspect --format '{{.State.OOMKilled}} {{.State.ExitCode}}' oom)" "true 137"
    d rm oom >/dev/null
}

# the properties of the scope in systemd, compared with the requested limits
scope() {
    local unit
    unit=docker-$(d run -d --name scoped -m 64m --cpus 0.5 --pids-limit 50 --cpu-shares 512 box sleep 1000).scope
    equal "$(systemctl show "$unit" -p MemoryMax -p CPUQuotaPerSecUSec -p TasksMax -p Slice -p Delegate -p CPUWeight | sort | tr '\n' ' ')" \
        "CPUQuotaPerSecUSec=500ms CPUWeight=59 Delegate=yes MemoryMax=67108864 Slice=$GROUP TasksMax=50 "
    # a reload changes neither device rules nor limits
    systemctl daemon-reload
    d exec scoped sh -c 'echo x >/dev/null'
    exits 1 d exec scoped sh -c 'mknod /tmp/kmsg c 1 11 && : </tmp/kmsg'
    equal "$(d exec scoped cat /sys/fs/cgroup/memory.max)" 67108864
    d rm -f scoped >/dev/null
    until_true eval '! systemctl is-active "$unit"'
}

cpus() {
    local seen
    seen=$(d run --rm --cpus 0.5 box sh -c 'cat /sys/fs/cgroup/cpu.max 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us')
    equal "$(echo "$seen" | tr '\n' ' ')" "50000 100000 "
}

pids_limit() {
    contains "$(d run --rm --pids-limit 4 box sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 5 & done' 2>&1)" fork
}

read_only() {
    exits 1 d run --rm --read-only box touch /new
    contains "$said" "Read-only file system"
    d run --rm --read-only --tmpfs /tmp box touch /tmp/new
}

cap_drop() {
    equal "$(d run --rm --cap-drop ALL box sh -c 'grep Cap /proc/self/status' | sort -u | tr -d '\t\n')" \
        "CapAmb:0000000000000000CapBnd:0000000000000000CapEff:0000000000000000CapInh:0000000000000000CapPrm:0000000000000000"
    contains "$(d run --rm --cap-drop ALL --cap-add KILL box grep CapEff /proc/self/status)" 0000000000000020
}

seccomp() {
    echo '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}' >"$SCRATCH/seccomp.json"
    exits 1 d run --rm --security-opt "seccomp=$SCRATCH/seccomp.json" box mkdir /tmp/new
    contains "$said" "not implemented"
    contains "$(d run --rm box grep Seccomp: /proc/self/status)" 2
    contains "$(d run --rm --security-opt seccomp=unconfined box grep Seccomp: /proc/self/status)" 0
}

user() {
    equal "$(d run --rm --user 1000:1000 --group-add 5 box sh -c 'id -u; id -g; id -G' | tr '\n' ' ')" "1000 1000 1000 5 "
    equal "$(d run --rm --user user box sh -c 'echo $HOME')" /tmp
}

init() {
    contains "$(d run --rm --init box sh -c 'cat /proc/1/comm; echo; sleep 0')" init
    exits 6 d run --rm --init box sh -c 'exit 6'
}

codes() {
    exits 125 d run --rm --bogus box true
    exits 126 d run --rm box /etc/passwd
    exits 127 d run --rm box /no/such
    exits 127 d run --rm box nosuchprogram
    contains "$said" "executable file not found in"
    exits 42 d run --rm box sh -c 'exit 42'
}

pause() {
    d run -d --name paused box sh -c 'while :; do echo x; sleep 0.1; done' >/dev/null
    d pause paused >/dev/null
    equal "$(status_of paused)" paused
    exits 1 d exec paused true
    local before
    before=$(d logs paused | wc -l)
    sleep 1
    [ "$(d logs paused | wc -l)" -le $((before + 2)) ]
    d unpause paused >/dev/null
    equal "$(status_of paused)" running
    d exec paused true
    d pause paused >/dev/null
    d rm -f paused >/dev/null
}

update() {
    d run -d --name updated -m 64m box sleep 1000 >/dev/null
    d update -m 128m --memory-swap 128m --pids-limit 50 --cpu-shares 512 updated >/dev/null
    local seen
    seen=$(d exec updated sh -c 'cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes')
    equal "$seen" 134217728
    seen=$(d exec updated sh -c 'cat /sys/fs/cgroup/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids/pids.max')
    equal "$seen" 50
    # the device rules are unchanged
    d exec updated sh -c 'echo x >/dev/null && dd if=/dev/zero of=/dev/null bs=1 count=1 2>/dev/null'
}

stats() {
    local seen
    seen=$(d stats --no-stream --format '{{.PIDs}} {{.MemUsage}}' updated)
    contains "$seen" "1 "
    contains "$seen" "/ 128MiB"
}

top() { contains "$(d top updated)" "sleep 1000"; }

restart() {
    local before
    before=$(pid_of updated)
    d restart -t 1 updated >/dev/null
    equal "$(status_of updated)" running
    [ "$(pid_of updated)" != "$before" ]
    d rm -f updated >/dev/null
    d run -d --name again --restart on-failure:2 box sh -c 'exit 3' >/dev/null
    until_true is again exited
    until_true eval '[ "$(d inspect --format "{{.RestartCount}}" again)" = 2 ]'
    d rm -f again >/dev/null
}

health() {
    d run -d --name healthy --health-cmd 'test -e /tmp/well' --health-interval 1s --health-retries 1 box sh -c 'sleep 2; touch /tmp/well; sleep 1000' >/dev/null
    until_true eval '[ "$(d inspect --format "{{.State.Health.Status}}" healthy)" = healthy ]'
    d rm -f healthy >/dev/null
}

many() {
    local i pids=()
    for i in 1 2 3 4 5 6 7 8; do
        d run --rm --network none box sh -c "exit $i" & pids+=($!)
    done
    for i in 1 2 3 4 5 6 7 8; do
        local code=0
        wait "${pids[$((i - 1))]}" || code=$?
        equal "$code" "$i"
    done
}

copy_and_commit() {
    d create --name made box sh -c 'cat /tmp/copied' >/dev/null
    echo copied >"$SCRATCH/copied"
    d cp "$SCRATCH/copied" made:/tmp/copied
    equal "$(d start -a made)" copied
    d rm made >/dev/null
}

make_context() {
    mkdir -p "$SCRATCH/context"
    echo 'from the context' >"$SCRATCH/context/file"
    cat >"$SCRATCH/context/Dockerfile" <<'DOCKERFILE'
FROM box AS first
COPY file /tmp/file
RUN tr a-z A-Z </tmp/file >/tmp/big && id -u >/tmp/id && test -e /proc/self/status
FROM box
COPY --from=first /tmp/big /big
RUN cat /big && echo second >>/big
CMD ["cat", "/big"]
DOCKERFILE
}

build() {
    make_context
    DOCKER_BUILDKIT=$1 timeout 120 docker build --network none -t "built$1" "$SCRATCH/context"
    equal "$(d run --rm "built$1" | tr '\n' ' ')" "FROM THE CONTEXT second "
    # the legacy builder exits with the code of the failed command
    printf 'FROM box\nRUN exit 3\n' >"$SCRATCH/context/failing"
    exits "$2" env DOCKER_BUILDKIT="$1" timeout 120 docker build --network none -f "$SCRATCH/context/failing" "$SCRATCH/context"
}

nothing_left() {
    d ps -aq | xargs -r docker rm -f >/dev/null
    # the containers' processes are in cgroups below it
    local left
    left=$(list "$GROUP/*/cgroup.procs" -exec cat {} +)
    equal "$left" ""
    # BuildKit makes a parent cgroup for its containers, and never removes it
    left=$(list "$GROUP" -mindepth 1 -type d ! -name buildkit)
    equal "$left" ""
    left=$(find "$SCRATCH"/exec/runtime-* /run/docker/runtime-* -mindepth 2 2>/dev/null | tr '\n' ' ' || true)
    equal "$left" ""
}

# list PATTERN FIND-ARGS...: runs find from that path in each cgroup hierarchy
list() {
    local pattern=$1
    shift
    # shellcheck disable=SC2086 # the glob must expand
    find /sys/fs/cgroup/$pattern /sys/fs/cgroup/*/$pattern "$@" 2>/dev/null | tr '\n' ' ' || true
}

try hello hello
try "the runtime under test is used" runtime_is_used
try "run -d, ps, logs -f" background
try "exec" exec_plain
try "exec -it on a pty" exec_terminal
try "run -it on a pty" run_terminal
try "inspect" inspect
try "stop: who traps SIGTERM ends in time with its own code" stop_trapped
try "stop: who ignores SIGTERM is killed: 137" stop_deaf
try "kill" kill_signals
try "rm" remove
try "-v of a folder" volume
try "-p: a page fetched" port
try "two services that talk to each other" services
if d compose version >/dev/null 2>&1; then
    try "the same by docker compose" compose
else
    skip "the same by docker compose" "docker compose is not installed"
fi
if [ -e /sys/fs/cgroup/memory ] || grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null; then
    try "-m: killed for memory, 137" memory_limit
else
    skip "-m: killed for memory, 137" "no memory controller"
fi
if [ -e /sys/fs/cgroup/cpu/cpu.cfs_quota_us ] || grep -qw cpu /sys/fs/cgroup/cgroup.controllers 2>/dev/null; then
    try "--cpus" cpus
else
    skip "--cpus" "no quota of the cpu controller"
fi
try "--pids-limit" pids_limit
[ "$CGROUP_DRIVER" = cgroupfs ] || try "the scope in systemd, and a daemon-reload" scope
try "--read-only" read_only
try "--cap-drop ALL" cap_drop
try "--security-opt seccomp" seccomp
try "--user" user
try "--init" init
try "codes 125, 126, 127 and the program's own" codes
try "pause" pause
try "update" update
try "stats" stats
try "top" top
try "restart" restart
try "health check" health
try "eight at once" many
try "create, cp, start -a" copy_and_commit
try "build of two stages, legacy builder" build 0 3
if [ "$major" -ge 23 ] && ! d buildx version >/dev/null 2>&1; then
    skip "build of two stages, BuildKit" "this client needs buildx for it, which is not installed"
else
    try "build of two stages, BuildKit" build 1 1
fi
try "nothing is left" nothing_left
finish
summary
