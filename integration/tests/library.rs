//! The library in a program that is not masu: the example of libcontainer.

use integration::{artifacts, check};
use std::process::Command;

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
        anyhow::ensure!(output.stdout.lines().eq(expected), "{}", output.stdout);
        // a failure in the container takes it away
        let mut command = Command::new(artifacts::example("lifecycle")?);
        command.arg(t.root()).arg(bundle.path()).args([&t.new_id(), "/no/such/program"]);
        t.run_command(command)?.exits(1)?.fails_with("no such file or directory")?;
        Ok(())
    });
}
