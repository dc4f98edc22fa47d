//! Mounts and device nodes of a container that exists, made from outside: all of them or none.
//!
//! A mount is made on the host, where its source is, and attached to nothing. A process of ours then joins the container's
//! mount namespace and no other, and attaches it to what the destination is below the container's root, by descriptor. The
//! process is not in the container's pid namespace, so nothing in there can see it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::{WaitId, WaitIdOptions};

use super::Container;
use super::record::Record;
use crate::error::{Doing, Error, Kind, Result};
use crate::launch::channel::{Channel, Message};
use crate::namespaces::IdMaps;
use crate::rootfs::{self, DevicePlan, MountPlan, What};
use crate::spec::{DeviceRule, LiveChanges};
use masu_host::procfs::Procfs;
use masu_host::sys::clone::{Side, check_threads, clone3};
use masu_host::sys::exec::exit;
use masu_host::sys::namespace::setns;
use masu_host::{beneath, mounts};

/// statx(2), Linux 5.8.
const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;

/// What to change.
#[derive(Debug)]
pub(super) struct LivePlan {
    remove: Vec<String>,
    add: Vec<MountPlan>,
    /// Nodes, and whether each is to be there.
    nodes: Vec<(DevicePlan, bool)>,
    id_maps: Vec<IdMaps>,
}

/// A step that was done, with what takes it back.
enum Done {
    /// The number of the mount, and whether its mount point was there before.
    Mounted(usize, bool),
    Unmounted(String, Option<OwnedFd>),
    NodeMade(DevicePlan),
    NodeRemoved(DevicePlan),
}

impl LivePlan {
    pub(super) fn plan(changes: &LiveChanges, rules: &[DeviceRule], record: &Record) -> Result<LivePlan> {
        let users = record.namespaces & libc::CLONE_NEWUSER != 0;
        let mut plan = LivePlan { remove: Vec::new(), add: Vec::new(), nodes: Vec::new(), id_maps: Vec::new() };
        for mount in &changes.mounts.remove {
            plan.remove.push(rootfs::check_target(mount)?);
        }
        for mount in &changes.mounts.add {
            let mount = rootfs::plan_live(mount, &record.bundle, &mut plan.id_maps)?;
            if users && matches!(mount.what, What::Filesystem { .. }) {
                // it would be the host's root's, whom the container does not know
                let text = "a container with a user namespace takes bind mounts, and no file system";
                return Err(Error::unsupported(format!("mount {}: {text}", mount.target)));
            }
            plan.add.push(mount);
        }
        for (i, device) in changes.devices.iter().enumerate().filter(|(_, d)| !d.path.is_empty()) {
            if users {
                let text = "a container with a user namespace takes a node as a bind mount: add it to mounts";
                return Err(Error::unsupported(format!("devices[{i}]: {}: {text}", device.path)));
            }
            let rule = rules.get(i).ok_or_else(|| Error::invalid(format!("devices[{i}]: {}: it has no rule", device.path)))?;
            plan.nodes.extend(DevicePlan::plan_live(device)?.map(|node| (node, rule.allow)));
        }
        Ok(plan)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty() && self.nodes.is_empty()
    }
}

/// What to change, and what that takes, opened and made.
#[derive(Debug)]
pub(super) struct Live {
    plan: LivePlan,
    init: OwnedFd,
    /// The container's root directory.
    root: OwnedFd,
    /// The mounts of the plan, attached to nothing.
    made: Vec<OwnedFd>,
}

impl Container {
    /// Makes all that can be made without changing the container.
    pub(super) fn prepare(&self, plan: LivePlan) -> Result<Live> {
        let init = self.init()?.ok_or_else(|| Error::wrong_status("container not running"))?;
        let root = self.root(&init)?;
        let id_maps = rootfs::make_id_maps(&plan.id_maps, &self.proc)?;
        let made = plan.add.iter().map(|mount| mount.make_live(root.as_fd(), &id_maps)).collect::<Result<_>>()?;
        Ok(Live { plan, init, root, made })
    }
}

impl Live {
    /// Carries it out in the mount namespace of init. The calling process must have one thread.
    pub(super) fn apply(&self, proc: &Procfs) -> Result<()> {
        check_threads()?;
        let (ours, theirs) = Channel::pair()?;
        let pidfd = match clone3(0, None).doing(|| "clone")? {
            Side::Child => {
                let result = setns(self.init.as_fd(), libc::CLONE_NEWNS)
                    .doing(|| "join the container's mount namespace")
                    .and_then(|()| self.carry_out(proc));
                let _ = theirs.send(&result.map_or_else(Message::Failed, |()| Message::Ready));
                exit(0)
            }
            Side::Parent { pidfd, .. } => pidfd,
        };
        drop(theirs);
        let said = ours.receive()?;
        let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        match said {
            Some(Message::Ready) => Ok(()),
            Some(Message::Failed(error)) => Err(error),
            _ => Err(Error::new(Kind::Internal, "the process that changes mounts died")),
        }
    }

    fn carry_out(&self, proc: &Procfs) -> Result<()> {
        rustix::process::umask(rustix::fs::Mode::empty());
        // the host's: what is at /proc in the container is the container's
        rustix::process::fchdir(proc.as_fd()).doing(|| "go to /proc")?;
        let mut done = Vec::new();
        let result = self.steps(&mut done);
        if result.is_err() {
            for step in done.into_iter().rev() {
                // best effort: the error to report is the one that brought us here
                let _ = self.undo(step);
            }
        }
        result
    }

    fn steps(&self, done: &mut Vec<Done>) -> Result<()> {
        let root = self.root.as_fd();
        for path in &self.plan.remove {
            let copy = detach(root, path).doing(|| format!("unmount {path}"))?;
            done.push(Done::Unmounted(path.clone(), copy));
        }
        for (i, (plan, mount)) in self.plan.add.iter().zip(&self.made).enumerate() {
            let there = beneath::open(root, &plan.target, OFlags::PATH).is_ok();
            let attached = plan.attach_live(root, mount.as_fd());
            // also after a failure: its mount point may have been made, and more
            done.push(Done::Mounted(i, there));
            attached?;
        }
        for (node, wanted) in &self.plan.nodes {
            if *wanted {
                if node.add(root)? {
                    done.push(Done::NodeMade(node.clone()));
                }
            } else if let Some(node) = node.remove(root)? {
                done.push(Done::NodeRemoved(node));
            }
        }
        Ok(())
    }

    fn undo(&self, step: Done) -> Result<()> {
        let root = self.root.as_fd();
        match step {
            Done::Mounted(i, there) => {
                if let Some(mount) = self.made.get(i) {
                    // one that was not attached is not a mount of this namespace
                    let _ = unmount(mount.as_fd());
                }
                if let Some(plan) = self.plan.add.get(i).filter(|_| !there) {
                    let (dir, name) = beneath::parent(root, &plan.target)?;
                    let _ = rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR);
                    let empty =
                        |f: &OwnedFd| rustix::fs::fstat(f).is_ok_and(|s| s.st_size == 0 && FileType::from_raw_mode(s.st_mode).is_file());
                    if beneath::open_plain(root, &plan.target).is_ok_and(|file| empty(&file)) {
                        rustix::fs::unlinkat(&dir, name, AtFlags::empty())?;
                    }
                }
                Ok(())
            }
            Done::Unmounted(path, copy) => {
                let target = beneath::open_plain(root, &path)?;
                copy.map_or(Ok(()), |copy| Ok(mounts::move_to(copy.as_fd(), target.as_fd())?))
            }
            Done::NodeMade(node) => node.remove(root).map(drop),
            Done::NodeRemoved(node) => node.add(root).map(drop),
        }
    }
}

/// Detaches the mount at `path`; a copy of it, to put it back. No symbolic link may lead there: the container could have made
/// it, to have one of its masks taken away.
fn detach(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>> {
    let target = match beneath::open_plain(root, path) {
        Err(Errno::LOOP) => return Err(Error::invalid("a symbolic link leads there; name the place itself")),
        result => result?,
    };
    let stat = rustix::fs::statx(&target, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    if stat.stx_attributes.bits() & STATX_ATTR_MOUNT_ROOT == 0 {
        return Err(Error::invalid("it is not a mount"));
    }
    // an unbindable one has no copy
    let copy = mounts::open_tree(target.as_fd(), "", true).ok();
    unmount(target.as_fd())?;
    Ok(copy)
}

/// Unmounts what `fd` is the root of. umount2(2) takes a path only: it is that of the descriptor, in the /proc that is the
/// working directory.
fn unmount(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::mount::unmount(format!("self/fd/{}", fd.as_raw_fd()), UnmountFlags::DETACH)
}
