# Sourced, after prepare.sh, by the scripts that drive containerd by ctr. With RUNTIME and SHIM set it goes on in a world of its
# own, in which containerd runs, without Kubernetes' part, with a root file system in $SCRATCH/rootfs.
#
# kind                      what ctr is told of the runtime: containerd's own shim with RUNTIME, or SHIM where it is not empty
# served                    starts containerd anew, and waits for its answer

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
