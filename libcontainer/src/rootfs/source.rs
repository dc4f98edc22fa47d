//! How init gets at what is on the host: mount sources, the rootfs, device nodes.
//!
//! In a user namespace the container's root may not enter every folder that the config names. Then the runtime, which
//! may, opens the path for it, from init's own root: so that it still finds what earlier mounts put there, and so that the
//! mount is one of init's namespace, with the flags that the kernel locks in it.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::id_map::{IdMapped, Map};
use crate::error::{Doing, Result};
use masu_host::mounts::{bind, open_tree};
use masu_host::procfs::{Procfs, openat2_retry};
use masu_host::sys::close_range::leave;

/// What the runtime does for init where the rights of the container's root do not suffice.
pub(crate) trait Host {
    /// What is at `path` of the host, as seen from the caller's root directory, as an O_PATH descriptor; with `nofollow` a
    /// symbolic link itself.
    fn open_source(&self, path: &str, nofollow: bool) -> Result<OwnedFd>;
    /// Maps the ids of the detached mount `mount`.
    fn map_ids(&self, id_map: IdMapped, mount: OwnedFd) -> Result<()>;
}

/// See the module.
#[derive(Clone, Copy)]
pub(crate) struct Sources<'a> {
    /// Only in a user namespace.
    host: Option<&'a dyn Host>,
    /// The user namespaces of the plan's maps of ids; in a user namespace the runtime has them.
    id_maps: &'a [OwnedFd],
}

impl<'a> Sources<'a> {
    /// `host` is for a container in a user namespace; without one the caller has the rights of the host's root.
    pub(crate) fn new(host: Option<&'a dyn Host>, id_maps: &'a [OwnedFd]) -> Sources<'a> {
        Sources { host, id_maps }
    }

    /// Maps the ids of a detached mount. Only who owns its file system may, which in a user namespace is the runtime.
    pub(super) fn map_ids(self, id_map: IdMapped, mount: BorrowedFd<'_>) -> Result<()> {
        match self.host {
            Some(host) => host.map_ids(id_map, rustix::io::fcntl_dupfd_cloexec(mount, 3)?),
            None => id_map.apply(mount, self.id_maps),
        }
    }

    /// A detached copy of the host's tree at `path`; with `nofollow` of a symbolic link itself.
    pub(super) fn tree(self, path: &str, recursive: bool, nofollow: bool) -> Result<OwnedFd> {
        match (bind(path, recursive, nofollow), self.host) {
            (Err(e), Some(host)) if e.errno() == Some(Errno::ACCESS) => {
                open_tree(host.open_source(path, nofollow)?.as_fd(), "", recursive).doing(|| format!("open {path}"))
            }
            (tree, _) => tree,
        }
    }

    /// What the symbolic link at `path` holds; `None` when it is something else.
    pub(super) fn read_link(self, path: &str) -> Result<Option<CString>> {
        let link = self.open(path)?;
        let text = match rustix::fs::readlinkat(&link, "", Vec::new()) {
            // how the kernel says that an empty path is no link (readlink(2))
            Err(Errno::NOENT | Errno::INVAL) => None,
            text => Some(text.doing(|| format!("read the link {path}"))?),
        };
        leave(link);
        Ok(text)
    }

    /// What is at `path` itself, as an O_PATH descriptor; the last part of the path is not followed.
    pub(super) fn open(self, path: &str) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match (rustix::fs::openat(CWD, path, flags, Mode::empty()), self.host) {
            (Err(Errno::ACCESS), Some(host)) => host.open_source(path, true),
            (fd, _) => fd.doing(|| format!("open {path}")),
        }
    }
}

/// The runtime's part: opens `path` below `root`, init's root directory; with `nofollow` a symbolic link itself.
pub(crate) fn open_source(root: BorrowedFd<'_>, path: &str, nofollow: bool) -> Result<OwnedFd> {
    let link = if nofollow { OFlags::NOFOLLOW } else { OFlags::empty() };
    openat2_retry(root, path, OFlags::PATH | OFlags::CLOEXEC | link, ResolveFlags::IN_ROOT)
        .doing(|| format!("failed to fulfil mount request: open {path}"))
}

/// The runtime's part: maps the ids of `mount` for the init `pid`. `id_maps` are the namespaces of the plan's maps.
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
