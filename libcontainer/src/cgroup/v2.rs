//! The v2 hierarchy: controllers down the path, the device program, freezing.
//!
//! Runs in the runtime. The kernel's admin-guide/cgroup-v2.rst.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;

use super::devices::Devices;
use super::settings::Dir;
use super::tree::Waited;
use super::{file, tree};
use crate::error::{Doing, Error, Kind, Result};
use crate::sys::bpf;

/// How long a cgroup may take to freeze; a task in an uninterruptible sleep can keep it from ever being frozen.
pub(super) const FREEZE_TIME: Duration = Duration::from_secs(10);

/// Controllers that a threaded cgroup may have (cgroups(7)); the others are of a whole domain.
const THREADED: [&str; 4] = ["cpu", "cpuset", "perf_event", "pids"];

/// Gives `dir`, at `inner` below the mount, all controllers that the mount has, as runc does: without them there are no
/// limits, and no numbers for `docker stats` either. Usually they are there already, and two reads show it.
///
/// # Errors
/// If the cgroup is in a threaded tree, and `needs_domain`. A controller that cannot be had is no error here: a limit that
/// needs it will say so.
pub(super) fn enable_controllers(mount: BorrowedFd<'_>, inner: &str, dir: Dir<'_>, needs_domain: bool) -> Result<()> {
    let doing = |what: &str, path: &str| format!("read {what} of {path}");
    let all = file::read_short(mount, "cgroup.controllers").doing(|| doing("cgroup.controllers", "the cgroup root"))?;
    let have = || file::read_short(dir.fd, "cgroup.controllers").doing(|| doing("cgroup.controllers", dir.path));
    let mut missing: Vec<&str> = Vec::new();
    let here = have()?;
    missing.extend(all.split_whitespace().filter(|c| !here.split_whitespace().any(|h| h == *c)));
    if missing.is_empty() && all.split_whitespace().any(|c| !THREADED.contains(&c)) {
        return Ok(());
    }
    if !missing.is_empty() {
        let request: Vec<String> = missing.iter().map(|c| format!("+{c}")).collect();
        // "..", "../..", …: the parents, from the mount on
        for n in (1..=inner.split('/').count()).rev() {
            let up = CString::new(vec![".."; n].join("/")).unwrap_or_default();
            let Ok(parent) = file::open_child(dir.fd, &up) else { continue };
            if file::write(parent.as_fd(), "cgroup.subtree_control", &request.join(" ")).is_err() {
                for one in &request {
                    // EBUSY and EINVAL may be due to one of them (real-time tasks keep `cpu` away)
                    let _ = file::write(parent.as_fd(), "cgroup.subtree_control", one);
                }
            }
        }
    }
    check_type(dir, needs_domain)
}

/// In a threaded tree a new cgroup is "domain invalid" until it is made threaded too; no process could enter.
fn check_type(dir: Dir<'_>, needs_domain: bool) -> Result<()> {
    let kind = file::read_short(dir.fd, "cgroup.type").doing(|| format!("read cgroup.type of {}", dir.path))?;
    let path = dir.path;
    match kind.trim() {
        "domain invalid" if needs_domain => {
            Err(Error::unsupported(format!("cannot enter cgroupv2 {path:?} with domain controllers -- it is in an invalid state")))
        }
        "domain invalid" => file::write(dir.fd, "cgroup.type", "threaded").doing(|| format!("write threaded to cgroup.type of {path}")),
        kind @ ("threaded" | "domain threaded") if needs_domain => {
            Err(Error::unsupported(format!("cannot enter cgroupv2 {path:?} with domain controllers -- it is in {kind} mode")))
        }
        _ => Ok(()),
    }
}

/// Loads the program and attaches it in the place of any other. `fresh`: nothing can be attached yet.
///
/// # Errors
/// If this process may not load programs: the container must not run without its device rules.
pub(super) fn attach_devices(dir: Dir<'_>, devices: &Devices, fresh: bool) -> Result<()> {
    let doing = |what: &str| format!("{what} device program of {}", dir.path);
    let old = if fresh { Vec::new() } else { bpf::attached_device_programs(dir.fd).doing(|| doing("list"))? };
    let mut replaced = None;
    if let Some(program) = devices.program()? {
        let new = bpf::load_device_program(&program).doing(|| doing("load"))?;
        if let [one] = old.as_slice() {
            replaced = Some(one.as_fd());
        }
        bpf::attach_device_program(dir.fd, new.as_fd(), replaced).doing(|| doing("attach"))?;
    }
    if replaced.is_none() {
        for program in &old {
            bpf::detach_device_program(dir.fd, program.as_fd()).doing(|| doing("detach"))?;
        }
    }
    Ok(())
}

/// The program that was attached, and the one that stands in its place.
#[derive(Debug)]
pub(super) struct Swap {
    old: Option<OwnedFd>,
    new: Option<OwnedFd>,
}

/// Puts the program of `to` in the place of that of `from`, in one step and among whatever others attached.
///
/// # Errors
/// If the program of `from` is not there: another program has replaced it, and its rules would be lost.
pub(super) fn change_devices(dir: Dir<'_>, from: &Devices, to: &Devices) -> Result<Swap> {
    let doing = |what: &str| format!("{what} device program of {}", dir.path);
    let load = |devices: &Devices| -> Result<Option<OwnedFd>> {
        let program = devices.program()?;
        program.map(|p| bpf::load_device_program(&p).doing(|| doing("load"))).transpose()
    };
    let mut old = None;
    if let Some(like) = load(from)? {
        let tag = bpf::program_tag(like.as_fd()).doing(|| doing("look at"))?;
        let mut attached = bpf::attached_device_programs(dir.fd).doing(|| doing("list"))?.into_iter();
        old = attached.find(|p| bpf::program_tag(p.as_fd()) == Ok(tag));
        if old.is_none() {
            return Err(Error::unsupported(format!(
                "the device rules of {} are not ours any more: another program has replaced them",
                dir.path
            )));
        }
    }
    let swap = Swap { old, new: load(to)? };
    swap.carry_out(dir, swap.old.as_ref(), swap.new.as_ref())?;
    Ok(swap)
}

impl Swap {
    /// Puts the old program back.
    pub(super) fn undo(&self, dir: Dir<'_>) -> Result<()> {
        self.carry_out(dir, self.new.as_ref(), self.old.as_ref())
    }

    fn carry_out(&self, dir: Dir<'_>, from: Option<&OwnedFd>, to: Option<&OwnedFd>) -> Result<()> {
        let doing = |what: &str| format!("{what} device program of {}", dir.path);
        match (from, to) {
            (from, Some(to)) => bpf::attach_device_program(dir.fd, to.as_fd(), from.map(AsFd::as_fd)).doing(|| doing("attach")),
            (Some(from), None) => bpf::detach_device_program(dir.fd, from.as_fd()).doing(|| doing("detach")),
            (None, None) => Ok(()),
        }
    }
}

/// Freezes the cgroup and waits until all of it is frozen; if that fails, it is thawed.
pub(super) fn freeze(dir: Dir<'_>) -> Result<()> {
    let wait = || match tree::wait_event(dir.fd, "frozen", 1, FREEZE_TIME).doing(|| format!("wait for {} to freeze", dir.path))? {
        Waited::Already | Waited::Reached => Ok(()),
        Waited::Gone => Err(Error::from(Errno::NODEV).context(format!("freeze {}", dir.path))),
        Waited::TimedOut => {
            let seconds = FREEZE_TIME.as_secs();
            Err(Error::new(Kind::Os, format!("timeout of {seconds}s reached waiting for the cgroup {} to freeze", dir.path)))
        }
    };
    let result = write_freeze(dir, "1").and_then(|()| wait());
    if result.is_err() {
        // a cgroup that is half frozen is worse than one that is not
        let _ = write_freeze(dir, "0");
    }
    result
}

pub(super) fn thaw(dir: Dir<'_>) -> Result<()> {
    write_freeze(dir, "0")
}

/// Whether it was asked to freeze; a cgroup that is gone is not frozen.
pub(super) fn is_frozen(dir: Dir<'_>) -> Result<bool> {
    match file::read_short(dir.fd, "cgroup.freeze") {
        Err(errno) if file::is_gone(errno) => Ok(false),
        result => Ok(result.doing(|| format!("read cgroup.freeze of {}", dir.path))?.starts_with('1')),
    }
}

/// Kills everything in the cgroup and below, also what is frozen and what is being forked (Linux 5.14). `false`: there is
/// no such file.
pub(super) fn kill(dir: Dir<'_>) -> Result<bool> {
    match file::write(dir.fd, "cgroup.kill", "1") {
        Err(Errno::NOENT) => Ok(false),
        Err(Errno::NODEV) => Ok(true),
        result => result.map(|()| true).doing(|| format!("write 1 to cgroup.kill of {}", dir.path)),
    }
}

fn write_freeze(dir: Dir<'_>, value: &str) -> Result<()> {
    file::write(dir.fd, "cgroup.freeze", value).doing(|| format!("write {value} to cgroup.freeze of {}", dir.path))
}
