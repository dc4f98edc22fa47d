//! Init's access to the host: mount sources, the rootfs, device nodes.
//!
//! In a user namespace the container's root may not enter every directory that the config names. Then the runtime, which may,
//! opens the path from init's own root. So the path includes earlier mounts of init, and the mount is one of init's namespace,
//! with the flags that the kernel locks there.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::id_map::{IdMapped, Map};
use crate::error::{Doing, Result};
use masu_host::mounts::{bind, open_tree};
use masu_host::procfs::{Procfs, openat2_retry};
use masu_host::sys::close_range::leave;

/// The operations that the runtime does for init, because the container's root lacks the rights.
pub(crate) trait Host {
    /// Opens `path` from init's root directory with O_PATH; with `nofollow` a symbolic link itself.
    fn open_source(&self, path: &str, nofollow: bool) -> Result<OwnedFd>;
    /// Maps the ids of the detached mount `mount`.
    fn map_ids(&self, id_map: IdMapped, mount: OwnedFd) -> Result<()>;
}

/// Access to the sources of the host; see the module.
#[derive(Clone, Copy)]
pub(crate) struct Sources<'a> {
    /// Only in a user namespace.
    host: Option<&'a dyn Host>,
    /// The user namespaces with the plan's id maps. In a user namespace it is empty, because the runtime has them.
    id_maps: &'a [OwnedFd],
}

impl<'a> Sources<'a> {
    /// `host` is given for a container in a user namespace. Without it the caller opens and maps all itself.
    pub(crate) fn new(host: Option<&'a dyn Host>, id_maps: &'a [OwnedFd]) -> Sources<'a> {
        Sources { host, id_maps }
    }

    /// Maps the ids of a detached mount. That needs CAP_SYS_ADMIN in the user namespace that owns the file system, so in a user
    /// namespace the runtime does it.
    pub(super) fn map_ids(self, id_map: IdMapped, mount: BorrowedFd<'_>) -> Result<()> {
        match self.host {
            Some(host) => host.map_ids(id_map, rustix::io::fcntl_dupfd_cloexec(mount, 3)?),
            None => id_map.apply(mount, self.id_maps),
        }
    }

    /// A detached copy of the host's tree at `path`; with `nofollow` a symbolic link itself is its root.
    pub(super) fn tree(self, path: &str, recursive: bool, nofollow: bool) -> Result<OwnedFd> {
        match (bind(path, recursive, nofollow), self.host) {
            (Err(e), Some(host)) if e.errno() == Some(Errno::ACCESS) => {
                open_tree(host.open_source(path, nofollow)?.as_fd(), "", recursive).doing(|| format!("open {path}"))
            }
            (tree, _) => tree,
        }
    }

    /// The target of the symbolic link at `path`; `None` if `path` is no symbolic link.
    pub(super) fn read_link(self, path: &str) -> Result<Option<CString>> {
        let link = self.open(path)?;
        let text = match rustix::fs::readlinkat(&link, "", Vec::new()) {
            // the errnos for an empty path of a file that is no symbolic link (readlink(2))
            Err(Errno::NOENT | Errno::INVAL) => None,
            text => Some(text.doing(|| format!("read the link {path}"))?),
        };
        leave(link);
        Ok(text)
    }

    /// Opens `path` with O_PATH; a symbolic link at its end is not followed.
    pub(super) fn open(self, path: &str) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match (rustix::fs::openat(CWD, path, flags, Mode::empty()), self.host) {
            (Err(Errno::ACCESS), Some(host)) => host.open_source(path, true),
            (fd, _) => fd.doing(|| format!("open {path}")),
        }
    }
}

/// The runtime's side: opens `path` below `root`, init's root directory; with `nofollow` a symbolic link itself.
pub(crate) fn open_source(root: BorrowedFd<'_>, path: &str, nofollow: bool) -> Result<OwnedFd> {
    let link = if nofollow { OFlags::NOFOLLOW } else { OFlags::empty() };
    openat2_retry(root, path, OFlags::PATH | OFlags::CLOEXEC | link, ResolveFlags::IN_ROOT)
        .doing(|| format!("failed to fulfil mount request: open {path}"))
}

/// The runtime's side: maps the ids of `mount` for the init `pid`. `id_maps` are the user namespaces of the plan's maps.
pub(crate) fn map_ids(id_map: IdMapped, mount: BorrowedFd<'_>, id_maps: &[OwnedFd], proc: &Procfs, pid: i32) -> Result<()> {
    let mapped = match id_map.map {
        Map::Listed(_) => id_map.apply(mount, id_maps),
        Map::Container => {
            let namespace = proc.open_namespace(pid, "user").doing(|| "open the container's user namespace")?;
            IdMapped { map: Map::Listed(0), ..id_map }.apply(mount, &[namespace])
        }
    };
    mapped.doing(|| "failed to fulfil mount request")
}
