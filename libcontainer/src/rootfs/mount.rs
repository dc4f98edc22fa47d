//! One mount: the plan of an entry of `mounts` (`MountPlan`), and its execution in init.
//!
//! The mount is detached until it has all its attributes (`mounts` of masu-host). It is then attached in one step to a target
//! descriptor (`target.rs`), so no target path is resolved twice.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::fs::PROC_SUPER_MAGIC;

use super::id_map::IdMapped;
use super::options::Options;
use super::source::Sources;
use super::target;
use crate::error::{Doing, Error, Result};
use crate::spec;
use masu_host::beneath::Beside;
use masu_host::mounts::{change_flags, filesystem, is_dir, make_read_only, move_to, propagate};
use masu_host::sys::close_range::leave;
use masu_host::sys::mount_attr::{Change, RDONLY, mount_setattr};

/// The plan of one mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountPlan {
    /// An absolute clean path inside the root.
    pub target: String,
    /// Whether a symbolic link at the target is mounted over, not followed.
    pub target_nofollow: bool,
    pub what: What,
    pub id_map: Option<IdMapped>,
    pub change_all: Change,
    pub propagation: Vec<(u64, bool)>,
}

/// The type and source of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// A bind mount of a tree of the host.
    Bind {
        /// An absolute path on the host.
        source: String,
        recursive: bool,
        /// The treatment of a symbolic link at the source.
        link: Link,
        change: Change,
        /// The flags that the config wants off.
        cleared: u64,
    },
    /// A new mount of a file system.
    Filesystem {
        fs_type: String,
        source: String,
        data: Vec<(String, Option<String>)>,
        attributes: u64,
        /// A tmpfs that starts with the content of the directory below it.
        copy_up: bool,
        /// The label of its root, for a file system without a mount option for it.
        label: Option<String>,
    },
}

/// The treatment of a symbolic link at the source of a bind mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Follow,
    /// The link itself is bind-mounted.
    Bind,
    /// The same link is made at the target, without a mount.
    Copy,
}

/// `linux.mountLabel`, and the mount option that gives it to a file system.
#[derive(Debug, Clone, Copy)]
pub(super) struct MountLabel<'a> {
    pub(super) label: &'a str,
    pub(super) option: &'a str,
}

impl MountPlan {
    /// Plans one entry of `mounts`. `bundle` is absolute; a relative source is below it.
    pub(super) fn plan(
        mount: &spec::Mount,
        options: Options,
        id_map: Option<IdMapped>,
        bundle: &str,
        label: Option<MountLabel<'_>>,
    ) -> Result<MountPlan> {
        let target = target::check_target(mount)?;
        target::check_proc(mount, &target, options.bind)?;
        let what =
            if options.bind { plan_bind(mount, &options, &target, bundle)? } else { plan_filesystem(mount, &options, &target, label)? };
        Ok(MountPlan {
            target,
            target_nofollow: options.target_nofollow,
            what,
            id_map,
            change_all: options.change_all,
            propagation: options.propagation,
        })
    }

    /// Plans a bind mount of the host's directory `source`, with the flags of the source.
    pub(crate) fn bind(target: &str, source: &str) -> MountPlan {
        let what = What::Bind { source: source.into(), recursive: false, link: Link::Follow, change: Change::default(), cleared: 0 };
        MountPlan {
            target: target.into(),
            target_nofollow: false,
            what,
            id_map: None,
            change_all: Change::default(),
            propagation: Vec::new(),
        }
    }

    /// Whether the file system is written to after the mount (devices, mount points, copied content). It becomes read-only last.
    pub(crate) fn read_only_last(&self) -> bool {
        let What::Filesystem { fs_type, attributes, .. } = &self.what else { return false };
        (fs_type == "tmpfs" || self.target == "/dev") && attributes & RDONLY != 0
    }

    /// Whether this is a new tmpfs. The host has no mount of it, so its superblock can become read-only.
    pub(crate) fn is_tmpfs(&self) -> bool {
        matches!(&self.what, What::Filesystem { fs_type, .. } if fs_type == "tmpfs")
    }

    /// Makes the mount and attaches it below `root`. It returns the mount, unless a link was made. `beside` has the directory of
    /// the last mount point.
    pub(crate) fn apply(&self, root: BorrowedFd<'_>, sources: Sources<'_>, beside: &mut Beside) -> Result<Option<OwnedFd>> {
        self.attach(root, sources, beside).doing(|| self.doing())
    }

    fn doing(&self) -> String {
        let (What::Bind { source, .. } | What::Filesystem { source, .. }) = &self.what;
        format!("error mounting {source:?} to rootfs at {:?}", self.target)
    }

    /// Makes a detached mount for [`attach_live`](Self::attach_live), in a container that exists.
    pub(crate) fn make_live(&self, root: BorrowedFd<'_>, id_maps: &[OwnedFd]) -> Result<OwnedFd> {
        let make = || match &self.what {
            What::Bind { link: Link::Copy, .. } => Err(Error::unsupported("copy-symlink is for containers that are being made")),
            What::Bind { .. } => self.make(None, Sources::new(None, id_maps)),
            What::Filesystem { fs_type, data, .. } => {
                let there = masu_host::beneath::open(root, &self.target, OFlags::PATH | OFlags::DIRECTORY).ok();
                let there = there.filter(|_| fs_type == "tmpfs" && !data.iter().any(|(key, _)| key == "mode"));
                self.make(there.map(|folder| target::mode(folder.as_fd())).transpose()?, Sources::new(None, id_maps))
            }
        };
        make().doing(|| self.doing())
    }

    /// Attaches the mount of [`make_live`](Self::make_live) below `root`, which is in the caller's mount namespace.
    pub(crate) fn attach_live(&self, root: BorrowedFd<'_>, mount: BorrowedFd<'_>) -> Result<()> {
        let attach = || -> Result<()> {
            let target = match &self.what {
                What::Bind { .. } => self.target_of_bind(root, mount, &mut Beside::default())?,
                What::Filesystem { fs_type, .. } => self.target_of_filesystem(root, fs_type, &mut Beside::default())?.0,
            };
            self.place(mount, target)?;
            if self.read_only_last() {
                make_read_only(mount, self.is_tmpfs()).doing(|| "make it read-only")?;
            }
            Ok(())
        };
        attach().doing(|| self.doing())
    }

    fn attach(&self, root: BorrowedFd<'_>, sources: Sources<'_>, beside: &mut Beside) -> Result<Option<OwnedFd>> {
        let (mount, target) = match &self.what {
            What::Bind { source, link: Link::Copy, .. } if let Some(link) = sources.read_link(source)? => {
                target::make_link(root, &self.target, &link)?;
                return Ok(None);
            }
            What::Bind { .. } => {
                let mount = self.make(None, sources)?;
                let target = self.target_of_bind(root, mount.as_fd(), beside)?;
                (mount, target)
            }
            What::Filesystem { fs_type, data, .. } => {
                let (target, made) = self.target_of_filesystem(root, fs_type, beside)?;
                // the mode of the image's directory: /tmp keeps its sticky bit
                let takes_mode = fs_type == "tmpfs" && !made && !data.iter().any(|(key, _)| key == "mode");
                let mode = if takes_mode { Some(target::mode(target.as_fd())?) } else { None };
                (self.make(mode, sources)?, target)
            }
        };
        self.place(mount.as_fd(), target)?;
        beside.mounted(&self.target);
        Ok(Some(mount))
    }

    fn target_of_bind(&self, root: BorrowedFd<'_>, mount: BorrowedFd<'_>, beside: &mut Beside) -> Result<OwnedFd> {
        let target = if self.target_nofollow {
            target::open_nofollow(root, &self.target)?
        } else {
            target::open(root, &self.target, beside, || is_dir(mount))?.fd
        };
        if self.target == "/proc" && target::magic(mount)? != PROC_SUPER_MAGIC {
            return Err(Error::invalid("check proc-safety of /proc mount: \"/proc\" cannot be mounted because it is not of type proc"));
        }
        Ok(target)
    }

    /// The target, and whether it was made.
    fn target_of_filesystem(&self, root: BorrowedFd<'_>, fs_type: &str, beside: &mut Beside) -> Result<(OwnedFd, bool)> {
        Ok(match fs_type {
            // /proc and /sys must be at their real paths, because labels and sysctls are written through them
            "proc" | "sysfs" => (target::open_plain(root, &self.target, fs_type)?, false),
            _ if self.target_nofollow => (target::open_nofollow(root, &self.target)?, false),
            _ => {
                let place = target::open(root, &self.target, beside, || true)?;
                (place.fd, place.made)
            }
        })
    }

    fn place(&self, mount: BorrowedFd<'_>, target: OwnedFd) -> Result<()> {
        if let What::Filesystem { copy_up: true, .. } = self.what {
            super::copy_up::copy(target.as_fd(), mount).doing(|| "tmpcopyup")?;
        }
        move_to(mount, target.as_fd())?;
        leave(target);
        // after the attachment, because a detached mount has no peers
        propagate(mount, &self.propagation)
    }

    /// Makes the detached mount with all its attributes; `mode` is for the root of a tmpfs.
    fn make(&self, mode: Option<String>, sources: Sources<'_>) -> Result<OwnedFd> {
        let mount = match &self.what {
            What::Bind { source, recursive, link, .. } => sources.tree(source, *recursive, *link == Link::Bind)?,
            What::Filesystem { fs_type, source, data, attributes, .. } => {
                let attributes = if self.read_only_last() { attributes & !RDONLY } else { *attributes };
                match mode {
                    Some(mode) => {
                        let mut data = data.clone();
                        data.push(("mode".into(), Some(mode)));
                        filesystem(fs_type, source, &data, attributes)?
                    }
                    None => filesystem(fs_type, source, data, attributes)?,
                }
            }
        };
        if let Some(id_map) = self.id_map {
            sources.map_ids(id_map, mount.as_fd())?;
        }
        match &self.what {
            What::Bind { change, cleared, .. } if !change.is_empty() => change_flags(mount.as_fd(), *change, *cleared)?,
            What::Filesystem { label: Some(label), .. } => crate::process::lsm::label_mount(mount.as_fd(), label)?,
            _ => {}
        }
        if !self.change_all.is_empty() {
            mount_setattr(mount.as_fd(), true, self.change_all).doing(|| "set its flags recursively")?;
        }
        Ok(mount)
    }
}

fn plan_bind(mount: &spec::Mount, options: &Options, target: &str, bundle: &str) -> Result<What> {
    let link = match (options.copy_symlink, options.source_nofollow) {
        (true, true) => return Err(exclusive(target)),
        (true, false) if options.target_nofollow => return Err(exclusive(target)),
        (true, false) => Link::Copy,
        (false, true) => Link::Bind,
        (false, false) => Link::Follow,
    };
    let source = if mount.source.starts_with('/') { mount.source.clone() } else { format!("{bundle}/{}", mount.source) };
    Ok(What::Bind { source, recursive: options.recursive_bind, link, change: options.change_of_mount(), cleared: options.cleared })
}

fn exclusive(target: &str) -> Error {
    Error::invalid(format!("invalid mount {target}: copy-symlink is mutually exclusive with src-nofollow and dest-nofollow"))
}

fn plan_filesystem(mount: &spec::Mount, options: &Options, target: &str, label: Option<MountLabel<'_>>) -> Result<What> {
    let fs_type = mount.fs_type.as_str();
    if fs_type.is_empty() {
        return Err(Error::invalid(format!(
            "error mounting {:?} to rootfs at {target:?}: the mount has neither a type nor the option bind: no such device",
            mount.source
        )));
    }
    if options.copy_symlink || options.source_nofollow {
        return Err(Error::invalid(format!("invalid mount {target}: copy-symlink and src-nofollow are for bind mounts only")));
    }
    let mut data = options.for_file_system();
    if fs_type == "devpts" {
        // the default since kernel 4.7
        data.retain(|(key, _)| key != "newinstance");
    }
    let mut own_label = None;
    match (label, fs_type) {
        // these have the kernel's own labels
        (None, _) | (_, "proc" | "sysfs") => {}
        (Some(label), "mqueue") => own_label = Some(label.label.to_owned()),
        (Some(MountLabel { label, option }), _) => data.push((option.to_owned(), Some(label.to_owned()))),
    }
    Ok(What::Filesystem {
        fs_type: fs_type.to_owned(),
        source: mount.source.clone(),
        data,
        attributes: options.attributes(),
        copy_up: options.copy_up && fs_type == "tmpfs",
        label: own_label,
    })
}
