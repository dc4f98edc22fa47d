//! The mount option `remount`: it changes the flags and options of an earlier entry of `mounts`, as `mount -o remount` does
//! (mount(2), MS_REMOUNT). It makes no new mount.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;

use super::Operation;
use super::mount::What;
use super::options::Options;
use super::target::check_target;
use crate::error::{Doing, Error, Result};
use crate::spec;
use masu_host::beneath;
use masu_host::mounts::{change_flags, propagate, reconfigure};
use masu_host::sys::mount_attr::{Change, RDONLY, mount_setattr};

/// A change of an existing mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remount {
    /// An absolute clean path inside the root.
    pub target: String,
    /// The options of the file system itself.
    pub data: Vec<(String, Option<String>)>,
    pub change: Change,
    /// The flags that the config wants off.
    pub cleared: u64,
    pub change_all: Change,
    pub propagation: Vec<(u64, bool)>,
    /// Whether files are written there until the root is locked down. It becomes read-only only then.
    pub read_only_last: bool,
}

impl Remount {
    /// Plans the change; `earlier` are the mounts before it. Its destination must be one of them, because otherwise only the
    /// kernel would report that, in init. A bind mount keeps the options of its file system.
    pub(super) fn plan(mount: &spec::Mount, options: &Options, earlier: &[Operation]) -> Result<Remount> {
        let target = check_target(mount)?;
        let invalid = |why: &str| Error::invalid(format!("error mounting {:?} to rootfs at {target:?}: remount: {why}", mount.source));
        if options.id_map.is_some() || !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
            return Err(invalid("ids are mapped where it is mounted first"));
        }
        let there = earlier.iter().rev().find_map(|operation| match operation {
            Operation::Mount(mount) if mount.target == target => Some(Some(&mount.what)),
            Operation::Cgroup(mount) if mount.target == target => Some(None),
            _ => None,
        });
        let fs_type = match there {
            None => return Err(invalid("no earlier entry of mounts has this destination: invalid argument")),
            Some(Some(What::Filesystem { fs_type, .. })) => Some(fs_type.as_str()),
            Some(_) => None,
        };
        let data = if options.bind { Vec::new() } else { options.for_file_system() };
        if let (None, Some((key, _))) = (fs_type, data.first()) {
            return Err(invalid(&format!("{key}: the file system there is the host's as well and keeps its options")));
        }
        let mut change = options.change_of_mount();
        let read_only_last = change.set & RDONLY != 0 && (fs_type == Some("tmpfs") || fs_type.is_some() && target == "/dev");
        if read_only_last {
            change.set &= !RDONLY;
        }
        Ok(Remount {
            target,
            data,
            change,
            cleared: options.cleared,
            change_all: options.change_all,
            propagation: options.propagation.clone(),
            read_only_last,
        })
    }

    /// Changes the mount. It is returned if it must become read-only last.
    pub(super) fn apply(&self, root: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
        let change = || -> Result<OwnedFd> {
            let mount = beneath::open(root, &self.target, OFlags::PATH)?;
            if !self.data.is_empty() {
                reconfigure(mount.as_fd(), &self.data)?;
            }
            change_flags(mount.as_fd(), self.change, self.cleared)?;
            if !self.change_all.is_empty() {
                mount_setattr(mount.as_fd(), true, self.change_all).doing(|| "set its flags recursively")?;
            }
            propagate(mount.as_fd(), &self.propagation)?;
            Ok(mount)
        };
        let mount = change().doing(|| format!("error remounting {:?} in rootfs", self.target))?;
        Ok(self.read_only_last.then_some(mount))
    }
}
