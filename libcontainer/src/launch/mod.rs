//! From the clone to execve: one launch, of a container's first process or of one that is added to it.
//!
//! | process   | is                                | runs              | becomes            |
//! |-----------|-----------------------------------|-------------------|--------------------|
//! | runtime   | the command, or a program that    | `container/*.rs`  |                    |
//! |           | links the library                 |                   |                    |
//! | init      | the container's first process     | `init.rs`         | the user's program |
//! | exec init | a process added to a container    | `exec_init.rs`    | the user's program |
//! | stage     | only where a user namespace is    | `stage.rs`        |                    |
//! |           | joined, or others are beside one  |                   |                    |
//!
//! Else there is no intermediate process: clone3 makes the namespaces directly, and the plan is handed over by the fork.
//! A child leaves by execve or `_exit`, never by return.
//!
//! create and exec are the same story with two beginnings: prepare (plan, open what the host provides: [`Caller`]), claim (create
//! alone: `container/made.rs`), spawn, converse, commit ([`Launch`]).

pub(crate) mod channel;
pub(crate) mod exec_init;
mod finish;
pub(crate) mod gate;
pub(crate) mod init;
pub(crate) mod notify;
mod serve;
mod spawn;
mod stage;

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use masu_host::fds;
use masu_host::sys::clone::{Side, check_threads, clone3};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

pub(crate) use serve::{Answers, Until, unexpected};

use crate::cgroup::Cgroup;
use crate::error::{Doing, Error, Result};
use crate::plan::Plan;
use crate::process::{ProcessPlan, Stdio};
use channel::{Channel, Message};
use serve::Sockets;
use spawn::Child;

/// What the caller of create or exec gives to the process and wants from it.
#[derive(Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) stdio: &'a Stdio,
    pub(crate) console_socket: Option<&'a Path>,
    pub(crate) pidfd_socket: Option<&'a Path>,
    pub(crate) pid_file: Option<&'a Path>,
    /// It goes away.
    pub(crate) detach: bool,
    /// It keeps the terminal's master end, and stands in no terminal itself.
    pub(crate) keeps_terminal: bool,
    /// Descriptors from 3 on that the program keeps.
    pub(crate) preserved_fds: u32,
}

impl Caller<'_> {
    /// Checks that the calling process can make a child, and the descriptors that the program is to keep. Returns how many files
    /// a process may have open.
    ///
    /// # Errors
    /// The caller has more than one thread, or a descriptor is missing: the program counts on their numbers.
    pub(crate) fn check(&self) -> Result<u64> {
        check_threads()?;
        let n = self.preserved_fds;
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        if u64::from(n) > limit {
            return Err(Error::invalid(format!("{n} descriptors cannot be preserved: the limit of open files is {limit}")));
        }
        for fd in 3..3 + n {
            rustix::fs::access(format!("/proc/self/fd/{fd}"), rustix::fs::Access::EXISTS)
                .doing(|| format!("unable to stat preserved-fd {} (of {n}): descriptor {fd}", fd - 3))?;
        }
        Ok(limit)
    }

    /// A terminal that no process holds would hang up at once, and one that the caller did not ask for is a mistake. Notes in the
    /// plan whether another terminal stands before it.
    pub(crate) fn settle_terminal(&self, plan: &mut ProcessPlan) -> Result<()> {
        match self.console_socket {
            None if plan.terminal.is_some() && self.detach && !self.keeps_terminal => {
                return Err(Error::invalid("cannot allocate tty if runc will detach without setting console socket"));
            }
            Some(_) if plan.terminal.is_none() || !self.detach => {
                return Err(Error::invalid("cannot use console socket if runc will not detach or allocate tty"));
            }
            _ => {}
        }
        if let Some(terminal) = &mut plan.terminal {
            terminal.relayed = self.console_socket.is_none() && !self.keeps_terminal;
        }
        Ok(())
    }

    /// Connects the sockets that the launch will need, so that a wrong path is an error before anything is made.
    /// `pidfd_receiver` is another socket for a pidfd, which the config names.
    pub(crate) fn connect(&self, plan: &ProcessPlan, pidfd_receiver: Option<&Path>) -> Result<Sockets> {
        Sockets::connect(plan, self.console_socket, [self.pidfd_socket, pidfd_receiver])
    }
}

/// A process between its clone and its program, on the runtime's side. It is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Launch {
    child: Child,
    channel: Channel,
    sockets: Sockets,
    /// The terminal's master end, if it stays with us.
    terminal: Option<OwnedFd>,
}

impl Launch {
    /// Makes a container's first process, in the cgroup `into`. `inherited` are its ends, which are closed here afterwards: else
    /// its death would not be the end of the stream.
    pub(crate) fn of_init(
        plan: &Plan,
        channel: Channel,
        sockets: Sockets,
        inherited: &init::Inherited<'_>,
        into: Option<BorrowedFd<'_>>,
    ) -> Result<Launch> {
        let child = spawn::spawn(plan, inherited, into)?;
        Ok(Launch { child, channel, sockets, terminal: None })
    }

    /// Makes a process that is added to a container, in the cgroup `into`; after EBUSY, which says that only leaves take
    /// processes, in the one that `deeper` finds. `join_pids` joins the container's pid namespace.
    pub(crate) fn of_exec(
        plan: &ProcessPlan,
        channel: Channel,
        sockets: Sockets,
        inherited: &exec_init::Inherited<'_>,
        join_pids: Option<impl FnOnce() -> Result<()>>,
        into: Option<BorrowedFd<'_>>,
        deeper: impl FnOnce() -> Result<Option<Cgroup>>,
    ) -> Result<Launch> {
        let clone = |cgroup: Option<BorrowedFd<'_>>| match clone3(0, cgroup) {
            Ok(Side::Child) => exec_init::run(plan, inherited),
            cloned => cloned,
        };
        let child = spawn::unseen(join_pids, || {
            let mut cloned = clone(into);
            if let Err(Errno::BUSY) = cloned
                && let Some(deeper) = deeper()?
            {
                cloned = clone(deeper.clone_target());
            }
            Child::of(cloned.doing(|| "clone into the container")?)
        })?;
        Ok(Launch { child, channel, sockets, terminal: None })
    }

    /// Its pid on the host.
    pub(crate) fn pid(&self) -> i32 {
        self.child.pid
    }

    /// Sends a message that it waits for.
    pub(crate) fn send(&self, message: &Message) -> Result<()> {
        self.channel.send(message)
    }

    /// The next message, where one is certain to come.
    pub(crate) fn receive(&self) -> Result<Message> {
        self.channel.receive()?.ok_or_else(spawn::died)
    }

    /// That the process is gone, as an error.
    pub(crate) fn died() -> Error {
        spawn::died()
    }

    /// The reason of a failure. A step of ours may fail only because the process died: then its own words are the reason.
    /// (systemd, too, moves nothing that is dead or about to be, and says that all is done.) The process is ended.
    pub(crate) fn explain(&mut self, error: Error) -> Error {
        let is_dead = matches!(error.errno(), Some(Errno::PIPE | Errno::SRCH)) || self.child.has_ended();
        let error = self.channel.failure(is_dead).unwrap_or(error);
        let error = self.child.explain(error);
        self.child.kill();
        error
    }

    /// Tells the caller of the process: its pidfd over the sockets, its pid in the file.
    pub(crate) fn announce(&self, pid_file: Option<&Path>) -> Result<()> {
        for socket in &self.sockets.pidfd {
            fds::send_fd(socket, "pidfd", self.child.pidfd()?).doing(|| "send the pidfd over the pidfd socket")?;
        }
        pid_file.map_or(Ok(()), |path| write_pid_file(path, self.child.pid))
    }

    /// Lets it live: its pid, its pidfd, and the terminal's master end if that stays with the caller.
    pub(crate) fn keep(self) -> Result<(i32, OwnedFd, Option<OwnedFd>)> {
        let (pid, pidfd) = self.child.keep()?;
        Ok((pid, pidfd, self.terminal))
    }
}

/// Writes a pid file: whole or not at all, without a newline, which some readers do not take.
fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let doing = || format!("write pid file {}", path.display());
    let (Some(name), parent) = (path.file_name().and_then(|n| n.to_str()), path.parent()) else {
        return Err(Error::invalid("it has no name")).doing(doing);
    };
    let parent = parent.filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = rustix::fs::openat(CWD, parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
    let temporary = format!(".{name}.{}", rustix::process::getpid().as_raw_nonzero());
    masu_host::write::atomically(dir.as_fd(), name, &temporary, Mode::from_raw_mode(0o666), |file| Ok(write!(file, "{pid}")?)).doing(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_has_no_newline() {
        let dir = tempfile::tempdir().unwrap();
        write_pid_file(&dir.path().join("pid"), 42).unwrap();
        assert_eq!(std::fs::read(dir.path().join("pid")).unwrap(), b"42");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let e = write_pid_file(Path::new("/no/dir/pid"), 1).unwrap_err();
        assert!(e.to_string().ends_with("no such file or directory"), "{e}");
    }
}
