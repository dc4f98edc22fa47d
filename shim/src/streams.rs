//! The pumps of all processes, as the loop runs them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal};

use crate::daemon::Daemon;
use crate::io::copy::{Pump, Target};
use crate::io::stdio::Opened;
use crate::state::Io;

/// A fifo that nobody has opened yet is looked at again so often.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long a logger may take to end after SIGTERM.
const LOGGER: Duration = Duration::from_secs(12);

/// What belongs to a process: its container and, if it is one of exec, its id.
pub(crate) type Owner = (String, String);

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

    fn close(&mut self, id: u64, poll: &crate::poll::Poll) {
        if let Some((pump, _)) = self.pumps.remove(&id) {
            pump.close(poll);
        }
        self.lingering.retain(|other| *other != id);
    }
}

impl Daemon {
    /// Begins to copy the streams of a process that was made. `opened` has lost what its worker took.
    pub(crate) fn stream(&mut self, owner: &Owner, opened: Opened, terminal: Option<OwnedFd>, logger: i32) -> Io {
        let mut io = Io { holder: opened.holder, logger, ..Io::default() };
        let copy_of = |fd: &OwnedFd| fd.try_clone().ok();
        if let Some(master) = &terminal {
            // it is ours alone
            let _ = rustix::fs::fcntl_setfl(master, OFlags::RDWR | OFlags::NONBLOCK);
        }
        if let Some((from, to)) = opened.input
            && let Some(to) = to.or_else(|| terminal.as_ref().and_then(copy_of))
        {
            io.input = Some(self.add_pump(from, Target { fd: to, reader: None }, owner));
        }
        for (from, to) in opened.outputs {
            if let Some(from) = from.or_else(|| terminal.as_ref().and_then(copy_of)) {
                io.outputs.push(self.add_pump(from, to, owner));
            }
        }
        io.terminal = terminal;
        io
    }

    fn add_pump(&mut self, from: OwnedFd, to: Target, owner: &Owner) -> u64 {
        let id = self.new_id();
        self.streaming.pumps.insert(id, (Pump::new(id, from, to), owner.clone()));
        id
    }

    /// Lets pumps run that were added, or whose process ended.
    pub(crate) fn run_pumps(&mut self, ids: &[u64]) {
        for id in ids {
            self.run_pump(*id);
        }
    }

    pub(crate) fn run_pump(&mut self, id: u64) {
        let Some((pump, owner)) = self.streaming.pumps.get_mut(&id) else { return };
        if !pump.run(&self.poll) {
            if pump.has_ended() && !self.streaming.lingering.contains(&id) {
                self.streaming.lingering.push(id);
                self.streaming.look_again.get_or_insert(Instant::now() + LOOK_AGAIN);
            }
            return;
        }
        let owner = owner.clone();
        self.streaming.close(id, &self.poll);
        let Some(process) = self.containers.get_mut(&owner.0).and_then(|c| c.process_mut(&owner.1)) else { return };
        if process.io.input == Some(id) {
            process.io.input = None;
            process.io.holder = None;
        }
        process.io.outputs.retain(|other| *other != id);
        self.try_finish_deletion(&owner.0, &owner.1);
    }

    /// What has to be done about streams by now.
    pub(crate) fn run_streams(&mut self, now: Instant) {
        if self.streaming.look_again.is_some_and(|at| at <= now) {
            for id in self.streaming.lingering.clone() {
                self.run_pump(id);
            }
            self.streaming.look_again = (!self.streaming.lingering.is_empty()).then(|| now + LOOK_AGAIN);
        }
        self.streaming.loggers.retain(|(at, pid)| {
            let late = *at <= now;
            if late && let Some(pid) = Pid::from_raw(*pid) {
                // not reaped yet, so its number is still its own
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            !late
        });
    }

    /// The process has ended: nothing more goes in.
    pub(crate) fn stop_input(&mut self, owner: &Owner) {
        let Some(process) = self.containers.get_mut(&owner.0).and_then(|c| c.process_mut(&owner.1)) else { return };
        process.io.holder = None;
        if let Some(id) = process.io.input.take() {
            self.streaming.close(id, &self.poll);
        }
    }

    /// Lets outputs end with what was written until now; whether all have.
    pub(crate) fn finish_outputs(&mut self, owner: &Owner) -> bool {
        let outputs = self.outputs(owner);
        for id in &outputs {
            if let Some((pump, _)) = self.streaming.pumps.get_mut(id) {
                pump.finish();
            }
        }
        self.run_pumps(&outputs);
        // what nobody has opened until now, nobody will
        for id in self.outputs(owner) {
            if self.streaming.lingering.contains(&id) {
                self.drop_output(owner, id);
            }
        }
        self.outputs(owner).is_empty()
    }

    /// Ends all streams of a process at once.
    pub(crate) fn drop_streams(&mut self, owner: &Owner) {
        for id in self.outputs(owner) {
            self.drop_output(owner, id);
        }
        self.stop_input(owner);
        let Some(process) = self.containers.get_mut(&owner.0).and_then(|c| c.process_mut(&owner.1)) else { return };
        process.io.terminal = None;
        let logger = std::mem::take(&mut process.io.logger);
        if let Some(pid) = Pid::from_raw(logger).filter(|_| logger > 0) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
            self.streaming.loggers.push((Instant::now() + LOGGER, logger));
        }
    }

    fn drop_output(&mut self, owner: &Owner, id: u64) {
        self.streaming.close(id, &self.poll);
        if let Some(process) = self.containers.get_mut(&owner.0).and_then(|c| c.process_mut(&owner.1)) {
            process.io.outputs.retain(|other| *other != id);
        }
    }

    fn outputs(&self, owner: &Owner) -> Vec<u64> {
        self.containers.get(&owner.0).and_then(|c| c.process(&owner.1)).map(|p| p.io.outputs.clone()).unwrap_or_default()
    }
}
