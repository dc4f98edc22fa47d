//! Flags of mounts: bind mounts, file systems, and recursive flags.

use std::fs;

use anyhow::{Context, ensure};
use integration::check;
use rustix::mount::MountFlags;
use serde_json::Value;

use super::{HostMount, at, has};

/// Options of a bind mount, the resulting mount flags, and flags that must be absent.
const FLAGS: [(&[&str], &[&str], &[&str]); 22] = [
    (&[], &["rw", "relatime"], &["ro", "nosuid", "nodev", "noexec"]),
    (&["ro"], &["ro"], &["rw"]),
    (&["ro", "rw"], &["rw"], &["ro"]),
    (&["rw", "ro"], &["ro"], &["rw"]),
    (&["nosuid"], &["nosuid"], &[]),
    (&["nosuid", "suid"], &[], &["nosuid"]),
    (&["nodev"], &["nodev"], &[]),
    (&["nodev", "dev"], &[], &["nodev"]),
    (&["noexec"], &["noexec"], &[]),
    (&["noexec", "exec"], &[], &["noexec"]),
    (&["noatime"], &["noatime"], &["relatime"]),
    (&["noatime", "atime"], &[], &["noatime"]),
    (&["strictatime"], &[], &["relatime", "noatime"]),
    (&["relatime"], &["relatime"], &["noatime"]),
    (&["nodiratime"], &["nodiratime"], &[]),
    (&["nodiratime", "diratime"], &[], &["nodiratime"]),
    (&["nosymfollow"], &["nosymfollow"], &[]),
    (&["nosymfollow", "symfollow"], &[], &["nosymfollow"]),
    (&["ro", "nosuid", "nodev", "noexec", "noatime"], &["ro", "nosuid", "nodev", "noexec", "noatime"], &[]),
    (&["defaults"], &["rw"], &["ro"]),
    (&["rro"], &["ro"], &["rw"]),
    (&["rnosuid", "rnodev", "rnoexec"], &["nosuid", "nodev", "noexec"], &[]),
];

#[test]
fn flags_of_bind_mounts() {
    check(|t| {
        let source = t.path().join("source");
        fs::create_dir(&source)?;
        // flags that the bind does not name stay as in the source
        let _source = HostMount::tmpfs(&source)?;
        let mut bundle = t.bundle()?;
        let crun = t.differs("crun", "does not know symfollow, and of opposite options of a bind takes the one that restricts");
        let runc = t.differs("runc", "takes defaults on a bind for an option of the file system");
        let mut expected = Vec::new();
        for (index, (options, with, without)) in FLAGS.iter().enumerate() {
            if crun && (options.contains(&"nosymfollow") || options.len() == 2) || runc && options.contains(&"defaults") {
                continue;
            }
            let mut all = vec!["bind"];
            all.extend(*options);
            let point = format!("/mnt{index}");
            bundle.mount(&point, "bind", &source.to_string_lossy(), &all);
            expected.push((point, options, with, without));
        }
        let report = t.report(&mut bundle)?;
        for (point, options, with, without) in expected {
            let mount = at(&report, &point)?;
            for flag in *with {
                ensure!(has(mount, "options", flag), "bind,{options:?} lacks {flag}: {mount}");
            }
            for flag in *without {
                ensure!(!has(mount, "options", flag), "bind,{options:?} has {flag}: {mount}");
            }
        }
        Ok(())
    });
}

#[test]
fn flags_of_file_systems() {
    check(|t| {
        let mut bundle = t.bundle()?;
        // the second tmpfs must not share the first one's superblock
        bundle.mount("/a", "tmpfs", "tmpfs", &["ro", "noexec", "size=1m", "mode=1700", "uid=5"]);
        bundle.mount("/b", "tmpfs", "named", &["nosuid", "nodev", "noatime", "nr_inodes=10"]);
        bundle.mount("/c", "tmpfs", "tmpfs", &["sync", "dirsync"]);
        bundle.args(["/bin/payload", "report", "then", "stat", "/a", "/b"]);
        let output = t.run(&bundle)?.ok()?.stdout;
        let (report, stat) = output.split_once('\n').context("two lines")?;
        let report: Value = serde_json::from_str(report)?;
        let a = at(&report, "/a")?;
        ensure!(has(a, "options", "ro") && has(a, "options", "noexec") && has(a, "super", "size=1024k"), "{a}");
        let b = at(&report, "/b")?;
        ensure!(has(b, "options", "nosuid") && has(b, "options", "noatime") && has(b, "super", "nr_inodes=10"), "{b}");
        assert_eq!(b["source"], "named");
        ensure!(has(at(&report, "/c")?, "super", "sync") && has(at(&report, "/c")?, "super", "dirsync"), "{report}");
        ensure!(stat.contains("/a dir 1700 5:0") && stat.contains("/b dir 1777 0:0") || stat.contains("/b dir 755 0:0"), "{stat}");
        Ok(())
    });
}

#[test]
fn recursive_and_plain_binds_of_a_tree_of_mounts() {
    check(|t| {
        let source = t.path().join("source");
        fs::create_dir_all(source.join("inner"))?;
        let _inner = HostMount::tmpfs(&source.join("inner"))?;
        fs::write(source.join("inner/file"), "x")?;
        let source = source.to_string_lossy().into_owned();
        let mut bundle = t.bundle()?;
        bundle.mount("/plain", "bind", &source, &["bind", "ro"]).mount("/tree", "bind", &source, &["rbind", "ro"]);
        bundle.mount("/all", "bind", &source, &["rbind", "rro"]).mount("/noexec", "bind", &source, &["rbind", "rnoexec", "noatime"]);
        let report = t.report(&mut bundle)?;
        ensure!(at(&report, "/plain/inner").is_err(), "a plain bind takes what is mounted below along");
        ensure!(has(at(&report, "/tree")?, "options", "ro") && has(at(&report, "/tree/inner")?, "options", "rw"), "ro is not recursive");
        ensure!(has(at(&report, "/all")?, "options", "ro") && has(at(&report, "/all/inner")?, "options", "ro"), "rro is recursive");
        let inner = at(&report, "/noexec/inner")?;
        ensure!(has(inner, "options", "noexec") && !has(inner, "options", "noatime"), "{inner}");
        Ok(())
    });
}

/// Flags of the source, options of the bind besides `bind`, the resulting flags, and flags that must be absent. Without any flag
/// option the source's flags stay. Access times stay unless an option changes them.
const FLAGS_OF_SOURCES: [(MountFlags, Words, Words, Words); 9] = [
    (RESTRICTED, &[], &["ro", "nosuid", "nodev", "noexec", "nosymfollow"], &["rw"]),
    (RESTRICTED, &["rprivate"], &["ro", "nosuid", "nodev", "noexec", "nosymfollow"], &["rw"]),
    (RESTRICTED, &["rw"], &["rw"], &["ro", "nosuid", "nodev", "noexec", "nosymfollow"]),
    (RESTRICTED, &["dev"], &["rw"], &["ro", "nosuid", "nodev", "noexec", "nosymfollow"]),
    (RESTRICTED, &["noexec", "ro"], &["noexec", "ro"], &["nosuid", "nodev", "nosymfollow"]),
    (MountFlags::NOATIME, &["ro", "atime"], &["ro", "noatime"], &["relatime"]),
    (MountFlags::NOATIME, &["relatime"], &["relatime"], &["noatime"]),
    (MountFlags::NOATIME, &["nodiratime"], &["nodiratime", "relatime"], &["noatime"]),
    (MountFlags::NODIRATIME, &["strictatime"], &["rw"], &["nodiratime", "relatime", "noatime"]),
];
type Words = &'static [&'static str];
const RESTRICTED: MountFlags = MountFlags::RDONLY
    .union(MountFlags::NOSUID)
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC)
    .union(MountFlags::from_bits_retain(libc::MS_NOSYMFOLLOW as u32));

#[test]
fn flags_of_the_source_of_a_bind() {
    check(|t| {
        if t.differs("runc<1.2", "keeps the flags of the source when it can") || t.differs("crun", "keeps flags of the source") {
            return Ok(());
        }
        let source = t.path().join("source");
        fs::create_dir(&source)?;
        let mount = HostMount::tmpfs(&source)?;
        for (flags, options, with, without) in FLAGS_OF_SOURCES {
            mount.flags(flags)?;
            let mut bundle = t.bundle()?;
            let mut all = vec!["bind"];
            all.extend(options);
            bundle.mount("/mnt", "bind", &source.to_string_lossy(), &all);
            let report = t.report(&mut bundle)?;
            let mount = at(&report, "/mnt")?;
            for flag in with {
                ensure!(has(mount, "options", flag), "bind,{options:?} of {flags:?} lacks {flag}: {mount}");
            }
            for flag in without {
                ensure!(!has(mount, "options", flag), "bind,{options:?} of {flags:?} has {flag}: {mount}");
            }
        }
        Ok(())
    });
}

#[test]
fn flags_of_superblocks_leave_a_bind_as_it_is() {
    check(|t| {
        let source = t.path().join("source");
        fs::create_dir(&source)?;
        let mut bundle = t.bundle()?;
        bundle.mount("/mnt", "bind", &source.to_string_lossy(), &["bind", "sync", "nolazytime", "silent", "noiversion"]);
        if t.differs("crun", "does not know nolazytime, silent and noiversion") {
            return Ok(());
        }
        let report = t.report(&mut bundle)?;
        ensure!(!has(at(&report, "/mnt")?, "super", "sync"), "{report}");
        Ok(())
    });
}

#[test]
fn recursive_words_of_crun() {
    check(|t| {
        if t.differs("runc", "does not know them") || t.differs("crun", "fails with them, but on a bind") {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.mount("/a", "tmpfs", "tmpfs", &["rsync", "rdirsync"]).mount("/b", "tmpfs", "tmpfs", &["rasync", "rnomand"]);
        let report = t.report(&mut bundle)?;
        ensure!(has(at(&report, "/a")?, "super", "sync"), "{report}");
        ensure!(!has(at(&report, "/b")?, "super", "sync"), "{report}");
        Ok(())
    });
}

#[test]
fn a_cgroup_mount_is_read_only_by_rro_too() {
    check(|t| {
        if t.differs("runc", "has no recursive flags for it") || t.differs("crun", "has other points below it") {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rro", "nosuid"]);
        let report = t.report(&mut bundle)?;
        let mounts: Vec<_> = report["mounts"].as_array().into_iter().flatten().collect();
        let below = mounts.iter().filter(|mount| mount["point"].as_str().is_some_and(|point| point.starts_with("/sys/fs/cgroup")));
        let (mut seen, mut writable) = (0, Vec::new());
        for mount in below {
            seen += 1;
            if !has(mount, "options", "ro") {
                writable.push(mount);
            }
        }
        ensure!(seen > 0 && writable.is_empty(), "{seen} cgroup mounts, writable: {writable:?}");
        Ok(())
    });
}
