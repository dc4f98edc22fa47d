//! The commands, one file each. A command returns the exit code of the program.

mod check;
mod checkpoint;
mod create;
mod delete;
mod duration;
mod events;
mod exec;
mod features;
mod kill;
mod list;
mod mounts;
mod pause;
mod ps;
mod run;
mod spec;
mod start;
mod state;
mod stats;
mod update;

use std::io::Read;
use std::os::fd::OwnedFd;

use anyhow::Result;
use libcontainer::error::{Doing, Error};
use rustix::io::Errno;

use crate::args;
use crate::call::Call;
use crate::version;

/// Runs the command of the command line.
pub(crate) fn run(call: &Call<'_>) -> Result<u8> {
    if call.args.help || (call.args.command.is_none() && !call.args.version) {
        print(args::help(call.program, call.args.command).as_bytes())?;
        return Ok(0);
    }
    if call.args.version {
        print(version::text(call.program).as_bytes())?;
        return Ok(0);
    }
    match call.args.command.map_or("", |c| c.name) {
        "check" => check::run(call),
        "checkpoint" | "restore" => checkpoint::run(call),
        "create" => create::run(call),
        "delete" => delete::run(call),
        "events" => events::run(call),
        "exec" => exec::run(call),
        "features" => features::run(),
        "kill" => kill::run(call),
        "list" => list::run(call),
        "mounts" => mounts::run(call),
        "pause" => pause::pause(call),
        "resume" => pause::resume(call),
        "ps" => ps::run(call),
        "run" => run::run(call),
        "spec" => spec::run(call),
        "start" => start::run(call),
        "state" => state::run(call),
        "stats" => stats::run(call),
        "update" => update::run(call),
        other => Err(Error::unsupported(format!("the command {other} is not supported")).into()),
    }
}

/// Writes all bytes to standard output, unbuffered: nothing has to be flushed.
fn print(mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(rustix::stdio::stdout(), bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(e) => return Ok(Err(e).doing(|| "write to standard output")?),
        }
    }
    Ok(())
}

/// Prints the rest of a file, with sendfile(2) where possible: that needs no copy in our memory.
fn print_file(file: &OwnedFd) -> Result<()> {
    loop {
        match rustix::fs::sendfile(rustix::stdio::stdout(), file, None, 1 << 30) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            // sendfile(2) does not write to a terminal, nor to a file opened with O_APPEND
            Err(Errno::INVAL) => {
                let mut rest = Vec::new();
                std::fs::File::from(file.try_clone()?).read_to_end(&mut rest)?;
                return print(&rest);
            }
            Err(e) => return Ok(Err(e).doing(|| "write to standard output")?),
        }
    }
}

/// Prints a value as one line of JSON.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    print(&line)
}
