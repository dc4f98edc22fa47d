//! The v1 hierarchies: cpusets, the device lists, the freezer.
//!
//! Runs in the runtime. The kernel's admin-guide/cgroup-v1: cpusets.rst, devices.rst, freezer-subsystem.rst.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::devices::Devices;
use super::settings::Dir;
use super::v2::FREEZE_TIME;
use super::{file, tree};
use crate::error::{Doing, Error, Kind, Result};

/// Fills the cpuset files `wanted` of `dir` from its parent, because no process can enter an empty cpuset. The files that are
/// not `wanted` are about to be written. An empty parent is filled first. `dir` is `depth` levels below the mount.
pub(super) fn inherit_cpuset(dir: Dir<'_>, depth: usize, wanted: &[&str]) -> Result<()> {
    let inherit = |from: BorrowedFd<'_>, file: &str| effective(from, file, depth.saturating_sub(1));
    let doing = |file: &str| format!("inherit {file} for {}", dir.path);
    let parent = file::open_child(dir.fd, c"..").doing(|| format!("open the parent of {}", dir.path))?;
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let value = inherit(parent.as_fd(), name).doing(|| doing(name))?;
        if wanted.contains(&name) {
            file::write(dir.fd, name, &value).doing(|| format!("write {value} to {name} of {}", dir.path))?;
        }
    }
    Ok(())
}

/// The value of a cpuset file. An empty file is first filled from its parent.
fn effective(dir: BorrowedFd<'_>, file: &str, depth: usize) -> Result<String, Errno> {
    let value = file::read_short(dir, file)?;
    if depth == 0 || !value.trim().is_empty() {
        return Ok(value.trim().to_owned());
    }
    let value = effective(file::open_child(dir, c"..")?.as_fd(), file, depth - 1)?;
    file::write(dir, file, &value)?;
    Ok(value)
}

/// Writes the device lists of a cgroup without processes, because for a moment all access is denied or allowed.
pub(super) fn write_devices(dir: Dir<'_>, devices: &Devices) -> Result<()> {
    write_lines(dir, devices.v1_lines())
}

/// Changes the device lists from `from` to `to`. If a line is refused, changes them back.
pub(super) fn change_devices(dir: Dir<'_>, from: &Devices, to: &Devices) -> Result<()> {
    let result = write_lines(dir, from.v1_changes(to).into_iter());
    if result.is_err() {
        // best effort: the caller gets the first error
        for line in to.v1_changes(from) {
            let _ = write_lines(dir, std::iter::once(line));
        }
    }
    result
}

fn write_lines(dir: Dir<'_>, lines: impl Iterator<Item = (bool, String)>) -> Result<()> {
    let open = |name: &str| file::open(dir.fd, name, OFlags::WRONLY).doing(|| format!("open {name} of {}", dir.path));
    let (allow, deny) = (open("devices.allow")?, open("devices.deny")?);
    for (allowed, line) in lines {
        let (file, name) = if allowed { (&allow, "devices.allow") } else { (&deny, "devices.deny") };
        file::write_open(file.as_fd(), &line).doing(|| format!("write {line:?} to {name} of {}", dir.path))?;
    }
    Ok(())
}

/// Freezes the cgroup; if that fails, thaws it.
///
/// A v1 freezer can stay in state FREEZING if tasks are made in the cgroup faster than the kernel walks them, or are moved
/// into it. The kernel's documentation advised to write FROZEN again. No event tells when all tasks are frozen, so this
/// polls, at first without a pause.
pub(super) fn freeze(dir: Dir<'_>) -> Result<()> {
    let deadline = Instant::now() + FREEZE_TIME;
    let result = freeze_until(dir, deadline);
    if result.is_err() {
        let _ = write_state(dir.fd, "THAWED");
    }
    result
}

fn freeze_until(dir: Dir<'_>, deadline: Instant) -> Result<()> {
    let doing = || format!("freeze {}", dir.path);
    for n in 1_u32.. {
        if n.is_multiple_of(50) {
            // frees tasks that block each other, e.g. a fork that waits for a frozen task
            write_state(dir.fd, "THAWED").doing(doing)?;
            std::thread::sleep(Duration::from_millis(10));
        }
        write_state(dir.fd, "FROZEN").doing(doing)?;
        if n.is_multiple_of(10) {
            std::thread::sleep(Duration::from_micros(500));
        }
        if state(dir.fd).doing(doing)?.trim() == "FROZEN" {
            return Ok(());
        }
        if Instant::now() > deadline {
            break;
        }
    }
    Err(Error::new(Kind::Os, format!("unable to freeze {}", dir.path)))
}

/// Thaws this cgroup only: a cgroup below it that the container froze stays frozen.
pub(super) fn thaw(dir: Dir<'_>) -> Result<()> {
    write_state(dir.fd, "THAWED").doing(|| format!("thaw {}", dir.path))
}

/// Thaws this cgroup and all below it, because SIGKILL does not end a frozen task of v1.
pub(super) fn thaw_all(dir: Dir<'_>) -> Result<()> {
    let result = tree::for_each(dir.fd, &mut |dir| write_state(dir, "THAWED"));
    match result {
        Err(errno) if file::is_gone(errno) => Ok(()),
        result => result.doing(|| format!("thaw {}", dir.path)),
    }
}

/// Whether this cgroup itself was asked to freeze, not one above it. `false` if it is gone.
pub(super) fn is_frozen(dir: Dir<'_>) -> Result<bool> {
    match file::read_short(dir.fd, "freezer.self_freezing") {
        Err(errno) if file::is_gone(errno) => Ok(false),
        result => Ok(result.doing(|| format!("read freezer.self_freezing of {}", dir.path))?.starts_with('1')),
    }
}

fn state(dir: BorrowedFd<'_>) -> Result<String, Errno> {
    file::read_short(dir, "freezer.state")
}

fn write_state(dir: BorrowedFd<'_>, value: &str) -> Result<(), Errno> {
    file::write(dir, "freezer.state", value)
}
