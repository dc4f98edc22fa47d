//! Kills for want of memory, as the cgroup of each container tells them.

use libcontainer::cgroup::{Cgroup, Layout, OomNotice};

use crate::daemon::Daemon;
use crate::poll::Token;
use crate::rpc::messages::TaskNotice;

/// Begins to watch a container's memory.
pub(crate) fn watch(daemon: &mut Daemon, id: &str) {
    let token = daemon.poll.new_id();
    let Some(container) = daemon.state.containers.get_mut(id) else { return };
    let events = match container.runtime.foreign {
        None => container.runtime.open(id).and_then(|c| c.oom_events()),
        Some(_) => Layout::paths_of(container.init.pid).and_then(|paths| Cgroup::open(&paths)?.oom_events()),
    };
    match events {
        Ok(events) if daemon.poll.reads(&events, Token::Oom(token)).is_ok() => container.oom = Some((token, events)),
        Ok(_) => {}
        // without a memory controller there is nothing to watch
        Err(e) => log::debug!("container {id}: {e}"),
    }
}

/// A container has something to tell.
pub(crate) fn check(daemon: &mut Daemon, token: u64) {
    let found = daemon.state.containers.iter().find(|(_, c)| c.oom.as_ref().is_some_and(|(t, _)| *t == token)).map(|(id, _)| id.clone());
    if let Some(id) = found {
        look(daemon, &id);
    }
}

/// Tells a kill that happened until now.
pub(crate) fn look(daemon: &mut Daemon, id: &str) {
    let Some((_, oom)) = daemon.state.containers.get_mut(id).and_then(|c| c.oom.as_mut()) else { return };
    match oom.read() {
        Ok(OomNotice::Oom) => {
            daemon.publish("oom", "TaskOOM", &TaskNotice { container_id: id.to_owned() });
        }
        Ok(OomNotice::Nothing) => {}
        // it is readable for ever now
        Ok(OomNotice::Ended) | Err(_) => {
            if let Some((_, oom)) = daemon.state.containers.get_mut(id).and_then(|c| c.oom.take()) {
                daemon.poll.forget(&oom);
            }
        }
    }
}
