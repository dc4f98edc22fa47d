//! Kills the runtime at random instants of create, start and delete. Whatever was done by then, `delete --force ID` succeeds and
//! leaves nothing. `$CRASHES` is the number of kills (default 200).

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::host::{Host, processes_with, remove_empty_cgroups};
use integration::runtime::ended_within;
use integration::{Bundle, Container, Test, check};
use rustix::process::{Pid, WaitOptions, waitpid};
use serde_json::json;

fn count() -> u32 {
    std::env::var("CRASHES").ok().and_then(|count| count.parse().ok()).unwrap_or(200)
}

/// Pseudo-random numbers, the same in each run, so that a failure can be repeated.
struct Numbers(u64);

impl Numbers {
    /// A number below `limit`.
    fn below(&mut self, limit: u128) -> u128 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u128::from(self.0) % limit.max(1)
    }
}

/// Starts the runtime with `words` and kills it `after` that time. True if it was killed, false if it had exited before.
fn killed(t: &Test, words: &[String], after: Duration) -> Result<bool> {
    let mut child = t.command(words)?.spawn()?;
    let begin = Instant::now();
    // a busy loop, because even the shortest sleep takes far too long
    while begin.elapsed() < after {
        std::hint::spin_loop();
    }
    child.kill()?;
    Ok(child.wait()?.code().is_none())
}

/// Waits until the processes with `id` in their command line exit, and reaps those that became children of this test by the kill.
fn gone(id: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut left = processes_with(id);
    while !left.is_empty() {
        for process in &left {
            let pid = process.split(' ').next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw).context("a pid")?;
            // an init whose runtime died exits on its own, a little later
            ensure!(ended_within(pid, deadline.saturating_duration_since(Instant::now()))?, "processes are left: {left:?}");
        }
        left = processes_with(id);
    }
    // children that exited earlier are zombies without a command line
    for thread in fs::read_dir("/proc/self/task")? {
        let children = fs::read_to_string(thread?.path().join("children"))?;
        for pid in children.split_whitespace() {
            let pid = pid.parse().ok().and_then(Pid::from_raw).context("a pid")?;
            ensure!(ended_within(pid, deadline.saturating_duration_since(Instant::now()))?, "process {pid:?} is left");
            waitpid(Some(pid), WaitOptions::empty())?;
        }
    }
    Ok(())
}

/// Runs `delete --force` after a kill: it must succeed and leave nothing.
fn clean(t: &Test, id: &str, before: &Host) -> Result<()> {
    t.runtime(["delete", "--force", id])?.exits(0)?;
    if t.runtime.is("crun") {
        for process in processes_with(id) {
            let pid = process.split(' ').next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw).context("a pid")?;
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        }
    }
    gone(id)?;
    if t.runtime.is("runc") || t.runtime.is("crun") {
        let _ = fs::remove_dir_all(t.root().join(id));
        remove_empty_cgroups(id);
    }
    ensure!(!t.root().join(id).exists(), "the state directory of {id} is left");
    Host::look(t.token())?.same_as(before)?;
    t.runtime(["state", id])?.fails_with("does not exist")?;
    Ok(())
}

/// Kills `verb` of a container `times` times, each time after a random delay up to about the verb's duration. A kill that comes
/// too late is not counted.
fn rounds(t: &Test, bundle: &mut Bundle, verb: &str, times: u32) -> Result<()> {
    bundle.args(["/bin/sleep"]).write()?;
    let path = bundle.path().to_string_lossy().into_owned();
    let before = Host::look(t.token())?;
    let create = |id: &str| t.runtime(["create", "--bundle", &path, id]);
    let words = |id: &str| -> Vec<String> {
        let words = match verb {
            "create" => vec!["create", "--bundle", &path, id],
            "start" => vec!["start", id],
            _ => vec!["delete", "--force", id],
        };
        words.into_iter().map(str::to_owned).collect()
    };
    let mut window = Duration::MAX;
    for _ in 0..5 {
        let id = t.new_id();
        if verb != "create" {
            create(&id)?.ok()?;
        }
        let begin = Instant::now();
        t.runtime(words(&id))?.ok()?;
        window = window.min(begin.elapsed());
        clean(t, &id, &before)?;
    }
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut hits = 0_u32;
    for attempt in 0.. {
        if hits == times {
            break;
        }
        ensure!(attempt < times * 20, "{verb}: only {hits} of {attempt} kills hit");
        let id = t.new_id();
        if verb != "create" {
            create(&id)?.ok()?;
        }
        let after = Duration::from_nanos(u64::try_from(numbers.below(window.as_nanos()))?);
        // the duration of a verb varies with the load and with the kernel's grace periods, so the window adapts: some kills must
        // come too late, because then every step of the verb can be hit
        if killed(t, &words(&id), after)? {
            hits += 1;
            window += window / 16;
        } else {
            window -= window / 8;
        }
        clean(t, &id, &before).with_context(|| format!("{verb} killed after {after:?}"))?;
    }
    Ok(())
}

// one test in one process, so that it may reap all its children
#[test]
fn killed_in_create_start_and_delete() {
    check(|t| {
        t.differs("runc", "leaks cgroups when killed before its state is on disk");
        t.differs("crun", "leaks cgroups and processes when killed before its state is on disk");
        for (verb, share) in [("create", 2), ("start", 4), ("delete", 4)] {
            rounds(t, &mut t.bundle()?, verb, count() / share)?;
        }
        if t.runtime.kind == "masu" {
            // with a user namespace joined by path, a further process takes part
            let pinned = Pinned::new(t)?;
            let mut bundle = t.bundle()?;
            bundle.namespace("user", Some(&pinned.0.to_string_lossy()));
            rounds(t, &mut bundle, "create", count() / 4)?;
        }
        Ok(())
    });
}

/// A user namespace without processes, kept by a path.
struct Pinned(PathBuf);

impl Pinned {
    fn new(t: &Test) -> Result<Self> {
        let mut bundle = t.bundle()?;
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        bundle.namespace("user", None).set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
        let mut container = Container::start_of(t, bundle.args(["/bin/sleep"]))?;
        let path = t.path().join("userns");
        fs::write(&path, "")?;
        rustix::mount::mount_bind(format!("/proc/{}/ns/user", container.pid.as_raw_nonzero()), &path).context("pin a namespace")?;
        container.kill("KILL")?.ok()?;
        container.wait()?;
        container.delete()?.ok()?;
        Ok(Self(path))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}
