//! A slow verb acts only on the container that it began with, never on a later one of the same name. The verb is stopped after
//! each of its system calls on the state directory in turn; meanwhile another verb makes room for a new container.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::background::{Barrier, until};
use integration::runtime::ended_within;
use integration::strace::{self, Step};
use integration::{Bundle, Output, Test, check};
use rustix::process::Pid;
use serde_json::json;

/// If another verb takes longer, the stopped verb seems to hold the lock, so it may continue.
const HOLDS_THE_LOCK: Duration = Duration::from_millis(400);
/// More calls than any verb makes in the state directory.
const CALLS: usize = 100;

fn bundle_that(t: &Test, args: &[&str]) -> Result<Bundle> {
    let mut bundle = t.bundle()?;
    bundle.args(args).write()?;
    Ok(bundle)
}

fn verb<'a>(verb: &'a str, bundle: &'a Bundle, id: &'a str) -> Vec<&'a std::ffi::OsStr> {
    let mut words = vec![verb.as_ref(), "--bundle".as_ref(), bundle.path().as_os_str()];
    words.extend((verb == "run").then_some(std::ffi::OsStr::new("--detach")));
    words.push(id.as_ref());
    words
}

/// Checks that the container `id` is known, runs, and accepts an exec.
fn is_whole(t: &Test, id: &str) -> Result<()> {
    let state = t.runtime(["state", id])?.ok().context("its state")?.json()?;
    ensure!(state["status"] == "running", "{state}");
    let pid = state["pid"].as_i64().and_then(|pid| Pid::from_raw(pid as i32)).context("a pid")?;
    ensure!(!ended_within(pid, Duration::ZERO)?, "its init is gone");
    t.runtime(["exec", id, "/bin/true"])?.ok().context("an exec")?;
    Ok(())
}

/// While the verb of `step` is stopped, deletes the container `id` by force and runs a new one of the same name. Then the first
/// verb continues. The new container must be unaffected. Returns whether it was made.
fn next_of_that_name(t: &Test, step: strace::Stopped, id: &str, next: &Bundle) -> Result<bool> {
    let delete = t.begin(t.command(["delete", "--force", id])?)?;
    if delete.goes_on_after(HOLDS_THE_LOCK)? {
        step.wake()?;
    }
    let deleted = delete.end()?;
    let made = t.runtime(verb("run", next, id))?;
    let first = step.go_on()?;
    let said = || format!("delete: {deleted:?}; run: {made:?}; the first verb: {first:?}");
    let is_made = made.status.success();
    let whole = if is_made { is_whole(t, id).with_context(said) } else { Ok(()) };
    // in any case it can be deleted
    t.runtime(["delete", "--force", id])?.exits(0).with_context(said)?;
    ensure!(!t.root().join(id).exists(), "its state directory is left; {}", said());
    whole.map(|()| is_made)
}

/// Whether this machine and runtime allow stopping single system calls.
fn can_stop(t: &Test) -> Result<bool> {
    if !strace::works() {
        t.skip("needs strace")?;
        return Ok(false);
    }
    if !t.runtime.is("masu") {
        t.differs(t.runtime.kind, "is not stopped here: its calls are its own");
        return Ok(false);
    }
    Ok(true)
}

/// A slow create whose container is deleted meanwhile does not affect a later container, whether the create succeeds or not.
#[test]
fn a_slow_create_leaves_the_next_container_alone() {
    check(|t| {
        if !can_stop(t)? {
            return Ok(());
        }
        let next = bundle_that(t, &["/bin/sleep"])?;
        for program in ["/bin/sleep", "/bin/missing"] {
            let first = bundle_that(t, &[program])?;
            let mut made = 0;
            for nth in 1..CALLS {
                let id = t.new_id();
                match strace::stop_after(t, &[&t.root().join(&id)], nth, verb("create", &first, &id))? {
                    Step::Ended(_) => {
                        t.runtime(["delete", "--force", &id])?.exits(0)?;
                        break;
                    }
                    Step::Stopped(step) => {
                        let what = || format!("create of {program} stopped after its call {nth}");
                        made += u32::from(next_of_that_name(t, step, &id, &next).with_context(what)?);
                    }
                }
            }
            ensure!(made > 2, "a next container was made {made} times");
        }
        Ok(())
    });
}

/// A slow delete that is overtaken by another delete does not affect a later container.
#[test]
fn a_slow_delete_leaves_the_next_container_alone() {
    check(|t| {
        if !can_stop(t)? {
            return Ok(());
        }
        let bundle = bundle_that(t, &["/bin/sleep"])?;
        let mut made = 0;
        for nth in 1..CALLS {
            let id = t.new_id();
            t.runtime(verb("run", &bundle, &id))?.ok()?;
            match strace::stop_after(t, &[&t.root().join(&id)], nth, ["delete", "--force", &id])? {
                Step::Ended(output) => {
                    output.exits(0)?;
                    break;
                }
                Step::Stopped(step) => {
                    let what = || format!("delete stopped after its call {nth}");
                    made += u32::from(next_of_that_name(t, step, &id, &bundle).with_context(what)?);
                }
            }
        }
        ensure!(made > 2, "a next container was made {made} times");
        Ok(())
    });
}

/// A signal for all processes that is slow, while its container is deleted, reaches no container that is made afterwards.
#[test]
fn a_slow_kill_leaves_the_next_container_alone() {
    check(|t| {
        if !can_stop(t)? {
            return Ok(());
        }
        let bundle = bundle_that(t, &["/bin/sleep"])?;
        let mut made = 0;
        for signal in ["KILL", "TERM"] {
            for nth in 1..CALLS {
                let id = t.new_id();
                t.runtime(verb("run", &bundle, &id))?.ok()?;
                match strace::stop_after(t, &[&t.root().join(&id)], nth, ["kill", "--all", &id, signal])? {
                    Step::Ended(output) => {
                        output.exits(0)?;
                        t.runtime(["delete", "--force", &id])?.exits(0)?;
                        break;
                    }
                    Step::Stopped(step) => {
                        let what = || format!("kill {signal} stopped after its call {nth}");
                        made += u32::from(next_of_that_name(t, step, &id, &bundle).with_context(what)?);
                    }
                }
            }
        }
        ensure!(made > 2, "a next container was made {made} times");
        Ok(())
    });
}

/// A failed poststart hook ends its own container, not the next one of the same name.
#[test]
fn a_failed_hook_of_a_deleted_container_leaves_the_next_one_alone() {
    check(|t| {
        if t.differs("runc", "runs poststart hooks in create") {
            return Ok(());
        }
        let id = t.new_id();
        let (fifo, log) = (t.path().join("fifo"), t.path().join("log"));
        let mut barrier = Barrier::at(&fifo)?;
        let mut first = t.bundle()?;
        let (fifo, log_path) = (fifo.to_string_lossy(), log.to_string_lossy());
        let args = ["payload", "hook", &log_path, "name", "x", "then", "read", &fifo, "then", "exit", "3"];
        first.args(["/bin/sleep"]).push("/hooks/poststart", json!({"path": t.payload, "args": args})).write()?;
        t.runtime(verb("create", &first, &id))?.ok()?;
        let start = t.begin(t.command(["start", &id])?)?;
        until("the hook has begun", || Ok(log.exists()))?;
        let deleted = t.runtime(["delete", "--force", &id])?;
        let made = t.runtime(verb("run", &bundle_that(t, &["/bin/sleep"])?, &id))?;
        barrier.lift()?;
        let started = start.end()?;
        let whole = is_whole(t, &id);
        t.runtime(["delete", "--force", &id])?;
        deleted.exits(0)?;
        made.ok()?;
        let known = started.status.success() && t.differs("crun", "forgets that a poststart hook failed");
        ensure!(!started.status.success() || known, "the start whose hook failed: {started:?}");
        whole
    });
}

/// A reader finds a container that is being created complete or not at all, never a damaged record.
#[test]
fn a_reader_meets_no_half_of_a_container() {
    check(|t| {
        if !can_stop(t)? {
            return Ok(());
        }
        let bundle = bundle_that(t, &["/bin/sleep"])?;
        for nth in 1..CALLS {
            let id = t.new_id();
            let dir = t.root().join(&id);
            let paths = [&*dir, &dir.join("record.json"), &dir.join(".record.json")];
            let step = match strace::stop_after(t, &paths, nth, verb("create", &bundle, &id))? {
                Step::Ended(output) => {
                    output.ok()?;
                    ensure!(nth > 5, "only {nth} calls");
                    t.runtime(["delete", "--force", &id])?.exits(0)?;
                    break;
                }
                Step::Stopped(step) => step,
            };
            let (state, list) = (t.runtime(["state", &id])?, t.runtime(["list"])?);
            step.go_on()?.ok()?;
            t.runtime(["delete", "--force", &id])?.exits(0)?;
            reads(&state).with_context(|| format!("state after call {nth} of create"))?;
            ensure!(list.status.success() && list.stderr.is_empty(), "list after call {nth} of create: {list:?}");
        }
        ensure!(fs::read_dir(t.root())?.next().is_none(), "something is left");
        Ok(())
    });
}

fn reads(state: &Output) -> Result<()> {
    if state.status.success() {
        let json = state.json()?;
        ensure!(json["status"] == "creating" || json["status"] == "created", "{json}");
    } else if !state.stderr.contains("does not exist") {
        bail!("{}", state.stderr.trim_end());
    }
    Ok(())
}
