//! Control groups through their files: v1, v2, or both side by side.
//!
//! Runs in the runtime. cgroups(7); config-linux.md, "Control groups". In reading order:
//!
//! - `layout.rs`: which hierarchies the host has; `plan.rs`: which directories and values a container gets; `resources/`,
//!   `devices/`: the values. These are pure, except for the functions of [`Layout`] that read.
//! - `systemd/`: the directory that systemd makes.
//! - this file: [`Cgroup`], a guard that makes, joins, opens and removes the directories of a container.
//! - `v1.rs`, `v2.rs`: what differs; `tree.rs`: a cgroup and all below it; `file.rs`: opens, reads and writes files;
//!   `settings.rs`: writes limits.
//! - `processes.rs`: freezes, thaws, signals, kills; `exec.rs`: the cgroup of an exec; `delegate.rs`; `update.rs`; `stats/`;
//!   `oom.rs`, `victims.rs`, `pressure.rs`: notices.
//!
//! [`Cgroup::open`] refuses the root of a hierarchy, and [`Cgroup::kill`] a cgroup that this process is in. The reason: a
//! runtime that took `/` for its container's cgroup has killed every process of a machine.

mod delegate;
mod devices;
mod exec;
mod file;
mod layout;
mod oom;
mod plan;
mod pressure;
mod processes;
mod resources;
mod settings;
mod stats;
mod systemd;
mod tree;
mod update;
mod v1;
mod v2;
mod victims;

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

pub use layout::Layout;
pub(crate) use layout::UNIFIED;
pub use oom::{OomEvents, OomNotice};
pub(crate) use plan::Driver;
pub use plan::{CgroupPlan, Paths};
pub use pressure::{PressureAlarm, Threshold};
pub use resources::merge;
pub use stats::{BlkioEntry, Hugetlb, MemoryEntry, Pressure, PressureData, Stats};
pub(crate) use systemd::{Bus, Instance, Unit};
pub(crate) use update::merge_rules;
pub use victims::Victim;

/// The types of [`Stats::intel_rdt`].
pub mod intel_rdt {
    pub use crate::intel_rdt::{Bandwidth, L3CacheInfo, MemBwInfo, Occupancy, Stats};
}

use crate::error::{Doing, Error, Kind, Result};
use plan::Place;
use settings::Dir;

/// How long the guard, when dropped, waits for processes that are exiting.
const DROP_TIME: Duration = Duration::from_secs(2);

/// A container's cgroup: one directory in each hierarchy.
///
/// [`Cgroup::create`] returns a guard: when dropped, it removes the directories that it made, unless [`Cgroup::keep`] is
/// called.
#[derive(Debug)]
pub struct Cgroup {
    /// v1 in the order of the layout, then v2.
    hierarchies: Vec<Hierarchy>,
    /// The unit, if systemd makes the cgroup.
    unit: Option<Unit>,
    /// The connection over which systemd makes the unit.
    bus: Option<Bus>,
    remove_on_drop: bool,
}

#[derive(Debug)]
struct Hierarchy {
    /// As in [`Paths::v1`]; empty for v2.
    controllers: String,
    path: String,
    fd: OwnedFd,
    /// How many directories at the end of the path are new.
    made: usize,
}

impl Hierarchy {
    fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|c| c == controller)
    }

    fn dir(&self) -> Dir<'_> {
        Dir { fd: self.fd.as_fd(), path: &self.path, v2: self.is_v2() }
    }
}

impl Cgroup {
    /// Makes the directories and their missing parents. Then writes limits and device rules, while no process is in them.
    ///
    /// # Errors
    /// [`Kind::Exists`]: an existing directory has processes. [`Kind::WrongStatus`]: it is frozen. Other kinds: a limit that
    /// is refused or whose controller is missing; device rules that cannot be loaded. The directories made until then are
    /// removed.
    pub fn create(plan: &CgroupPlan) -> Result<Cgroup> {
        if plan.scope.is_some() {
            return Err(Error::unsupported("systemd makes this cgroup, around a process"));
        }
        let mut cgroup = Cgroup::of(Vec::with_capacity(plan.places.len()));
        cgroup.remove_on_drop = true;
        let unified = plan.places.iter().all(Place::is_v2);
        for place in &plan.places {
            let mount = file::open_mount(&place.mount, place.is_v2())?;
            let hierarchy = make(mount.as_fd(), place)?;
            let fresh = hierarchy.made > 0;
            cgroup.hierarchies.push(hierarchy);
            let Some(hierarchy) = cgroup.hierarchies.last() else { continue };
            let dir = hierarchy.dir();
            if !fresh {
                check_unused(hierarchy)?;
            }
            if unified {
                v2::enable_controllers(mount.as_fd(), plan.available.as_deref(), &place.inner, dir, plan.needs_domain)?;
                v2::attach_devices(dir, &plan.devices, fresh)?;
            }
            if hierarchy.has("devices") {
                v1::write_devices(dir, &plan.devices)?;
            }
            if hierarchy.has("cpuset") {
                let planned = |file: &str| plan.settings.iter().any(|s| s.file == file);
                let wanted: Vec<&str> = ["cpuset.cpus", "cpuset.mems"].into_iter().filter(|f| !planned(f)).collect();
                v1::inherit_cpuset(dir, place.inner.split('/').count(), &wanted)?;
            }
        }
        settings::write(&plan.settings, &|controller| cgroup.find(controller))?;
        Ok(cgroup)
    }

    /// Opens the cgroup of an existing container; dropping it removes nothing. Directories that no longer exist are left out.
    /// A cgroup without any directory is empty, not frozen, and already removed.
    ///
    /// # Errors
    /// A path that is not a cgroup, or is the root of a hierarchy.
    pub fn open(paths: &Paths) -> Result<Cgroup> {
        let mut hierarchies = Vec::with_capacity(paths.v1.len() + 1);
        let v2 = paths.v2.iter().map(|path| ("", path.as_str()));
        for (controllers, path) in paths.v1.iter().map(|(c, p)| (c.as_str(), p.as_str())).chain(v2) {
            if let Some(fd) = file::open_recorded(path, controllers.is_empty())? {
                hierarchies.push(Hierarchy { controllers: controllers.into(), path: path.into(), fd, made: 0 });
            }
        }
        Ok(Cgroup::of(hierarchies))
    }

    fn of(hierarchies: Vec<Hierarchy>) -> Cgroup {
        Cgroup { hierarchies, unit: None, bus: None, remove_on_drop: false }
    }

    /// Sets the unit that systemd made, so that systemd learns of changes and of the removal.
    pub(crate) fn of_unit(mut self, unit: Option<&Unit>) -> Cgroup {
        self.unit = unit.cloned();
        self
    }

    /// The directory to clone the container's first process into (CLONE_INTO_CGROUP), if there is a v2 hierarchy.
    pub fn clone_target(&self) -> Option<BorrowedFd<'_>> {
        self.v2().map(|h| h.fd.as_fd())
    }

    /// Moves process `pid` into the cgroup of each hierarchy. The writes follow each other directly, because then only the
    /// first one waits for the kernel's grace period (milliseconds). `cloned_into_v2`: the process was cloned into
    /// [`Cgroup::clone_target`].
    ///
    /// # Errors
    /// If the kernel refuses a write to cgroup.procs.
    pub fn join(&self, pid: i32, cloned_into_v2: bool) -> Result<()> {
        let text = pid.to_string();
        for h in self.hierarchies.iter().filter(|h| !(cloned_into_v2 && h.is_v2())) {
            file::write(h.fd.as_fd(), "cgroup.procs", &text)
                .doing(|| format!("error adding pid {pid} to cgroups: write to cgroup.procs of {}", h.path))?;
        }
        Ok(())
    }

    /// Drops the guard without removing the cgroup.
    pub fn keep(mut self) {
        self.remove_on_drop = false;
    }

    /// Removes the cgroup and all below it, but kills nothing. Waits at most `deadline` for processes that are exiting. A
    /// directory that is already gone is no error.
    ///
    /// # Errors
    /// EBUSY if processes are left at the end of that time; the caller may call this again.
    pub fn remove(&self, deadline: Duration) -> Result<()> {
        let path = self.v2().map(|h| &*h.path);
        let stopped = self.unit.as_ref().map_or(Ok(()), |unit| unit.stop(None, path));
        let removed = self.remove_until(Instant::now() + deadline, |_| true);
        if let Err(e) = stopped {
            // systemd itself forgets a unit whose directory is gone
            log::warn!("{e}; its cgroup is removed without systemd");
            self.remove_scope();
        }
        removed
    }

    fn remove_until(&self, deadline: Instant, wanted: impl Fn(&Hierarchy) -> bool) -> Result<()> {
        // tries all hierarchies, even after a failure
        let results = self.hierarchies.iter().filter(|h| wanted(h)).map(|h| tree::remove(h.fd.as_fd(), &h.path, h.is_v2(), deadline));
        results.fold(Ok(()), Result::and)
    }

    fn v2(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.is_v2())
    }

    /// Whether all hierarchies are v2.
    fn is_unified(&self) -> bool {
        self.hierarchies.iter().all(Hierarchy::is_v2)
    }

    /// The directory that has the files of `controller`.
    fn find(&self, controller: &str) -> Option<Dir<'_>> {
        let unified = self.is_unified();
        self.hierarchies.iter().find(|h| if unified { h.is_v2() } else { h.has(controller) }).map(Hierarchy::dir)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if !self.remove_on_drop {
            return;
        }
        let mut bus = self.bus.take();
        if let Some(unit) = &self.unit {
            let _ = unit.stop(bus.as_mut(), self.v2().map(|h| &*h.path));
        }
        // a drop cannot return an error; `delete` finds the rest by the recorded paths
        let _ = self.remove_until(Instant::now() + DROP_TIME, |h| h.made > 0);
        for h in &self.hierarchies {
            let mut up = "..".to_owned();
            for name in h.path.rsplit('/').skip(1).take(h.made.saturating_sub(1)) {
                up.push_str("/..");
                // another container may use the directory by now: then it is not empty and stays
                let removed = CString::new(format!("{up}/{name}")).map(|path| rustix::fs::unlinkat(&h.fd, path, AtFlags::REMOVEDIR));
                if !matches!(removed, Ok(Ok(()))) {
                    break;
                }
            }
        }
    }
}

/// Makes the directory of `place` and its missing parents.
fn make(mount: BorrowedFd<'_>, place: &Place) -> Result<Hierarchy> {
    let doing = || format!("make cgroup {}", place.dir());
    let opened = |made: usize| {
        let fd = file::open_below(mount, &place.inner).inspect_err(|_| {
            if made > 0 {
                let _ = rustix::fs::unlinkat(mount, &place.inner, AtFlags::REMOVEDIR);
            }
        });
        Ok(Hierarchy { controllers: place.controllers.clone(), path: place.dir(), fd: fd.doing(doing)?, made })
    };
    // tries again, because another runtime may remove a parent that it made and failed to use
    for _ in 0..8 {
        match make_path(mount, &place.inner) {
            Err(Errno::NOENT) => {}
            result => return opened(result.doing(doing)?),
        }
    }
    Err(Error::from(Errno::NOENT).context(doing()))
}

/// Makes `inner` and its missing parents. Returns how many directories at its end are new.
fn make_path(mount: BorrowedFd<'_>, inner: &str) -> Result<usize, Errno> {
    let mkdir = |path: &str| rustix::fs::mkdirat(mount, path, Mode::from_raw_mode(0o755));
    match mkdir(inner) {
        Ok(()) => Ok(1),
        Err(Errno::EXIST) => Ok(0),
        Err(Errno::NOENT) => {
            let Some((parent, _)) = inner.rsplit_once('/') else { return Err(Errno::NOENT) };
            let above = make_path(mount, parent)?;
            match mkdir(inner) {
                Ok(()) => Ok(above + 1),
                Err(Errno::EXIST) => Ok(0),
                Err(errno) => Err(errno),
            }
        }
        Err(errno) => Err(errno),
    }
}

/// Refuses an existing cgroup that has processes or is frozen. This also refuses each ancestor of our own cgroup, wherever
/// the hierarchy is mounted.
fn check_unused(hierarchy: &Hierarchy) -> Result<()> {
    let dir = hierarchy.dir();
    let n = tree::processes(dir.fd).doing(|| format!("list the processes of {}", dir.path))?.len();
    if n > 0 {
        return Err(Error::new(Kind::Exists, format!("container's cgroup is not empty: {n} process(es) found in {}", dir.path)));
    }
    let frozen = match () {
        () if hierarchy.is_v2() => v2::is_frozen(dir)?,
        () => hierarchy.has("freezer") && v1::is_frozen(dir)?,
    };
    if frozen {
        return Err(Error::wrong_status("container's cgroup unexpectedly frozen"));
    }
    Ok(())
}
