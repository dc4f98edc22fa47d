//! The v2 hierarchy: controllers along the path, the device program, freezing.
//!
//! Runs in the runtime. The kernel's admin-guide/cgroup-v2.rst.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;

use super::devices::Devices;
use super::resources::Setting;
use super::settings::Dir;
use super::tree::Waited;
use super::{file, tree};
use crate::error::{Doing, Error, Kind, Result};
use masu_host::sys::bpf;

/// How long a cgroup may take to freeze: a task in uninterruptible sleep can delay it for ever.
pub(super) const FREEZE_TIME: Duration = Duration::from_secs(10);

/// The controllers that a threaded cgroup may have (cgroups(7)); the others need a domain.
const THREADED: [&str; 4] = ["cpu", "cpuset", "perf_event", "pids"];

/// Whether a threaded cgroup cannot have this setting (cgroups(7), "Thread mode").
pub(super) fn needs_domain(s: &Setting) -> bool {
    s.controller != "cgroup" && !THREADED.contains(&s.controller.as_str())
}

/// Gives `dir` all controllers of the mount, as runc does, because limits and the numbers of `docker stats` need them.
/// Usually they are there already, and two reads show it. `inner` is the path of `dir` below the mount. `available` are the
/// controllers of the mount, if known.
///
/// # Errors
/// If the cgroup is in a threaded tree and `needs_domain`. A controller that cannot be enabled is no error here: the limit
/// that needs it reports it.
///
pub(super) fn enable_controllers(
    mount: BorrowedFd<'_>,
    available: Option<&str>,
    inner: &str,
    dir: Dir<'_>,
    needs_domain: bool,
) -> Result<()> {
    let doing = |what: &str, path: &str| format!("read {what} of {path}");
    let read = || file::read_short(mount, "cgroup.controllers").doing(|| doing("cgroup.controllers", "the cgroup root"));
    let all = available.map_or_else(read, |list| Ok(list.to_owned()))?;
    let have = || file::read_short(dir.fd, "cgroup.controllers").doing(|| doing("cgroup.controllers", dir.path));
    let mut missing: Vec<&str> = Vec::new();
    let here = have()?;
    missing.extend(all.split_whitespace().filter(|c| !here.split_whitespace().any(|h| h == *c)));
    if missing.is_empty() && all.split_whitespace().any(|c| !THREADED.contains(&c)) {
        return Ok(());
    }
    if !missing.is_empty() {
        let request: Vec<String> = missing.iter().map(|c| format!("+{c}")).collect();
        // the parents from the mount down: `../..`, then `..`
        for n in (1..=inner.split('/').count()).rev() {
            let up = CString::new(vec![".."; n].join("/")).unwrap_or_default();
            let Ok(parent) = file::open_child(dir.fd, &up) else { continue };
            if file::write(parent.as_fd(), "cgroup.subtree_control", &request.join(" ")).is_err() {
                for one in &request {
                    // one controller may cause EBUSY or EINVAL for all: `cpu`, if there are real-time tasks
                    let _ = file::write(parent.as_fd(), "cgroup.subtree_control", one);
                }
            }
        }
    }
    check_type(dir, needs_domain)
}

/// The reason why `dir` lacks a controller that the host has: the first cgroup above that has it, and the kernel's error when
/// it is enabled there. `None`: the kernel allows it, or the host lacks it.
pub(super) fn why_missing(dir: Dir<'_>, controller: &str) -> Option<String> {
    let mut at = file::open_child(dir.fd, c"..").ok()?;
    let mut path = dir.path;
    loop {
        path = path.rsplit_once('/')?.0;
        // above the mount there is no such file
        let has = file::read_short(at.as_fd(), "cgroup.controllers").ok()?;
        if has.split_whitespace().any(|c| c == controller) {
            let errno = file::write(at.as_fd(), "cgroup.subtree_control", &format!("+{controller}")).err()?;
            let hint = if errno == Errno::BUSY { " (processes are in it: they must be in a cgroup below it)" } else { "" };
            return Some(format!("{path} does not hand it down: {}{hint}", Error::from(errno)));
        }
        at = file::open_child(at.as_fd(), c"..").ok()?;
    }
}

/// Makes a new cgroup of a threaded tree threaded too: until then it is "domain invalid", and no process can enter it.
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

/// Loads the program and attaches it. It replaces a program of ours that an earlier container left there. Programs of others
/// stay, e.g. that of systemd for the unit's own rules. `fresh`: no program can be attached yet.
///
/// # Errors
/// If this process may not load programs, because the container must not run without its device rules.
pub(super) fn attach_devices(dir: Dir<'_>, devices: &Devices, fresh: bool) -> Result<()> {
    let doing = |what: &str| format!("{what} device program of {}", dir.path);
    let mut old = if fresh { Vec::new() } else { bpf::attached_device_programs(dir.fd).doing(|| doing("list"))? };
    old.retain(is_ours);
    let mut old = old.iter().map(AsFd::as_fd);
    if let Some(program) = devices.program()? {
        let new = bpf::load_device_program(&program, bpf::NAME).doing(|| doing("load"))?;
        bpf::attach_device_program(dir.fd, new.as_fd(), old.next()).doing(|| doing("attach"))?;
    }
    old.try_for_each(|program| bpf::detach_device_program(dir.fd, program)).doing(|| doing("detach"))
}

/// Whether a program has the name of this runtime's programs.
fn is_ours(program: &OwnedFd) -> bool {
    bpf::program_name(program.as_fd()) == Ok(bpf::NAME)
}

/// The program that was attached, and its replacement.
#[derive(Debug)]
pub(super) struct Swap {
    old: Option<OwnedFd>,
    new: Option<OwnedFd>,
}

/// Replaces the program of `from` by the program of `to` in one step. Programs of others stay.
///
/// # Errors
/// If the program of `from` is not attached: another program has replaced it, and a change would lose those rules.
pub(super) fn change_devices(dir: Dir<'_>, from: &Devices, to: &Devices) -> Result<Swap> {
    let doing = |what: &str| format!("{what} device program of {}", dir.path);
    let load = |devices: &Devices| -> Result<Option<OwnedFd>> {
        let program = devices.program()?;
        program.map(|p| bpf::load_device_program(&p, bpf::NAME).doing(|| doing("load"))).transpose()
    };
    let mut old = None;
    if let Some(like) = load(from)? {
        let tag = bpf::program_tag(like.as_fd()).doing(|| doing("look at"))?;
        let mut attached = bpf::attached_device_programs(dir.fd).doing(|| doing("list"))?.into_iter();
        let is_it = |p: &OwnedFd| is_ours(p) && bpf::program_tag(p.as_fd()) == Ok(tag);
        old = attached.find(is_it);
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

/// Freezes the cgroup and waits until all its tasks are frozen. If that fails, thaws it.
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
        // a half frozen cgroup is worse than one that runs
        let _ = write_freeze(dir, "0");
    }
    result
}

pub(super) fn thaw(dir: Dir<'_>) -> Result<()> {
    write_freeze(dir, "0")
}

/// Whether this cgroup itself was asked to freeze. `false` if it is gone.
pub(super) fn is_frozen(dir: Dir<'_>) -> Result<bool> {
    match file::read_short(dir.fd, "cgroup.freeze") {
        Err(errno) if file::is_gone(errno) => Ok(false),
        result => Ok(result.doing(|| format!("read cgroup.freeze of {}", dir.path))?.starts_with('1')),
    }
}

/// Kills all processes in the cgroup and below it, including frozen ones and new forks (Linux 5.14). `false`: this cgroup has
/// no cgroup.kill.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{Cgroup, CgroupPlan, Layout};
    use crate::findings::Findings;
    use crate::spec::DeviceRule;

    fn devices(json: &str) -> Devices {
        let rules: Vec<DeviceRule> = serde_json::from_str(json).unwrap();
        Devices::plan(&rules, &mut Findings::new())
    }

    #[test]
    fn programs_of_others_on_the_same_cgroup_stay() {
        let layout = Layout::detect().unwrap();
        let path = format!("/masu-unit-{}", std::process::id());
        let v2 = Layout { v1: Vec::new(), ..layout };
        let made = CgroupPlan::new(&v2, "id", &path, None).and_then(|plan| Cgroup::create(&plan));
        let Some(cgroup) = made.ok().filter(|_| v2.v2.is_some() && rustix::process::geteuid().is_root()) else {
            eprintln!("skipped: needs a cgroup of v2 and the right to load programs");
            return;
        };
        let dir = cgroup.find("devices").unwrap();
        let names = || -> Vec<String> {
            let name = |p: &OwnedFd| String::from_utf8_lossy(&bpf::program_name(p.as_fd()).unwrap()).trim_end_matches('\0').to_owned();
            let mut names: Vec<String> = bpf::attached_device_programs(dir.fd).unwrap().iter().map(name).collect();
            names.sort();
            names
        };
        assert_eq!(names(), ["masu_devices"]);
        let (none, tun) = (devices("[]"), devices(r#"[{"allow":true,"type":"c","major":10,"minor":229,"access":"r"}]"#));
        let foreign = bpf::load_device_program(&none.program().unwrap().unwrap(), *b"another\0\0\0\0\0\0\0\0\0").unwrap();
        bpf::attach_device_program(dir.fd, foreign.as_fd(), None).unwrap();
        // a second container in the same cgroup, an update, and rules that allow everything
        attach_devices(dir, &tun, false).unwrap();
        assert_eq!(names(), ["another", "masu_devices"]);
        let swap = change_devices(dir, &tun, &none).unwrap();
        assert_eq!(names(), ["another", "masu_devices"]);
        swap.undo(dir).unwrap();
        assert!(change_devices(dir, &none, &tun).is_err(), "the foreign one has the same rules, and is not ours");
        attach_devices(dir, &devices(r#"[{"allow":true,"access":"rwm"}]"#), false).unwrap();
        assert_eq!(names(), ["another"]);
    }
}
