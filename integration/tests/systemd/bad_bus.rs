//! A bus that is gone, hangs, closes connections, or answers garbage, and a systemd that refuses. The runtime must fail in time
//! and leave nothing, and running containers continue.

use std::time::{Duration, Instant};

use super::*;

/// Runs a create with a systemd of these manners. It must fail with `text` within `time`.
fn fails(t: &Test, manners: &[Manner], text: &str, time: Duration) -> Result<Vec<String>> {
    let Some((bundle, _)) = sleeper(t)? else { return Ok(Vec::new()) };
    let systemd = Systemd::start(t.path(), manners)?;
    let begin = Instant::now();
    let output = create(t, &systemd, &bundle, "x")?;
    ensure!(output.stderr.trim_end().lines().count() == 1, "more than a line: {}", output.stderr);
    output.fails_with(text)?;
    ensure!(begin.elapsed() < time, "it took {:?}", begin.elapsed());
    t.runtime(["state", "x"])?.fails_with("does not exist")?;
    Ok(members(&systemd))
}

const SOON: Duration = Duration::from_secs(15);
/// The runtime waits 30 s for systemd.
const IN_TIME: Duration = Duration::from_secs(45);

#[test]
fn gone() {
    check(|t| {
        let Some((bundle, _)) = sleeper(t)? else { return Ok(()) };
        bundle.write()?;
        let create = command_without(t, ["create", "--bundle", &bundle.path().to_string_lossy(), "x"])?;
        t.finish(create)?.fails_with("/bus: connect: no such file or directory")?;
        t.runtime(["state", "x"])?.fails_with("does not exist")?;
        Ok(())
    });
}

#[test]
fn mute() {
    check(|t| fails(t, &[Manner::Mute], "timed out: systemd did not answer within 30 seconds", IN_TIME).map(drop));
}

#[test]
fn mute_while_another_way_is_open() {
    check(|t| {
        let Some((bundle, _)) = sleeper(t)? else { return Ok(()) };
        bundle.write()?;
        let folder = t.path().join("mute");
        fs::create_dir(&folder)?;
        let (_mute, systemd) = (Systemd::start(&folder, &[Manner::Mute])?, Systemd::start(t.path(), &[])?);
        let addresses = format!("unix:path={}/bus;unix:path={}/bus", folder.display(), t.path().display());
        let mut create = command(t, &systemd, ["create", "--bundle", &bundle.path().to_string_lossy(), "x"])?;
        create.env("DBUS_SYSTEM_BUS_ADDRESS", addresses);
        let begin = Instant::now();
        t.finish(create)?.ok()?;
        ensure!(begin.elapsed() < SOON, "it took {:?}", begin.elapsed());
        ensure!(members(&systemd) == ["StartTransientUnit"], "the other one was not asked");
        run(t, &systemd, ["delete", "--force", "x"])?.ok()?;
        Ok(())
    });
}

#[test]
fn hangs_when_it_is_to_make_the_unit() {
    check(|t| fails(t, &[Manner::Hangs("StartTransientUnit")], "timed out: systemd did not answer", IN_TIME).map(drop));
}

#[test]
fn never_ends_the_job() {
    check(|t| fails(t, &[Manner::Stuck], "timed out: systemd did not answer", IN_TIME).map(drop));
}

#[test]
fn forgets_to_tell_the_end_of_a_job() {
    check(|t| {
        let Some((bundle, _)) = sleeper(t)? else { return Ok(()) };
        let systemd = Systemd::start(t.path(), &[Manner::Silent])?;
        let begin = Instant::now();
        create(t, &systemd, &bundle, "x")?.ok()?;
        run(t, &systemd, ["delete", "--force", "x"])?.ok()?;
        ensure!(begin.elapsed() < SOON, "it took {:?}", begin.elapsed());
        Ok(())
    });
}

#[test]
fn answers_garbage() {
    check(|t| {
        fails(t, &[Manner::Garbage], "authentication failed", SOON)?;
        fails(t, &[Manner::GarbageAt("Hello")], "the answer is not a message of D-Bus", SOON)?;
        let calls = fails(t, &[Manner::GarbageAt("StartTransientUnit")], "the answer is not a message of D-Bus", SOON)?;
        ensure!(calls.len() <= 1, "{calls:?}");
        Ok(())
    });
}

#[test]
fn does_not_let_us_in() {
    check(|t| fails(t, &[Manner::Stranger], "authentication failed: REJECTED KERBEROS_V4", SOON).map(drop));
}

#[test]
fn the_job_fails() {
    check(|t| {
        let calls = fails(t, &[Manner::Jobs("failed")], "error creating systemd unit `p-", SOON)?;
        ensure!(calls.is_empty() || calls.starts_with(&["StartTransientUnit".into(), "ResetFailedUnit".into()]), "{calls:?}");
        Ok(())
    });
}

const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

#[test]
fn a_unit_that_failed_before_is_cleared_once() {
    check(|t| {
        let Some((bundle, _)) = sleeper(t)? else { return Ok(()) };
        let systemd = Systemd::start(t.path(), &[Manner::Refuses("StartTransientUnit", 1, EXISTS, "exists")])?;
        create(t, &systemd, &bundle, "x")?.ok()?;
        ensure!(members(&systemd) == ["StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"], "not cleared once");
        run(t, &systemd, ["delete", "--force", "x"])?.ok()?;
        drop(systemd);
        let text = "Unit x.scope was already loaded or has a fragment file.";
        let calls = fails(t, &[Manner::Refuses("StartTransientUnit", 9, EXISTS, text)], text, SOON)?;
        // a foreign unit is not stopped
        ensure!(calls == ["StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"], "{calls:?}");
        Ok(())
    });
}

#[test]
fn a_limit_that_an_old_systemd_does_not_know_is_left_out() {
    check(|t| {
        let Some((mut bundle, _)) = sleeper(t)? else { return Ok(()) };
        const UNKNOWN: &str = "org.freedesktop.DBus.Error.PropertyReadOnly";
        bundle.set("/linux/resources", json!({"unified": {"cgroup.max.depth": "5"}, "memory": {"swap": -1}}));
        let text = "Cannot set property MemorySwapMax, or unknown property.";
        let systemd = Systemd::start(t.path(), &[Manner::Refuses("StartTransientUnit", 1, UNKNOWN, text)])?;
        let available = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?;
        if !available.contains("memory") {
            return t.skip("needs the memory controller in cgroup v2");
        }
        create(t, &systemd, &bundle, "x")?.ok()?;
        let has: Vec<bool> = systemd.calls().iter().map(|call| call.properties(2).contains_key("MemorySwapMax")).collect();
        ensure!(has == [true, false], "{has:?}");
        run(t, &systemd, ["delete", "--force", "x"])?.ok()?;
        drop(systemd);
        // an invalid limit is an error
        fails(
            t,
            &[Manner::Refuses("StartTransientUnit", 1, UNKNOWN, "Cannot set property Delegate, or unknown property.")],
            "Delegate",
            SOON,
        )?;
        Ok(())
    });
}

#[test]
fn restarts_in_the_midst_of_it() {
    check(|t| {
        let Some((bundle, _)) = sleeper(t)? else { return Ok(()) };
        for manner in
            [Manner::ClosesBefore("StartTransientUnit", 2), Manner::ClosesAfter("StartTransientUnit", 1), Manner::ClosesBefore("Hello", 0)]
        {
            let again = manner == Manner::ClosesBefore("StartTransientUnit", 2);
            let systemd = Systemd::start(t.path(), std::slice::from_ref(&manner))?;
            create(t, &systemd, &bundle, "x")?.ok().with_context(|| format!("{manner:?}"))?;
            let calls = members(&systemd);
            ensure!(calls.len() == if again { 3 } else { 1 }, "{manner:?}: {calls:?}");
            run(t, &systemd, ["delete", "--force", "x"])?.ok()?;
        }
        let away = Manner::Refuses("StartTransientUnit", 1, "org.freedesktop.DBus.Error.NoReply", "recipient disconnected");
        let systemd = Systemd::start(t.path(), &[away])?;
        create(t, &systemd, &bundle, "x")?.ok()?;
        run(t, &systemd, ["delete", "--force", "x"])?.ok()?;
        drop(systemd);
        // a re-executed systemd still knows the old unit for a while
        let exists = Manner::Refuses("StartTransientUnit", 4, "org.freedesktop.systemd1.UnitExists", "Unit x was already loaded.");
        let systemd = Systemd::start(t.path(), &[Manner::ClosesBefore("StartTransientUnit", 1), exists])?;
        create(t, &systemd, &bundle, "x")?.ok()?;
        run(t, &systemd, ["delete", "--force", "x"])?.ok()?;
        drop(systemd);
        let closes = [Manner::ClosesAfter("StopUnit", 1), Manner::ClosesBefore("SetUnitProperties", 1)];
        let systemd = Systemd::start(t.path(), &closes)?;
        create(t, &systemd, &bundle, "x")?.ok()?;
        fs::write(t.path().join("limits"), json!({"devices": [{"allow": true, "access": "rwm"}]}).to_string())?;
        run(t, &systemd, ["update", "--resources", &t.path().join("limits").to_string_lossy(), "x"])?.ok()?;
        run(t, &systemd, ["delete", "--force", "x"])?.ok()?;
        Ok(())
    });
}

#[test]
fn a_runtime_that_is_killed_meanwhile_leaves_what_delete_finds() {
    check(|t| {
        let Some((bundle, scope)) = sleeper(t)? else { return Ok(()) };
        for manner in [Manner::Hangs("StartTransientUnit"), Manner::Silent] {
            let systemd = Systemd::start(t.path(), std::slice::from_ref(&manner))?;
            bundle.write()?;
            let mut runtime = command(t, &systemd, ["create", "--bundle", &bundle.path().to_string_lossy(), "x"])?.spawn()?;
            let begin = Instant::now();
            let is_there = || fs::exists(format!("/sys/fs/cgroup/{scope}")).unwrap_or(false);
            while !(is_there() || (manner != Manner::Silent && !systemd.calls().is_empty())) {
                ensure!(begin.elapsed() < SOON, "systemd was not asked");
                std::thread::sleep(Duration::from_millis(1));
            }
            runtime.kill()?;
            runtime.wait()?;
            drop(systemd);
            let systemd = Systemd::start(t.path(), &[])?;
            run(t, &systemd, ["delete", "--force", "x"])?.ok().with_context(|| format!("{manner:?}"))?;
            ensure!(!is_there(), "{manner:?}: the scope is left");
        }
        Ok(())
    });
}

#[test]
fn the_container_that_runs_goes_on() {
    check(|t| {
        let Some((bundle, _)) = sleeper(t)? else { return Ok(()) };
        let systemd = Systemd::start(t.path(), &[])?;
        let limits = t.path().join("limits").to_string_lossy().into_owned();
        fs::write(&limits, json!({"devices": [{"allow": true, "type": "c", "major": 5, "minor": 1, "access": "r"}]}).to_string())?;
        create(t, &systemd, &bundle, "x")?.ok()?;
        run(t, &systemd, ["start", "x"])?.ok()?;
        let refuses = [Manner::Refuses("SetUnitProperties", 1, "org.freedesktop.DBus.Error.AccessDenied", "no, today is closed")];
        drop(systemd);
        let systemd = Systemd::start(t.path(), &refuses)?;
        run(t, &systemd, ["update", "--resources", &limits, "x"])?.fails_with("no, today is closed")?;
        drop(systemd);
        t.finish(command_without(t, ["update", "--resources", &limits, "x"])?)?.fails_with("connect to systemd")?;
        for words in [&["exec", "x", "/bin/true"][..], &["pause", "x"], &["resume", "x"], &["state", "x"]] {
            t.runtime(words)?.ok()?;
        }
        let output = t.finish(command_without(t, ["delete", "--force", "x"])?)?.ok()?;
        ensure!(output.stderr.contains("its cgroup is removed without systemd"), "no warning: {}", output.stderr);
        Ok(())
    });
}
