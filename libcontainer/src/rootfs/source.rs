//! How init gets at what is on the host: mount sources, the rootfs, device nodes.
//!
//! In a user namespace the container's root may not enter every folder that the config names. Then the runtime, which
//! may, opens the path for it, from init's own root: so that it still finds what earlier mounts put there, and so that the
//! mount is one of init's namespace, with the flags that the kernel locks in it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::detached::{bind, open_tree};
use super::pivot::open_root;
use crate::error::{Doing, Result};
use crate::process::channel::{Channel, Message};
use crate::procfs::openat2_retry;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources<'a> {
    /// To the runtime, in a user namespace.
    runtime: Option<&'a Channel>,
}

impl<'a> Sources<'a> {
    pub(crate) fn new(channel: &'a Channel, in_user_namespace: bool) -> Sources<'a> {
        Sources { runtime: in_user_namespace.then_some(channel) }
    }

    /// For who may do what the host's root may.
    pub(super) fn own() -> Sources<'static> {
        Sources { runtime: None }
    }

    /// A detached copy of the host's tree at `path`; with `nofollow` of a symbolic link itself.
    pub(super) fn tree(self, path: &str, recursive: bool, nofollow: bool) -> Result<OwnedFd> {
        match (bind(path, recursive, nofollow), self.runtime) {
            (Err(e), Some(runtime)) if e.errno() == Some(Errno::ACCESS) && !nofollow => {
                open_tree(ask(runtime, path)?.as_fd(), "", recursive).doing(|| format!("open {path}"))
            }
            (tree, _) => tree,
        }
    }

    /// What is at `path` itself, as an O_PATH descriptor; the last part of the path is not followed.
    pub(super) fn open(self, path: &str) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match (rustix::fs::openat(CWD, path, flags, Mode::empty()), self.runtime) {
            (Err(Errno::ACCESS), Some(runtime)) => ask(runtime, path),
            (fd, _) => fd.doing(|| format!("open {path}")),
        }
    }
}

fn ask(runtime: &Channel, path: &str) -> Result<OwnedFd> {
    let root = open_root().doing(|| "open /")?;
    runtime.send(&Message::SourceDue { path: path.to_owned(), root })?;
    runtime.expect("source", |m| if let Message::Source(fd) = m { Some(fd) } else { None })
}

/// The runtime's part: opens `path` below `root`, init's root directory.
pub(crate) fn open_source(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    openat2_retry(root, path, OFlags::PATH | OFlags::CLOEXEC, ResolveFlags::IN_ROOT)
        .doing(|| format!("failed to fulfil mount request: open {path}"))
}
