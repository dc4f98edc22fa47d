//! Pause and Resume of tasks that are not started.

use anyhow::{Context, Result, ensure};
use integration::check;
use integration::shim::{Shim, refused};

use super::{PRECONDITION, events_of, of, refuses, with_shim};

const CREATED: u64 = 1;
const RUNNING: u64 = 2;
const PAUSED: u64 = 4;

fn status(shim: &mut Shim<'_>, id: &str) -> Result<u64> {
    Ok(shim.call("State", of(id))?.map_err(refused)?.number(4))
}

/// A paused created task has the status paused and cannot be started. After Resume it is created, and starts.
#[test]
fn a_created_task_is_paused_and_resumed() {
    check(|t| {
        with_shim(t, &["/bin/payload", "sleep"], |shim, bundle, id| {
            shim.call("Create", shim.create_message(bundle, id, ""))?.map_err(refused)?;
            let paused = shim.call("Pause", of(id))?;
            if !t.runtime.is("masu") {
                t.differs(t.runtime.kind, "containerd's shim pauses no task that is not started");
                ensure!(paused.is_err(), "paused");
                return shim.end(id);
            }
            paused.map_err(refused)?;
            ensure!(status(shim, id)? == PAUSED, "paused, it has the status {}", status(shim, id)?);
            refuses(shim.call("Start", of(id))?, PRECONDITION, "").context("the start of a paused task")?;
            ensure!(status(shim, id)? == PAUSED, "after a refused start it has the status {}", status(shim, id)?);
            shim.call("Resume", of(id))?.map_err(refused).context("the resume of a paused task")?;
            ensure!(status(shim, id)? == CREATED, "resumed, it has the status {}", status(shim, id)?);
            shim.call("Start", of(id))?.map_err(refused).context("the start of a resumed task")?;
            ensure!(status(shim, id)? == RUNNING, "started, it has the status {}", status(shim, id)?);
            shim.until(|events| events.len() >= 4)?;
            ensure!(events_of(shim, id) == ["create", "paused", "resumed", "start"], "{:?}", shim.events);
            shim.end(id)
        })
    });
}

/// A task that was paused before its start is killed and deleted like any other.
#[test]
fn a_paused_created_task_is_killed_and_deleted() {
    check(|t| {
        with_shim(t, &["/bin/payload", "sleep"], |shim, bundle, id| {
            shim.call("Create", shim.create_message(bundle, id, ""))?.map_err(refused)?;
            // a peer's shim refuses Pause, but the rest must still hold
            ensure!(shim.call("Pause", of(id))?.is_ok() || !t.runtime.is("masu"), "a created task was not paused");
            shim.end(id)
        })
    });
}
