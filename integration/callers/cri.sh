#!/bin/bash
# cri.sh RUNTIME [SHIM]: makes pods through the CRI, as the kubelet does, with containerd from this machine's packages. The shim
# is containerd's runc shim with RUNTIME (a path or a name) as BinaryName, or SHIM (a path to containerd-shim-masu-v2). The client
# is curl, because a gRPC call is one message in a POST. The script makes a CNI plugin, which gives pods only a loopback device,
# and the images; nothing is pulled. With SHIM and containerd 2 all checks run again with pods that the shim makes, without a
# pause container.
# Prints one line for each check: ok, FAIL or SKIP; then the counts. KEEP_LOG=FILE keeps the daemon's log. PROBES=N is the number
# of execs that act as probes, ten a second (default 100; a multiple of 10).
. "$(dirname "$0")/prepare.sh"
RUNTIME=$(runtime_path "${1:?runtime}") || exit
SHIM=${2:-}
[ -z "$SHIM" ] || SHIM=$(runtime_path "$SHIM") || exit
: "${PROBES:=100}"
if [ -z "${OWN_WORLD:-}" ]; then
    need containerd containerd
    need ctr containerd
    need busybox busybox-static
    need ip iproute2
    need curl curl
    need protoc protobuf-compiler
fi
if [ -e /sys/fs/cgroup/cgroup.controllers ] && ! grep -qw cpu /sys/fs/cgroup/cgroup.controllers; then
    skip "all of CRI" "it sets CPU shares, and this view of the cgroups has no controller for them"
    summary
    exit
fi
own_world "$0" "$@"
settle

export PATH=$SCRATCH/bin:/usr/sbin:/usr/bin:$PATH CONTAINERD_ADDRESS=$SCRATCH/containerd.sock CONTAINERD_NAMESPACE=k8s.io
HERE=$(realpath "$(dirname "$0")")
major=$(containerd --version | cut -d' ' -f3 | cut -d. -f1)
handler() {
    printf '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.%s]\n' "$1"
    [ -z "${2:-}" ] || echo "sandboxer = \"$2\""
    if [ -n "$SHIM" ]; then
        echo 'runtime_type = "io.containerd.masu.v2"'
    else
        echo 'runtime_type = "io.containerd.runc.v2"'
        printf '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.%s.options]\nBinaryName = "%s"\n' "$1" "$RUNTIME"
    fi
}
{
    cat <<TOML
version = 2
root = "$SCRATCH/data"
state = "$SCRATCH/state"
[grpc]
  address = "$CONTAINERD_ADDRESS"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "example.org/pause:latest"
  # the machine may not allow lowering it
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "tested"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "$SCRATCH/cni"
  conf_dir = "$SCRATCH/cni"
TOML
    handler tested
    [ "$major" -lt 2 ] || handler pauseless shim
} >"$SCRATCH/config.toml"
[ -z "$SHIM" ] || ln -s "$SHIM" "$SCRATCH/bin/containerd-shim-masu-v2"
mkdir -p "$SCRATCH/cni"
echo '{"cniVersion": "0.4.0", "name": "none", "plugins": [{"type": "loopback"}]}' >"$SCRATCH/cni/10-none.conflist"
cat >"$SCRATCH/cni/loopback" <<'PLUGIN'
#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0"]}' ;;
ADD) nsenter --net="$CNI_NETNS" ip link set lo up
    echo '{"cniVersion": "0.4.0", "interfaces": [{"name": "'"$CNI_IFNAME"'", "sandbox": "'"$CNI_NETNS"'"}], "ips": [{"version": "4", "interface": 0, "address": "127.0.0.1/8"}]}' ;;
esac
PLUGIN
chmod 755 "$SCRATCH/cni/loopback"
serve

# encode METHOD TEXT: prints the body of a call
encode() {
    local message
    message=$(mktemp "$SCRATCH/message.XXXXXX")
    echo "$2" | protoc -I "$HERE" --encode="runtime.v1.$1Request" cri.proto >"$message"
    # the gRPC frame: not compressed, and the length in big-endian order
    printf "$(printf '\\x00\\x%02x\\x%02x\\x%02x\\x%02x' $(($(stat -c %s "$message") >> 24 & 255)) $(($(stat -c %s "$message") >> 16 & 255)) \
        $(($(stat -c %s "$message") >> 8 & 255)) $(($(stat -c %s "$message") & 255)))"
    cat "$message"
    rm "$message"
}
# post METHOD BODY ANSWER: makes a call with files, and prints the error of a failed one
post() {
    curl -sS --http2-prior-knowledge --max-time 60 --unix-socket "$CONTAINERD_ADDRESS" -H 'content-type: application/grpc' -H 'te: trailers' \
        --data-binary "@$2" -o "$3" -D "$3.headers" "http://localhost/runtime.v1.RuntimeService/$1" || return 1
    tr -d '\r' <"$3.headers" | grep -x 'grpc-status: 0' >/dev/null || { grep -i '^grpc-' "$3.headers" >&2; return 1; }
}
# cri METHOD TEXT: makes a call in protobuf's text form, and prints the answer
cri() {
    local file code=0
    file=$(mktemp "$SCRATCH/call.XXXXXX")
    encode "$1" "${2:-}" >"$file"
    post "$1" "$file" "$file.answer" && tail -c +6 "$file.answer" | protoc -I "$HERE" --decode="runtime.v1.$1Response" cri.proto || code=1
    rm -f "$file" "$file".*
    return $code
}
# of NAME: prints the value of that field, from an answer on standard input
of() { sed -nE "s/^ *$1: \"?([^\"]*)\"?\$/\1/p" | head -n 1; }

if ! until_true cri Version; then
    tail -n 5 "$SCRATCH/log"
    finish
    exit 1
fi
echo "# containerd $(containerd --version | cut -d' ' -f3), CRI, ${SHIM:+shim $SHIM, }runtime $RUNTIME: $("$RUNTIME" --version | head -n 1)"

# image NAME ENTRYPOINT: makes an image of the root file system
image() {
    local dir=$SCRATCH/image-$1 arch=amd64
    [ "$(uname -m)" = x86_64 ] || arch=arm64
    mkdir -p "$dir"
    tar -C "$SCRATCH/rootfs" -cf "$dir/layer.tar" .
    echo "{\"architecture\":\"$arch\",\"os\":\"linux\",\"config\":{\"Env\":[\"PATH=/bin\"],\"Entrypoint\":[$2]},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:$(sha256sum "$dir/layer.tar" | cut -d' ' -f1)\"]}}" >"$dir/config.json"
    echo "[{\"Config\":\"config.json\",\"RepoTags\":[\"example.org/$1:latest\"],\"Layers\":[\"layer.tar\"]}]" >"$dir/manifest.json"
    tar -C "$dir" -cf "$dir.tar" manifest.json config.json layer.tar
    ctr image import "$dir.tar" >/dev/null
}
make_rootfs "$SCRATCH/rootfs"
image pause '"/bin/sleep", "1000000"' && image box '' || { echo "no image"; finish; exit 1; }

pod_config() {
    echo "metadata { name: '$1' uid: '$1' namespace: 'default' } $([ "${NETWORK:-}" = NODE ] || echo "hostname: '$1-host'") log_directory: '$SCRATCH/logs/$HANDLER-$1'
        dns_config { servers: '10.1.2.3' searches: '$1.example' }
        linux { cgroup_parent: '/$GROUP' $([ "${NETWORK:-}" = NODE ] || echo "sysctls { key: 'net.ipv4.ip_unprivileged_port_start' value: '80' }") security_context { namespace_options { network: ${NETWORK:-POD} pid: ${2:-CONTAINER} } } }"
}
# pod NAME [PID-MODE]: makes a pod and prints its id
pod() { cri RunPodSandbox "config { $(pod_config "$@") } runtime_handler: '$HANDLER'" | of pod_sandbox_id; }
# container POD NAME LIMIT COMMAND...: creates and starts a container, with a memory limit or 0, and prints its id
container() {
    local pod=$1 name=$2 limit=$3 id words=
    shift 3
    for word in "$@"; do words="$words command: '$(printf %s "$word" | sed "s/'/\\\\'/g")'"; done
    id=$(cri CreateContainer "pod_sandbox_id: '$(cat "$SCRATCH/$pod.pod")' sandbox_config { $(pod_config "$pod" "${MODE:-CONTAINER}") }
        config { metadata { name: '$name' } image { image: 'example.org/box:latest' } $words log_path: '$name.log'
            linux { resources { memory_limit_in_bytes: $limit }
                security_context { namespace_options { network: ${NETWORK:-POD} pid: ${MODE:-CONTAINER} } } } }" | of container_id)
    [ -n "$id" ]
    echo "$id" >"$SCRATCH/$name.id"
    cri StartContainer "container_id: '$id'"
}
id() { cat "$SCRATCH/$1.id"; }
status_of() { cri ContainerStatus "container_id: '$(id "$1")'"; }
has_ended() { [ "$(status_of "$1" | of state)" = CONTAINER_EXITED ]; }
runs() { [ "$(status_of "$1" | of state)" = CONTAINER_RUNNING ]; }
# run_in NAME COMMAND...: executes a command as a probe does
run_in() {
    local name=$1 words=
    shift
    for word in "$@"; do words="$words cmd: '$(printf %s "$word" | sed "s/'/\\\\'/g")'"; done
    cri ExecSync "container_id: '$(id "$name")' $words timeout: 5"
}
remove() { cri StopContainer "container_id: '$(id "$1")' timeout: 0" && cri RemoveContainer "container_id: '$(id "$1")'"; }
# shim_of POD: the pid of the daemon of the pod's shim
shim_of() { shims "$(cat "$SCRATCH/$1.pod")" | head -n 1; }
# counts the pause processes, by the duration of their sleep
pauses() { grep -lz "^1000000$" /proc/[0-9]*/cmdline 2>/dev/null | wc -l; }

status() { contains "$(cri Status | tr -d '\n ')" 'type:"RuntimeReady"status:true'; }

two_containers() {
    pod one >"$SCRATCH/one.pod"
    equal "$(cri PodSandboxStatus "pod_sandbox_id: '$(cat "$SCRATCH/one.pod")'" | of created_at | wc -l)" 1
    container one main 0 sh -c 'trap "exit 5" TERM; echo to stdout; echo to stderr >&2; while :; do sleep 0.1; done'
    container one side 67108864 sleep 100000
    runs main && runs side
    until_true eval '[ "$(shims | wc -l)" = 1 ]'
    case $HANDLER in pauseless) equal "$(pauses)" 0 ;; *) equal "$(pauses)" 1 ;; esac
}

exec_sync() {
    equal "$(run_in main echo inside | of stdout)" 'inside\n'
    equal "$(run_in main sh -c 'echo oops >&2; exit 9' | tr -d '\n')" 'stderr: "oops\n"exit_code: 9'
    exits 1 run_in main /no/such
    # the pod's own namespaces, and the pod's host name
    equal "$(run_in main readlink /proc/self/ns/ipc)" "$(run_in side readlink /proc/self/ns/ipc)"
    equal "$(run_in side hostname | of stdout)" 'one-host\n'
    [ "$(run_in main readlink /proc/1/ns/pid)" != "$(run_in side readlink /proc/1/ns/pid)" ]
    # a command beyond its timeout is killed
    exits 1 cri ExecSync "container_id: '$(id side)' cmd: 'sleep' cmd: '77' timeout: 1"
    contains "$said" "timeout 1s exceeded"
    until_true eval '! grep -lqz "^77$" /proc/[0-9]*/cmdline'
}

logs() {
    until_true grep -q stderr "$SCRATCH/logs/$HANDLER-one/main.log"
    equal "$(cut -d' ' -f2- "$SCRATCH/logs/$HANDLER-one/main.log" | sort | tr '\n' ,)" "stderr F to stderr,stdout F to stdout,"
}

stats() {
    local seen
    seen=$(cri ContainerStats "container_id: '$(id side)'" | tr -d '\n ')
    contains "$seen" 'usage_core_nano_seconds{value:'
    [ "$MEMORY" != yes ] || contains "$seen" 'working_set_bytes{value:'
}

# repeats the same commands as the kubelet does, ten a second. Ten clients share them, five for each container, so that a slow one
# does not block the others
probes() {
    local i begin took rate code=0 lanes=10 pids=() bodies=(probe probe2) each=$((PROBES / 10)) before files after
    encode ExecSync "container_id: '$(id main)' cmd: 'cat' cmd: '/etc/passwd' timeout: 5" >"$SCRATCH/probe"
    encode ExecSync "container_id: '$(id side)' cmd: 'sh' cmd: '-c' cmd: 'exit 3' timeout: 5" >"$SCRATCH/probe2"
    for i in probe probe2; do post ExecSync "$SCRATCH/$i" "$SCRATCH/$i.answer"; done
    contains "$(tail -c +6 "$SCRATCH/probe.answer" | protoc -I "$HERE" --decode=runtime.v1.ExecSyncResponse cri.proto)" "root:x:0:0"
    equal "$(tail -c +6 "$SCRATCH/probe2.answer" | protoc -I "$HERE" --decode=runtime.v1.ExecSyncResponse cri.proto)" "exit_code: 3"
    before=$(memory) files=$(descriptors)
    begin=$(date +%s%N)
    for ((i = 0; i < lanes; i++)); do
        probe $each "$SCRATCH/${bodies[$((i % 2))]}" >"$SCRATCH/lane$i" 2>"$SCRATCH/times$i" &
        pids+=($!)
        sleep 0.1
    done
    for ((i = 0; i < lanes; i++)); do wait "${pids[$i]}" || { code=1; tail -n 1 "$SCRATCH/times$i"; }; done
    took=$((($(date +%s%N) - begin) / 1000000))
    after=$(memory)
    [ $code = 0 ] || return 1
    # the answer has output and exit code, and must equal the first one byte by byte
    for ((i = 0; i < lanes; i++)); do
        repeat $each "$SCRATCH/${bodies[$((i % 2))]}.answer" | cmp - "$SCRATCH/lane$i" || return 1
    done
    rate=$((each * lanes * 100000 / took))
    echo "$((each * lanes)) probes in $((took / 1000)) s, $((rate / 100)).$(printf %02d $((rate % 100))) a second; $(cat "$SCRATCH"/times[0-9] | sort -n |
        awk '{ t[NR] = $1 * 1000 } END { printf "median %.0f ms, longest %.0f", t[int((NR + 1) / 2)], t[NR] }') ms; the shim had $before KiB of its own and $files descriptors, and has $after and $(descriptors)" >>"$SCRATCH/notes"
    [ $took -le $((each * lanes * 105 + 1000)) ] || { echo "$((each * lanes)) probes took $took ms"; return 1; }
    [ -n "$SHIM" ] || return 0
    [ "$after" -le $((before + 32)) ] || { echo "the shim grew from $before to $after KiB"; return 1; }
    until_true eval "[ \"\$(descriptors)\" -le $files ]"
    equal "$(ls "/proc/$(shim_of one)/task" | wc -l)" 1
}
# probe COUNT BODY: makes COUNT calls, one a second; the client is the only program that runs
probe() {
    local i now due=${EPOCHREALTIME/./}
    for ((i = 0; i < $1; i++)); do
        curl -sS --http2-prior-knowledge --max-time 60 --unix-socket "$CONTAINERD_ADDRESS" -H 'content-type: application/grpc' -H 'te: trailers' \
            --data-binary "@$2" -w '%{stderr}%{time_total}\n' http://localhost/runtime.v1.RuntimeService/ExecSync || return 1
        now=$(((due += 1000000) - ${EPOCHREALTIME/./}))
        [ $((i + 1)) -lt "$1" ] || break
        # a wait: no data comes from this descriptor
        [ $now -le 0 ] || read -r -t "$((now / 1000000)).$(printf %06d $((now % 1000000)))" -u 9 || true
    done
}
# repeat COUNT FILE: prints the file COUNT times
repeat() {
    local i
    for ((i = 0; i < $1; i++)); do echo "url = \"file://$2\""; done | curl -sS -K -
}
# the private memory of the shim, because further shims share the rest
memory() { awk '/^Anonymous/ { print $2 }' "/proc/$(shim_of one)/smaps_rollup"; }
descriptors() { ls "/proc/$(shim_of one)/fd" | wc -l; }

codes() {
    container one zero 0 true
    until_true has_ended zero
    equal "$(status_of zero | of reason)" Completed
    container one other 0 sh -c 'exit 1'
    until_true has_ended other
    equal "$(status_of other | grep -E 'exit_code|reason' | tr -d '\n')" '  exit_code: 1  reason: "Error"'
    remove zero && remove other
    exits 1 container one missing 0 /no/such
    cri RemoveContainer "container_id: '$(id missing)'"
}

oom_killed() {
    container one oom 16777216 sh -c 'x=0123456789abcdef; while :; do x=$x$x; done'
    until_true has_ended oom
    equal "$(status_of oom | grep -E 'exit_code|reason' | tr -d '\n')" '  exit_code: 137  reason: "OOMKilled"'
    remove oom
}

update() {
    cri UpdateContainerResources "container_id: '$(id side)' linux { memory_limit_in_bytes: 134217728 }"
    local file
    file=$(run_in side sh -c 'cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes' | of stdout)
    equal "$file" '134217728\n'
}

grace() {
    local begin=$SECONDS
    cri StopContainer "container_id: '$(id main)' timeout: 20"
    [ $((SECONDS - begin)) -lt 15 ]
    equal "$(status_of main | of exit_code)" 5
    container one deaf 0 sh -c 'trap "" TERM; echo ready; while :; do sleep 0.1; done'
    until_true grep -q ready "$SCRATCH/logs/$HANDLER-one/deaf.log"
    begin=$SECONDS
    cri StopContainer "container_id: '$(id deaf)' timeout: 2"
    [ $((SECONDS - begin)) -ge 2 ]
    equal "$(status_of deaf | of exit_code)" 137
    remove deaf && remove main
}

restart() {
    container one lasts 0 sh -c 'i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done'
    container one ends 0 sh -c 'sleep 1; exit 6'
    kill -9 "$(cat "$SCRATCH/pid")"
    until_true no_daemon
    sleep 1.5
    serve
    until_true cri Version
    until_true runs lasts
    equal "$(run_in lasts echo again | of stdout)" 'again\n'
    until_true has_ended ends
    # containerd 2 takes the shim of a container without processes for a leaked one, whatever the shim answers
    case $major-$(status_of ends | of exit_code) in 1-6 | 2-6 | 2-255) ;; *) status_of ends; return 1 ;; esac
    remove lasts && remove ends
}

# containers find the same files of their pod, with both kinds of pods
shared_files() {
    equal "$(run_in side cat /etc/hostname | of stdout)" 'one-host\n'
    [ -n "$(run_in side cat /etc/hosts | of stdout)" ]
    equal "$(run_in side cat /etc/resolv.conf | of stdout)" 'search one.example\nnameserver 10.1.2.3\n'
    run_in main sh -c 'echo shared >/dev/shm/x'
    equal "$(run_in side cat /dev/shm/x | of stdout)" 'shared\n'
    equal "$(run_in side cat /proc/sys/net/ipv4/ip_unprivileged_port_start | of stdout)" '80\n'
}

# the containers of a pod reach each other at localhost, but not the host, which has another network namespace
networks() {
    container one web 0 httpd -f -p 80 -h /www
    until_true eval 'run_in side wget -q -O - http://127.0.0.1/ | grep "a page"'
    exits 1 busybox wget -q -O - http://127.0.0.1/
    remove web
    # containerd before 2.3 crashes for a pod with the host's network and without a pause container
    case $HANDLER-$(containerd --version | cut -d' ' -f3) in pauseless-2.[012].*) return ;; esac
    local NETWORK=NODE
    pod host >"$SCRATCH/host.pod"
    container host onhost 0 sleep 1000
    equal "$(run_in onhost readlink /proc/self/ns/net | of stdout)" "$(readlink /proc/self/ns/net)\\n"
    remove_pod host
}

shared_pids() {
    MODE=POD
    pod shared POD >"$SCRATCH/shared.pod"
    container shared first 0 sleep 1111
    container shared second 0 sleep 2222
    contains "$(run_in first ps)" "sleep 2222"
    remove first
    runs second
    equal "$(run_in second echo on | of stdout)" 'on\n'
    remove_pod shared
}

# removes a pod with its containers
remove_pod() {
    cri StopPodSandbox "pod_sandbox_id: '$(cat "$SCRATCH/$1.pod")'"
    contains "$(cri PodSandboxStatus "pod_sandbox_id: '$(cat "$SCRATCH/$1.pod")'")" SANDBOX_NOTREADY
    cri RemovePodSandbox "pod_sandbox_id: '$(cat "$SCRATCH/$1.pod")'"
}

shim_dies() {
    pod doomed >"$SCRATCH/doomed.pod"
    container doomed orphan 0 sleep 1000
    kill -9 "$(shim_of doomed)"
    until_true has_ended orphan
    [ "$(status_of orphan | of exit_code)" != 0 ]
    remove_pod doomed
}

many_at_once() {
    pod crowd >"$SCRATCH/crowd.pod"
    local i
    for i in $(seq 12); do container crowd "c$i" 0 sh -c "exit $i" & done
    wait
    for i in $(seq 12); do
        until_true has_ended "c$i"
        equal "$(status_of "c$i" | of exit_code)" "$i"
    done
    remove_pod crowd
}

cgroups() { find /sys/fs/cgroup/"$GROUP" /sys/fs/cgroup/*/"$GROUP" -mindepth 1 -type d 2>/dev/null | tr '\n' ' ' || true; }
nothing_left() {
    remove_pod one
    until_true eval '[ -z "$(shims)" ]'
    equal "$(cgroups)" ""
    equal "$(find /run/containerd/runc /run/containerd/masu -mindepth 2 ! -name .empty-directory 2>/dev/null | tr '\n' ' ' || true)" ""
    equal "$(grep -c "$SCRATCH/state" /proc/self/mountinfo || true)" 0
    # the runc shim leaves the socket of a killed shim
    [ -z "$SHIM" ] || equal "$(ls /run/containerd/s)" ""
}

if [ -e /sys/fs/cgroup/memory ] || grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null; then MEMORY=yes; else MEMORY=no; fi
all() {
    HANDLER=$1
    try "$2: two containers under one shim" two_containers
    try "$2: exec, its output, its code, its end in time" exec_sync
    try "$2: logs" logs
    try "$2: stats" stats
    try "$2: probes, ten a second" probes
    try "$2: host name, names, memory and sysctls of the pod" shared_files
    try "$2: the networks of pods and of the host" networks
    try "$2: codes 0, 1, and of a missing program" codes
    if [ $MEMORY = yes ]; then
        try "$2: 137, OOMKilled" oom_killed
        try "$2: limits changed" update
    else
        skip "$2: 137, OOMKilled" "no memory controller"
        skip "$2: limits changed" "no memory controller"
    fi
    try "$2: stop with a grace period" grace
    try "$2: containerd killed and started again" restart
    try "$2: one pid namespace for the pod" shared_pids
    try "$2: twelve containers at once" many_at_once
    try "$2: the shim killed" shim_dies
    try "$2: nothing is left" nothing_left
}
try "the runtime is ready" status
all tested "pod"
if [ -n "$SHIM" ] && [ "$major" -ge 2 ]; then
    all pauseless "pod without a pause"
elif [ -n "$SHIM" ]; then
    skip "pods without a pause" "containerd 1 has no sandboxes of shims"
fi
sed 's/^/# /' "$SCRATCH/notes" 2>/dev/null
finish
summary
