//! The mount of type `cgroup`: the cgroups as the container sees them (cgroup_namespaces(7)).

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::Mode;
use rustix::io::Errno;

use super::options::Options;
use super::target::check_target;
use crate::cgroup::{Paths, UNIFIED};
use crate::error::{Doing, Error, Result};
use crate::namespaces::Namespaces;
use crate::outline::Outline;
use crate::spec;
use masu_host::beneath;
use masu_host::mounts::{bind, filesystem, move_to};
use masu_host::sys::close_range::leave;
use masu_host::sys::mount_attr::{ATIME, Change, NODEV, NOEXEC, NOSUID, RDONLY, mount_setattr, names};

/// The plan of the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CgroupMount {
    pub target: String,
    attributes: u64,
    /// Whether the container has a new cgroup namespace. Then the hierarchies are mounted anew, with its cgroup as their root.
    /// Otherwise directories of the host are bind-mounted: a new mount from the host's namespace waits for a grace period of the
    /// kernel and resets the flags of the host's mount.
    namespace: bool,
    /// The directory of v2 to bind-mount, if the container has a cgroup there. Without any cgroup namespace it is the whole
    /// hierarchy, so that the path in /proc/self/cgroup exists below it, as in runc and crun.
    v2: Option<String>,
    /// The v1 hierarchies.
    v1: Vec<Hierarchy>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    controllers: String,
    dir: String,
}

impl CgroupMount {
    /// Plans the mount from the container's cgroup directories.
    pub(crate) fn plan(mount: &spec::Mount, options: &Options, paths: &Paths, namespaces: &Namespaces) -> Result<CgroupMount> {
        let target = check_target(mount)?;
        if target.starts_with("/proc/") || target == "/proc" {
            return Err(Error::invalid(format!(
                "error mounting \"cgroup\" to rootfs at {target:?}: it cannot be mounted because it is inside /proc"
            )));
        }
        // hierarchies have no mounts below them, so rro means ro
        let recursive = options.change_all.set & !ATIME;
        let v1 = paths.v1.iter().map(|(controllers, dir)| Hierarchy { controllers: controllers.clone(), dir: dir.clone() }).collect();
        let is_hosts = !namespaces.has(libc::CLONE_NEWCGROUP);
        let v2 = paths.v2.as_ref().map(|own| match own.strip_prefix(UNIFIED) {
            Some(_) if is_hosts && paths.v1.is_empty() => UNIFIED.to_owned(),
            _ => own.clone(),
        });
        let namespace = namespaces.is_fresh(libc::CLONE_NEWCGROUP);
        Ok(CgroupMount { target, attributes: options.attributes() | recursive, namespace, v2, v1 })
    }

    pub(super) fn is_writable(&self) -> bool {
        self.attributes & RDONLY == 0
    }

    pub(crate) fn describe(&self) -> Outline {
        let CgroupMount { target, attributes, namespace, v2, v1 } = self;
        Outline::Map(vec![
            ("target", Outline::Text(target.clone())),
            ("rooted anew", Outline::Switch(*namespace)),
            ("cgroup2", Outline::Switch(v2.is_some())),
            ("v1", Outline::Words(v1.iter().map(|h| h.controllers.clone()).collect())),
            ("attributes", Outline::Words(names(*attributes).map(str::to_owned).collect())),
        ])
    }

    pub(super) fn apply(&self, root: BorrowedFd<'_>) -> Result<()> {
        let target = beneath::mkdir_all(root, &self.target).doing(|| "create mountpoint");
        let applied =
            target.and_then(|target| if self.v1.is_empty() { self.mount_v2(target.as_fd()) } else { self.mount_v1(target.as_fd()) });
        applied.doing(|| format!("error mounting \"cgroup\" to rootfs at {:?}", self.target))
    }

    fn mount_v2(&self, target: BorrowedFd<'_>) -> Result<()> {
        if self.namespace {
            match filesystem("cgroup2", "cgroup", &[], self.attributes) {
                Ok(mount) => {
                    move_to(mount.as_fd(), target)?;
                    leave(mount);
                    return Ok(());
                }
                Err(e) if matches!(e.errno(), Some(Errno::PERM | Errno::BUSY)) => {}
                Err(e) => return Err(e),
            }
        }
        match &self.v2 {
            Some(dir) => self.bind(dir, target),
            None => Err(Error::unsupported("the container has no cgroup")),
        }
    }

    fn bind(&self, dir: &str, target: BorrowedFd<'_>) -> Result<()> {
        let tree = bind(dir, true, false)?;
        // a later mount of the host there must not appear in the container
        mount_setattr(tree.as_fd(), true, Change { set: self.attributes, propagation: libc::MS_PRIVATE, ..Change::default() })?;
        Ok(move_to(tree.as_fd(), target)?)
    }

    fn mount_v1(&self, target: BorrowedFd<'_>) -> Result<()> {
        let data = [("mode".to_owned(), Some("755".to_owned()))];
        // new mounts always have these flags, as in runc
        let attributes = self.attributes | NODEV | NOEXEC | NOSUID;
        let top = filesystem("tmpfs", "tmpfs", &data, attributes & !RDONLY)?;
        move_to(top.as_fd(), target)?;
        for hierarchy in &self.v1 {
            let name = hierarchy.controllers.strip_prefix("name=").unwrap_or(&hierarchy.controllers);
            rustix::fs::mkdirat(&top, name, Mode::from_raw_mode(0o755))?;
            let folder = beneath::open_plain_dir(top.as_fd(), name)?;
            let mounted = if self.namespace {
                let data: Vec<_> = if hierarchy.controllers.starts_with("name=") {
                    vec![("none".to_owned(), None), ("name".to_owned(), Some(name.to_owned()))]
                } else {
                    name.split(',').map(|controller| (controller.to_owned(), None)).collect()
                };
                // runc's source names
                let source = if name == "systemd" { name } else { "cgroup" };
                filesystem("cgroup", source, &data, attributes).and_then(|mount| Ok(move_to(mount.as_fd(), folder.as_fd())?))
            } else {
                self.bind(&hierarchy.dir, folder.as_fd())
            };
            mounted.doing(|| format!("hierarchy {}", hierarchy.controllers))?;
            for controller in name.split(',').filter(|c| *c != name) {
                rustix::fs::symlinkat(name, &top, controller)?;
            }
        }
        if self.attributes & RDONLY != 0 {
            mount_setattr(top.as_fd(), false, Change { set: RDONLY, ..Change::default() })?;
        }
        Ok(())
    }
}
