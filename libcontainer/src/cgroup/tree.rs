//! A cgroup and all below it: lists the processes, and removes the directories.
//!
//! Runs in the runtime. A container may make a tree of any depth. So the walk holds one descriptor at a time and no long
//! path: it goes down by a name and up by `..`. This is safe, because a cgroup cannot be moved to another parent.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use super::file;
use crate::error::{Doing, Error, Result};

/// The longest sleep between two tries, where the kernel has no event to wait for.
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// Calls `visit` for the cgroup and for each one below it, parents first.
pub(super) fn for_each(dir: BorrowedFd<'_>, visit: &mut dyn FnMut(BorrowedFd<'_>) -> Result<(), Errno>) -> Result<(), Errno> {
    visit(dir)?;
    let mut here: Option<OwnedFd> = None;
    let mut levels = vec![file::children(dir)?];
    while let Some(level) = levels.last_mut() {
        let at = here.as_ref().map_or(dir, |fd| fd.as_fd());
        let Some(name) = level.pop() else {
            levels.pop();
            if !levels.is_empty() {
                here = Some(file::open_child(at, c"..")?);
            }
            continue;
        };
        let child = match file::open_child(at, &name) {
            Err(Errno::NOENT) => continue,
            result => result?,
        };
        match visit(child.as_fd()).and_then(|()| file::children(child.as_fd())) {
            // the container has removed it meanwhile
            Err(errno) if file::is_gone(errno) => {}
            Err(errno) => return Err(errno),
            Ok(children) => {
                here = Some(child);
                levels.push(children);
            }
        }
    }
    Ok(())
}

/// The process ids of a cgroup and of all below it, as the kernel lists them: 0 stands for a process outside our pid
/// namespace.
pub(super) fn processes(dir: BorrowedFd<'_>) -> Result<Vec<i32>, Errno> {
    let mut all = Vec::new();
    for_each(dir, &mut |dir| {
        let list = match file::read(dir, "cgroup.procs") {
            // the list of a threaded cgroup cannot be read, because it may have only some threads of a process
            Err(Errno::OPNOTSUPP) => file::read(dir, "cgroup.threads")?,
            result => result?,
        };
        all.extend(list.lines().filter_map(|line| line.trim().parse::<i32>().ok()));
        Ok(())
    })?;
    Ok(all)
}

/// Removes the cgroup `dir`, whose path is `path`, and all below it. Waits until `deadline` for processes that are exiting. A
/// directory that is already gone is no error.
///
/// # Errors
/// EBUSY if processes are left at the deadline; the caller may try again.
pub(super) fn remove(dir: BorrowedFd<'_>, path: &str, v2: bool, deadline: Instant) -> Result<()> {
    let doing = || format!("remove cgroup {path}");
    let name = path.rsplit('/').next().unwrap_or_default();
    let from_inside = CString::new(format!("../{name}")).map_err(|_| Error::invalid("a cgroup path with a NUL byte"))?;
    let mut pause = Duration::from_micros(100);
    loop {
        // most cgroups are empty leaves, and this is enough for them
        if rmdir(dir, &from_inside).doing(doing)? {
            return Ok(());
        }
        remove_below(dir).doing(doing)?;
        if rmdir(dir, &from_inside).doing(doing)? {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let n = processes(dir).map_or(0, |p| p.len());
            return Err(Error::from(Errno::BUSY).context(format!("{}: {n} process(es) left", doing())));
        }
        let waited = if v2 { wait_unpopulated(dir, left) } else { wait_for_processes(dir, left) };
        if !waited.doing(doing)? {
            // the last task is exiting, and no event tells when it has left the cgroup
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Removes one directory. `true`: it is gone; `false`: it is busy.
fn rmdir(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    match rustix::io::retry_on_intr(|| rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)) {
        Ok(()) => Ok(true),
        Err(errno) if file::is_gone(errno) => Ok(true),
        Err(Errno::BUSY | Errno::NOTEMPTY) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Removes all cgroups below `dir` that are not busy, deepest first.
fn remove_below(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut here: Option<OwnedFd> = None;
    let mut levels: Vec<(CString, Vec<CString>)> = vec![(CString::default(), file::children(dir)?)];
    while let Some((_, level)) = levels.last_mut() {
        let at = here.as_ref().map_or(dir, |fd| fd.as_fd());
        if let Some(name) = level.pop() {
            if rmdir(at, &name)? {
                continue;
            }
            match file::open_child(at, &name) {
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
                Ok(child) => {
                    levels.push((name, file::children(child.as_fd())?));
                    here = Some(child);
                }
            }
        } else if let Some((name, _)) = levels.pop()
            && !levels.is_empty()
        {
            let parent = file::open_child(at, c"..")?;
            rmdir(parent.as_fd(), &name)?;
            here = Some(parent);
        }
    }
    Ok(())
}

/// The result of a wait for an event of a v2 cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    /// The value was there at the first look.
    Already,
    /// The value came during the wait.
    Reached,
    /// The value did not come in time.
    TimedOut,
    /// The cgroup was removed.
    Gone,
}

/// Waits until no process is left in a v2 cgroup and below it. `false`: there was none at the first look.
fn wait_unpopulated(dir: BorrowedFd<'_>, left: Duration) -> Result<bool, Errno> {
    wait_event(dir, "populated", 0, left).map(|waited| waited != Waited::Already)
}

/// Waits at most `time` until `key` of cgroup.events is `value`.
pub(super) fn wait_event(dir: BorrowedFd<'_>, key: &str, value: u64, time: Duration) -> Result<Waited, Errno> {
    let deadline = Instant::now() + time;
    let events = match file::open(dir, "cgroup.events", OFlags::RDONLY) {
        Err(errno) if file::is_gone(errno) => return Ok(Waited::Gone),
        result => result?,
    };
    let mut reached = Waited::Already;
    loop {
        let text = match file::read_again(events.as_fd()) {
            Err(errno) if file::is_gone(errno) => return Ok(Waited::Gone),
            result => result?,
        };
        if file::value_of(&text, key) == Some(value) {
            return Ok(reached);
        }
        reached = Waited::Reached;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Waited::TimedOut);
        }
        // the kernel raises POLLPRI when the file changed after it was last read
        poll(&mut [PollFd::new(&events, PollFlags::PRI)], left)?;
    }
}

/// Waits until one process of a v1 cgroup has ended. `false`: there is none that can be waited for.
fn wait_for_processes(dir: BorrowedFd<'_>, left: Duration) -> Result<bool, Errno> {
    let pids = match processes(dir) {
        Err(errno) if file::is_gone(errno) => return Ok(true),
        result => result?,
    };
    let Some(pidfd) = pids.iter().filter_map(|p| Pid::from_raw(*p)).find_map(|p| rustix::process::pidfd_open(p, PidfdFlags::empty()).ok())
    else {
        return Ok(false);
    };
    let fresh = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Duration::ZERO)? == 0;
    if fresh {
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], left)?;
    }
    // `false` for a process that has ended but is still listed: its pidfd gives no further event
    Ok(fresh)
}

fn poll(fds: &mut [PollFd<'_>], time: Duration) -> Result<usize, Errno> {
    let time = Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(time.subsec_nanos()) };
    match rustix::event::poll(fds, Some(&time)) {
        // the caller checks the value and its deadline again
        Err(Errno::INTR) => Ok(0),
        result => result,
    }
}
