//! `containerd-shim-masu-v2`: what containerd starts for each pod (runtime type `io.containerd.masu.v2`).
//!
//! | called with | does                                                                    |
//! |-------------|-------------------------------------------------------------------------|
//! | `start`     | finds or makes the shim of a group, and prints its address: bootstrap.rs |
//! | `delete`    | clears what a shim that is gone has left: cleanup.rs                     |
//! | `-info`     | tells about the runtime: info.rs                                        |
//!
//! The shim itself is one process with one thread: a loop (daemon.rs) that answers the task service (task.rs), copies streams
//! (streams.rs), reaps (exits.rs) and publishes events (events.rs). What may block is done in forks of it (worker.rs, runtime/).
#![forbid(unsafe_code)]

mod bootstrap;
mod cleanup;
mod daemon;
mod events;
mod exits;
mod flags;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod info;
mod io;
mod lifecycle;
mod log;
mod pod;
mod poll;
mod rootfs;
mod rpc;
mod runtime;
mod sandbox;
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
