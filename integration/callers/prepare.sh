# Sourced by the other scripts here: gives them a scratch directory, their own namespaces, and functions for their checks.
#
# own_world SCRIPT ARGS...  executes SCRIPT again as a child of pid 1 in new mount, pid, network, ipc and uts namespaces, so that
#                           all its processes end with it. /run and $SCRATCH are new file systems.
#                           With CGROUP_DRIVER=systemd the pid namespace and /run stay the machine's, because systemd must
#                           know the processes and be reachable. Only for a machine made for it, as by ../vm/run
# need PROGRAM PACKAGE      installs PACKAGE with apt if PROGRAM is missing; the package's services are not started
# try NAME FUNCTION ARGS... runs one check: prints "ok NAME" or "FAIL NAME: why"; skip NAME REASON prints "SKIP NAME: REASON"
# summary                   prints the counts; its exit status is 1 if a check failed

set -o pipefail
passed=0 failed=0 skipped=0
export CGROUP_DRIVER=${CGROUP_DRIVER:-cgroupfs}

need() {
    command -v "$1" >/dev/null && return
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "no $1 here, and no apt to install $2 with"; exit 2; }
    # else packages with daemons would start them
    local policy=/usr/sbin/policy-rc.d made=
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; made=1; }
    { DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "$2" ||
        { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "$2"; }; } >"${TMPDIR:-/tmp}/apt-$2.log" 2>&1
    local code=$?
    [ -z "$made" ] || rm -f $policy
    [ $code = 0 ] || { echo "apt cannot install $2:"; tail -n 3 "${TMPDIR:-/tmp}/apt-$2.log"; exit 2; }
    rm -f "${TMPDIR:-/tmp}/apt-$2.log"
}

# the absolute path of the runtime, given by path or by name
runtime_path() {
    local path
    path=$(command -v "$1") || { echo "no runtime $1" >&2; exit 2; }
    realpath -s "$path"
}

own_world() {
    [ "$(id -u)" = 0 ] || { echo "needs root"; exit 2; }
    [ -z "${OWN_WORLD:-}" ] || return 0
    local scratch code world=(--mount --net --ipc --uts)
    scratch=$(mktemp -d)
    [ "$CGROUP_DRIVER" = systemd ] || world+=(--pid --fork --kill-child --mount-proc)
    OWN_WORLD=$scratch unshare "${world[@]}" bash "$@"
    code=$?
    remove_cgroups "$(basename "$scratch")"
    rm -rf "$scratch"
    exit $code
}

# inside the new namespaces: mounts new file systems where daemons write
settle() {
    SCRATCH=$OWN_WORLD
    GROUP=$(basename "$SCRATCH")
    mount --make-rprivate /
    mount -t tmpfs tmpfs "$SCRATCH"
    [ "$CGROUP_DRIVER" = systemd ] || mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p "$SCRATCH/bin" /run/lock
    ip link set lo up
    # a program that searches for runc finds the runtime
    ln -s "$RUNTIME" "$SCRATCH/bin/runc"
    mkfifo "$SCRATCH/silent"
    # a terminal's input that stays silent and never ends
    exec 9<>"$SCRATCH/silent"
}

# removes the cgroups below those named $1, which must be empty
remove_cgroups() {
    local base
    for base in /sys/fs/cgroup/"$1" /sys/fs/cgroup/*/"$1"; do
        [ -d "$base" ] && find "$base" -depth -type d -exec rmdir {} + 2>/dev/null
    done
    return 0
}

# makes a root file system with busybox
make_rootfs() {
    local program
    mkdir -p "$1"/{bin,dev,etc,proc,sys,tmp,root,www}
    cp "$(command -v busybox)" "$1/bin/busybox"
    for program in $("$1/bin/busybox" --list); do
        [ "$program" = busybox ] || ln -s busybox "$1/bin/$program"
    done
    printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n' >"$1/etc/passwd"
    printf 'root:x:0:\nuser:x:1000:\n' >"$1/etc/group"
    echo 'a page' >"$1/www/index.html"
    chmod 1777 "$1/tmp"
}

# until_true CONDITION...: waits until it is true, at most 30 seconds
until_true() {
    local i
    for ((i = 0; i < 300; i++)); do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.1
    done
    echo "still not so after 30 seconds: $*"
    return 1
}

equal() { [ "$1" = "$2" ] || { echo "\"$1\" instead of \"$2\""; return 1; }; }
contains() { case $1 in *"$2"*) ;; *) echo "no \"$2\" in \"$1\""; return 1 ;; esac; }

# exits CODE COMMAND...: the command must exit with that code; its output is kept in $said
exits() {
    local wanted=$1 code
    shift
    said=$("$@" 2>&1) && code=0 || code=$?
    [ "$code" = "$wanted" ] || { echo "exit code $code instead of $wanted: $said"; return 1; }
}

try() {
    local name=$1 output code
    shift
    output=$(set -e; "$@" 2>&1)
    code=$?
    if [ $code = 0 ]; then
        echo "ok $name"
        passed=$((passed + 1))
    else
        echo "FAIL $name: $(printf %s "$output" | tail -n 4 | tr '\n' ' ')"
        failed=$((failed + 1))
    fi
}

skip() {
    echo "SKIP $1: $2"
    skipped=$((skipped + 1))
}

summary() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ]
}

# starts containerd with $SCRATCH/config.toml, by the program in PRIO if that is set ("chrt -r 1"). Its log is $SCRATCH/log, its
# pid is in $SCRATCH/pid
serve() {
    ${PRIO:-env} containerd --config "$SCRATCH/config.toml" --log-level debug >>"$SCRATCH/log" 2>&1 &
    echo $! >"$SCRATCH/pid"
    # else bash would print a message when it is killed
    disown
}
# ends the daemon; KEEP_LOG=FILE keeps the log
finish() {
    kill "$(cat "$SCRATCH/pid")" 2>/dev/null
    until_true no_daemon
    [ -z "${KEEP_LOG:-}" ] || cp "$SCRATCH/log" "$KEEP_LOG"
}
# shims [ID]: the processes of all shims, or of the shim of ID; a daemon comes before its workers
shims() {
    local p
    for p in /proc/[0-9]*; do
        case $(tr '\0' ' ' 2>/dev/null <"$p/cmdline") in *containerd-shim*" -id ${1:+$1 }"*) echo "${p#/proc/}" ;; esac
    done | sort -n
}
no_daemon() { ! kill -0 "$(cat "$SCRATCH/pid")"; }
