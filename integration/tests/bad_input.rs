//! Bad input, in tables: configs that are broken, contradictory, or refer to missing things. A row that fails must exit with code
//! 1, print one line that names the mistake, and leave nothing on the host. A row that runs must run. The row notes where another
//! runtime is known to differ.

#[path = "bad_input/hooks.rs"]
mod hooks;
#[path = "bad_input/identifiers.rs"]
mod identifiers;
#[path = "bad_input/linux.rs"]
mod linux;
#[path = "bad_input/mounts.rs"]
mod mounts;
#[path = "bad_input/namespaces.rs"]
mod namespaces;
#[path = "bad_input/process.rs"]
mod process;
#[path = "bad_input/rare.rs"]
mod rare;
#[path = "bad_input/resources.rs"]
mod resources;
#[path = "bad_input/root.rs"]
mod root;
#[path = "bad_input/seccomp.rs"]
mod seccomp;
#[path = "bad_input/states.rs"]
mod states;
#[path = "bad_input/text.rs"]
mod text;
#[path = "bad_input/types.rs"]
mod types;

use std::fs::OpenOptions;
use std::io::Write;

use anyhow::{Context, Result, ensure};
use integration::runtime::{finish, redirect};
use integration::{Bundle, Output, Test};

/// One bad input.
struct Row {
    /// The number: `BAD-007` is 7.
    number: u16,
    case: &'static str,
    ours: Ours,
    /// The runtimes that behave otherwise, and how.
    but: &'static [(&'static str, &'static str)],
    edit: fn(&mut Bundle),
}

/// The right behaviour of a runtime.
enum Ours {
    /// Refuse. The error contains one of these texts, split by `|`.
    Fails(&'static str),
    /// Run it, perhaps with a warning.
    Runs,
}

const fn fails(number: u16, case: &'static str, named: &'static str, edit: fn(&mut Bundle)) -> Row {
    Row { number, case, ours: Ours::Fails(named), but: &[], edit }
}

const fn runs(number: u16, case: &'static str, edit: fn(&mut Bundle)) -> Row {
    Row { number, case, ours: Ours::Runs, but: &[], edit }
}

impl Row {
    const fn but(mut self, but: &'static [(&'static str, &'static str)]) -> Self {
        self.but = but;
        self
    }
}

/// Runs all rows, and then reports the failures of all of them.
fn table(t: &Test, rows: &[Row]) -> Result<()> {
    if t.differs("crun", "takes much of what is bad, and mounts on the host where there is no mount namespace") {
        return Ok(());
    }
    let mut wrong = Vec::new();
    for row in rows {
        let case = format!("BAD-{:03} {}", row.number, row.case);
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "exit", "7"]);
        (row.edit)(&mut bundle);
        let output = t.run(&bundle).with_context(|| case.clone())?;
        tell(t, row, &case, &output)?;
        let judged = judge(t, &row.ours, &output);
        let differs = row.but.iter().any(|(which, what)| t.differs(which, &format!("{case}: {what}")));
        match judged {
            Err(error) if !differs => wrong.push(format!("{case}: {error:#}")),
            Ok(()) if differs => wrong.push(format!("{case}: the difference is gone")),
            _ => {}
        }
    }
    ensure!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    Ok(())
}

/// Appends to the file `$BAD_INPUT_TABLE` how this runtime and the peers of `$PEERS` treat the row, for people to compare. Some
/// peers react to a bad config by mounting on the host or by killing other processes, so use a machine that may suffer.
fn tell(t: &Test, row: &Row, case: &str, ours: &Output) -> Result<()> {
    let Some(file) = std::env::var_os("BAD_INPUT_TABLE") else { return Ok(()) };
    let said = |output: &Output| {
        let last = output.stderr.trim().lines().last().unwrap_or_default().replace('|', "\\|");
        format!("{} {}", output.status.code().unwrap_or(-1), last.chars().take(200).collect::<String>())
    };
    let mut line = format!("| {case} | {} |", said(ours));
    for peer in integration::compare::peers()? {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "exit", "7"]);
        (row.edit)(&mut bundle);
        bundle.write()?;
        let root = t.path().join("peer");
        let (stem, id) = (t.path().join("peer-output"), t.new_id());
        let mut command = std::process::Command::new(&peer.path);
        command.arg("--root").arg(&root).args(["run", "--bundle"]).arg(bundle.path()).arg(&id);
        redirect(&mut command, &stem)?;
        line += &format!(" {} |", said(&finish(&mut command, &stem)?));
        integration::host::remove_empty_cgroups(&id);
    }
    writeln!(OpenOptions::new().append(true).create(true).open(file)?, "{line}")?;
    Ok(())
}

fn judge(t: &Test, ours: &Ours, output: &Output) -> Result<()> {
    let code = output.status.code();
    match ours {
        Ours::Runs => ensure!(code == Some(7), "{} instead of 7: {}", output.status, output.stderr.trim()),
        Ours::Fails(named) => {
            ensure!(code.is_some_and(|code| code != 0 && code != 7), "{}: it ran; {}", output.status, output.stderr.trim());
            if t.runtime.kind == "masu" {
                // when execve fails, init itself reports it with runc's exit code and text, because no other process is left
                let expected = if output.stderr.starts_with("exec /") { 255 } else { 1 };
                ensure!(code == Some(expected), "{} instead of exit code {expected}: {}", output.status, output.stderr.trim());
                ensure!(output.stderr.trim().lines().count() == 1, "not one line: {:?}", output.stderr);
                let text = output.stderr.to_lowercase();
                ensure!(
                    named.split('|').any(|part| text.contains(&part.to_lowercase())),
                    "none of {named:?} is named: {}",
                    output.stderr.trim()
                );
            }
        }
    }
    Ok(())
}
