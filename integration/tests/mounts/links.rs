//! Symbolic links at the source and at the destination of a mount.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::ensure;
use integration::{Test, check};

use super::at;

#[test]
fn symlinks_of_the_rootfs_lead_inside() {
    check(|t| {
        // SEC-mnt-1: a destination with a symbolic link that points outside is resolved inside the rootfs
        let canary = t.path().join("canary");
        fs::create_dir(&canary)?;
        let mut bundle = t.bundle()?;
        symlink(&canary, bundle.rootfs("absolute"))?;
        symlink("../../../../../../../../tmp", bundle.rootfs("upwards"))?;
        fs::create_dir(bundle.rootfs("middle"))?;
        symlink("/etc", bundle.rootfs("middle/link"))?;
        let inside = canary.to_string_lossy().into_owned();
        bundle.mount("/absolute/a", "tmpfs", "tmpfs", &[]).mount("/upwards/b", "tmpfs", "tmpfs", &[]);
        bundle.mount("/middle/link/c", "tmpfs", "tmpfs", &[]).mount("/../../../d", "tmpfs", "tmpfs", &[]);
        let dangling = t.differs("crun", "refuses a destination behind a dangling link");
        if dangling {
            bundle.unmount("/absolute/a");
        }
        let report = t.report(&mut bundle)?;
        for point in ["/tmp/b", "/etc/c", "/d"] {
            at(&report, point)?;
        }
        if !dangling {
            at(&report, &format!("{inside}/a"))?;
        }
        assert_eq!(fs::read_dir(&canary)?.count(), 0, "the folder outside was touched");
        ensure!(!std::path::Path::new("/tmp/b").exists() && !std::path::Path::new("/etc/c").exists(), "outside was touched");
        Ok(())
    });
}

#[test]
fn copy_symlink_makes_the_link_instead_of_a_mount() {
    check(|t| {
        if knows_no_words_for_links(t) {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        symlink("../some/where", bundle.path().join("link"))?;
        fs::write(bundle.path().join("file"), "text")?;
        let source = |name: &str| bundle.path().join(name).to_string_lossy().into_owned();
        let (link, file) = (source("link"), source("file"));
        // any other file is bound, and an existing equal symbolic link is accepted
        symlink("../some/where", bundle.rootfs("there"))?;
        bundle.mount("/a/b/link", "bind", &link, &["rbind", "copy-symlink"]).mount("/there", "bind", &link, &["bind", "copy-symlink"]);
        bundle.mount("/file", "bind", &file, &["bind", "copy-symlink"]);
        bundle.args(["/bin/payload", "stat", "/a/b/link", "/there", "then", "read", "/file"]);
        assert_eq!(t.run(&bundle)?.ok()?.stdout, "/a/b/link link ../some/where\n/there link ../some/where\ntext");
        for (destination, options) in [("/etc/passwd", ["bind", "copy-symlink", "ro"]), ("/x", ["bind", "copy-symlink", "src-nofollow"])] {
            let mut bundle = t.bundle()?;
            bundle.mount(destination, "bind", &link, &options);
            let error = t.run(&bundle)?;
            ensure!(!error.status.success() && error.stderr.contains(destination) || t.runtime.is("crun"), "{options:?}: {error:?}");
        }
        Ok(())
    });
}

#[test]
fn links_may_be_bound_themselves_and_upon() {
    check(|t| {
        if knows_no_words_for_links(t) {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        fs::write(bundle.path().join("file"), "text")?;
        symlink("file", bundle.path().join("link"))?;
        let link = bundle.path().join("link").to_string_lossy().into_owned();
        symlink("old", bundle.rootfs("upon"))?;
        symlink("/etc/passwd", bundle.rootfs("plain"))?;
        bundle.mount("/upon", "bind", &link, &["bind", "src-nofollow", "dest-nofollow"]);
        bundle.mount("/plain", "bind", &link, &["bind", "dest-nofollow"]);
        bundle.args(["/bin/payload", "stat", "/upon", "/plain", "then", "read", "/plain"]);
        let seen = t.run(&bundle)?.ok()?.stdout;
        ensure!(seen.starts_with("/upon link file\n/plain file 4 ") && seen.ends_with("\ntext"), "{seen}");
        Ok(())
    });
}

#[test]
fn a_link_into_proc_or_sysfs_is_no_destination() {
    check(|t| {
        if knows_no_words_for_links(t) {
            return Ok(());
        }
        let bundle = t.bundle()?;
        for target in ["/proc/self/environ", "/sys/kernel"] {
            let mut bundle = bundle.clone();
            bundle.mount(target, "bind", "/tmp", &["bind", "dest-nofollow"]);
            let output = t.run(&bundle)?;
            ensure!(!output.status.success() && output.stderr.contains(target), "{output:?}");
        }
        Ok(())
    });
}

/// Only crun and masu have the options of these tests.
pub(crate) fn knows_no_words_for_links(t: &Test) -> bool {
    t.differs("runc", "does not know copy-symlink, src-nofollow and dest-nofollow")
        || t.differs("crun<1.9", "knows them not all, or without care")
}
