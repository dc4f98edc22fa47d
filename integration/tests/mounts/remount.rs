//! The option `remount`: changes flags and options of an earlier mount of the config.

use std::fs;

use anyhow::{Context, ensure};
use integration::check;

use super::{at, has};

#[test]
fn remount_changes_what_is_mounted_and_mounts_nothing() {
    check(|t| {
        let source = t.path().join("source");
        fs::create_dir(&source)?;
        let source = source.to_string_lossy().into_owned();
        let mut bundle = t.bundle()?;
        bundle.mount("/bound", "bind", &source, &["bind", "nosuid"]).mount("/bound", "bind", &source, &["bind", "remount", "ro"]);
        let last = "makes read-only in the end what was to be so at first";
        let first: &[&str] = if t.differs("runc", last) || t.differs("crun", last) { &["nosuid"] } else { &["nosuid", "ro"] };
        bundle.mount("/own", "tmpfs", "tmpfs", first);
        bundle.mount("/own", "tmpfs", "tmpfs", &["remount", "noexec", "size=128k"]);
        // mounts inside the remounted one are made while it is still writable
        bundle.mount("/last", "tmpfs", "tmpfs", &[]).mount("/last/a", "tmpfs", "tmpfs", &["nodev"]);
        bundle.mount("/last", "tmpfs", "tmpfs", &["remount", "ro", "size=64k"]).mount("/last/b", "tmpfs", "tmpfs", &[]);
        let report = t.report(&mut bundle)?;
        for (point, with, without) in [
            ("/bound", &["ro"][..], &["rw", "nosuid"][..]),
            ("/own", &["rw", "noexec"], &["ro", "nosuid"]),
            ("/last", &["ro"], &["rw"]),
            ("/last/a", &["rw", "nodev"], &["ro"]),
            ("/last/b", &["rw"], &["ro"]),
        ] {
            let mounts = report["mounts"].as_array().context("mounts")?.iter().filter(|mount| mount["point"] == point).count();
            assert_eq!(mounts, 1, "{point}");
            let mount = at(&report, point)?;
            ensure!(with.iter().all(|flag| has(mount, "options", flag)), "{point} without one of {with:?}: {mount}");
            ensure!(!without.iter().any(|flag| has(mount, "options", flag)), "{point} with one of {without:?}: {mount}");
        }
        for (point, size) in [("/own", "size=128k"), ("/last", "size=64k")] {
            let mount = at(&report, point)?;
            ensure!(has(mount, "super", size), "{point} without {size}: {mount}");
        }
        Ok(())
    });
}

#[test]
fn remount_needs_an_earlier_mount() {
    check(|t| {
        for (kind, options) in [("bind", &["bind", "remount", "ro"][..]), ("tmpfs", &["remount", "ro"])] {
            let mut bundle = t.bundle()?;
            bundle.mount("/tmp", kind, &t.path().to_string_lossy(), options);
            t.run(&bundle)?.fails_with("nvalid argument")?;
        }
        Ok(())
    });
}

#[test]
fn remount_gives_no_file_system_of_the_host_other_options() {
    check(|t| {
        if t.differs("runc", "would change the host's own file system") || t.differs("crun", "would change the host's own file system") {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        let source = t.path().to_string_lossy().into_owned();
        bundle.mount("/bound", "bind", &source, &["bind"]).mount("/bound", "none", &source, &["remount", "sync"]);
        t.run(&bundle)?.fails_with("sync: the file system there is the host's as well")?;
        Ok(())
    });
}
