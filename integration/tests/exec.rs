//! `exec`: its flags, its exit codes, and that it grants no more than requested.

use std::fs;
use std::io::{ErrorKind, Read};

use anyhow::{Context, Result, ensure};
use integration::runtime::{DEADLINE, ended_within};
use integration::{Container, Test, cgroups, check};
use rustix::process::{Pid, WaitOptions, waitpid};
use serde_json::{Value, json};

fn sleeper(t: &Test) -> Result<Container<'_>> {
    let mut bundle = t.bundle()?;
    bundle.args(["/bin/sleep"]);
    Container::start_of(t, &bundle)
}

#[test]
fn exit_codes() {
    check(|t| {
        let container = sleeper(t)?;
        for code in [0, 1, 42, 255] {
            container.exec(&[], ["/bin/payload", "exit", &code.to_string()])?.exits(code)?;
        }
        container.exec(&[], ["/bin/payload", "raise", "KILL"])?.exits(137)?;
        container.exec(&[], ["/bin/payload", "raise", "TERM"])?.exits(143)?;
        Ok(())
    });
}

#[test]
fn its_own_failures_are_255_with_the_texts_that_callers_match() {
    check(|t| {
        let container = sleeper(t)?;
        let crun = t.differs("crun", "fails with 1 and texts of its own");
        for (program, text, cruns) in [
            ("/no/such", "no such file or directory", "no such file"),
            ("nosuch", "executable file not found in $PATH", "not found in $PATH"),
            ("/etc/passwd", "permission denied", "not executable"),
        ] {
            container.exec(&[], [program])?.exits(if crun { 1 } else { 255 })?.fails_with(if crun { cruns } else { text })?;
        }
        Ok(())
    });
}

#[test]
fn it_joins_the_container() {
    check(|t| {
        let container = sleeper(t)?;
        let report = container.exec_report(&[])?;
        let pid = container.pid.as_raw_nonzero();
        for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
            let theirs = fs::read_link(format!("/proc/{pid}/ns/{kind}"))?;
            assert_eq!(report["namespaces"][kind], theirs.to_string_lossy().as_ref(), "{kind}");
        }
        assert_eq!(report["hostname"], "inside");
        assert_eq!(report["cwd"], "/");
        let theirs = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let own: Vec<_> = report["cgroup"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        // SEC-cg-3: the same cgroup in every hierarchy where the container has one
        for line in theirs.lines().filter(|line| line.contains(&container.id)) {
            ensure!(own.contains(&line), "{line} is not among {own:?}");
        }
        Ok(())
    });
}

#[test]
fn environment_is_the_configs_and_the_flags() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]).push("/process/env", json!("A=config")).push("/process/env", json!("B=config"));
        let container = Container::start_of(t, &bundle)?;
        let report = container.exec_report(&["--env", "B=flag", "--env", "C=a=b"])?;
        let has = |entry: &str| report["env"].as_array().is_some_and(|env| env.iter().any(|own| own == entry));
        let short = container.exec_report(&["-e", "D=d"])?;
        ensure!(short["env"].to_string().contains("D=d"), "{}", short["env"]);
        ensure!(has("A=config") && has("B=flag") && has("C=a=b") && has("PATH=/usr/bin:/bin"), "{}", report["env"]);
        Ok(())
    });
}

#[test]
fn user_groups_and_cwd() {
    check(|t| {
        let container = sleeper(t)?;
        let report = container.exec_report(&["--user", "1000:1001", "--cwd", "/tmp"])?;
        assert_eq!(report["uids"], "1000 1000 1000 1000");
        assert_eq!(report["gids"], "1001 1001 1001 1001");
        assert_eq!(report["groups"], json!([]));
        assert_eq!(report["cwd"], "/tmp");
        if !t.differs("crun", "has no --additional-gids") {
            let report = container.exec_report(&["--user", "1:2", "--additional-gids", "7", "--additional-gids", "8"])?;
            assert_eq!(report["groups"], json!([7, 8]));
        }
        Ok(())
    });
}

#[test]
fn sec_cap_1_capabilities_of_exec() {
    check(|t| {
        let container = sleeper(t)?;
        let plain = container.exec_report(&[])?;
        let added = container.exec_report(&["--cap", "CAP_SYS_NICE"])?;
        let nice = json!("CAP_SYS_NICE");
        let has = |report: &Value, set: &str| report["capabilities"][set].as_array().is_some_and(|names| names.contains(&nice));
        assert_eq!(plain["capabilities"]["inheritable"], json!([]));
        assert_eq!(plain["capabilities"]["ambient"], json!([]));
        ensure!(!has(&plain, "bounding") && !has(&plain, "effective"), "{}", plain["capabilities"]);
        for set in ["bounding", "effective", "permitted"] {
            ensure!(has(&added, set), "{set} of --cap: {}", added["capabilities"]);
        }
        assert_eq!(added["capabilities"]["inheritable"], json!([]));
        assert_eq!(added["capabilities"]["ambient"], json!([]));
        // a later exec does not have them
        assert_eq!(container.exec_report(&[])?["capabilities"], plain["capabilities"]);
        Ok(())
    });
}

#[test]
fn no_new_privileges_by_flag() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]).set("/process/noNewPrivileges", json!(false));
        let container = Container::start_of(t, &bundle)?;
        assert_eq!(container.exec_report(&[])?["no_new_privileges"], "0");
        assert_eq!(container.exec_report(&["--no-new-privs"])?["no_new_privileges"], "1");
        Ok(())
    });
}

#[test]
fn process_from_a_file_replaces_everything() {
    check(|t| {
        let container = sleeper(t)?;
        let file = t.path().join("process.json");
        let process = json!({
            "args": ["/bin/payload", "report"], "cwd": "/etc", "env": ["ONLY=this"], "user": {"uid": 5, "gid": 6, "additionalGids": [7], "umask": 0o27},
            "capabilities": {"bounding": ["CAP_KILL"]}, "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 60}], "noNewPrivileges": true,
            "oomScoreAdj": 1000
        });
        fs::write(&file, process.to_string())?;
        let path = file.to_string_lossy().into_owned();
        let output = t.runtime(["exec", "--process", &path, &container.id])?.ok()?;
        let report = output.json()?;
        assert_eq!(report["cwd"], "/etc");
        assert_eq!(report["uids"], "5 5 5 5");
        assert_eq!(report["groups"], json!([7]));
        if !t.differs("runc", "takes the umask of the container, not of the file") {
            assert_eq!(report["umask"], "0027");
        }
        assert_eq!(report["capabilities"]["bounding"], json!(["CAP_KILL"]));
        assert_eq!(report["limits"]["RLIMIT_NOFILE"], json!([50, 60]));
        if !(t.differs("crun", "does not apply the score of the file") || t.differs("runc", "does not apply the score of the file")) {
            assert_eq!(report["oom_score_adj"], "1000");
        }
        ensure!(!report["env"].to_string().contains("PATH="), "{}", report["env"]);
        ensure!(report["env"].to_string().contains("ONLY=this"), "{}", report["env"]);
        Ok(())
    });
}

#[test]
fn detached_with_a_pid_file() {
    check(|t| {
        let mut container = sleeper(t)?;
        let pid_file = t.path().join("exec.pid");
        let file = pid_file.to_string_lossy().into_owned();
        let mut command = t.command(["exec", "--detach", "--pid-file", &file, &container.id])?;
        let (mut output, writer) = std::io::pipe()?;
        command.args(["/bin/payload", "deaf", "TERM", "then", "sleep", "30"]).stdout(writer);
        t.finish(command)?.ok()?;
        let pid: i32 = fs::read_to_string(&pid_file)?.parse()?;
        let mut said = [0; 6];
        output.read_exact(&mut said)?;
        assert_eq!(&said, b"ready\n");
        let cmdline = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
        ensure!(cmdline.starts_with("/bin/payload\0deaf"), "{cmdline}");
        let ps = t.runtime(["ps", "--format", "json", &container.id])?.ok()?.json()?;
        ensure!(ps.as_array().is_some_and(|pids| pids.contains(&json!(pid)) && pids.len() == 2), "{ps}");
        // the process dies with init, but the test, its parent, must reap it before init can exit
        container.kill("KILL")?.ok()?;
        let pid = Pid::from_raw(pid).context("a pid")?;
        ensure!(ended_within(pid, DEADLINE)?, "the executed process lives on");
        waitpid(Some(pid), WaitOptions::empty())?;
        assert_eq!(container.wait()?, 137);
        Ok(())
    });
}

#[test]
fn a_failure_writes_no_pid_file() {
    check(|t| {
        let container = sleeper(t)?;
        let pid_file = t.path().join("exec.pid");
        let file = pid_file.to_string_lossy().into_owned();
        let output = container.exec(&["--detach", "--pid-file", &file], ["/no/such"])?;
        ensure!(!output.status.success(), "{output:?}");
        // by the pid file conmon tells the runtime's failure from the command's
        ensure!(!pid_file.exists() || t.differs("crun", "writes it before it knows"), "a pid file was written");
        Ok(())
    });
}

#[test]
fn in_a_created_and_in_a_paused_container() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let container = Container::create(t, &bundle)?;
        container.exec(&[], ["/bin/payload", "exit", "6"])?.exits(6)?;
        container.start()?.ok()?;
        if !cgroups::has("freezer") && !cgroups::unified() {
            return t.skip("no freezer here to pause with");
        }
        container.command("pause")?.ok()?;
        let text = if t.differs("crun", "has a text of its own") { "paused" } else { "cannot exec in a paused container" };
        container.exec(&[], ["/bin/true"])?.fails_with(text)?;
        container.command("resume")?.ok()?;
        container.exec(&[], ["/bin/true"])?.ok()?;
        Ok(())
    });
}

#[test]
fn standard_streams_are_the_callers() {
    check(|t| {
        let container = sleeper(t)?;
        let input = t.path().join("input");
        fs::write(&input, "from outside")?;
        let mut command = t.command(["exec", &container.id, "/bin/payload", "cat", "then", "complain", "aside", "then", "exit", "3"])?;
        command.stdin(fs::File::open(&input)?);
        let output = t.finish(command)?.exits(3)?;
        assert_eq!(output.stdout, "from outside");
        assert_eq!(output.stderr, "aside\n");
        let report = container.exec_report(&[])?;
        let fds: Vec<_> = report["fds"].as_object().into_iter().flat_map(|fds| fds.keys().cloned()).collect();
        assert_eq!(fds, ["0", "1", "2"]);
        Ok(())
    });
}

#[test]
fn sec_cg_2_no_way_out_of_the_containers_cgroup() {
    check(|t| {
        if t.differs("crun", "takes --cgroup as relative to the root") {
            return Ok(());
        }
        let container = sleeper(t)?;
        for path in ["../..", "foo/../../bar", "..", "/.."] {
            container.exec(&["--cgroup", path], ["/bin/true"])?.fails_with("")?;
        }
        Ok(())
    });
}

#[test]
fn fifty_at_once() {
    check(|t| {
        let container = sleeper(t)?;
        let mut running = Vec::new();
        for number in 0..50 {
            let code = (number % 7).to_string();
            let mut command = t.command(["exec", &container.id, "/bin/payload", "exit", &code])?;
            running.push((number % 7, command.spawn()?));
        }
        for (code, mut child) in running {
            assert_eq!(integration::runtime::wait(&mut child)?.code(), Some(code));
        }
        Ok(())
    });
}

#[test]
fn where_init_went_if_the_containers_cgroup_is_gone() {
    check(|t| {
        if !cgroups::unified() {
            return t.skip("needs cgroup v2 alone");
        }
        if t.differs("crun", "has no process join what is gone") || t.differs("runc<1.2", "has no process join what is gone") {
            return Ok(());
        }
        let mut container = sleeper(t)?;
        let own = cgroups::of(container.pid, "")?;
        let other = std::path::Path::new("/sys/fs/cgroup").join(format!("{}-other", t.token()));
        fs::create_dir(&other)?;
        fs::write(other.join("cgroup.procs"), container.pid.as_raw_nonzero().to_string())?;
        // systemd may have removed the cgroup first, because a scope without processes ends
        fs::remove_dir(&own).or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
        let seen = container.exec_report(&[]);
        container.delete_by_force()?.ok()?;
        fs::remove_dir(&other)?;
        let seen = seen?["cgroup"].to_string();
        ensure!(seen.contains("-other"), "{seen}");
        Ok(())
    });
}
