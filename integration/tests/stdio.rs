//! Standard streams, inherited descriptors, and unusual process states of callers.

use std::fs::{self, File};

use anyhow::{Result, ensure};
use integration::{Container, Test, check};
use serde_json::{Value, json};

/// Runs the payload's report with the `run` flags `flags`, in the process state that `options` describe.
fn report(t: &Test, options: &[&str], flags: &[&str], env: &[(&str, &str)]) -> Result<Value> {
    let mut bundle = t.bundle()?;
    bundle.args(["/bin/payload", "report"]).write()?;
    let path = bundle.path().to_string_lossy().into_owned();
    let id = t.new_id();
    let words = ["run"].into_iter().chain(flags.iter().copied()).chain(["--bundle", &path, &id]);
    let mut command = t.launched(options, words)?;
    command.envs(env.iter().copied());
    t.finish(command)?.ok()?.json()
}

fn numbers(report: &Value) -> Vec<String> {
    report["fds"].as_object().into_iter().flat_map(|fds| fds.keys().cloned()).collect()
}

#[test]
fn streams_are_the_callers_and_nothing_more() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "cat", "then", "complain", "aside"]).write()?;
        let input = t.path().join("input");
        fs::write(&input, "from outside")?;
        let path = bundle.path().to_string_lossy().into_owned();
        let mut command = t.command(["run", "--bundle", &path, &t.new_id()])?;
        command.stdin(File::open(&input)?);
        let output = t.finish(command)?.ok()?;
        assert_eq!(output.stdout, "from outside");
        assert_eq!(output.stderr, "aside\n");
        Ok(())
    });
}

#[test]
fn inherited_descriptors_do_not_get_in() {
    check(|t| {
        let file = t.path().join("leaked");
        fs::create_dir(&file)?;
        let open = format!("open={}", file.display());
        let report = report(t, &[&open, &open, "open=/etc/hostname"], &[], &[])?;
        assert_eq!(numbers(&report), ["0", "1", "2"], "{}", report["fds"]);
        Ok(())
    });
}

#[test]
fn preserved_descriptors_do() {
    check(|t| {
        let (one, two) = (t.path().join("one"), t.path().join("two"));
        fs::write(&one, "")?;
        fs::write(&two, "")?;
        let options = [format!("open={}", one.display()), format!("open={}", two.display()), "open=/etc/hostname".to_owned()];
        let options: Vec<&str> = options.iter().map(AsRef::as_ref).collect();
        let report = report(t, &options, &["--preserve-fds", "2"], &[])?;
        assert_eq!(numbers(&report), ["0", "1", "2", "3", "4"], "{}", report["fds"]);
        ensure!(report["fds"]["3"].as_str().is_some_and(|path| path.ends_with("/one")), "{}", report["fds"]);
        ensure!(report["fds"]["4"].as_str().is_some_and(|path| path.ends_with("/two")), "{}", report["fds"]);
        Ok(())
    });
}

#[test]
fn sockets_of_systemd_are_passed_on() {
    check(|t| {
        let one = t.path().join("one");
        fs::write(&one, "")?;
        let open = format!("open={}", one.display());
        // launch becomes the runtime, so both have one pid, which is not known before
        let report = report(t, &[&open, &open], &["--preserve-fds", "1"], &[("LISTEN_FDS", "1"), ("LISTEN_PID", "0")])?;
        let env = report["env"].to_string();
        if env.contains("LISTEN_FDS") {
            ensure!(env.contains("LISTEN_FDS=1") && env.contains("LISTEN_PID=1\""), "{env}");
            assert_eq!(numbers(&report), ["0", "1", "2", "3", "4"]);
        }
        ensure!(numbers(&report).len() <= 5, "{}", report["fds"]);
        Ok(())
    });
}

#[test]
fn closed_standard_streams() {
    check(|t| {
        if t.differs("crun", "crashes with standard input closed") {
            return Ok(());
        }
        for closed in [vec!["close=0"], vec!["close=1"], vec!["close=2"], vec!["close=0", "close=1", "close=2"]] {
            let mut bundle = t.bundle()?;
            bundle.args(["/bin/payload", "write", "/tmp/ran", "yes"]).write()?;
            let path = bundle.path().to_string_lossy().into_owned();
            let command = t.launched(&closed, ["run", "--bundle", &path, &t.new_id()])?;
            let output = t.finish(command)?;
            let ran = bundle.rootfs("tmp/ran").exists();
            // success, or refusal before the program runs
            ensure!(output.status.success() == ran, "{closed:?}: {output:?}, ran: {ran}");
            ensure!(ran || t.differs("runc", "fails with streams closed"), "{closed:?}: {output:?}");
        }
        Ok(())
    });
}

#[test]
fn umask_of_the_caller_does_not_matter() {
    check(|t| {
        let seen = report(t, &["umask=077"], &[], &[])?;
        assert_eq!(seen["umask"], "0022");
        // the runtime makes nodes and directories with the config's modes
        for name in ["null", "zero", "full", "tty"] {
            let node = seen["dev"][name].as_str().unwrap_or_default();
            ensure!(node.contains(" 666 "), "{name}: {node}");
        }
        assert_eq!(seen["dev"]["pts"], "dir 755 0:0");
        Ok(())
    });
}

#[test]
fn ignored_sigchld_does_not_matter() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "exit", "8"]).write()?;
        bundle.push("/hooks/createRuntime", json!({"path": t.payload, "args": ["payload", "exit", "0"], "timeout": 20}));
        bundle.write()?;
        let path = bundle.path().to_string_lossy().into_owned();
        let command = t.launched(&[&format!("ignore={}", 17)], ["run", "--bundle", &path, &t.new_id()])?;
        let output = t.finish(command)?;
        if !t.differs("crun", "loses the exit code when its caller ignores SIGCHLD") {
            output.exits(8)?;
        }
        Ok(())
    });
}

#[test]
fn a_deleted_working_directory_does_not_matter() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "exit", "8"]).write()?;
        let path = bundle.path().to_string_lossy().into_owned();
        let command = t.launched(&["cwd-gone"], ["run", "--bundle", &path, &t.new_id()])?;
        t.finish(command)?.exits(8)?;
        Ok(())
    });
}

#[test]
fn few_descriptors_are_enough_or_an_error() {
    check(|t| {
        for limit in [8, 12, 16, 24, 32] {
            let mut bundle = t.bundle()?;
            bundle.args(["/bin/payload", "write", "/tmp/ran", "yes"]).write()?;
            let path = bundle.path().to_string_lossy().into_owned();
            let id = t.new_id();
            let command = t.launched(&[&format!("nofile={limit}")], ["run", "--bundle", &path, &id])?;
            let output = t.finish(command)?;
            let ran = bundle.rootfs("tmp/ran").exists();
            ensure!(output.status.success() == ran, "{limit}: {output:?}, ran: {ran}");
            let known = t.differs("runc", "needs more than 32") || t.differs("crun", "needs more than 32");
            ensure!(ran || limit < 32 || known, "{limit}: {output:?}");
            t.runtime(["delete", "--force", &id])?.ok()?;
        }
        Ok(())
    });
}

#[test]
fn the_bundle_is_the_working_directory_by_default() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "exit", "8"]).write()?;
        let mut command = t.command(["run", &t.new_id()])?;
        command.current_dir(bundle.path());
        t.finish(command)?.exits(8)?;
        Ok(())
    });
}

#[test]
fn errors_go_to_standard_error_and_to_the_log() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/no/such"]).write()?;
        let path = bundle.path().to_string_lossy().into_owned();
        let log = t.path().join("log.json").to_string_lossy().into_owned();
        let output = t.runtime(["--log", &log, "--log-format", "json", "create", "--bundle", &path, &t.new_id()])?.exits(1)?;
        let crun = t.differs("crun", "writes to the log alone");
        ensure!(crun || output.stderr.to_lowercase().contains("no such file or directory"), "{output:?}");
        // podman parses the whole file as one object, containerd takes the last one of level error
        let text = fs::read_to_string(&log)?;
        let runc = t.differs("runc", "may warn first, in a line of its own");
        let one = if runc { text.trim().lines().last().unwrap_or_default() } else { text.trim() };
        let line: Value = serde_json::from_str(one)?;
        assert_eq!(line["level"], "error");
        ensure!(line["msg"].as_str().is_some_and(|msg| msg.to_lowercase().contains("no such file or directory")), "{line}");
        ensure!(line["time"].as_str().is_some_and(|time| time.contains('T')), "{line}");
        // a second command appends a line
        t.runtime(["--log", &log, "--log-format", "json", "state", "nobody"])?.exits(1)?;
        if !t.differs("crun", "spreads an entry over several lines") {
            assert_eq!(fs::read_to_string(&log)?.trim().lines().count(), text.trim().lines().count() + 1);
        }
        t.runtime(["--log-format", "yaml", "list"])?.fails_with("")?;
        Ok(())
    });
}

#[test]
fn a_container_keeps_its_streams_when_the_runtime_has_gone() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "say", "one", "then", "trap", "TERM", "0", "then", "say", "two"]);
        let mut container = Container::start_of(t, &bundle)?;
        assert_eq!(container.line()?, "one");
        assert_eq!(container.line()?, "ready");
        container.kill("TERM")?.ok()?;
        assert_eq!(container.rest()?, "got TERM\ntwo\n");
        assert_eq!(container.wait()?, 0);
        Ok(())
    });
}
