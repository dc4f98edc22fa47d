//! The scope of a new container: the work on files before and after systemd makes it.
//!
//! Runs in the runtime.

use std::os::fd::AsFd;

use super::super::plan::{CgroupPlan, join};
use super::super::{Cgroup, Hierarchy, Layout, check_unused, file, make_path, settings, v2};
use super::{Bus, Scope, job};
use crate::error::{Doing, Error, Kind, Result};

impl CgroupPlan {
    /// Connects to systemd, if it is to make the cgroup. Called before anything is made, so that a failure leaves nothing.
    pub(crate) fn connect(&self) -> Result<Option<Bus>> {
        self.scope.as_ref().map(|scope| Bus::connect(scope.unit.owner)).transpose()
    }
}

impl Cgroup {
    /// A cgroup that systemd is to make in [`Cgroup::start`]. Until then it has no directory.
    ///
    /// # Errors
    /// As for [`Cgroup::create`], if the directory exists already.
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

    /// Lets systemd make the scope around process `pid`, which waits outside until it is in the scope. Then writes all limits
    /// into the files. Does nothing if the plan has no scope.
    pub(crate) fn start(&mut self, plan: &CgroupPlan, pid: i32) -> Result<()> {
        let (Some(scope), Some(place), Some(bus)) = (&plan.scope, plan.places.first(), &mut self.bus) else { return Ok(()) };
        let path = join(&place.mount, &scope.dir);
        let place_of_process = || Layout::paths_of(pid).map(|paths| paths.v2);
        let is_inside = || Ok(place_of_process()?.as_deref() == Some(&*path));
        let started = job::start(bus, scope, pid, &is_inside);
        // the directory was empty before: now that the process is in it, this guard removes it
        if started.is_err() && is_inside().unwrap_or(false) {
            self.remove_on_drop = true;
            self.open_scope(scope, &place.mount)?;
        }
        started?;
        // from here on, this guard stops the unit
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
        // beside systemd's program, never in its place
        v2::attach_devices(hierarchy.dir(), &plan.devices, true)?;
        settings::write(&plan.settings, &|controller| self.find(controller))
    }

    /// Opens the directory of the scope.
    fn open_scope(&mut self, scope: &Scope, mount: &str) -> Result<()> {
        let path = join(mount, &scope.dir);
        let opened = file::open_mount(mount, true)?;
        let fd = file::open_below(opened.as_fd(), &scope.dir).doing(|| format!("open cgroup {path}"))?;
        // systemd made the directory; `made` has it removed even if systemd cannot be reached
        self.hierarchies = vec![Hierarchy { controllers: String::new(), path, fd, made: 1 }];
        Ok(())
    }

    /// Opens the container's own directory: the scope, or one below it. The latter is made first, and the process moved
    /// there.
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

    /// Removes the empty directories above the container's own, up to the scope.
    pub(crate) fn remove_scope(&self) {
        let (Some(unit), Some(own)) = (&self.unit, self.v2()) else { return };
        let mut path = own.path.as_str();
        while let Some((above, _)) = path.rsplit_once('/').filter(|(above, _)| above.split('/').any(|name| name == unit.name)) {
            path = above;
            // fails if the directory is not empty, so it stays
            let _ = rustix::fs::rmdir(path);
        }
    }
}
