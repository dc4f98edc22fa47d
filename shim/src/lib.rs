//! `containerd-shim-masu-v2`: what containerd starts for each pod (runtime type `io.containerd.masu.v2`).
//!
//! | called with | does                                                                    |
//! |-------------|-------------------------------------------------------------------------|
//! | `start`     | finds or makes the shim of a group, and prints its address: bootstrap.rs |
//! | `delete`    | clears what a shim that is gone has left: cleanup.rs                     |
//! | `-info`     | tells about the runtime: info.rs                                        |
//!
//! The shim itself is one process with one thread. From the top down, each file uses only those below it:
//!
//! | file                     | is                                                                       |
//! |--------------------------|--------------------------------------------------------------------------|
//! | serve.rs                 | the loop: waits, and gives what has come to one of the next               |
//! | task.rs, sandbox.rs      | the two services: a function for each method                             |
//! | lifecycle.rs             | what follows when a worker is done                                       |
//! | exits.rs, deletion.rs, oom.rs | exits in their order, Delete's end, kills for want of memory        |
//! | daemon.rs                | all that a shim holds, and the few things that every part does with it   |
//! | streams.rs, jobs.rs, events.rs | the pumps, the workers, the events to containerd                   |
//! | state.rs                 | what a shim knows: containers, processes, the pod; no system calls       |
//! | runtime/, worker.rs      | the verbs, and the fork that each runs in, as they may block             |
//! | rootfs/, pod.rs, bundle.rs | mounts, a pod's namespaces and files, what is kept in a bundle         |
//! | io/, rpc/, poll.rs       | streams, frames and messages, epoll                                      |
#![forbid(unsafe_code)]

mod bootstrap;
mod bundle;
mod cleanup;
mod daemon;
mod deletion;
mod events;
mod exits;
mod flags;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod info;
mod io;
mod jobs;
mod lifecycle;
mod log;
mod oom;
mod pod;
mod poll;
mod rootfs;
mod rpc;
mod runtime;
mod sandbox;
mod serve;
mod state;
mod streams;
mod task;
mod worker;

use std::io::Write;

use libcontainer::error::{Doing, Error, Result};
use masu_host::sealed_exe;
use masu_host::sys::close_range::set_cloexec_from;

use flags::Flags;

pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The program; its exit code.
#[must_use]
pub fn main() -> u8 {
    let words = masu_host::sys::start::args();
    match Flags::parse(words.into_iter().skip(1)).map_err(Error::invalid).and_then(|flags| run(&flags)) {
        Ok(()) => 0,
        Err(e) => {
            // the only thing on standard error, and containerd shows it
            let _ = writeln!(std::io::stderr(), "containerd-shim-masu-v2: {e}");
            1
        }
    }
}

fn run(flags: &Flags) -> Result<()> {
    if flags.version {
        return print(format!("containerd-shim-masu-v2:\n  Version: {VERSION}\n").as_bytes());
    }
    if flags.info {
        return print(&info::answer()?);
    }
    if flags.namespace.is_empty() {
        return Err(Error::invalid("shim namespace cannot be empty"));
    }
    match flags.action.as_str() {
        "start" => {
            // with what containerd left open by mistake, a daemon would keep it open for as long as the pod lives
            set_cloexec_from(3).doing(|| "mark descriptors close-on-exec")?;
            // the daemon and its workers are forks, and containers begin as forks of those
            sealed_exe::seal()?;
            bootstrap::start(flags)
        }
        "delete" => print(&cleanup::delete(flags)?),
        "" => Err(Error::invalid("no action: start and delete are those that there are")),
        other => Err(Error::invalid(format!("unknown action {other}"))),
    }
}

fn print(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Error::from)
}
