//! The steps that a test can ask for. Each is a word with its operands.

use std::ffi::OsString;
use std::io::{Read, Write, stdin, stdout};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use integration::sys;
use nix::sys::signal::{SigSet, Signal};
use rustix::io::Errno;

use crate::spy::spy;
use crate::{files, launch, report};

/// Runs one step: its word, then its operands. The result is the exit code if the step is the last one.
pub(crate) fn run(step: &[OsString]) -> Result<u8> {
    let words: Vec<_> = step.iter().map(|word| word.to_string_lossy()).collect();
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match words.as_slice() {
        [] | ["true"] => {}
        ["report"] => println!("{}", serde_json::Value::Object(report::everything())),
        ["say", text] => println!("{text}"),
        ["complain", text] => writeln!(std::io::stderr(), "{text}")?,
        ["exit", code] => return Ok(code.parse()?),
        ["sleep"] => sleep("100000")?,
        ["sleep", seconds] => sleep(seconds)?,
        ["cat"] => {
            let mut text = Vec::new();
            stdin().read_to_end(&mut text)?;
            stdout().write_all(&text)?;
        }
        ["spin", seconds] => {
            let end = Instant::now() + Duration::from_secs_f64(seconds.parse()?);
            while Instant::now() < end {}
        }
        ["trap", signal, code] => return trap(signal, code.parse()?),
        ["deaf", signal] => {
            Signal::from_name(signal)?.block()?;
            println!("ready");
        }
        ["raise", signal] => rustix::process::kill_process(rustix::process::getpid(), signal_number(signal)?)?,
        ["children", count] => children(count.parse()?)?,
        ["alloc", mebibytes] => alloc(mebibytes.parse()?),
        ["burn", milliseconds] => burn(Duration::from_millis(milliseconds.parse()?))?,
        ["tty"] => println!("{}", report::terminal()),
        // sd_notify(3)
        ["notify", text] => {
            let socket = std::env::var_os("NOTIFY_SOCKET").context("no NOTIFY_SOCKET")?;
            std::os::unix::net::UnixDatagram::unbound()?.send_to(text.as_bytes(), socket)?;
        }
        ["call", number, arguments @ ..] => call(number, arguments)?,
        ["launch", options @ ..] => launch::launch(options)?,
        ["spy", seconds] => spy(seconds)?,
        ["hook", file, operands @ ..] => return launch::hook(file, operands),
        [word, operands @ ..] => files::run(word, operands)?,
    }
    Ok(0)
}

fn sleep(seconds: &str) -> Result<()> {
    stdout().flush()?;
    std::thread::sleep(Duration::from_secs_f64(seconds.parse()?));
    Ok(())
}

trait Named: Sized {
    fn from_name(name: &str) -> Result<Self>;
    fn block(self) -> Result<()>;
}

impl Named for Signal {
    fn from_name(name: &str) -> Result<Self> {
        format!("SIG{name}").parse().ok().with_context(|| format!("no signal {name}"))
    }

    fn block(self) -> Result<()> {
        let mut set = SigSet::empty();
        set.add(self);
        set.thread_block().context("block a signal")
    }
}

fn signal_number(name: &str) -> Result<rustix::process::Signal> {
    rustix::process::Signal::from_named_raw(Signal::from_name(name)? as i32).context("no such signal")
}

/// Prints `ready`, waits for `signal`, prints `got NAME` and returns `code`. The signal is blocked, because the kernel drops
/// unblocked ones without a handler for the first process of a pid namespace.
fn trap(signal: &str, code: u8) -> Result<u8> {
    let mut set = SigSet::empty();
    for name in signal.split(',') {
        set.add(Signal::from_name(name)?);
    }
    set.thread_block()?;
    println!("ready");
    stdout().flush()?;
    let got = set.wait()?;
    println!("got {}", got.as_str().trim_start_matches("SIG"));
    Ok(code)
}

/// Leaves `count` sleeping processes behind.
fn children(count: u32) -> Result<()> {
    for _ in 0..count {
        Command::new(std::env::current_exe()?).args(["sleep", "100000"]).spawn().context("start a child")?;
    }
    println!("ready");
    Ok(())
}

/// Touches `mebibytes` of memory step by step, and keeps it until the step ends.
fn alloc(mebibytes: usize) {
    let mut kept = Vec::new();
    for _ in 0..mebibytes {
        kept.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
    println!("allocated {}", kept.len());
}

/// Keeps a CPU busy for the given wall-clock time, and prints the processor time used in milliseconds.
fn burn(time: Duration) -> Result<()> {
    let had = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        time.tv_sec * 1000 + time.tv_nsec / 1_000_000
    };
    let (begin, before) = (Instant::now(), had());
    while begin.elapsed() < time {
        std::hint::spin_loop();
    }
    println!("{}", had() - before);
    stdout().flush()?;
    Ok(())
}

/// Makes a system call, by name for the calls in the tests' filters. Prints `ok` or the name of the errno. Arguments are numbers,
/// never addresses of our memory.
fn call(name: &str, arguments: &[&str]) -> Result<()> {
    let number = match name {
        "getpid" => libc::SYS_getpid,
        "getppid" => libc::SYS_getppid,
        "chmod" => libc::SYS_fchmodat,
        "mkdir" => libc::SYS_mkdirat,
        "personality" => libc::SYS_personality,
        "socket" => libc::SYS_socket,
        "sync" => libc::SYS_sync,
        "clone3" => libc::SYS_clone3,
        "unshare" => libc::SYS_unshare,
        "keyctl" => libc::SYS_keyctl,
        "kexec_load" => libc::SYS_kexec_load,
        "uname" => libc::SYS_uname,
        number => number.parse().context("name or number of a system call")?,
    };
    let mut values = [0; 5];
    if arguments.len() > values.len() {
        bail!("too many arguments");
    }
    for (value, text) in values.iter_mut().zip(arguments) {
        let number: i64 = text.parse()?;
        *value = number.cast_unsigned();
    }
    match sys::call(number, values) {
        Ok(_) => println!("ok"),
        Err(error) => println!("{}", errno_name(&error)),
    }
    stdout().flush()?;
    Ok(())
}

/// The name of an errno in the tests, else its number.
pub(crate) fn errno_name(error: &std::io::Error) -> String {
    let number = error.raw_os_error().unwrap_or_default();
    match nix::errno::Errno::from_raw(number) {
        nix::errno::Errno::UnknownErrno => number.to_string(),
        errno => format!("{errno:?}"),
    }
}

/// Whether `fd` is a terminal.
pub(crate) fn is_terminal(fd: impl AsFd) -> bool {
    !matches!(rustix::termios::tcgetwinsize(fd), Err(Errno::NOTTY | Errno::BADF))
}
