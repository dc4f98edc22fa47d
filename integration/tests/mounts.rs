//! The mounts of a container, as it sees them.

#[path = "mounts/flags.rs"]
mod flags;
#[path = "mounts/id_mapped.rs"]
mod id_mapped;
#[path = "mounts/in_user_namespace.rs"]
mod in_user_namespace;
#[path = "mounts/links.rs"]
mod links;
#[path = "mounts/masks.rs"]
mod masks;
#[path = "mounts/propagation.rs"]
mod propagation;
#[path = "mounts/remount.rs"]
mod remount;

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Context, Result, ensure};
use integration::{Bundle, Test, check};
use rustix::mount::MountFlags;
use serde_json::Value;

/// The topmost mount at `point` in the payload's report.
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
        // missing mount points stay in the rootfs, as an empty directory and an empty file
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

/// A mount on the host, below the test's own directory. Dropping this unmounts it.
struct HostMount(std::path::PathBuf);

impl HostMount {
    fn tmpfs(point: &std::path::Path) -> Result<Self> {
        rustix::mount::mount("tmpfs", point, "tmpfs", MountFlags::empty(), None).context("mount a tmpfs on the host")?;
        Ok(Self(point.to_owned()))
    }

    /// Sets exactly these flags.
    fn flags(&self, flags: MountFlags) -> Result<()> {
        rustix::mount::mount_remount(&self.0, MountFlags::BIND | flags, "").context("change the flags of a mount on the host")
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}
