//! Hooks: the order and place of each, its input, and the effect of its failure.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::{Bundle, Container, Test, check};
use serde_json::{Value, json};

const KINDS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Adds a hook of `kind` that writes to the log and then follows `words`.
fn add(t: &Test, bundle: &mut Bundle, kind: &str, words: &[&str]) {
    // the path of a startContainer hook is one inside the container
    let (program, log) = if kind == "startContainer" { ("/bin/payload".into(), "/tmp/log".into()) } else { (t.payload.clone(), log(t)) };
    let mut args =
        vec![program.to_string_lossy().into_owned(), "hook".into(), log.to_string_lossy().into_owned(), "name".into(), kind.into()];
    args.extend(words.iter().map(ToString::to_string));
    bundle.push(&format!("/hooks/{kind}"), json!({"path": program, "args": args, "env": ["HOOK=yes"]}));
}

fn log(t: &Test) -> PathBuf {
    t.path().join("hooks.log")
}

fn lines(t: &Test) -> Result<Vec<Value>> {
    let text = fs::read_to_string(log(t)).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).context("a line of the log of hooks")).collect()
}

fn names(t: &Test) -> Result<Vec<String>> {
    Ok(lines(t)?.iter().map(|line| line["name"].as_str().unwrap_or_default().to_owned()).collect())
}

#[test]
fn all_six_run_in_order_where_they_belong() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "trap", "TERM", "0"]).set("/annotations", json!({"key": "value"}));
        for kind in KINDS {
            add(t, &mut bundle, kind, &[]);
        }
        let mut container = Container::create(t, &bundle)?;
        let early = t.differs("runc", "runs poststart hooks at create, before the program starts");
        if !early {
            assert_eq!(names(t)?, ["prestart", "createRuntime", "createContainer"]);
        }
        container.start()?.ok()?;
        assert_eq!(container.line()?, "ready");
        assert_eq!(names(t)?, ["prestart", "createRuntime", "createContainer", "poststart"]);
        let inside = fs::read_to_string(bundle.rootfs("tmp/log"))?;
        let inside: Value = serde_json::from_str(&inside)?;
        container.kill("TERM")?.ok()?;
        container.wait()?;
        container.delete()?.ok()?;
        let mut all = lines(t)?;
        all.push(inside);
        assert_eq!(all.len(), KINDS.len());
        let mount = |pid: &str| Ok::<_, anyhow::Error>(fs::read_link(format!("/proc/{pid}/ns/mnt"))?.to_string_lossy().into_owned());
        let host = mount("thread-self")?;
        for line in &all {
            let name = line["name"].as_str().unwrap_or_default();
            let state = &line["state"];
            assert_eq!(state["id"], container.id.as_str(), "{name}");
            if !(name == "startContainer" && t.differs("crun", "gives / as the bundle to startContainer hooks")) {
                assert_eq!(state["bundle"], bundle.path().to_string_lossy().as_ref(), "{name}");
            }
            assert_eq!(state["annotations"]["key"], "value", "{name}");
            let status = match name {
                "poststart" => "running",
                "poststop" => "stopped",
                "prestart" | "startContainer" => "created",
                _ => "creating",
            };
            let early = early && name == "poststart";
            let late = ["prestart", "startContainer"].contains(&name);
            let creating = late && t.differs("runc", "says creating in prestart and startContainer hooks");
            let crun = state["status"] != status && t.differs("crun", "has its own view of the status in hooks");
            ensure!(state["status"] == status || early || creating || crun, "{name}: {state}");
            assert_eq!(line["namespaces"]["mnt"] == host, !["createContainer", "startContainer"].contains(&name), "{name}");
            // in the container's namespaces init has another pid
            if ["prestart", "createRuntime", "poststart"].contains(&name) {
                assert_eq!(state["pid"], container.pid.as_raw_nonzero().get(), "{name}");
            }
            let one_line = line["raw"].as_str().is_some_and(|raw| raw.trim_end().lines().count() == 1);
            ensure!(one_line || t.differs("crun<1.29", "prints the state over several lines"), "{name}: the state is not one line");
        }
        Ok(())
    });
}

#[test]
fn prestart_hooks_find_the_namespaces_and_limits_made() {
    check(|t| {
        let mut bundle = t.bundle()?;
        add(t, &mut bundle, "prestart", &["see", "/proc/1/root"]);
        let container = Container::create(t, &bundle)?;
        let line = lines(t)?.pop().context("a line")?;
        assert_eq!(line["state"]["pid"], container.pid.as_raw_nonzero().get());
        Ok(())
    });
}

#[test]
fn sec_hook_1_environment_and_descriptors_of_a_hook() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.push("/process/env", json!("LD_PRELOAD=/evil.so"));
        for kind in KINDS {
            add(t, &mut bundle, kind, &[]);
        }
        t.run(&bundle)?.ok()?;
        let mut all = lines(t)?;
        all.push(serde_json::from_str(&fs::read_to_string(bundle.rootfs("tmp/log"))?)?);
        assert_eq!(all.len(), KINDS.len());
        for line in all {
            let name = &line["name"];
            assert_eq!(line["env"], json!(["HOOK=yes"]), "{name}");
            let fds: Vec<_> = line["fds"].as_object().into_iter().flat_map(|fds| fds.keys()).collect();
            let known = t.differs("runc", "createContainer hooks inherit its sync socket, log pipe and fifo");
            ensure!(known || fds == ["0", "1", "2"], "{name} has the descriptors {}", line["fds"]);
        }
        Ok(())
    });
}

#[test]
fn an_empty_environment_is_empty() {
    check(|t| {
        let mut bundle = t.bundle()?;
        add(t, &mut bundle, "createRuntime", &[]);
        bundle.set("/hooks/createRuntime/0/env", json!([]));
        t.run(&bundle)?.ok()?;
        let line = lines(t)?.pop().context("a line")?;
        if !t.differs("runc", "cannot tell an empty list from none: the hook inherits its environment") {
            assert_eq!(line["env"], json!([]));
        }
        Ok(())
    });
}

#[test]
fn arguments_are_passed_as_they_are() {
    check(|t| {
        let mut bundle = t.bundle()?;
        add(t, &mut bundle, "createRuntime", &[]);
        bundle.set("/hooks/createRuntime/0/args/0", json!("another-name"));
        t.run(&bundle)?.ok()?;
        assert_eq!(lines(t)?.pop().context("a line")?["args"][0], "another-name");
        Ok(())
    });
}

#[test]
fn a_failing_hook_of_create_undoes_it() {
    check(|t| {
        for kind in ["prestart", "createRuntime", "createContainer"] {
            let mut bundle = t.bundle()?;
            let _ = fs::remove_file(log(t));
            add(t, &mut bundle, kind, &["exit", "3"]);
            add(t, &mut bundle, kind, &[]);
            add(t, &mut bundle, "poststop", &[]);
            bundle.write()?;
            let id = t.new_id();
            let create = t.runtime(["create".as_ref(), "--bundle".as_ref(), bundle.path().as_os_str(), id.as_ref()])?;
            create.fails_with("hook")?.fails_with("3")?;
            if t.differs("crun", "does not run poststop hooks after a failed create") {
                assert_eq!(names(t)?, [kind], "the second hook must not run");
            } else {
                assert_eq!(names(t)?, [kind, "poststop"], "the second hook must not run, those of poststop must");
            }
            t.runtime(["state", &id])?.fails_with("does not exist")?;
        }
        Ok(())
    });
}

#[test]
fn a_failing_start_container_hook_fails_the_run() {
    check(|t| {
        let mut bundle = t.bundle()?;
        add(t, &mut bundle, "startContainer", &["exit", "3"]);
        bundle.args(["/bin/payload", "write", "/tmp/ran", "yes"]);
        let output = t.run(&bundle)?;
        ensure!(!output.status.success(), "{output:?}");
        ensure!(!bundle.rootfs("tmp/ran").exists(), "the program ran nevertheless");
        Ok(())
    });
}

#[test]
fn a_failing_poststart_hook_ends_the_container() {
    check(|t| {
        let mut bundle = t.bundle()?;
        add(t, &mut bundle, "poststart", &["exit", "3"]);
        bundle.args(["/bin/sleep"]);
        t.run(&bundle)?.fails_with("hook")?;
        Ok(())
    });
}

#[test]
fn a_failing_poststop_hook_only_warns() {
    check(|t| {
        let mut bundle = t.bundle()?;
        add(t, &mut bundle, "poststop", &["exit", "3"]);
        add(t, &mut bundle, "poststop", &[]);
        let mut container = Container::start_of(t, &bundle)?;
        container.wait()?;
        let delete = container.delete()?;
        if !(t.differs("runc", "delete says that the hook failed, after all is gone") || t.differs("crun", "stops at the failed hook")) {
            delete.ok()?;
            assert_eq!(names(t)?, ["poststop", "poststop"]);
        }
        Ok(())
    });
}

#[test]
fn a_hook_is_killed_at_its_timeout() {
    check(|t| {
        let mut bundle = t.bundle()?;
        add(t, &mut bundle, "createRuntime", &["sleep", "30"]);
        bundle.set("/hooks/createRuntime/0/timeout", json!(1));
        let begin = Instant::now();
        t.run(&bundle)?.fails_with("time")?;
        let took = begin.elapsed();
        ensure!(took > Duration::from_millis(900) && took < Duration::from_secs(10), "{took:?}");
        Ok(())
    });
}

#[test]
fn a_hook_within_its_timeout_is_left_alone() {
    check(|t| {
        let mut bundle = t.bundle()?;
        add(t, &mut bundle, "createRuntime", &["sleep", "0.2"]);
        bundle.set("/hooks/createRuntime/0/timeout", json!(20));
        t.run(&bundle)?.ok()?;
        Ok(())
    });
}

#[test]
fn a_hook_that_does_not_read_its_input_is_no_error() {
    check(|t| {
        let mut bundle = t.bundle()?;
        // larger than the buffer of a pipe
        bundle.set("/annotations", json!({"long": "x".repeat(200_000)}));
        bundle.push("/hooks/createRuntime", json!({"path": t.payload, "args": ["payload", "exit", "0"]}));
        t.run(&bundle)?.ok()?;
        Ok(())
    });
}

#[test]
fn a_start_container_hook_has_the_environment_and_the_filter_of_the_program() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.set("/process/env", json!(["PATH=/bin", "ONE=two"]));
        let args = ["/bin/payload", "hook", "/tmp/log", "name", "start"];
        bundle.push("/hooks/startContainer", json!({"path": "/bin/payload", "args": args}));
        t.run(&bundle)?.ok()?;
        let line: Value = serde_json::from_str(&fs::read_to_string(bundle.rootfs("tmp/log"))?)?;
        let mut env: Vec<_> = line["env"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        env.sort_unstable();
        let crun = t.differs("crun", "gives startContainer hooks an environment without HOME");
        ensure!(crun || env == ["HOME=/root", "ONE=two", "PATH=/bin"], "{env:?}");

        // the filter applies to startContainer hooks, because these are programs of the image
        let deadly = json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"});
        bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [deadly]}));
        bundle.set("/hooks/startContainer", json!([{"path": "/bin/payload", "args": ["/bin/payload", "try-mkdir", "/tmp/made"]}]));
        let output = t.run(&bundle)?;
        if t.differs("crun", "runs startContainer hooks before the filter") {
            return Ok(());
        }
        output.fails_with("signal: bad system call")?;
        ensure!(!bundle.rootfs("tmp/made").exists(), "the filter did not hold for the hook");
        Ok(())
    });
}
