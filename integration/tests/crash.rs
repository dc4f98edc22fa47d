//! The runtime killed at random instants of create, start and delete: whatever it had done until then, `delete --force ID`
//! ends well and leaves nothing. How many kills, `$CRASHES` says (default 200).

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

/// Numbers that look random and are the same in each run: a failure can be looked at again.
struct Numbers(u64);

impl Numbers {
    /// One below `limit`.
    fn below(&mut self, limit: u128) -> u128 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u128::from(self.0) % limit.max(1)
    }
}

/// Starts the runtime with `words` and kills it `after` that time. True if it was killed, false if it had ended before.
fn killed(t: &Test, words: &[String], after: Duration) -> Result<bool> {
    let mut child = t.command(words)?.spawn()?;
    let begin = Instant::now();
    // a sleep of less than a millisecond is far too long: wait in the loop
    while begin.elapsed() < after {
        std::hint::spin_loop();
    }
    child.kill()?;
    Ok(child.wait()?.code().is_none())
}

/// Waits for the end of the processes that carry the name `id`, and reaps those that the kill made children of this test.
fn gone(id: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut left = processes_with(id);
    while !left.is_empty() {
        for process in &left {
            let pid = process.split(' ').next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw).context("a pid")?;
            // an init that saw its runtime die ends by itself, in its own time
            ensure!(ended_within(pid, deadline.saturating_duration_since(Instant::now()))?, "processes are left: {left:?}");
        }
        left = processes_with(id);
    }
    // whoever died before it was looked at is a zombie without a name
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

/// After a kill: `delete --force` must succeed, and then nothing may be left.
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

/// Kills `verb` of a container `times` times, each after a time of its own up to about the time that it takes. Those that
/// came too late are not counted.
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
        // one and the same verb may take a multiple of its usual time, by the load of the machine and the grace periods of
        // its kernel: the window follows, wide enough that some kills come too late, and so none of its steps is spared
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

// one test, so that it owns its process and may reap all its children
#[test]
fn killed_in_create_start_and_delete() {
    check(|t| {
        t.differs("runc", "leaks cgroups when killed before its state is on disk");
        t.differs("crun", "leaks cgroups and processes when killed before its state is on disk");
        for (verb, share) in [("create", 2), ("start", 4), ("delete", 4)] {
            rounds(t, &mut t.bundle()?, verb, count() / share)?;
        }
        if t.runtime.kind == "masu" {
            // where a further process takes part
            let pinned = Pinned::new(t)?;
            let mut bundle = t.bundle()?;
            bundle.namespace("user", Some(&pinned.0.to_string_lossy()));
            rounds(t, &mut bundle, "create", count() / 4)?;
        }
        Ok(())
    });
}

/// A user namespace that nobody is in, by path.
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
