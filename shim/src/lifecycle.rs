//! What follows when a worker is done.

use rustix::process::Pid;

use crate::daemon::Daemon;
use crate::deletion;
use crate::exits;
use crate::io::stdio::Opened;
use crate::jobs::Then;
use crate::oom;
use crate::rpc::messages::{
    Answer, Any, CreateRequest, EMPTY, PidResponse, PidsResponse, ProcessDetails, ProcessInfo, StatsResponse, Status, TaskCreate,
    TaskExecStarted, TaskIo, TaskNotice, TaskStart,
};
use crate::rpc::wire::Message;
use crate::runtime::NO_RECORD;
use crate::state::{Caller, Phase};
use crate::worker::Done;

pub(crate) fn follow(daemon: &mut Daemon, then: Then, result: Result<Done, Status>) {
    match then {
        Then::Created { caller, request, opened } => created(daemon, caller, request, opened, result),
        Then::Started { caller, id, exec_id, opened } => started(daemon, caller, &id, &exec_id, opened, result),
        Then::Deleted { id } => deletion::removed(daemon, &id, result),
        Then::Paused { caller, id } => paused(daemon, caller, &id, result, true),
        Then::Resumed { caller, id } => paused(daemon, caller, &id, result, false),
        Then::Killed { caller, id, signal } => killed(daemon, caller, &id, signal, result),
        Then::Pids { caller, id } => {
            let answer = result.map(|(answer, _)| list(daemon, &id, &answer.pids));
            daemon.answer(caller, answer);
        }
        Then::Stats { caller } => {
            let stats = |(answer, _): Done| Any::decode(&answer.payload).unwrap_or_default();
            daemon.answer(caller, result.map(|done| StatsResponse { stats: Some(stats(done)) }.encode()));
        }
        Then::Plain { caller } => daemon.answer(caller, result.map(|_| EMPTY)),
        Then::Nothing => {
            if let Err(e) = result {
                log::debug!("{}", e.message);
            }
        }
    }
}

fn created(daemon: &mut Daemon, caller: Caller, request: CreateRequest, opened: Opened, result: Result<Done, Status>) {
    let id = request.id;
    let (answer, terminal) = match result {
        Ok(done) => done,
        Err(e) => {
            daemon.state.containers.remove(&id);
            return daemon.answer(caller, Err(e));
        }
    };
    let owner = (id.clone(), String::new());
    let io = daemon.streaming.begin(&daemon.poll, &owner, opened, terminal, answer.logger as i32);
    let Some(container) = daemon.state.containers.get_mut(&id) else { return };
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
    daemon.publish("create", "TaskCreate", &event);
    oom::watch(daemon, &id);
    daemon.run_streams(&pumps);
    daemon.answer(caller, Ok(PidResponse { pid: answer.pid }.encode()));
    if let Some(exit) = daemon.state.early.take(answer.pid as i32) {
        exits::reaped(daemon, &owner, exit);
    }
}

fn started(daemon: &mut Daemon, caller: Caller, id: &str, exec_id: &str, opened: Option<Opened>, result: Result<Done, Status>) {
    let is_exec = !exec_id.is_empty();
    let owner = (id.to_owned(), exec_id.to_owned());
    let (answer, terminal) = match result {
        Ok(done) => done,
        Err(e) => {
            if let Some(process) = daemon.state.containers.get_mut(id).and_then(|c| c.process_mut(exec_id)) {
                // an exec that failed can only be deleted; init waits on, or its exit is told now
                process.phase = if is_exec { Phase::Stopped } else { Phase::Created };
            }
            daemon.answer(caller, Err(e));
            return exits::tell(daemon, id);
        }
    };
    let io = opened.map(|opened| daemon.streaming.begin(&daemon.poll, &owner, opened, terminal, answer.logger as i32));
    let Some(process) = daemon.state.containers.get_mut(id).and_then(|c| c.process_mut(exec_id)) else { return };
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
        daemon.publish("exec-started", "TaskExecStarted", &event);
    } else {
        daemon.publish("start", "TaskStart", &TaskStart { container_id: id.into(), pid: pid as u32 });
    }
    daemon.run_streams(&pumps);
    daemon.answer(caller, Ok(PidResponse { pid: pid as u32 }.encode()));
    match daemon.state.early.take(pid).filter(|_| is_exec) {
        Some(exit) => exits::reaped(daemon, &owner, exit),
        None => exits::tell(daemon, id),
    }
}

fn paused(daemon: &mut Daemon, caller: Caller, id: &str, result: Result<Done, Status>, pauses: bool) {
    if result.is_ok() {
        if let Some(container) = daemon.state.containers.get_mut(id).filter(|c| c.init.exit.is_none()) {
            container.is_paused = pauses;
        }
        let (topic, kind) = if pauses { ("paused", "TaskPaused") } else { ("resumed", "TaskResumed") };
        daemon.publish(topic, kind, &TaskNotice { container_id: id.to_owned() });
    }
    daemon.answer(caller, result.map(|_| EMPTY));
}

/// Should somebody have removed the runtime's record, init is still ours, and must not become one that nobody can end.
fn killed(daemon: &mut Daemon, caller: Caller, id: &str, signal: u32, mut result: Result<Done, Status>) {
    let init = daemon.state.containers.get(id).map(|c| &c.init).filter(|p| p.reaped.is_none()).and_then(|p| Pid::from_raw(p.pid));
    if result.as_ref().is_err_and(|e| e.message.starts_with(NO_RECORD))
        && let Some(pid) = init
        && let Some(signal) = masu_host::sys::signal::from_number(signal as i32)
        && rustix::process::kill_process(pid, signal).is_ok()
    {
        result = Ok((Answer::default(), None));
    }
    daemon.answer(caller, result.map(|_| EMPTY));
}

fn list(daemon: &Daemon, id: &str, pids: &[u64]) -> Vec<u8> {
    let exec_of = |pid: u32| {
        let (exec_id, _) = daemon.state.containers.get(id)?.execs.iter().find(|(_, p)| p.pid as u32 == pid && p.exit.is_none())?;
        let details = ProcessDetails { exec_id: exec_id.clone() };
        Some(Any { type_url: "containerd.runc.v1.ProcessDetails".into(), value: details.encode() })
    };
    let processes = pids.iter().map(|pid| ProcessInfo { pid: *pid as u32, info: exec_of(*pid as u32) }).collect();
    PidsResponse { processes }.encode()
}
