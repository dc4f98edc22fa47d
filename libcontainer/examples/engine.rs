//! An engine with tokio. The library makes containers only in a process with one thread. So the engine forks a worker before its
//! runtime starts threads. The worker makes the containers, and the engine awaits the answers.
//!
//! ```text
//! engine STATE-ROOT BUNDLE ID...
//! ```
//!
//! The worker runs one container of the bundle for each id, one after the other. The engine prints the result of each. To run
//! several at once, the worker would fork again for each request, as containerd-shim-masu-v2 does.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use libcontainer::{CreateOptions, Error, Kind, Result, Runtime};
use masu_host::sys::clone::{Side, clone3};
use masu_host::sys::exec::exit;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, root, bundle, ids @ ..] = args.as_slice() else {
        println!("engine STATE-ROOT BUNDLE ID...");
        return Ok(());
    };
    let (ours, theirs) = UnixStream::pair()?;
    // the process still has one thread
    match clone3(0, None)? {
        Side::Child => {
            drop(ours);
            exit(i32::from(work(&Runtime::new(root), bundle, &theirs).is_err()))
        }
        Side::Parent { .. } => drop(theirs),
    }
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    threads.block_on(ask(ours, ids))
}

/// The worker: it reads lines with an id, and writes a line with the result of each.
fn work(runtime: &Runtime, bundle: &str, engine: &UnixStream) -> Result<()> {
    for id in BufReader::new(engine).lines() {
        let id = id?;
        let answer = match run(runtime, bundle, &id) {
            Ok(code) => format!("{id} ended with {code}\n"),
            Err(e) => format!("{id} failed: {e}\n"),
        };
        (&mut &*engine).write_all(answer.as_bytes())?;
    }
    Ok(())
}

fn run(runtime: &Runtime, bundle: &str, id: &str) -> Result<u8> {
    let (mut container, init) = runtime.create(id, &CreateOptions::new(bundle))?;
    let code = container.start().and_then(|()| init.wait());
    container.delete(true)?;
    Ok(code?.code())
}

/// The engine: it has threads, sends requests to the worker and awaits the answers.
async fn ask(worker: UnixStream, ids: &[String]) -> Result<()> {
    worker.set_nonblocking(true)?;
    let (answers, mut requests) = tokio::net::UnixStream::from_std(worker)?.into_split();
    let mut answers = tokio::io::BufReader::new(answers).lines();
    for id in ids {
        requests.write_all(format!("{id}\n").as_bytes()).await?;
        let answer = answers.next_line().await?;
        println!("{}", answer.ok_or_else(|| Error::new(Kind::Internal, "the worker is gone"))?);
    }
    Ok(())
}
