//! The whole life of a container in one program. The container is created with a pipe as its standard output and started. A
//! second process is executed in it. Then the container is killed and deleted.
//!
//! ```text
//! lifecycle STATE-ROOT BUNDLE ID PROGRAM [ARGUMENT...]
//! ```
//!
//! The program of config.json must write a line of text and run until it is killed. PROGRAM is executed beside it. The example
//! prints their output and exit codes. If the container's programs are not trusted, a caller must first seal its own executable:
//! see `masu_host::sealed_exe`.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, pipe};

use libcontainer::{Container, CreateOptions, ExecOptions, Result, Runtime, Stdio};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, root, bundle, id, program @ ..] = args.as_slice() else {
        println!("lifecycle STATE-ROOT BUNDLE ID PROGRAM [ARGUMENT...]");
        return Ok(());
    };
    let (output, theirs) = pipe()?;
    let null = || File::open("/dev/null");
    let mut options = CreateOptions::new(bundle);
    options.stdio = Stdio { stdin: Some(null()?.into()), stdout: Some(theirs.into()), stderr: None };
    let (mut container, init) = Runtime::new(root).create(id, &options)?;
    // closes this process's copy of the write end, because otherwise the pipe has no end of file
    drop(options);
    let result = in_container(&mut container, program);
    if result.is_err() {
        container.delete(true)?;
        return result;
    }

    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    container.kill(libc::SIGKILL, false)?;
    let exit = init.wait()?;
    container.delete(false)?;
    println!("the container wrote {line:?} and ended with {}", exit.code());
    Ok(())
}

fn in_container(container: &mut Container, program: &[String]) -> Result<()> {
    container.start()?;
    println!("{} is {}", container.record().id, container.status()?);
    let (mut output, theirs) = pipe()?;
    let mut options = ExecOptions::new(program);
    options.stdio.stdout = Some(theirs.into());
    let process = container.exec(&options)?;
    drop(options);
    let mut text = String::new();
    output.read_to_string(&mut text)?;
    println!("the program wrote {text:?} and ended with {}", process.wait()?.code());
    Ok(())
}
