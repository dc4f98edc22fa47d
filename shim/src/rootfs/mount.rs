//! Mounts what plan.rs has planned, and takes it off.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use libcontainer::error::{Doing, Error, Kind, Result};
use libcontainer::namespaces::flag;
use masu_host::procfs::{Procfs, unescape};
use masu_host::sys::loop_device;
use masu_host::sys::mount_attr::{
    ATIME, Change, NOATIME, NODEV, NODIRATIME, NOEXEC, NOSUID, RDONLY, RELATIME, STRICTATIME, mount_setattr, set_id_map,
};
use masu_host::sys::namespace::{setns, unshare};
use masu_host::{beneath, mounts};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::plan::{How, Ids, Plan};

/// What mount(2) takes of data.
const PAGE: usize = 4096;
/// How often somebody else may be faster at a free loop device.
const LOOP_TRIES: u64 = 100;

/// Mounts all in order; what was made before a failure is removed again.
pub(crate) fn mount_all(plans: &[Plan], rootfs: &Path) -> Result<()> {
    if plans.is_empty() {
        return Ok(());
    }
    let made = match rustix::fs::mkdirat(CWD, rootfs, Mode::from_raw_mode(0o711)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(e) => return Err(e).doing(|| format!("make {}", rootfs.display())),
    };
    let doing = |plan: &Plan| format!("mount {} of type {} on {}", plan.source, plan.kind, rootfs.join(&plan.target).display());
    let result = plans.iter().try_for_each(|plan| mount(plan, rootfs).doing(|| doing(plan)));
    if result.is_err() {
        undo(rootfs);
        if made {
            let _ = rustix::fs::unlinkat(CWD, rootfs, rustix::fs::AtFlags::REMOVEDIR);
        }
    }
    result
}

/// Takes off what was mounted for a container that did not come to be.
pub(crate) fn undo(rootfs: &Path) {
    // the failure is what is told
    let _ = unmount(rootfs);
}

fn mount(plan: &Plan, rootfs: &Path) -> Result<()> {
    let place = open_target(rootfs, &plan.target)?;
    // by its descriptor: what its name means is up to the image
    let target = format!("/proc/self/fd/{}", place.as_raw_fd());
    let namespace = plan.ids.as_ref().map(|ids| Procfs::open().and_then(|proc| ids.maps.user_namespace(&proc)));
    let namespace = namespace.transpose()?;
    let ids = namespace.as_ref().map(AsFd::as_fd);
    // the mount holds the device when it is there
    let (mut source, mut _device) = (plan.source.clone(), None);
    match (plan.how, &plan.ids) {
        (How::Bind { recursive }, _) => attach(&tree(plan, recursive, ids)?, &place)?,
        (How::New, Some(Ids { layers_in: Some(folder), .. })) => {
            let namespace = ids.ok_or_else(|| Error::new(Kind::Internal, "the user namespace of an id map is not there"))?;
            attach(&overlay_of_mapped_layers(plan, folder, namespace, rootfs)?, &place)?;
        }
        _ => {
            if let How::Loop { direct } = plan.how {
                let (path, device) = loop_over(&plan.source, plan.flags.contains(MountFlags::RDONLY), direct)?;
                (source, _device) = (path, Some(device));
            }
            match data_of(plan)? {
                Some(data) if ids.is_none() => rustix::mount::mount(&*source, &*target, &*plan.kind, plan.flags, Some(data.as_c_str()))?,
                _ => attach(&detached(plan, &source, ids)?, &place)?,
            }
        }
    }
    if plan.propagation != MountPropagationFlags::empty() {
        // the descriptor is below the mount
        let mounted = open_target(rootfs, &plan.target)?;
        rustix::mount::mount_change(format!("/proc/self/fd/{}", mounted.as_raw_fd()), plan.propagation)?;
    }
    Ok(())
}

/// What is mounted upon. Links of the image lead nowhere but to places in it.
fn open_target(rootfs: &Path, below: &str) -> Result<OwnedFd> {
    let root = rustix::fs::open(rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    if below.is_empty() { Ok(root) } else { beneath::open(root.as_fd(), below, OFlags::PATH).doing(|| format!("open {below} there")) }
}

fn attach(mount: &OwnedFd, place: &OwnedFd) -> Result<()> {
    Ok(mounts::move_to(mount.as_fd(), place.as_fd())?)
}

fn map_ids(mount: BorrowedFd<'_>, recursive: bool, namespace: BorrowedFd<'_>) -> Result<()> {
    set_id_map(mount, recursive, namespace).doing(|| "map its ids (not every file system and every kernel can)")
}

/// A bind with its attributes from the start: a read-only one is never writable.
fn tree(plan: &Plan, recursive: bool, ids: Option<BorrowedFd<'_>>) -> Result<OwnedFd> {
    let tree = mounts::bind(&plan.source, recursive, false)?;
    let set = attributes(plan.flags);
    if set != 0 {
        // one mode of access times can only take the place of another
        let clear = if set & ATIME == 0 { 0 } else { ATIME };
        mount_setattr(tree.as_fd(), recursive, Change { set, clear, ..Change::default() })?;
    }
    if let Some(namespace) = ids {
        map_ids(tree.as_fd(), recursive, namespace)?;
    }
    Ok(tree)
}

fn attributes(flags: MountFlags) -> u64 {
    let named = [
        (MountFlags::RDONLY, RDONLY),
        (MountFlags::NOSUID, NOSUID),
        (MountFlags::NODEV, NODEV),
        (MountFlags::NOEXEC, NOEXEC),
        (MountFlags::NODIRATIME, NODIRATIME),
    ];
    let set = named.into_iter().filter(|(flag, _)| flags.contains(*flag)).fold(0, |all, (_, attribute)| all | attribute);
    // of two modes of access times, mount(2) takes the stricter one, too
    set | match () {
        () if flags.contains(MountFlags::STRICTATIME) => STRICTATIME,
        () if flags.contains(MountFlags::NOATIME) => NOATIME,
        () => RELATIME,
    }
}

/// The data of mount(2), if that takes as much.
fn data_of(plan: &Plan) -> Result<Option<CString>> {
    let data = plan.data.join(",");
    let data = CString::new(data).map_err(|_| Error::invalid("a zero byte in a mount option"))?;
    Ok((data.as_bytes().len() < PAGE).then_some(data))
}

/// A file system that is mounted nowhere yet. More options than mount(2) takes: the layers of an overlay one by one
/// (`lowerdir+`, kernel 6.7).
fn detached(plan: &Plan, source: &str, ids: Option<BorrowedFd<'_>>) -> Result<OwnedFd> {
    let mut data: Vec<(String, Option<String>)> = Vec::new();
    for (flag, word) in [(MountFlags::SYNCHRONOUS, "sync"), (MountFlags::DIRSYNC, "dirsync")] {
        data.extend(plan.flags.contains(flag).then(|| (word.to_owned(), None)));
    }
    let mut layers = 0;
    for option in &plan.data {
        match option.split_once('=') {
            Some(("lowerdir", list)) if plan.kind == "overlay" => {
                data.extend(list.split(':').map(|layer| ("lowerdir+".to_owned(), Some(layer.to_owned()))));
                layers += list.split(':').count();
            }
            Some((key, value)) => data.push((key.to_owned(), Some(value.to_owned()))),
            None => data.push((option.clone(), None)),
        }
    }
    let made = mounts::filesystem(&plan.kind, source, &data, attributes(plan.flags)).map_err(|e| match layers {
        0 => e,
        _ => e.context(format!("mount options is too long: they have {layers} layers")),
    })?;
    if let Some(namespace) = ids {
        map_ids(made.as_fd(), false, namespace)?;
    }
    Ok(made)
}

/// An overlay is not mapped itself: its layers are. They have to be seen at a path of the caller's mount namespace meanwhile,
/// which here is one that nobody else sees, and that ends with us should we be killed.
fn overlay_of_mapped_layers(plan: &Plan, folder: &str, namespace: BorrowedFd<'_>, rootfs: &Path) -> Result<OwnedFd> {
    let layers = mounts::bind(folder, true, false)?;
    mount_setattr(layers.as_fd(), true, Change { set: RDONLY, ..Change::default() }).doing(|| "make the layers read-only")?;
    map_ids(layers.as_fd(), true, namespace).doing(|| format!("the layers in {folder}"))?;
    let host = Procfs::open()?.own_namespace("mnt")?;
    let kind = flag("mount");
    unshare(kind).doing(|| "make a mount namespace for layers")?;
    let made = (|| {
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        attach(&layers, &rustix::fs::open(rootfs, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)?;
        // the layers are named from there
        rustix::process::chdir(rootfs)?;
        match data_of(plan)? {
            Some(data) => {
                rustix::mount::mount(&*plan.source, rootfs, &*plan.kind, plan.flags, Some(data.as_c_str()))?;
                let mounted = mounts::bind(&rootfs.to_string_lossy(), false, false)?;
                rustix::mount::unmount(rootfs, UnmountFlags::DETACH)?;
                Ok(mounted)
            }
            None => detached(plan, &plan.source, None),
        }
    })();
    // this leads back to / as well
    setns(host.as_fd(), kind).doing(|| "go back to the mount namespace of the host")?;
    made
}

/// A loop device over a file: its path, and what holds it until it is mounted.
fn loop_over(file: &str, read_only: bool, direct: bool) -> Result<(String, OwnedFd)> {
    let mode = OFlags::CLOEXEC | if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let open = |path: &str| rustix::fs::open(path, mode, Mode::empty()).doing(|| format!("open {path}"));
    let backing = open(file)?;
    let control =
        rustix::fs::open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).doing(|| "open /dev/loop-control")?;
    for round in 0..LOOP_TRIES {
        let number = loop_device::free(control.as_fd()).doing(|| "find a free loop device")?;
        let path = format!("/dev/loop{number}");
        let device = open(&path)?;
        match loop_device::configure(device.as_fd(), backing.as_fd(), file.as_bytes(), read_only, direct) {
            Ok(()) => return Ok((path, device)),
            Err(Errno::BUSY) => std::thread::sleep(Duration::from_millis(round.min(20))),
            Err(e) => return Err(e).doing(|| format!("set {path} up over {file}")),
        }
    }
    Err(Error::new(Kind::Os, format!("no loop device for {file}: somebody else was faster {LOOP_TRIES} times")))
}

/// Takes off all that is mounted there, with what is mounted below it.
pub(crate) fn unmount(rootfs: &Path) -> Result<()> {
    let doing = || format!("unmount {}", rootfs.display());
    let mut found = false;
    loop {
        let flags = UnmountFlags::NOFOLLOW;
        let result = match rustix::mount::unmount(rootfs, flags) {
            // something may be mounted below, or still be held
            Err(Errno::BUSY) => rustix::mount::unmount(rootfs, flags | UnmountFlags::DETACH),
            result => result,
        };
        match result {
            Ok(()) => found = true,
            Err(Errno::INTR) => {}
            Err(Errno::NOENT) => return Ok(()),
            // no mount, or none any more
            Err(Errno::INVAL) if found => return Ok(()),
            Err(Errno::INVAL) => break,
            Err(e) => return Err(e).doing(doing),
        }
    }
    // where there is nothing to mount upon, nothing is mounted; the table may be long
    if std::fs::read_dir(rootfs).map_or(true, |mut entries| entries.next().is_none()) {
        return Ok(());
    }
    let table = std::fs::read_to_string("/proc/self/mountinfo").doing(|| "read /proc/self/mountinfo")?;
    for point in below(&table, rootfs).iter().rev() {
        match rustix::mount::unmount(point, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
            // it went with one above
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(e) => return Err(e).doing(doing),
        }
    }
    Ok(())
}

/// The mount points below a folder, in the order of their making.
fn below(table: &str, folder: &Path) -> Vec<PathBuf> {
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| PathBuf::from(unescape(point)));
    points.filter(|point| point.starts_with(folder)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_mounted_is_unmounted() {
        unmount(Path::new("/nonexistent/rootfs")).unwrap();
        unmount(tempfile::tempdir().unwrap().path()).unwrap();
    }

    #[test]
    fn mounts_below_are_found() {
        let table = "1 0 0:1 / / rw - tmpfs a rw\n2 1 0:2 / /b/root\\040fs/x rw - tmpfs a rw\n3 1 0:3 / /b/rootfs2 rw - tmpfs a rw\n";
        assert_eq!(below(table, Path::new("/b/root fs")), [Path::new("/b/root fs/x")]);
        assert_eq!(below(table, Path::new("/b")).len(), 2);
    }
}
