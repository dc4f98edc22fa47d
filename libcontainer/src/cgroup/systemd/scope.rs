//! The scope of a new container: what is done with files before systemd makes it, and once it is there.
//!
//! Runs in the runtime.

use std::os::fd::AsFd;

use super::super::plan::{CgroupPlan, join};
use super::super::{Cgroup, Hierarchy, Layout, check_unused, file, make_path, settings, v2};
use super::{Bus, Scope, job};
use crate::error::{Doing, Error, Kind, Result};

impl CgroupPlan {
    /// Connects to systemd, if it is to make the cgroup: before anything is made.
    pub(crate) fn connect(&self) -> Result<Option<Bus>> {
        self.scope.as_ref().map(|scope| Bus::connect(scope.unit.owner)).transpose()
    }
}

impl Cgroup {
    /// A cgroup that systemd is to make, by [`Cgroup::start`]. As long as it is not, nothing is in it.
    ///
    /// # Errors
    /// As [`Cgroup::create`] for a directory that is there already.
    pub(crate) fn await_scope(plan: &CgroupPlan, bus: Bus) -> Result<Cgroup> {
        let mut cgroup = Cgroup::of(Vec::new());
        if let (Some(scope), Some(place)) = (&plan.scope, plan.places.first()) {
            let mount = file::open_mount(&place.mount, true)?;
            let path = join(&place.mount, &scope.dir);
            if let Ok(fd) = file::open_below(mount.as_fd(), &scope.dir) {
                check_unused(&Hierarchy { controllers: String::new(), path, fd, made: 0 })?;
            }
        }
        cgroup.bus = Some(bus);
        Ok(cgroup)
    }

    /// Lets systemd make the scope around process `pid`, which waits outside until it is in there for good; then writes what
    /// systemd was told, and the rest, into the files. Without a scope in the plan nothing is to do.
    pub(crate) fn start(&mut self, plan: &CgroupPlan, pid: i32) -> Result<()> {
        let (Some(scope), Some(place), Some(bus)) = (&plan.scope, plan.places.first(), &mut self.bus) else { return Ok(()) };
        let path = join(&place.mount, &scope.dir);
        let place_of_process = || Layout::paths_of(pid).map(|paths| paths.v2);
        let is_inside = || Ok(place_of_process()?.as_deref() == Some(&*path));
        let started = job::start(bus, scope, pid, &is_inside);
        // the directory was empty before, so with the process in it, it is ours to remove
        if started.is_err() && is_inside().unwrap_or(false) {
            self.remove_on_drop = true;
            self.open_scope(scope, &place.mount)?;
        }
        started?;
        // from here on the unit is ours to stop
        self.unit = Some(scope.unit.clone());
        self.remove_on_drop = true;
        let actual = place_of_process()?.unwrap_or_default();
        if actual != path {
            return Err(Error::new(Kind::Internal, format!("systemd has put process {pid} in cgroup {actual:?}, not in {path:?}")));
        }
        self.open_scope(scope, &place.mount)?;
        let hierarchy = self.enter_subgroup(scope, pid)?;
        let mount = file::open_mount(&place.mount, true)?;
        v2::enable_controllers(mount.as_fd(), plan.available.as_deref(), &place.inner, hierarchy.dir(), plan.needs_domain)?;
        // beside that of systemd, and never in its place
        v2::attach_devices(hierarchy.dir(), &plan.devices, true)?;
        settings::write(&plan.settings, &|controller| self.find(controller))
    }

    /// The scope's directory.
    fn open_scope(&mut self, scope: &Scope, mount: &str) -> Result<()> {
        let path = join(mount, &scope.dir);
        let opened = file::open_mount(mount, true)?;
        let fd = file::open_below(opened.as_fd(), &scope.dir).doing(|| format!("open cgroup {path}"))?;
        // systemd made it; with `made` it is removed even if systemd cannot be asked
        self.hierarchies = vec![Hierarchy { controllers: String::new(), path, fd, made: 1 }];
        Ok(())
    }

    /// The container's own directory: the scope, or one below it, which is made, and the process moved there.
    fn enter_subgroup(&mut self, scope: &Scope, pid: i32) -> Result<&Hierarchy> {
        if !scope.subgroup.is_empty()
            && let Some(above) = self.hierarchies.first_mut()
        {
            let path = join(&above.path, &scope.subgroup);
            let doing = || format!("make cgroup {path}");
            let made = make_path(above.fd.as_fd(), &scope.subgroup).doing(doing)?;
            let fd = file::open_below(above.fd.as_fd(), &scope.subgroup).doing(doing)?;
            *above = Hierarchy { controllers: String::new(), path, fd, made: made + 1 };
            self.join(pid, false)?;
        }
        self.hierarchies.first().ok_or_else(|| Error::new(Kind::Internal, "the scope has no directory"))
    }

    /// Removes the directories from the container's own up to the scope's, if nothing is in them.
    pub(crate) fn remove_scope(&self) {
        let (Some(unit), Some(own)) = (&self.unit, self.v2()) else { return };
        let mut path = own.path.as_str();
        while let Some((above, _)) = path.rsplit_once('/').filter(|(above, _)| above.split('/').any(|name| name == unit.name)) {
            path = above;
            // who has something in there keeps it
            let _ = rustix::fs::rmdir(path);
        }
    }
}
