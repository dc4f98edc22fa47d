# Sourced, after prepare.sh, by the scripts that drive containerd with ctr. Expects RUNTIME and SHIM. Continues in its own world,
# where containerd runs without its Kubernetes plugin; the root file system is $SCRATCH/rootfs.
#
# kind                      the ctr options for the runtime: containerd's own shim with RUNTIME, or SHIM if it is not empty
# served                    starts containerd and waits until it answers

if [ -z "${OWN_WORLD:-}" ]; then
    need containerd containerd
    need ctr containerd
    need busybox busybox-static
    need ip iproute2
fi
own_world "$0" "$@"
settle

export PATH=$SCRATCH/bin:/usr/sbin:/usr/bin:$PATH CONTAINERD_ADDRESS=$SCRATCH/containerd.sock CONTAINERD_NAMESPACE=$GROUP
cat >"$SCRATCH/config.toml" <<TOML
version = 2
root = "$SCRATCH/data"
state = "$SCRATCH/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$CONTAINERD_ADDRESS"
TOML
kind=(--runc-binary "$RUNTIME")
if [ -n "$SHIM" ]; then
    ln -s "$SHIM" "$SCRATCH/bin/containerd-shim-masu-v2"
    kind=(--runtime io.containerd.masu.v2)
fi

served() { serve && until_true ctr version; }
if ! served; then
    tail -n 5 "$SCRATCH/log"
    finish
    exit 1
fi
echo "# containerd $(containerd --version | cut -d' ' -f3), ${SHIM:+shim $SHIM, }runtime $RUNTIME: $("$RUNTIME" --version | head -n 1)"
make_rootfs "$SCRATCH/rootfs"
