//! The examples of libcontainer: programs that use the library without masu.

use std::process::Command;

use anyhow::{Result, ensure};
use integration::{Container, Output, Test, artifacts, cgroups, check};
use serde_json::json;

#[test]
fn a_program_runs_a_container_with_descriptors_of_its_own() {
    check(|t| {
        if !t.runtime.is("masu") {
            return t.skip("the library is masu's");
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "say", "from init", "then", "sleep"]).write()?;
        let id = t.new_id();
        let mut command = Command::new(artifacts::example("lifecycle")?);
        command.arg(t.root()).arg(bundle.path()).args([&id, "/bin/payload", "say", "from exec", "then", "exit", "3"]);
        let output = t.run_command(command)?.ok()?;
        let expected = [
            format!("{id} is running"),
            "the program wrote \"from exec\\n\" and ended with 3".to_owned(),
            "the container wrote \"from init\\n\" and ended with 137".to_owned(),
        ];
        ensure!(output.stdout.lines().eq(expected), "{}", output.stdout);
        // a failure in the container removes the container
        let mut command = Command::new(artifacts::example("lifecycle")?);
        command.arg(t.root()).arg(bundle.path()).args([&t.new_id(), "/no/such/program"]);
        t.run_command(command)?.exits(1)?.fails_with("no such file or directory")?;
        Ok(())
    });
}

/// Runs the example `name` with the state root, then `words`.
fn example(t: &Test, name: &str, words: &[&str]) -> Result<Output> {
    let mut command = Command::new(artifacts::example(name)?);
    command.arg(t.root()).args(words);
    t.run_command(command)?.ok()
}

#[test]
fn a_program_keeps_the_terminal_of_a_container() {
    check(|t| {
        if !t.runtime.is("masu") {
            return t.skip("the library is masu's");
        }
        let mut bundle = t.bundle()?;
        bundle.set("/process/terminal", json!(true)).args(["/bin/payload", "say", "on a terminal", "then", "exit", "4"]).write()?;
        let output = example(t, "terminal", &[&bundle.path().to_string_lossy(), &t.new_id()])?;
        ensure!(output.stdout.contains("on a terminal") && output.stdout.ends_with("it ended with 4\n"), "{}", output.stdout);
        Ok(())
    });
}

#[test]
fn a_program_watches_a_container_until_its_end() {
    check(|t| {
        if !t.runtime.is("masu") {
            return t.skip("the library is masu's");
        }
        if !cgroups::has("memory") {
            return t.skip("needs the memory controller");
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "sleep", "2"]);
        // built before the container runs, because building takes long
        artifacts::example("watch")?;
        let mut container = Container::start_of(t, &bundle)?;
        let output = example(t, "watch", &[&container.id, "50"])?;
        let lines: Vec<_> = output.stdout.lines().collect();
        ensure!(lines.len() > 2 && lines.last().is_some_and(|line| line.ends_with("has ended")), "{}", output.stdout);
        ensure!(lines.iter().rev().skip(1).all(|line| line.starts_with("memory ") && line.ends_with(" ns")), "{}", output.stdout);
        container.wait()?;
        Ok(())
    });
}

/// The library refuses a process with threads, so such an engine makes containers in a worker process.
#[test]
fn an_engine_with_threads_makes_containers_in_a_worker() {
    check(|t| {
        if !t.runtime.is("masu") {
            return t.skip("the library is masu's");
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "exit", "7"]).write()?;
        let ids = [t.new_id(), t.new_id()];
        let output = example(t, "engine", &[&bundle.path().to_string_lossy(), &ids[0], &ids[1]])?;
        ensure!(output.stdout == format!("{} ended with 7\n{} ended with 7\n", ids[0], ids[1]), "{}", output.stdout);
        Ok(())
    });
}
