//! The program inside the tests' containers, and on the host as `launch` and `hook`. It is static and needs no shell and no
//! library. Its arguments are steps, separated by `then`. The exit code is that of the last step, or 99 after a step that fails.
//!
//! Under the names `true`, `false` and `sleep` it acts as those programs.
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
    // the program that launch executes may have steps too
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
