//! Delete: it is answered when the runtime is done, the exit was told, and the last output is on its way.

use std::time::{Duration, Instant};

use crate::daemon::Daemon;
use crate::rpc::frame::{code, status};
use crate::rpc::messages::{DeleteResponse, Status, TaskDelete};
use crate::rpc::wire::Message;
use crate::state::Owner;
use crate::worker::Done;

/// How long a Delete waits for a reader of the output.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The runtime has removed the container, or could not.
pub(crate) fn removed(daemon: &mut Daemon, id: &str, result: Result<Done, Status>) {
    let Some(container) = daemon.state.containers.get_mut(id) else { return };
    match result {
        Ok(_) => {
            if let Some(deletion) = &mut container.init.deletion {
                deletion.removed = true;
            }
            try_finish(daemon, &(id.to_owned(), String::new()));
        }
        Err(e) => {
            // it can be tried again
            if let Some(deletion) = container.init.deletion.take() {
                daemon.answer(deletion.caller, Err(e));
            }
        }
    }
}

/// Answers a Delete if the runtime is done, the process was reaped, and its last output is on its way.
pub(crate) fn try_finish(daemon: &mut Daemon, owner: &Owner) {
    let (id, exec_id) = (owner.0.as_str(), owner.1.as_str());
    let Some(process) = daemon.state.process(owner) else { return };
    let Some(deletion) = &process.deletion else { return };
    let late = Instant::now() >= deletion.deadline;
    let has_ended = process.exit.is_some() || process.pid == 0;
    if !deletion.removed || !has_ended {
        return;
    }
    let caller = deletion.caller;
    if !daemon.streaming.finish_outputs(&mut daemon.state, &daemon.poll, owner) && !late {
        return;
    }
    daemon.streaming.drop_all(&mut daemon.state, &daemon.poll, owner);
    let Some(container) = daemon.state.containers.get_mut(id) else { return };
    let removed = if exec_id.is_empty() { None } else { container.execs.remove(exec_id) };
    let process = removed.as_ref().unwrap_or(&container.init);
    if process.deletion.is_none() {
        return;
    }
    let response = DeleteResponse { pid: process.pid as u32, exit_status: process.exit_status(), exited_at: process.exited_at() };
    for waiter in process.waiters.clone() {
        // an exec that was never started
        daemon.answer(waiter, Err(status(code::NOT_FOUND, "the process was deleted")));
    }
    if exec_id.is_empty() {
        for other in daemon.state.containers.get(id).map(|c| c.execs.keys().cloned().collect::<Vec<_>>()).unwrap_or_default() {
            daemon.streaming.drop_all(&mut daemon.state, &daemon.poll, &(id.to_owned(), other));
        }
        daemon.state.containers.remove(id);
        let event = TaskDelete {
            container_id: id.into(),
            pid: response.pid,
            exit_status: response.exit_status,
            exited_at: response.exited_at.clone(),
            id: String::new(),
        };
        daemon.publish("delete", "TaskDelete", &event);
    }
    daemon.answer(caller, Ok(response.encode()));
}

/// Deletes that have waited long enough end without the rest of the output.
pub(crate) fn give_up_waiting(daemon: &mut Daemon, now: Instant) {
    let late: Vec<Owner> = daemon.state.deletions().filter(|(_, at)| *at <= now).map(|(owner, _)| owner).collect();
    for owner in late {
        try_finish(daemon, &owner);
    }
}
