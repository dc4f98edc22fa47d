//! Counts the system calls of each step with strace. A container's own program is not counted: each process counts until the
//! execve of a program in the rootfs.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::sys;

use crate::options::{Options, Step};
use crate::prepare::{Prepared, Scratch};
use crate::steps::{self, Contender, List};

/// The counts of one step of one runtime.
#[derive(Debug)]
pub(crate) struct Count {
    pub(crate) runtime: String,
    pub(crate) step: &'static str,
    pub(crate) calls: u64,
    pub(crate) forks: u64,
    pub(crate) execs: u64,
    pub(crate) errors: u64,
}

/// Counts the steps of all runtimes: those of a container's life, or list if `steps` has it.
pub(crate) fn count(options: &Options, scratch: &Scratch, bundle: &Prepared, steps: &[Step]) -> Result<Vec<Count>> {
    let mut all = Vec::new();
    for (name, mut contender) in steps::contenders(options, scratch, bundle)? {
        let list = steps.contains(&Step::List);
        let listed = if list { List::make(&name, &mut contender, bundle)? } else { None };
        if list && listed.is_none() {
            continue;
        }
        let id = contender.id();
        let (short, long) = (bundle.short.to_string_lossy(), bundle.long.to_string_lossy());
        let mut traces: Vec<(&'static str, PathBuf)> = Vec::new();
        let mut step = |step: &'static str, words: &[&str]| -> Result<()> {
            let trace = scratch.path().join(format!("{name}.{}.{step}.strace", bundle.name));
            traced(&contender, words, &trace).with_context(|| format!("{step} of {name}: {}", contender.last_message()))?;
            traces.push((step, trace));
            Ok(())
        };
        if list {
            step("list", &["list"])?;
        } else {
            step("run", &["run", "--bundle", &short, id])?;
            step("create", &["create", "--bundle", &long, id])?;
            step("start", &["start", id])?;
            step("exec", &["exec", id, "/bin/true"])?;
            step("state", &["state", id])?;
            step("kill", &["kill", id, "KILL"])?;
            wait_until_stopped(&contender)?;
            step("delete", &["delete", id])?;
        }
        if let Some(list) = listed {
            list.remove(&mut contender)?;
        }
        // waits for the tracers, which exit with their tracees; one child remains, the process that keeps the namespaces
        while children()? > 1 {
            sys::wait4(-1)?;
        }
        for (step, trace) in traces {
            all.push(parse(&name, step, &fs::read_to_string(&trace)?));
            if let Some(keep) = &options.keep {
                fs::create_dir_all(keep)?;
                fs::copy(&trace, keep.join(trace.file_name().unwrap_or_default()))?;
            }
        }
    }
    Ok(all)
}

/// Runs the command under strace, which is not the command's parent (`-D`). So `create` returns when the runtime exits, while
/// strace continues with init.
fn traced(contender: &Contender, words: &[&str], trace: &Path) -> Result<()> {
    let plain = contender.command(words)?;
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-q", "-s", "200", "-o"]).arg(trace).arg(plain.get_program()).args(plain.get_args());
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("run strace")?;
    let pid = i32::try_from(child.id())?;
    loop {
        let (ended, usage) = sys::wait4(-1)?;
        if ended == pid {
            ensure!(usage.code() == 0, "exit code {}", usage.code());
            return Ok(());
        }
    }
}

/// Waits, because a traced process exits a little after it was killed.
fn wait_until_stopped(contender: &Contender) -> Result<()> {
    for _ in 0..1000 {
        let state = contender.command(&["state", contender.id()])?.stdout(Stdio::piped()).output()?;
        if String::from_utf8_lossy(&state.stdout).contains("\"stopped\"") {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("the container was killed and does not stop: {}", contender.last_message())
}

/// The number of children of this process.
fn children() -> Result<usize> {
    let mut count = 0;
    for thread in fs::read_dir("/proc/self/task")? {
        count += fs::read_to_string(thread?.path().join("children"))?.split_whitespace().count();
    }
    Ok(count)
}

fn parse(runtime: &str, step: &'static str, trace: &str) -> Count {
    let mut count = Count { runtime: runtime.to_owned(), step, calls: 0, forks: 0, execs: 0, errors: 0 };
    let mut inside = BTreeSet::new();
    for line in trace.lines() {
        let Some((pid, call)) = line.split_once(char::is_whitespace) else { continue };
        let call = call.trim_start();
        if inside.contains(pid) || call.starts_with("+++") || call.starts_with("---") {
            continue;
        }
        let failed = call.contains(") = -1 E") || call.contains("resumed>") && call.contains(" = -1 E");
        count.errors += u64::from(failed);
        if call.starts_with("<...") {
            continue;
        }
        count.calls += 1;
        let name = call.split('(').next().unwrap_or_default();
        let thread = call.contains("CLONE_THREAD");
        count.forks += u64::from(["clone", "clone3", "fork", "vfork"].contains(&name) && !thread);
        if name == "execve" || name == "execveat" {
            count.execs += u64::from(!failed);
            if !failed && ["\"/bin/true\"", "\"/bin/sleep\""].iter().any(|program| call.contains(program)) && !call.contains("--root") {
                inside.insert(pid.to_owned());
            }
        }
    }
    count
}

/// One line for each runtime and step.
pub(crate) fn table(counts: &[Count]) -> String {
    let mut text = format!("{:<14}{:<14}{:>10}{:>8}{:>8}{:>8}\n", "step", "runtime", "syscalls", "forks", "execs", "errors");
    let mut ordered: Vec<&Count> = counts.iter().collect();
    ordered.sort_by_key(|count| counts.iter().position(|first| first.step == count.step));
    for Count { runtime, step, calls, forks, execs, errors } in ordered {
        let _ = writeln!(text, "{step:<14}{runtime:<14}{calls:>10}{forks:>8}{execs:>8}{errors:>8}");
    }
    text
}
