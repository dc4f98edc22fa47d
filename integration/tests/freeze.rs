//! A container that is frozen before its start is paused. Every verb works, or fails because of that.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::{Container, Test, cgroups, check};

/// Far more than a verb takes, and far less than a verb waits for frozen processes.
const AT_ONCE: Duration = Duration::from_secs(4);

/// A paused container that was only created. At the end of the test it is thawed and deleted by force.
fn paused<'t>(t: &'t Test, args: &[&str]) -> Result<Container<'t>> {
    let mut bundle = t.bundle()?;
    bundle.args(args);
    let container = Container::create(t, &bundle)?;
    container.command("pause")?.ok()?;
    Ok(container)
}

/// The status of a frozen created container is paused, for `state` and `list`. After each resume it is created again, and then it
/// can be started.
#[test]
fn a_paused_created_container_is_paused_and_resumes_as_created() {
    check(|t| {
        if t.differs("crun<1.28", "gives a created container as running, paused or not") {
            return Ok(());
        }
        let mut container = paused(t, &["/bin/payload", "say", "begun", "then", "sleep"])?;
        for again in [false, true] {
            if again {
                container.command("pause")?.ok()?;
            }
            assert_eq!(container.status()?, "paused", "the second time: {again}");
            let list = t.runtime(["list", "--format", "json"])?.ok()?.json()?;
            assert_eq!(list[0]["status"], "paused", "the second time: {again}");
            let text = if t.runtime.is("runc") { "not running" } else { "paused" };
            container.command("pause")?.fails_with(text).context("a second pause")?;
            container.command("resume")?.ok()?;
            container.command("resume")?.fails_with("not paused").context("a second resume")?;
            assert_eq!(container.status()?, "created", "the second time: {again}");
        }
        container.start()?.ok()?;
        assert_eq!(container.line()?, "begun");
        assert_eq!(container.status()?, "running");
        Ok(())
    });
}

/// `start` refuses a paused container at once and does not change it. After a resume the container can be started.
#[test]
fn a_paused_container_is_not_started() {
    check(|t| {
        if t.differs("runc", "its start waits until the container is resumed") || t.differs("crun<1.28", "starts it") {
            return Ok(());
        }
        let mut container = paused(t, &["/bin/payload", "say", "begun", "then", "sleep"])?;
        for _ in 0..2 {
            let start = t.begin(t.command(["start", &container.id])?)?;
            start.end_within(AT_ONCE)?.exits(1)?.fails_with("paused")?;
            assert_eq!(container.status()?, "paused");
        }
        container.command("resume")?.ok()?;
        assert_eq!(container.status()?, "created");
        container.start()?.ok()?;
        assert_eq!(container.line()?, "begun");
        Ok(())
    });
}

/// A container that was paused before its start is deleted like any created one: always with force, and without force unless that
/// is refused. Both answer at once.
#[test]
fn a_paused_created_container_is_deleted() {
    check(|t| {
        for words in [&["delete", "--force"][..], &["delete"]] {
            let mut container = paused(t, &["/bin/true"])?;
            let delete = t.begin(t.command(words.iter().copied().chain([container.id.as_str()]))?)?;
            let output = delete.end_within(AT_ONCE).with_context(|| format!("{words:?}"))?;
            if words.contains(&"--force") || output.status.success() {
                output.exits(0)?;
                assert_eq!(container.wait()?, 137);
                container.command("state")?.fails_with(if t.runtime.is("crun<1.28") { "" } else { "does not exist" })?;
            } else {
                output.fails_with("paused")?;
                container.command("resume")?.ok()?;
                container.delete()?.ok()?;
            }
        }
        Ok(())
    });
}

/// A refused start does not prevent a forced delete.
#[test]
fn a_paused_created_container_is_deleted_after_a_start() {
    check(|t| {
        let mut container = paused(t, &["/bin/true"])?;
        let start = t.begin(t.command(["start", &container.id])?)?;
        start.goes_on_after(Duration::from_secs(1))?;
        let delete = t.begin(t.command(["delete", "--force", &container.id])?)?;
        delete.end_within(AT_ONCE)?.exits(0)?;
        assert_eq!(container.wait()?, 137);
        start.end_within(AT_ONCE).context("the start")?;
        Ok(())
    });
}

/// SIGKILL ends a paused created container. It is then stopped, and deleted without force.
#[test]
fn a_paused_created_container_is_killed() {
    check(|t| {
        if !cgroups::unified() && t.differs("crun", "a process that the freezer of v1 holds stays, killed or not") {
            return Ok(());
        }
        let mut container = paused(t, &["/bin/true"])?;
        container.kill("KILL")?.ok()?;
        assert_eq!(container.wait()?, 137);
        assert_eq!(container.status()?, "stopped");
        container.delete()?.ok()?;
        Ok(())
    });
}

/// A paused running container cannot be started, and its status does not become created.
#[test]
fn a_paused_running_container_is_not_started_either() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let container = Container::start_of(t, &bundle)?;
        container.command("pause")?.ok()?;
        let start = t.begin(t.command(["start", &container.id])?)?;
        let refused = start.end_within(AT_ONCE);
        let status = container.status();
        container.command("resume")?.ok()?;
        ensure!(!refused?.status.success(), "it was started");
        assert_eq!(status?, "paused");
        assert_eq!(container.status()?, "running");
        Ok(())
    });
}
