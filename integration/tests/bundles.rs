//! The bundles of Docker, podman and Kubernetes: the program sees the same under masu as under runc.

use anyhow::{Context, Result, ensure};
use integration::compare::{compare, peers, report};
use integration::namespaces::mountinfo;
use integration::{Surroundings, check};
use rustix::mount::{MountFlags, mount_remount};

const BUNDLES: [&str; 7] = ["docker-default", "k8s", "k8s-sandbox", "minimal", "podman-rootful", "podman-rootless", "podman-userns"];

/// The intended differences from runc: a part of the line, or several parts in order with `*` between, and the reason.
const KNOWN: [(&str, &str); 15] = [
    (" mounts /proc/acpi ", "the masks of folders share one tmpfs of one inode, which is also nosuid, nodev and noexec"),
    (" mounts /proc/scsi ", "the masks of folders share one tmpfs of one inode, which is also nosuid, nodev and noexec"),
    (" mounts /sys/firmware ", "the masks of folders share one tmpfs of one inode, which is also nosuid, nodev and noexec"),
    (" mounts /sys super", "read-only is a flag of the mount, and not of the file system too"),
    (" mounts /sys/fs/cgroup options", "of a read-only cgroup v1 mount the folder of the hierarchies is read-only too"),
    (" mounts /sys/fs/cgroup source: \"none\"", "the source of a bind is that of the host's mount"),
    (" mounts /sys/fs/cgroup source: \"cgroup2\"", "the source of a bind is that of the host's mount"),
    (" mounts /sys/fs/cgroup super: [\"memory_", "runc takes the options off cgroup v2 on the host, where it mounts that anew"),
    (" mounts / options: [\"nodev\",\"nosuid\",\"ro\"]", "a root that is made read-only keeps the other flags of the mount that it is in"),
    (
        " mounts / propagation: [], under the peer [\"master\"]",
        "runc before 1.2 shows the container what the host mounts in its root later",
    ),
    (
        " mounts /sys/fs/cgroup/* propagation: [], under the peer [\"master\"]",
        "runc shows the container what the host mounts in a hierarchy of v1 later",
    ),
    (
        " propagation: [\"master\"], under the peer []",
        "runc from 1.2 makes the mount that the root lies in private, and with it what is bound from there",
    ),
    ("k8s-sandbox env", "an environment that is absent gets HOME like one that is empty"),
    ("podman-userns dev mqueue", "the root of mqueue belongs to the container's group, too"),
    (" signals ignored", "signals that the C library keeps for itself are reset too"),
];

/// The options of the host's cgroup2 file system. runc's mount changes them for every mount of it.
struct CgroupOptions(String);

impl CgroupOptions {
    fn of_host() -> Result<Self> {
        let mounts = mountinfo()?;
        let options = mounts.lines().find_map(|line| line.split_once(" /sys/fs/cgroup ")?.1.split_once(" - cgroup2 ")?.1.split(' ').nth(1));
        Ok(Self(options.unwrap_or_default().split_once(',').map(|(_, options)| options.to_owned()).unwrap_or_default()))
    }
}

impl Drop for CgroupOptions {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RELATIME;
            let _ = mount_remount("/sys/fs/cgroup", flags, &*self.0);
        }
    }
}

#[test]
fn what_callers_write_looks_the_same_as_under_a_peer() {
    check(|t| {
        if t.runtime.kind != "masu" {
            return t.skip("compares masu with runc");
        }
        let Some(peer) = peers()?.into_iter().find(|peer| peer.kind == "runc") else {
            return t.skip("runc is not installed to compare with");
        };
        let surroundings = Surroundings::new(t.path(), &t.payload)?;
        let _options = CgroupOptions::of_host()?;
        let mut differences = Vec::new();
        for name in BUNDLES {
            let mut bundle = surroundings.bundle(name, &t.path().join(name))?;
            bundle.args(["/bin/payload", "report"]).write()?;
            let ours = report(t, &t.runtime, &bundle).with_context(|| name.to_owned())?;
            let theirs = report(t, &peer, &bundle).with_context(|| name.to_owned())?;
            let is_like = |line: &str, parts: &str| {
                let mut rest = Some(line);
                parts.split('*').all(|part| {
                    rest = rest.and_then(|rest| rest.split_once(part)).map(|(_, after)| after);
                    rest.is_some()
                })
            };
            compare(name, &ours, &theirs, &mut |line| match KNOWN.iter().find(|(parts, _)| is_like(&line, parts)) {
                Some((_, reason)) => {
                    t.differs(t.runtime.kind, reason);
                }
                None => differences.push(line),
            });
        }
        ensure!(differences.is_empty(), "{} difference(s):\n{}", differences.len(), differences.join("\n"));
        Ok(())
    });
}
