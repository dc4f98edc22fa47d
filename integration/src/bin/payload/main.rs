//! The program that runs inside the containers of the tests (and, as `launch` and `hook`, beside the runtime): static, no
//! shell, no library needed. What it is asked to do stands in its arguments, steps separated by `then`; the exit code is
//! that of the last step, and a step that fails with an error ends it with 99.
//!
//! Under the names `true`, `false` and `sleep` it is those programs.
#![expect(clippy::print_stdout, reason = "it talks to the test by its standard output")]

mod files;
mod launch;
mod report;
mod spy;
mod steps;

use std::env;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = env::args_os();
    let name = args.next().unwrap_or_default();
    let mut args: Vec<OsString> = args.collect();
    match name.as_bytes().rsplit(|&byte| byte == b'/').next().unwrap_or_default() {
        b"true" => return ExitCode::SUCCESS,
        b"false" => return ExitCode::FAILURE,
        b"sleep" => args.insert(0, "sleep".into()),
        _ => {}
    }
    let mut code = 0;
    // what launch executes may be steps again
    let whole = args.first().is_some_and(|word| word == "launch");
    for step in args.split(|word| word == "then" && !whole) {
        match steps::run(step) {
            Ok(ended) => code = ended,
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "payload: {}: {error:#}", step.join(" ".as_ref()).to_string_lossy());
                return ExitCode::from(99);
            }
        }
    }
    ExitCode::from(code)
}
