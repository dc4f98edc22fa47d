//! Reads in the kernel's log which processes were killed because memory ran out: the counters in a cgroup have only their
//! number.
//!
//! Runs in the runtime (`events`). The kernel's ABI/testing/dev-kmsg; mm/oom_kill.c prints the lines. The first is
//! `oom-kill:constraint=...,task_memcg=/path,task=NAME,pid=N,uid=N`, or `Tasks in /path are going to be killed due to
//! memory.oom.group set`. For each process then follows `Memory cgroup out of memory: Killed process N (NAME) total-vm:...`.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use serde::Serialize;

use super::Layout;
use super::settings::Dir;
use crate::error::{Doing, Result};

/// A record of the log is shorter than this, in bytes (CONSOLE_EXT_LOG_MAX).
const RECORD: usize = 8192;
/// How long the log may be behind the counter: the kernel counts first, then prints.
const DELAY: Duration = Duration::from_millis(100);

/// A process that the kernel killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Victim {
    /// Its process id in the initial pid namespace.
    pub pid: i32,
    /// Its name, as in /proc/PID/comm.
    pub name: String,
}

/// The kernel's log, from the moment of opening it.
#[derive(Debug)]
pub(super) struct KernelLog {
    fd: OwnedFd,
    lines: Lines,
}

impl KernelLog {
    /// Opens the log, for victims in the cgroup `dir`.
    ///
    /// # Errors
    /// If this process may not read it (CAP_SYSLOG, where dmesg is restricted).
    pub(super) fn open(dir: Dir<'_>) -> Result<KernelLog> {
        let doing = || "open /dev/kmsg";
        let fd = rustix::fs::open("/dev/kmsg", OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
        rustix::fs::seek(&fd, SeekFrom::End(0)).doing(doing)?;
        let layout = Layout::detect()?;
        let inner = layout.mounts().find_map(|m| dir.path.strip_prefix(m.dir.as_str())).unwrap_or(dir.path);
        let whole = rustix::fs::stat("/proc/self/ns/cgroup").is_ok_and(|s| s.st_ino == FIRST_NAMESPACE);
        Ok(KernelLog { fd, lines: Lines { cgroup: inner.to_owned(), whole, ours: false } })
    }

    /// The processes killed since the last call; empty if the log does not tell.
    pub(super) fn victims(&mut self) -> Result<Vec<Victim>> {
        let mut victims = Vec::new();
        let mut record = [0_u8; RECORD];
        loop {
            match rustix::io::read(&self.fd, &mut record) {
                Ok(0) => return Ok(victims),
                Ok(n) => {
                    let text = String::from_utf8_lossy(record.get(..n).unwrap_or_default());
                    victims.extend(text.split_once(';').and_then(|(_, text)| self.lines.read(text.lines().next().unwrap_or_default())));
                }
                // EPIPE: the kernel has overwritten records that were not read yet
                Err(Errno::INTR | Errno::PIPE) => {}
                Err(Errno::AGAIN) if victims.is_empty() => {
                    let time = Timespec { tv_sec: 0, tv_nsec: i64::from(DELAY.subsec_nanos()) };
                    if rustix::event::poll(&mut [PollFd::new(&self.fd.as_fd(), PollFlags::IN)], Some(&time))
                        .doing(|| "wait for /dev/kmsg")?
                        == 0
                    {
                        return Ok(victims);
                    }
                }
                Err(Errno::AGAIN) => return Ok(victims),
                Err(e) => return Err(e).doing(|| "read /dev/kmsg"),
            }
        }
    }
}

/// The inode of the initial cgroup namespace (linux/nsfs.h, CGROUP_NS_INIT_INO).
const FIRST_NAMESPACE: u64 = 0xEFFF_FFFB;

/// The state of reading the log line by line.
#[derive(Debug)]
struct Lines {
    /// The path of the container's cgroup in our cgroup namespace.
    cgroup: String,
    /// Whether the log has the same path. Otherwise the log's path has more before it.
    whole: bool,
    /// Whether the last announced kill is in this cgroup.
    ours: bool,
}

impl Lines {
    fn read(&mut self, line: &str) -> Option<Victim> {
        if let Some(rest) = line.strip_prefix("oom-kill:") {
            self.ours =
                rest.split_once(",task_memcg=").and_then(|(_, rest)| rest.split_once(",task=")).is_some_and(|(path, _)| self.is_in(path));
        } else if let Some(path) =
            line.strip_prefix("Tasks in ").and_then(|rest| rest.split_once(" are going to be killed")).map(|(path, _)| path)
        {
            self.ours = self.is_in(path);
        } else if self.ours
            && let Some((_, rest)) = line.split_once("Killed process ")
            && let Some((pid, rest)) = rest.split_once(" (")
            && let Some((name, _)) = rest.split_once(") total-vm:")
        {
            return Some(Victim { pid: pid.parse().ok()?, name: name.to_owned() });
        }
        None
    }

    /// Whether a cgroup in the log is the container's or below it.
    fn is_in(&self, path: &str) -> bool {
        let ends = |rest: &str| rest.is_empty() || rest.starts_with('/');
        if self.whole {
            return path.strip_prefix(self.cgroup.as_str()).is_some_and(ends);
        }
        path.match_indices(self.cgroup.as_str()).any(|(at, found)| ends(path.get(at + found.len()..).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn victims(whole: bool, log: &str) -> Vec<(i32, String)> {
        let mut lines = Lines { cgroup: "/web".into(), whole, ours: false };
        log.lines().filter_map(|line| lines.read(line)).map(|v| (v.pid, v.name)).collect()
    }

    #[test]
    fn victims_are_those_of_the_cgroup_and_below() {
        let log = "\
            oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x,mems_allowed=0,oom_memcg=/web,task_memcg=/web/a,task=runc:[2:INIT],pid=12,uid=0\n\
            Memory cgroup out of memory: Killed process 12 (runc:[2:INIT]) total-vm:1kB, anon-rss:1kB\n\
            oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x,mems_allowed=0,oom_memcg=/webx,task_memcg=/webx,task=a,pid=13,uid=0\n\
            Memory cgroup out of memory: Killed process 13 (a) total-vm:1kB\n\
            Tasks in /web are going to be killed due to memory.oom.group set\n\
            Memory cgroup out of memory: Killed process 14 (b) c) total-vm:1kB\n\
            usb 1-1: new device\n\
            Memory cgroup out of memory: Killed process 15 (d) total-vm:1kB\n\
            Tasks in /other/web are going to be killed due to memory.oom.group set\n\
            Memory cgroup out of memory: Killed process 16 (e) total-vm:1kB\n";
        let pairs = |list: &[(i32, &str)]| list.iter().map(|(pid, name)| (*pid, (*name).to_owned())).collect::<Vec<_>>();
        assert_eq!(victims(true, log), pairs(&[(12, "runc:[2:INIT]"), (14, "b) c"), (15, "d")]));
        assert_eq!(victims(false, log), pairs(&[(12, "runc:[2:INIT]"), (14, "b) c"), (15, "d"), (16, "e")]));
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "(oom-kill:|Tasks in |Killed process )?.{0,80}", cgroup in ".{0,5}", whole: bool) {
            let _ = Lines { cgroup, whole, ours: true }.read(&line);
        }
    }
}
