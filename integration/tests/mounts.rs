//! Mounts as the container sees them: kinds, options, propagation, masks, devices.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Context, Result, ensure};
use integration::{Bundle, Test, check};
use serde_json::{Value, json};

/// The mount at `point` that is on top, in what the payload reports.
fn at<'r>(report: &'r Value, point: &str) -> Result<&'r Value> {
    let mounts = report["mounts"].as_array().context("mounts")?;
    mounts.iter().rev().find(|mount| mount["point"] == point).with_context(|| format!("no mount at {point}"))
}

fn has(mount: &Value, list: &str, option: &str) -> bool {
    mount[list].as_array().into_iter().flatten().any(|own| own == option)
}

#[test]
fn the_mounts_of_the_config_and_no_others() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.unset("/linux/maskedPaths").unset("/linux/readonlyPaths");
        let report = t.report(&mut bundle)?;
        let seen: Vec<_> = report["mounts"].as_array().into_iter().flatten().map(|mount| (&mount["point"], &mount["type"])).collect();
        let kinds = ["proc", "tmpfs", "devpts", "tmpfs", "mqueue", "sysfs"];
        let points = ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"];
        assert_eq!(seen.len(), 1 + points.len(), "{seen:?}");
        for (point, kind) in points.iter().zip(kinds) {
            assert_eq!(at(&report, point)?["type"], kind, "{point}");
        }
        let proc = at(&report, "/proc")?;
        ensure!(has(proc, "options", "nosuid") && has(proc, "options", "noexec") && has(proc, "options", "nodev"), "{proc}");
        let dev = at(&report, "/dev")?;
        ensure!(has(dev, "super", "mode=755") && has(dev, "super", "size=65536k") && has(dev, "options", "nosuid"), "{dev}");
        ensure!(has(at(&report, "/sys")?, "options", "ro"), "sysfs can be written");
        assert_eq!(report["dev"]["shm"], "dir 1777 0:0");
        Ok(())
    });
}

/// Options of a bind mount, and which per-mount flags it has then and has not.
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
        // a second tmpfs must not take over the first one's
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
fn a_tmpfs_takes_the_mode_of_its_mount_point() {
    check(|t| {
        use std::os::unix::fs::PermissionsExt;
        let mut bundle = t.bundle()?;
        fs::create_dir(bundle.rootfs("own"))?;
        fs::set_permissions(bundle.rootfs("own"), fs::Permissions::from_mode(0o1750))?;
        bundle.mount("/own", "tmpfs", "tmpfs", &[]).args(["/bin/payload", "stat", "/own"]);
        assert_eq!(t.run(&bundle)?.ok()?.stdout, "/own dir 1750 0:0\n");
        Ok(())
    });
}

#[test]
fn tmpcopyup_keeps_what_was_there() {
    check(|t| {
        let mut bundle = t.bundle()?;
        fs::create_dir(bundle.rootfs("own"))?;
        fs::write(bundle.rootfs("own/file"), "text")?;
        symlink("file", bundle.rootfs("own/link"))?;
        bundle.mount("/own", "tmpfs", "tmpfs", &["tmpcopyup"]);
        bundle.args(["/bin/payload", "read", "/own/link", "then", "write", "/own/file", "changed"]);
        assert_eq!(t.run(&bundle)?.ok()?.stdout, "text");
        assert_eq!(fs::read_to_string(bundle.rootfs("own/file"))?, "text");
        Ok(())
    });
}

#[test]
fn binds_of_files_folders_and_relative_sources() {
    check(|t| {
        let mut bundle = t.bundle()?;
        fs::create_dir(bundle.path().join("folder"))?;
        fs::write(bundle.path().join("folder/a"), "A")?;
        fs::write(bundle.path().join("file"), "B")?;
        bundle.mount("/x/y/folder", "bind", "folder", &["bind", "ro"]);
        bundle.mount("/x/file", "none", &bundle.path().join("file").to_string_lossy(), &["rbind"]);
        bundle.args([
            "/bin/payload",
            "read",
            "/x/y/folder/a",
            "then",
            "read",
            "/x/file",
            "then",
            "try-write",
            "/x/y/folder/new",
            "then",
            "append",
            "/x/file",
            "C",
        ]);
        assert_eq!(t.run(&bundle)?.ok()?.stdout, "AB/x/y/folder/new EROFS\n");
        assert_eq!(fs::read_to_string(bundle.path().join("file"))?, "BC");
        // mount points that were missing stay in the rootfs, as an empty folder and an empty file
        ensure!(bundle.rootfs("x/y/folder").is_dir() && bundle.rootfs("x/file").is_file(), "mount points");
        Ok(())
    });
}

#[test]
fn a_destination_may_carry_the_path_of_the_rootfs() {
    check(|t| {
        if t.differs("runc<1.2", "takes it for a path inside, after it has made it where it is") {
            return Ok(());
        }
        let mut bundle = report_bundle(t)?;
        let there = bundle.rootfs("tmp/there").to_string_lossy().into_owned();
        bundle.mount(&there, "tmpfs", "mine", &[]);
        let report = t.report(&mut bundle)?;
        if t.differs("crun", "takes it for a path inside") {
            return Ok(());
        }
        assert_eq!(at(&report, "/tmp/there")?["source"], "mine");
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

#[test]
fn propagation() {
    check(|t| {
        let source = t.path().join("source");
        fs::create_dir(&source)?;
        let _mount = HostMount::tmpfs(&source)?;
        rustix::mount::mount_change(&source, rustix::mount::MountPropagationFlags::SHARED)?;
        let source = source.to_string_lossy().into_owned();
        let mut bundle = t.bundle()?;
        // the caller's own mounts become slaves otherwise, and all that is bound from them
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
            // a slave of a group that has no one else has no tag
            ensure!(if expected.is_empty() { !tags.contains("shared") } else { tags.contains(expected) }, "{mode}: {tags}");
        }
        Ok(())
    });
}

#[test]
fn a_read_only_rootfs_with_its_mounts_writable() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.set("/root/readonly", json!(true)).mount("/tmp", "tmpfs", "tmpfs", &[]);
        bundle.args([
            "/bin/payload",
            "try-write",
            "/new",
            "then",
            "try-write",
            "/etc/passwd",
            "then",
            "try-write",
            "/tmp/new",
            "then",
            "try-write",
            "/dev/new",
        ]);
        assert_eq!(t.run(&bundle)?.ok()?.stdout, "/new EROFS\n/etc/passwd EROFS\n/tmp/new ok\n/dev/new ok\n");
        Ok(())
    });
}

#[test]
fn masked_and_read_only_paths() {
    check(|t| {
        let mut bundle = t.bundle()?;
        fs::write(bundle.rootfs("etc/secret"), "secret")?;
        fs::create_dir(bundle.rootfs("hidden"))?;
        fs::write(bundle.rootfs("hidden/file"), "secret")?;
        fs::create_dir(bundle.rootfs("kept"))?;
        bundle.set("/linux/maskedPaths", json!(["/etc/secret", "/hidden", "/no/such", "/proc/version", "/proc/tty", "/sys/kernel"]));
        bundle.set("/linux/readonlyPaths", json!(["/kept", "/proc/sys", "/no/such", "/proc/fs"]));
        bundle.args([
            "/bin/payload",
            "read",
            "/etc/secret",
            "then",
            "ls",
            "/hidden",
            "then",
            "read",
            "/proc/version",
            "then",
            "ls",
            "/proc/tty",
            "then",
            "ls",
            "/sys/kernel",
            "then",
            "try-write",
            "/kept/new",
            "then",
            "try-write",
            "/proc/sys/kernel/hostname",
            "then",
            "try-mkdir",
            "/hidden/new",
            "then",
            "try-put",
            "/etc/secret",
            "x",
        ]);
        let seen = t.run(&bundle)?.ok()?.stdout;
        // three empty folders, two empty files, three read-only places
        let start = "\n\n\n/kept/new EROFS\n/proc/sys/kernel/hostname EROFS\n";
        ensure!(seen.starts_with(start), "{seen}");
        // the mask of a folder cannot be written; why, is the runtime's business
        ensure!(!seen.contains("/hidden/new ok"), "{seen}");
        assert_eq!(fs::read_to_string(bundle.rootfs("etc/secret"))?, "secret");
        Ok(())
    });
}

#[test]
fn symlinks_of_the_rootfs_lead_inside() {
    check(|t| {
        // SEC-mnt-1: targets that lead out of the rootfs by a link are found in it
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
fn lxcfs_may_stand_in_for_its_files_of_proc() {
    check(|t| {
        let mut bundle = t.bundle()?;
        fs::write(bundle.path().join("fake"), "fake\n")?;
        for name in ["cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg"] {
            bundle.mount(&format!("/proc/{name}"), "bind", "fake", &["bind", "ro"]);
        }
        bundle.args(["/bin/payload", "read", "/proc/uptime", "then", "read", "/proc/meminfo"]);
        assert_eq!(t.run(&bundle)?.ok()?.stdout, "fake\nfake\n");
        Ok(())
    });
}

#[test]
fn without_pivot_root() {
    check(|t| {
        let bundle = report_bundle(t)?;
        let path = bundle.path().to_string_lossy().into_owned();
        let report = t.runtime(["run", "--no-pivot", "--bundle", &path, &t.new_id()])?.ok()?.json()?;
        assert_eq!(at(&report, "/proc")?["type"], "proc");
        assert_eq!(report["cwd"], "/");
        Ok(())
    });
}

fn report_bundle(t: &Test) -> Result<Bundle> {
    let mut bundle = t.bundle()?;
    bundle.args(["/bin/payload", "report"]).write()?;
    Ok(bundle)
}

/// A mount that the test makes on the host, below its own folder; unmounted on drop.
struct HostMount(std::path::PathBuf);

impl HostMount {
    fn tmpfs(point: &std::path::Path) -> Result<Self> {
        rustix::mount::mount("tmpfs", point, "tmpfs", rustix::mount::MountFlags::empty(), None).context("mount a tmpfs on the host")?;
        Ok(Self(point.to_owned()))
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}
