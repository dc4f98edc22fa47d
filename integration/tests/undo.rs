//! If create or exec fails, at any step, nothing is left, and the poststop hooks have run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use integration::background::{Barrier, until};
use integration::host::{cgroups_with, processes_with};
use integration::terminal::ConsoleSocket;
use integration::{Bundle, Container, Output, Test, cgroups, check, strace};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::json;

/// Adds a hook that writes to the returned file, and then follows `steps`.
fn add_hook(t: &Test, bundle: &mut Bundle, kind: &str, steps: &[&str]) -> PathBuf {
    let log = t.path().join(format!("{kind}-{}.log", t.new_id()));
    let shown = log.to_string_lossy();
    let args = [&["payload", "hook", &shown, "name", kind][..], steps].concat();
    bundle.push(&format!("/hooks/{kind}"), json!({"path": t.payload, "args": args}));
    log
}

fn words(verb: &str, bundle: &Bundle, flags: &[&str], id: &str) -> Result<Vec<String>> {
    bundle.write()?;
    let path = bundle.path().to_str().context("a path in UTF-8")?;
    Ok([&[verb, "--bundle", path][..], flags, &[id]].concat().into_iter().map(str::to_owned).collect())
}

/// Checks that the container `id` has no record, no cgroup and no process. Only its state directory may be left, if it could not
/// be opened.
fn nothing_is_left(t: &Test, id: &str, output: &Output) -> Result<()> {
    let said = || format!("after {:?}", output.stderr);
    ensure!(!output.stderr.trim().is_empty(), "it fails without a word");
    let processes = processes_with(id);
    ensure!(processes.is_empty(), "processes are left: {processes:?} {}", said());
    ensure!(t.runtime.is("runc") || cgroups_with(id).is_empty(), "cgroups are left: {:?} {}", cgroups_with(id), said());
    if fs::read_dir(t.root().join(id)).is_ok_and(|mut dir| dir.next().is_none()) {
        ensure!(output.stderr.contains("open the state directory"), "an empty state directory is left {}", said());
        t.runtime(["delete", "--force", id])?.exits(0)?;
    }
    ensure!(!t.root().join(id).exists(), "the state directory is left {}", said());
    let text = if t.runtime.is("crun<1.28") { "no such file" } else { "does not exist" };
    t.runtime(["state", id])?.fails_with(text).with_context(said)?;
    Ok(())
}

/// A failed create kills the processes that its hooks left in the cgroup, and removes the cgroup, for any cause of the failure.
/// Without a pid namespace such processes outlive init.
#[test]
fn a_failed_create_ends_what_its_hooks_left_in_the_cgroup() {
    check(|t| {
        if t.differs("runc", "waits for what hooks left, as it has their output") {
            return Ok(());
        }
        let missing = t.path().join("missing/pid").to_string_lossy().into_owned();
        for reason in ["a later hook", "no program", "no pid file"] {
            let mut bundle = t.bundle()?;
            bundle.drop_namespace("pid").args(["/bin/sleep"]);
            let log = add_hook(t, &mut bundle, "createContainer", &["then", "children", "2"]);
            let mut flags = Vec::new();
            match reason {
                "a later hook" => drop(add_hook(t, &mut bundle, "createContainer", &["exit", "3"])),
                "no program" => drop(bundle.args(["/bin/missing"]).rootfs("")),
                _ => flags.extend(["--pid-file", &missing]),
            }
            let id = t.new_id();
            let failed = t.runtime(words("create", &bundle, &flags, &id)?)?;
            ensure!(!failed.status.success(), "created, with {reason}");
            ensure!(log.exists(), "the hook did not run");
            nothing_is_left(t, &id, &failed).with_context(|| reason.to_owned())?;
        }
        Ok(())
    });
}

/// A create that fails after its container was ready runs all poststop hooks, as one that fails earlier.
#[test]
fn a_create_that_fails_late_runs_poststop_hooks() {
    check(|t| {
        let missing = t.path().join("missing/pid").to_string_lossy().into_owned();
        let folder = t.path().to_string_lossy().into_owned();
        for (reason, path) in [("no folder for the pid file", &missing), ("a folder for a pid file", &folder)] {
            for verb in ["create", "run"] {
                let mut bundle = t.bundle()?;
                bundle.args(["/bin/sleep"]);
                let logs = [add_hook(t, &mut bundle, "poststop", &["exit", "3"]), add_hook(t, &mut bundle, "poststop", &[])];
                let id = t.new_id();
                let failed = t.runtime(words(verb, &bundle, &["--pid-file", path], &id)?)?;
                let what = || format!("{verb} with {reason}");
                ensure!(!failed.status.success(), "{}: it succeeds", what());
                nothing_is_left(t, &id, &failed).with_context(what)?;
                if t.differs("crun", "does not run poststop hooks after a failed create") || t.differs("runc", "stops at a failed one") {
                    continue;
                }
                for log in logs {
                    let text = fs::read_to_string(&log).with_context(|| format!("{}: a poststop hook did not run", what()))?;
                    ensure!(text.lines().count() == 1, "{}: a poststop hook ran more than once: {text}", what());
                    let line: serde_json::Value = serde_json::from_str(&text)?;
                    assert_eq!(line["state"]["status"], "stopped", "{}", what());
                    assert_eq!(line["state"]["id"], id.as_str(), "{}", what());
                }
            }
        }
        Ok(())
    });
}

/// The same if the pidfd socket is gone meanwhile. No pid file may be left.
#[test]
fn a_create_whose_pidfd_nobody_takes_is_taken_back() {
    check(|t| {
        if t.differs("crun", "knows no pidfd socket") || (t.runtime.is("runc<1.2") && t.differs("runc", "knows no pidfd socket")) {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let fifo = t.path().join("fifo");
        let mut barrier = Barrier::at(&fifo)?;
        let begun = add_hook(t, &mut bundle, "createRuntime", &["then", "read", &fifo.to_string_lossy()]);
        let ended = add_hook(t, &mut bundle, "poststop", &[]);
        let socket = ConsoleSocket::at(t.path().join("pidfd.sock"))?;
        let (path, pid_file) = (socket.path().to_string_lossy().into_owned(), t.path().join("pid"));
        let id = t.new_id();
        let flags = ["--pidfd-socket", &path, "--pid-file", &pid_file.to_string_lossy()];
        let making = t.begin(t.command(words("create", &bundle, &flags, &id)?)?)?;
        until("the hook has begun", || Ok(begun.exists()))?;
        // this also closes the connection, which was not accepted
        drop(socket);
        barrier.lift()?;
        let failed = making.end()?;
        ensure!(!failed.status.success(), "created");
        nothing_is_left(t, &id, &failed)?;
        ensure!(ended.exists(), "the poststop hook did not run");
        ensure!(!pid_file.exists(), "a pid file is left, which callers take for a success");
        Ok(())
    });
}

/// Makes each call of `calls` in a command fail, one at a time, until the command makes no further one.
fn each_failing(t: &Test, calls: &[&str], mut run: impl FnMut(&[&str], &str) -> Result<()>) -> Result<()> {
    let trace = t.path().join("trace");
    for call in calls {
        for nth in 1..200 {
            let fault = format!("inject={call}:error=EIO:when={nth}");
            run(&["-e", &fault], &fault).with_context(|| fault.clone())?;
            if !fs::read_to_string(&trace)?.contains("(INJECTED)") {
                break;
            }
        }
    }
    Ok(())
}

fn can_fail(t: &Test) -> Result<bool> {
    if !strace::works() {
        t.skip("needs strace")?;
        return Ok(false);
    }
    if !t.runtime.is("masu") {
        t.differs(t.runtime.kind, "makes other calls, and Go some of them at any time");
        return Ok(false);
    }
    Ok(true)
}

/// Creates `bundle` while single calls fail. The create fails and leaves nothing, and if its first hooks ran, the poststop hooks
/// ran too. Or it succeeds, and its container can be deleted.
fn fails_and_leaves_nothing(t: &Test, bundle: &mut Bundle, calls: &[&str]) -> Result<()> {
    let first = add_hook(t, bundle, "createRuntime", &[]);
    let last = add_hook(t, bundle, "poststop", &[]);
    let trace = t.path().join("trace");
    let mut failures = 0;
    each_failing(t, calls, |options, _| {
        for log in [&first, &last] {
            let _ = fs::remove_file(log);
        }
        let id = t.new_id();
        let output = t.finish(strace::under(t, &trace, options, words("create", bundle, &[], &id)?)?)?;
        if output.status.success() {
            t.runtime(["delete", "--force", &id])?.exits(0)?;
            // init became a child of this test, which must reap it
            for pid in left_to_us()? {
                waitpid(Some(pid), WaitOptions::empty())?;
            }
        } else {
            failures += 1;
            nothing_is_left(t, &id, &output)?;
            ensure!(last.exists() || !first.exists(), "createRuntime hooks ran, and poststop hooks did not: {}", output.stderr);
            none_is_left_to_us()?;
        }
        Ok(())
    })?;
    ensure!(failures > 3, "create failed {failures} times");
    Ok(())
}

/// If the kernel refuses any call of create, everything is undone.
#[test]
fn a_create_whose_calls_fail_leaves_nothing() {
    check(|t| {
        if !can_fail(t)? {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let calls = ["openat", "write", "renameat", "mkdirat", "mknodat", "sendmsg", "recvmsg", "read", "prctl", "flock", "socketpair"];
        fails_and_leaves_nothing(t, &mut bundle, &calls)
    });
}

/// If a call fails right after the clone, on the return from a joined pid namespace, no child is left.
#[test]
fn a_create_that_joins_a_pid_namespace_guards_its_child() {
    check(|t| {
        if !can_fail(t)? {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let other = Container::start_of(t, &bundle)?;
        let path = format!("/proc/{}/ns/pid", other.pid.as_raw_nonzero());
        bundle.namespace("pid", Some(&path));
        fails_and_leaves_nothing(t, &mut bundle, &["setns", "prctl", "sendmsg", "renameat"])
    });
}

fn processes_of(container: &Container<'_>) -> Result<usize> {
    let cgroup = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let own = cgroup(container.pid.as_raw_nonzero().get());
    let all = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    Ok(all.filter(|&pid| cgroup(pid) == own).count())
}

/// If any call after the clone is refused, exec leaves no process in the container, and its program has not run.
#[test]
fn an_exec_whose_calls_fail_guards_its_child() {
    check(|t| {
        if !can_fail(t)? {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let container = Container::start_of(t, &bundle)?;
        let (trace, ran) = (t.path().join("trace"), bundle.rootfs("tmp/ran"));
        let program = ["/bin/payload", "write", "/tmp/ran", "x", "then", "sleep"];
        let words = [&["exec", "--detach", &container.id][..], &program].concat();
        let mut failures = 0;
        each_failing(t, &["setns", "prctl", "sendmsg", "write"], |options, _| {
            let output = t.finish(strace::under(t, &trace, options, &words)?)?;
            if output.status.success() {
                end_others(&container)?;
            } else {
                failures += 1;
                let left = processes_of(&container)? - 1;
                let others = none_is_left_to_us();
                end_others(&container)?;
                others.with_context(|| output.stderr.clone())?;
                ensure!(left == 0, "{left} processes are left after {:?}", output.stderr);
                // a process that is cloned into its cgroup does not wait for the runtime
                ensure!(!ran.exists() || cgroups::unified(), "the program ran, after {:?}", output.stderr);
            }
            let _ = fs::remove_file(&ran);
            Ok(())
        })?;
        ensure!(failures > 1, "exec failed {failures} times");
        Ok(())
    });
}

/// The children of this test, exited or not, in a pid namespace that existed before.
fn left_to_us() -> Result<Vec<Pid>> {
    let mut left = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        let children = fs::read_to_string(task?.path().join("children"))?;
        for pid in children.split_whitespace() {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            if numbers.split_whitespace().nth(1).is_some_and(|inner| inner != "1") {
                left.extend(pid.parse().ok().and_then(Pid::from_raw));
            }
        }
    }
    Ok(left)
}

/// Checks that a failed runtime reaped its process, so that its caller inherits none.
fn none_is_left_to_us() -> Result<()> {
    let left = left_to_us()?;
    for pid in &left {
        let _ = kill_process(*pid, Signal::KILL);
        let _ = waitpid(Some(*pid), WaitOptions::empty());
    }
    ensure!(left.is_empty(), "a child that nobody guards was left: {left:?}");
    Ok(())
}

/// Kills all processes of the container except init.
fn end_others(container: &Container<'_>) -> Result<()> {
    let cgroup = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let init = container.pid.as_raw_nonzero().get();
    for entry in fs::read_dir("/proc")?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or(init);
        if pid != init && cgroup(pid) == cgroup(init) {
            let _ = kill_process(Pid::from_raw(pid).context("a pid")?, Signal::KILL);
        }
    }
    // init cannot end before they are reaped
    for pid in left_to_us()? {
        waitpid(Some(pid), WaitOptions::empty())?;
    }
    Ok(())
}

/// An exec that fails after its process was made leaves no process. Here the pid file cannot be written.
#[test]
fn an_exec_that_fails_late_leaves_no_process() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let container = Container::start_of(t, &bundle)?;
        let missing = t.path().join("missing/pid");
        for path in [&*missing, Path::new(t.path())] {
            for mode in [&["--detach"][..], &[]] {
                let shown = path.to_string_lossy();
                let flags = [mode, &["--pid-file", &shown]].concat();
                let output = container.exec(&flags, ["/bin/sleep"])?;
                ensure!(!output.status.success(), "{flags:?}: it succeeds");
                if t.differs("crun", "lets it run on") {
                    end_others(&container)?;
                    continue;
                }
                let left = processes_of(&container)? - 1;
                end_others(&container)?;
                ensure!(left == 0, "{flags:?}: {left} processes are left after {:?}", output.stderr);
            }
        }
        assert_eq!(container.status()?, "running");
        Ok(())
    });
}
