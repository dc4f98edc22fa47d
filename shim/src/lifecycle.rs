//! What follows when a worker is done.

use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::daemon::Daemon;
use crate::io::stdio::Opened;
use crate::rpc::frame::{code, status};
use crate::rpc::messages::{
    Answer, Any, CreateRequest, DeleteResponse, EMPTY, PidResponse, PidsResponse, ProcessDetails, ProcessInfo, StatsResponse, Status,
    TaskCreate, TaskDelete, TaskExecStarted, TaskIo, TaskNotice, TaskStart,
};
use crate::rpc::wire::Message;
use crate::runtime::NO_RECORD;
use crate::state::{Caller, Phase};
use crate::worker::Done;

/// How long a Delete waits for who reads the output.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What to do with the result of a worker.
#[derive(Debug)]
pub(crate) enum Then {
    Created {
        caller: Caller,
        request: CreateRequest,
        opened: Opened,
    },
    /// `opened` for exec.
    Started {
        caller: Caller,
        id: String,
        exec_id: String,
        opened: Option<Opened>,
    },
    Paused {
        caller: Caller,
        id: String,
    },
    Resumed {
        caller: Caller,
        id: String,
    },
    Deleted {
        id: String,
    },
    Killed {
        caller: Caller,
        id: String,
        signal: u32,
    },
    Pids {
        caller: Caller,
        id: String,
    },
    Stats {
        caller: Caller,
    },
    /// The answer says nothing.
    Plain {
        caller: Caller,
    },
    Nothing,
}

impl Then {
    /// Whether the worker makes a process.
    pub(crate) fn launches(&self) -> bool {
        matches!(self, Then::Created { .. } | Then::Started { opened: Some(_), .. })
    }
}

impl Daemon {
    pub(crate) fn follow(&mut self, then: Then, result: Result<Done, Status>) {
        match then {
            Then::Created { caller, request, opened } => self.created(caller, request, opened, result),
            Then::Started { caller, id, exec_id, opened } => self.started(caller, &id, &exec_id, opened, result),
            Then::Deleted { id } => self.deleted(&id, result),
            Then::Paused { caller, id } => self.paused(caller, &id, result, true),
            Then::Resumed { caller, id } => self.paused(caller, &id, result, false),
            Then::Killed { caller, id, signal } => self.killed(caller, &id, signal, result),
            Then::Pids { caller, id } => {
                let answer = result.map(|(answer, _)| self.list(&id, &answer.pids));
                self.answer(caller, answer);
            }
            Then::Stats { caller } => {
                let stats = |(answer, _): Done| Any::decode(&answer.payload).unwrap_or_default();
                self.answer(caller, result.map(|done| StatsResponse { stats: Some(stats(done)) }.encode()));
            }
            Then::Plain { caller } => self.answer(caller, result.map(|_| EMPTY)),
            Then::Nothing => {
                if let Err(e) = result {
                    log::debug!("{}", e.message);
                }
            }
        }
    }

    fn created(&mut self, caller: Caller, request: CreateRequest, opened: Opened, result: Result<Done, Status>) {
        let id = request.id;
        let (answer, terminal) = match result {
            Ok(done) => done,
            Err(e) => {
                self.containers.remove(&id);
                return self.answer(caller, Err(e));
            }
        };
        let owner = (id.clone(), String::new());
        let io = self.stream(&owner, opened, terminal, answer.logger as i32);
        let Some(container) = self.containers.get_mut(&id) else { return };
        container.shares_pids = answer.payload.first() == Some(&1);
        container.init.pid = answer.pid as i32;
        container.init.phase = Phase::Created;
        let pumps: Vec<u64> = io.outputs.iter().chain(&io.input).copied().collect();
        container.init.io = io;
        let event = TaskCreate {
            container_id: id.clone(),
            bundle: request.bundle,
            rootfs: request.rootfs,
            io: Some(TaskIo { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, terminal: request.terminal }),
            checkpoint: String::new(),
            pid: answer.pid,
        };
        self.events.publish(&self.poll, "create", "TaskCreate", &event);
        self.watch_oom(&id);
        self.run_pumps(&pumps);
        self.answer(caller, Ok(PidResponse { pid: answer.pid }.encode()));
        if let Some(exit) = self.early.take(answer.pid as i32) {
            self.reaped(&owner, exit);
        }
    }

    fn started(&mut self, caller: Caller, id: &str, exec_id: &str, opened: Option<Opened>, result: Result<Done, Status>) {
        let is_exec = !exec_id.is_empty();
        let owner = (id.to_owned(), exec_id.to_owned());
        let (answer, terminal) = match result {
            Ok(done) => done,
            Err(e) => {
                if let Some(process) = self.containers.get_mut(id).and_then(|c| c.process_mut(exec_id)) {
                    // an exec that failed can only be deleted; init waits on, or its exit is told now
                    process.phase = if is_exec { Phase::Stopped } else { Phase::Created };
                }
                self.answer(caller, Err(e));
                return self.tell_exits(id);
            }
        };
        let io = opened.map(|opened| self.stream(&owner, opened, terminal, answer.logger as i32));
        let Some(process) = self.containers.get_mut(id).and_then(|c| c.process_mut(exec_id)) else { return };
        let mut pumps = Vec::new();
        if let Some(io) = io {
            process.pid = answer.pid as i32;
            process.spec = Vec::new();
            pumps.extend(io.outputs.iter().chain(&io.input));
            process.io = io;
            if process.input_closed {
                process.io.holder = None;
            }
        }
        process.phase = Phase::Running;
        let pid = process.pid;
        if is_exec {
            let event = TaskExecStarted { container_id: id.into(), exec_id: exec_id.into(), pid: pid as u32 };
            self.events.publish(&self.poll, "exec-started", "TaskExecStarted", &event);
        } else {
            self.events.publish(&self.poll, "start", "TaskStart", &TaskStart { container_id: id.into(), pid: pid as u32 });
        }
        self.run_pumps(&pumps);
        self.answer(caller, Ok(PidResponse { pid: pid as u32 }.encode()));
        match self.early.take(pid).filter(|_| is_exec) {
            Some(exit) => self.reaped(&owner, exit),
            None => self.tell_exits(id),
        }
    }

    fn paused(&mut self, caller: Caller, id: &str, result: Result<Done, Status>, pauses: bool) {
        if result.is_ok() {
            if let Some(container) = self.containers.get_mut(id).filter(|c| c.init.exit.is_none()) {
                container.init.phase = if pauses { Phase::Paused } else { Phase::Running };
            }
            let (topic, kind) = if pauses { ("paused", "TaskPaused") } else { ("resumed", "TaskResumed") };
            self.events.publish(&self.poll, topic, kind, &TaskNotice { container_id: id.to_owned() });
        }
        self.answer(caller, result.map(|_| EMPTY));
    }

    /// Should somebody have removed the runtime's record, init is still ours, and must not become one that nobody can end.
    fn killed(&mut self, caller: Caller, id: &str, signal: u32, mut result: Result<Done, Status>) {
        let init = self.containers.get(id).map(|c| &c.init).filter(|p| p.reaped.is_none()).and_then(|p| Pid::from_raw(p.pid));
        if result.as_ref().is_err_and(|e| e.message.starts_with(NO_RECORD))
            && let Some(pid) = init
            && let Some(signal) = masu_host::sys::signal::from_number(signal as i32)
            && rustix::process::kill_process(pid, signal).is_ok()
        {
            result = Ok((Answer::default(), None));
        }
        self.answer(caller, result.map(|_| EMPTY));
    }

    fn list(&self, id: &str, pids: &[u64]) -> Vec<u8> {
        let exec_of = |pid: u32| {
            let (exec_id, _) = self.containers.get(id)?.execs.iter().find(|(_, p)| p.pid as u32 == pid && p.exit.is_none())?;
            let details = ProcessDetails { exec_id: exec_id.clone() };
            Some(Any { type_url: "containerd.runc.v1.ProcessDetails".into(), value: details.encode() })
        };
        let processes = pids.iter().map(|pid| ProcessInfo { pid: *pid as u32, info: exec_of(*pid as u32) }).collect();
        PidsResponse { processes }.encode()
    }

    fn deleted(&mut self, id: &str, result: Result<Done, Status>) {
        let Some(container) = self.containers.get_mut(id) else { return };
        match result {
            Ok(_) => {
                if let Some(deletion) = &mut container.init.deletion {
                    deletion.removed = true;
                }
                self.try_finish_deletion(id, "");
            }
            Err(e) => {
                // it can be tried again
                if let Some(deletion) = container.init.deletion.take() {
                    self.answer(deletion.caller, Err(e));
                }
            }
        }
    }

    /// Answers a Delete if the runtime is done, the process was reaped, and its last output is on its way.
    pub(crate) fn try_finish_deletion(&mut self, id: &str, exec_id: &str) {
        let owner = (id.to_owned(), exec_id.to_owned());
        let Some(process) = self.containers.get(id).and_then(|c| c.process(exec_id)) else { return };
        let Some(deletion) = &process.deletion else { return };
        let late = Instant::now() >= deletion.deadline;
        let has_ended = process.exit.is_some() || process.pid == 0;
        if !deletion.removed || !has_ended {
            return;
        }
        let caller = deletion.caller;
        if !self.finish_outputs(&owner) && !late {
            return;
        }
        self.drop_streams(&owner);
        let Some(container) = self.containers.get_mut(id) else { return };
        let removed = if exec_id.is_empty() { None } else { container.execs.remove(exec_id) };
        let process = removed.as_ref().unwrap_or(&container.init);
        if process.deletion.is_none() {
            return;
        }
        let response = DeleteResponse { pid: process.pid as u32, exit_status: process.exit_status(), exited_at: process.exited_at() };
        for waiter in process.waiters.clone() {
            // an exec that was never started
            self.answer(waiter, Err(status(code::NOT_FOUND, "the process was deleted")));
        }
        if exec_id.is_empty() {
            for other in self.containers.get(id).map(|c| c.execs.keys().cloned().collect::<Vec<_>>()).unwrap_or_default() {
                self.drop_streams(&(id.to_owned(), other));
            }
            self.containers.remove(id);
            let event = TaskDelete {
                container_id: id.into(),
                pid: response.pid,
                exit_status: response.exit_status,
                exited_at: response.exited_at.clone(),
                id: String::new(),
            };
            self.events.publish(&self.poll, "delete", "TaskDelete", &event);
        }
        self.answer(caller, Ok(response.encode()));
    }

    /// When the first Delete must stop waiting.
    pub(crate) fn deletion_deadline(&self) -> Option<Instant> {
        self.deletions().map(|(_, _, at)| at).min()
    }

    fn deletions(&self) -> impl Iterator<Item = (&str, &str, Instant)> {
        self.containers.iter().flat_map(|(id, container)| {
            container.processes().filter_map(move |(exec_id, p)| {
                let deletion = p.deletion.as_ref().filter(|d| d.removed && (p.exit.is_some() || p.pid == 0))?;
                Some((id.as_str(), exec_id, deletion.deadline))
            })
        })
    }

    pub(crate) fn check_deletions(&mut self, now: Instant) {
        let late: Vec<_> = self.deletions().filter(|(_, _, at)| *at <= now).map(|(a, b, _)| (a.to_owned(), b.to_owned())).collect();
        for (id, exec_id) in late {
            self.try_finish_deletion(&id, &exec_id);
        }
    }
}
