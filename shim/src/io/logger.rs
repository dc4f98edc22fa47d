//! Programs that log: `binary:///path?key=value` and `binary-v2://` (containerd's docs, "Logging", and its PR of v2).
//!
//! They get the container's stdout and stderr at 3 and 4, and at 5 a pipe on which they say that they are ready: by a byte or
//! by closing it. With v2, closing it without a byte says that they failed.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use libcontainer::error::{Doing, Error, Kind, Result};
use masu_host::sys::clone::Side;
use masu_host::sys::exec::{Strings, execve, exit};
use masu_host::sys::fork::{Kept, fork};
use masu_host::sys::{place, signal};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;

/// How long one may take to be ready.
const PATIENCE: i64 = 10;

/// A program that was named, not yet started.
#[derive(Debug)]
pub(crate) struct Logger {
    pub(crate) args: Vec<CString>,
    speaks: bool,
    /// What it reads, once there is something.
    pub(crate) streams: Vec<OwnedFd>,
}

impl Logger {
    pub(crate) fn parse(uri: &str) -> Result<Logger> {
        let bad = |why: &str| Error::invalid(format!("{uri}: {why}"));
        let (scheme, rest) = uri.split_once("://").ok_or_else(|| bad("no URI"))?;
        let query = rest.split_once('?').map_or("", |(_, query)| query);
        let mut args = vec![path_in_uri(uri, rest)?.into_os_string().into_vec()];
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            args.extend([decode(key, true), decode(value, true)]);
        }
        let args = args.into_iter().map(|arg| CString::new(arg).map_err(|_| bad("a zero byte"))).collect::<Result<_>>()?;
        Ok(Logger { args, speaks: scheme == "binary-v2", streams: Vec::new() })
    }

    /// Starts it and waits until it is ready; its pid.
    pub(crate) fn start(self, id: &str, namespace: &str) -> Result<i32> {
        let doing = || format!("start the logger {}", self.args.first().map(|p| p.to_string_lossy()).unwrap_or_default());
        // a child that cannot execute it says nothing, as one that is ready may
        let path = self.args.first().map(|p| p.as_c_str()).unwrap_or_default();
        rustix::fs::access(path, rustix::fs::Access::EXEC_OK).doing(doing)?;
        let (ready, say) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).doing(doing)?;
        let variable = |name: &str, value: &str| CString::new(format!("{name}={value}")).ok();
        let env: Vec<CString> = [variable("CONTAINER_ID", id), variable("CONTAINER_NAMESPACE", namespace)].into_iter().flatten().collect();
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).doing(|| "open /dev/null")?;
        let kept = Kept::new(self.streams.iter().chain([&say]).map(AsFd::as_fd)).stdio([Some(null.as_fd()); 3]);
        let (pid, pidfd) = match fork(0, None, &kept).doing(doing)? {
            Side::Parent { pid, pidfd } => (pid, pidfd),
            Side::Child => {
                let mut fds = self.streams;
                fds.push(say);
                execute(&self.args, &env, fds);
            }
        };
        drop(say);
        drop(self.streams);
        let limit = Timespec { tv_sec: PATIENCE, tv_nsec: 0 };
        let waited = rustix::event::poll(&mut [PollFd::new(&ready, PollFlags::IN)], Some(&limit)).doing(|| "wait for the logger")?;
        let mut byte = [0];
        let said = waited > 0 && rustix::io::read(&ready, &mut byte).doing(|| "wait for the logger")? > 0;
        if waited == 0 || (self.speaks && !said) {
            // it is ours to end; the daemon reaps it
            let _ = signal::send(pidfd.as_fd(), libc_kill());
            let path = self.args.first().map(|p| p.to_string_lossy()).unwrap_or_default();
            return Err(Error::new(Kind::Os, format!("the logger {path} did not get ready")));
        }
        Ok(pid)
    }
}

fn libc_kill() -> i32 {
    rustix::process::Signal::KILL.as_raw()
}

/// In the child.
fn execute(args: &[CString], env: &[CString], fds: Vec<OwnedFd>) -> ! {
    let run = || -> Option<()> {
        signal::default_action(rustix::process::Signal::PIPE.as_raw()).ok()?;
        place::from_three(fds).ok()?;
        execve(args.first()?, &Strings::new(args), &Strings::new(env));
        None
    };
    let _ = run();
    exit(127)
}

/// The path of `uri`, which goes on with `rest` after its scheme: without a query, and with percent-encoding undone.
pub(crate) fn path_in_uri(uri: &str, rest: &str) -> Result<PathBuf> {
    let path = rest.split_once('?').map_or(rest, |(path, _)| path);
    if !path.starts_with('/') {
        return Err(Error::invalid(format!("{uri}: absolute path required")));
    }
    Ok(PathBuf::from(OsString::from_vec(decode(path, false))))
}

/// Percent-encoding, and in a query `+` for a blank.
fn decode(text: &str, query: bool) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while let Some(&byte) = bytes.get(i) {
        let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (byte, hex(i + 1), hex(i + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                i += 2;
            }
            (b'+', ..) if query => out.push(b' '),
            _ => out.push(byte),
        }
        i += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_those_of_the_query() {
        let logger = Logger::parse("binary:///usr/bin/my%20log?id=a&path=%2Fx+y&flag").unwrap();
        let args: Vec<_> = logger.args.iter().map(|a| a.to_str().unwrap()).collect();
        assert_eq!(args, ["/usr/bin/my log", "id", "a", "path", "/x y", "flag", ""]);
        assert!(!logger.speaks);
        assert!(Logger::parse("binary-v2:///x").unwrap().speaks);
        for bad in ["binary://x", "binary", "binary:///a%00b"] {
            Logger::parse(bad).unwrap_err();
        }
    }
}
