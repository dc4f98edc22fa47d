//! A container with a terminal. The example prints the output of the terminal until the container's process ends.
//!
//! ```text
//! terminal STATE-ROOT BUNDLE ID
//! ```
//!
//! The config must ask for a terminal (`process.terminal`). The example keeps the master side and copies its output. It could
//! also write input to it, or set its size (TIOCSWINSZ).
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::fs::File;
use std::io::{Read, Write};

use libcontainer::{CreateOptions, Error, Kind, Result, Runtime};
use rustix::io::Errno;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, root, bundle, id] = args.as_slice() else {
        println!("terminal STATE-ROOT BUNDLE ID");
        return Ok(());
    };
    let mut options = CreateOptions::new(bundle);
    options.keeps_terminal = true;
    let (mut container, mut init) = Runtime::new(root).create(id, &options)?;
    let result = container.start().and_then(|()| match init.terminal.take() {
        Some(terminal) => copy(File::from(terminal)),
        None => Err(Error::new(Kind::InvalidSpec, "process.terminal: the config asks for no terminal")),
    });
    if result.is_err() {
        container.delete(true)?;
        return result;
    }
    let exit = init.wait()?;
    container.delete(false)?;
    println!("it ended with {}", exit.code());
    Ok(())
}

/// Copies the output until no process has the slave side open.
fn copy(mut terminal: File) -> Result<()> {
    let mut page = [0; 4096];
    loop {
        match terminal.read(&mut page) {
            Ok(0) => return Ok(()),
            Ok(n) => std::io::stdout().write_all(page.get(..n).unwrap_or_default())?,
            // the end of file of a terminal (pty(7))
            Err(e) if e.raw_os_error() == Some(Errno::IO.raw_os_error()) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}
