//! The guard over the host: it must see what a runtime would leave behind, or all other tests prove nothing.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use integration::host::{Host, only_empty_folders, processes_with};
use integration::{Test, check};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// The guard must complain of `what` while `leave` holds, and not after `clean`.
fn seen<T>(t: &Test, what: &str, leave: impl FnOnce() -> Result<T>, clean: impl FnOnce(T) -> Result<()>) -> Result<()> {
    let before = Host::look(t.token())?;
    let left = leave()?;
    let found = Host::look(t.token())?.same_as(&before);
    clean(left)?;
    let text = found.err().with_context(|| format!("{what} left behind is not seen"))?.to_string();
    ensure!(text.contains(what), "{text}");
    Host::look(t.token())?.same_as(&before)
}

#[test]
fn sees_a_mount() {
    check(|t| {
        let point = t.path().join("mount");
        fs::create_dir(&point)?;
        let make = || Ok(mount("tmpfs", &point, "tmpfs", MountFlags::empty(), None)?);
        seen(t, "mounts", make, |()| Ok(unmount(&point, UnmountFlags::DETACH)?))
    });
}

#[test]
fn sees_a_cgroup() {
    check(|t| {
        let hierarchy = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/memory", "/sys/fs/cgroup"]
            .into_iter()
            .find(|path| fs::exists(format!("{path}/cgroup.procs")).unwrap_or_default());
        let Some(hierarchy) = hierarchy else { return t.skip("no cgroups") };
        let group = format!("{hierarchy}/{}-left", t.token());
        seen(t, "cgroups", || Ok(fs::create_dir(&group)?), |()| Ok(fs::remove_dir(&group)?))
    });
}

#[test]
fn sees_a_process() {
    check(|t| {
        let start = || {
            let mut command = Command::new(&t.payload);
            command.args(["deaf", "USR1", "then", "sleep"]).env("ID", t.token()).stdin(Stdio::null()).stdout(Stdio::piped());
            let mut child = command.spawn()?;
            // once it says so, its environment is in place
            child.stdout.take().context("its output")?.read_exact(&mut [0; 6])?;
            Ok(child)
        };
        let end = |mut child: std::process::Child| -> Result<()> {
            child.kill()?;
            child.wait()?;
            Ok(())
        };
        seen(t, "processes", start, end)?;
        ensure!(processes_with(t.token()).is_empty(), "processes");
        Ok(())
    });
}

#[test]
fn sees_a_file_in_the_state_directory() {
    check(|t| {
        let folder = t.root().join("folder");
        fs::create_dir(&folder)?;
        only_empty_folders(&t.root())?;
        let file = folder.join("left");
        fs::write(&file, "")?;
        ensure!(only_empty_folders(&t.root()).is_err(), "a file left behind is not seen");
        fs::remove_file(&file)?;
        fs::remove_dir(&folder)?;
        fs::create_dir(t.root().join(t.new_id()))?;
        ensure!(only_empty_folders(&t.root()).is_err(), "a container's folder left behind is not seen");
        for entry in fs::read_dir(t.root())? {
            fs::remove_dir(entry?.path())?;
        }
        Ok(())
    });
}
