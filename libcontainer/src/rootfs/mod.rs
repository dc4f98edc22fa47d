//! The root file system: a plan of ordered operations, and the part of init that carries it out.
//!
//! Init calls [`RootfsPlan::build`] (all that needs the host's files, before the pivot), [`RootfsPlan::enter`] (the pivot) and
//! [`RootfsPlan::lock_down`] (the last changes). They work on descriptors below the root's own.

mod cgroup_mount;
mod copy_up;
mod devices;
mod id_map;
mod masking;
mod mount;
pub(crate) mod options;
mod pivot;
mod remount;
mod source;
mod target;

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;

pub(crate) use cgroup_mount::CgroupMount;
pub(crate) use devices::DevicePlan;
pub(crate) use id_map::{IdMapped, Map, make as make_id_maps};
pub(crate) use masking::Masking;
pub(crate) use mount::{Link, MountPlan, What};
pub(crate) use remount::Remount;

use masu_host::beneath::Beside;
use masu_host::mounts::{make_read_only, move_to, open_tree};
pub(crate) use pivot::open_root;
pub(crate) use source::{Host, Sources, map_ids, open_source};
pub(crate) use target::check_target;

use crate::cgroup::Paths;
use crate::error::{Doing, Error, Result};
use crate::findings::{Findings, Item};
use crate::namespaces::IdMaps;
use crate::namespaces::Namespaces;
use crate::spec::{self, Spec};
use masu_host::procfs::Procfs;
use masu_host::sys::close_range::leave;
use masu_host::sys::mount_attr::{Change, mount_setattr};
use mount::MountLabel;
use options::Options;

/// Plans a mount for a container that exists; its id map is added to `maps`.
pub(crate) fn plan_live(mount: &spec::Mount, bundle: &str, maps: &mut Vec<IdMaps>) -> Result<MountPlan> {
    let options = Options::plan(&mount.options, &mount.destination)?;
    if mount.fs_type == "cgroup" && !options.bind {
        let text = format!("mount {}: cgroups cannot be added to a container that exists", mount.destination);
        return Err(Error::unsupported(text));
    }
    if options.remount {
        let text = format!("mount {}: remount changes what config.json mounts: remove the mount and add it again", mount.destination);
        return Err(Error::unsupported(text));
    }
    let id_map = id_map::plan(mount, &options, None, maps)?;
    MountPlan::plan(mount, options, id_map, bundle, None)
}

/// One step of building the root file system, in the order of the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    Mount(MountPlan),
    /// Waits until init is in its final cgroup, and unshares the cgroup namespace if the container has a new one. The position is
    /// before the first mount of cgroups, or else after all mounts: such a mount shows the cgroup of that moment.
    EnterCgroup,
    Cgroup(CgroupMount),
    /// Changes the mount at its target.
    Remount(Remount),
}

/// The plan of the root file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RootfsPlan {
    /// An absolute path on the host without symbolic links.
    pub path: String,
    pub operations: Vec<Operation>,
    /// The maps of id-mapped mounts, without duplicates.
    pub id_maps: Vec<IdMaps>,
    /// `None` if /dev is a bind mount, whose content is used as it is.
    pub devices: Option<Vec<DevicePlan>>,
    /// Whether /dev/core is made, a symbolic link to /proc/kcore.
    pub core: bool,
    pub masking: Masking,
    pub read_only: bool,
    /// `rootfsPropagation` as `MS_*` flags with MS_REC, if given.
    pub propagation: Option<u64>,
    pub pivot: bool,
}

/// The options of one mount; options without effect become warnings.
fn plan_options(mount: &spec::Mount, at: Item<'_>, found: &mut Findings) -> Option<Options> {
    if !mount.destination.starts_with('/') && !mount.destination.is_empty() {
        let text = format!(
            "mount destination {} is not absolute. Support for non-absolute mount destinations will be removed in a future release.",
            mount.destination
        );
        found.warn(at, text);
    }
    let mut options = found.at(at, Options::plan(&mount.options, &mount.destination))?;
    if let Some(text) = options.drop_data_of_bind(&mount.destination) {
        found.warn(at, text);
    }
    if options.bind && !options.superblock.is_empty() {
        let words = options.superblock.join(",");
        found.warn(at, format!("mount {}: {words}: a bind mount shares these with its source, nothing is changed", mount.destination));
    }
    Some(options)
}

impl RootfsPlan {
    /// Makes the plan. `path` is the rootfs and `bundle` the bundle, both absolute. `paths` are the container's cgroups, and
    /// `ids` the maps of its user namespace.
    pub(crate) fn plan(
        spec: &Spec,
        path: &str,
        bundle: &str,
        namespaces: &Namespaces,
        ids: Option<&IdMaps>,
        paths: &Paths,
        found: &mut Findings,
    ) -> RootfsPlan {
        let Some(linux) = &spec.linux else { return RootfsPlan::default() };
        if !namespaces.has(libc::CLONE_NEWNS) {
            let text = "linux.namespaces: unable to restrict sys entries without a private MNT namespace: add a mount namespace";
            found.invalid("linux.namespaces", text);
        }
        let label = found.at("linux.mountLabel", mount_label(spec, linux)).flatten();
        if label.is_none() && !linux.mount_label.is_empty() {
            found.warn("linux.mountLabel", "selinux is disabled or not supported, so the mounts get no label");
        }
        let mut operations = Vec::with_capacity(spec.mounts.len() + 1);
        let mut id_maps = Vec::new();
        let mut dev_is_bound = false;
        for (i, mount) in spec.mounts.iter().enumerate() {
            let at = Item("mounts", i);
            let mount = &inside(mount, path);
            let Some(options) = plan_options(mount, at, found) else { continue };
            if options.remount {
                operations.extend(found.at(at, Remount::plan(mount, &options, &operations)).map(Operation::Remount));
                continue;
            }
            let id_map = id_map::plan(mount, &options, ids, &mut id_maps);
            let Some(id_map) = found.at(at, id_map) else { continue };
            if mount.fs_type == "cgroup" && !options.bind {
                if !operations.contains(&Operation::EnterCgroup) {
                    operations.push(Operation::EnterCgroup);
                }
                operations.extend(found.at(at, CgroupMount::plan(mount, &options, paths, namespaces)).map(Operation::Cgroup));
                continue;
            }
            let bind = options.bind;
            let Some(plan) = found.at(at, MountPlan::plan(mount, options, id_map, bundle, label)) else { continue };
            if plan.target == "/dev" {
                dev_is_bound = bind;
            }
            operations.push(Operation::Mount(plan));
        }
        if !operations.contains(&Operation::EnterCgroup) {
            operations.push(Operation::EnterCgroup);
        }
        let devices = DevicePlan::plan(&linux.devices, namespaces.has(libc::CLONE_NEWUSER), found);
        let name = linux.rootfs_propagation.as_str();
        let propagation = propagation(name);
        if propagation.is_none() && !name.is_empty() {
            let text = format!("linux.rootfsPropagation: rootfsPropagation={name} is not supported");
            found.invalid("linux.rootfsPropagation", text);
        }
        RootfsPlan {
            path: path.to_owned(),
            operations,
            id_maps,
            devices: if dev_is_bound { None } else { Some(devices) },
            core: rustix::fs::access(devices::CORE.1, rustix::fs::Access::EXISTS).is_ok(),
            masking: Masking::plan(&linux.masked_paths, &linux.readonly_paths, found),
            read_only: spec.root.as_ref().is_some_and(|r| r.readonly),
            propagation,
            pivot: true,
        }
    }

    /// Whether the container sees its cgroup at /sys/fs/cgroup and may write there.
    pub(crate) fn has_writable_cgroup(&self) -> bool {
        self.operations.iter().any(|o| matches!(o, Operation::Cgroup(mount) if mount.target == "/sys/fs/cgroup" && mount.is_writable()))
    }

    /// Whether the propagation keeps all changes of the container's mount namespace from the host. `slave` (not `rslave`) changes
    /// only the root mount, and the rootfs may be on another one.
    fn old_root_is_slave(&self) -> bool {
        self.propagation.is_none_or(|p| p & (libc::MS_SLAVE | libc::MS_PRIVATE) != 0 && p & libc::MS_REC != 0)
    }

    /// Makes the user namespaces that hold the maps of id-mapped mounts. Called in the runtime.
    pub(crate) fn make_id_maps(&self, proc: &Procfs) -> Result<Vec<OwnedFd>> {
        make_id_maps(&self.id_maps, proc)
    }

    /// Makes all mounts and devices, in init, in its new mount namespace. [`Operation::EnterCgroup`] calls `enter_cgroup`.
    pub(crate) fn build(&self, sources: Sources<'_>, mut enter_cgroup: impl FnMut() -> Result<()>) -> Result<Rootfs> {
        let host = pivot::open_root().doing(|| "open /")?;
        let flags = self.propagation.unwrap_or(libc::MS_SLAVE | libc::MS_REC);
        let change = Change { propagation: flags & !libc::MS_REC, ..Change::default() };
        mount_setattr(host.as_fd(), flags & libc::MS_REC != 0, change).doing(|| "set the propagation of /")?;
        if !self.old_root_is_slave() {
            make_parent_private(&self.path)?;
        }
        let doing = || format!("prepare rootfs {}", self.path);
        let below = sources.open(&self.path).doing(doing)?;
        // pivot_root(2) needs a mount of its own; the descriptor remains its root after any rename
        let root = open_tree(below.as_fd(), "", true).doing(doing)?;
        if self.propagation.is_none() {
            // a later mount of the host below the rootfs must not appear in the container, as in runc
            mount_setattr(root.as_fd(), false, Change { propagation: libc::MS_PRIVATE, ..Change::default() }).doing(doing)?;
        }
        move_to(root.as_fd(), below.as_fd()).doing(doing)?;

        let mut read_only_last = Vec::new();
        let mut beside = Beside::default();
        for operation in &self.operations {
            match operation {
                Operation::Mount(plan) => {
                    let Some(mount) = plan.apply(root.as_fd(), sources, &mut beside)? else { continue };
                    if plan.read_only_last() {
                        read_only_last.push((plan.target.as_str(), mount, plan.is_tmpfs()));
                    } else {
                        leave(mount);
                    }
                }
                Operation::EnterCgroup => enter_cgroup()?,
                Operation::Cgroup(plan) => {
                    plan.apply(root.as_fd())?;
                    beside.forget();
                }
                Operation::Remount(plan) => {
                    read_only_last.retain(|(target, ..)| *target != plan.target);
                    read_only_last.extend(plan.apply(root.as_fd())?.map(|mount| (plan.target.as_str(), mount, false)));
                }
            }
        }
        beside.forget();
        if let Some(devices) = &self.devices {
            devices::apply(devices, root.as_fd(), self.core, sources)?;
        }
        let null = if self.masking.masked.is_empty() { None } else { Some(masking::open_null(root.as_fd())?) };
        leave(host);
        leave(below);
        Ok(Rootfs { root, null, read_only_last: read_only_last.into_iter().map(|(_, mount, whole)| (mount, whole)).collect() })
    }

    /// Makes the rootfs the root directory.
    pub(crate) fn enter(&self, rootfs: &Rootfs) -> Result<()> {
        if self.pivot {
            pivot::pivot(rootfs.root.as_fd(), self.old_root_is_slave())?;
        } else {
            pivot::move_root(rootfs.root.as_fd(), &self.path, self.old_root_is_slave())?;
        }
        // after the pivot, because pivot_root(2) refuses a shared root
        if let Some(flags) = self.propagation.filter(|f| f & (libc::MS_SHARED | libc::MS_UNBINDABLE) != 0) {
            let change = Change { propagation: flags & !libc::MS_REC, ..Change::default() };
            mount_setattr(rootfs.root.as_fd(), flags & libc::MS_REC != 0, change).doing(|| "set the propagation of the rootfs")?;
        }
        Ok(())
    }

    /// Makes paths, mounts and the root read-only and masks paths. It runs after the hooks and the terminal, which still write.
    pub(crate) fn lock_down(&self, rootfs: &mut Rootfs) -> Result<()> {
        for (mount, whole) in &rootfs.read_only_last {
            make_read_only(mount.as_fd(), *whole).doing(|| "make a tmpfs read-only")?;
        }
        if self.read_only {
            make_read_only(rootfs.root.as_fd(), false).doing(|| "make the rootfs read-only")?;
        }
        self.masking.apply(rootfs.root.as_fd(), rootfs.null.take())
    }
}

/// The descriptors that init's steps share.
#[derive(Debug)]
pub(crate) struct Rootfs {
    root: OwnedFd,
    null: Option<masking::Cover>,
    /// Each mount, and whether its file system becomes read-only, too.
    read_only_last: Vec<(OwnedFd, bool)>,
}

impl Rootfs {
    /// Gives up the descriptors.
    pub(crate) fn leave(self) {
        leave(self.root);
        self.read_only_last.into_iter().for_each(|(mount, _)| leave(mount));
    }

    /// The root directory.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// `linux.mountLabel`, and the mount option of crun's annotation `run.oci.mount_context_type`.
fn mount_label<'a>(spec: &'a Spec, linux: &'a spec::Linux) -> Result<Option<MountLabel<'a>>> {
    let option = match spec.annotations.get("run.oci.mount_context_type").map(String::as_str) {
        None => "context",
        Some(option @ ("context" | "fscontext" | "defcontext" | "rootcontext")) => option,
        Some(other) => {
            return Err(Error::invalid(format!(
                "annotations: run.oci.mount_context_type: invalid mount context type {other:?}: \
                 it is one of context, fscontext, defcontext and rootcontext"
            )));
        }
    };
    let labelled = crate::process::lsm::check_mount_label(&linux.mount_label)?;
    Ok(labelled.then_some(MountLabel { label: &linux.mount_label, option }))
}

/// The mount with its destination inside the root. Some callers of runc write the destination with the path of the rootfs on the
/// host.
fn inside<'a>(mount: &'a spec::Mount, rootfs: &str) -> Cow<'a, spec::Mount> {
    match mount.destination.strip_prefix(rootfs) {
        Some(destination) if rootfs != "/" && destination.starts_with('/') => {
            Cow::Owned(spec::Mount { destination: destination.to_owned(), ..mount.clone() })
        }
        _ => Cow::Borrowed(mount),
    }
}

/// The `MS_*` flags of a value of `rootfsPropagation`.
fn propagation(name: &str) -> Option<u64> {
    Some(match name {
        "shared" => libc::MS_SHARED,
        "rshared" => libc::MS_SHARED | libc::MS_REC,
        "slave" => libc::MS_SLAVE,
        "rslave" => libc::MS_SLAVE | libc::MS_REC,
        "private" => libc::MS_PRIVATE,
        "rprivate" => libc::MS_PRIVATE | libc::MS_REC,
        "unbindable" => libc::MS_UNBINDABLE,
        "runbindable" => libc::MS_UNBINDABLE | libc::MS_REC,
        _ => return None,
    })
}

/// Makes the mount that holds `path` private, so that mounts below `path` do not appear on the host. It is the mount at the
/// nearest ancestor that is a mount point.
fn make_parent_private(path: &str) -> Result<()> {
    let mut at = path;
    loop {
        match rustix::mount::mount_change(if at.is_empty() { "/" } else { at }, MountPropagationFlags::PRIVATE) {
            Err(Errno::INVAL) if !at.is_empty() => at = at.rsplit_once('/').map_or("", |(parent, _)| parent),
            result => return result.doing(|| format!("make the mount that holds {path} private")),
        }
    }
}
