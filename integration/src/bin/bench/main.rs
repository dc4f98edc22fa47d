//! Times OCI runtimes side by side. Every round runs each runtime once, in an order that rotates and reverses, so that other load
//! on the machine affects all alike. Prints for each step the median and the tenth percentile, the ratio to the first runtime,
//! peak memory and page faults; with `--syscalls` the system calls instead.
//!
//! ```text
//! bench [OPTION]... NAME=PATH...
//!   --bundle NAME|DIR  a folder of bundles/, or one with a config.json (default docker-default; may be repeated)
//!   --steps A,B        of version, run, cycle, exec, state, kill, force-delete (default: all)
//!   --heavy            other loads instead, with their own steps: run with 10,000 environment variables, with 1,000 bind
//!                      mounts and with 1 MB of annotations, state with the latter, and a list of 1,000 created containers
//!                      (a runtime that waits in more than 4 MiB each is left out of it)
//!   --systemd-cgroup   systemd makes the cgroups
//!   --rounds N         measured rounds (default 40)
//!   --warm-up N        rounds before them (default 3)
//!   --syscalls         count system calls, forks and execs of each step (strace)
//!   --keep DIR         keep the traces there
//!   --save FILE        write the counts of the first runtime into FILE
//!   --compare FILE     fail if the first runtime needs more system calls or faults than FILE says
//!   --no-priority      do not raise ourselves to real-time priority
//! ```
//!
//! Build it for a musl target in release mode, because a started program's peak includes the memory of its parent. The smaller
//! the benchmark is, the smaller the peaks that it can measure. It prints the smallest.
#![expect(clippy::print_stdout, reason = "the table is what it is for")]

mod baseline;
mod heavy;
mod options;
mod prepare;
mod steps;
mod syscalls;
mod table;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use integration::Runtime;
use rustix::process::{getpid, set_child_subreaper};

use crate::options::{Options, Step};
use crate::prepare::{Prepared, Scratch};

fn main() -> ExitCode {
    match bench() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// False if a comparison failed.
fn bench() -> Result<bool> {
    let options = Options::parse(std::env::args().skip(1))?;
    let raised = options.priority && raise_priority();
    set_child_subreaper(Some(getpid())).context("become the reaper of containers")?;
    let scratch = Scratch::new()?;
    let mut good = true;
    println!("{}", conditions(&options, raised, &scratch)?);
    for bundle in &options.bundles {
        good &= measure(&options, &scratch, &scratch.bundle(bundle)?, &options.steps)?;
    }
    for load in options.loads() {
        good &= measure(&options, &scratch, &scratch.load(*load)?, load.steps())?;
    }
    Ok(good)
}

/// Prints the table of one bundle. False if a step or a comparison failed.
fn measure(options: &Options, scratch: &Scratch, bundle: &Prepared, steps: &[Step]) -> Result<bool> {
    println!("\nbundle {}: {} bytes of config.json", bundle.name, bundle.size);
    if options.syscalls {
        let counts = syscalls::count(options, scratch, bundle, steps)?;
        print!("{}", syscalls::table(&counts));
        return baseline::calls(options, &bundle.name, &counts);
    }
    let (names, results) = steps::measure(options, scratch, bundle, steps)?;
    print!("{}", table::table(&names, &results));
    let good = results.iter().all(|part| part.samples.first().is_some_and(|own| own.iter().all(|sample| !sample.failed)));
    Ok(good & baseline::faults(options, &bundle.name, &results)?)
}

/// Executes this program again with real-time priority, to keep other work out of the times. Returns true in the new program.
/// Does nothing where a v1 cpu hierarchy gives no time to real-time processes, because these could not enter a cgroup.
fn raise_priority() -> bool {
    const RAISED: &str = "BENCH_PRIORITY";
    if std::env::var_os(RAISED).is_some() {
        return true;
    }
    let denied_in_cgroups = Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists();
    let chrt = |program: &str| {
        let mut command = Command::new("chrt");
        command.args(["-r", "1", program]).stdin(Stdio::null());
        command
    };
    if denied_in_cgroups || !chrt("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return false;
    }
    let Some(own) = std::env::current_exe().ok().and_then(|path| path.to_str().map(str::to_owned)) else { return false };
    let _ = chrt(&own).args(std::env::args_os().skip(1)).env(RAISED, "1").exec();
    false
}

/// One line with the conditions of the measurement.
fn conditions(options: &Options, raised: bool, scratch: &Scratch) -> Result<String> {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let view = prepare::view();
    let priority = if raised { "real-time priority" } else { "normal priority" };
    let mut text = format!("kernel {kernel}, cgroup {view}, load {load}, {priority}, {} rounds\n", options.rounds);
    for (name, path) in &options.runtimes {
        let runtime = Runtime::at(path.clone())?;
        let version: Vec<String> = runtime.version.iter().map(ToString::to_string).collect();
        let size = std::fs::metadata(path).map_or(0, |data| data.len());
        text += &format!("{name}: {} {}, {} KiB\n", path.display(), version.join("."), size / 1024);
    }
    let floor = steps::floor(scratch)?;
    text += &format!("smallest peak memory that can be seen: {floor} KiB");
    Ok(text)
}
