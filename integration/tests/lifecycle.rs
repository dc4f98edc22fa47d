//! The lifecycle: create, start, run, state, list, kill, delete, with their exit codes and the texts that callers match.

use anyhow::{Context, Result, ensure};
use integration::{Container, check};
use serde_json::json;

#[test]
fn run_returns_the_exit_code() {
    check(|t| {
        for code in [0, 1, 7, 125, 255] {
            let mut bundle = t.bundle()?;
            bundle.args(["/bin/payload", "exit", &code.to_string()]);
            t.run(&bundle)?.exits(code)?;
        }
        Ok(())
    });
}

#[test]
fn run_returns_128_and_the_signal() {
    check(|t| {
        let mut bundle = t.bundle()?;
        // without a pid namespace, because init of a pid namespace ignores signals without a handler
        bundle.drop_namespace("pid").args(["/bin/payload", "raise", "KILL"]);
        t.run(&bundle)?.exits(137)?;
        bundle.args(["/bin/payload", "raise", "TERM"]);
        t.run(&bundle)?.exits(143)?;
        Ok(())
    });
}

#[test]
fn created_started_stopped_deleted() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "say", "started", "then", "exit", "7"]);
        let mut container = Container::create(t, &bundle)?;
        let state = container.state()?;
        assert_eq!(state["status"], "created");
        assert_eq!(state["id"], container.id.as_str());
        assert_eq!(state["pid"], container.pid.as_raw_nonzero().get());
        assert_eq!(state["bundle"], bundle.path().to_str().context("a bundle path in UTF-8")?);
        ensure!(state["ociVersion"].as_str().is_some_and(|version| version.starts_with("1.")), "{state}");
        container.start()?.ok()?;
        assert_eq!(container.line()?, "started");
        assert_eq!(container.wait()?, 7);
        let state = container.state()?;
        assert_eq!(state["status"], "stopped");
        assert_eq!(state["pid"], 0);
        container.delete()?.ok()?;
        container.command("state")?.fails_with("does not exist")?;
        Ok(())
    });
}

#[test]
fn state_has_what_callers_decode() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]).set("/annotations", json!({"a.b": "c", "empty": ""}));
        let container = Container::start_of(t, &bundle)?;
        let state = container.state()?;
        assert_eq!(state["status"], "running");
        assert_eq!(state["annotations"]["a.b"], "c");
        if !t.differs("crun", "gives root.path as it stands in the config") {
            assert_eq!(state["rootfs"], bundle.rootfs("").to_string_lossy().trim_end_matches('/'));
        }
        let created = state["created"].as_str().context("a time of creation")?;
        // CRI-O decodes it as RFC 3339
        let digits = |range: std::ops::Range<usize>| created.get(range).is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
        ensure!(digits(0..4) && created.get(10..11) == Some("T") && digits(17..19) && created.ends_with('Z'), "{created}");
        for name in ["started", "finished", "exitCode", "oomKilled", "error", "initPid"] {
            ensure!(state.get(name).is_none(), "CRI-O gives {name} another meaning");
        }
        Ok(())
    });
}

#[test]
fn list_shows_each_container() {
    check(|t| {
        let empty = t.runtime(["list", "--format", "json"])?.ok()?;
        ensure!(matches!(empty.json()?, serde_json::Value::Null | serde_json::Value::Array(_)), "{}", empty.stdout);
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let created = Container::create(t, &bundle)?;
        let running = Container::start_of(t, &bundle)?;
        let list = t.runtime(["list", "--format", "json"])?.ok()?.json()?;
        let status_of = |id: &str| {
            let entry = list.as_array().into_iter().flatten().find(|entry| entry["id"] == id);
            entry.map(|entry| (entry["status"].clone(), entry["pid"].clone()))
        };
        assert_eq!(status_of(&created.id), Some((json!("created"), json!(created.pid.as_raw_nonzero().get()))));
        assert_eq!(status_of(&running.id), Some((json!("running"), json!(running.pid.as_raw_nonzero().get()))));
        let ids = t.runtime(["list", "--quiet"])?.ok()?.stdout;
        let mut ids: Vec<_> = ids.lines().collect();
        ids.sort_unstable();
        assert_eq!(ids, [created.id.as_str(), running.id.as_str()]);
        let table = t.runtime(["list"])?.ok()?.stdout;
        ensure!(table.lines().count() == 3 && table.contains(&running.id), "{table}");
        Ok(())
    });
}

#[test]
fn signals_reach_init_by_any_of_their_names() {
    check(|t| {
        for (given, got) in [("TERM", "TERM"), ("SIGUSR1", "USR1"), ("12", "USR2"), ("hup", "HUP")] {
            if got == "HUP" && t.differs("crun", "knows signal names in capitals only") {
                continue;
            }
            let mut bundle = t.bundle()?;
            bundle.args(["/bin/payload", "trap", "TERM,USR1,USR2,HUP", "9"]);
            let mut container = Container::start_of(t, &bundle)?;
            assert_eq!(container.line()?, "ready");
            container.kill(given)?.ok()?;
            assert_eq!(container.line()?, format!("got {got}"));
            assert_eq!(container.wait()?, 9);
        }
        Ok(())
    });
}

#[test]
fn kill_without_a_signal_sends_term_and_signal_0_asks() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "trap", "TERM", "3"]);
        let mut container = Container::start_of(t, &bundle)?;
        assert_eq!(container.line()?, "ready");
        container.kill("0")?.ok()?;
        assert_eq!(container.status()?, "running");
        container.command("kill")?.ok()?;
        assert_eq!(container.wait()?, 3);
        Ok(())
    });
}

#[test]
fn sigkill_ends_who_is_deaf_to_sigterm() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "deaf", "TERM", "then", "sleep"]);
        let mut container = Container::start_of(t, &bundle)?;
        assert_eq!(container.line()?, "ready");
        container.kill("TERM")?.ok()?;
        assert_eq!(container.status()?, "running");
        container.kill("KILL")?.ok()?;
        assert_eq!(container.wait()?, 137);
        assert_eq!(container.status()?, "stopped");
        Ok(())
    });
}

#[test]
fn kill_takes_all_before_the_id() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "children", "3", "then", "sleep"]);
        let mut container = Container::start_of(t, &bundle)?;
        assert_eq!(container.line()?, "ready");
        t.runtime(["kill", "--all", &container.id, "KILL"])?.ok()?;
        assert_eq!(container.wait()?, 137);
        Ok(())
    });
}

#[test]
fn bad_signals_are_named() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let container = Container::start_of(t, &bundle)?;
        container.kill("BOGUS")?.fails_with("unknown signal")?.fails_with("BOGUS")?;
        container.kill("99")?.fails_with("")?;
        assert_eq!(container.status()?, "running");
        Ok(())
    });
}

#[test]
fn commands_on_an_unknown_id() {
    check(|t| {
        for verb in ["state", "start", "delete", "pause", "resume", "ps"] {
            if verb == "delete" && t.differs("crun", "says that it cannot open the directory") {
                continue;
            }
            let output = t.runtime([verb, "nobody"])?.fails_with("does not exist")?;
            if !t.differs("crun", "has exit codes of its own") {
                output.exits(1)?;
            }
        }
        t.runtime(["kill", "nobody", "TERM"])?.exits(1)?.fails_with("does not exist")?;
        t.runtime(["exec", "nobody", "/bin/true"])?.fails_with("does not exist")?;
        // callers rely on it: delete --force succeeds in any case
        t.runtime(["delete", "--force", "nobody"])?.exits(0)?;
        Ok(())
    });
}

#[test]
fn a_second_create_of_one_id_is_refused() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let container = Container::start_of(t, &bundle)?;
        let again = t.runtime(["create".as_ref(), "--bundle".as_ref(), bundle.path().as_os_str(), container.id.as_ref()])?;
        again.exits(1)?.fails_with("exists")?;
        assert_eq!(container.status()?, "running");
        Ok(())
    });
}

#[test]
fn start_only_once() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let mut container = Container::start_of(t, &bundle)?;
        let differs = t.differs("crun", "has texts of its own for wrong states");
        let text = |ours: &'static str| if differs { "" } else { ours };
        container.start()?.exits(1)?.fails_with(text("cannot start an already running container"))?;
        container.kill("KILL")?.ok()?;
        container.wait()?;
        container.start()?.exits(1)?.fails_with(text("cannot start a container that has stopped"))?;
        Ok(())
    });
}

#[test]
fn commands_on_a_stopped_container() {
    check(|t| {
        let mut container = Container::start_of(t, &t.bundle()?)?;
        assert_eq!(container.wait()?, 0);
        let crun = t.differs("crun", "has texts of its own for wrong states");
        for signal in ["TERM", "KILL", "0"] {
            let text = if crun { "no such process" } else { "container not running" };
            container.kill(signal)?.exits(1)?.fails_with(text)?;
        }
        let exec = container.exec(&[], ["/bin/true"])?;
        if crun {
            exec.exits(1)?;
        } else {
            exec.exits(255)?.fails_with("cannot exec in a stopped container")?;
        }
        container.command("pause")?.exits(1)?.fails_with(if crun { "" } else { "container not running" })?;
        Ok(())
    });
}

#[test]
fn a_running_container_is_deleted_by_force_alone() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "deaf", "TERM", "then", "children", "2", "then", "sleep"]);
        let mut container = Container::start_of(t, &bundle)?;
        assert_eq!(container.line()?, "ready");
        let text = if t.differs("crun", "has a text of its own") { "not in" } else { "that is not stopped: running" };
        container.delete()?.exits(1)?.fails_with(text)?;
        assert_eq!(container.status()?, "running");
        container.delete_by_force()?.ok()?;
        assert_eq!(container.wait()?, 137);
        container.delete_by_force()?.ok()?;
        Ok(())
    });
}

#[test]
fn a_created_container_is_deleted_without_force() {
    check(|t| {
        let mut container = Container::create(t, &t.bundle()?)?;
        container.delete()?.ok()?;
        assert_eq!(container.wait()?, 137);
        Ok(())
    });
}

#[test]
fn sigterm_ends_a_created_container() {
    check(|t| {
        let mut container = Container::create(t, &t.bundle()?)?;
        if t.differs("crun", "its waiting init ignores SIGTERM, as the first process of a pid namespace does") {
            return Ok(());
        }
        container.kill("TERM")?.ok()?;
        container.wait()?;
        assert_eq!(container.status()?, "stopped");
        Ok(())
    });
}

#[test]
fn run_removes_its_container_and_keep_does_not() {
    check(|t| {
        let bundle = t.bundle()?;
        bundle.write()?;
        let id = t.new_id();
        let path = bundle.path().as_os_str();
        t.runtime(["run".as_ref(), "--bundle".as_ref(), path, id.as_ref()])?.ok()?;
        t.runtime(["state", &id])?.fails_with("does not exist")?;
        t.runtime(["run".as_ref(), "--keep".as_ref(), "--bundle".as_ref(), path, id.as_ref()])?.ok()?;
        assert_eq!(t.runtime(["state", &id])?.ok()?.json()?["status"], "stopped");
        t.runtime(["delete", &id])?.ok()?;
        Ok(())
    });
}

#[test]
fn detached_run_returns_while_it_runs() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "trap", "TERM", "4"]);
        let mut container = Container::make(t, &bundle, "run", |_| {})?;
        assert_eq!(container.line()?, "ready");
        assert_eq!(container.status()?, "running");
        container.kill("TERM")?.ok()?;
        assert_eq!(container.wait()?, 4);
        Ok(())
    });
}

#[test]
fn edits_of_the_config_after_create_do_not_matter() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "say", "first", "then", "sleep"]).push("/process/env", json!("A=first"));
        let mut container = Container::create(t, &bundle)?;
        bundle
            .args(["/bin/payload", "say", "second"])
            .push("/process/env", json!("A=second"))
            .set("/process/user/uid", json!(1000))
            .write()?;
        container.start()?.ok()?;
        assert_eq!(container.line()?, "first");
        if !t.differs("runc", "reads the config anew for each exec") {
            let report = container.exec_report(&[])?;
            ensure!(report["env"].to_string().contains("A=first") && report["uids"] == "0 0 0 0", "{report}");
        }
        std::fs::remove_file(bundle.path().join("config.json"))?;
        container.state()?;
        container.kill("KILL")?.ok()?;
        container.wait()?;
        container.delete()?.ok()?;
        Ok(())
    });
}

#[test]
fn twenty_racers_for_one_id_have_one_winner() {
    check(|t| {
        let bundle = t.bundle()?;
        bundle.write()?;
        let id = t.new_id();
        let mut racers = Vec::new();
        for _ in 0..20 {
            let mut command = t.command(["create"])?;
            racers.push(command.arg("--bundle").arg(bundle.path()).arg(&id).spawn()?);
        }
        let mut winners = 0;
        for mut racer in racers {
            winners += u32::from(integration::runtime::wait(&mut racer)?.success());
        }
        assert_eq!(winners, 1);
        assert_eq!(t.runtime(["state", &id])?.ok()?.json()?["status"], "created");
        t.runtime(["delete", "--force", &id])?.ok()?;
        Ok(())
    });
}

#[test]
fn ten_forced_deletes_at_once_all_succeed() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let container = Container::start_of(t, &bundle)?;
        let racers: Vec<_> = (0..10).map(|_| Ok(t.command(["delete", "--force", &container.id])?.spawn()?)).collect::<Result<_>>()?;
        let crun = t.differs("crun", "some of the losers cannot open the directory");
        for mut racer in racers {
            ensure!(integration::runtime::wait(&mut racer)?.success() || crun, "a forced delete failed");
        }
        Ok(())
    });
}

#[test]
fn a_container_without_a_process_can_be_created_and_not_started() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.unset("/process").write()?;
        if t.differs("runc", "refuses it at create") {
            return Ok(());
        }
        let mut container = Container::create(t, &bundle)?;
        assert_eq!(container.status()?, "created");
        container.start()?.fails_with("process")?;
        container.wait()?;
        assert_eq!(container.status()?, "stopped");
        container.delete()?.ok()?;
        Ok(())
    });
}
