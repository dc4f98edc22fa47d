#!/bin/bash
# podman.sh RUNTIME: checks podman from this machine's packages with RUNTIME (a path or a name). Storage and namespaces are the
# script's own. It makes the image; nothing is pulled. With CGROUP_DRIVER=systemd, systemd makes the cgroups.
# Prints one line for each check: ok, FAIL or SKIP; then the counts.
. "$(dirname "$0")/prepare.sh"
RUNTIME=$(runtime_path "${1:?runtime}") || exit
if [ -z "${OWN_WORLD:-}" ]; then
    need podman podman
    need busybox busybox-static
    need ip iproute2
fi
own_world "$0" "$@"
settle

export CONTAINERS_CONF=$SCRATCH/containers.conf CONTAINERS_STORAGE_CONF=$SCRATCH/storage.conf
printf '[engine]\ncgroup_manager = "%s"\nevents_logger = "file"\nruntime = "tested"\n[engine.runtimes]\ntested = ["%s"]\n[containers]\nlog_driver = "k8s-file"\n' \
    "$CGROUP_DRIVER" "$RUNTIME" >"$CONTAINERS_CONF"
printf '[storage]\ndriver = "overlay"\ngraphroot = "%s/graph"\nrunroot = "%s/run"\n' "$SCRATCH" "$SCRATCH" >"$CONTAINERS_STORAGE_CONF"
p() {
    local verb=$1
    shift
    case $verb in run | create) set -- --network none "$@" ;; esac
    timeout 90 podman "$verb" "$@"
}
make_rootfs "$SCRATCH/rootfs"
tar -C "$SCRATCH/rootfs" -c . | p import -q - box >/dev/null || { echo "no image"; exit 1; }
echo "# $(podman --version), $CGROUP_DRIVER, runtime $RUNTIME: $("$RUNTIME" --version | head -n 1)"

hello() { equal "$(p run --rm box echo hello)" hello; }
codes() {
    exits 42 p run --rm box sh -c 'exit 42'
    exits 127 p run --rm box /no/such
    exits 126 p run --rm box /etc/passwd
}
background() {
    p run -d --name bg -m 64m --cpus 0.5 --pids-limit 50 box sh -c 'trap "exit 7" TERM; echo ready; while :; do sleep 0.1; done' >/dev/null
    until_true eval 'p logs bg | grep -q ready'
}
exec_in() {
    exits 9 p exec bg sh -c 'echo inside; exit 9'
    equal "$said" inside
    equal "$(echo typed | p exec -i bg cat)" typed
}
limits() {
    local top
    top=/sys/fs/cgroup$(cut -d: -f3 "/proc/$(p inspect --format '{{.State.Pid}}' bg)/cgroup" | tail -n 1)
    [ -e "$top/memory.max" ] || top=$(dirname "$top")
    equal "$(cat "$top/memory.max" "$top/pids.max" "$top/cpu.max" | tr '\n' ' ')" "67108864 50 50000 100000 "
}
scope() {
    equal "$(systemctl show "libpod-$(p inspect --format '{{.Id}}' bg).scope" -p MemoryMax -p CPUQuotaPerSecUSec -p TasksMax -p Slice -p Delegate | sort | tr '\n' ' ')" \
        "CPUQuotaPerSecUSec=500ms Delegate=yes MemoryMax=67108864 Slice=machine.slice TasksMax=50 "
    systemctl daemon-reload
    p exec bg sh -c 'echo x >/dev/null'
}
update() {
    p update -m 128m bg >/dev/null
    equal "$(p exec bg cat /sys/fs/cgroup/memory.max)" 134217728
}
stats() { contains "$(p stats --no-stream --format '{{.MemUsage}}' bg)" "/ 134"; }
pause() {
    p pause bg >/dev/null
    equal "$(p inspect --format '{{.State.Status}}' bg)" paused
    p unpause bg >/dev/null
    p exec bg true
}
stop() {
    p stop -t 20 bg >/dev/null
    equal "$(p inspect --format '{{.State.ExitCode}}' bg)" 7
    p rm bg >/dev/null
}
oom() {
    exits 137 p run --name oom -m 16m --memory-swap 16m box sh -c 'x=0123456789abcdef; while :; do x=$x$x; done'
    equal "$(p inspect --format '{{.State.OOMKilled}}' oom)" true
    p rm oom >/dev/null
}
pod() {
    p pod create --name together --infra=false >/dev/null
    p run -d --pod together --name member box sleep 1000 >/dev/null
    p exec member true
    p pod rm -f -t 0 together >/dev/null
}
nothing_left() {
    equal "$(p ps -aq)" ""
    equal "$(find /sys/fs/cgroup -path '*libpod*' -type d -name '*.scope' | tr '\n' ' ')" ""
}

unified=
[ ! -e /sys/fs/cgroup/cgroup.controllers ] || unified=1
try hello hello
try "codes of the program, 126, 127" codes
try "run -d, logs" background
try exec exec_in
if [ -n "$unified" ]; then
    try limits limits
    [ "$CGROUP_DRIVER" = cgroupfs ] || try "the scope in systemd, and a daemon-reload" scope
    try update update
    try stats stats
else
    skip "limits, update, stats" "cgroup v1, which podman has left"
fi
try pause pause
try "stop: who traps SIGTERM ends with its own code" stop
[ -z "$unified" ] || try "-m: killed for memory, 137" oom
try "a pod" pod
try "nothing is left" nothing_left
summary
