//! Flags that only one peer has, and masu too: crun's regular expressions, its mode without cgroups and its logs, runc's pidfd
//! sockets, and users by name.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use integration::terminal::ConsoleSocket;
use integration::{Container, Test, cgroups, check};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, WaitOptions, waitpid};
use serde_json::json;

fn sleeper(t: &Test) -> Result<Container<'_>> {
    let mut bundle = t.bundle()?;
    bundle.args(["/bin/sleep"]);
    Container::start_of(t, &bundle)
}

#[test]
fn kill_and_delete_by_expression() {
    check(|t| {
        if t.differs("runc", "has no --regex") {
            return Ok(());
        }
        let (mut one, mut two, other) = (sleeper(t)?, sleeper(t)?, sleeper(t)?);
        let expression = format!("^({}|{})$", one.id, two.id);
        t.runtime(["kill", "--regex", &expression, "KILL"])?.ok()?;
        assert_eq!((one.wait()?, two.wait()?), (137, 137));
        assert_eq!(other.status()?, "running");
        // a running container is reported, and the others are still deleted
        let output = t.runtime(["delete", "-r", t.token()])?.ok()?;
        ensure!(output.stderr.contains(&other.id), "{}", output.stderr);
        for gone in [&one, &two] {
            gone.command("state")?.exits(1)?;
        }
        assert_eq!(other.status()?, "running");
        if !t.differs("crun", "takes it for one that matches nothing") {
            t.runtime(["kill", "-r", "a("])?.exits(1)?.fails_with("invalid regular expression")?;
        }
        Ok(())
    });
}

#[test]
fn without_cgroups_it_stays_in_the_callers() {
    check(|t| {
        if t.differs("runc", "has no --cgroup-manager") {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let id = t.new_id();
        let path = bundle.path().to_string_lossy().into_owned();
        bundle.args(["/bin/payload", "report"]).write()?;
        let report = t.runtime(["--cgroup-manager", "disabled", "run", "--bundle", &path, &id])?.ok()?.json()?;
        let lines: Vec<_> = own.lines().collect();
        assert_eq!(report["cgroup"], json!(lines));
        if t.differs("crun", "drops limits in silence") {
            return Ok(());
        }
        bundle.set("/linux/resources/pids", json!({"limit": 5})).write()?;
        t.runtime(["--cgroup-manager", "disabled", "run", "--bundle", &path, &id])?.exits(1)?.fails_with("cannot set pids limit")?;
        t.runtime(["--cgroup-manager", "none", "run", "--bundle", &path, &id])?.exits(1)?.fails_with("--cgroup-manager none")?;
        bundle.unset("/linux/resources/pids").args(["/bin/sleep"]);
        let mut container = Container::make(t, &bundle, "run", |c| _ = c.arg("--cgroup-manager=disabled"))?;
        container.command("ps")?.exits(1)?.fails_with("has no cgroup")?;
        container.exec(&[], ["/bin/payload", "exit", "3"])?.exits(3)?;
        container.exec(&["--cgroup", "x"], ["/bin/true"])?.exits(255)?.fails_with("has no cgroup")?;
        t.runtime(["kill", "--all", &container.id, "KILL"])?.ok()?;
        assert_eq!(container.wait()?, 137);
        container.delete()?.ok()?;
        Ok(())
    });
}

#[test]
fn a_log_service_that_is_not_there_is_an_error() {
    check(|t| {
        if t.differs("runc", "logs to files only") || t.differs("crun", "loses the log in silence") {
            return Ok(());
        }
        if Path::new("/run/systemd/journal/socket").exists() {
            return t.skip("there is a journal");
        }
        let output = t.runtime(["--log", "journald:x", "list"])?.exits(1)?;
        output.fails_with("open log journald:x: connect to /run/systemd/journal/socket: no such file or directory")?;
        Ok(())
    });
}

#[test]
fn exec_as_a_user_by_name() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        fs::write(bundle.rootfs("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n")?;
        fs::write(bundle.rootfs("etc/group"), "root:x:0:\nlogs:x:4:web\nwheel:x:10:root\n")?;
        let container = Container::start_of(t, &bundle)?;
        let ids = |user: &str| -> Result<String> {
            let report = container.exec_report(&["--user", user])?;
            Ok(format!("{} | {} | {}", report["uids"], report["gids"], report["groups"]))
        };
        assert_eq!(ids("33:34")?, r#""33 33 33 33" | "34 34 34 34" | []"#);
        if t.differs("runc", "takes numbers only") || t.differs("crun", "takes numbers only") {
            return Ok(());
        }
        assert_eq!(ids("web")?, r#""33 33 33 33" | "34 34 34 34" | [4]"#);
        assert_eq!(ids("web:wheel")?, r#""33 33 33 33" | "10 10 10 10" | []"#);
        assert_eq!(ids("7:logs")?, r#""7 7 7 7" | "4 4 4 4" | []"#);
        for (user, text) in [
            ("nobody", "bad uid: the container's /etc/passwd has no user nobody"),
            ("web:none", "bad gid: the container's /etc/group has no group none"),
            ("-1", "bad uid: \"-1\" is neither a number nor a name"),
            ("1000x", "bad uid: \"1000x\" is neither a number nor a name"),
        ] {
            container.exec(&["--user", user], ["/bin/true"])?.exits(255)?.fails_with(text)?;
        }
        // an image may contain any file there: a symbolic link that points outside, a fifo without a writer
        fs::remove_file(bundle.rootfs("etc/passwd"))?;
        symlink("../../../../../../../etc/shadow", bundle.rootfs("etc/passwd"))?;
        container.exec(&["--user", "root"], ["/bin/true"])?.exits(255)?.fails_with("read /etc/passwd of the container: no such file")?;
        fs::remove_file(bundle.rootfs("etc/passwd"))?;
        mknodat(CWD, bundle.rootfs("etc/passwd"), FileType::Fifo, Mode::from_raw_mode(0o666), 0)?;
        container.exec(&["--user", "root"], ["/bin/true"])?.exits(255)?.fails_with("not a regular file")?;
        Ok(())
    });
}

#[test]
fn a_terminal_is_refused_as_crun_callers_write_it() {
    check(|t| {
        let container = sleeper(t)?;
        if t.differs("runc", "takes true and false only") {
            return Ok(());
        }
        for flag in ["-tno", "--tty=no", "--tty=false"] {
            container.exec(&[flag], ["/bin/payload", "exit", "4"])?.exits(4)?;
        }
        Ok(())
    });
}

#[test]
fn long_flags_may_be_cut_short() {
    check(|t| {
        if t.differs("runc", "wants whole names") {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "exit", "5"]).write()?;
        let path = bundle.path().to_string_lossy().into_owned();
        t.runtime(["run", "--bund", &path, "--no-new-k", &t.new_id()])?.exits(5)?;
        Ok(())
    });
}

#[test]
fn several_cgroups_for_one_exec() {
    check(|t| {
        if t.differs("crun", "takes one path") {
            return Ok(());
        }
        if cgroups::unified() {
            return t.skip("needs v1");
        }
        let container = sleeper(t)?;
        let report = container.exec_report(&[])?;
        let text = report["cgroup"].to_string();
        ensure!(text.contains(&container.id), "{text}");
        container.exec(&["--cgroup", "memory:nosuch"], ["/bin/true"])?.exits(255)?;
        if !t.differs("runc<1.2", "lets the last of two win") {
            container.exec(&["--cgroup", "memory:a", "--cgroup", "memory:b"], ["/bin/true"])?.fails_with("specified multiple times")?;
        }
        Ok(())
    });
}

#[test]
fn a_config_by_another_name() {
    check(|t| {
        if t.differs("runc", "has no --config") {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "exit", "9"]).write()?;
        let (plain, other) = (bundle.path().join("config.json"), bundle.path().join("other.json"));
        fs::rename(&plain, &other)?;
        let path = bundle.path().to_string_lossy().into_owned();
        for flag in ["--config", "-f"] {
            t.runtime(["run", "--bundle", &path, flag, &other.to_string_lossy(), &t.new_id()])?.exits(9)?;
        }
        t.runtime(["run", "--bundle", &path, &t.new_id()])?.exits(1)?.fails_with("config.json")?;
        Ok(())
    });
}

/// The pid of the process whose pidfd arrives at `socket`.
fn pid_received(socket: &ConsoleSocket) -> Result<String> {
    let (fd, _) = socket.receive_with_payload()?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    Ok(info.lines().find_map(|line| line.strip_prefix("Pid:")).context("a pidfd")?.trim().to_owned())
}

#[test]
fn a_socket_gets_the_pidfd_of_init_and_of_an_exec() {
    check(|t| {
        if t.differs("crun", "has an annotation for it") || t.differs("runc<1.2", "has no --pidfd-socket") {
            return Ok(());
        }
        let path = t.path().join("pidfd.sock");
        let socket = ConsoleSocket::at(path.clone())?;
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let container = Container::make(t, &bundle, "create", |c| _ = c.arg("--pidfd-socket").arg(&path))?;
        assert_eq!(pid_received(&socket)?, container.pid.as_raw_nonzero().to_string());
        container.command("start")?.ok()?;
        let (path, pid_file) = (path.to_string_lossy(), t.path().join("pid"));
        container.exec(&["--detach", "--pid-file", &pid_file.to_string_lossy(), "--pidfd-socket", &path], ["/bin/true"])?.ok()?;
        let pid = fs::read_to_string(&pid_file)?;
        assert_eq!(pid_received(&socket)?, pid);
        waitpid(Pid::from_raw(pid.parse()?), WaitOptions::empty())?;
        container.exec(&["--pidfd-socket", "/nowhere"], ["/bin/true"])?.exits(255)?.fails_with("/nowhere")?;
        Ok(())
    });
}
