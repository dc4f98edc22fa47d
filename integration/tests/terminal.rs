//! Terminals, through the console socket and in the foreground on a pty.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use integration::terminal::{ConsoleSocket, Pty, read_until, resize, size};
use integration::{Bundle, Container, Test, check};
use rustix::process::{Pid, WaitOptions, waitpid};
use serde_json::{Value, json};

fn with_terminal(t: &Test, args: &[&str]) -> Result<Bundle> {
    let mut bundle = t.bundle()?;
    bundle.args(args).set("/process/terminal", json!(true));
    Ok(bundle)
}

/// The first line of JSON in the output of a terminal.
fn shown(text: &str) -> Result<Value> {
    let line = text.lines().find(|line| line.contains('{') && line.contains('}')).with_context(|| format!("a report in {text:?}"))?;
    let line = line.trim_start_matches(|c| c != '{').trim_end_matches(|c| c != '}');
    Ok(serde_json::from_str(line)?)
}

#[test]
fn by_the_console_socket() {
    check(|t| {
        let mut bundle = with_terminal(t, &["/bin/payload", "tty", "then", "sleep", "0.2"])?;
        bundle.set("/process/consoleSize", json!({"height": 33, "width": 99}));
        let socket = ConsoleSocket::at(t.path().join("tty.sock"))?;
        let mut container = Container::make(t, &bundle, "create", |command| {
            command.arg("--console-socket").arg(socket.path());
        })?;
        let mut console = socket.receive()?;
        assert_eq!(size(&console)?, (99, 33));
        container.start()?.ok()?;
        let text = read_until(&mut console, |text| text.contains('\n'))?;
        let seen = shown(&text)?;
        assert_eq!(seen["streams"], json!([true, true, true]));
        assert_eq!((&seen["columns"], &seen["rows"]), (&json!(99), &json!(33)));
        assert_eq!(seen["controlling"], true);
        assert_eq!(seen["name"], "/dev/pts/0");
        ensure!(seen["console"].as_str().is_some_and(|console| console.starts_with("c ") || console.starts_with("link ")), "{seen}");
        assert_eq!(container.wait()?, 0);
        Ok(())
    });
}

#[test]
fn its_owner_is_the_user() {
    check(|t| {
        let mut bundle = with_terminal(t, &["/bin/payload", "stat", "/dev/pts/0", "then", "sleep", "0.2"])?;
        bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
        let socket = ConsoleSocket::at(t.path().join("tty.sock"))?;
        let mut container = Container::make(t, &bundle, "run", |command| {
            command.arg("--console-socket").arg(socket.path());
        })?;
        let mut console = socket.receive()?;
        let text = read_until(&mut console, |text| text.contains('\n'))?;
        ensure!(text.contains(" 1000:5") || text.contains(" 1000:1000"), "{text}");
        container.wait()?;
        Ok(())
    });
}

#[test]
fn input_and_resize_reach_the_program() {
    check(|t| {
        let bundle = with_terminal(t, &["/bin/payload", "trap", "WINCH", "0", "then", "tty", "then", "cat"])?;
        let socket = ConsoleSocket::at(t.path().join("tty.sock"))?;
        let mut container = Container::make(t, &bundle, "run", |command| {
            command.arg("--console-socket").arg(socket.path());
        })?;
        let mut console = socket.receive()?;
        read_until(&mut console, |text| text.contains("ready"))?;
        resize(&console, 71, 17)?;
        let seen = shown(&read_until(&mut console, |text| text.contains("}"))?)?;
        assert_eq!((&seen["columns"], &seen["rows"]), (&json!(71), &json!(17)));
        // a line, and the terminal's end-of-file character
        console.write_all(b"typed\n\x04")?;
        let text = read_until(&mut console, |text| text.matches("typed").count() == 2)?;
        ensure!(text.matches("typed").count() == 2, "echo and output: {text:?}");
        assert_eq!(container.wait()?, 0);
        Ok(())
    });
}

#[test]
fn detached_without_a_socket_and_a_socket_without_a_terminal_are_refused() {
    check(|t| {
        let bundle = with_terminal(t, &["/bin/true"])?;
        bundle.write()?;
        let path = bundle.path().to_string_lossy().into_owned();
        t.runtime(["create", "--bundle", &path, &t.new_id()])?.fails_with("")?;
        let socket = ConsoleSocket::at(t.path().join("tty.sock"))?;
        let plain = t.bundle()?;
        plain.write()?;
        let path = plain.path().to_string_lossy().into_owned();
        let socket = socket.path().to_string_lossy().into_owned();
        let id = t.new_id();
        let output = t.runtime(["create", "--console-socket", &socket, "--bundle", &path, &id])?;
        if t.differs("crun", "ignores a console socket that is not needed") {
            t.runtime(["delete", "--force", &id])?.ok()?;
            return Ok(());
        }
        output.fails_with("console")?;
        Ok(())
    });
}

/// Runs the runtime with `words` in the foreground, with `pty` as its controlling terminal.
fn on(t: &Test, pty: &Pty, words: &[&str]) -> Result<std::process::Child> {
    let mut command = t.launched(&["session", "terminal"], words)?;
    command.stdin(pty.terminal.try_clone()?).stdout(pty.terminal.try_clone()?).stderr(Stdio::from(pty.terminal.try_clone()?));
    Ok(command.spawn()?)
}

#[test]
fn in_the_foreground_on_a_pty() {
    check(|t| {
        let bundle = with_terminal(t, &["/bin/payload", "tty", "then", "say", "ready", "then", "cat", "then", "exit", "9"])?;
        bundle.write()?;
        let path = bundle.path().to_string_lossy().into_owned();
        let Pty { mut controller, terminal } = Pty::open(101, 31)?;
        let pty = Pty { controller: controller.try_clone()?, terminal };
        let mut child = on(t, &pty, &["run", "--bundle", &path, &t.new_id()])?;
        drop(pty.terminal);
        let text = read_until(&mut controller, |text| text.contains("ready"))?;
        let seen = shown(&text)?;
        assert_eq!(seen["streams"], json!([true, true, true]));
        let late = t.differs("crun", "sets the size after the program has started");
        if !(late || t.differs("runc", "may set the size after the program has started")) {
            assert_eq!((&seen["columns"], &seen["rows"]), (&json!(101), &json!(31)));
        }
        controller.write_all(b"typed\n\x04")?;
        let text = read_until(&mut controller, |text| text.matches("typed").count() == 2)?;
        // the outer terminal is raw meanwhile, so only the inner one echoes
        assert_eq!(text.matches("typed").count(), 2, "{text:?}");
        assert_eq!(integration::runtime::wait(&mut child)?.code(), Some(9));
        Ok(())
    });
}

#[test]
fn a_resize_of_the_callers_terminal_is_passed_on() {
    check(|t| {
        let bundle = with_terminal(t, &["/bin/payload", "trap", "WINCH", "0", "then", "tty", "then", "say", "done"])?;
        bundle.write()?;
        let path = bundle.path().to_string_lossy().into_owned();
        let Pty { mut controller, terminal } = Pty::open(80, 24)?;
        let pty = Pty { controller: controller.try_clone()?, terminal };
        let mut child = on(t, &pty, &["run", "--bundle", &path, &t.new_id()])?;
        drop(pty.terminal);
        read_until(&mut controller, |text| text.contains("ready"))?;
        resize(&controller, 55, 44)?;
        let seen = shown(&read_until(&mut controller, |text| text.contains("done"))?)?;
        assert_eq!((&seen["columns"], &seen["rows"]), (&json!(55), &json!(44)));
        assert_eq!(integration::runtime::wait(&mut child)?.code(), Some(0));
        Ok(())
    });
}

#[test]
fn exec_with_a_terminal() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let container = Container::start_of(t, &bundle)?;
        let socket = ConsoleSocket::at(t.path().join("tty.sock"))?;
        let path = socket.path().to_string_lossy().into_owned();
        let pid_file = t.path().join("pid").to_string_lossy().into_owned();
        let flags = ["--tty", "--detach", "--console-socket", &path, "--pid-file", &pid_file];
        container.exec(&flags, ["/bin/payload", "tty", "then", "sleep", "0.2"])?.ok()?;
        let mut console = socket.receive()?;
        let seen = shown(&read_until(&mut console, |text| text.contains('\n'))?)?;
        assert_eq!(seen["streams"], json!([true, true, true]));
        assert_eq!(seen["controlling"], true);
        // the test, its parent, must reap it before init can end
        let pid = Pid::from_raw(std::fs::read_to_string(&pid_file)?.parse()?).context("a pid")?;
        waitpid(Some(pid), WaitOptions::empty())?;
        // in the foreground, on the caller's pty
        let Pty { mut controller, terminal } = Pty::open(90, 20)?;
        let pty = Pty { controller: controller.try_clone()?, terminal };
        let mut child = on(t, &pty, &["exec", "-t", &container.id, "/bin/payload", "tty", "then", "exit", "4"])?;
        drop(pty.terminal);
        let seen = shown(&read_until(&mut controller, |text| text.contains('\n'))?)?;
        let late = t.differs("crun", "sets the size after the program has started");
        if !(late || t.differs("runc", "may set the size after the program has started")) {
            assert_eq!((&seen["columns"], &seen["rows"]), (&json!(90), &json!(20)));
        }
        assert_eq!(integration::runtime::wait(&mut child)?.code(), Some(4));
        Ok(())
    });
}

#[test]
fn exec_without_a_terminal_is_not_given_one() {
    check(|t| {
        let bundle = with_terminal(t, &["/bin/sleep"])?;
        let socket = ConsoleSocket::at(t.path().join("tty.sock"))?;
        let container = Container::make(t, &bundle, "run", |command| {
            command.arg("--console-socket").arg(socket.path());
        })?;
        let _console = socket.receive()?;
        let seen = container.exec_report(&[])?;
        assert_eq!(seen["terminal"]["streams"], json!([false, false, false]));
        Ok(())
    });
}

#[test]
fn sec_tty_1_false_terminals_in_the_rootfs() {
    check(|t| {
        let mut bundle = with_terminal(t, &["/bin/payload", "tty", "then", "sleep", "0.2"])?;
        bundle.unmount("/dev").unmount("/dev/pts").unmount("/dev/shm").unmount("/dev/mqueue");
        let target = bundle.rootfs("etc/target");
        std::fs::write(&target, "marker")?;
        std::fs::create_dir(bundle.rootfs("dev/pts"))?;
        for name in ["dev/console", "dev/pts/0", "dev/pts/ptmx", "dev/ptmx"] {
            std::os::unix::fs::symlink("/etc/target", bundle.rootfs(name))?;
        }
        let socket = ConsoleSocket::at(t.path().join("tty.sock"))?;
        // running and refusing are both right
        if let Ok(mut container) = Container::make(t, &bundle, "run", |command| _ = command.arg("--console-socket").arg(socket.path())) {
            container.wait()?;
        }
        assert_eq!(std::fs::read_to_string(&target)?, "marker");
        Ok(())
    });
}
