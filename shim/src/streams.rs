//! The pumps of all processes, as the loop runs them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal};

use crate::io::copy::{Pump, Target};
use crate::io::stdio::Opened;
use crate::poll::Poll;
use crate::state::{Io, Owner, State};

/// A fifo that nobody has opened yet is looked at again so often.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long a logger may take to end after SIGTERM.
const LOGGER: Duration = Duration::from_secs(12);

#[derive(Debug, Default)]
pub(crate) struct Streaming {
    pumps: BTreeMap<u64, (Pump, Owner)>,
    /// Those that only wait for somebody to open their fifo.
    lingering: Vec<u64>,
    look_again: Option<Instant>,
    /// Loggers to be killed.
    loggers: Vec<(Instant, i32)>,
}

impl Streaming {
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.loggers.iter().map(|(at, _)| *at).chain(self.look_again).min()
    }

    pub(crate) fn len(&self) -> usize {
        self.pumps.len()
    }

    /// A logger that was reaped is killed no more.
    pub(crate) fn logger_ended(&mut self, pid: i32) {
        self.loggers.retain(|(_, logger)| *logger != pid);
    }

    fn close(&mut self, id: u64, poll: &Poll) {
        if let Some((pump, _)) = self.pumps.remove(&id) {
            pump.close(poll);
        }
        self.lingering.retain(|other| *other != id);
    }

    /// Begins to copy the streams of a process that was made. `opened` has lost what its worker took.
    pub(crate) fn begin(&mut self, poll: &Poll, owner: &Owner, opened: Opened, terminal: Option<OwnedFd>, logger: i32) -> Io {
        let mut io = Io { holder: opened.holder, logger, ..Io::default() };
        let copy_of = |fd: &OwnedFd| fd.try_clone().ok();
        if let Some(master) = &terminal {
            // it is ours alone
            let _ = rustix::fs::fcntl_setfl(master, OFlags::RDWR | OFlags::NONBLOCK);
        }
        if let Some((from, to)) = opened.input
            && let Some(to) = to.or_else(|| terminal.as_ref().and_then(copy_of))
        {
            io.input = Some(self.add(poll, from, Target { fd: to, reader: None }, owner));
        }
        for (from, to) in opened.outputs {
            if let Some(from) = from.or_else(|| terminal.as_ref().and_then(copy_of)) {
                io.outputs.push(self.add(poll, from, to, owner));
            }
        }
        io.terminal = terminal;
        io
    }

    fn add(&mut self, poll: &Poll, from: OwnedFd, to: Target, owner: &Owner) -> u64 {
        let id = poll.new_id();
        self.pumps.insert(id, (Pump::new(id, from, to), owner.clone()));
        id
    }

    /// Lets pumps run that were added, or whose process ended.
    pub(crate) fn run_all(&mut self, state: &mut State, poll: &Poll, ids: &[u64]) {
        for id in ids {
            self.run(state, poll, *id);
        }
    }

    /// Lets one pump run; whose it was, if it has ended.
    pub(crate) fn run(&mut self, state: &mut State, poll: &Poll, id: u64) -> Option<Owner> {
        let (pump, owner) = self.pumps.get_mut(&id)?;
        if !pump.run(poll) {
            if pump.has_ended() && !self.lingering.contains(&id) {
                self.lingering.push(id);
                self.look_again.get_or_insert(Instant::now() + LOOK_AGAIN);
            }
            return None;
        }
        let owner = owner.clone();
        self.close(id, poll);
        if let Some(process) = state.process_mut(&owner) {
            if process.io.input == Some(id) {
                process.io.input = None;
                process.io.holder = None;
            }
            process.io.outputs.retain(|other| *other != id);
        }
        Some(owner)
    }

    /// What has to be done about streams by now; whose have ended.
    pub(crate) fn run_due(&mut self, state: &mut State, poll: &Poll, now: Instant) -> Vec<Owner> {
        let mut ended = Vec::new();
        if self.look_again.is_some_and(|at| at <= now) {
            for id in self.lingering.clone() {
                ended.extend(self.run(state, poll, id));
            }
            self.look_again = (!self.lingering.is_empty()).then(|| now + LOOK_AGAIN);
        }
        self.loggers.retain(|(at, pid)| {
            let late = *at <= now;
            if late && let Some(pid) = Pid::from_raw(*pid) {
                // not reaped yet, so its number is still its own
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            !late
        });
        ended
    }

    /// The process has ended: nothing more goes in.
    pub(crate) fn stop_input(&mut self, state: &mut State, poll: &Poll, owner: &Owner) {
        let Some(process) = state.process_mut(owner) else { return };
        process.io.holder = None;
        if let Some(id) = process.io.input.take() {
            self.close(id, poll);
        }
    }

    /// Lets outputs end with what was written until now; whether all have.
    pub(crate) fn finish_outputs(&mut self, state: &mut State, poll: &Poll, owner: &Owner) -> bool {
        let own = outputs(state, owner);
        for id in &own {
            if let Some((pump, _)) = self.pumps.get_mut(id) {
                pump.finish();
            }
        }
        self.run_all(state, poll, &own);
        // what nobody has opened until now, nobody will
        for id in outputs(state, owner) {
            if self.lingering.contains(&id) {
                self.drop_output(state, poll, owner, id);
            }
        }
        outputs(state, owner).is_empty()
    }

    /// Ends all streams of a process at once.
    pub(crate) fn drop_all(&mut self, state: &mut State, poll: &Poll, owner: &Owner) {
        for id in outputs(state, owner) {
            self.drop_output(state, poll, owner, id);
        }
        self.stop_input(state, poll, owner);
        let Some(process) = state.process_mut(owner) else { return };
        process.io.terminal = None;
        let logger = std::mem::take(&mut process.io.logger);
        if let Some(pid) = Pid::from_raw(logger).filter(|_| logger > 0) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
            self.loggers.push((Instant::now() + LOGGER, logger));
        }
    }

    fn drop_output(&mut self, state: &mut State, poll: &Poll, owner: &Owner, id: u64) {
        self.close(id, poll);
        if let Some(process) = state.process_mut(owner) {
            process.io.outputs.retain(|other| *other != id);
        }
    }
}

fn outputs(state: &State, owner: &Owner) -> Vec<u64> {
    state.process(owner).map(|p| p.io.outputs.clone()).unwrap_or_default()
}
