# Sourced by run: the steps, each a function step_NAME. What they use is in step.sh, tests.sh and prepare.sh.

# of a static build with glibc, which is larger than musl's: masu as it is differs by 650,000 bytes
GLIBC_ALLOWANCE=650000

root_or_skip() { [ "$(id -u)" = 0 ] || { skip_step "not root"; return 1; }; }

step_install() {
    need_programs cc:gcc /usr/include/stdlib.h:libc6-dev /usr/include/seccomp.h:libseccomp-dev strace:strace \
        busybox:busybox-static unshare:util-linux script:bsdutils chrt:util-linux mke2fs:e2fsprogs ps:procps ip:iproute2 iptables:iptables \
        runc:runc crun:crun containerd:containerd dockerd:docker.io curl:curl protoc:protobuf-compiler
    have docker || need_programs docker:docker-cli
    [ -n "$(emulator)" ] || need_programs "qemu-$OTHER_ARCH-static:qemu-user-static"
    [ -n "$(emulator)" ] || need_programs "qemu-$OTHER_ARCH:qemu-user"
}

# the user-mode emulator of the other architecture
emulator() { command -v "qemu-$OTHER_ARCH-static" || command -v "qemu-$OTHER_ARCH" || true; }

step_form() { cargo fmt --all --check || { local code=$?; reason "not as rustfmt writes it: run cargo fmt --all"; return $code; }; }

step_lints() {
    TIME_LIMIT=$BUILD_LIMIT
    limit cargo clippy --workspace --all-targets -- -D warnings || { reason "clippy complains, see above"; return 1; }
}

step_docs() {
    TIME_LIMIT=$BUILD_LIMIT
    RUSTDOCFLAGS="-D warnings" limit cargo doc --no-deps --workspace || { reason "rustdoc complains, see above"; return 1; }
}

step_licences() {
    if have cargo-deny; then
        limit cargo deny --offline check licenses bans sources
    else
        skip_step "cargo-deny is not installed, and building it takes longer than all the rest"
    fi
}

step_packages() {
    local log=$SCRATCH/publish code=0 unversioned
    TIME_LIMIT=$BUILD_LIMIT
    unversioned=$(sed -nE '/version/!s/^([a-z-]+) = \{ path = .*/\1/p' Cargo.toml | tr '\n' ' ')
    if [ -n "$unversioned" ]; then
        skip_step "these have no version by which another package could ask a registry for them: $unversioned"
    elif ! cargo publish --help 2>/dev/null | grep -q -e '--workspace'; then
        skip_step "cargo publish --workspace came with cargo 1.90, and this is $(cargo --version)"
    else
        limit cargo publish --dry-run --workspace --allow-dirty >"$log" 2>&1 || code=$?
        cat "$log"
        if [ $code != 0 ] && grep -qiE 'spurious network error|could not resolve host|failed to connect|couldn.t connect|timed? ?out|download of config.json failed' "$log"; then
            skip_step "the registry cannot be reached: $(grep -m 1 -iE 'resolve host|connect|timed? ?out|config.json' "$log" | sed 's/^ *//')"
            return 0
        fi
        [ $code = 0 ] || reason "$(grep -m 1 '^error' "$log")"
        return $code
    fi
}

# the library's interface, against that of the last release
step_semver() {
    local last
    last=$(git describe --tags --abbrev=0 2>/dev/null || true)
    if [ -z "$last" ]; then
        skip_step "there is no release yet to compare the library with"
    elif have cargo-semver-checks; then
        limit cargo semver-checks --package "$LIBRARY" --baseline-rev "$last"
    else
        skip_step "cargo-semver-checks is not installed"
    fi
}

step_build() {
    TIME_LIMIT=$BUILD_LIMIT
    cargo_static build --release --package "$(package_of runtime)" --package "$(package_of shim)" || { reason "it does not build, see above"; return 1; }
    local size at_most=$SIZE_LIMIT
    case $TARGET in *-gnu) at_most=$((SIZE_LIMIT + GLIBC_ALLOWANCE)) ;; esac
    size=$(stat -c %s "$MASU")
    echo "$TARGET: $size bytes, at most $at_most"
    "$MASU" --version
    "$SHIM" -v
    [ "$size" -le "$at_most" ] || { reason "masu has $size bytes, $((size - at_most)) too many"; return 1; }
}

step_hello() {
    root_or_skip || return 0
    local said
    said=$(.ci/hello)
    echo "$said"
    case $said in
    *"Hello from inside a container!"*"I am process 1,"*) ;;
    *) reason "it did not say hello"; return 1 ;;
    esac
}

# also the payload, as integration/src/artifacts.rs would build it, and the examples with the features that callers get
step_compile() {
    TIME_LIMIT=$BUILD_LIMIT
    compile_tests
    CARGO_PROFILE_DEV_STRIP=true CARGO_PROFILE_DEV_OPT_LEVEL=1 cargo_static build --package integration --bin payload
    limit cargo build --examples --package "$LIBRARY"
}

step_unit() { tests unit unit; }

# the other architecture: it builds, what needs no kernel of its own passes, and the program starts
step_other() {
    has_target "$OTHER" || { skip_step "the toolchain has no $OTHER"; return 0; }
    TIME_LIMIT=$BUILD_LIMIT
    # the linker of Rust itself: no C compiler for that architecture is needed
    local name selection
    name=$(echo "$OTHER" | tr a-z- A-Z_)
    export "CARGO_TARGET_${name}_LINKER=rust-lld"
    cargo_for "$OTHER" build --release --package "$(package_of runtime)" --package "$(package_of shim)"
    local masu=$TARGET_DIR/$OTHER/release/masu emulator
    echo "$OTHER: $(stat -c %s "$masu") bytes"
    emulator=$(emulator)
    [ -n "$emulator" ] || { skip "$OTHER_ARCH: tests, --version, features" "no qemu-$OTHER_ARCH"; return 0; }
    "$emulator" "$masu" --version
    "$emulator" "$masu" features >"$SCRATCH/features"
    grep -q ociVersionMin "$SCRATCH/features"
    count 1 0
    export "CARGO_TARGET_${name}_RUNNER=$emulator"
    which_tests other
    limit cargo test --no-run "${selection[@]}"
    TIME_LIMIT=$STEP_LIMIT
    tests "$OTHER_ARCH" other
}

# alike: a minute of made-up configs under masu and its peers, the same each time: a failure is a change of ours
blackbox() { RUNTIME=$MASU PAYLOAD=$TARGET_DIR/$TARGET/debug/payload ALIKE_SECONDS=60 tests "$@"; }

# a test runs each example, with what it must print
step_examples() {
    root_or_skip || return 0
    local file name FILES=(library)
    for file in libcontainer/examples/*.rs; do
        name=$(basename "$file" .rs)
        grep -q "\"$name\"" integration/tests/library.rs || { reason "no test of integration/tests/library.rs runs the example $name"; return 1; }
    done
    blackbox examples integration
}

# the guard of the tests, and tests of each kind that it watches
step_neighbour() {
    root_or_skip || return 0
    local FILES=(guard lifecycle namespaces) neighbour code=0
    integration/neighbour 120 >"$SCRATCH/neighbour" 2>&1 &
    neighbour=$!
    blackbox "beside a neighbour" integration || code=$?
    kill $neighbour 2>/dev/null || true
    wait $neighbour || true
    cat "$SCRATCH/neighbour"
    return $code
}

step_integration() {
    root_or_skip || return 0
    ALIKE_SEED=1 ALIKE_CONFIGS=150 blackbox integration integration
}

# whether cgroup v2 can be shown alone where this machine has v1 too: OTHER_VIEW COMMAND... runs with that
OTHER_VIEW=(unshare --mount sh -c 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"' sh)
has_other_view() { ! [ -e /sys/fs/cgroup/cgroup.controllers ] && "${OTHER_VIEW[@]}" true 2>/dev/null; }

step_integration_v2() {
    root_or_skip || return 0
    has_other_view || { skip_step "this machine has no other view of its cgroups"; return 0; }
    # with all mounts shared, and one for scratch files, as where systemd runs
    local TMPDIR=$SCRATCH/shared
    # containers with other users go through it
    chmod 711 "$SCRATCH"
    mkdir -m 1777 "$TMPDIR"
    export TMPDIR
    local IN_VIEW=("${OTHER_VIEW[@]}" sh -c 'mount --bind "$TMPDIR" "$TMPDIR" && mount --make-rshared / && exec "$@"' sh)
    ALIKE_SEED=2 ALIKE_CONFIGS=60 blackbox "integration, cgroup v2" blackbox
}

# caller NAME [SHIM]: a script of integration/callers, which prints and counts its own checks
caller() {
    root_or_skip || return 0
    local code=0 summary name=$1 log=$SCRATCH/caller
    watch "$log"
    limit "integration/callers/$1.sh" "$MASU" "${@:2}" >"$log" 2>&1 || code=$?
    cat "$log"
    # what it needs is not there
    [ "$code" != 2 ] || { skip_step "$(tail -n 1 "$log")"; return 0; }
    sed -n "s/^SKIP /$STEP: /p" "$log" >>"$SCRATCH/skips"
    summary=$(tail -n 1 "$log")
    case $summary in
    *" passed, "*" skipped") set -- $summary && count "$1" "$3" ;;
    esac
    [ "$code" = 0 ] || reason "$(grep -m 1 '^FAIL ' "$log" | sed 's/^FAIL //' || tail -n 1 "$log")"
    return "$code"
}
step_docker() { caller docker; }
step_docker_shim() { caller docker "$SHIM"; }
step_ctr() { caller ctr; }
step_ctr_shim() { caller ctr "$SHIM"; }
step_cri() { caller cri; }
step_cri_shim() { caller cri "$SHIM"; }
step_memory() { caller memory "$SHIM"; }

step_benchmark() {
    root_or_skip || return 0
    TIME_LIMIT=$BUILD_LIMIT
    cargo_static build --release --package integration --bin bench
    TIME_LIMIT=$STEP_LIMIT
    local bench=$TARGET_DIR/$TARGET/release/bench runtimes=("masu=$MASU") name compare=()
    local baseline=integration/baseline.json # system calls and page faults to compare with
    for name in crun runc; do
        if have $name; then runtimes+=("$name=$name"); else skip "benchmark of $name" "not installed"; fi
    done
    [ ! -e "$baseline" ] || compare=(--compare "$baseline")
    # on cgroup v2, as on nodes of today, also where this machine has v1 beside it, which crun refuses
    local view=() log=$SCRATCH/bench.log code=0
    ! has_other_view || view=("${OTHER_VIEW[@]}")
    watch "$log"
    limit "${view[@]}" "$bench" --rounds 5 --warm-up 1 "${compare[@]}" "${runtimes[@]}" >"$log" 2>&1 || code=$?
    if have strace && [ $code = 0 ]; then
        limit "${view[@]}" "$bench" --syscalls "${compare[@]}" "${runtimes[@]}" >>"$log" 2>&1 || code=$?
        # ten thousand variables, a thousand binds, a megabyte of annotations, a list of a thousand
        limit "${view[@]}" "$bench" --heavy --syscalls "${compare[@]}" "masu=$MASU" >>"$log" 2>&1 || code=$?
    fi
    cat "$log"
    sed -n 's/^skip /benchmark of /p' "$log" | sort -u >>"$SCRATCH/skips"
    [ $code = 0 ] || { reason "$(tail -n 1 "$log")"; return $code; }
    have strace || skip "count of system calls" "no strace"
}

# what is about cgroups, in a machine with systemd and all of cgroup v2. It needs 250 MB of packages and then seven minutes
# without KVM: if that is not to be had here, that is a skip
step_vm() {
    root_or_skip || return 0
    local code=0 log=$SCRATCH/vm.log summary
    watch "$log"
    # it has limits of its own for the image and for the machine, and compiles in between
    TIME_LIMIT=$BUILD_LIMIT
    RUNTIME=$MASU LIMIT=700 limit integration/vm/run --quick >"$log" 2>&1 || code=$?
    cat "$log"
    [ "$code" != 2 ] || { skip_step "$(tail -n 1 "$log")"; return 0; }
    sed -n 's/^SKIP /virtual machine: /p' "$log" | sort -u >>"$SCRATCH/skips"
    summary=$(tail -n 1 "$log")
    case $summary in
    *" passed, "*" skipped") set -- $summary && count "$1" "$3" ;;
    esac
    [ "$code" = 0 ] || reason "$(grep -m 1 FAIL "$log" || tail -n 1 "$log")"
    return "$code"
}

# the namespace is the gate's own, if it runs as root; NUMBER POINT, as another program that renames a folder changes the paths
points() { cut -d' ' -f1,5 /proc/self/mountinfo; }
step_mounts() {
    root_or_skip || return 0
    local left
    left=$(points | awk 'NR == FNR { known[$1] = 1; next } !($1 in known) { print $2 }' "$SCRATCH/mounts" -)
    [ -z "$left" ] || { reason "left mounted: $(echo "$left" | tr '\n' ' ')"; return 1; }
}
