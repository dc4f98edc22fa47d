//! `run` and `exec` without --detach: stands in for the container's process until the process exits.
//!
//! One poll loop: a signalfd receives signals, which are passed on, and a pidfd reports the exit. If the process has a terminal,
//! the [`Relay`] copies input and output. Without a terminal the process has our standard streams, so nothing is copied.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libcontainer::container::{Exit, Process};
use libcontainer::error::{Doing, Error, Result};
use masu_host::sys::signal;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions};
use rustix::stdio;

use crate::poll::{Source, Wanted, wait};
use crate::relay::{HostTerminal, Relay};

/// The signals for the container: blocked, and read from a signalfd.
#[derive(Debug)]
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Blocks the signals before the container exists. So no signal is lost, and none ends this process while the container is
    /// half made.
    pub(crate) fn hold() -> Result<Signals> {
        let mut set = SigSet::all();
        // faults of this process, which the kernel does not block anyway
        for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGTRAP, Signal::SIGSYS] {
            set.remove(fault);
        }
        // ignored since the start of the program: a closed output of masu does not concern the container
        set.remove(Signal::SIGPIPE);
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None).map_err(errno).doing(|| "block signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Signals(SignalFd::with_flags(&set, flags).map_err(errno).doing(|| "signalfd")?))
    }

    fn next(&self) -> Result<Option<i32>> {
        let info = self.0.read_signal().map_err(errno).doing(|| "read a signal")?;
        Ok(info.and_then(|i| i32::try_from(i.ssi_signo).ok()))
    }
}

fn errno(e: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(e as i32)
}

/// Makes this process the parent of the container's orphans. Without a pid namespace they would else go to the host's init.
pub(crate) fn adopt_orphans() -> Result<()> {
    // any non-zero number turns it on
    rustix::process::set_child_subreaper(Some(rustix::process::Pid::INIT)).doing(|| "become a subreaper")
}

/// The process that masu stands in for.
#[derive(Debug)]
pub(crate) struct Foreground<'a> {
    pid: i32,
    pidfd: OwnedFd,
    relay: Option<Relay<'static>>,
    signals: &'a Signals,
}

impl Foreground<'_> {
    /// Takes over the terminal, if the process has one. Call it before the program runs, so that all input and output is in raw
    /// mode.
    pub(crate) fn over(process: Process, signals: &Signals) -> Result<Foreground<'_>> {
        let relay = |master| Relay::new(master, HostTerminal::raw()?, stdio::stdin(), stdio::stdout());
        let Process { pid, pidfd, terminal } = process;
        Ok(Foreground { pid, pidfd, relay: terminal.map(relay).transpose()?, signals })
    }

    /// Waits for the process. Returns its exit code, or 128+n when signal n ended the process.
    pub(crate) fn attend(self) -> Result<u8> {
        let Foreground { pid, pidfd, mut relay, signals } = self;
        let mut code = None;
        loop {
            if let Some(code) = code
                && relay.as_ref().is_none_or(Relay::is_drained)
            {
                return Ok(code);
            }
            let mut wanted: Wanted<'_> = Vec::with_capacity(5);
            if code.is_none() {
                wanted.push((Source::Process, pidfd.as_fd(), PollFlags::IN));
            }
            wanted.push((Source::Signals, signals.0.as_fd(), PollFlags::IN));
            if let Some(relay) = &relay {
                relay.wants(&mut wanted);
            }
            for source in wait(&wanted)? {
                match source {
                    Source::Process if relay.is_none() => return Ok(Exit::wait(&pidfd)?.code()),
                    Source::Process => code = Some(Exit::wait(&pidfd)?.code()),
                    Source::Signals => {
                        while let Some(number) = signals.next()? {
                            match (number, code) {
                                (libc::SIGCHLD, None) => code = reap(pid)?,
                                (libc::SIGCHLD | libc::SIGURG, _) => {}
                                (libc::SIGWINCH, _) if relay.is_some() => relay.iter().for_each(Relay::resize),
                                (number, None) => pass_on(pidfd.as_fd(), number),
                                // no process is left to pass the signal to, and the remaining output is discarded
                                (libc::SIGTERM | libc::SIGINT | libc::SIGQUIT | libc::SIGHUP, Some(code)) => return Ok(code),
                                _ => {}
                            }
                        }
                    }
                    Source::Master | Source::Stdin | Source::Stdout => {
                        if let Some(relay) = &mut relay {
                            relay.ready(source)?;
                        }
                    }
                }
            }
            if let Some(relay) = &mut relay {
                if code.is_some() {
                    relay.finish();
                }
                relay.turn();
            }
        }
    }
}

/// Passes a signal on. A process that has exited is ignored, because the loop soon sees the exit.
fn pass_on(pidfd: BorrowedFd<'_>, number: i32) {
    let Some(signal) = signal::from_number(number) else { return };
    if let Err(e) = rustix::process::pidfd_send_signal(pidfd, signal)
        && e != Errno::SRCH
    {
        log::warn!("pass signal {number} on: {}", Error::from(e));
    }
}

/// Reaps all children that have exited: orphans of the container, and perhaps the process itself, whose code is returned.
fn reap(pid: i32) -> Result<Option<u8>> {
    let mut code = None;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((child, status))) if Some(child) == Pid::from_raw(pid) => {
                code = Some(code_of(status.exit_status(), status.terminating_signal()));
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(code),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e).doing(|| "wait for children"),
        }
    }
}

fn code_of(status: Option<i32>, signal: Option<i32>) -> u8 {
    let code = match (status, signal) {
        (Some(status), _) => status,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    };
    u8::try_from(code).unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// `sh -c script` as a container's process.
    fn process(script: &str) -> (Child, Process) {
        let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        (child, Process { pid: pid.as_raw_nonzero().get(), pidfd, terminal: None })
    }

    /// A signalfd for one signal that is blocked in this thread only, because tests share a process.
    fn signals(signal: Signal) -> Signals {
        let mut set = SigSet::empty();
        set.add(signal);
        set.thread_block().unwrap();
        Signals(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).unwrap())
    }

    #[test]
    fn the_code_is_that_of_the_process() {
        let signals = signals(Signal::SIGUSR2);
        for (script, code) in
            [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("kill -34 $$", 162)]
        {
            let (_child, process) = process(script);
            assert_eq!(Foreground::over(process, &signals).unwrap().attend().unwrap(), code, "{script}");
        }
    }

    #[test]
    fn a_signal_is_passed_on() {
        // started before the signal is blocked, because a child inherits blocked signals
        let (_child, process) = process("trap 'exit 42' USR1; while :; do sleep 0.05; done");
        let signals = signals(Signal::SIGUSR1);
        // the trap is set when the shell has a child
        let children = format!("/proc/{0}/task/{0}/children", process.pid);
        while std::fs::read_to_string(&children).unwrap().is_empty() {
            std::thread::yield_now();
        }
        nix::sys::signal::raise(Signal::SIGUSR1).unwrap();
        assert_eq!(Foreground::over(process, &signals).unwrap().attend().unwrap(), 42);
    }
}
