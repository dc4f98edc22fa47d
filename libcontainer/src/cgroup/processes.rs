//! The processes of a container's cgroup: lists, freezes, signals and kills them.
//!
//! Runs in the runtime.

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::settings::Dir;
use super::{Cgroup, Hierarchy, Layout, Paths, file, tree, v1, v2};
use crate::error::{Doing, Error, Result};

/// How often the list is read at most, because processes may fork faster than they are signalled.
const ROUNDS: usize = 100;
/// How many pidfds are open at a time.
const PIDFDS: usize = 8;

impl Cgroup {
    /// The process ids in the cgroup and below it, sorted. Processes outside our pid namespace are left out.
    ///
    /// # Errors
    /// If a list cannot be read.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let main = self.hierarchies.iter().find(|h| if self.is_unified() { h.is_v2() } else { h.has("devices") });
        let mut pids = main.or(self.hierarchies.first()).map_or(Ok(Vec::new()), list)?;
        pids.retain(|p| *p > 0);
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Freezes all processes and waits until they are frozen. If that fails or takes more than 10 s, thaws them.
    ///
    /// # Errors
    /// Without a freezer; if the time is over; if a file cannot be written.
    pub fn freeze(&self) -> Result<()> {
        match self.freezer() {
            Some(dir) if dir.v2 => v2::freeze(dir),
            Some(dir) => v1::freeze(dir),
            None => Err(no_freezer()),
        }
    }

    /// Lets the processes run again.
    ///
    /// # Errors
    /// Without a freezer; if a file cannot be written.
    pub fn thaw(&self) -> Result<()> {
        match self.freezer() {
            Some(dir) if dir.v2 => v2::thaw(dir),
            Some(dir) => v1::thaw(dir),
            None => Err(no_freezer()),
        }
    }

    /// Whether the cgroup of these paths was frozen: one file is read, and nothing else is opened.
    ///
    /// # Errors
    /// The file is not one of a cgroup, or cannot be read.
    pub(crate) fn is_frozen_at(paths: &Paths) -> Result<bool> {
        let v1 = paths.v1.iter().find(|(controllers, _)| controllers.split(',').any(|c| c == "freezer"));
        let (path, name, v2) = match (v1, &paths.v2) {
            (Some((_, path)), _) => (path, "freezer.self_freezing", false),
            (None, Some(path)) => (path, "cgroup.freeze", true),
            (None, None) => return Ok(false),
        };
        // a cgroup that is gone is not frozen
        Ok(file::read_recorded(path, name, v2)?.is_some_and(|text| text.starts_with('1')))
    }

    /// Whether this cgroup itself was asked to freeze, not one above or below it.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn is_frozen(&self) -> Result<bool> {
        match self.freezer() {
            Some(dir) if dir.v2 => v2::is_frozen(dir),
            Some(dir) => v1::is_frozen(dir),
            None => Ok(false),
        }
    }

    /// Kills every process in the cgroup and below it, including frozen ones. They may take a moment to exit.
    ///
    /// # Errors
    /// If this process itself is in the cgroup; if a process cannot be signalled.
    pub fn kill(&self) -> Result<()> {
        let layout = Layout::detect()?;
        if let Some(h) = self.hierarchies.iter().find(|h| layout.is_ours_or_above(&h.path)) {
            return Err(is_ours(&h.path));
        }
        let killed = self.v2().is_some_and(|h| v2::kill(h.dir()).unwrap_or(false));
        if killed && self.is_unified() {
            return Ok(());
        }
        let freezer = self.freezer();
        // kills even if the freezer fails
        let frozen = !killed && self.freeze().is_ok();
        let result = self.signal_listed(Signal::KILL, frozen);
        let thawed = match freezer {
            // cgroups that the container froze, too, because a frozen task of v1 does not die
            Some(dir) if !dir.v2 => v1::thaw_all(dir),
            Some(dir) if frozen => v2::thaw(dir),
            _ => Ok(()),
        };
        result.and(thawed)
    }

    /// Sends `signal` to every process in the cgroup and below it. They are frozen meanwhile, so that none forks unseen. A
    /// paused container stays paused.
    ///
    /// # Errors
    /// As for [`Cgroup::kill`], and if the cgroup cannot be thawed.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        if signal == Signal::KILL {
            return self.kill();
        }
        let paused = self.is_frozen()?;
        let frozen = paused || self.freeze().is_ok();
        let result = self.signal_listed(signal, frozen);
        let thawed = if frozen && !paused { self.thaw() } else { Ok(()) };
        result.and(thawed)
    }

    /// The directory that has the freezer.
    pub(super) fn freezer(&self) -> Option<Dir<'_>> {
        self.hierarchies.iter().find(|h| h.has("freezer")).or(self.v2()).map(Hierarchy::dir)
    }

    /// Signals each listed process until the list has no new one. `frozen`: no process id is reused meanwhile.
    fn signal_listed(&self, signal: Signal, frozen: bool) -> Result<()> {
        let mut seen: Vec<i32> = Vec::new();
        let own = Pid::as_raw(Some(rustix::process::getpid()));
        for _ in 0..ROUNDS {
            let mut pids = Vec::new();
            for h in &self.hierarchies {
                let listed = list(h)?;
                if listed.contains(&own) {
                    return Err(is_ours(&h.path));
                }
                // 0 stands for a process of another pid namespace, but kill(2) would signal our own process group
                pids.extend(listed.into_iter().filter(|p| *p > 0 && !seen.contains(p)));
            }
            pids.sort_unstable();
            pids.dedup();
            if pids.is_empty() {
                return Ok(());
            }
            for some in pids.chunks(PIDFDS) {
                if frozen { send(some, signal)? } else { self.send_if_still_listed(some, signal)? }
            }
            seen.extend(pids);
        }
        Ok(())
    }

    /// Signals the processes that are still listed, by pidfds, because a process id may be reused after the list was read.
    fn send_if_still_listed(&self, pids: &[i32], signal: Signal) -> Result<()> {
        let open = |p: &i32| Pid::from_raw(*p).and_then(|pid| Some((*p, rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?)));
        let pidfds: Vec<_> = pids.iter().filter_map(open).collect();
        let mut still = Vec::new();
        for h in &self.hierarchies {
            still.extend(list(h)?);
        }
        for (pid, pidfd) in pidfds.iter().filter(|(pid, _)| still.contains(pid)) {
            ignore_ended(rustix::process::pidfd_send_signal(pidfd, signal)).doing(|| format!("send signal to process {pid}"))?;
        }
        Ok(())
    }
}

fn list(hierarchy: &Hierarchy) -> Result<Vec<i32>> {
    match tree::processes(hierarchy.dir().fd) {
        Err(errno) if file::is_gone(errno) => Ok(Vec::new()),
        result => result.doing(|| format!("list the processes of {}", hierarchy.path)),
    }
}

fn send(pids: &[i32], signal: Signal) -> Result<()> {
    for pid in pids.iter().filter_map(|p| Pid::from_raw(*p)) {
        ignore_ended(rustix::process::kill_process(pid, signal)).doing(|| format!("send signal to process {}", Pid::as_raw(Some(pid))))?;
    }
    Ok(())
}

fn ignore_ended(result: Result<(), Errno>) -> Result<(), Errno> {
    if result == Err(Errno::SRCH) { Ok(()) } else { result }
}

fn is_ours(path: &str) -> Error {
    Error::invalid(format!("the runtime itself is in cgroup {path}: nothing there is killed"))
}

fn no_freezer() -> Error {
    Error::unsupported("cannot toggle freezer: cgroups not configured for container")
}
