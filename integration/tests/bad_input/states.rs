//! Commands in a container status in which they are wrong, or seem wrong. Callers match runc's texts.

use anyhow::{Result, ensure};
use integration::{Container, Test, check};

/// A command and its answer. ID stands for the container's id.
struct Command {
    words: &'static [&'static str],
    code: i32,
    text: &'static str,
    crun: (i32, &'static str),
}

const fn command(words: &'static [&'static str], code: i32, text: &'static str, crun: (i32, &'static str)) -> Command {
    Command { words, code, text, crun }
}

fn all(t: &Test, id: &str, commands: &[Command]) -> Result<()> {
    let mut wrong = Vec::new();
    for command in commands {
        let output = t.runtime(command.words.iter().map(|word| if *word == "ID" { id } else { word }))?;
        let (code, text) = if t.runtime.is("crun") { command.crun } else { (command.code, command.text) };
        let said = output.stderr.trim();
        // crun has several exit codes for one failure, and old versions of runc have other texts
        let other = t.runtime.is("crun") || t.runtime.is("runc<1.2");
        let as_expected = if other && code != 0 { !output.status.success() } else { output.status.code() == Some(code) };
        if !as_expected || !(said.contains(text) || t.runtime.is("runc<1.2")) {
            wrong.push(format!("{:?}: {}: {said}", command.words, output.status));
        }
        if t.runtime.kind == "masu" && code != 0 {
            ensure!(said.lines().count() <= 1, "{:?}: not one line: {said}", command.words);
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn sleeper(t: &Test) -> Result<Container<'_>> {
    let mut bundle = t.bundle()?;
    bundle.args(["/bin/sleep"]);
    Container::start_of(t, &bundle)
}

#[test]
fn of_no_container() {
    check(|t| {
        let gone = "container does not exist";
        let crun = (1, "does not exist");
        all(
            t,
            &t.new_id(),
            &[
                command(&["state", "ID"], 1, gone, crun),
                command(&["start", "ID"], 1, gone, crun),
                command(&["kill", "ID"], 1, gone, crun),
                command(&["pause", "ID"], 1, gone, crun),
                command(&["resume", "ID"], 1, gone, crun),
                command(&["update", "--pids-limit", "5", "ID"], 1, gone, crun),
                command(&["ps", "ID"], 1, gone, crun),
                // exec fails with 255 for every reason; crun has the same code for all commands
                command(&["exec", "ID", "/bin/true"], 255, gone, (1, "does not exist")),
                command(&["delete", "ID"], 1, gone, (1, "")),
                command(&["delete", "--force", "ID"], 0, "", (0, "")),
            ],
        )
    });
}

#[test]
fn of_a_created_one() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let mut container = Container::create(t, &bundle)?;
        all(
            t,
            &container.id,
            &[
                command(&["exec", "ID", "/bin/payload", "exit", "4"], 4, "", (4, "")),
                command(&["kill", "ID", "0"], 0, "", (0, "")),
                command(&["kill", "ID", "BOGUS"], 1, "unknown signal", (1, "unknown signal")),
            ],
        )?;
        container.delete_by_force()?.ok()?;
        Ok(())
    });
}

#[test]
fn of_a_running_one() {
    check(|t| {
        let container = sleeper(t)?;
        all(
            t,
            &container.id,
            &[
                command(&["start", "ID"], 1, "cannot start an already running container", (1, "")),
                command(&["delete", "ID"], 1, "that is not stopped: running", (1, "is not in `created` or `stopped` state")),
                command(&["kill", "ID", "BOGUS"], 1, "unknown signal", (1, "unknown signal")),
                command(&["kill", "ID", "99"], 1, "invalid argument", (1, "Invalid argument")),
                command(&["exec", "ID", "/no/such"], 255, "stat /no/such: no such file or directory", (1, "/no/such")),
                command(&["exec", "ID", "/etc/hostname"], 255, "", (1, "")),
                command(&["exec", "--cwd", "/nope", "ID", "/bin/true"], 255, "set in config.json failed: no such file", (1, "chdir")),
                command(&["exec", "--user", "a:b", "ID", "/bin/true"], 255, "", (1, "")),
                command(&["exec", "ID", "/bin/payload", "raise", "KILL"], 137, "", (137, "")),
            ],
        )
    });
}

#[test]
fn of_a_paused_one() {
    check(|t| {
        let container = sleeper(t)?;
        container.command("resume")?.exits(if t.runtime.is("crun") { 0 } else { 1 })?;
        container.command("pause")?.ok()?;
        all(
            t,
            &container.id,
            &[
                command(
                    &["exec", "ID", "/bin/true"],
                    255,
                    "cannot exec in a paused container (use --ignore-paused to override)",
                    (1, "paused"),
                ),
                command(&["pause", "ID"], 1, "container not running", (0, "")),
                command(&["delete", "ID"], 1, "that is not stopped: paused", (1, "")),
                command(&["start", "ID"], 1, "", (1, "")),
                command(&["resume", "ID"], 0, "", (0, "")),
            ],
        )
    });
}

#[test]
fn of_a_stopped_one() {
    check(|t| {
        let mut container = sleeper(t)?;
        container.kill("KILL")?.ok()?;
        container.wait()?;
        let running = "container not running";
        all(
            t,
            &container.id,
            &[
                command(&["start", "ID"], 1, "cannot start a container that has stopped", (1, "not running")),
                command(&["kill", "ID"], 1, running, (1, "No such process")),
                command(&["kill", "ID", "0"], 1, running, (1, "No such process")),
                command(&["exec", "ID", "/bin/true"], 255, "cannot exec in a stopped container", (1, "is not running")),
                command(&["pause", "ID"], 1, running, (1, "not running")),
                command(&["resume", "ID"], 1, "container not paused", (1, "not running")),
            ],
        )
    });
}
