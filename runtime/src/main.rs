//! `masu`, a thin command line over libcontainer.
//!
//! Reads the flags, opens the log and runs one command. An error becomes one line and the exit code 1, or 255 for `exec`. `run`
//! and `exec` in the foreground return the program's exit code, or 128+n when signal n ended the program.
//!
//! The process starts in [`masu_host::program!`], which opens /dev/null on closed standard streams, so that no other file gets
//! the descriptor 0, 1 or 2.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), no_main)]
#![cfg_attr(test, allow(dead_code, reason = "the tests have a main of their own"))]

mod args;
mod call;
mod commands;
mod foreground;
mod log;
mod poll;
mod relay;
mod version;

use std::ffi::OsStr;
use std::path::Path;

use libcontainer::error::{Error, Kind};
use masu_host::sealed_exe;
use masu_host::sys::signal;

use args::Args;
use call::Call;
use log::Sink;

/// musl's own allocator returns memory to the kernel at once and faults it in again. In a program that runs for a millisecond the
/// cost is measurable.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

// the tests use the standard library's main
#[cfg(not(test))]
masu_host::program!(crate::start);

fn start() -> u8 {
    let mut words = masu_host::sys::start::args().into_iter();
    let program = words.next().as_deref().and_then(base_name).unwrap_or_else(|| "masu".into());
    let args = Args::parse(words);
    run(&program, &args)
}

/// The error and the words around it. An [`Error`] of the library has its source in its text already.
fn line_of(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for part in error.chain() {
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&part.to_string());
        if part.is::<Error>() {
            break;
        }
    }
    line
}

fn base_name(path: &OsStr) -> Option<String> {
    Path::new(path).file_name().map(|n| n.to_string_lossy().into_owned())
}

fn run(program: &str, args: &Args) -> u8 {
    let command = args.command.map_or("", |c| c.name);
    // comes first, because the sealed program is executed anew and would repeat all earlier work
    let sealed = match command {
        "create" | "run" | "exec" if args.problem.is_none() && !args.help => sealed_exe::seal(),
        _ => Ok(()),
    };
    // when a reader of our output goes away, the write must fail, not end this process
    if let Err(e) = signal::ignore(rustix::process::Signal::PIPE.as_raw()) {
        log::complain(&format!("ignore SIGPIPE: {e}"));
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let sink = match Sink::open(args) {
        Ok(sink) => sink,
        Err(e) => {
            log::complain(&format!("{program}: {e}"));
            return 1;
        }
    };
    if let Some(problem) = &args.problem {
        let line = format!("Incorrect Usage: {problem}");
        sink.failure(&line, Some(&Error::new(Kind::InvalidSpec, problem)));
        let space = if command.is_empty() { "" } else { " " };
        log::complain(&format!("See '{program}{space}{command} --help'."));
        return 1;
    }
    ::log::debug!("{program} {} with the process id {}: {command}", env!("CARGO_PKG_VERSION"), std::process::id());
    if matches!(command, "create" | "run" | "exec") && sealed.is_ok() && ::log::max_level() >= ::log::LevelFilter::Debug {
        // runc's text, because scripts search for it
        ::log::debug!("{program} exeseal: using {} for sealed /proc/self/exe", sealed_exe::kind());
        ::log::debug!("{program} exeseal: using /proc/self/exe clone");
    }
    let result = match sealed {
        Err(e) => Err(e.into()),
        // SIGCHLD may be ignored by inheritance: the kernel would then discard the exit codes of our children
        Ok(()) => signal::reset(1 << (rustix::process::Signal::CHILD.as_raw() - 1))
            .map_err(anyhow::Error::from)
            .and_then(|()| commands::run(&Call { program, args })),
    };
    result.unwrap_or_else(|error| {
        let space = if command.is_empty() { "" } else { " " };
        sink.failure(&format!("{program}{space}{command} failed: {}", line_of(&error)), error.downcast_ref::<Error>());
        if command == "exec" { 255 } else { 1 }
    })
}
