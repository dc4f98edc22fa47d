//! Propagation of mounts and of the root.

use std::fs;

use anyhow::{Context, Result, ensure};
use integration::{Bundle, Container, check, host};
use serde_json::json;

use super::{HostMount, at};

#[test]
fn propagation() {
    check(|t| {
        let source = t.path().join("source");
        fs::create_dir(&source)?;
        let _mount = HostMount::tmpfs(&source)?;
        rustix::mount::mount_change(&source, rustix::mount::MountPropagationFlags::SHARED)?;
        let source = source.to_string_lossy().into_owned();
        let mut bundle = t.bundle()?;
        // shared, because otherwise the caller's mounts become slaves, and bind mounts of them too
        bundle.set("/linux/rootfsPropagation", json!("shared"));
        for option in ["private", "slave", "shared", "unbindable", "rprivate", "rslave", "rshared", "runbindable"] {
            bundle.mount(&format!("/{option}"), "bind", &source, &["rbind", option]);
        }
        let report = t.report(&mut bundle)?;
        let tags = |option: &str| -> Result<String> {
            let tags = at(&report, &format!("/{option}"))?["propagation"].clone();
            let words: Vec<_> = tags.as_array().into_iter().flatten().filter_map(|tag| tag.as_str()?.split(':').next()).collect();
            Ok(words.join(" "))
        };
        for (option, expected) in [("private", ""), ("slave", "master"), ("unbindable", "unbindable")] {
            assert_eq!(tags(option)?, expected, "{option}");
            assert_eq!(tags(&format!("r{option}"))?, expected, "r{option}");
        }
        for option in ["shared", "rshared"] {
            ensure!(tags(option)?.contains("shared"), "{option}: {}", tags(option)?);
        }
        Ok(())
    });
}

#[test]
fn propagation_of_the_rootfs() {
    check(|t| {
        for (mode, expected) in [("private", ""), ("rslave", ""), ("shared", "shared"), ("unbindable", "unbindable")] {
            let mut bundle = t.bundle()?;
            bundle.set("/linux/rootfsPropagation", json!(mode));
            let report = t.report(&mut bundle)?;
            let root = at(&report, "/")?;
            let tags = root["propagation"].to_string();
            // a slave whose peer group has no other member has no tag
            ensure!(if expected.is_empty() { !tags.contains("shared") } else { tags.contains(expected) }, "{mode}: {tags}");
        }
        Ok(())
    });
}

/// As with /tmp under systemd. Without `r` the option changes only the root mount, not the mounts below it.
#[test]
fn the_rootfs_may_be_in_a_mount_of_its_own_that_is_shared() {
    check(|t| {
        let place = t.path().join("place");
        fs::create_dir(&place)?;
        let _mount = HostMount::tmpfs(&place)?;
        rustix::mount::mount_change(&place, rustix::mount::MountPropagationFlags::SHARED)?;
        for mode in ["private", "slave", "shared", "unbindable", "rprivate", "rslave", "rshared", "runbindable"] {
            let mut bundle = Bundle::new(&place.join(mode), &t.payload)?;
            // an unbindable mount cannot be the source of a bind
            bundle.unset("/linux/maskedPaths").unset("/linux/readonlyPaths");
            bundle.args(["/bin/sleep"]).set("/linux/rootfsPropagation", json!(mode)).write()?;
            let container = Container::create(t, &bundle).with_context(|| mode)?;
            let leaked = host::mounts_with(&bundle.path().to_string_lossy());
            ensure!(leaked.is_empty(), "{mode}: on the host: {leaked:?}");
            drop(container);
        }
        Ok(())
    });
}

#[test]
fn what_the_host_mounts_in_the_rootfs_later_stays_outside() {
    check(|t| {
        let place = t.path().join("place");
        fs::create_dir(&place)?;
        let _mount = HostMount::tmpfs(&place)?;
        rustix::mount::mount_change(&place, rustix::mount::MountPropagationFlags::SHARED)?;
        let mut bundle = Bundle::new(&place.join("bundle"), &t.payload)?;
        fs::create_dir(bundle.rootfs("later"))?;
        bundle.args(["/bin/sleep"]).write()?;
        let container = Container::start_of(t, &bundle)?;
        let _later = HostMount::tmpfs(&bundle.rootfs("later"))?;
        fs::write(bundle.rootfs("later/secret"), "secret")?;
        assert_eq!(container.exec(&[], ["/bin/payload", "stat", "/later/secret"])?.stdout.trim(), "/later/secret ENOENT");
        Ok(())
    });
}

/// In a mount namespace with shared mounts, as on a host, but without other processes.
#[test]
fn sec_mnt_without_pivot_root_the_host_keeps_proc() {
    check(|t| {
        for mode in ["", "slave", "shared", "rshared"] {
            let mut bundle = t.bundle()?;
            if !mode.is_empty() {
                bundle.set("/linux/rootfsPropagation", json!(mode));
            }
            bundle.args(["/bin/true"]).write()?;
            let path = bundle.path().to_string_lossy().into_owned();
            // a second mount over the first, which must also stay
            let script = "mount -t proc again /proc && mount --make-rshared / && \"$@\" && test -d /sys/kernel && \
                          grep -q '^again /proc ' /proc/mounts";
            let command = t.under(
                &["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"],
                ["run", "--no-pivot", "--bundle", &path, &t.new_id()],
            )?;
            let output = t.finish(command)?;
            if mode.ends_with("shared") && (t.differs("runc", "unmounts it") || t.differs("crun", "unmounts it")) {
                continue;
            }
            output.ok().with_context(|| format!("{mode:?}"))?;
        }
        Ok(())
    });
}
