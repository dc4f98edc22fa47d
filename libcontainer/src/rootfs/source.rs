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
use super::pivot::open_root;
use crate::error::{Doing, Result};
use crate::launch::channel::{Channel, Message};
use masu_host::mounts::{bind, open_tree};
use masu_host::procfs::{Procfs, openat2_retry};
use masu_host::sys::close_range::leave;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources<'a> {
    /// To the runtime, in a user namespace.
    runtime: Option<&'a Channel>,
    /// The user namespaces of the plan's maps of ids; in a user namespace the runtime has them.
    id_maps: &'a [OwnedFd],
}

impl<'a> Sources<'a> {
    pub(crate) fn new(channel: &'a Channel, in_user_namespace: bool, id_maps: &'a [OwnedFd]) -> Sources<'a> {
        Sources { runtime: in_user_namespace.then_some(channel), id_maps }
    }

    /// For who may do what the host's root may.
    pub(super) fn own(id_maps: &'a [OwnedFd]) -> Sources<'a> {
        Sources { runtime: None, id_maps }
    }

    /// Maps the ids of a detached mount. Only who owns its file system may, which in a user namespace is the runtime.
    pub(super) fn map_ids(self, id_map: IdMapped, mount: BorrowedFd<'_>) -> Result<()> {
        let Some(runtime) = self.runtime else { return id_map.apply(mount, self.id_maps) };
        let mount = rustix::io::fcntl_dupfd_cloexec(mount, 3)?;
        runtime.send(&Message::IdMapDue { id_map, mount })?;
        runtime.expect("ids mapped", |m| if let Message::IdsMapped = m { Some(()) } else { None })
    }

    /// A detached copy of the host's tree at `path`; with `nofollow` of a symbolic link itself.
    pub(super) fn tree(self, path: &str, recursive: bool, nofollow: bool) -> Result<OwnedFd> {
        match (bind(path, recursive, nofollow), self.runtime) {
            (Err(e), Some(runtime)) if e.errno() == Some(Errno::ACCESS) => {
                open_tree(ask(runtime, path, nofollow)?.as_fd(), "", recursive).doing(|| format!("open {path}"))
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
        match (rustix::fs::openat(CWD, path, flags, Mode::empty()), self.runtime) {
            (Err(Errno::ACCESS), Some(runtime)) => ask(runtime, path, true),
            (fd, _) => fd.doing(|| format!("open {path}")),
        }
    }
}

fn ask(runtime: &Channel, path: &str, nofollow: bool) -> Result<OwnedFd> {
    let root = open_root().doing(|| "open /")?;
    runtime.send(&Message::SourceDue { path: path.to_owned(), nofollow, root })?;
    runtime.expect("source", |m| if let Message::Source(fd) = m { Some(fd) } else { None })
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
