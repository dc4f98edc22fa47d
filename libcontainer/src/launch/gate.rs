//! The gate: the fifo on which a created container's init waits for `start` (fifo(7)).
//!
//! It lies in the state directory under runc's name, because tools look there for whether a container is created. Init holds
//! it open for reading and writing, so `start` finds out by opening it whether init is still there: ENXIO if not.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::error::{Doing, Error, Kind, Result};

/// Its name in the state directory.
const NAME: &str = "exec.fifo";

/// Init's end.
#[derive(Debug)]
pub(crate) struct Gate(OwnedFd);

impl Gate {
    /// Makes it, in the runtime, for init to inherit: nothing of the state directory is reopened inside the container.
    pub(crate) fn make(dir: BorrowedFd<'_>) -> Result<Gate> {
        let doing = || format!("make {NAME}");
        rustix::fs::mknodat(dir, NAME, FileType::Fifo, Mode::from_raw_mode(0o622), 0).doing(doing)?;
        let fd = rustix::fs::openat(dir, NAME, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()).doing(doing)?;
        Ok(Gate(fd))
    }

    /// The descriptor's number, for the list of those that init keeps.
    pub(crate) fn number(&self) -> u32 {
        self.0.as_raw_fd() as u32
    }

    /// Makes ready to wait, before a filter may forbid it: signals are held back from here on, and read at the gate.
    pub(crate) fn prepare(&self) -> Result<Waiting<'_>> {
        let doing = || "prepare to wait for start";
        let all = SigSet::all();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&all), None).map_err(std::io::Error::from).doing(doing)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&all, flags).map_err(std::io::Error::from).doing(doing)?;
        Ok(Waiting { gate: &self.0, signals })
    }
}

/// Init before the gate.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    gate: &'a OwnedFd,
    signals: SignalFd,
}

impl Waiting<'_> {
    /// Waits, in init, until `start` opens the gate. A signal that would end another program ends this one with 128 + its
    /// number, though it is the first of its pid namespace, which the kernel shields: a created container can be stopped.
    pub(crate) fn wait(&self) -> Result<()> {
        let doing = || "wait for start";
        loop {
            let mut fds = [PollFd::new(self.gate, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) => {}
                // frozen or traced meanwhile: nothing was looked at
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e).doing(doing),
            }
            if fds[0].revents().contains(PollFlags::IN) {
                return match rustix::io::retry_on_intr(|| rustix::io::read(self.gate, &mut [0u8; 1])) {
                    Ok(_) => Ok(()),
                    Err(e) => Err(e).doing(doing),
                };
            }
            while let Ok(Some(info)) = self.signals.read_signal() {
                let number = info.ssi_signo as i32;
                if ends_a_program(number) {
                    masu_host::sys::exec::exit(128 + number);
                }
            }
        }
    }
}

/// Whether the default action of a signal is to end the process (signal(7)).
fn ends_a_program(number: i32) -> bool {
    use Signal::{SIGCHLD, SIGCONT, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH};
    !matches!(Signal::try_from(number), Ok(SIGCHLD | SIGCONT | SIGURG | SIGWINCH | SIGTSTP | SIGTTIN | SIGTTOU))
}

/// Gives it to the container's root, as runc does; nothing inside opens it.
pub(crate) fn give(dir: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(dir, NAME, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).doing(|| format!("give {NAME} to the container's root"))
}

/// Whether the container whose state directory this is still waits: somebody holds the fifo open to read. Its mere
/// presence would not do, for a `start` that was killed half-way leaves it behind.
pub(crate) fn is_closed(dir: BorrowedFd<'_>) -> bool {
    is_held(dir, NAME)
}

/// The same of the container `id`, by the state root.
pub(crate) fn is_closed_below(root: BorrowedFd<'_>, id: &str) -> bool {
    is_held(root, &format!("{id}/{NAME}"))
}

fn is_held(dir: BorrowedFd<'_>, path: &str) -> bool {
    rustix::fs::openat(dir, path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()).is_ok()
}

/// The other side of the gate, while init holds its own.
#[derive(Debug)]
pub(crate) struct Held(OwnedFd);

/// The gate that init waits at; `None` when no process does.
pub(crate) fn hold(dir: BorrowedFd<'_>) -> Result<Option<Held>> {
    match rustix::fs::openat(dir, NAME, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(fd) => Ok(Some(Held(fd))),
        Err(Errno::NXIO | Errno::NOENT) => Ok(None),
        Err(e) => Err(e).doing(|| format!("open {NAME}")),
    }
}

impl Held {
    /// Opens the gate, in `start`: init goes on to execute its program.
    pub(crate) fn open(&self, dir: BorrowedFd<'_>) -> Result<()> {
        rustix::io::write(&self.0, b"0").doing(|| "tell init to start")?;
        match rustix::fs::unlinkat(dir, NAME, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e).doing(|| format!("remove {NAME}")),
        }
    }

    /// Waits until init has executed its program, or died: both close init's end. It may take long: startContainer hooks run
    /// before that.
    pub(crate) fn wait(self) -> Result<()> {
        let mut fds = [PollFd::new(&self.0, PollFlags::empty())];
        loop {
            match rustix::event::poll(&mut fds, None) {
                Ok(_) if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(Error::from(e)).doing(|| "wait until init runs its program"),
            }
        }
    }
}

/// Unblocks all signals, as the program expects them.
pub(crate) fn unblock_signals() -> Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(|e| Error::new(Kind::Internal, e.desc()))
        .doing(|| "unblock signals")
}
